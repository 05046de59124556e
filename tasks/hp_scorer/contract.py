"""What a scorer is: triplets in, judgements out. The same object serves filtering, reward and benchmark."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, Request
from tasks.calibration.score_map import IDENTITY, ScoreMap

BEST = 5.0
"""Full score: the instruction is fully followed, with high quality. 3: basically followed; 0: failed."""


class Outcome(StrEnum):
    """How a judgement ended. Everything but SCORED is missing data, never a number."""

    SCORED = "scored"
    REFUSED = "refused"
    FILTERED = "filtered"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    PARSE_ERROR = "parse_error"
    IMAGE_ERROR = "image_error"
    SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTriplet:
    """Source A, edited B, instruction T, and what is known of the source. This is all that a judge may see."""

    case_id: str
    edit_type: EditType
    instruction: str
    request: Request
    category: str
    source: NDArray[np.uint8]
    """(H, W, 3) sRGB."""
    mask: NDArray[np.bool_]
    """(H, W): the subject in the source."""
    edited: NDArray[np.uint8] | None
    """(H', W', 3) sRGB; None where the edited image could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One triplet's score, or the reason why there is none."""

    outcome: Outcome
    score: float | None
    """0 to 5; None unless SCORED."""
    answers: Mapping[str, float] = field(default_factory=dict)
    """The answer to each question of the rubric, in [0, 1]."""
    raw_reply: str = ""
    """What the judge said, or the error, kept for audit."""
    digit_mass: float | None = None
    """logit modes: the probability that the judge was about to give a digit at all."""
    spread: float | None = None
    """Standard deviation of the score: over the digit's probabilities, or over repeats."""
    model: str = ""
    """As the server calls the model that answered: an alias may come to mean another one."""
    raw_score: float | None = None
    """Before calibration; None where it is the same as the score."""

    @property
    def raw(self) -> float | None:
        """The judge's own score."""
        return self.score if self.raw_score is None else self.raw_score

    def __post_init__(self) -> None:
        scored = self.outcome is Outcome.SCORED
        if scored != (self.score is not None):
            raise ValueError(f"outcome {self.outcome} with score {self.score}: exactly the scored have one")
        if self.score is not None and not 0 <= self.score <= BEST:
            raise ValueError(f"score {self.score} outside [0, {BEST}]")


@dataclass(frozen=True, slots=True)
class WhoJudges:
    """Stands on every row."""

    model: str
    revision: str
    parameters: Mapping[str, Any]
    """Everything else that was set: mode, image size, decoding."""


class Scorer(Protocol):
    """A judge of edits, pinned: two scorers with one fingerprint give the same raw scores."""

    @property
    def who(self) -> WhoJudges: ...

    @property
    def full_at(self) -> float:
        """The lowest raw score that counts as full: 5 in integer mode."""

    @property
    def fingerprint(self) -> str: ...

    def fingerprint_of(self, edit_type: EditType) -> str:
        """The part of the fingerprint that one edit type depends on: a new rubric re-rates its edit type alone."""

    def map_of(self, edit_type: EditType) -> ScoreMap:
        """From raw scores to people's; apart from the fingerprints, so that a new map re-rates nothing."""
        return IDENTITY

    def judgements(
        self, triplets: Iterable[EditTriplet], attempt: int = 0
    ) -> Generator[tuple[int, Judgement], None, None]:
        """One judgement per triplet with its position, as they come, in any order.

        Triplets are taken as they are needed, so that not all images are in memory. Never raises for a bad image or a
        failed call, but for a judge that cannot be used at all.
        """

    def score(self, triplets: Sequence[EditTriplet], attempt: int = 0) -> list[Judgement]:
        """One judgement per triplet, in order."""
        found = dict(self.judgements(triplets, attempt))
        return [found[position] for position in range(len(triplets))]
