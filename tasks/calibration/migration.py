"""What moving from one judge to another does to the numbers: ranks, residuals, full scores, the map between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from scipy.stats import rankdata

from storage.records import EditType
from tasks.calibration import weighted
from tasks.calibration.agreement import LEAST_CLUSTERS, Measured, agreement, paired_improvement, summarised
from tasks.calibration.results import OVERALL
from tasks.calibration.score_map import MapFit, ScoreMap, fit_map, fit_maps
from tasks.calibration.weighted import Numbers

COMPARISONS = {
    "raw": "new judge with old judge, each on its own scale",
    "mapped": "new judge with old judge, on the old one’s scale",
    "people_before": "old judge with the raters",
    "people_after": "new judge with the raters",
    "people_change": "change with the raters",
}
Noted = TypeVar("Noted", MapFit, Measured)
_SAME = 1e-9
_CORRELATIONS: tuple[Literal["pearson", "spearman"], ...] = ("pearson", "spearman")
_PAIR_WORK = 1_000_000_000
_RESAMPLES = 2000
_SHORT = ("spearman", "mae", "bias", "flipped_pairs", "full_before", "full_after")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A triplet that both judges scored."""

    edit_id: str
    edit_type: EditType
    source_id: str
    old: float
    """0 to 5, on the judge's own scale."""
    new: float
    old_full: bool
    new_full: bool
    human: float | None
    """The mean of the raters; None where nobody rated it."""
    held_out: bool
    """Set aside: no map is fitted by it, everything is reported on it."""


@dataclass(frozen=True)
class Migration:
    """Everything that the page shows, and the artifact keeps."""

    pairs: Sequence[Pair]
    to_old: Mapping[EditType, MapFit]
    """From the new judge's scale to the old one's."""
    pooled: MapFit
    """The same, of all edit types together."""
    to_people: Mapping[EditType, ScoreMap]
    """From the new judge's scale to people's."""
    found: Mapping[str, Mapping[str, Mapping[str, Measured]]]
    """On held-out triplets, by group (an edit type, or overall), comparison (see `COMPARISONS`) and measure."""
    old_full_at: float
    """The old judge's lowest full score."""

    def of(self, group: str) -> list[Pair]:
        """The pairs that a group is reported on."""
        return _of(self.pairs, group)

    def crossings(self, group: str) -> dict[str, int]:
        """How many held-out triplets come to have the full score, and how many lose it."""
        moved = Counter((pair.old_full, pair.new_full) for pair in self.of(group))
        return {"became_full": moved[False, True], "no_longer_full": moved[True, False]}

    def full_as_before(self) -> dict[str, float | None]:
        """The new judge's score that means what the old one's lowest full score meant; None where no score does."""
        maps = {**{str(t): fit.score_map for t, fit in self.to_old.items()}, OVERALL: self.pooled.score_map}
        return {group: reached_at(score_map, self.old_full_at) for group, score_map in maps.items()}

    def mapped(self, pair: Pair) -> float:
        """The new judge's score on the old one's scale."""
        return self.to_old[pair.edit_type].score_map(pair.new)

    def residual(self, pair: Pair) -> float:
        """What it lies above the old judge's score then."""
        return self.mapped(pair) - pair.old

    def moved_rows(self) -> list[dict[str, Any]]:
        """See `tasks.migrate_judge.MOVED`."""
        rows = []
        for edit_type in self.to_old:
            some = [pair for pair in self.pairs if pair.edit_type == edit_type]
            ranks = zip(_ranks([pair.old for pair in some]), _ranks([pair.new for pair in some]), strict=True)
            for pair, (old_rank, new_rank) in zip(some, ranks, strict=True):
                same = ("edit_id", "edit_type", "source_id", "old_full", "new_full", "held_out")
                moved = {"new_mapped": self.mapped(pair), "residual": self.residual(pair)}
                scores = {"old_raw": pair.old, "new_raw": pair.new, "old_rank": old_rank, "new_rank": new_rank}
                rows.append({**{name: getattr(pair, name) for name in same}, **scores, **moved})
        return rows

    def agreement_rows(self) -> list[dict[str, Any]]:
        """Every figure, one per row; see `tasks.calibrate_scorer.AGREEMENT`."""
        return [
            {"edit_type": group, "judge": comparison, "measure": name, **measured.to_json()}
            for group, comparisons in self.found.items()
            for comparison, measures in comparisons.items()
            for name, measured in measures.items()
        ]

    def statistics(self) -> dict[str, Any]:
        """The short of it, for the manifest: values and intervals."""

        def brief(group: str, measures: Mapping[str, Measured]) -> dict[str, Any]:
            known = {n: m for n, m in measures.items() if m.value is not None and (group == OVERALL or n in _SHORT)}
            return {n: [x if x is None else round(x, 4) for x in (m.value, m.low, m.high)] for n, m in known.items()}

        return {
            "held_out": {g: {name: brief(g, m) for name, m in some.items()} for g, some in self.found.items()},
            "crossings": {group: self.crossings(group) for group in self.found},
            "full_as_before": {g: None if at is None else round(at, 4) for g, at in self.full_as_before().items()},
        }

    def measures(self) -> dict[str, float]:
        """What limits can be set on."""
        raw, mapped = self.found[OVERALL]["raw"], self.found[OVERALL]["mapped"]
        values = {"spearman": raw["spearman"], "full_change": raw["full_change"], "mae": mapped["mae"]}
        return {name: float("nan") if m.value is None else m.value for name, m in values.items()}


def migration(
    pairs: Sequence[Pair], old_to_people: Mapping[EditType, ScoreMap], old_full_at: float, seed: int = 0
) -> Migration:
    """Fit the maps on the triplets for tuning, and measure everything on those that were set aside."""
    tuned = {t: [pair for pair in pairs if pair.edit_type == t and not pair.held_out] for t in old_to_people}
    scores = {str(t): ([pair.new for pair in some], [pair.old for pair in some]) for t, some in tuned.items()}
    fits = {t: _of_old(fit) for t, fit in fit_maps(scores).items()}
    to_old = {t: fits[str(t)] for t in old_to_people}
    to_people = {t: composed(to_old[t].score_map, old_to_people[t]) for t in old_to_people}
    of_all = [pair for some in tuned.values() for pair in some]
    pooled = fit_map([pair.new for pair in of_all], [pair.old for pair in of_all])
    found = {}
    for group in (*(str(t) for t in old_to_people), OVERALL):
        some = _of(pairs, group)
        olds, news = [pair.old for pair in some], [pair.new for pair in some]
        mapped = [to_old[pair.edit_type].score_map(pair.new) for pair in some]
        rated = [pair for pair in some if pair.human is not None]
        before = [old_to_people[pair.edit_type](pair.old) for pair in rated]
        after = [to_people[pair.edit_type](pair.new) for pair in rated]
        found[group] = {
            "raw": _compared(news, olds, some, seed) | _full(some, seed),
            "mapped": _compared(mapped, olds, some, seed),
            **_with_people(before, after, rated, seed),
        }
    return Migration(pairs, to_old, pooled, to_people, found, old_full_at)


def composed(first: ScoreMap, then: ScoreMap) -> ScoreMap:
    """The map that does one after the other: straight between the break points of the first and those of the second."""
    points = [(raw, then(value)) for raw, value in first.points]
    breaks = [middle for middle, _ in then.points]
    for (raw, value), (next_raw, next_value) in zip(first.points, first.points[1:], strict=False):
        for middle in breaks:
            if value < middle < next_value:
                at = raw + (middle - value) / (next_value - value) * (next_raw - raw)
                points.append((at, then(middle)))
    kept: list[tuple[float, float]] = []
    for raw, value in sorted(points):
        if not kept or raw - kept[-1][0] > _SAME:
            kept.append((raw, max(value, kept[-1][1]) if kept else value))  # rounding must not let it fall
    # The last point is where raw scores end, whatever came too near to it.
    return ScoreMap((*kept[:-1], (first.points[-1][0], kept[-1][1])))


def reached_at(score_map: ScoreMap, value: float) -> float | None:
    """The lowest raw score that is mapped to a value or more; None where none is."""
    below = score_map.points[0]
    if below[1] >= value:
        return below[0]
    for above in score_map.points[1:]:
        if above[1] >= value:
            return below[0] + (value - below[1]) / (above[1] - below[1]) * (above[0] - below[0])
        below = above
    return None


def _of(pairs: Sequence[Pair], group: str) -> list[Pair]:
    return [pair for pair in pairs if pair.held_out and group in (OVERALL, pair.edit_type)]


def _compared(news: Sequence[float], olds: Sequence[float], some: Sequence[Pair], seed: int) -> dict[str, Measured]:
    """How one judge agrees with the other, as it would with people."""
    measures = agreement(news, olds, [pair.source_id for pair in some], seed)
    found = {name: _of_old(measured) for name, measured in measures.items() if name != "coverage"}
    new, old = (np.sign(np.subtract.outer(v, v).round(weighted.DIGITS)) for v in (news, olds))
    ordered, flipped = np.abs(old), (new * old < 0).astype(np.float64)

    def share(weights_RN: Numbers) -> Numbers:
        both = [np.einsum("rn,rn->r", weights_RN @ of_pair, weights_RN) for of_pair in (flipped, ordered)]
        return np.divide(both[0], both[1], out=np.full(len(weights_RN), np.nan), where=both[1] > 0)

    affordable = max(200, min(_RESAMPLES, _PAIR_WORK // max(len(some), 1) ** 2))
    return found | {"flipped_pairs": _bootstrapped(share, some, seed, affordable, "the old judge orders no pair")}


def _full(some: Sequence[Pair], seed: int) -> dict[str, Measured]:
    """Shares of full scores."""
    before, after = (np.array([getattr(p, name) for p in some], np.float64) for name in ("old_full", "new_full"))
    shares = {"full_before": before, "full_after": after, "full_change": after - before}
    return {name: _mean(values, some, seed) for name, values in shares.items()}


def _with_people(
    before: Sequence[float], after: Sequence[float], rated: Sequence[Pair], seed: int
) -> dict[str, dict[str, Measured]]:
    """How both judges agree with people, and what changed; nothing where nobody rated."""
    human, images = [pair.human for pair in rated if pair.human is not None], [pair.source_id for pair in rated]
    sides = {"people_before": before, "people_after": after}
    found = {name: agreement(scores, human, images, seed) for name, scores in sides.items()}
    change = {
        "mae": _mean(np.abs(np.subtract(after, human)) - np.abs(np.subtract(before, human)), rated, seed),
        "bias": _mean(np.subtract(after, before), rated, seed),
    }
    for name in _CORRELATIONS:
        gain = paired_improvement(before, after, human, images, name, seed)
        change[name] = Measured(gain.difference, gain.low, gain.high, gain.n, gain.note)
    return {**found, "people_change": change}


def _mean(values: Numbers, some: Sequence[Pair], seed: int) -> Measured:
    return _bootstrapped(lambda weights: weighted.mean(weights, values), some, seed, _RESAMPLES, "no triplets")


def _bootstrapped(
    measure: Callable[[Numbers], Numbers], some: Sequence[Pair], seed: int, resamples: int, why_none: str
) -> Measured:
    """A measure with the interval of resampled source images."""
    images = [pair.source_id for pair in some]
    point = float(measure(np.ones((1, len(some))))[0]) if some else float("nan")
    if np.isnan(point):
        return Measured(None, None, None, len(some), why_none if some else "no triplets")
    if (count := len(set(images))) < LEAST_CLUSTERS:
        note = f"no interval: only {count} source image{'s' if count > 1 else ''}"
        return Measured(point, None, None, len(some), note)
    return summarised(point, measure(weighted.draw_weights(images, resamples, seed)), len(some))


def _ranks(scores: Sequence[float]) -> list[float]:
    return [float(rank) for rank in rankdata(-np.round(scores, weighted.DIGITS))] if scores else []


def _of_old(one: Noted) -> Noted:
    """A remark on people's scores, where the old judge stands in their place."""
    note = one.note.replace("human scores", "scores of the old judge").replace("the judge", "the new judge")
    return replace(one, note=note.replace("people", "the old judge"))
