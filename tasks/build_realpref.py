"""Stage build-realpref: the hard cases with everything that belongs to them, and a record of what was dropped."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from storage.records import Case, Edit, Score
from storage.schemas import CASES, EDITS, IMAGE, SCORES, from_table, with_image_features
from storage.store import Store, Version
from tasks.dataset.hard import decide, difficulty
from tasks.images import contact_sheet, decode
from tasks.stage import Progress, Result, ShardResult, Stage, StageConfig, check_coverage, join_tables

REALPREF = with_image_features(
    pa.schema(
        [field for field in CASES if field.name != "split"]
        + [pa.field("edited", IMAGE)]
        + [field for field in EDITS if field.name in ("edit_id", "editor", "seed")]
        + [field for field in SCORES if field.name in ("score_id", "score", "answers", "raw_reply", "scorer")]
        + [pa.field("difficulty", pa.float64())]
    )
)
DROPPED = pa.schema(
    [
        *((name, pa.string()) for name in ("case_id", "edit_id", "edit_type", "reason", "detail")),
        ("score", pa.float64()),
    ]
)


class BuildConfig(StageConfig):
    """What to keep."""

    drop_full: bool = True
    """The paper's filter. Off, everything that was scored is kept, for comparison."""


class BuildRealPref(Stage):
    """RealPref: plain Parquet with images, `train` to learn from and `dropped` with the reasons."""

    name = "build-realpref"
    artifact = "realpref"
    code_version = 1

    def __init__(self, store: Store, config: BuildConfig, scores: Version) -> None:
        """A data set from `scores` and the edits and cases that they are of."""
        parents = {role: store.version(p.artifact, p.version) for role, p in scores.manifest.parents.items()}
        super().__init__(store, config, {"scores": scores, **parents})
        self.config: BuildConfig = config
        self.split: str = parents["edits"].manifest.config["split"]
        if self.split != "train":
            raise ValueError(f"{scores} are of the split {self.split!r}: only train becomes a data set to learn from")

    def shards(self) -> list[str]:
        return [f"realpref-{i:05d}" for i in range(len(self.inputs["scores"].manifest.tables["scores"]))]

    def num_items(self) -> int:
        return self.inputs["scores"].manifest.rows("scores")

    def work(self, shard: str, progress: Progress) -> ShardResult:
        index = int(shard.removeprefix("realpref-"))
        # Files correspond row by row all the way from the cases.
        files = {"cases": self.split, "edits": "edits", "scores": "scores"}
        tables = {r: self.store.read_table(self.inputs[r].manifest.tables[t][index]) for r, t in files.items()}
        kept, dropped = [], []
        for case, edit, score, *cells in zip(
            from_table(tables["cases"], Case),
            from_table(tables["edits"], Edit),
            from_table(tables["scores"], Score),
            *(table.to_pylist() for table in tables.values()),
            strict=True,
        ):
            if not case.case_id == edit.case_id == score.case_id or edit.edit_id != score.edit_id:
                raise ValueError(f"case {case.case_id}, edit {edit.edit_id}, score {score.score_id} are not of one row")
            decision = decide(score, edit.failure, self.config.drop_full)
            row = {name: value for cell in cells for name, value in cell.items()}
            if decision.dropped is None:
                assert score.score is not None
                kept.append({**row, "difficulty": difficulty(score.score)})
            else:
                dropped.append({**row, "reason": decision.dropped, "detail": decision.detail})
        progress(len(kept) + len(dropped))
        return ShardResult(
            tables={
                "train": (self.store.add_table(_select(kept, REALPREF)),),
                "dropped": (self.store.add_table(_select(dropped, DROPPED)),),
            }
        )

    def finish(self, results: Sequence[ShardResult]) -> Result:
        tables = join_tables(results)
        columns = ["case_id", "edit_type", "score"]
        kept = [row for file in tables["train"] for row in self.store.read_table(file, columns).to_pylist()]
        dropped = [row for f in tables["dropped"] for row in self.store.read_table(f, [*columns, "reason"]).to_pylist()]
        expected = self.inputs["scores"].table("scores", ["case_id"])["case_id"].to_pylist()
        check_coverage("kept and dropped cases", expected, [row["case_id"] for row in kept + dropped])
        per_type: dict[str, Any] = defaultdict(lambda: {"kept": 0, "dropped": Counter()})
        for row in kept:
            per_type[row["edit_type"]]["kept"] += 1
        for row in dropped:
            per_type[row["edit_type"]]["dropped"][row["reason"]] += 1
        return Result(
            tables,
            {
                "kept": len(kept),
                "dropped": dict(Counter(row["reason"] for row in dropped)),
                "per_edit_type": {t: {**v, "dropped": dict(v["dropped"])} for t, v in sorted(per_type.items())},
                "histogram_before": _histogram(kept + dropped),
                "histogram_after": _histogram(kept),
            },
        )

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        rows = []
        for row in next(version.parts("train")).slice(0, 12).to_pylist():
            rows.append(
                (f"{row['score']:g}  {row['instruction']}", [decode(row[c]["bytes"]) for c in ("source", "edited")])
            )
        pairs = [
            (" | ".join(t for t, _ in rows[i : i + 3]), [p for _, ps in rows[i : i + 3] for p in ps])
            for i in range(0, len(rows), 3)
        ]
        return [("hard cases: source and edit", contact_sheet(pairs))] if rows else []


def _select(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly the schema's columns."""
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)


def _histogram(rows: Sequence[dict[str, Any]]) -> list[int]:
    """How many rows have each score from 0 to 5, rounded."""
    counts = [0] * 6
    for row in rows:
        if row["score"] is not None:
            counts[int(row["score"] + 0.5)] += 1
    return counts


def training_rows(version: Version) -> list[dict[str, Any]]:
    """The rows to train on, without the edited images."""
    columns = ["case_id", "edit_type", "instruction", "request", "category", "source", "mask", "difficulty"]
    return [
        {**r, "request": json.loads(r["request"]), "mask": json.loads(r["mask"])}
        for r in version.table("train", columns).to_pylist()
    ]
