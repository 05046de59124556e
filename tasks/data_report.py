"""The data side of a run in lines of text: what came in, what was left out and why, what was kept."""

from __future__ import annotations

from collections.abc import Mapping

from storage.store import Version


def data_lines(versions: Mapping[str, Version]) -> list[str]:
    """Lines for a terminal.

    Args:
        versions: of `cases`, `edits`, `scores` and `realpref`.
    """
    cases, realpref = versions["cases"].manifest.statistics, versions["realpref"].manifest.statistics
    lines = [f"images {cases['images']}, candidates {cases['candidates']}, left out:"]
    lines += [f"  {count:6d}  {reason}" for reason, count in cases["left_out"].items()]
    lines += ["edits:"] + [f"  {n:6d}  {how}" for how, n in versions["edits"].manifest.statistics["counts"].items()]
    lines.append(f"{'edit type':24s}{'rated':>7s}{'mean':>7s}{'kept':>7s}  dropped")
    rated = versions["scores"].manifest.statistics["per_edit_type"]
    for edit_type, row in realpref["per_edit_type"].items():
        score = rated.get(edit_type, {"scored": 0, "mean": float("nan")})
        dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(row["dropped"].items()))
        lines.append(f"{edit_type:24s}{score['scored']:7d}{score['mean']:7.2f}{row['kept']:7d}  {dropped}")
    lines.append("data set, plain Parquet for datasets.load_dataset:")
    lines += [f"  {path}" for path in versions["realpref"].paths("train")]
    return lines
