"""The controls in lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storage.store import Version


def control_lines(benchmarks: Mapping[str, Version]) -> list[str]:
    """Lines for a terminal: every control's gains, and the pilot's difference over its seeds.

    Args:
        benchmarks: by "permuted", "hard <seed>" and "all <seed>".
    """
    lines = [f"{'trained on':12s}{'referee gain':>14s}{'95 % interval':>20s}{'judge gain':>13s}{'95 % interval':>20s}"]
    for name, version in benchmarks.items():
        statistics = version.manifest.statistics
        referee, judge = (statistics[of]["overall"] for of in ("referee", "score"))
        lines.append(f"{name:12s}{_gain(referee)}{_gain(judge)[1:]}")
    hard, everything = (_gains(benchmarks, kind) for kind in ("hard", "all"))
    difference = hard - everything
    lines.append(
        f"pilot, referee: hard cases {hard.mean():+.3f}, all cases {everything.mean():+.3f}, "
        f"difference {difference.mean():+.3f} over {len(difference)} seeds ({_each(difference)})"
    )
    permuted = benchmarks["permuted"].manifest.statistics["referee"]["overall"]
    held = permuted["low"] <= 0
    lines.append(f"permuted rewards {'gain nothing' if held else 'GAIN, which must not be'} (referee)")
    return lines


def _gain(gain: Mapping[str, Any]) -> str:
    interval = f"[{gain['low']:+.3f}, {gain['high']:+.3f}]"
    return f"{gain['gain']:+14.3f}{interval:>20s}"


def _gains(benchmarks: Mapping[str, Version], kind: str) -> np.ndarray:
    found: Sequence[float] = [
        version.manifest.statistics["referee"]["overall"]["gain"]
        for name, version in benchmarks.items()
        if name.startswith(f"{kind} ")
    ]
    return np.asarray(found)


def _each(values: np.ndarray) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)
