"""What a scorer is: triplets in, judgements out. The same object serves filtering, reward and benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, Request

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

    def __post_init__(self) -> None:
        scored = self.outcome is Outcome.SCORED
        if scored != (self.score is not None):
            raise ValueError(f"outcome {self.outcome} with score {self.score}: exactly the scored have one")
        if self.score is not None and not 0 <= self.score <= BEST:
            raise ValueError(f"score {self.score} outside [0, {BEST}]")


class Scorer(Protocol):
    """A judge of edits, pinned: two scorers with one fingerprint give the same scores."""

    @property
    def full_at(self) -> float:
        """The lowest score that counts as full: 5 in integer mode."""

    @property
    def fingerprint(self) -> str: ...

    def fingerprint_of(self, edit_type: EditType) -> str:
        """The part of the fingerprint that one edit type depends on: a new rubric re-rates its edit type alone."""

    def score(self, triplets: Sequence[EditTriplet], attempt: int = 0) -> list[Judgement]:
        """One judgement per triplet, in order; never raises for a bad image or a failed call."""
