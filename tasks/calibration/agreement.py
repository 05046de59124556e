"""How well a judge agrees with people, each figure with its interval or with the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.calibration import weighted
from tasks.calibration.weighted import Numbers

LEAST_PAIRS = 3
LEAST_CLUSTERS = 3
_MEASURES_OF_ORDER = ("pearson", "spearman", "kendall", "qwk", "pair_accuracy")
_MEASURES_OF_DISTANCE = ("mae", "bias", "within_1", "exact")
_CELLS_AT_ONCE = 2_000_000
_PAIR_WORK = 1_000_000_000
"""Resamples times rows squared that kendall and pair_accuracy may cost; beyond it they get fewer resamples."""
_LEAST_RESAMPLES = 200
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure and its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Triplets that it rests on."""
    note: str = ""
    """Why there is no value or no interval, or what to know about them."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Improvement:
    """A paired comparison of two judges on the same triplets."""

    n: int
    """Triplets that both judges scored."""
    before: float | None
    after: float | None
    difference: float | None
    """after - before."""
    low: float | None
    high: float | None
    """The 95 % interval of the difference."""
    better_share: float | None
    """The share of resamples in which after > before."""
    note: str = ""
    """Why something is None."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def agreement(
    judge: Sequence[float | None],
    human: Sequence[float],
    clusters: Sequence[str],
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Measured]:
    """How a judge's scores agree with people's on the same triplets.

    The intervals are percentiles of a bootstrap that draws whole clusters; resamples in which a measure has no value
    are left out. Scores that agree to six decimals are equal.

    Args:
        judge: 0 to 5; None where the judge failed, which counts in the coverage and nowhere else.
        human: 0 to 5; a mean of raters may be fractional.
        clusters: which source image each triplet is of.

    Returns: by name,
        pearson, spearman, kendall: correlations; Kendall's is tau-b.
        qwk: quadratically weighted kappa of the scores rounded half up to 0..5.
        mae, bias: mean |judge - human|; mean of judge minus mean of human.
        within_1, exact: shares with |judge - human| <= 1, and with equal rounded scores.
        pair_accuracy: the share of all pairs of triplets given here that judge and people order alike, where both
            may also call a tie. People's ties are equal scores. The judge's are differences up to a threshold, the
            one that gives the highest share on all rows (Deutsch et al. 2305.14324; `weighted.tie_threshold`). It is
            found once and held in the resamples, so the interval does not contain its uncertainty, and the value is
            the optimum on these same rows. A judge without any order still gets the share of people's ties.
        coverage: the share of triplets that the judge scored, with Wilson's interval.

    Raises: ValueError for lengths that differ or a score that is not finite.
    """
    rows = [(j, h, c) for j, h, c in zip(judge, human, clusters, strict=True) if j is not None]
    scores, people = _scores([j for j, _, _ in rows]), _scores([h for _, h, _ in rows])
    names = [c for _, _, c in rows]
    n = len(rows)
    found = {}
    if n:
        drawn = weighted.draw_weights(names, resamples, seed)
        why_no_interval = _why_no_interval(names)
        for name, measure in _measures(scores, people).items():
            reason = _why_no_order(name, scores, people) if name in _MEASURES_OF_ORDER else ""
            point = float("nan") if reason else float(measure(np.ones((1, n)))[0])
            values = np.empty(0) if why_no_interval or reason else _in_parts(measure, _affordable(name, drawn))
            found[name] = summarised(point, values, n, reason or why_no_interval or _remark(name, scores))
    else:
        reason = "the judge scored no triplet" if len(judge) else "no triplets"
        found = dict.fromkeys(_MEASURES_OF_ORDER + _MEASURES_OF_DISTANCE, Measured(None, None, None, 0, reason))
    return {**found, "coverage": _wilson(n, len(judge))}


def summarised(point: float, resampled: NDArray[np.float64], n: int, note: str = "") -> Measured:
    """A point estimate (NaN: none) with the percentiles of its resamples (NaN: skipped; empty: no interval).

    There is no interval where more than half of the resamples had no value, and a note where more than a tenth had.
    """
    if math.isnan(point):
        return Measured(None, None, None, n, note)
    values = resampled[~np.isnan(resampled)]
    skipped = 1 - len(values) / len(resampled) if len(resampled) else 0.0
    notes = [note] if note else []
    if skipped > 0.1:
        notes.append(f"{'no interval: ' if skipped > 0.5 else ''}{skipped:.0%} of the resamples had no value")
    if not len(values) or skipped > 0.5:
        return Measured(point, None, None, n, "; ".join(notes))
    low, high = np.quantile(values, (0.025, 0.975))
    return Measured(point, float(low), float(high), n, "; ".join(notes))


def paired_improvement(
    before: Sequence[float | None],
    after: Sequence[float | None],
    human: Sequence[float],
    clusters: Sequence[str],
    measure: Literal["pearson", "spearman"] = "spearman",
    seed: int = 0,
    resamples: int = 2000,
) -> Improvement:
    """Whether one judge agrees better with people than another, on the triplets that both scored.

    A judge that gives one score to everything has agreement 0 here, in the whole and in a resample, so that one which
    begins to tell triplets apart improves on it; elsewhere such an agreement is undefined. Where people gave one
    score there is nothing to agree with, and a resample of that kind is left out.

    Args:
        measure: which correlation. Neither has the higher power everywhere. Simulated with 55 % fives among people's
            scores, 100 triplets, and a judge whose correlation with what people see rises from 0.6 to 0.8, Spearman
            finds the improvement in 85 % of the groups if the judge's scores are continuous, however they are bent
            towards 5; Pearson in 87 % if they are not bent, in 78 % if 70 % of them are above 4.5, in 57 % if 87 % are.
            With whole-numbered scores Pearson finds 78 % and Spearman 71 %. Spearman is the default, because judges
            inflate, and because a score map mends the scale afterwards but never the order.

    Raises: ValueError for lengths that differ or a score that is not finite.
    """
    given = zip(before, after, human, clusters, strict=True)
    rows = [(b, a, h, c) for b, a, h, c in given if b is not None and a is not None]
    n = len(rows)
    people, names = _scores([h for _, _, h, _ in rows]), [c for _, _, _, c in rows]
    if n < LEAST_PAIRS:
        return Improvement(n, None, None, None, None, None, None, _too_few(n))
    if not _vary(people):
        return Improvement(n, None, None, None, None, None, None, _one_human_score(people))
    judges = (_scores([b for b, _, _, _ in rows]), _scores([a for _, a, _, _ in rows]))
    notes = [
        f"{side} gave one score to everything, which counts as agreement 0"
        for side, scores in zip(("before", "after"), judges, strict=True)
        if not _vary(scores)
    ]

    def both(weights_RN: Numbers) -> Numbers:
        return np.stack([_or_nothing(measure, weights_RN, scores, people) for scores in judges], axis=1)

    at_first, then = both(np.ones((1, n)))[0]
    if reason := _why_no_interval(names):
        note = "; ".join([*notes, reason])
        return Improvement(n, float(at_first), float(then), float(then - at_first), None, None, None, note)
    gains = np.diff(_in_parts(both, weighted.draw_weights(names, resamples, seed)), axis=1)[:, 0]
    interval = summarised(float(then - at_first), gains, n, "; ".join(notes))
    better = None if interval.low is None else float(np.mean(gains[~np.isnan(gains)] > 0))
    return Improvement(
        n, float(at_first), float(then), interval.value, interval.low, interval.high, better, interval.note
    )


def round_half_up(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores as 0, 1, ... 5; 2.5 becomes 3, where numpy's own rounding would make it 2."""
    return np.clip(np.floor(np.round(scores, weighted.DIGITS) + 0.5), 0, 5)


def _measures(judge: Numbers, human: Numbers) -> dict[str, Callable[[Numbers], Numbers]]:
    """Each takes (R, N) weights and gives (R,) values."""
    rounded_judge, rounded_human = round_half_up(judge), round_half_up(human)
    distance: Numbers = np.abs(judge - human).round(weighted.DIGITS)
    threshold = weighted.tie_threshold(judge, human)
    return {
        "pearson": partial(weighted.pearson, judge=judge, human=human),
        "spearman": partial(weighted.spearman, judge_N=judge, human_N=human),
        "kendall": partial(weighted.kendall, judge_N=judge, human_N=human),
        "qwk": partial(weighted.kappa, judge_N=rounded_judge, human_N=rounded_human),
        "mae": partial(weighted.mean, values=distance),
        "bias": partial(weighted.mean, values=judge - human),
        "within_1": partial(weighted.mean, values=(distance <= 1).astype(np.float64)),
        "exact": partial(weighted.mean, values=(rounded_judge == rounded_human).astype(np.float64)),
        "pair_accuracy": partial(weighted.pair_accuracy, judge_N=judge, human_N=human, threshold=threshold),
    }


def _scores(values: Sequence[float]) -> Numbers:
    scores = np.asarray(values, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"a score is not finite: {scores[~np.isfinite(scores)][0]}")
    return np.round(scores, weighted.DIGITS)


def _vary(scores: Numbers) -> bool:
    return bool(weighted.varies(np.ones((1, len(scores))), scores)[0])


def _or_nothing(
    measure: Literal["pearson", "spearman"], weights_RN: Numbers, scores: Numbers, people: Numbers
) -> Numbers:
    """The agreement, 0 for a judge with one score, NaN for people with one."""
    correlation = weighted.pearson if measure == "pearson" else weighted.spearman
    values = correlation(weights_RN, scores, people)
    return np.where(weighted.varies(weights_RN, people), np.nan_to_num(values, nan=0.0), np.nan)


def _affordable(name: str, drawn: Numbers) -> Numbers:
    if name not in ("kendall", "pair_accuracy"):
        return drawn
    return drawn[: max(_LEAST_RESAMPLES, _PAIR_WORK // drawn.shape[1] ** 2)]


def _in_parts(measure: Callable[[Numbers], Numbers], drawn: Numbers) -> Numbers:
    """The measure of all resamples, in parts that fit into memory."""
    return np.concatenate([measure(part) for part in np.array_split(drawn, math.ceil(drawn.size / _CELLS_AT_ONCE))])


def _why_no_order(name: str, judge: Numbers, human: Numbers) -> str:
    if len(judge) < LEAST_PAIRS:
        return _too_few(len(judge))
    if not _vary(human):
        return _one_human_score(human)
    if name == "qwk" and not _vary(round_half_up(human)):
        return f"all human scores round to {round_half_up(human)[0]:g}"
    if name in ("pearson", "spearman", "kendall") and not _vary(judge):
        return "the judge gave one score to everything"
    return ""


def _remark(name: str, judge: Numbers) -> str:
    return "the judge gave one score to everything" if name in ("qwk", "pair_accuracy") and not _vary(judge) else ""


def _why_no_interval(clusters: Sequence[str]) -> str:
    if (number := len(set(clusters))) >= LEAST_CLUSTERS:
        return ""
    return f"no interval: only {number} source image{'s' if number > 1 else ''}"


def _too_few(n: int) -> str:
    return "no triplet with both scores" if not n else f"only {n} triplet{'s' if n > 1 else ''} with both scores"


def _one_human_score(human: Numbers) -> str:
    return f"all human scores are {human[0]:g}"


def _wilson(scored: int, total: int) -> Measured:
    """Wilson's interval of a share: unlike a bootstrap it has a width where all or none were scored."""
    if not total:
        return Measured(None, None, None, 0, "no triplets")
    share, shrink = scored / total, 1 + _Z**2 / total
    centre = (share + _Z**2 / (2 * total)) / shrink
    half = _Z / shrink * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    return Measured(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), total)
