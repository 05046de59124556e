"""The human ceiling: how well people agree with each other, each against the mean of the others.

A judge is compared with the mean of all, so it may do a little better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import krippendorff
import numpy as np
from numpy.typing import NDArray

from tasks.calibration import weighted
from tasks.calibration.agreement import LEAST_CLUSTERS, LEAST_PAIRS, Measured, summarised
from tasks.calibration.weighted import Numbers

RESAMPLES = 2000
ALPHA_RESAMPLES = 500
_NEVER_TOGETHER = "no two raters rated the same triplet"
_TOO_FEW_IMAGES = f"no interval: fewer than {LEAST_CLUSTERS} source images"
_MEASURES: dict[str, Callable[[Numbers, Numbers, Numbers], Numbers]] = {
    "pearson": weighted.pearson,
    "spearman": weighted.spearman,
    "mae": lambda weights_RN, rater_N, others_N: weighted.mean(weights_RN, np.abs(rater_N - others_N)),
}


def rater_agreement(
    ratings: Mapping[str, Mapping[str, float]], clusters: Mapping[str, str], seed: int = 0
) -> dict[str, Measured]:
    """How people agree with each other; the intervals draw whole source images.

    Args:
        ratings: triplet -> rater -> score, 0 to 5.
        clusters: triplet -> source image.

    Returns: by name,
        pearson, spearman, mae: each rater against the mean of the others, on the triplets that both have; the plain
            mean over the raters with at least three such triplets and, for the correlations, more than one score on
            either side.
        krippendorff_alpha: ordinal, over all triplets with at least two ratings.
        raters: how many there are; n is here the number of triplets with any rating.

    Raises: KeyError for a triplet whose source image is not given.
    """
    triplets = sorted(triplet for triplet, given in ratings.items() if given)
    raters = sorted({rater for triplet in triplets for rater in ratings[triplet]})
    counted = Measured(float(len(raters)), None, None, len(triplets), "" if raters else "no ratings")
    shared = [triplet for triplet in triplets if len(ratings[triplet]) >= 2]
    if not shared:
        reason = "no ratings" if not raters else "only one rater" if len(raters) == 1 else _NEVER_TOGETHER
        none = Measured(None, None, None, 0, reason)
        return {**dict.fromkeys((*_MEASURES, "krippendorff_alpha"), none), "raters": counted}
    scores = np.full((len(raters), len(shared)), np.nan)
    for column, triplet in enumerate(shared):
        for rater, score in ratings[triplet].items():
            scores[raters.index(rater), column] = score
    names = [clusters[triplet] for triplet in shared]
    too_few = len(set(names)) < LEAST_CLUSTERS
    drawn = np.empty((0, len(shared))) if too_few else weighted.draw_weights(names, RESAMPLES, seed)
    found = {name: _leave_one_out(name, scores, drawn) for name in _MEASURES}
    found["krippendorff_alpha"] = _alpha(scores, drawn[:ALPHA_RESAMPLES])
    return {**found, "raters": counted}


def _leave_one_out(name: str, scores: Numbers, drawn: Numbers) -> Measured:
    """The mean over the raters of each against the mean of the others.

    Args:
        scores: (raters, N), NaN where a rater did not rate.
        drawn: (R, N); R = 0 for no interval.
    """
    points, resampled = [], []
    for number, own in enumerate(scores):
        rated = ~np.isnan(own)
        if rated.sum() < LEAST_PAIRS:
            continue
        others = np.nanmean(np.delete(scores, number, axis=0)[:, rated], axis=0)
        point = _MEASURES[name](np.ones((1, len(others))), own[rated], others)[0]
        if not np.isnan(point):
            points.append(point)
            resampled.append(_MEASURES[name](drawn[:, rated], own[rated], others) if len(drawn) else np.empty(0))
    why = f"fewer than {LEAST_PAIRS} triplets shared with others" + ("" if name == "mae" else ", or one score for all")
    if not points:
        return Measured(None, None, None, scores.shape[1], _one_value(scores) or f"every rater has {why}")
    left_out = len(scores) - len(points)
    notes = [f"{left_out} of {len(scores)} raters left out: {why}"] if left_out else []
    notes += [] if len(drawn) else [_TOO_FEW_IMAGES]
    of_raters = np.stack(resampled)
    defined = ~np.isnan(of_raters)
    means = np.where(defined, of_raters, 0).sum(axis=0) / np.maximum(defined.sum(axis=0), 1)
    means[~defined.any(axis=0)] = np.nan
    return summarised(float(np.mean(points)), means, scores.shape[1], "; ".join(notes))


def _alpha(scores: Numbers, drawn: Numbers) -> Measured:
    """Krippendorff's alpha; a resample in which only one value occurs has none."""
    if reason := _one_value(scores):
        return Measured(None, None, None, scores.shape[1], reason)
    values = np.unique(scores[~np.isnan(scores)])
    counts = (scores.T[:, :, None] == values).sum(axis=1)

    def alpha(counts_NV: NDArray[np.int_]) -> float:
        if np.count_nonzero(counts_NV.sum(axis=0)) < 2:
            return float("nan")
        return float(krippendorff.alpha(value_counts=counts_NV, value_domain=values, level_of_measurement="ordinal"))

    resampled = np.asarray([alpha(np.repeat(counts, times.astype(int), axis=0)) for times in drawn])
    return summarised(alpha(counts), resampled, scores.shape[1], "" if len(drawn) else _TOO_FEW_IMAGES)


def _one_value(scores: Numbers) -> str:
    values = np.unique(scores[~np.isnan(scores)])
    return f"all scores are {values[0]:g}" if len(values) == 1 else ""
