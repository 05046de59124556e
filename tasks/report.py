"""What a user gets at the end: a report to look at and a summary for programs, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.store import Store
from tasks.pages.report import render_report
from tasks.prefect_stage import ArtifactRef
from tasks.summary import summarise_run, write_samples


def write_report(
    store: Store,
    refs: Mapping[str, ArtifactRef],
    folder: Path,
    *,
    seed: int,
    seconds: float,
    peak_memory_mb: float,
    ui_hint: str,
) -> dict[str, Any]:
    """Write `report.html`, `calibration.html`, `summary.json` and `samples.parquet` into a folder.

    Args:
        refs: what the stages returned, by artifact.
        ui_hint: the line that opens the run in the Prefect UI.

    Returns: the summary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: store.version(ref.artifact, ref.version) for name, ref in refs.items()}
    samples = folder / "samples.parquet"
    write_samples(versions["benchmark"], samples)
    stages = {versions[name].manifest.stage: ref for name, ref in refs.items()}
    summary = summarise_run(versions, stages, seed, seconds, peak_memory_mb, samples)
    (folder / "calibration.html").write_bytes(versions["scorer"].file("report"))
    (folder / "report.html").write_text(render_report(versions, summary, ui_hint), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary
