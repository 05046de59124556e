"""What people's labels made of a judge: a rubric and a map from its scores to theirs, per edit type."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from storage.records import EditType
from storage.store import Version
from tasks.calibration.score_map import ScoreMap
from tasks.hp_scorer.contract import EditTriplet, Judgement, Scorer, WhoJudges
from tasks.hp_scorer.rubric import Rubric
from tasks.hp_scorer.settings import ScorerConfig


@dataclass(frozen=True)
class Calibration:
    """Rubrics and maps of one judge."""

    judge: Mapping[str, Any]
    """The settings that decide what the judge says, as they were when it was calibrated."""
    rubrics: Mapping[EditType, Rubric]
    maps: Mapping[EditType, ScoreMap]
    name: str = "a calibration"
    """For messages: the version that it is from."""

    def check(self, config: ScorerConfig) -> None:
        """Raises: ValueError where another judge, or one asked in another way, was calibrated."""
        told = _comparable(config.deciding())
        wanted = _comparable(self.judge)
        if told != wanted:
            different = sorted(key for key in {*told, *wanted} if told.get(key) != wanted.get(key))
            raise ValueError(
                f"{self.name} was calibrated for another judge: "
                + "; ".join(f"{key} was {wanted.get(key)!r}, is {told.get(key)!r}" for key in different)
                + ". Calibrate this one, or migrate (python -m flows.migrate_judge)"
            )


@dataclass(frozen=True)
class CalibratedScorer(Scorer):
    """A judge whose scores are on people's scale."""

    scorer: Scorer
    maps: Mapping[EditType, ScoreMap]

    @property
    def who(self) -> WhoJudges:
        return self.scorer.who

    @property
    def full_at(self) -> float:
        return self.scorer.full_at

    @property
    def fingerprint(self) -> str:
        return self.scorer.fingerprint

    def fingerprint_of(self, edit_type: EditType) -> str:
        return self.scorer.fingerprint_of(edit_type)

    def map_of(self, edit_type: EditType) -> ScoreMap:
        return self.maps[edit_type]

    def judgements(
        self, triplets: Iterable[EditTriplet], attempt: int = 0
    ) -> Generator[tuple[int, Judgement], None, None]:
        types: list[EditType] = []

        def noted() -> Generator[EditTriplet, None, None]:
            for triplet in triplets:
                types.append(triplet.edit_type)
                yield triplet

        # Closed with this one, so that nothing more is asked for.
        with closing(self.scorer.judgements(noted(), attempt)) as judgements:
            for position, judgement in judgements:
                if judgement.raw is None:
                    yield position, judgement
                else:
                    score = self.maps[types[position]](judgement.raw)
                    yield position, replace(judgement, score=score, raw_score=judgement.raw)


def scorer_rows(
    rubrics: Mapping[EditType, Rubric], maps: Mapping[EditType, ScoreMap], notes: Mapping[EditType, str]
) -> list[dict[str, Any]]:
    """The table `scorer` of a version of the artifact, which `calibration_of` reads.

    Args:
        notes: what to know of each map.
    """
    return [
        {
            "edit_type": edit_type,
            "rubric": rubric.model_dump_json(),
            "score_map": json.dumps(maps[edit_type].to_json()),
            "note": notes[edit_type],
        }
        for edit_type, rubric in rubrics.items()
    ]


def calibration_of(version: Version | None) -> Calibration | None:
    """What a version of the artifact `scorer` says; None of none."""
    if version is None:
        return None
    rows = {EditType(row["edit_type"]): row for row in version.table("scorer").to_pylist()}
    return Calibration(
        judge=version.manifest.config["scorer"],
        rubrics={edit_type: Rubric.model_validate_json(row["rubric"]) for edit_type, row in rows.items()},
        maps={edit_type: ScoreMap.from_json(json.loads(row["score_map"])) for edit_type, row in rows.items()},
        name=str(version),
    )


def _comparable(judge: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a judge without those that a calibration replaces."""
    return {name: value for name, value in judge.items() if name not in ("generic", "full_at")}
