"""The map from a judge's raw score to people's scale. It never changes the order in which the judge sees two edits."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from storage.records import identity

BEST = 5.0
LEAST_PAIRS = 10
"""Fewer pairs than this are not fitted at all."""
_DIGITS = 6
_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """A piecewise linear map of [0, 5] into itself.

    Raises: ValueError unless the points go from raw 0 to raw 5, strictly upwards in raw, never downwards in value,
    with values in [0, 5].
    """

    points: tuple[tuple[float, float], ...]
    """(raw, calibrated), from raw 0 to raw 5."""

    def __post_init__(self) -> None:
        raws, values = [raw for raw, _ in self.points], [value for _, value in self.points]
        if len(raws) < 2 or raws[0] != 0 or raws[-1] != BEST or any(a >= b for a, b in pairwise(raws)):
            raise ValueError(f"raw scores must rise from 0 to {BEST:g}: {raws}")
        if not all(0 <= value <= BEST for value in values) or any(a > b for a, b in pairwise(values)):
            raise ValueError(f"calibrated scores must not fall and lie in [0, {BEST:g}]: {values}")

    def __call__(self, raw: float) -> float:
        """The calibrated score, in [0, 5].

        Raises: ValueError for a raw score outside [0, 5]; by a millionth it may be, as sums of probabilities are.
        """
        if not -_TOLERANCE <= raw <= BEST + _TOLERANCE:
            raise ValueError(f"score {raw} outside [0, {BEST:g}]")
        right = min(max(bisect.bisect_right(self.points, raw, key=lambda point: point[0]), 1), len(self.points) - 1)
        (raw_below, below), (raw_above, above) = self.points[right - 1 : right + 1]
        share = min(max((raw - raw_below) / (raw_above - raw_below), 0.0), 1.0)
        return min(below + (above - below) * share, above)  # rounding must not lift it over its neighbour

    @property
    def fingerprint(self) -> str:
        """The identity of the map: scores that went through different maps are not comparable."""
        return identity("score map", [list(point) for point in self.points])

    def to_json(self) -> list[list[float]]:
        """The points."""
        return [list(point) for point in self.points]

    @classmethod
    def from_json(cls, value: Sequence[Sequence[float]]) -> ScoreMap:
        """The inverse of `to_json`. Raises: ValueError for points that make no map."""
        return cls(tuple((float(raw), float(calibrated)) for raw, calibrated in value))


IDENTITY = ScoreMap(((0.0, 0.0), (BEST, BEST)))


@dataclass(frozen=True, slots=True)
class MapFit:
    """What came out of fitting."""

    score_map: ScoreMap
    n: int
    """Pairs of this edit type; a pooled map rests on those of all."""
    fitted: bool
    """False where it is the identity, for want of anything to learn from."""
    pooled: bool = False
    """Whether it is the map of all edit types together."""
    note: str = ""
    """Why it is not this edit type's own fit."""

    def to_json(self) -> dict[str, Any]:
        """All of it, and the map's fingerprint."""
        return {
            "points": self.score_map.to_json(),
            "fingerprint": self.score_map.fingerprint,
            "n": self.n,
            "fitted": self.fitted,
            "pooled": self.pooled,
            "note": self.note,
        }


def fit_map(raw: Sequence[float], human: Sequence[float]) -> MapFit:
    """Fit people's scores as a rising function of the judge's.

    Isotonic regression alone has steps, and a step would make equal rewards out of unequal scores. So the map runs
    straight from the centre of each step to that of the next (centred isotonic regression): the centre is the mean
    raw score of the step's pairs. Beyond the outermost centres it goes on straight to raw 0 and raw 5, as steep as the
    least-squares line through all pairs, or less steep where that would leave [0, 5]. So it rises strictly, except
    beyond an outermost step at which all people gave 0, or all gave 5.

    The identity map comes out, with a note, of fewer than `LEAST_PAIRS` pairs; of a judge or people that gave one
    score to everything, as there is nothing to learn; and of a judge that ranks edits against people (their
    correlation is not positive, or isotonic regression finds one step), which no rising map can mend.

    Args:
        raw: the judge's, 0 to 5.
        human: people's for the same triplets, 0 to 5.

    Raises: ValueError for lengths that differ or a score outside [0, 5].
    Source: Oron & Flournoy 2017, "Centered isotonic regression: point and interval estimation for dose-response
    studies".
    """
    if len(raw) != len(human):
        raise ValueError(f"{len(raw)} raw scores, {len(human)} human ones")
    judge, people = _in_range(raw), _in_range(human)
    n = len(judge)
    if n < LEAST_PAIRS:
        return _identity(n, f"only {n} pair{'' if n == 1 else 's'}, of the {LEAST_PAIRS} that a map needs")
    if np.ptp(people) == 0:
        return _identity(n, f"all human scores are {people[0]:g}: nothing to fit")
    if np.ptp(judge) == 0:
        return _identity(n, "the judge gave one score to everything: nothing to fit")
    covariance = float(np.mean((judge - judge.mean()) * (people - people.mean())))
    centres = _centres(judge, people)
    if covariance <= 0 or len(centres) < 2:
        return _identity(n, "the judge disagrees with people: where it scores higher, they do not")
    return MapFit(ScoreMap(_to_the_ends(centres, covariance / float(judge.var()))), n, fitted=True)


def fit_maps(by_type: Mapping[str, tuple[Sequence[float], Sequence[float]]], least: int = 30) -> dict[str, MapFit]:
    """A map for each edit type; one with fewer than `least` pairs gets the map of all edit types together.

    Args:
        by_type: edit type -> (raw, human).
    """
    pooled = fit_map(
        [score for raw, _ in by_type.values() for score in raw],
        [score for _, human in by_type.values() for score in human],
    )
    maps = {}
    for edit_type, (raw, human) in by_type.items():
        if len(raw) >= least:
            maps[edit_type] = fit_map(raw, human)
            continue
        why = f"only {len(raw)} pair{'' if len(raw) == 1 else 's'}: the map of all edit types together"
        note = f"{why}; {pooled.note}" if pooled.note else why
        maps[edit_type] = MapFit(pooled.score_map, len(raw), pooled.fitted, pooled=True, note=note)
    return maps


def _identity(n: int, note: str) -> MapFit:
    return MapFit(IDENTITY, n, fitted=False, note=note)


def _in_range(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    inside = (values >= -_TOLERANCE) & (values <= BEST + _TOLERANCE)
    if not inside.all():
        raise ValueError(f"score {values[~inside][0]} outside [0, {BEST:g}]")
    return values.clip(0, BEST).round(_DIGITS)


def _centres(judge: NDArray[np.float64], people: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The steps of the isotonic regression as (mean raw score, value); both rise strictly."""
    raws, index, counts = np.unique(judge, return_inverse=True, return_counts=True)
    values = np.bincount(index, weights=people) / counts
    steps = np.clip(np.round(isotonic_regression(values, weights=counts).x, _DIGITS), 0, BEST)
    centres = []
    for step in np.unique(steps):
        inside = steps == step
        centre = np.round(np.average(raws[inside], weights=counts[inside]), _DIGITS)
        centres.append((float(centre), float(step)))
    return centres


def _to_the_ends(centres: list[tuple[float, float]], slope: float) -> tuple[tuple[float, float], ...]:
    """The centres with a point at raw 0 and one at raw 5."""
    (lowest, bottom), (highest, top) = centres[0], centres[-1]
    first = [] if lowest == 0 else [(0.0, max(0.0, bottom - slope * lowest))]
    last = [] if highest == BEST else [(BEST, min(BEST, top + slope * (BEST - highest)))]
    return (*first, *centres, *last)
