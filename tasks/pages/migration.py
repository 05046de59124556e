"""The page of a migration from one judge to another; `migration.html.j2` holds the words.

The same migration gives the same bytes: the page is an artifact, named by its content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc
from markupsafe import Markup

from storage.records import EditType
from storage.store import Version
from tasks.calibration.agreement import Measured
from tasks.calibration.migration import COMPARISONS, Migration
from tasks.calibration.results import OVERALL
from tasks.pages.calibration import MEASURES as MEASURES_OF_AGREEMENT
from tasks.pages.calibration import Figure, figure
from tasks.pages.charts import Mark, interval_chart, score_chart
from tasks.pages.templates import environment, flat, heat_of, number, percent, spaced
from tasks.pages.thumbnails import photograph

_SHARES = {
    "flipped_pairs": (
        "Pairs turned round",
        "share of the pairs in the old judge’s order that the new judge turns round",
    ),
    "full_before": ("Full before", "share with the old judge’s full score"),
    "full_after": ("Full after", "share with the new judge’s full score, by its own threshold"),
    "full_change": ("Change of full", "the second less the first"),
}
MEASURES = {**MEASURES_OF_AGREEMENT, **_SHARES}
"""Name and meaning."""
SHOWN = 16
"""Largest movers; the page must stay small."""


def render_migration(
    result: Migration,
    judges: Mapping[str, Mapping[str, Any]],
    versions: Mapping[str, Version],
    left_out: Mapping[str, int],
    raters: str,
) -> str:
    """The page of a migration.

    Args:
        judges: the settings of the judges `old` and `new` that decide what they say.
        versions: by role: scorer, triplets (where the pictures are) and, if there are any, labels.
        left_out: how many triplets, by reason.
        raters: "people", "simulated" or "none".

    Returns: HTML that loads nothing from anywhere and needs no JavaScript.
    """
    held_out, types = result.of(OVERALL), {pair.edit_type for pair in result.pairs}
    groups = [group for group in result.found if group == OVERALL or group in types]
    template = environment().get_template("migration.html.j2")
    return template.render(
        result=result,
        judges=judges,
        names={which: _name_of(judge) for which, judge in judges.items()},
        settings={which: list(flat(judge)) for which, judge in judges.items()},
        versions=versions,
        left_out={reason: count for reason, count in left_out.items() if count},
        raters=raters,
        overall=OVERALL,
        found={group: result.found[group] for group in groups},
        counts={group: len(result.of(group)) for group in groups},
        comparisons=COMPARISONS,
        measures=MEASURES,
        shares=_SHARES,
        said=said,
        crossings={group: result.crossings(group) for group in groups},
        full_as_before=result.full_as_before(),
        heat=heat_of((pair.new, pair.old) for pair in held_out),
        heat_mapped=heat_of((result.mapped(pair), pair.old) for pair in held_out),
        residuals=_residual_chart(result, groups),
        maps={edit_type: _map_chart(result, edit_type) for edit_type in result.to_old if edit_type in types},
        cards=_cards(result, versions["triplets"]),
    )


def said(name: str, measured: Measured, signed: bool = False) -> Figure:
    """A figure as the page writes it."""
    if measured.value is None or not (signed or name in _SHARES):
        return figure(name, measured)

    def say(value: float) -> str:
        if name not in _SHARES:
            return number(value, signed=True, decimals=2)
        sign = "−" if value < 0 else "+" if signed or name == "full_change" else ""
        return sign + percent(abs(value))

    if measured.low is None or measured.high is None:
        return Figure(say(measured.value), "", measured.note)
    return Figure(say(measured.value), f"{say(measured.low)} to {say(measured.high)}", measured.note)


def _name_of(judge: Mapping[str, Any]) -> str:
    return f"{'the stand-in judge' if judge['kind'] == 'measured' else judge['judge']['model']} ({judge['mode']})"


def _cards(result: Migration, triplets: Version) -> list[dict[str, Any]]:
    """The largest movers with their pictures; read file by file, as all do not fit into memory."""
    movers = sorted(result.pairs, key=lambda pair: (-round(abs(result.residual(pair)), 9), pair.edit_id))[:SHOWN]
    wanted, types = [pair.edit_id for pair in movers], {None, *(pair.edit_type for pair in movers)}
    seen = {}
    for file in triplets.files("triplets"):
        if file.partition in types:
            table = triplets.store.read_table(file, ["edit_id", "instruction", "source", "edited"])
            for row in table.filter(pc.is_in(table["edit_id"], pc.cast(wanted, "string"))).to_pylist():
                pictures = {name: row[name] and photograph(row[name]["bytes"]) for name in ("source", "edited")}
                seen[row["edit_id"]] = {"instruction": row["instruction"], **pictures}
    return [
        {"pair": pair, "mapped": result.mapped(pair), "residual": result.residual(pair), **seen[pair.edit_id]}
        for pair in movers
    ]


def _residual_chart(result: Migration, groups: Sequence[str]) -> Markup:
    def mark(css: str, measured: Measured) -> Mark | None:
        if measured.value is None:
            return None
        low, high = (measured.value if end is None else end for end in (measured.low, measured.high))
        return Mark(css, measured.value, low, high)

    rows = [
        (spaced(group), [mark("before", some["raw"]["bias"]), mark("trained", some["mapped"]["bias"])])
        for group in groups
        for some in [result.found[group]]
    ]
    return interval_chart(
        "New judge’s mean less old judge’s, by edit type",
        "On its own scale and mapped to the old one’s, with 95 % intervals.",
        rows,
        x_label="points",
        zero_label="as before",
    )


def _map_chart(result: Migration, edit_type: EditType) -> Markup:
    points = result.to_old[edit_type].score_map.points
    dots = [(pair.new, pair.old) for pair in result.of(edit_type)]
    told = ", ".join(f"{number(raw, decimals=2)} becomes {number(score, decimals=2)}" for raw, score in points)
    title = f"From new to old, {spaced(edit_type)}"
    return score_chart(title, f"{told}.", points, dots, x_label="new judge", y_label="old judge")
