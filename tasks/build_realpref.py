"""Stage build-realpref: the hard cases with everything that belongs to them, and a record of what was dropped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pydantic import Field

from storage.records import Case, Edit, Score
from storage.schemas import CASES, EDITS, IMAGE, SCORES, from_table, with_image_features
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.dataset.hard import Dropped, decide, difficulty
from tasks.images import contact_sheet, decode
from tasks.limits import Limit
from tasks.settings import passing
from tasks.stage import GatedConfig, Progress, Result, Shard, Stage, check_rows, join_tables, sum_counts

_OF_SCORES = ("score_id", "score", "raw_score", "answers", "raw_reply", "scorer", "judge", "revision", "model")
REALPREF = with_image_features(
    pa.schema(
        [field for field in CASES if field.name != "split"]
        + [pa.field("edited", IMAGE)]
        + [field for field in EDITS if field.name in ("edit_id", "editor", "seed")]
        + [field for field in SCORES if field.name in _OF_SCORES]
        + [pa.field("difficulty", pa.float64())]
    )
)
DROPPED = pa.schema(
    [
        *((name, pa.string()) for name in ("case_id", "edit_id", "edit_type", "reason", "detail")),
        ("score", pa.float64()),
    ]
)


LIMITS = {
    "kept_share": Limit(at_least=0.01, may_change_by=0.2),
    "unscored_share": Limit(at_most=0.1, may_change_by=0.05),
    # The rarest edit type against the mean of all.
    "balance": Limit(may_change_by=0.4),
}


class BuildConfig(GatedConfig):
    """What to keep."""

    drop_full: bool = Field(True, description="The paper's filter. Off, everything that was scored is kept.")
    full_at: float | None = Field(
        None, gt=0, le=5, description="Scores from here on are full; none: what the judge that rated calls full."
    )
    limits: dict[str, Limit] = passing(LIMITS, "Within which a version becomes `latest`.")


class BuildRealPref(Stage):
    """RealPref: plain Parquet with images, `train` to learn from and `dropped` with the reasons."""

    name = "build-realpref"
    artifact = "realpref"
    code_version = 3

    def __init__(self, store: Store, config: BuildConfig, scores: Version) -> None:
        """A data set from `scores` and the edits and cases that they are of."""
        named = {role: scores.manifest.parents[role] for role in ("edits", "cases")}
        parents = {role: store.version(parent.artifact, parent.version) for role, parent in named.items()}
        super().__init__(store, config, {"scores": scores, **parents})
        self.config: BuildConfig = config
        self.split: str = parents["edits"].manifest.config["split"]
        if self.split != "train":
            raise ValueError(f"{scores} are of the split {self.split!r}: only train becomes a data set to learn from")

    def shards(self) -> list[Shard]:
        # Files correspond row by row all the way from the cases.
        tables = {"cases": self.split, "edits": "edits", "scores": "scores"}
        files = [self.inputs[role].files(table) for role, table in tables.items()]
        return [
            Shard(f"realpref-{i:05d}", some[0].rows or 0, self.settings, dict(zip(tables, some, strict=True)))
            for i, some in enumerate(zip(*files, strict=True))
        ]

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        tables = {role: self.store.read_table(file) for role, file in shard.files.items()}
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
            decision = decide(score, edit.failure, self.config.drop_full, self.config.full_at)
            row = {name: value for cell in cells for name, value in cell.items()}
            if decision.dropped is None:
                assert score.score is not None
                kept.append({**row, "difficulty": difficulty(score.score)})
            else:
                dropped.append({**row, "reason": decision.dropped, "detail": decision.detail})
        progress(len(kept) + len(dropped))
        partition = shard.files["cases"].partition
        return ShardResult(
            tables={
                "train": (self.store.add_table(_select(kept, REALPREF), partition),),
                "dropped": (self.store.add_table(_select(dropped, DROPPED), partition),),
            },
            counts={
                "per_edit_type": _per_type(kept, dropped),
                "histogram_before": _histogram(kept + dropped),
                "histogram_after": _histogram(kept),
            },
            done=shard.num_items,
        )

    def finish(self, results: Sequence[ShardResult]) -> Result:
        check_rows("kept and dropped cases", self, results, ["train", "dropped"])
        counts = sum_counts(results)
        per_type = counts["per_edit_type"]
        kept = [row["kept"] for row in per_type.values()]
        dropped = sum_counts([ShardResult(counts=row["dropped"]) for row in per_type.values()])
        total = sum(kept) + sum(dropped.values())
        measures = {
            "kept_share": sum(kept) / total if total else float("nan"),
            "unscored_share": dropped.get(Dropped.NO_SCORE, 0) / total if total else float("nan"),
            "balance": min(kept) * len(kept) / sum(kept) if sum(kept) else 0.0,
        }
        return Result(join_tables(results), {"kept": sum(kept), "dropped": dropped, **counts}, measures)

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        rows = []
        for row in self._examples(version):
            rows.append(
                (f"{row['score']:.1f}  {row['instruction']}", [decode(row[c]["bytes"]) for c in ("source", "edited")])
            )
        pairs = [
            (" | ".join(t for t, _ in rows[i : i + 3]), [p for _, ps in rows[i : i + 3] for p in ps])
            for i in range(0, len(rows), 3)
        ]
        return [("hard cases: source and edit", contact_sheet(pairs))] if rows else []

    def _examples(self, version: Version) -> list[dict[str, Any]]:
        """Two of each edit type, or what there is."""
        parts = [self.store.read_table(file) for file in version.samples("train")]
        each = 16 if len(parts) == 1 else 2
        return [row for part in parts for row in part.slice(0, each).to_pylist()]


def _select(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of exactly the schema's columns."""
    return pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)


def _per_type(kept: Sequence[dict[str, Any]], dropped: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many cases of each edit type were kept, and dropped for which reason."""
    per_type: dict[str, Any] = {}
    for row in [*kept, *dropped]:
        counts = per_type.setdefault(row["edit_type"], {"kept": 0, "dropped": {}})
        if reason := row.get("reason"):
            counts["dropped"][reason] = counts["dropped"].get(reason, 0) + 1
        else:
            counts["kept"] += 1
    return per_type


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
