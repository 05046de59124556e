"""Which edits are worth learning from: the hard ones."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from storage.records import Score


class Dropped(StrEnum):
    """Why a case is not in the data set."""

    FULL_SCORE = "full score"
    NO_EDIT = "the editor failed"
    NO_SCORE = "no score"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a case is kept, and why not."""

    dropped: Dropped | None
    detail: str = ""


def decide(score: Score, edit_failure: str, drop_full: bool = True, full_at: float | None = None) -> Decision:
    """Keep or drop one rated case.

    A full score leaves nothing to learn: the group of samples would be all alike. A missing score says nothing about
    the edit, so it is dropped too, but for another reason, and can be rated again.

    Args:
        drop_full: the paper's filter; without it everything that was scored is kept (the paper's "BaseData").
        full_at: the lowest full score on the judge's own scale; None: what the judge called full when it rated.

    Source: HP-Edit, RealPref-50K.
    """
    if edit_failure:
        return Decision(Dropped.NO_EDIT, edit_failure)
    if score.raw is None:
        return Decision(Dropped.NO_SCORE, score.outcome)
    if drop_full and (score.full if full_at is None else score.raw >= full_at):
        return Decision(Dropped.FULL_SCORE)
    return Decision(None)


def difficulty(score: float) -> float:
    """How much is left to gain, in [0, 1]: 0 for a full score."""
    return 1 - score / 5
