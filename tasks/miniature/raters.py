"""Simulated raters: noisy, biased views of the referee, each with tastes of an own that no question asks about.

They stand where people will rate, so that the whole pipeline runs by itself. What is calibrated on them agrees with
them, and says nothing about people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.records import identity

NOISE = 0.45
"""Standard deviation of a rater from one look to the next, in points."""


@dataclass(frozen=True, slots=True)
class SimulatedRater:
    """One of them. What they see differs in level, in stretch, and in what they happen to like."""

    name: str
    bias: float
    """Points."""
    stretch: float
    """Of the distance from 3, the middle of the scale."""
    warmth: float
    """Points for a picture that is altogether warm, taken off for a cold one."""
    detail: float
    """Points for a picture full of detail, taken off for a plain one."""
    seed: int

    def rate(self, seen: float, edited: NDArray[np.uint8], edit_id: str) -> int:
        """A whole score from 0 to 5; the same look at the same edit says the same.

        Args:
            seen: the referee's score of it.
        """
        picture = edited.astype(np.float64) / 255
        warm = float(np.tanh(4 * (picture[..., 0].mean() - picture[..., 2].mean())))
        steps = np.abs(np.diff(picture, axis=0)).mean() + np.abs(np.diff(picture, axis=1)).mean()
        busy = float(np.tanh(8 * (steps - 0.12)))
        draw = np.random.default_rng(int(identity(self.seed, self.name, edit_id), 16)).standard_normal()
        felt = 3 + self.stretch * (seen - 3) + self.bias + self.warmth * warm + self.detail * busy + NOISE * draw
        return int(np.clip(np.floor(felt + 0.5), 0, 5))


def simulated_raters(count: int, seed: int) -> list[SimulatedRater]:
    """Raters of one panel; another seed gives another panel."""
    rng = np.random.default_rng(int(identity("raters", seed), 16))
    return [
        SimulatedRater(
            name=f"simulated-{number + 1}",
            bias=float(rng.normal(0, 0.25)),
            stretch=float(rng.uniform(0.85, 1.15)),
            warmth=float(rng.normal(0, 0.3)),
            detail=float(rng.normal(0, 0.3)),
            seed=seed,
        )
        for number in range(count)
    ]
