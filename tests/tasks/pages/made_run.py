"""A run of two edit types and six cases, through the real store: only what a model would make is made up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage.manifest import Manifest
from storage.records import Case, Edit, EditType, Request, Score
from storage.schemas import CASES, EDITS, SCORES, to_table
from storage.store import Store, Version
from tasks.build_realpref import BuildConfig, BuildRealPref
from tasks.images import png
from tasks.pages.report import render_report
from tasks.post_training.curves import CURVES, summarise
from tasks.run_benchmark import SAMPLES, compare
from tasks.stage import execute
from tasks.summary import summarise_run

HINT = "make ui RUN=<this one>"
NASTY = "<script>alert(1)</script> & \"quoted\" 'twice'"
PICTURE = png(np.full((8, 8, 3), 90, np.uint8))


# --- a tiny run, through the real store -----------------------------------------------------------------------------


def bench_row(number: int, edit_type: EditType, before: Sequence[float | None], after: Sequence[float | None]) -> dict:
    """A bench row; `before` and `after` are the judge's score and the referee's value. No referee's, no picture."""
    row: dict[str, Any] = {
        "case_id": f"{number:016x}",
        "source_id": f"image{number // 2}",
        "edit_type": str(edit_type),
        "category": "dog",
        "instruction": f"do {number}",
        "source": {"bytes": PICTURE, "path": None},
    }
    for model, (score, referee) in {"baseline": before, "post_trained": after}.items():
        row |= {
            f"{model}_score": score,
            f"{model}_referee": referee,
            f"{model}_outcome": "timeout" if score is None else "scored",
            f"{model}_edited": {"bytes": PICTURE, "path": None},
        }
    return row


ROWS = [
    bench_row(0, EditType.SWAP, (1.0, 1.2), (3.0, 3.4)),
    bench_row(1, EditType.SWAP, (2.0, 2.5), (2.0, 2.0)),
    bench_row(2, EditType.SWAP, (3.0, 2.9), (4.0, 4.1)),
    bench_row(3, EditType.ADDITION, (4.0, 4.5), (5.0, 3.0)),
    bench_row(4, EditType.ADDITION, (4.0, 3.0), (4.0, 3.0)),
    bench_row(5, EditType.ADDITION, (4.0, 3.5), (4.0, 3.75)),
]
TRAIN_SCORES = (5.0, 3.0, None, 5.0, 2.0, 4.0)


@dataclass(frozen=True)
class Ref:
    """What a stage's flow returns; the real one lives beside Prefect, whose import takes seconds."""

    artifact: str
    version: int
    seconds: float
    rows: int


@dataclass(frozen=True)
class Run:
    versions: dict[str, Version]
    page: str

    def statistics(self, artifact: str) -> dict[str, Any]:
        return self.versions[artifact].manifest.statistics


def make_run(
    folder: Path, rows: Sequence[Mapping[str, Any]] = ROWS, referee: bool = True, curves: Sequence[dict] | None = None
) -> Run:
    """Collecting, editing, training and comparing are made up; what they leave is kept and read by the real code."""
    store = Store(str(folder))

    def commit(artifact: str, stage: str, tables: dict[str, pa.Table], *parents: Version, **parts: Any) -> Version:
        manifest = Manifest(
            artifact=artifact,
            stage=stage,
            stage_version=1,
            key=f"key-{artifact}",
            config=parts.pop("config", {}),
            parents={parent.artifact: parent.as_parent() for parent in parents},
            tables={name: (store.add_table(table),) for name, table in tables.items()},
            **parts,
        )
        return store.commit(manifest, seconds=1.5)

    records = [train_records(number, score) for number, score in enumerate(TRAIN_SCORES)]
    cases = commit("cases", "collect-cases", {"train": to_table([case for case, _, _ in records], CASES)})
    edits = commit(
        *("edits", "edit-baseline", {"edits": to_table([edit for _, edit, _ in records], EDITS)}, cases),
        config={"split": "train", "editor": {"kind": "miniature", "layers": ["a", "b"]}},
    )
    scores = commit("scores", "rate-edits", {"scores": to_table([s for _, _, s in records], SCORES)}, edits, cases)
    realpref = execute(BuildRealPref(store, BuildConfig(limits={}), scores)).version
    lines = curves if curves is not None else [curve(i, reward=0.3 + 0.01 * i) for i in range(30)]
    adapter = commit(
        *("adapter", "post-train", {"curves": pa.Table.from_pylist(list(lines), schema=CURVES)}, realpref),
        statistics={} if not lines else summarise(lines, SATURATION),
        fingerprints={"scorer": "one"},
    )
    judges = ["score", *(["referee"] if referee else [])]
    benchmark = commit(
        *("benchmark", "benchmark", {"samples": pa.Table.from_pylist(list(rows), schema=SAMPLES)}, cases, adapter),
        statistics={judge: compare(rows, judge) for judge in judges},
        fingerprints={"scorer": "one"},
    )
    versions = {v.artifact: v for v in (cases, edits, scores, realpref, adapter, benchmark)}
    stages = {name: Ref(name, version=1, seconds=12.25, rows=77) for name in versions}
    summary = summarise_run(versions, stages, 11, 333.0, 2048.0, "runs/samples.parquet")
    return Run(versions, render_report(versions, summary, HINT))


def train_records(number: int, score: float | None) -> tuple[Case, Edit, Score]:
    edit_type = EditType.SWAP if number % 2 else EditType.ADDITION
    case = Case(
        case_id=f"train{number}",
        split="train",
        edit_type=edit_type,
        instruction="do it",
        request=Request(),
        category="dog",
        source_id=f"image{number}",
        source=PICTURE,
        width=8,
        height=8,
        mask={},
        licence="",
        licence_url="",
        origin_url="",
    )
    edit = Edit(
        edit_id=f"edit{number}",
        case_id=case.case_id,
        edit_type=edit_type,
        edited=PICTURE,
        failure="",
        editor="e",
        seed=0,
    )
    judged = Score(
        score_id=f"score{number}",
        edit_id=edit.edit_id,
        case_id=case.case_id,
        edit_type=edit_type,
        outcome="timeout" if score is None else "scored",
        score=score,
        full=score == 5.0,
        answers={},
        raw_reply="",
        scorer="s",
        attempt=0,
    )
    return case, edit, judged


SATURATION = [
    {"iteration": i, "edit_type": "bokeh", "groups": 4, "full_groups": i // 10, "flat_groups": 1} for i in range(30)
]


def curve(iteration: int, **values: float) -> dict[str, float]:
    return dict.fromkeys(CURVES.names, 0.1) | {"iteration": iteration, "missing": 0.0} | values
