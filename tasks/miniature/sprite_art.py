"""The art of the miniature world: one vector sprite for each of 26 COCO categories, in COCO order.

Unit coordinates: x right, y down, the sprite's box is [0, 1] x [0, 1] and its subject stands on y = 1.
Nothing is thinner than about 0.06, so that every detail survives at 22 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One flat-coloured shape of a sprite; later parts cover earlier ones.

    Attributes:
        shape: The kind of shape, which says how `points` is read.
        points: Unit coordinates: "polygon" (x0, y0, x1, y1, ...), "ellipse" (cx, cy, rx, ry),
            "ring" (cx, cy, rx, ry, width; the width goes inwards), "box" (x0, y0, x1, y1) or
            "line" (x0, y0, x1, y1, ..., width; with round ends and joints).
        paint: Name of a paint: "body", "shade" and "light" follow the subject's colour, the others are fixed.
    """

    shape: str
    points: tuple[float, ...]
    paint: str


@dataclass(frozen=True)
class Sprite:
    """A sprite, and the palette name of the colour that such an object usually has."""

    parts: tuple[Part, ...]
    usual_colour: str


def _pen(shape: str) -> Callable[..., Part]:
    """Returns a short way to write a part: `_box("body", 0.1, 0.2, 0.9, 0.8)`."""
    return lambda paint, *points: Part(shape, points, paint)


_polygon, _ellipse, _ring, _box, _line = map(_pen, ("polygon", "ellipse", "ring", "box", "line"))


def _twice(part: Part) -> tuple[Part, Part]:
    """Returns any part but a box, and its mirror image about x = 0.5."""
    count = 1 if part.shape in ("ellipse", "ring") else len(part.points) // 2
    points = [1 - p if i % 2 == 0 and i < 2 * count else p for i, p in enumerate(part.points)]
    return part, Part(part.shape, tuple(points), part.paint)


def _row(paint: str, top: float, bottom: float, width: float, *lefts: float) -> tuple[Part, ...]:
    """Returns equal boxes side by side (legs, windows), for their left edges."""
    return tuple(_box(paint, left, top, left + width, bottom) for left in lefts)


def _wheels(y: float, radius: float, *xs: float) -> tuple[Part, ...]:
    """Returns wheels with hubs, for centres at height y."""
    tyres = tuple(_ellipse("dark", x, y, radius, radius) for x in xs)
    return tyres + tuple(_ellipse("metal", x, y, 0.4 * radius, 0.4 * radius) for x in xs)


SPRITES: dict[str, Sprite] = {
    "car": Sprite(
        (
            _polygon("body", 0.16, 0.66, 0.30, 0.38, 0.64, 0.38, 0.83, 0.66),
            _polygon("glass", 0.27, 0.60, 0.35, 0.45, 0.45, 0.45, 0.45, 0.60),
            _polygon("glass", 0.52, 0.60, 0.52, 0.45, 0.61, 0.45, 0.71, 0.60),
            _polygon("body", 0.01, 0.66, 0.07, 0.60, 0.84, 0.60, 0.95, 0.65, 0.99, 0.72, 0.99, 0.87, 0.01, 0.87),
            _box("white", 0.91, 0.67, 0.99, 0.75),
            _box("shade", 0.01, 0.80, 0.99, 0.87),
            *_wheels(0.85, 0.15, 0.24, 0.76),
        ),
        "red",
    ),
    "airplane": Sprite(
        (
            _polygon("shade", 0.46, 0.48, 0.34, 0.14, 0.47, 0.14, 0.74, 0.50),
            _polygon("body", 0.02, 0.18, 0.16, 0.18, 0.34, 0.48, 0.10, 0.54),
            _polygon("body", 0.08, 0.44, 0.80, 0.44, 0.92, 0.49, 0.99, 0.58, 0.90, 0.69, 0.30, 0.69, 0.10, 0.60),
            _polygon("shade", 0.08, 0.50, 0.27, 0.54, 0.12, 0.73, 0.01, 0.73),
            _box("glass", 0.36, 0.49, 0.72, 0.56),
            _polygon("dark", 0.82, 0.46, 0.92, 0.49, 0.97, 0.56, 0.82, 0.56),
            _polygon("light", 0.43, 0.62, 0.70, 0.62, 0.34, 0.99, 0.20, 0.99),
        ),
        "white",
    ),
    "bus": Sprite(
        (
            _polygon("body", 0.01, 0.20, 0.05, 0.15, 0.92, 0.15, 0.99, 0.24, 0.99, 0.89, 0.01, 0.89),
            *_row("glass", 0.25, 0.46, 0.13, 0.07, 0.26, 0.45),
            _polygon("glass", 0.66, 0.25, 0.93, 0.25, 0.99, 0.33, 0.99, 0.54, 0.66, 0.54),
            _box("shade", 0.01, 0.60, 0.99, 0.68),
            _box("white", 0.91, 0.74, 0.99, 0.82),
            *_wheels(0.87, 0.12, 0.22, 0.77),
        ),
        "yellow",
    ),
    "train": Sprite(
        (
            _box("shade", 0.03, 0.18, 0.40, 0.26),
            _box("body", 0.06, 0.24, 0.37, 0.78),
            _box("glass", 0.13, 0.33, 0.30, 0.50),
            _box("body", 0.36, 0.44, 0.88, 0.76),
            _ellipse("body", 0.51, 0.44, 0.09, 0.10),
            _box("shade", 0.55, 0.44, 0.62, 0.76),
            _ellipse("light", 0.88, 0.59, 0.07, 0.15),
            _polygon("shade", 0.71, 0.46, 0.69, 0.24, 0.65, 0.13, 0.91, 0.13, 0.87, 0.24, 0.85, 0.46),
            _box("dark", 0.04, 0.74, 0.92, 0.82),
            _polygon("body", 0.84, 0.76, 0.92, 0.76, 0.99, 0.99, 0.80, 0.99),
            *_wheels(0.85, 0.14, 0.19, 0.49),
            *_wheels(0.89, 0.10, 0.73),
        ),
        "green",
    ),
    "truck": Sprite(
        (
            _box("dark", 0.02, 0.78, 0.96, 0.87),
            _box("light", 0.01, 0.24, 0.61, 0.79),
            _box("body", 0.01, 0.24, 0.61, 0.32),
            _polygon("body", 0.66, 0.40, 0.85, 0.40, 0.93, 0.58, 0.99, 0.62, 0.99, 0.85, 0.66, 0.85),
            _polygon("glass", 0.73, 0.46, 0.82, 0.46, 0.88, 0.60, 0.73, 0.60),
            *_wheels(0.87, 0.12, 0.15, 0.42, 0.80),
        ),
        "blue",
    ),
    "boat": Sprite(
        (
            _box("wood", 0.45, 0.02, 0.52, 0.76),
            _polygon("light", 0.55, 0.06, 0.94, 0.66, 0.55, 0.66),
            _polygon("body", 0.42, 0.18, 0.42, 0.66, 0.10, 0.66),
            _polygon("body", 0.01, 0.73, 0.99, 0.73, 0.82, 0.99, 0.18, 0.99),
            _polygon("shade", 0.10, 0.87, 0.90, 0.87, 0.82, 0.99, 0.18, 0.99),
        ),
        "white",
    ),
    "bird": Sprite(
        (
            _polygon("amber", 0.39, 0.80, 0.46, 0.80, 0.46, 0.92, 0.53, 0.92, 0.53, 0.99, 0.39, 0.99),
            _polygon("amber", 0.57, 0.80, 0.64, 0.80, 0.64, 0.92, 0.71, 0.92, 0.71, 0.99, 0.57, 0.99),
            _polygon("shade", 0.01, 0.30, 0.14, 0.26, 0.36, 0.54, 0.28, 0.70),
            _ellipse("body", 0.48, 0.58, 0.30, 0.26),
            _ellipse("body", 0.68, 0.34, 0.19, 0.19),
            _polygon("amber", 0.83, 0.25, 0.99, 0.36, 0.83, 0.45),
            _polygon("light", 0.66, 0.52, 0.80, 0.50, 0.76, 0.70, 0.60, 0.82, 0.48, 0.83),
            _polygon("shade", 0.20, 0.46, 0.48, 0.44, 0.60, 0.56, 0.50, 0.70, 0.34, 0.70),
            _ellipse("dark", 0.73, 0.30, 0.045, 0.045),
        ),
        "blue",
    ),
    "cat": Sprite(
        (
            _line("body", 0.26, 0.93, 0.10, 0.82, 0.10, 0.58, 0.19, 0.45, 0.11),
            _ellipse("body", 0.48, 0.80, 0.28, 0.19),
            _polygon("body", 0.40, 0.50, 0.76, 0.50, 0.80, 0.99, 0.30, 0.99, 0.22, 0.76),
            _polygon("body", 0.34, 0.36, 0.32, 0.01, 0.60, 0.20),
            _polygon("body", 0.90, 0.36, 0.92, 0.01, 0.64, 0.20),
            _ellipse("body", 0.62, 0.34, 0.29, 0.22),
            _ellipse("light", 0.62, 0.43, 0.13, 0.10),
            _ellipse("dark", 0.50, 0.30, 0.045, 0.06),
            _ellipse("dark", 0.74, 0.30, 0.045, 0.06),
            _ellipse("dark", 0.62, 0.40, 0.05, 0.035),
            _line("shade", 0.60, 0.80, 0.60, 0.96, 0.06),
            _ellipse("light", 0.68, 0.65, 0.10, 0.09),
        ),
        "orange",
    ),
    "dog": Sprite(
        (
            _line("body", 0.17, 0.52, 0.06, 0.26, 0.10),
            *_row("shade", 0.62, 0.99, 0.11, 0.24, 0.50),
            _polygon("body", 0.12, 0.48, 0.52, 0.46, 0.74, 0.50, 0.73, 0.76, 0.12, 0.74),
            *_row("body", 0.55, 0.99, 0.12, 0.12, 0.61),
            _polygon("body", 0.50, 0.48, 0.56, 0.26, 0.80, 0.26, 0.74, 0.58),
            _ellipse("body", 0.70, 0.28, 0.18, 0.17),
            _polygon("body", 0.72, 0.22, 0.95, 0.28, 0.98, 0.36, 0.94, 0.43, 0.72, 0.44),
            _ellipse("dark", 0.94, 0.29, 0.055, 0.05),
            _ellipse("shade", 0.57, 0.30, 0.09, 0.19),
            _ellipse("dark", 0.76, 0.23, 0.04, 0.04),
            _line("dark", 0.58, 0.53, 0.72, 0.53, 0.06),
        ),
        "orange",
    ),
    "horse": Sprite(
        (
            _line("dark", 0.12, 0.44, 0.06, 0.60, 0.06, 0.74, 0.10),
            *_row("shade", 0.60, 0.99, 0.08, 0.24, 0.52),
            _ellipse("body", 0.24, 0.51, 0.15, 0.14),
            _polygon("body", 0.20, 0.38, 0.46, 0.40, 0.62, 0.36, 0.70, 0.50, 0.64, 0.63, 0.30, 0.62),
            _polygon("body", 0.12, 0.52, 0.32, 0.58, 0.22, 0.74, 0.22, 0.99, 0.13, 0.99, 0.13, 0.74),
            _box("body", 0.61, 0.50, 0.70, 0.99),
            _polygon("body", 0.48, 0.44, 0.66, 0.10, 0.80, 0.14, 0.70, 0.54),
            _polygon("body", 0.66, 0.08, 0.80, 0.10, 0.99, 0.28, 0.94, 0.37, 0.86, 0.36, 0.70, 0.26),
            _polygon("body", 0.67, 0.12, 0.70, 0.01, 0.78, 0.12),
            _polygon("dark", 0.44, 0.42, 0.58, 0.12, 0.68, 0.06, 0.66, 0.22, 0.54, 0.44),
            _ellipse("dark", 0.78, 0.18, 0.04, 0.04),
        ),
        "orange",
    ),
    "sheep": Sprite(
        (
            *_row("dark", 0.70, 0.99, 0.09, 0.20, 0.34, 0.53, 0.67),
            _ellipse("body", 0.15, 0.52, 0.14, 0.15),
            _ellipse("body", 0.28, 0.38, 0.16, 0.14),
            _ellipse("body", 0.50, 0.33, 0.17, 0.15),
            _ellipse("body", 0.68, 0.40, 0.15, 0.14),
            _ellipse("body", 0.26, 0.68, 0.16, 0.13),
            _ellipse("body", 0.48, 0.70, 0.17, 0.14),
            _ellipse("body", 0.68, 0.66, 0.15, 0.14),
            _ellipse("body", 0.46, 0.52, 0.32, 0.22),
            _ellipse("dark", 0.85, 0.46, 0.14, 0.17),
            _ellipse("dark", 0.70, 0.37, 0.10, 0.05),
            _ellipse("body", 0.82, 0.28, 0.13, 0.09),
            _ellipse("white", 0.90, 0.43, 0.04, 0.04),
        ),
        "white",
    ),
    "elephant": Sprite(
        (
            _line("shade", 0.06, 0.42, 0.05, 0.66, 0.07),
            *_row("shade", 0.66, 0.99, 0.10, 0.23, 0.42),
            _ellipse("body", 0.34, 0.51, 0.32, 0.26),
            *_row("body", 0.56, 0.99, 0.14, 0.07, 0.48),
            _ellipse("body", 0.67, 0.36, 0.22, 0.23),
            _line("body", 0.78, 0.40, 0.87, 0.62, 0.18),
            _line("body", 0.87, 0.62, 0.85, 0.84, 0.12),
            _line("body", 0.85, 0.84, 0.94, 0.87, 0.10),
            _polygon("white", 0.68, 0.54, 0.76, 0.52, 0.79, 0.68, 0.72, 0.70),
            _ellipse("shade", 0.50, 0.37, 0.15, 0.22),
            _ellipse("dark", 0.76, 0.31, 0.04, 0.04),
        ),
        "blue",
    ),
    "giraffe": Sprite(
        (
            _line("body", 0.17, 0.58, 0.12, 0.76, 0.06),
            *_row("shade", 0.66, 0.99, 0.08, 0.31, 0.49),
            _polygon("body", 0.16, 0.60, 0.24, 0.53, 0.54, 0.45, 0.68, 0.50, 0.68, 0.70, 0.58, 0.75, 0.18, 0.72),
            *_row("body", 0.60, 0.99, 0.10, 0.19, 0.58),
            _polygon("body", 0.50, 0.54, 0.62, 0.10, 0.76, 0.12, 0.68, 0.58),
            _line("dark", 0.64, 0.05, 0.67, 0.12, 0.07),
            _polygon("body", 0.60, 0.11, 0.70, 0.07, 0.93, 0.19, 0.93, 0.27, 0.84, 0.28, 0.62, 0.23),
            _ellipse("wood", 0.29, 0.62, 0.06, 0.06),
            _ellipse("wood", 0.45, 0.60, 0.06, 0.06),
            _ellipse("wood", 0.59, 0.51, 0.05, 0.06),
            _ellipse("wood", 0.64, 0.35, 0.04, 0.06),
            _ellipse("dark", 0.76, 0.16, 0.04, 0.04),
        ),
        "yellow",
    ),
    "handbag": Sprite(
        (
            _ring("shade", 0.50, 0.38, 0.28, 0.36, 0.08),
            _polygon("body", 0.12, 0.42, 0.88, 0.42, 0.99, 0.90, 0.94, 0.99, 0.06, 0.99, 0.01, 0.90),
            _polygon("shade", 0.12, 0.42, 0.88, 0.42, 0.91, 0.56, 0.50, 0.72, 0.09, 0.56),
            _ellipse("amber", 0.50, 0.68, 0.08, 0.08),
        ),
        "pink",
    ),
    "suitcase": Sprite(
        (
            _line("dark", 0.33, 0.30, 0.33, 0.06, 0.67, 0.06, 0.67, 0.30, 0.09),
            *_twice(_ellipse("dark", 0.28, 0.93, 0.07, 0.06)),
            _box("body", 0.17, 0.28, 0.83, 0.92),
            *_row("shade", 0.36, 0.84, 0.08, 0.28, 0.46, 0.64),
        ),
        "blue",
    ),
    "sports ball": Sprite(
        (
            _ellipse("body", 0.50, 0.50, 0.49, 0.49),
            _polygon("dark", 0.50, 0.33, 0.66, 0.45, 0.60, 0.64, 0.40, 0.64, 0.34, 0.45),
            _polygon("dark", 0.36, 0.03, 0.64, 0.03, 0.50, 0.16),
            *_twice(_polygon("dark", 0.86, 0.17, 0.98, 0.44, 0.83, 0.38)),
            *_twice(_polygon("dark", 0.92, 0.74, 0.70, 0.94, 0.72, 0.78)),
        ),
        "white",
    ),
    "kite": Sprite(
        (
            _line("dark", 0.58, 0.70, 0.45, 0.84, 0.28, 0.84, 0.08, 0.95, 0.06),
            _polygon("body", 0.58, 0.01, 0.96, 0.32, 0.58, 0.74, 0.20, 0.32),
            _polygon("light", 0.58, 0.01, 0.96, 0.32, 0.58, 0.32),
            _polygon("light", 0.20, 0.32, 0.58, 0.32, 0.58, 0.74),
            _ellipse("body", 0.38, 0.84, 0.07, 0.07),
            _ellipse("body", 0.12, 0.92, 0.07, 0.07),
        ),
        "red",
    ),
    "bottle": Sprite(
        (
            _box("dark", 0.40, 0.01, 0.60, 0.11),
            _polygon(
                "body",
                0.42,
                0.10,
                0.58,
                0.10,
                0.58,
                0.28,
                0.68,
                0.42,
                0.70,
                0.50,
                0.70,
                0.96,
                0.67,
                0.99,
                0.33,
                0.99,
                0.30,
                0.96,
                0.30,
                0.50,
                0.32,
                0.42,
                0.42,
                0.28,
            ),
            _box("white", 0.30, 0.56, 0.70, 0.82),
        ),
        "green",
    ),
    "cup": Sprite(
        (
            _ring("shade", 0.74, 0.52, 0.25, 0.23, 0.09),
            _polygon("body", 0.01, 0.24, 0.75, 0.24, 0.70, 0.78, 0.58, 0.99, 0.18, 0.99, 0.06, 0.78),
            _ellipse("light", 0.38, 0.25, 0.37, 0.10),
            _ellipse("wood", 0.38, 0.26, 0.29, 0.06),
        ),
        "white",
    ),
    "banana": Sprite(
        (
            _polygon(
                "body",
                0.10,
                0.18,
                0.20,
                0.16,
                0.24,
                0.30,
                0.34,
                0.46,
                0.48,
                0.56,
                0.64,
                0.59,
                0.90,
                0.52,
                0.98,
                0.58,
                0.94,
                0.74,
                0.82,
                0.90,
                0.62,
                0.99,
                0.42,
                0.97,
                0.24,
                0.84,
                0.12,
                0.64,
                0.08,
                0.42,
            ),
            _polygon(
                "shade",
                0.08,
                0.42,
                0.30,
                0.70,
                0.52,
                0.82,
                0.94,
                0.74,
                0.82,
                0.90,
                0.62,
                0.99,
                0.42,
                0.97,
                0.24,
                0.84,
                0.12,
                0.64,
            ),
            _polygon("wood", 0.07, 0.02, 0.18, 0.01, 0.21, 0.20, 0.10, 0.22),
            _ellipse("wood", 0.93, 0.58, 0.06, 0.07),
        ),
        "yellow",
    ),
    "apple": Sprite(
        (
            *_twice(_ellipse("body", 0.33, 0.56, 0.26, 0.29)),
            *_twice(_ellipse("body", 0.41, 0.76, 0.24, 0.23)),
            _line("wood", 0.50, 0.40, 0.54, 0.12, 0.08),
            _polygon("leaf", 0.54, 0.20, 0.64, 0.05, 0.90, 0.01, 0.84, 0.17, 0.68, 0.24),
            _ellipse("light", 0.24, 0.50, 0.08, 0.12),
        ),
        "red",
    ),
    "donut": Sprite(
        (
            _ring("dough", 0.50, 0.58, 0.49, 0.41, 0.29),
            _ring("body", 0.50, 0.54, 0.45, 0.37, 0.22),
            _line("white", 0.16, 0.50, 0.20, 0.58, 0.06),
            _line("white", 0.33, 0.29, 0.40, 0.33, 0.06),
            _line("white", 0.68, 0.28, 0.64, 0.34, 0.06),
            _line("white", 0.84, 0.56, 0.79, 0.50, 0.06),
            _line("white", 0.40, 0.78, 0.48, 0.80, 0.06),
        ),
        "pink",
    ),
    "tv": Sprite(
        (
            *_twice(_line("dark", 0.48, 0.40, 0.24, 0.05, 0.06)),
            *_twice(_polygon("dark", 0.14, 0.88, 0.28, 0.88, 0.21, 0.99, 0.10, 0.99)),
            _box("body", 0.01, 0.35, 0.99, 0.91),
            _box("glass", 0.10, 0.44, 0.64, 0.82),
            _ellipse("dark", 0.81, 0.52, 0.07, 0.07),
            _ellipse("dark", 0.81, 0.73, 0.07, 0.07),
        ),
        "red",
    ),
    "laptop": Sprite(
        (
            _box("body", 0.12, 0.22, 0.88, 0.78),
            _box("dark", 0.20, 0.30, 0.80, 0.68),
            _polygon("body", 0.12, 0.76, 0.88, 0.76, 0.99, 0.92, 0.99, 0.99, 0.01, 0.99, 0.01, 0.92),
            _polygon("shade", 0.20, 0.80, 0.80, 0.80, 0.84, 0.88, 0.16, 0.88),
        ),
        "white",
    ),
    "vase": Sprite(
        (
            *_twice(_ring("shade", 0.28, 0.36, 0.20, 0.20, 0.08)),
            _polygon(
                "body",
                0.38,
                0.06,
                0.62,
                0.06,
                0.60,
                0.26,
                0.78,
                0.42,
                0.84,
                0.58,
                0.78,
                0.74,
                0.62,
                0.90,
                0.38,
                0.90,
                0.22,
                0.74,
                0.16,
                0.58,
                0.22,
                0.42,
                0.40,
                0.26,
            ),
            _box("shade", 0.30, 0.01, 0.70, 0.10),
            _box("shade", 0.32, 0.89, 0.68, 0.99),
            _polygon("white", 0.18, 0.52, 0.82, 0.52, 0.84, 0.58, 0.81, 0.66, 0.19, 0.66, 0.16, 0.58),
        ),
        "blue",
    ),
    "teddy bear": Sprite(
        (
            *_twice(_ellipse("body", 0.25, 0.13, 0.13, 0.12)),
            *_twice(_ellipse("light", 0.25, 0.13, 0.06, 0.06)),
            *_twice(_ellipse("body", 0.18, 0.64, 0.16, 0.10)),
            _ellipse("body", 0.50, 0.72, 0.28, 0.26),
            _ellipse("light", 0.50, 0.72, 0.16, 0.17),
            *_twice(_ellipse("body", 0.22, 0.86, 0.17, 0.13)),
            *_twice(_ellipse("shade", 0.22, 0.87, 0.09, 0.07)),
            _ellipse("body", 0.50, 0.30, 0.32, 0.25),
            _ellipse("light", 0.50, 0.39, 0.15, 0.11),
            *_twice(_ellipse("dark", 0.37, 0.26, 0.045, 0.05)),
            _ellipse("dark", 0.50, 0.36, 0.06, 0.045),
        ),
        "orange",
    ),
}
