"""Stage rate-edits: a judge rates every edit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from storage.records import Case, Edit, Score
from storage.schemas import SCORES, from_table, to_table
from storage.store import Store, Version
from tasks.collection.coco import decode_mask
from tasks.hp_scorer.catalogue import ScorerConfig, make_scorer
from tasks.hp_scorer.contract import EditTriplet, Outcome, Scorer
from tasks.images import contact_sheet, decode
from tasks.stage import Progress, Result, ShardResult, Stage, StageConfig, check_coverage, join_tables, sum_counts

BATCH = 64
"""Ratings between two looks at the progress."""


class RateConfig(StageConfig):
    """With which judge to rate."""

    scorer: ScorerConfig = ScorerConfig()
    largest_failed_share: float = 0.05
    """The stage fails where more edits than this end without a score: then the judge is broken, not a few pictures."""


class RateEdits(Stage):
    """Scores of edits; a narrow table that refers to them."""

    name = "rate-edits"
    artifact = "scores"
    code_version = 1

    def __init__(self, store: Store, config: RateConfig, edits: Version) -> None:
        """Scores of `edits`; the cases are those that the edits were made from."""
        cases = edits.manifest.parents["cases"]
        super().__init__(store, config, {"edits": edits, "cases": store.version(cases.artifact, cases.version)})
        self.config: RateConfig = config
        self.split: str = edits.manifest.config["split"]

    @cached_property
    def scorer(self) -> Scorer:
        """Made on first use."""
        return make_scorer(self.config.scorer)

    def fingerprints(self) -> dict[str, str]:
        return {"scorer": self.scorer.fingerprint}

    def shards(self) -> list[str]:
        return [f"scores-{i:05d}" for i in range(len(self.inputs["edits"].manifest.tables["edits"]))]

    def num_items(self) -> int:
        return self.inputs["edits"].manifest.rows("edits")

    def work(self, shard: str, progress: Progress) -> ShardResult:
        index = int(shard.removeprefix("scores-"))
        # An edits file holds the edits of one cases file, row by row.
        cases = list(from_table(self.store.read_table(self.inputs["cases"].manifest.tables[self.split][index]), Case))
        edits = list(from_table(self.store.read_table(self.inputs["edits"].manifest.tables["edits"][index]), Edit))
        scores = rate(self.scorer, cases, edits, progress)
        return ShardResult(
            tables={"scores": (self.store.add_table(to_table(scores, SCORES)),)},
            counts=dict(Counter(score.outcome for score in scores)),
        )

    def finish(self, results: Sequence[ShardResult]) -> Result:
        tables = join_tables(results)
        edits = self.inputs["edits"].table("edits", ["edit_id", "failure"])
        columns = ["edit_id", "edit_type", "score", "full", "outcome"]
        table = pa.concat_tables([self.store.read_table(file, columns) for file in tables["scores"]])
        check_coverage("scores of edits", edits["edit_id"].to_pylist(), table["edit_id"].to_pylist())
        counts = sum_counts(results)
        # An edit that was never made is the editor's failure, not the judge's.
        rateable = edits["failure"].to_pylist().count("")
        missing = rateable - counts.get(Outcome.SCORED, 0)
        if missing > self.config.largest_failed_share * rateable:
            raise RuntimeError(
                f"{missing} of {rateable} edits have no score, more than {self.config.largest_failed_share:.0%}: "
                + ", ".join(f"{outcome} {n}" for outcome, n in counts.items())
            )
        by_type: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        for row in table.to_pylist():
            if row["score"] is not None:
                by_type[row["edit_type"]].append((row["score"], row["full"]))
        statistics = {
            "counts": counts,
            "judge": self.config.scorer.model_dump(mode="json"),
            "per_edit_type": {
                edit_type: {
                    "scored": len(values),
                    "mean": round(float(np.mean([s for s, _ in values])), 4),
                    "full_share": round(float(np.mean([f for _, f in values])), 4),
                    "histogram": np.bincount([int(s + 0.5) for s, _ in values], minlength=6).tolist(),
                }
                for edit_type, values in sorted(by_type.items())
            },
        }
        return Result(tables, statistics)

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        scores = {score.case_id: score for score in from_table(next(version.parts("scores")), Score)}
        edits = {edit.case_id: edit for edit in from_table(next(self.inputs["edits"].parts("edits")), Edit)}
        examples: dict[int, list[tuple[str, np.ndarray, np.ndarray]]] = defaultdict(list)
        for case in from_table(next(self.inputs["cases"].parts(self.split)), Case):
            score, edit = scores.get(case.case_id), edits.get(case.case_id)
            if score and score.score is not None and edit and edit.edited:
                points = int(score.score + 0.5)
                if len(examples[points]) < 4:
                    examples[points].append((case.instruction, decode(case.source), decode(edit.edited)))
        rows = [
            (f"{points}: {'; '.join(said for said, _, _ in found[:2])}", [p for _, a, b in found for p in (a, b)])
            for points, found in sorted(examples.items(), reverse=True)
        ]
        return [("source and edit by score", contact_sheet(rows))]


def rate(
    scorer: Scorer, cases: Sequence[Case], edits: Sequence[Edit], progress: Progress, attempt: int = 0
) -> list[Score]:
    """Rate the edits of cases, row by row. An edit that failed ends as a typed failure like any other."""
    scores: list[Score] = []
    for start in range(0, len(edits), BATCH):
        pairs = list(zip(cases[start : start + BATCH], edits[start : start + BATCH], strict=True))
        for (case, edit), judgement in zip(
            pairs, scorer.score([triplet_of(c, e) for c, e in pairs], attempt), strict=True
        ):
            fingerprint = scorer.fingerprint_of(case.edit_type)
            scores.append(
                Score(
                    score_id=Score.id_of(edit.edited, case.case_id, fingerprint, attempt),
                    edit_id=edit.edit_id,
                    case_id=case.case_id,
                    edit_type=case.edit_type,
                    outcome=judgement.outcome,
                    score=judgement.score,
                    full=judgement.score is not None and judgement.score >= scorer.full_at,
                    answers=dict(judgement.answers),
                    raw_reply=judgement.raw_reply,
                    scorer=fingerprint,
                    attempt=attempt,
                )
            )
        progress(len(pairs))
    return scores


def triplet_of(case: Case, edit: Edit) -> EditTriplet:
    """A case and its edit as a judge sees them. Raises: ValueError where they do not belong together."""
    if edit.case_id != case.case_id:
        raise ValueError(f"edit {edit.edit_id} is of case {edit.case_id}, not of {case.case_id}")
    return EditTriplet(
        case_id=case.case_id,
        edit_type=case.edit_type,
        instruction=case.instruction,
        request=case.request,
        category=case.category,
        source=decode(case.source),
        mask=decode_mask(case.mask),
        edited=None if edit.edited is None else decode(edit.edited),
    )
