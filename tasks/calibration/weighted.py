"""Measures of agreement under weights, for many resamples at once.

A bootstrap that draws whole clusters is a matrix of weights: how often each row was drawn. Every measure here takes
that matrix and gives what the measure would be on the rows written out that often. Where it has no value it is NaN;
`tasks.calibration.agreement` turns NaN into words.

R resamples, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

DIGITS = 6
"""Scores are rounded to so many decimals first, or the noise of a sum of probabilities would undo ties."""
_NO_VARIANCE = 1e-12


def draw_weights(clusters: Sequence[str], resamples: int, seed: int) -> Numbers:
    """How often each row is drawn when as many clusters as there are are drawn with replacement.

    Returns: (R, N). It depends on the seed and the set of clusters, not on their order.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    chances = np.full(len(names), 1 / len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), chances, size=resamples)
    return drawn[:, index].astype(np.float64)


def mean(weights_RN: Numbers, values: Numbers) -> Numbers:
    """The mean of values, (N,) or (R, N), in each resample; NaN where no row was drawn."""
    sums = weights_RN @ values if values.ndim == 1 else np.einsum("rn,rn->r", weights_RN, values)
    totals = weights_RN.sum(axis=1)
    return np.divide(sums, totals, out=np.full(len(totals), np.nan), where=totals > 0)


def varies(weights_RN: Numbers, values: Numbers) -> NDArray[np.bool_]:
    """Whether there is more than one value in each resample."""
    centred = values - values.mean()
    return mean(weights_RN, centred**2) - mean(weights_RN, centred) ** 2 > _NO_VARIANCE


def pearson(weights_RN: Numbers, judge: Numbers, human: Numbers) -> Numbers:
    """Pearson's correlation; judge and human are (N,) or (R, N)."""
    covariance, variance_judge, variance_human, _ = _moments(weights_RN, judge, human)
    defined = (variance_judge > _NO_VARIANCE) & (variance_human > _NO_VARIANCE)
    product = np.sqrt(np.where(defined, variance_judge * variance_human, 1))
    return np.where(defined, np.clip(covariance / product, -1, 1), np.nan)


def spearman(weights_RN: Numbers, judge_N: Numbers, human_N: Numbers) -> Numbers:
    """Spearman's correlation: Pearson's of the ranks, ties having their mean rank."""
    return pearson(weights_RN, _ranks(weights_RN, judge_N), _ranks(weights_RN, human_N))


def kappa(weights_RN: Numbers, judge_N: Numbers, human_N: Numbers) -> Numbers:
    """Cohen's kappa with quadratic weights, of scores that are rounded already; NaN where people gave one score.

    With quadratic weights the disagreement by chance is var(a) + var(b) + (mean(a) - mean(b))², so kappa is
    2 cov(a, b) over that, which is Lin's concordance.
    """
    covariance, variance_judge, variance_human, shift = _moments(weights_RN, judge_N, human_N)
    defined = variance_human > _NO_VARIANCE
    by_chance = np.where(defined, variance_judge + variance_human + shift**2, 1)
    return np.where(defined, 2 * covariance / by_chance, np.nan)


def kendall(weights_RN: Numbers, judge_N: Numbers, human_N: Numbers) -> Numbers:
    """Kendall's tau-b. Two copies of one row are tied in both, and so do not count."""
    order_judge, order_human = _orders(judge_N), _orders(human_N)
    concordant_less_discordant = _over_pairs(weights_RN, order_judge * order_human)
    untied_judge = _over_pairs(weights_RN, np.abs(order_judge))
    untied_human = _over_pairs(weights_RN, np.abs(order_human))
    defined = (untied_judge > 0) & (untied_human > 0)
    product = np.sqrt(np.where(defined, untied_judge * untied_human, 1))
    return np.where(defined, concordant_less_discordant / product, np.nan)


def pair_accuracy(weights_RN: Numbers, judge_N: Numbers, human_N: Numbers, threshold: float) -> Numbers:
    """The share of pairs that judge and people order alike, ties included; NaN where people gave one score.

    Args:
        threshold: the judge calls a tie where two scores differ by no more. Two copies of one row are no pair.
    """
    order_judge = np.where(_distances(judge_N) <= threshold, 0, _orders(judge_N))
    alike = (order_judge == _orders(human_N)).astype(np.float64)
    np.fill_diagonal(alike, 0)
    pairs = weights_RN.sum(axis=1) ** 2 - (weights_RN**2).sum(axis=1)
    defined = varies(weights_RN, human_N)
    return np.where(defined, _over_pairs(weights_RN, alike) / np.where(defined, pairs, 1), np.nan)


def tie_threshold(judge_N: Numbers, human_N: Numbers) -> float:
    """The threshold for calling a tie in the judge with which the most pairs are ordered alike.

    The candidates are 0 and every difference that occurs; of equally good ones the smallest.

    Source: Deutsch et al. 2305.14324, section 5 (tau optimisation of pairwise accuracy).
    """
    first, second = np.triu_indices(len(judge_N), 1)
    difference = _distances(judge_N)[first, second]
    by_difference = np.argsort(difference, kind="stable")
    human_ties = (human_N[first] == human_N[second])[by_difference]
    alike = ((_orders(judge_N) * _orders(human_N))[first, second] > 0)[by_difference]
    candidates = np.unique(np.append(difference, 0.0))
    called_ties = np.searchsorted(difference[by_difference], candidates, side="right")
    right_as_ties = np.append(0, np.cumsum(human_ties))[called_ties]
    right_as_orders = alike.sum() - np.append(0, np.cumsum(alike))[called_ties]
    return float(candidates[np.argmax(right_as_ties + right_as_orders)])


def _moments(weights_RN: Numbers, judge: Numbers, human: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Covariance, both variances and the difference of the means; centred first, or small variances would drown."""
    shift = judge.mean() - human.mean()
    judge, human = judge - judge.mean(), human - human.mean()
    mean_judge, mean_human = mean(weights_RN, judge), mean(weights_RN, human)
    return (
        mean(weights_RN, judge * human) - mean_judge * mean_human,
        mean(weights_RN, judge**2) - mean_judge**2,
        mean(weights_RN, human**2) - mean_human**2,
        mean_judge - mean_human + shift,
    )


def _ranks(weights_RN: Numbers, values_N: Numbers) -> Numbers:
    """(R, N): the mean rank of each row's value among the rows drawn."""
    distinct, index = np.unique(values_N, return_inverse=True)
    drawn = weights_RN @ np.eye(len(distinct))[index]
    return (np.cumsum(drawn, axis=1) - (drawn - 1) / 2)[:, index]


def _orders(values_N: Numbers) -> Numbers:
    """(N, N): 1 where the first of a pair is larger, -1 where it is smaller, 0 for a tie."""
    return np.sign(values_N[:, None] - values_N[None, :])


def _distances(values_N: Numbers) -> Numbers:
    distances: Numbers = np.abs(values_N[:, None] - values_N[None, :])
    return distances.round(DIGITS)


def _over_pairs(weights_RN: Numbers, of_pair_NN: Numbers) -> Numbers:
    """The sum over ordered pairs in each resample, in which a pair of rows occurs as often as both weights say."""
    return np.einsum("rn,rn->r", weights_RN @ of_pair_NN, weights_RN)
