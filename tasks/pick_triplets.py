"""Stage pick-triplets: which edits people rate, so that a judge can be calibrated on what they say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from storage.records import Case, Edit, EditType, Score, identity
from storage.schemas import CASES, EDITS, SCORES, from_table, to_table, with_image_features
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.calibration.picking import Pickable, pick_stratified
from tasks.hp_scorer.catalogue import fingerprints_of, make_scorer, rubrics_of
from tasks.hp_scorer.contract import Outcome, Scorer
from tasks.hp_scorer.prices import forecast
from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig
from tasks.images import contact_sheet, decode
from tasks.rate_edits import rate
from tasks.rows import Kind, Rows
from tasks.stage import Progress, Result, Shard, Stage, StageConfig, join_tables, sum_counts

TRIPLETS = with_image_features(
    pa.schema(
        [field for field in CASES if field.name != "split"]
        + [field for field in EDITS if field.name in ("edit_id", "edited", "editor", "seed")]
        + [pa.field("first_score", pa.float64())]
    )
)
"""Everything that people and judges need to see of an edit. `first_score` is what it was picked by: nobody who rates
may see it."""
POOL = Kind("triplets", "pool", Score, SCORES, "score_id", good=("outcome", Outcome.SCORED), maker="scorer")


class PickConfig(StageConfig):
    """How many, and how they are chosen."""

    split: Literal["train", "bench"] = "train"
    per_edit_type: int = Field(80, ge=1, description="Triplets that people rate; the paper has 50 to 100.")
    pool_per_edit_type: int = Field(240, ge=1, description="Edits that a first judge rates, to choose from.")
    scorer: ScorerConfig = MeasuredConfig(generic=True)
    """The first judge. It only sees to it that not all of the picked edits are good ones."""
    seed: int = 0


class PickTriplets(Stage):
    """Edits of every edit type, spread over the scores of a first judge."""

    name = "pick-triplets"
    artifact = "triplets"
    code_version = 1

    def __init__(self, store: Store, config: PickConfig, edits: Version) -> None:
        """A choice of `edits`."""
        cases = edits.manifest.parents["cases"]
        super().__init__(store, config, {"edits": edits, "cases": store.version(cases.artifact, cases.version)})
        self.config: PickConfig = config
        if edits.manifest.config["split"] != config.split:
            raise ValueError(f"{edits} are of the split {edits.manifest.config['split']!r}, not of {config.split!r}")

    @cached_property
    def scorer(self) -> Scorer:
        """The first judge, made on first use."""
        return make_scorer(self.config.scorer)

    @cached_property
    def rows(self) -> Rows[Score]:
        """The first judge's scores that there are already."""
        return Rows(self.store, POOL, self.name, [self.scorer.fingerprint_of(edit_type) for edit_type in EditType])

    def fingerprints(self) -> dict[str, str]:
        return fingerprints_of(self.scorer)

    def shards(self) -> list[Shard]:
        count = self.config.pool_per_edit_type
        return [Shard(edit_type, count, [self.key, edit_type]) for edit_type in EditType]

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        pool = self._pool(EditType(shard.name))
        cases, edits = [case for case, _ in pool], [edit for _, edit in pool]
        filled = self.rows.fill(
            self.key_of(shard),
            [Score.id_of(e.edited, c, self.scorer.fingerprint_of(c.edit_type), 0) for c, e in pool],
            lambda some: rate(self.scorer, cases, edits, some),
            progress,
            self.refresh,
        )
        # A score is of an image: another edit may have come out as the same one.
        scores = [replace(score, edit_id=edit.edit_id) for score, edit in zip(filled.rows, edits, strict=True)]
        first = {score.edit_id: score.score for score in scores}
        pickable = [Pickable(e.edit_id, e.edit_type, c.source_id, first[e.edit_id]) for c, e in pool]
        picked = set(pick_stratified(pickable, self.config.per_edit_type, self.config.seed))
        rows = [_row(case, edit, first[edit.edit_id]) for case, edit in pool if edit.edit_id in picked]
        progress(shard.num_items - len(pool))
        strata = [0] * 6
        for row in rows:
            if row["first_score"] is not None:
                strata[int(row["first_score"] + 0.5)] += 1
        return ShardResult(
            tables={
                "triplets": (self.store.add_table(pa.Table.from_pylist(rows, schema=TRIPLETS), shard.name),),
                "pool": (self.store.add_table(to_table(scores, SCORES), shard.name),),
            },
            counts={"picked": {shard.name: len(rows)}, "pool": {shard.name: len(pool)}, "first": {shard.name: strata}},
            done=len(filled.made),
            failed=filled.failed,
        )

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        config = self.config.scorer
        if config.kind == "vlm":
            wanted = {EditType(shard.name): shard.num_items for shard in shards}
            yield from forecast(config, rubrics_of(config), wanted, seconds_each=self.rows.seconds_each()).lines()

    def _pool(self, edit_type: EditType) -> list[tuple[Case, Edit]]:
        """Edits of one type with their cases, drawn from all files by their identifiers; failed ones are left out."""
        pairs = list(
            zip(self.inputs["cases"].files(self.config.split), self.inputs["edits"].files("edits"), strict=True)
        )
        found: list[tuple[str, int, int]] = []
        for number, (_, edits) in enumerate(pairs):
            if edits.partition not in (None, edit_type):
                continue
            table = self.store.read_table(edits, ["edit_id", "edit_type", "failure"])
            found += [
                (identity(self.config.seed, row["edit_id"]), number, position)
                for position, row in enumerate(table.to_pylist())
                if row["edit_type"] == edit_type and not row["failure"]
            ]
        chosen: dict[int, list[int]] = {}
        for _, number, position in sorted(found)[: self.config.pool_per_edit_type]:
            chosen.setdefault(number, []).append(position)
        pool: list[tuple[Case, Edit]] = []
        for number, positions in sorted(chosen.items()):
            cases, edits = (self.store.read_table(file).take(sorted(positions)) for file in pairs[number])
            pool += zip(from_table(cases, Case), from_table(edits, Edit), strict=True)
        return pool

    def finish(self, results: Sequence[ShardResult]) -> Result:
        return Result(join_tables(results), {"counts": sum_counts(results)})

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        sheet = []
        for file in version.samples("triplets"):
            rows = self.store.read_table(file, ["instruction", "source", "edited"]).slice(0, 3).to_pylist()
            pictures = [decode(row[column]["bytes"]) for row in rows for column in ("source", "edited")]
            sheet.append((f"{file.partition}: {'; '.join(row['instruction'] for row in rows[:2])}", pictures))
        return [("source and edit", contact_sheet(sheet))]


def _row(case: Case, edit: Edit, first_score: float | None) -> dict[str, Any]:
    """A triplet with everything inside."""
    (of_case,) = to_table([case], CASES).to_pylist()
    (of_edit,) = to_table([edit], EDITS).to_pylist()
    cells = of_case | of_edit | {"first_score": first_score}
    return {name: cells[name] for name in TRIPLETS.names}
