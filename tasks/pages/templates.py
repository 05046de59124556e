"""The pages' templates, and how numbers and settings are written in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment() -> Environment:
    """Templates of this folder: everything is escaped, and a name that is not there is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"spaced": spaced, "number": number, "percent": percent, "duration": duration, "when": when}
    return made


def spaced(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")


def number(value: float | None, signed: bool = False, decimals: int = 3) -> str:
    """A number with a real minus sign; a dash for None."""
    if value is None:
        return "–"
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """A share in per cent; a dash for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def when(created_at: str) -> str:
    """A time of day."""
    return created_at.replace("T", " ").replace("+00:00", " UTC")


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings with dotted names."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield prefix + name, ", ".join(map(str, value))
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def heat_of(pairs: Iterable[tuple[float, float]]) -> list[list[int]]:
    """How often two scores from 0 to 5 occur together, rounded half up: by the first (outer) and the second."""
    counts = [[0] * 6 for _ in range(6)]
    for one, other in pairs:
        counts[int(one + 0.5)][int(other + 0.5)] += 1
    return counts
