"""Stage rate-edits: a judge rates every edit."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from storage.manifest import Manifest
from storage.records import Case, Edit, EditType, Score
from storage.schemas import SCORES, from_table, to_table
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.calibration.score_map import IDENTITY
from tasks.collection.coco import decode_mask
from tasks.hp_scorer.calibration import calibration_of
from tasks.hp_scorer.catalogue import fingerprints_of, make_scorer, rubrics_of
from tasks.hp_scorer.contract import EditTriplet, Outcome, Scorer
from tasks.hp_scorer.prices import forecast
from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig
from tasks.images import contact_sheet, decode
from tasks.limits import Limit
from tasks.rows import Kind, Rows
from tasks.settings import passing
from tasks.stage import GatedConfig, Progress, Result, Shard, Stage, check_rows, join_tables, sum_counts

logger = logging.getLogger(__name__)

ROWS = Kind("scores", "scores", Score, SCORES, "score_id", good=("outcome", Outcome.SCORED), maker="scorer")
"""A score that is missing is asked for again when its shard is worked on again."""
LIMITS = {
    # More missing scores than this mean that the judge is broken, not a few pictures.
    "coverage": Limit(at_least=0.95, may_change_by=0.04),
    # A judge that suddenly likes everything.
    "full_share": Limit(at_most=0.98, may_change_by=0.2),
    "mean_score": Limit(may_change_by=0.8),
}


class RateConfig(GatedConfig):
    """With which judge to rate."""

    scorer: ScorerConfig = MeasuredConfig()
    limits: dict[str, Limit] = passing(LIMITS, "Within which a version becomes `latest`.")


class RateEdits(Stage):
    """Scores of edits; a narrow table that refers to them."""

    name = "rate-edits"
    artifact = "scores"
    code_version = 4

    def __init__(self, store: Store, config: RateConfig, edits: Version, scorer: Version | None = None) -> None:
        """Scores of `edits`; the cases are those that the edits were made from.

        Args:
            scorer: a calibration of the configured judge: its rubrics and maps are taken.
        """
        cases = edits.manifest.parents["cases"]
        inputs = {"edits": edits, "cases": store.version(cases.artifact, cases.version)}
        super().__init__(store, config, inputs | ({"scorer": scorer} if scorer else {}))
        self.config: RateConfig = config
        self.split: str = edits.manifest.config["split"]

    @cached_property
    def scorer(self) -> Scorer:
        """Made on first use."""
        return make_scorer(self.config.scorer, calibration_of(self.inputs.get("scorer")))

    def fingerprints(self) -> dict[str, str]:
        return fingerprints_of(self.scorer)

    @cached_property
    def rows(self) -> Rows[Score]:
        """The scores that there are already."""
        by_type = [self.scorer.fingerprint_of(edit_type) for edit_type in EditType]
        # What the judge said while it was calibrated is not asked again.
        scorer = self.inputs.get("scorer")
        return Rows(
            self.store, ROWS, self.name, by_type, scorer.manifest.tables.get("judgements", ()) if scorer else ()
        )

    def compares_with(self, manifest: Manifest) -> bool:
        # Another rubric or map may well move all scores: that is no sign of a judge out of order.
        return super().compares_with(manifest) and manifest.fingerprints == self.fingerprints()

    def shards(self) -> list[Shard]:
        # An edits file holds the edits of one cases file, row by row.
        pairs = zip(self.inputs["cases"].files(self.split), self.inputs["edits"].files("edits"), strict=True)
        shards = []
        for i, (cases, edits) in enumerate(pairs):
            types = [EditType(cases.partition)] if cases.partition else list(EditType)
            # Only the judge's part for these edit types: another rubric elsewhere changes nothing here.
            of_types = {t: [self.scorer.fingerprint_of(t), self.scorer.map_of(t).fingerprint] for t in types}
            basis = [self.scorer.full_at, of_types]
            shards.append(Shard(f"scores-{i:05d}", edits.rows or 0, basis, {"cases": cases, "edits": edits}))
        return shards

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        cases = list(from_table(self.store.read_table(shard.files["cases"]), Case))
        edits = list(from_table(self.store.read_table(shard.files["edits"]), Edit))
        filled = self.rows.fill(
            self.key_of(shard),
            [
                Score.id_of(edit.edited, case, self.scorer.fingerprint_of(case.edit_type), 0)
                for case, edit in zip(cases, edits, strict=True)
            ],
            lambda some: rate(self.scorer, cases, edits, some),
            progress,
            self.refresh,
        )
        # A score is of an image: another edit may have come out as the same one; and it may bear an older map.
        scores = [
            calibrated(replace(score, edit_id=edit.edit_id), self.scorer)
            for score, edit in zip(filled.rows, edits, strict=True)
        ]
        file = self.store.add_table(to_table(scores, SCORES), shard.files["edits"].partition)
        # An edit that was never made is the editor's failure, not the judge's: asking again would not help.
        rateable = [edit.edited is not None for edit in edits]
        outcomes = dict(Counter(score.outcome for score in scores))
        return ShardResult(
            tables={"scores": (file,)},
            counts={"rateable": sum(rateable), "outcomes": outcomes, "of": _sums(scores)},
            done=sum(rateable[i] for i in filled.made),
            failed=filled.failed - rateable.count(False),
        )

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        config = self.config.scorer
        if config.kind == "measured":
            return
        rated = set() if self.refresh else self.rows.known_of("edit_id", map(self.key_of, shards))
        wanted: Counter[EditType] = Counter()
        known = 0
        for shard in shards:
            table = self.store.read_table(shard.files["edits"], ["edit_id", "edit_type"])
            for edit_id, edit_type in zip(table["edit_id"].to_pylist(), table["edit_type"].to_pylist(), strict=True):
                if edit_id in rated:
                    known += 1
                else:
                    wanted[EditType(edit_type)] += 1
        rubrics = rubrics_of(config, calibration_of(self.inputs.get("scorer")))
        yield from forecast(config, rubrics, wanted, known, self.rows.seconds_each()).lines()

    def finish(self, results: Sequence[ShardResult]) -> Result:
        check_rows("scores of edits", self, results, ["scores"])
        counts = sum_counts(results)
        sums = counts["of"]
        scored = sum(row["scored"] for row in sums.values())
        statistics = {
            "counts": counts["outcomes"],
            "judge": self.config.scorer.deciding(),
            "per_edit_type": {
                edit_type: {
                    "scored": row["scored"],
                    "mean": round(_share(row["sum"], row["scored"]), 4),
                    "full_share": round(_share(row["full"], row["scored"]), 4),
                    "histogram": row["histogram"],
                }
                for edit_type, row in sums.items()
                if row["scored"]
            },
        }
        measures = {
            "coverage": _share(scored, counts["rateable"]),
            "full_share": _share(sum(row["full"] for row in sums.values()), scored),
            "mean_score": _share(sum(row["sum"] for row in sums.values()), scored),
        }
        return Result(join_tables(results), statistics, measures)

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        examples: dict[int, list[tuple[str, np.ndarray, np.ndarray]]] = defaultdict(list)
        tables = ((self.inputs["cases"], self.split), (self.inputs["edits"], "edits"), (version, "scores"))
        for files in zip(*(v.samples(table) for v, table in tables), strict=True):
            cases, edits, scores = (self.store.read_table(file) for file in files)
            rows = zip(from_table(cases, Case), from_table(edits, Edit), from_table(scores, Score), strict=True)
            for case, edit, score in rows:
                points = None if score.score is None else int(score.score + 0.5)
                if points is not None and edit.edited and len(examples[points]) < 4:
                    examples[points].append((case.instruction, decode(case.source), decode(edit.edited)))
        sheet = [
            (f"{points}: {'; '.join(said for said, _, _ in found[:2])}", [p for _, a, b in found for p in (a, b)])
            for points, found in sorted(examples.items(), reverse=True)
        ]
        return [("source and edit by score", contact_sheet(sheet))]


def _sums(scores: Sequence[Score]) -> dict[str, Any]:
    """What statistics need of a shard, per edit type, in a form that sums up over shards."""
    sums: dict[str, Any] = {}
    for score in scores:
        row = sums.setdefault(score.edit_type, {"scored": 0, "sum": 0.0, "full": 0, "histogram": [0] * 6})
        if score.score is not None:
            row["scored"] += 1
            row["sum"] += score.score
            row["full"] += int(score.full)
            row["histogram"][int(score.score + 0.5)] += 1
    return sums


def _share(part: float, whole: float) -> float:
    """The quotient; NaN where there is nothing to divide by."""
    return part / whole if whole else float("nan")


def rate(
    scorer: Scorer, cases: Sequence[Case], edits: Sequence[Edit], some: Sequence[int] | None = None, attempt: int = 0
) -> Generator[tuple[int, Score], None, None]:
    """Rate the edits of cases; scores come with their position, as the judge gives them.

    An edit that failed ends as a typed failure like any other.

    Args:
        some: the positions to rate; none: all.
    """
    chosen = range(len(edits)) if some is None else some
    triplets = (triplet_of(cases[position], edits[position]) for position in chosen)
    who = scorer.who
    with closing(scorer.judgements(triplets, attempt)) as judgements:
        for number, judgement in judgements:
            case, edit = cases[chosen[number]], edits[chosen[number]]
            fingerprint = scorer.fingerprint_of(case.edit_type)
            score = Score(
                score_id=Score.id_of(edit.edited, case, fingerprint, attempt),
                edit_id=edit.edit_id,
                case_id=case.case_id,
                edit_type=case.edit_type,
                outcome=judgement.outcome,
                score=judgement.score,
                full=False,
                answers=dict(judgement.answers),
                raw_reply=judgement.raw_reply,
                scorer=fingerprint,
                attempt=attempt,
                raw_score=judgement.raw_score,
                digit_mass=judgement.digit_mass,
                spread=judgement.spread,
                judge=who.model,
                revision=who.revision,
                model=judgement.model,
                parameters=who.parameters,
            )
            yield chosen[number], calibrated(score, scorer)


def calibrated(score: Score, scorer: Scorer) -> Score:
    """A row with its score on people's scale; whether it is full is the judge's own matter."""
    if score.raw is None:
        return score
    full, score_map = score.raw >= scorer.full_at, scorer.map_of(score.edit_type)
    if score_map == IDENTITY:
        return replace(score, score=score.raw, raw_score=None, score_map="", full=full)
    mapped = score_map(score.raw)
    return replace(score, score=mapped, raw_score=score.raw, score_map=score_map.fingerprint, full=full)


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
        edited=_read(edit.edited),
    )


def _read(edited: bytes | None) -> np.ndarray | None:
    """An edited image, or None where there is none that can be read; the judge then says so."""
    try:
        return None if edited is None else decode(edited)
    except ValueError as error:
        logger.warning("an edited image is not rated: %s", error)
        return None
