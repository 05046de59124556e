"""A judge from its settings and its calibration."""

from __future__ import annotations

from collections.abc import Mapping

from storage.records import EditType
from tasks.calibration.score_map import IDENTITY
from tasks.hp_scorer.calibration import CalibratedScorer, Calibration
from tasks.hp_scorer.contract import Scorer
from tasks.hp_scorer.judge import Spent
from tasks.hp_scorer.rubric import Rubric, generic_rubric, rubric_of
from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig, VlmConfig


def make_scorer(config: ScorerConfig, calibration: Calibration | None = None, spent: Spent | None = None) -> Scorer:
    """Make a judge. Nothing heavy is loaded before it is asked.

    Args:
        calibration: rubrics and maps; none: the rubrics of the files, and the judge's own scale.
        spent: what other judges spent that the same cap is for; it is counted on.

    Raises: ValueError where another judge was calibrated.
    """
    if calibration is not None:
        calibration.check(config)
    scorer: Scorer
    if config.kind == "measured":
        scorer = _measured(config, calibration)
    else:
        from tasks.hp_scorer.vlm_scorer import VlmScorer

        scorer = VlmScorer(config, rubrics_of(config, calibration), spent or Spent())
    return scorer if calibration is None else CalibratedScorer(scorer, calibration.maps)


def judge_asked_by(config: ScorerConfig, rubrics: Mapping[EditType, Rubric], spent: Spent | None = None) -> Scorer:
    """A judge asked by given rubrics, on its own scale; otherwise as `make_scorer`."""
    return make_scorer(config, Calibration(config.deciding(), rubrics, dict.fromkeys(EditType, IDENTITY)), spent)


def rubrics_of(config: VlmConfig, calibration: Calibration | None = None) -> Mapping[EditType, Rubric]:
    """What a judge is told, by edit type."""
    if calibration is not None:
        return calibration.rubrics
    return {edit_type: generic_rubric() if config.generic else rubric_of(edit_type) for edit_type in EditType}


def fingerprints_of(scorer: Scorer) -> dict[str, str]:
    """What a stage that uses a judge tells of it: what its scores depend on, and apart from it the map."""
    by_type = {f"scorer of {edit_type}": scorer.fingerprint_of(edit_type) for edit_type in EditType}
    maps = {edit_type: scorer.map_of(edit_type) for edit_type in EditType}
    of_maps = {f"map of {edit_type}": one.fingerprint for edit_type, one in maps.items() if one != IDENTITY}
    return {"scorer": scorer.fingerprint, **by_type, **of_maps}


def _measured(config: MeasuredConfig, calibration: Calibration | None) -> Scorer:
    from tasks.hp_scorer.measured import MeasuredScorer
    from tasks.hp_scorer.question_bank import answerable

    recogniser = None
    if config.knows == "sprites":
        from tasks.miniature.recogniser import SpriteRecogniser

        recogniser = SpriteRecogniser()
    asked = None
    if calibration is not None:
        asked = {t: answerable(t, calibration.rubrics[t].questions) for t in EditType}
    elif config.generic:
        asked = dict.fromkeys(EditType, ())
    return MeasuredScorer(
        recogniser=recogniser,
        asked=asked,
        integer=config.mode == "integer",
        full_at=config.full_at,
        noise=config.noise,
    )
