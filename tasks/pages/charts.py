"""Small charts as inline SVG: pure functions from numbers to markup.

Colours and fonts are the page's: shapes carry CSS classes and no style of their own, so that they follow its light
and dark scheme. All text is escaped. A chart fills its frame; its width in units, beside letters of 12, says how large
its text is there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 480
"""Units, where a chart has half a page."""
_TOP, _BOTTOM, _RIGHT = 30, 42, 14
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or one set of bars."""

    name: str
    values: Sequence[float | None]
    """None and NaN are gaps."""
    css: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A value with its interval."""

    css: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from `low` to `high` with a tick at every multiple of `step`, drawn from `start` to `end`."""

    low: float
    high: float
    step: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where a value is drawn."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Position and text of each tick."""
        decimals = next((d for d in range(16) if abs(round(self.step, d) - self.step) < self.step * 1e-6), 16)
        values = [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]
        return [(self.at(v), f"{v + 0.0:.{decimals}f}".replace("-", "−")) for v in values]


def axis(values: Sequence[float], start: float, end: float, *, count: int = 4, whole: bool = False) -> Axis:
    """An axis with round numbers around finite values; some room where all are equal.

    Args:
        count: about how many steps.
        whole: only whole numbers.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = (low - abs(low) / 10, high + abs(high) / 10) if low else (0.0, 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(f * power for f in factors if f * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    # A value that is a multiple of the step but for rounding needs no further step.
    return Axis(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, step, start, end)


def smooth(values: Sequence[float | None], window: int) -> list[float | None]:
    """The mean of the finite values at most `window // 2` places away; None where there is none."""
    means: list[float | None] = []
    for i in range(len(values)):
        near = _finite(values[max(0, i - window // 2) : i + window // 2 + 1])
        means.append(sum(near) / len(near) if near else None)
    return means


def power_of_ten(values: Sequence[float | None]) -> int:
    """The exponent by which very small or large values are better divided; 0 for handy ones."""
    largest = max(map(abs, _finite(values)), default=0.0)
    return math.floor(math.log10(largest)) if largest and not 1e-2 <= largest < 1e4 else 0


def superscript(number: int) -> str:
    """A number as an exponent."""
    return str(number).translate(_SUPERSCRIPT)


def line_chart(
    title: str,
    description: str,
    places: Sequence[float],
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    include: Sequence[float] = (),
    width: int = WIDTH,
    height: int = 250,
) -> Markup:
    """Lines over whole-numbered places, interrupted at gaps; a value between two gaps is a dot.

    Args:
        places: ascending, one per value of each series.
        include: values that the vertical axis must reach, such as 0.
    """
    values = _finite([v for s in series for v in s.values])
    across = axis(places, 46, width - _RIGHT, count=width // 80, whole=True)
    up = axis([*values, *include], height - _BOTTOM, _TOP)
    shapes = [*_grid(across, up, x_label, y_label, height)]
    if not values:
        shapes.append(_text("no values", width / 2, height / 2, "note", "middle"))
    for one in series:
        for segment in _segments(places, one.values):
            points = [(across.at(x), up.at(y)) for x, y in segment]
            if len(points) == 1:
                shapes.append(_tag("circle", cx=_n(points[0][0]), cy=_n(points[0][1]), r=3, class_=f"dot {one.css}"))
            else:
                path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                shapes.append(_tag("polyline", points=path, class_=f"line {one.css}"))
    return _svg(title, description, width, height, shapes)


def bar_chart(
    title: str,
    description: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    width: int = WIDTH,
    height: int = 250,
) -> Markup:
    """Counts side by side for each label, with the number above each bar."""
    up = axis([0.0, *_finite([v for s in series for v in s.values])], height - _BOTTOM, _TOP, whole=True)
    wide = (width - 46 - _RIGHT) / len(labels)
    bar = wide * 0.8 / len(series)
    across = Axis(0, len(labels), len(labels), 46, width - _RIGHT)
    shapes = [*_grid(across, up, x_label, y_label, height, x_ticks=False)]
    for i, label in enumerate(labels):
        shapes.append(_text(label, across.at(i + 0.5), height - _BOTTOM + 16, "tick", "middle"))
        for j, one in enumerate(series):
            count = one.values[i] or 0.0
            x, y = across.at(i) + wide * 0.1 + j * bar, up.at(count)
            size = {"width": _n(bar - 2), "height": _n(up.start - y)}
            shapes.append(_tag("rect", x=_n(x + 1), y=_n(y), class_=f"bar {one.css}", **size))
            shapes.append(_text(f"{count:g}", x + bar / 2, y - 4, "value", "middle"))
    return _svg(title, description, width, height, shapes)


def interval_chart(
    title: str,
    description: str,
    rows: Sequence[tuple[str, Sequence[Mark | None]]],
    *,
    x_label: str,
    zero_label: str = "no change",
    bars: Sequence[float | None] = (),
    include: Sequence[float] = (),
) -> Markup:
    """A labelled row of dots with their intervals each, and a line at zero; the last row is set apart.

    Args:
        bars: for each row a value to compare its dots with, drawn across them.
        include: values that the axis must reach.
    """
    pitch, left = 34, 172
    height = _TOP + len(rows) * pitch + 6 + _BOTTOM
    marks = [mark for _, row in rows for mark in row if mark]
    values = [v for m in marks for v in (m.low, m.high, m.value)]
    across = axis([0.0, *values, *_finite(bars), *include], left, WIDTH - _RIGHT)
    bottom = height - _BOTTOM
    shapes = [_text(x_label, WIDTH - _RIGHT, height - 6, "axis-label", "end")]
    for x, text in across.ticks():
        shapes.append(_tag("line", x1=_n(x), x2=_n(x), y1=_TOP - 8, y2=bottom, class_="grid"))
        shapes.append(_text(text, x, bottom + 16, "tick", "middle"))
    zero = _n(across.at(0))
    shapes.append(_tag("line", x1=zero, x2=zero, y1=_TOP - 8, y2=bottom, class_="zero"))
    shapes.append(_text(zero_label, across.at(0), _TOP - 14, "tick", "middle"))
    for i, (label, row) in enumerate(rows):
        last = i == len(rows) - 1
        y = _TOP + (i + 0.5) * pitch + (6 if last else 0)
        if last and i:
            shapes.append(_tag("line", x1=0, x2=WIDTH - _RIGHT, y1=_n(y - 20), y2=_n(y - 20), class_="grid"))
        shapes.append(_text(label, left - 12, y + 4, "label strong" if last else "label", "end"))
        if i < len(bars) and (bar := bars[i]) is not None:
            place = _n(across.at(bar))
            shapes.append(_tag("line", x1=place, x2=place, y1=_n(y - 13), y2=_n(y + 13), class_="bar-mark"))
        for j, mark in enumerate(row):
            if mark:
                shapes += _dot(mark, across, y + (j - (len(row) - 1) / 2) * 13, square=j % 2 == 1)
    return _svg(title, description, WIDTH, height, shapes)


def score_chart(
    title: str,
    description: str,
    line: Sequence[tuple[float, float]],
    dots: Sequence[tuple[float, float]],
    *,
    x_label: str,
    y_label: str,
) -> Markup:
    """A line between two scores from 0 to 5, over the line of equal scores and dots as large as they are many."""
    width, height = 260, 260
    across, up = Axis(0, 5, 1, 24, width - _RIGHT), Axis(0, 5, 1, height - _BOTTOM, _TOP)
    shapes = [*_grid(across, up, x_label, y_label, height)]
    ends = {"x1": _n(across.at(0)), "x2": _n(across.at(5)), "y1": _n(up.at(0)), "y2": _n(up.at(5))}
    shapes.append(_tag("line", class_="equal", **ends))
    for (x, y), count in sorted(Counter((round(x, 2), round(y, 2)) for x, y in dots).items()):
        radius = min(2 * math.sqrt(count), 9)
        shapes.append(_tag("circle", cx=_n(across.at(x)), cy=_n(up.at(y)), r=_n(radius), class_="spot"))
    path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in line)
    shapes.append(_tag("polyline", points=path, class_="line trained"))
    return _svg(title, description, width, height, shapes)


def _dot(mark: Mark, across: Axis, y: float, square: bool) -> Iterator[Markup]:
    x1, x, x2 = (_n(across.at(value)) for value in (mark.low, mark.value, mark.high))
    yield _tag("line", x1=x1, x2=x2, y1=_n(y), y2=_n(y), class_=f"interval {mark.css}")
    if square:
        left = {"x": _n(across.at(mark.value) - 4), "y": _n(y - 4)}
        yield _tag("rect", width=8, height=8, class_=f"dot {mark.css}", **left)
    else:
        yield _tag("circle", cx=x, cy=_n(y), r=4.5, class_=f"dot {mark.css}")


def _grid(across: Axis, up: Axis, x_label: str, y_label: str, height: int, x_ticks: bool = True) -> Iterator[Markup]:
    for y, text in up.ticks():
        yield _tag("line", x1=_n(across.start), x2=_n(across.end), y1=_n(y), y2=_n(y), class_="grid")
        yield _text(text, across.start - 7, y + 4, "tick", "end")
    for x, text in across.ticks() if x_ticks else ():
        yield _text(text, x, height - _BOTTOM + 16, "tick", "middle")
    yield _text(y_label, 0, 12, "axis-label")
    yield _text(x_label, across.end, height - 6, "axis-label", "end")


def _segments(places: Sequence[float], values: Sequence[float | None]) -> Iterator[list[tuple[float, float]]]:
    """Runs of neighbouring finite values."""
    run: list[tuple[float, float]] = []
    for x, y in zip(places, values, strict=True):
        if y is not None and math.isfinite(y):
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _svg(title: str, description: str, width: float, height: float, shapes: Sequence[Markup]) -> Markup:
    inside = [_tag("title", title), _tag("desc", description), *shapes]
    return _tag("svg", Markup("").join(inside), viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=title)


def _text(text: str, x: float, y: float, css: str, anchor: str = "start") -> Markup:
    return _tag("text", text, x=_n(x), y=_n(y), class_=css, text_anchor=anchor)


def _tag(name: str, inside: str = "", **attributes: object) -> Markup:
    """An element; `inside` and attribute values are escaped unless they are markup already."""
    pairs: Mapping[str, object] = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
    written = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in pairs.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)


def _n(value: float) -> str:
    """A coordinate."""
    return f"{value:.1f}"
