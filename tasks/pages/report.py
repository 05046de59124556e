"""The page of a run: one self-contained HTML file, made from the run's versions and its summary.

Numbers are read from manifests and tables and only arranged here; `report.html.j2` holds the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from markupsafe import Markup

from storage.lineage import ancestors
from storage.records import EditType
from storage.store import Version
from tasks.pages.charts import Mark, Series, bar_chart, interval_chart, line_chart, power_of_ten, smooth, superscript
from tasks.pages.templates import environment, flat, heat_of, spaced
from tasks.pages.thumbnails import thumbnail
from tasks.summary import JUDGES, MODELS, alarm, edit_types_of, verdict

Row = Mapping[str, Any]
"""A bench case without its images."""

SHOWN = 16
"""Cases in each part of the gallery; the page must stay small."""
SHOWN_UNCOMPARED = 8
NOTICEABLE = 0.25
"""Points: a fall of the referee's value by more than this is counted as one."""
_CASE = ("case_id", "source_id", "edit_type", "instruction")
_PICTURES = ("source", *(f"{model}_edited" for model in MODELS))


def render_report(versions: Mapping[str, Version], summary: Mapping[str, Any], ui_hint: str) -> str:
    """The page of a run.

    Args:
        versions: by artifact: cases, edits, scores, realpref, adapter and benchmark.
        summary: of `tasks.summary.summarise_run`.
        ui_hint: the line that opens the run in the Prefect UI; shown as text.

    Returns: HTML that loads nothing from anywhere and needs no JavaScript.
    """
    benchmark, adapter, realpref = (versions[artifact] for artifact in ("benchmark", "adapter", "realpref"))
    columns = [*_CASE, *(f"{model}_{what}" for model in MODELS for what in (*JUDGES, "outcome"))]
    rows: list[Row] = benchmark.table("samples", columns).to_pylist()
    by_type = {str(t): [row for row in rows if row["edit_type"] == t] for t in edit_types_of(benchmark)}
    groups = {**by_type, "overall": rows}
    comparisons = {judge: _gains(benchmark, judge, groups) for judge in JUDGES}
    overall = {judge: table[-1]["gain"] for judge, table in comparisons.items()}
    curves = adapter.table("curves").to_pylist()
    sections = _sections(rows)
    pictures = _pictures(benchmark, [row["case_id"] for _, _, chosen in sections for row in chosen])
    template = environment().get_template("report.html.j2")
    return template.render(
        versions=versions,
        summary=summary,
        ui_hint=ui_hint,
        judges=JUDGES,
        models=MODELS,
        total=len(rows),
        comparisons=comparisons,
        overall=overall,
        gains_chart=_gains_chart(comparisons),
        curves=curves,
        window=_window(len(curves)),
        curve_charts=_curve_charts(curves),
        saturation=adapter.manifest.statistics.get("saturation", {}),
        histogram=_histogram(realpref),
        edit_types=list(EditType),
        agreement={name: {model: agreement(chosen, model) for model in MODELS} for name, chosen in groups.items()},
        heat={model: heat(rows, model) for model in MODELS},
        alarms=[
            {"label": s["label"], "score": s, "referee": r, "says": alarm(s["gain"], r["gain"])}
            for s, r in zip(comparisons["score"], comparisons["referee"], strict=True)
        ],
        contrary=_contrary(rows),
        noticeable=NOTICEABLE,
        sections=sections,
        pictures=pictures,
        change_of=change_of,
        lineage=list(reversed(ancestors(adapter))),
        configurations={name: list(flat(version.manifest.config)) for name, version in versions.items()},
    )


def _gains(benchmark: Version, judge: str, groups: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """Per edit type and overall what the manifest says of a judge; `gain` is None where nothing could be compared."""
    compared = benchmark.manifest.statistics.get(judge) or {"overall": None, "per_edit_type": {}}
    gains = {**compared["per_edit_type"], "overall": compared["overall"]}
    return [
        {"label": name, "gain": gains.get(name), "total": len(rows), "verdict": verdict(gains.get(name))}
        for name, rows in groups.items()
    ]


def _gains_chart(comparisons: Mapping[str, Sequence[dict[str, Any]]]) -> Markup:
    def mark(judge: str, line: Mapping[str, Any]) -> Mark | None:
        gain = line["gain"]
        return Mark(judge, gain["gain"], gain["low"], gain["high"]) if gain else None

    rows = [
        (spaced(lines[0]["label"]), [mark(judge, line) for judge, line in zip(comparisons, lines, strict=True)])
        for lines in zip(*comparisons.values(), strict=True)
    ]
    said = "Mean change from baseline to post-trained with its 95 % interval; the tables have the numbers."
    return interval_chart("Gains by edit type", said, rows, x_label="gain, points of 5")


def _contrary(rows: Sequence[Row]) -> tuple[int, int]:
    """In how many cases the judge's score rose while the referee's value fell noticeably, and of how many."""
    four = [[row[f"{model}_{judge}"] for judge in ("score", "referee") for model in MODELS] for row in rows]
    known = [values for values in four if None not in values]
    return sum(after > before and fell - to > NOTICEABLE for before, after, fell, to in known), len(known)


def _window(iterations: int) -> int:
    """Over how many iterations curves are smoothed: an odd tenth of them."""
    return iterations // 10 | 1


def _curve_charts(curves: Sequence[Mapping[str, Any]]) -> dict[str, Markup]:
    places = [row["iteration"] for row in curves]
    window = _window(len(curves))

    def chart(name: str, title: str, unit: str, factor: float = 1, share: bool = True) -> Markup:
        values = [None if row[name] is None else factor * row[name] for row in curves]
        lines = [Series("each iteration", values, "raw"), Series("smoothed", smooth(values, window), "trained")]
        known = [value for value in values if value is not None and value == value]
        said = f"first {known[0]:.3g}, last {known[-1]:.3g} {unit}" if known else "no values"
        return line_chart(
            title,
            f"{len(curves)} iterations; {said}.",
            places,
            lines if window > 1 else lines[1:],
            x_label="iteration",
            y_label=f"{title}, {unit}",
            include=(0.0,) if share else (),
            width=340 if share else 480,
            height=190 if share else 250,
        )

    power = power_of_ten([row["kl"] for row in curves])
    return {
        "reward": chart("reward", "Mean reward", "0 to 1", share=False),
        "score": chart("score", "Mean score", "points of 5", share=False),
        "kl": chart("kl", "KL to the baseline", f"10{superscript(power)} nats" if power else "nats", 10.0**-power),
        "clipped": chart("clipped_share", "Clipped steps", "%", 100),
        "no_signal": chart("no_signal_share", "Groups without signal", "%", 100),
    }


def _histogram(realpref: Version) -> Markup:
    statistics = realpref.manifest.statistics
    series = [Series(when, statistics[f"histogram_{when}"], when) for when in ("before", "after")]
    said = f"{sum(statistics['histogram_before'])} scored edits before filtering, {statistics['kept']} kept."
    title = "Scores before and after filtering"
    return bar_chart(title, said, list("012345"), series, x_label="score of the baseline's edit", y_label="edits")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a judge's scores go with the referee's values."""

    n: int
    total: int
    pearson: float | None = None
    spearman: float | None = None
    why: str = ""
    """Why there is no correlation; empty where there is one."""


def agreement(rows: Sequence[Row], model: str) -> Agreement:
    """The agreement on a model's edits, over the cases in which both said something."""
    pairs = _pairs(rows, model)
    n, total = len(pairs), len(rows)
    if n < 3:
        return Agreement(n, total, why=f"only {n} cases with both" if n else "no case with both")
    score, referee = np.asarray(pairs).T
    for values, said in ((score, "all scores are equal"), (referee, "all referee values are equal")):
        if np.ptp(values) < 1e-9:
            return Agreement(n, total, why=said)
    ranks = np.corrcoef(_ranks(score), _ranks(referee))
    return Agreement(n, total, float(np.corrcoef(score, referee)[0, 1]), float(ranks[0, 1]))


def heat(rows: Sequence[Row], model: str) -> list[list[int]]:
    """Cases by judge's score (outer, 0 to 5) and referee's value (inner), both rounded."""
    return heat_of(_pairs(rows, model))


def _pairs(rows: Sequence[Row], model: str) -> list[tuple[float, float]]:
    both = ((row[f"{model}_score"], row[f"{model}_referee"]) for row in rows)
    return [(score, referee) for score, referee in both if score is not None and referee is not None]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share their mean rank."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[index]


def change_of(row: Row) -> tuple[str, float] | None:
    """By whom and by how much a case changed: by the referee, else by the judge; None where neither compared it."""
    for judge in JUDGES:
        before, after = (row[f"{model}_{judge}"] for model in MODELS)
        if before is not None and after is not None:
            return judge, after - before
    return None


def _sections(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """The gallery's parts: title, explanation, cases."""
    changes = {row["case_id"]: change[1] for row in rows if (change := change_of(row))}
    compared = sorted((r for r in rows if r["case_id"] in changes), key=lambda r: (changes[r["case_id"]], r["case_id"]))
    worse = [row for row in compared if changes[row["case_id"]] < 0]
    better = [row for row in compared if changes[row["case_id"]] > 0]
    worst, best = worse[:SHOWN], better[-SHOWN:][::-1]
    shown = {row["case_id"] for row in worst + best}
    # By edit type first, so that every type has its share of the even draw.
    rest = sorted((row for row in compared if row["case_id"] not in shown), key=lambda r: r["edit_type"])
    drawn = sorted(_evenly(rest, SHOWN), key=lambda row: changes[row["case_id"]])
    uncompared = _evenly([row for row in rows if row["case_id"] not in changes], SHOWN_UNCOMPARED)
    return [
        ("Got worst", f"{len(worst)} of {len(worse)} cases that lost, worst first.", worst),
        ("Most improved", f"{len(best)} of {len(better)} cases that gained, largest gain first.", best),
        ("Drawn evenly from the rest", f"{len(drawn)} of {len(rest)} other cases, worst first.", drawn),
        ("Not compared", f"{len(uncompared)} of {len(rows) - len(compared)} cases that nobody compared.", uncompared),
    ]


def _evenly(rows: Sequence[Row], count: int) -> list[Row]:
    return [rows[i * len(rows) // count] for i in range(count)] if len(rows) > count else list(rows)


def _pictures(benchmark: Version, case_ids: Sequence[str]) -> dict[str, dict[str, str | None]]:
    """Thumbnails of cases by column, read file by file: all images of a large bench do not fit into memory."""
    found: dict[str, dict[str, str | None]] = {}
    for part in benchmark.parts("samples", ["case_id", *_PICTURES]):
        for row in part.filter(pc.is_in(part["case_id"], pc.cast(list(case_ids), "string"))).to_pylist():
            found[row["case_id"]] = {name: row[name] and thumbnail(row[name]["bytes"]) for name in _PICTURES}
    return found
