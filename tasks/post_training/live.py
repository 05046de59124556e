"""A training in progress as a page for people: how far, how well, and what the samples look like."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.images import data_uri
from tasks.post_training.curves import PARTS, divergence
from tasks.post_training.job import Job

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
ALARM = 0.25
"""Points that the reward gained more than the second judge, from which people are told."""


def live_page(job: Job) -> tuple[str, float, str]:
    """The page in Markdown, how far the run is, in percent, and the alarm if there is one."""
    rows = [json.loads(line) for line in job.metrics.read_text().splitlines()]
    iterations = job.config.grpo.iterations
    if not rows:
        return f"# Training on {job.realpref}\n\nThe gate is passed; the first iteration is under way.\n", 0.0, ""
    last = rows[-1]
    seconds = _seconds(rows[-10:])
    left = (iterations - len(rows)) * seconds
    alarm = _alarm(rows)
    parts = [
        f"# Training on {job.realpref}",
        f"**{len(rows)} of {iterations} iterations**, {seconds:.1f} s each, {_told(left)} left.",
        f"**{alarm}**" if alarm else "",
        _curves(rows),
        _saturation(last["by_edit_type"]),
        f"![samples]({data_uri(job.pictures.read_bytes())})" if job.pictures.exists() else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n", 100 * len(rows) / iterations, alarm


def _curves(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line per curve: its course, its first and its last value."""
    lines = ["| | course | first | last |", "|---|---|---:|---:|"]
    for name in ("score", "full_share", "no_signal_share", "clipped_share", "kl", "second_score"):
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            lines.append(f"| {name} | {sparkline(values)} | {values[0]:.4g} | {values[-1]:.4g} |")
    spent = ", ".join(f"{part} {rows[-1][f'seconds_{part}']:.1f} s" for part in PARTS)
    failed = {what: count for what, count in rows[-1].get("outcomes", {}).items() if what != "scored"}
    how = f" ({', '.join(f'{what} {count}' for what, count in sorted(failed.items()))})" if failed else ""
    return "\n".join([*lines, "", f"The last iteration: {spent}; {rows[-1]['missing']} scores missing{how}."])


def _saturation(by_edit_type: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| edit type | groups | all full | without spread | score |", "|---|---:|---:|---:|---:|"]
    for edit_type, values in by_edit_type.items():
        score = "" if values["score"] is None else f"{values['score']:.2f}"
        numbers = " | ".join(str(values[name]) for name in ("groups", "full_groups", "flat_groups"))
        lines.append(f"| {edit_type} | {numbers} | {score} |")
    return "\n".join(lines)


def _alarm(rows: Sequence[Mapping[str, Any]]) -> str:
    looks = [row for row in rows if row["second_score"] is not None and row["score_there"] is not None]
    apart = divergence([row["score_there"] for row in looks], [row["second_score"] for row in looks])
    if apart is None or apart < ALARM:
        return ""
    return (
        f"The reward gained {apart:.2f} points more than the second judge: what pleases the one may not be better. "
        "Look at the samples."
    )


def sparkline(values: Sequence[float]) -> str:
    """Numbers as a row of bars, at most 40 of them, each the mean of its share."""
    count = min(_WIDTH, len(values))
    shares = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(share) / len(share) for share in shares]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)


def _seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Of one iteration."""
    return sum(row[f"seconds_{part}"] for row in rows for part in PARTS) / len(rows)


def _told(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "less than a minute"
