"""What sprites are made of: flat-coloured shapes in unit coordinates, x right, y down, standing on y = 1."""

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
    """Returns a short way to write a part: `box("body", 0.1, 0.2, 0.9, 0.8)`."""
    return lambda paint, *points: Part(shape, points, paint)


polygon, ellipse, ring, box, line = map(_pen, ("polygon", "ellipse", "ring", "box", "line"))


def twice(part: Part) -> tuple[Part, Part]:
    """Returns any part but a box, and its mirror image about x = 0.5."""
    count = 1 if part.shape in ("ellipse", "ring") else len(part.points) // 2
    points = [1 - p if i % 2 == 0 and i < 2 * count else p for i, p in enumerate(part.points)]
    return part, Part(part.shape, tuple(points), part.paint)


def row(paint: str, top: float, bottom: float, width: float, *lefts: float) -> tuple[Part, ...]:
    """Returns equal boxes side by side (legs, windows), for their left edges."""
    return tuple(box(paint, left, top, left + width, bottom) for left in lefts)


def wheels(y: float, radius: float, *xs: float) -> tuple[Part, ...]:
    """Returns wheels with hubs, for centres at height y."""
    tyres = tuple(ellipse("dark", x, y, radius, radius) for x in xs)
    return tyres + tuple(ellipse("metal", x, y, 0.4 * radius, 0.4 * radius) for x in xs)
