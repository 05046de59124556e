"""The page of a calibration: how far a judge agrees with the people who rated, and where it does not.

Numbers are the result's and only arranged here; `calibration.html.j2` holds the words. The same result gives the same
bytes: the page is an artifact, named by its content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.compute as pc
from markupsafe import Markup

from storage.records import EditType
from storage.store import Version
from tasks.calibration.agreement import Measured
from tasks.calibration.probes import LOW, STEADY
from tasks.calibration.question_loop import MEASURE
from tasks.calibration.results import JUDGES, OVERALL, CalibrationResult, Judged
from tasks.calibration.triplets import rounded
from tasks.pages.charts import Mark, Series, bar_chart, interval_chart, score_chart
from tasks.pages.templates import environment, flat, heat_of, number, percent, spaced
from tasks.pages.thumbnails import photograph

SHOWN = 6
"""Disagreements of each edit type; the page must stay small."""
FAILURES = 2
"""Of these, kept for failures of the judge, if there are any."""
REPLY = 300
"""Letters of the judge's reply."""
HEADLINE = ("pearson", "qwk", "mae", "pair_accuracy")
MEASURES = {
    "pearson": (
        "Pearson’s r",
        "how closely the judge’s score follows the raters’ mean along a line; 1 is full, 0 none",
    ),
    "spearman": ("Spearman’s ρ", "the same of the ranks: only the order counts, not the scale"),
    "kendall": ("Kendall’s τ", "pairs in the same order less pairs in the opposite one, corrected for ties (τ-b)"),
    "qwk": ("QWK", "quadratically weighted κ: agreement on whole points beyond chance, a miss weighing as its square"),
    "mae": ("MAE", "mean absolute error: points between judge and raters’ mean"),
    "bias": ("Bias", "judge’s mean less raters’ mean; above 0 the judge is the more generous"),
    "within_1": ("Within 1", "share of triplets on which the two are at most one point apart"),
    "exact": ("Exact", "share on which both round to the same whole score"),
    "pair_accuracy": (
        "Pair accuracy",
        "share of all pairs of triplets that judge and raters order alike, ties included",
    ),
    "coverage": ("Coverage", "share of triplets for which the judge gave a score at all"),
    "krippendorff_alpha": (
        "Krippendorff’s α",
        "agreement of all raters with each other beyond chance, on ordered points",
    ),
}
"""Name and meaning."""
_SHARES = {"within_1", "exact", "pair_accuracy", "coverage"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured figure in words; without a value, the reason."""

    value: str
    interval: str
    note: str


@dataclass(frozen=True, slots=True)
class Card:
    """A triplet on which judge and raters differ."""

    judged: Judged
    calibrated: float | None
    reply: str
    instruction: str
    source: str | None
    edited: str | None

    @property
    def difference(self) -> float | None:
        """Judge less raters."""
        return None if self.calibrated is None else self.calibrated - self.judged.human


@dataclass(frozen=True, slots=True)
class Group:
    """What the page shows of an edit type."""

    edit_type: EditType
    tuned: Sequence[Judged]
    held_out: Sequence[Judged]
    cards: Sequence[Card]
    failed: int
    """Held-out triplets without a score."""
    steps: Sequence[Mapping[str, Any]]
    histogram: Markup
    map_chart: Markup


def render_calibration(result: CalibrationResult, judge: Mapping[str, Any], triplets: Version, labels: Version) -> str:
    """The page of a calibration.

    Args:
        judge: the settings that decide what it says.
        triplets: where the pictures of the disagreements are.
        labels: what the raters said; only named.

    Returns: HTML that loads nothing from anywhere and needs no JavaScript.
    """
    groups = _groups(result, triplets)
    tuned = [j for j in result.judged if not j.held_out]
    held_out = [j for j in result.judged if j.held_out]
    scored = ((result.calibrated_score(j), j.human) for j in held_out)
    images = [{j.source_id for j in some} for some in (tuned, held_out)]
    template = environment().get_template("calibration.html.j2")
    return template.render(
        result=result,
        judge=judge,
        facts=_facts(judge),
        settings=list(flat(judge)),
        triplets=triplets,
        labels=labels,
        raters=len({rater for j in result.judged for rater in j.ratings}),
        tuned=tuned,
        held_out=held_out,
        images=images,
        on_both_sides=len(images[0] & images[1]),
        judges=JUDGES,
        measures=MEASURES,
        headline=HEADLINE,
        figure=figure,
        why_nothing=why_nothing,
        overall=OVERALL,
        chart=_agreement_chart(result),
        heat=heat_of((score, human) for score, human in scored if score is not None),
        groups=groups,
        step_measure=MEASURES[MEASURE][0],
        low=LOW,
        steady=STEADY,
    )


def figure(name: str, measured: Measured) -> Figure:
    """A figure as the page writes it: shares in per cent, the rest with two decimals."""
    if measured.value is None:
        return Figure("", "", measured.note or "not measured")
    say = percent if name in _SHARES else partial(number, signed=name == "bias", decimals=2)
    if measured.low is None or measured.high is None:
        return Figure(say(measured.value), "", measured.note)
    return Figure(say(measured.value), f"{say(measured.low).removesuffix(' %')} to {say(measured.high)}", measured.note)


def why_nothing(names: Iterable[str], measures: Mapping[str, Measured]) -> str:
    """The one reason for which none of these has a value; empty where some have, or the reasons differ."""
    notes = {measures[name].note if measures[name].value is None else "" for name in names}
    return notes.pop() if len(notes) == 1 else ""


def disagreements(result: CalibrationResult, edit_type: EditType) -> list[Judged]:
    """The held-out triplets to show, largest difference first, failures of the judge last."""
    apart: list[tuple[float, str, Judged]] = []
    failed: list[Judged] = []
    for judged in _of(result, edit_type, held_out=True):
        score = result.calibrated_score(judged)
        if score is None:
            failed.append(judged)
        else:
            apart.append((-abs(score - judged.human), judged.edit_id, judged))
    failures = sorted(failed, key=lambda judged: judged.edit_id)[: max(FAILURES, SHOWN - len(apart))]
    return [judged for _, _, judged in sorted(apart)[: SHOWN - len(failures)]] + failures


def shortened(reply: str) -> str:
    """A reply on one line, cut where it is long."""
    line = " ".join(reply.split())
    return line if len(line) <= REPLY else f"{line[:REPLY].rstrip()} …"


def _of(result: CalibrationResult, edit_type: EditType, *, held_out: bool) -> list[Judged]:
    return [judged for judged in result.judged if judged.edit_type == edit_type and judged.held_out == held_out]


def _groups(result: CalibrationResult, triplets: Version) -> list[Group]:
    shown = {edit_type: disagreements(result, edit_type) for edit_type in result.rubrics}
    seen = _seen(triplets, shown)
    groups = []
    for edit_type, some in shown.items():
        tuned, held_out = (_of(result, edit_type, held_out=side) for side in (False, True))
        groups.append(
            Group(
                edit_type,
                tuned,
                held_out,
                [
                    Card(judged, result.calibrated_score(judged), shortened(judged.reply), **seen[judged.edit_id])
                    for judged in some
                ],
                sum(judged.raw is None for judged in held_out),
                [step for step in result.steps if step["edit_type"] == edit_type],
                _histogram(edit_type, tuned, held_out),
                _map_chart(result, edit_type, tuned),
            )
        )
    return groups


def _seen(triplets: Version, shown: Mapping[EditType, Sequence[Judged]]) -> dict[str, dict[str, Any]]:
    """Instruction and pictures of the triplets to show, by edit; read file by file, as all do not fit into memory."""
    wanted = [judged.edit_id for some in shown.values() for judged in some]
    types = {None, *(edit_type for edit_type, some in shown.items() if some)}
    found = {}
    for file in triplets.files("triplets"):
        if file.partition not in types:
            continue
        table = triplets.store.read_table(file, ["edit_id", "instruction", "source", "edited"])
        for row in table.filter(pc.is_in(table["edit_id"], pc.cast(wanted, "string"))).to_pylist():
            pictures = {name: row[name] and photograph(row[name]["bytes"]) for name in ("source", "edited")}
            found[row["edit_id"]] = {"instruction": row["instruction"], **pictures}
    return found


def _facts(judge: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What to know of a judge at first sight."""
    if judge["kind"] == "measured":
        return [("Judge", "stand-in that measures pixels"), ("Mode", judge["mode"]), ("Recognises", judge["knows"])]
    model = judge["judge"]
    quality = judge["image_quality"]
    written = "PNG" if quality is None else f"JPEG at quality {quality}"
    repeats = [("Asked", f"{judge['repeats']} times, the median counts")] if judge["repeats"] > 1 else []
    return [
        ("Judge", model["model"]),
        ("Revision", model["revision"] or "not recorded"),
        ("Mode", judge["mode"]),
        ("Images", f"at most {judge['image_side']} pixels a side, {written}"),
        *repeats,
    ]


def _agreement_chart(result: CalibrationResult) -> Markup:
    def mark(css: str, measured: Measured) -> Mark | None:
        if measured.value is None:
            return None
        low, high = (measured.value if end is None else end for end in (measured.low, measured.high))
        return Mark(css, measured.value, low, high)

    rows = [
        (spaced(group), [mark("before", found["generic"]["pearson"]), mark("trained", found["calibrated"]["pearson"])])
        for group, found in result.agreement.items()
    ]
    return interval_chart(
        "Pearson’s r by edit type",
        "General criteria alone and calibrated judge, with 95 % intervals, and the raters among themselves.",
        rows,
        x_label="Pearson’s r with the raters’ mean",
        zero_label="no agreement",
        bars=[result.ceiling[group]["pearson"].value for group in result.agreement],
        include=(1.0,),
    )


def _histogram(edit_type: EditType, tuned: Sequence[Judged], held_out: Sequence[Judged]) -> Markup:
    def counts(some: Sequence[Judged]) -> list[float | None]:
        scores = [rounded(judged.human) for judged in some]
        return [scores.count(points) for points in range(6)]

    series = [Series("tuning", counts(tuned), "before"), Series("held out", counts(held_out), "after")]
    said = f"{len(tuned)} triplets for tuning, {len(held_out)} held out."
    title = f"Raters’ scores, {spaced(edit_type)}"
    return bar_chart(
        title, said, list("012345"), series, x_label="raters’ mean, rounded", y_label="triplets", width=290, height=200
    )


def _map_chart(result: CalibrationResult, edit_type: EditType, tuned: Sequence[Judged]) -> Markup:
    points = result.maps[edit_type].score_map.points
    dots = [(judged.raw, judged.human) for judged in tuned if judged.raw is not None]
    said = ", ".join(f"{number(raw, decimals=2)} becomes {number(score, decimals=2)}" for raw, score in points)
    title = f"Score map, {spaced(edit_type)}"
    return score_chart(title, f"{said}.", points, dots, x_label="judge’s own score", y_label="raters’ scale")
