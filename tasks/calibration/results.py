"""What a calibration came to, all of it on ratings that were set aside: agreement, ceiling, probes, and the badge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from pydantic import Field

from storage.records import EditType
from tasks.calibration.agreement import Improvement, Measured, agreement, paired_improvement
from tasks.calibration.ceiling import rater_agreement
from tasks.calibration.probes import PROBES
from tasks.calibration.question_loop import MEASURE
from tasks.calibration.score_map import MapFit, fit_maps
from tasks.hp_scorer.calibration import scorer_rows
from tasks.hp_scorer.rubric import Rubric
from tasks.settings import Settings

OVERALL = "overall"
JUDGES = {
    "generic": "general criteria alone",
    "rubric": "the rubric, on the judge's own scale",
    "calibrated": "the rubric, on people's scale",
}
"""Three stages of one judge."""


class BadgeLimits(Settings):
    """What a judge must reach on held-out ratings to be called calibrated."""

    coverage: float = Field(0.99, description="Share of triplets with a score, at least.")
    bias: float = Field(0.15, description="Points: distance of the means, at most.")
    mae: float = Field(0.7, description="Points: mean absolute error, at most.")
    qwk: float = Field(0.6, description="Lower end of the interval of the quadratically weighted kappa, at least.")
    pair_accuracy: float = Field(0.75, description="Share of pairs ordered as people do, at least.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A triplet, what people said and what the judge said."""

    edit_type: EditType
    edit_id: str
    source_id: str
    ratings: Mapping[str, int]
    """By rater."""
    held_out: bool
    generic: float | None
    """0 to 5: asked by the general criteria alone; None where the judge failed."""
    raw: float | None
    """0 to 5: asked by the rubric."""
    reply: str
    """What it said then."""

    @property
    def human(self) -> float:
        """The mean of the raters."""
        return fmean(self.ratings.values())


@dataclass(frozen=True, slots=True)
class Badge:
    """Whether a judge may be called calibrated."""

    reasons: tuple[str, ...]
    """Why not; none: it may."""

    @property
    def calibrated(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons


@dataclass(frozen=True)
class CalibrationResult:
    """Everything that the report shows, and the artifact keeps."""

    judged: Sequence[Judged]
    rubrics: Mapping[EditType, Rubric]
    maps: Mapping[EditType, MapFit]
    steps: Sequence[Mapping[str, Any]]
    """Questions that were tried, see `tasks.calibrate_scorer.STEPS`."""
    probes: Sequence[Mapping[str, Any]]
    """One row per probe: probe, says, n, before, after, passed."""
    agreement: Mapping[str, Mapping[str, Mapping[str, Measured]]]
    """By group (an edit type, or overall), judge (see `JUDGES`) and measure."""
    ceiling: Mapping[str, Mapping[str, Measured]]
    """How people agree with each other, by group and measure."""
    improvement: Improvement
    """From the general criteria to the calibrated judge, over all held-out triplets."""
    badges: Mapping[str, Badge]
    """By group."""
    simulated: bool
    """Whether the raters were simulated."""

    @property
    def badge(self) -> Badge:
        """Of the judge as a whole."""
        return self.badges[OVERALL]

    def calibrated_score(self, judged: Judged) -> float | None:
        """The judge's score on people's scale."""
        return None if judged.raw is None else self.maps[judged.edit_type].score_map(judged.raw)

    def scorer_rows(self) -> list[dict[str, Any]]:
        """What `calibration_of` reads, one row per edit type."""
        maps = {edit_type: fit.score_map for edit_type, fit in self.maps.items()}
        return scorer_rows(self.rubrics, maps, {edit_type: fit.note for edit_type, fit in self.maps.items()})

    def agreement_rows(self) -> list[dict[str, Any]]:
        """Every figure, one per row."""
        people = {group: {"people": measures} for group, measures in self.ceiling.items()}
        return [
            {"edit_type": group, "judge": judge, "measure": name, **measured.to_json()}
            for group in self.agreement
            for judge, measures in {**self.agreement[group], **people[group]}.items()
            for name, measured in measures.items()
        ]

    def statistics(self) -> dict[str, Any]:
        """The short of it, for the manifest."""

        def brief(measures: Mapping[str, Measured]) -> dict[str, Any]:
            return {name: _rounded(one) for name, one in measures.items() if one.value is not None}

        return {
            "badge": "calibrated" if self.badge.calibrated else "uncalibrated",
            "reasons": list(self.badge.reasons),
            "raters": "simulated" if self.simulated else "people",
            "held_out": {judge: brief(measures) for judge, measures in self.agreement[OVERALL].items()},
            "people": brief(self.ceiling[OVERALL]),
            "improvement": {
                k: round(v, 4) if isinstance(v, float) else v for k, v in self.improvement.to_json().items()
            },
            "questions": {t: [question.text for question in rubric.questions] for t, rubric in self.rubrics.items()},
            "probes_failed": [row["probe"] for row in self.probes if row["passed"] is False],
        }

    def measures(self) -> dict[str, float]:
        """What limits can be set on."""
        found = self.agreement[OVERALL]["calibrated"]
        values = {name: found[name].value for name in ("coverage", "pearson", "mae")}
        return {name: float("nan") if value is None else value for name, value in values.items()}


def calibration_result(
    judged: Sequence[Judged],
    rubrics: Mapping[EditType, Rubric],
    steps: Sequence[Mapping[str, Any]],
    probed: Sequence[Mapping[str, Any]],
    limits: BadgeLimits,
    *,
    simulated: bool,
    seed: int = 0,
) -> CalibrationResult:
    """Fit the maps on the ratings for tuning, and measure everything on those that were set aside.

    Args:
        probed: rows of probe, edit_id, before and after; None where the judge failed.
    """
    maps = _maps(judged, rubrics)
    groups = {str(t): [j for j in judged if j.edit_type == t and j.held_out] for t in rubrics}
    groups[OVERALL] = [j for j in judged if j.held_out]

    def scores(rows: Sequence[Judged], judge: str) -> list[float | None]:
        if judge == "generic":
            return [j.generic for j in rows]
        if judge == "rubric":
            return [j.raw for j in rows]
        return [None if j.raw is None else maps[j.edit_type].score_map(j.raw) for j in rows]

    found = {
        group: {
            judge: agreement(scores(rows, judge), [j.human for j in rows], [j.source_id for j in rows], seed)
            for judge in JUDGES
        }
        for group, rows in groups.items()
    }
    ceiling = {
        group: rater_agreement({j.edit_id: j.ratings for j in rows}, {j.edit_id: j.source_id for j in rows}, seed)
        for group, rows in groups.items()
    }
    probes = _probes(probed)
    badges = {group: Badge(tuple(_reasons(measures["calibrated"], limits))) for group, measures in found.items()}
    tried = {row["probe"] for row in probed}
    failed = [
        f"probe {row['probe']} {'failed' if row['passed'] is False else 'showed nothing: the judge gave no score'}"
        for row in probes
        if row["probe"] in tried and not row["passed"]
    ]
    fitted = [f"{t}: {fit.note}" for t, fit in maps.items() if not fit.fitted]
    badges[OVERALL] = Badge((*badges[OVERALL].reasons, *failed, *fitted))
    rows = groups[OVERALL]
    improvement = paired_improvement(
        scores(rows, "generic"),
        scores(rows, "calibrated"),
        [j.human for j in rows],
        [j.source_id for j in rows],
        MEASURE,
        seed=seed,
    )
    return CalibrationResult(judged, rubrics, maps, steps, probes, found, ceiling, improvement, badges, simulated)


def _maps(judged: Sequence[Judged], rubrics: Mapping[EditType, Rubric]) -> dict[EditType, MapFit]:
    pairs = {
        str(t): [(j.raw, j.human) for j in judged if j.edit_type == t and not j.held_out and j.raw is not None]
        for t in rubrics
    }
    fits = fit_maps({t: ([raw for raw, _ in some], [human for _, human in some]) for t, some in pairs.items()})
    return {edit_type: fits[str(edit_type)] for edit_type in rubrics}


def _probes(probed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each probe showed. One that the judge gave no score for did not show anything."""
    rows = []
    for probe in PROBES:
        pairs = [
            (row["before"], row["after"])
            for row in probed
            if row["probe"] == probe.name and row["before"] is not None and row["after"] is not None
        ]
        before, after = [b for b, _ in pairs], [a for _, a in pairs]
        rows.append(
            {
                "probe": probe.name,
                "says": probe.says,
                "n": len(pairs),
                "before": fmean(before) if pairs else None,
                "after": fmean(after) if pairs else None,
                "passed": probe.passed(before, after) if pairs else None,
            }
        )
    return rows


def _reasons(found: Mapping[str, Measured], limits: BadgeLimits) -> Iterator[str]:
    """Why a judge is not calibrated. What could not be measured was not reached."""
    for name, limit, least in (
        ("coverage", limits.coverage, True),
        ("bias", limits.bias, False),
        ("mae", limits.mae, False),
        ("qwk", limits.qwk, True),
        ("pair_accuracy", limits.pair_accuracy, True),
    ):
        measured = found[name]
        value = measured.low if name == "qwk" else measured.value
        what = f"the lower end of {name}" if name == "qwk" else name
        if value is None:
            yield f"{what} is unknown: {measured.note}"
        elif least and value < limit:
            yield f"{what} is {value:.2f}, wanted at least {limit:g}"
        elif not least and abs(value) > limit:
            yield f"{what} is {value:{'+' if name == 'bias' else ''}.2f}, wanted at most {limit:g}"


def _rounded(measured: Measured) -> list[float | None]:
    """Value, and the ends of its interval."""
    return [None if one is None else round(one, 4) for one in (measured.value, measured.low, measured.high)]
