"""Which judges there are, and how each is made from its settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.hp_scorer.contract import Scorer
from tasks.hp_scorer.measured import NOISE, MeasuredScorer
from tasks.stage import StageConfig


class ScorerConfig(StageConfig):
    """Which judge, and how it answers."""

    kind: Literal["measured"] = Field("measured", description="The stand-in judge that measures pixels; not HP-Scorer.")
    knows: Literal["sprites", "nothing"] = Field(
        "sprites", description="Which objects the stand-in recognises: those of the miniature world, or none."
    )
    generic: bool = Field(False, description="One set of questions for all edit types (the paper's Base-Scorer).")
    mode: Literal["integer", "continuous"] = Field("integer", description="Whole points, as in the paper, or not.")
    full_at: float = Field(4.5, description="continuous: the lowest score that counts as full.")
    noise: float = Field(NOISE, ge=0, description="Standard deviation of the stand-in's own inaccuracy, in points.")


def make_scorer(config: ScorerConfig) -> Scorer:
    """Make a judge."""
    recogniser = None
    if config.knows == "sprites":
        from tasks.miniature.recogniser import SpriteRecogniser

        recogniser = SpriteRecogniser()
    return MeasuredScorer(
        recogniser=recogniser,
        generic=config.generic,
        integer=config.mode == "integer",
        full_at=config.full_at,
        noise=config.noise,
    )
