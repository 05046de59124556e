"""What a run came to, for programs (a dict of plain JSON values) and for a terminal (lines of text)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow.parquet as pq

from storage.records import EditType
from storage.store import Version

JUDGES = {"referee": "referee (simulated)", "score": "stand-in judge"}
"""Who rates on the bench, and what people call them; the referee is not there in every run."""
MODELS = {"baseline": "baseline", "post_trained": "post-trained"}
"""The two editors of a benchmark, as columns and as people call them."""
GAIN = ("n", "baseline", "post_trained", "gain", "low", "high")
SAMPLES = (
    *("case_id", "edit_type", "source_id"),
    *(f"{model}_{judge}" for judge in JUDGES for model in MODELS),
)
"""The columns of the samples file."""
_UNCLEAR = "no clear change"
_READINGS = {
    ("better", "better"): ("good", "the referee confirms the gain"),
    ("better", _UNCLEAR): ("bad", "alarm: the judge gained, the referee saw no gain"),
    ("better", "worse"): ("bad", "alarm: the judge gained, the referee lost"),
    (_UNCLEAR, "better"): ("plain", "the judge saw no clear gain, the referee did"),
    (_UNCLEAR, _UNCLEAR): ("plain", "neither saw a clear change"),
    (_UNCLEAR, "worse"): ("plain", "the referee lost, unseen by the judge"),
    ("worse", "better"): ("plain", "the judge lost, the referee gained"),
    ("worse", _UNCLEAR): ("plain", "the judge lost, the referee saw no clear change"),
    ("worse", "worse"): ("plain", "both lost"),
}
"""What the judge's and the referee's verdicts come to."""


class StageRef(Protocol):
    """What a stage's flow returns, see `tasks.prefect_stage.ArtifactRef`."""

    @property
    def artifact(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def rows(self) -> int: ...


def summarise_run(
    versions: Mapping[str, Version],
    stages: Mapping[str, StageRef],
    seed: int,
    seconds: float,
    peak_memory_mb: float | None,
    samples_path: str | Path,
) -> dict[str, Any]:
    """The machine-readable summary of a run.

    Args:
        versions: by artifact; `benchmark` must be among them.
        stages: what the stages' flows returned, by any name, in order. Each must be of one of the versions.
        seed: the one that the run was started with.
        seconds: of the whole run. A stage's own seconds are those of making its version, even where it was reused.
        peak_memory_mb: None where nobody measured it.
        samples_path: where `write_samples` wrote.

    Returns: JSON-able values without NaN. A comparison by a judge is None where no case has both of its values:
        without a referee, or where every score is missing.
    Raises: ValueError where a stage's version is not the one in `versions`.
    """
    statistics = versions["benchmark"].manifest.statistics
    return {
        **{judge: _comparison(statistics, judge) for judge in JUDGES},
        "per_edit_type": {
            edit_type: {judge: _comparison(statistics, judge, edit_type) for judge in JUDGES}
            for edit_type in edit_types_of(versions["benchmark"])
        },
        "stages": {
            _flow_name(versions, ref): {"seconds": round(ref.seconds, 3), "rows": ref.rows} for ref in stages.values()
        },
        "versions": {artifact: f"v{version.number}" for artifact, version in versions.items()},
        "samples": str(samples_path),
        "seed": seed,
        "seconds": round(seconds, 3),
        "peak_memory_mb": None if peak_memory_mb is None else round(peak_memory_mb, 1),
    }


def write_samples(benchmark: Version, path: str | Path) -> None:
    """Write one row per bench case to a Parquet file, see `SAMPLES`: what the means are made of, without images.

    Args:
        path: on the local disk; its folder is made, a file that is there is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = benchmark.table("samples", list(SAMPLES)).select(SAMPLES)
    # The stored schema describes image columns to `datasets`; they are not here.
    pq.write_table(table.replace_schema_metadata(None), path)


def edit_types_of(benchmark: Version) -> list[EditType]:
    """The edit types on the bench, in the usual order."""
    present = set(benchmark.table("samples", ["edit_type"])["edit_type"].to_pylist())
    return [edit_type for edit_type in EditType if edit_type in present]


def verdict(gain: Mapping[str, Any] | None) -> str:
    """Say "better" or "worse" where the whole interval lies on one side of zero, else "no clear change"."""
    if gain is None:
        return "not compared"
    return "better" if gain["low"] > 0 else "worse" if gain["high"] < 0 else _UNCLEAR


def alarm(score: Mapping[str, Any] | None, referee: Mapping[str, Any] | None) -> tuple[str, str]:
    """Whether a judge's gain is one to believe: "good", "bad" or "plain", and in words.

    A judge that gains while the referee does not is being pleased rather than served (reward hacking).
    """
    if score is None or referee is None:
        return "plain", f"no {'scores' if score is None else 'referee'}, so it cannot be told"
    return _READINGS[verdict(score), verdict(referee)]


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary for a terminal: a table per judge, overall last, then the stages; less than 100 columns wide."""
    lines: list[str] = []
    for judge, name in JUDGES.items():
        if summary[judge] is None:
            lines += [f"{name}: no values on the bench", ""]
            continue
        rows = [(_spaced(t), by_judge[judge]) for t, by_judge in summary["per_edit_type"].items()]
        cells = [_cells(label, gain) for label, gain in [*rows, ("overall", summary[judge])]]
        header = (name, "n", "baseline", "post-trained", "gain", "95 % interval", "")
        table = _aligned([header, *cells], left=(0, 6))
        rule = "-" * max(map(len, table))
        lines += [table[0], rule, *table[1:-1], rule, table[-1], ""]
    said = alarm(summary["score"], summary["referee"])[1]
    stages = [(name, f"{s['seconds']:.1f}", str(s["rows"])) for name, s in summary["stages"].items()]
    memory = summary["peak_memory_mb"]
    return [
        *lines,
        f"judge and referee: {said}",
        "",
        *_aligned([("stage", "seconds", "rows"), *stages], left=(0,)),
        "",
        f"run: {summary['seconds']:.1f} s, "
        + ("" if memory is None else f"peak memory {memory:.0f} MB, ")
        + f"seed {summary['seed']}",
        "versions: " + ", ".join(f"{artifact}@{version}" for artifact, version in summary["versions"].items()),
        f"samples: {summary['samples']}",
    ]


def _comparison(statistics: Mapping[str, Any], judge: str, edit_type: str | None = None) -> dict[str, Any] | None:
    compared = statistics.get(judge) or {}
    gain = compared.get("overall") if edit_type is None else compared.get("per_edit_type", {}).get(edit_type)
    return None if gain is None else {name: gain[name] for name in GAIN}


def _flow_name(versions: Mapping[str, Version], ref: StageRef) -> str:
    version = versions.get(ref.artifact)
    if version is None or version.number != ref.version:
        raise ValueError(f"stage gave {ref.artifact}@v{ref.version}, but the run's version of it is {version}")
    return version.manifest.stage


def _cells(label: str, gain: Mapping[str, Any] | None) -> tuple[str, ...]:
    if gain is None:
        return (label, "0", "-", "-", "-", "-", verdict(gain))
    return (
        label,
        str(gain["n"]),
        f"{gain['baseline']:.3f}",
        f"{gain['post_trained']:.3f}",
        f"{gain['gain']:+.3f}",
        f"[{gain['low']:+.3f}, {gain['high']:+.3f}]",
        verdict(gain),
    )


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Rows as lines, columns two spaces apart; those in `left` begin alike, the others end alike."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _spaced(edit_type: str) -> str:
    return edit_type.replace("_", " ")
