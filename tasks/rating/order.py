"""In which order a rater sees the items, and how far one is.

The order is drawn by hash from the seed, the rater and the items alone: it knows no score, it is another one for every
rater, and it is the same after a restart or on another machine.

Items come in short blocks of one edit type, so that one yardstick stays in mind for a while, and each round has one
block of every type: all of a type in one go would mix what the type is worth with how tired the rater was, and somebody
who stops half way would leave whole types unrated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median

from storage.records import identity
from tasks.rating.ratings import Rating, RatingItem

BLOCK = 8
"""Items of one edit type in a row."""
PAUSE_SECONDS = 180.0
"""A longer time between two ratings is a break and no part of the rater's pace."""
FASTEST_SECONDS = 0.25
"""Ratings that were kept in a browser while the server was away arrive faster than this; it is no pace either."""
FEWEST_STEPS = 3
"""A pace is told from so many times on."""
RECENT = 30
"""The pace is that of the last so many ratings: people become faster."""


def blind_order(items: Iterable[RatingItem], seed: int, rater: str) -> list[RatingItem]:
    """All items in the rater's own order."""

    def draw(*what: str | int) -> str:
        return identity(seed, rater, *what)

    by_type: dict[str, list[RatingItem]] = defaultdict(list)
    for item in sorted(items, key=lambda item: draw("item", item.edit_id)):
        by_type[item.edit_type].append(item)
    blocks = [
        (start, draw("block", start, edit_type), of_type[start : start + BLOCK])
        for edit_type, of_type in by_type.items()
        for start in range(0, len(of_type), BLOCK)
    ]
    return [item for _, _, block in sorted(blocks, key=lambda block: block[:2]) for item in block]


def still_to_rate(order: Sequence[RatingItem], rated: set[str], skipped: Sequence[str]) -> list[RatingItem]:
    """What comes next, first things first; what was skipped comes last, in the order in which it was skipped."""
    places = {edit_id: place for place, edit_id in enumerate(skipped)}
    return sorted((item for item in order if item.edit_id not in rated), key=lambda item: places.get(item.edit_id, -1))


def pace_seconds(times: Sequence[datetime]) -> float | None:
    """Seconds that a rater needs for one item: the median of the recent ones, breaks left out.

    Args:
        times: when ratings were given, in order.

    Returns: None while there are too few to tell.
    """
    recent = times[-RECENT - 1 :]
    steps = [(after - before).total_seconds() for before, after in pairwise(recent)]
    told = [step for step in steps if FASTEST_SECONDS <= step <= PAUSE_SECONDS]
    return median(told) if len(told) >= FEWEST_STEPS else None


def counts(items: Iterable[RatingItem], ratings: Iterable[Rating]) -> dict[str, Mapping[str, int]]:
    """How many items each rater has rated, by edit type; ratings of other items are not counted."""
    types = {item.edit_id: item.edit_type for item in items}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for rating in ratings:
        if rating.edit_id in types:
            found[rating.rater][types[rating.edit_id]] += 1
    return {rater: dict(sorted(of_rater.items())) for rater, of_rater in sorted(found.items())}
