"""Means and paired differences with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Gain:
    """A paired comparison of two models on the same cases."""

    n: int
    """Cases in which both have a score."""
    total: int
    """Cases in all; n / total is the coverage."""
    baseline: float
    post_trained: float
    gain: float
    low: float
    high: float

    @property
    def significantly_worse(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high < 0

    @property
    def significantly_better(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0


def bootstrap_mean(values: Sequence[float], clusters: Sequence[str], seed: int = 0) -> Interval:
    """The mean of values with a percentile interval, resampling whole clusters.

    Cases that share an image are not independent, so images are drawn, not cases.

    Args:
        values: finite numbers.
        clusters: which image each is of.

    Raises: ValueError without values: an empty mean is no number.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        raise ValueError("no values to take a mean of")
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=numbers)
    counts = np.bincount(index)
    draws = np.random.default_rng(seed).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES)
    means = (draws @ sums) / (draws @ counts)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(len(numbers), float(numbers.mean()), float(low), float(high))


def paired_gain(
    baseline: Sequence[float | None], post_trained: Sequence[float | None], clusters: Sequence[str], seed: int = 0
) -> Gain | None:
    """The mean gain over the cases in which both have a score; None where there is no such case."""
    both = [
        (b, p, c) for b, p, c in zip(baseline, post_trained, clusters, strict=True) if b is not None and p is not None
    ]
    if not both:
        return None
    before: NDArray[np.float64] = np.asarray([b for b, _, _ in both])
    after: NDArray[np.float64] = np.asarray([p for _, p, _ in both])
    interval = bootstrap_mean(list(after - before), [c for _, _, c in both], seed)
    return Gain(
        n=len(both),
        total=len(baseline),
        baseline=float(before.mean()),
        post_trained=float(after.mean()),
        gain=interval.mean,
        low=interval.low,
        high=interval.high,
    )
