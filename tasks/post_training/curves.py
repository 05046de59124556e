"""What a training measured, as tables and in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

CURVES = pa.schema(
    [("iteration", pa.int32())]
    + [
        (name, pa.float64())
        for name in (
            *("score", "reward", "full_share", "no_signal_share", "missing"),
            *("loss", "clipped_share", "kl", "ratio_deviation", "gradient_norm"),
            *("second_score", "score_there"),
            *("seconds_encode", "seconds_rollout", "seconds_reward", "seconds_update"),
        )
    ]
)
"""One row per iteration; null where nothing was measured."""
SATURATION = pa.schema(
    [("iteration", pa.int32()), ("edit_type", pa.string())]
    + [(name, pa.int32()) for name in ("groups", "full_groups", "flat_groups", "missing")]
    + [("score", pa.float64())]
)
"""One row per iteration and edit type."""
PARTS = ("encode", "rollout", "reward", "update")


def curves_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """From the lines of the metrics file."""
    return pa.Table.from_pylist([{name: row.get(name) for name in CURVES.names} for row in rows], schema=CURVES)


def saturation_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """From the same, by edit type."""
    listed = [
        {"iteration": row["iteration"], "edit_type": edit_type, **values}
        for row in rows
        for edit_type, values in row.get("by_edit_type", {}).items()
    ]
    return pa.Table.from_pylist(listed, schema=SATURATION)


def summarise(curves: Sequence[Mapping[str, Any]], saturation: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first and the last tenth of a run, side by side."""
    tenth = max(1, len(curves) // 10)
    first, last = curves[:tenth], curves[-tenth:]
    names = ("score", "reward", "full_share", "no_signal_share")
    apart = divergence(
        [_number(row["score_there"]) for row in curves], [_number(row["second_score"]) for row in curves]
    )
    return {
        "iterations": len(curves),
        "first_tenth": {name: _mean(name, first) for name in names},
        "last_tenth": {name: _mean(name, last) for name in names},
        "clipped_share": _mean("clipped_share", curves),
        "kl": _mean("kl", last),
        "largest_ratio_deviation": max(row["ratio_deviation"] for row in curves),
        "missing_scores": int(sum(row["missing"] for row in curves)),
        "seconds_per_iteration": {part: _mean(f"seconds_{part}", curves) for part in PARTS},
        "saturation": saturation_shares(saturation, tenth),
        **({} if apart is None else {"reward_gained_more_than_second_judge": round(apart, 4)}),
    }


def divergence(first: Sequence[float], second: Sequence[float]) -> float | None:
    """How far two judges have come apart since the run began, in points: the alarm for reward hacking.

    The gain of the first minus that of the second, each the mean of the last third less that of the first third.
    Around 0 while both see the same progress; large where only the judge that is the reward is pleased.

    Args:
        first, second: both judges' means on the same samples, one pair per look; NaN where one failed.

    Returns: None with fewer than six looks, which say nothing.
    """
    pairs = np.array([(a, b) for a, b in zip(first, second, strict=True) if not (math.isnan(a) or math.isnan(b))])
    third = len(pairs) // 3
    if third < 2:
        return None
    gains = pairs[-third:].mean(0) - pairs[:third].mean(0)
    return float(gains[0] - gains[1])


def saturation_shares(rows: Sequence[Mapping[str, Any]], tenth: int) -> dict[str, dict[str, float]]:
    """By edit type: shares of full and of flat groups, in the first and in the last `tenth` iterations that had any."""
    shares = {}
    for edit_type in sorted({row["edit_type"] for row in rows}):
        some = [row for row in rows if row["edit_type"] == edit_type]
        shares[edit_type] = {
            f"{what} {when}": round(sum(row[f"{what}_groups"] for row in part) / sum(row["groups"] for row in part), 4)
            for what in ("full", "flat")
            for when, part in (("at first", some[:tenth]), ("at last", some[-tenth:]))
        }
    return shares


def _mean(name: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return round(sum(values) / len(values), 6) if values else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
