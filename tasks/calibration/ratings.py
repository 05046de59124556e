"""What a person said of an edit, and which of several such sayings counts."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

BEST = 5
"""The highest score; the lowest is 0."""
_WHOLE_SCORE = re.compile(r"0*([0-5])([.,]0*)?")


@dataclass(frozen=True, slots=True)
class Rating:
    """What one person said of one edit.

    Raises: ValueError for a score that is not a whole number from 0 to 5, or a name that is empty or padded.
    """

    edit_id: str
    rater: str
    score: int
    """0 to 5."""
    rated_at: str = ""
    """ISO 8601; empty where it is not known. A text that is no time is kept and counts as not known."""

    def __post_init__(self) -> None:
        if isinstance(self.score, bool) or not isinstance(self.score, int) or not 0 <= self.score <= BEST:
            raise ValueError(f"{self.edit_id}: score {self.score!r} is not a whole number from 0 to {BEST}")
        for name, value in (("edit_id", self.edit_id), ("rater", self.rater), ("rated_at", self.rated_at)):
            if value != value.strip() or (not value and name != "rated_at"):
                raise ValueError(f"{name} {value!r} is empty or padded")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rating that was not taken, and why."""

    where: str
    """The place in the file."""
    reason: str
    value: str
    """What stood there."""


def read_rating(where: str, edit_id: str, rater: str, score: str, rated_at: str) -> Rating | Skipped:
    """A rating, or why it is none. A score is a whole number, perhaps written as 4.0; nothing else is understood."""
    if not edit_id.strip():
        return Skipped(where, "no edit_id", score)
    if not rater.strip():
        return Skipped(where, "no rater", score)
    if not score.strip():
        return Skipped(where, "no score", score)
    whole = _WHOLE_SCORE.fullmatch(score.strip())
    if whole is None:
        return Skipped(where, f"not a whole number from 0 to {BEST}", score)
    return Rating(edit_id.strip(), rater.strip(), int(whole[1]), rated_at.strip())


def keep_latest(ratings: Sequence[Rating]) -> tuple[list[Rating], list[Skipped]]:
    """Keep one rating of each edit by each person: the one with the latest time, of equal ones the last.

    A rating without a time is earlier than one with; a time without a zone is in UTC. Apply it to the ratings of
    several files put one after the other.
    """
    return latest_of([(f"rating {position}", rating) for position, rating in enumerate(ratings, 1)])


def latest_of(found: Sequence[tuple[str, Rating]]) -> tuple[list[Rating], list[Skipped]]:
    """`keep_latest` for ratings that have a place in a file."""
    best: dict[tuple[str, str], int] = {}
    for position, (_, rating) in enumerate(found):
        key = (rating.edit_id, rating.rater)
        if key not in best or _moment(rating.rated_at) >= _moment(found[best[key]][1].rated_at):
            best[key] = position
    kept = set(best.values())
    return [found[position][1] for position in sorted(kept)], [
        Skipped(where, "rated again", str(rating.score))
        for position, (where, rating) in enumerate(found)
        if position not in kept
    ]


def check_known(ratings: Sequence[Rating], known: Collection[str]) -> tuple[list[Rating], list[Skipped]]:
    """The ratings of known edits, and the others as skipped."""
    names = frozenset(known)
    kept = [rating for rating in ratings if rating.edit_id in names]
    unknown = [
        Skipped(f"rating of {rating.edit_id} by {rating.rater}", "unknown edit_id", rating.edit_id)
        for rating in ratings
        if rating.edit_id not in names
    ]
    return kept, unknown


def _moment(rated_at: str) -> float:
    try:
        time = datetime.fromisoformat(rated_at)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return -math.inf
