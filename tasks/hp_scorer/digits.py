"""A continuous score from one token: the mean of the digits 0 to 5 under the judge's own probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

DIGITS = "012345"
LEAST_MASS = 0.5
"""Below this share of probability on digits, the judge was not about to give a score at all."""


@dataclass(frozen=True, slots=True)
class DigitScore:
    """An expected score."""

    score: float
    """0 to 5."""
    mass: float
    """The probability that the token is a digit from 0 to 5, as far as the top tokens tell; in [0, 1]."""
    spread: float
    """The standard deviation of the digit."""


def expected_digit(log_probabilities: Mapping[str, float]) -> DigitScore | None:
    """The mean digit, renormalised over the digits.

    Args:
        log_probabilities: of the most probable tokens at the score's position, natural logarithms. Variants of a digit,
            such as with a space before it, count together.

    Returns: None where no token is a digit. The caller decides by `mass` whether to trust it.
    Source: Q-Align and UniWorld-V2 take the mean over level tokens; they do not look at the mass.
    """
    weights = [0.0] * len(DIGITS)
    for token, log_probability in log_probabilities.items():
        text = token.strip().strip("▁Ġ")
        if len(text) == 1 and text in DIGITS and log_probability == log_probability:
            weights[DIGITS.index(text)] += math.exp(min(log_probability, 0.0))
    mass = sum(weights)
    if mass <= 0:
        return None
    mean = sum(points * weight for points, weight in enumerate(weights)) / mass
    variance = sum((points - mean) ** 2 * weight for points, weight in enumerate(weights)) / mass
    return DigitScore(mean, min(mass, 1.0), math.sqrt(variance))
