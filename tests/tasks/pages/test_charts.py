import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.pages.charts import (
    Mark,
    Series,
    axis,
    bar_chart,
    interval_chart,
    line_chart,
    power_of_ten,
    score_chart,
    smooth,
    superscript,
)


def drawn(markup: str) -> ElementTree.Element:
    """The chart as a tree; fails where it is not well-formed or holds a coordinate that is no number."""
    for word in ("nan", "inf", "None"):
        assert f'"{word}' not in markup
        assert f" {word}" not in markup
    return ElementTree.fromstring(markup)


def texts(tree: ElementTree.Element, css: str) -> list[str | None]:
    return [e.text for e in tree.iter("text") if css in e.get("class", "").split()]


def shapes(tree: ElementTree.Element, tag: str, css: str) -> list[ElementTree.Element]:
    return [e for e in tree.iter(tag) if css in e.get("class", "").split()]


def lines(values: list[float | None], **options: object) -> ElementTree.Element:
    series = [Series("a", values, "trained")]
    return drawn(
        line_chart("T", "D", range(len(values)), series, x_label="iteration", y_label="score", **options)  # type: ignore[arg-type]
    )


def test_ticks_are_round_and_cover_the_values() -> None:
    up = axis([1.9, 4.2], 0, 100)
    assert [text for _, text in up.ticks()] == ["1", "2", "3", "4", "5"]
    assert up.at(1) == 0
    assert up.at(5) == 100
    assert up.at(3) == 50


def test_negative_ticks_have_a_minus_sign_and_zero_has_none() -> None:
    assert [text for _, text in axis([-0.4, 0.5], 0, 1).ticks()] == ["−0.50", "−0.25", "0.00", "0.25", "0.50"]


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-9, 0.1 + 0.2])
def test_equal_values_lie_inside_their_axis(value: float) -> None:
    up = axis([value, value], 0, 100)
    assert up.low <= value <= up.high
    assert up.low < up.high


def test_whole_axes_never_divide_a_step() -> None:
    assert [text for _, text in axis([0, 1], 0, 1, count=6, whole=True).ticks()] == ["0", "1"]
    assert [text for _, text in axis([0, 99], 0, 1, count=6, whole=True).ticks()] == [
        "0",
        "20",
        "40",
        "60",
        "80",
        "100",
    ]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_any_axis_covers_its_values_with_a_handful_of_ticks(values: list[float]) -> None:
    values = [round(value, 6) for value in values]
    up = axis(values, 0, 100)
    places = [place for place, _ in up.ticks()]
    # To a billionth of a step, and what rounding takes: far less than a line is wide.
    assert up.low <= min(values) + 1e-8 * up.step
    assert up.high >= max(values) - 1e-8 * up.step
    assert 2 <= len(places) <= 8
    assert places == sorted(places)


def test_smoothing_is_a_centred_mean_that_skips_gaps() -> None:
    assert smooth([1, 2, 6], 3) == [1.5, 3, 4]
    assert smooth([1, None, 3, math.nan, math.nan, math.nan], 3) == [1, 2, 3, 3, None, None]
    assert smooth([4, None], 1) == [4, None]
    assert smooth([], 3) == []


def test_powers_of_ten_are_taken_out_of_unhandy_numbers_only() -> None:
    assert power_of_ten([3.1e-8, 4e-9]) == -8
    assert power_of_ten([0.5, 120]) == 0
    assert power_of_ten([2e5]) == 5
    assert power_of_ten([0.0, None, math.nan]) == 0
    assert power_of_ten([]) == 0
    assert superscript(-12) == "⁻¹²"


def test_a_line_has_title_description_axes_and_labels() -> None:
    tree = lines([1.0, 2.0, 4.0])
    assert (tree.findtext("title"), tree.findtext("desc"), tree.get("role")) == ("T", "D", "img")
    assert texts(tree, "axis-label") == ["score", "iteration"]
    assert texts(tree, "tick") == ["1", "2", "3", "4", "0", "1", "2"]
    (line,) = shapes(tree, "polyline", "trained")
    heights = [float(point.split(",")[1]) for point in line.get("points", "").split()]
    assert heights == sorted(heights, reverse=True), "larger values are drawn higher up"


def test_a_single_point_is_a_dot() -> None:
    tree = lines([2.5])
    assert len(shapes(tree, "circle", "trained")) == 1
    assert not shapes(tree, "polyline", "trained")


def test_gaps_interrupt_a_line_and_lonely_values_are_dots() -> None:
    tree = lines([1, 2, None, 3, math.nan, 4, 5, 6])
    assert [len(line.get("points", "").split()) for line in shapes(tree, "polyline", "trained")] == [2, 3]
    assert len(shapes(tree, "circle", "trained")) == 1


def test_a_chart_without_values_says_so() -> None:
    assert texts(lines([None, math.nan]), "note") == ["no values"]
    assert texts(lines([]), "note") == ["no values"]


def test_constant_values_are_a_level_line() -> None:
    (line,) = shapes(lines([0.0, 0.0, 0.0], include=(0.0,)), "polyline", "trained")
    assert len({point.split(",")[1] for point in line.get("points", "").split()}) == 1


def test_text_is_escaped() -> None:
    nasty = "<script>alert('1') & \"2\"</script>"
    markup = bar_chart(nasty, nasty, [nasty], [Series("a", [1], nasty)], x_label=nasty, y_label=nasty)
    assert "<script" not in markup
    assert drawn(markup).findtext("title") == nasty
    assert nasty in texts(drawn(interval_chart("T", "D", [(nasty, [None])], x_label="gain")), "label")


def test_bars_are_as_high_as_their_counts() -> None:
    series = [Series("before", [3, 0, 6], "before"), Series("after", [3, 0, 0], "after")]
    tree = drawn(bar_chart("T", "D", ["0", "1", "2"], series, x_label="score", y_label="edits"))
    heights = [float(bar.get("height", "")) for bar in shapes(tree, "rect", "before")]
    assert heights[1] == 0
    assert heights[2] == pytest.approx(2 * heights[0], abs=0.2)
    assert texts(tree, "value") == ["3", "3", "0", "0", "6", "0"]


def test_bars_without_any_count_are_drawn() -> None:
    tree = drawn(bar_chart("T", "D", ["0"], [Series("a", [0], "after")], x_label="score", y_label="edits"))
    assert texts(tree, "value") == ["0"]


def test_intervals_lie_on_their_side_of_zero() -> None:
    rows = [("better", [Mark("referee", 0.5, 0.2, 0.8), Mark("score", -1.0, -1.5, -0.5)]), ("overall", [None, None])]
    tree = drawn(interval_chart("T", "D", rows, x_label="gain"))
    (zero,) = shapes(tree, "line", "zero")
    at = float(zero.get("x1", ""))
    (referee,) = shapes(tree, "line", "referee")
    (score,) = shapes(tree, "line", "score")
    assert float(referee.get("x1", "")) > at > float(score.get("x2", ""))
    assert [len(shapes(tree, tag, "dot")) for tag in ("circle", "rect")] == [1, 1], "told apart by their shape too"
    assert texts(tree, "label") == ["better", "overall"]


def test_intervals_of_no_width_and_no_marks_at_all_are_drawn() -> None:
    drawn(interval_chart("T", "D", [("a", [Mark("score", 0.0, 0.0, 0.0)])], x_label="gain"))
    drawn(interval_chart("T", "D", [("overall", [None, None])], x_label="gain"))


def test_bars_cross_the_dots_of_their_row_and_the_axis_reaches_what_it_must() -> None:
    rows = [("a", [Mark("before", 0.2, 0.2, 0.2)]), ("b", [None]), ("c", [Mark("trained", 0.5, 0.4, 0.6)])]
    tree = drawn(interval_chart("T", "D", rows, x_label="r", zero_label="none", bars=[0.5, None, 0.5], include=(1.0,)))
    bars = shapes(tree, "line", "bar-mark")
    (dot,) = shapes(tree, "circle", "trained")
    assert [bar.get("x1") for bar in bars] == [dot.get("cx")] * 2
    assert float(bars[1].get("y1", "")) < float(dot.get("cy", "")) < float(bars[1].get("y2", ""))
    assert "1.00" in texts(tree, "tick")
    assert "none" in texts(tree, "tick")


def test_a_score_map_lies_over_equal_scores_and_its_dots() -> None:
    tree = drawn(score_chart("T", "D", [(0, 0), (5, 5)], [(1, 2)] * 4 + [(5, 5)], x_label="own", y_label="raters"))
    (line,), (equal,) = shapes(tree, "polyline", "trained"), shapes(tree, "line", "equal")
    ends = [f"{equal.get(f'x{end}')},{equal.get(f'y{end}')}" for end in "12"]
    assert (line.get("points") or "").split() == ends
    spots = shapes(tree, "circle", "spot")
    assert [spot.get("r") for spot in spots] == ["4.0", "2.0"]
    assert f"{spots[1].get('cx')},{spots[1].get('cy')}" == ends[1]
