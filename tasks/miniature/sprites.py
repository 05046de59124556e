"""Rasterises the vector sprites of `sprite_art` into layers that are linear in the sprite's colour.

Colours are RGB triples in [0, 1]. A sprite of body colour c is drawn as

    premultiplied rgb = fixed + body[..., None] * c

so recolouring a subject needs no new rasterisation, and compositing it over a scene is
`rgb + (1 - alpha[..., None]) * scene`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from tasks.miniature.sprite_art import SPRITES
from tasks.miniature.sprite_parts import Part

SUPERSAMPLING = 8

CATEGORIES: tuple[str, ...] = tuple(SPRITES)

# A paint is (f, b): its colour is f + b * c for the body colour c.
_BODY_PAINTS: dict[str, tuple[tuple[float, float, float], float]] = {
    "body": ((0.0, 0.0, 0.0), 1.0),
    "shade": ((0.0, 0.0, 0.0), 0.6),
    "light": ((0.4, 0.4, 0.4), 0.6),
}
_FIXED_PAINTS: dict[str, tuple[float, float, float]] = {
    "dark": (0.13, 0.13, 0.16),
    "white": (0.97, 0.97, 0.95),
    "glass": (0.72, 0.87, 0.96),
    "metal": (0.62, 0.64, 0.68),
    "leaf": (0.22, 0.60, 0.25),
    "wood": (0.45, 0.28, 0.15),
    "dough": (0.84, 0.62, 0.36),
    "amber": (0.95, 0.48, 0.06),
}
PAINTS: dict[str, tuple[tuple[float, float, float], float]] = {
    **_BODY_PAINTS,
    **{name: (colour, 0.0) for name, colour in _FIXED_PAINTS.items()},
}


@dataclass(frozen=True)
class SpriteLayers:
    """A rasterised sprite, split into what depends on its colour and what does not.

    Attributes:
        alpha: (S, S) float32 in [0, 1], the opacity.
        fixed: (S, S, 3) float32 in [0, 1], the premultiplied rgb that no recolouring changes.
        body: (S, S) float32 in [0, 1], the factor by which the body colour enters.
    """

    alpha: np.ndarray
    fixed: np.ndarray
    body: np.ndarray


def _draw_mask(part: Part, size: int) -> np.ndarray:
    """Draws the coverage of one part.

    Args:
        part: The part, in unit coordinates.
        size: Side S of the mask in pixels.

    Returns:
        (S, S) float32 in [0, 1], the share of each pixel that the part covers.
    """
    side = size * SUPERSAMPLING
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    p = [value * side for value in part.points]

    def ellipse(cx: float, cy: float, rx: float, ry: float, *, fill: int = 255) -> None:
        # PIL counts the last row and column as inside.
        draw.ellipse((cx - rx, cy - ry, max(cx + rx - 1, cx - rx), max(cy + ry - 1, cy - ry)), fill=fill)

    if part.shape == "polygon":
        draw.polygon(p, fill=255)
    elif part.shape == "ellipse":
        ellipse(*p)
    elif part.shape == "ring":
        cx, cy, rx, ry, width = p
        ellipse(cx, cy, rx, ry)
        ellipse(cx, cy, rx - width, ry - width, fill=0)
    elif part.shape == "box":
        draw.rectangle((p[0], p[1], max(p[2] - 1, p[0]), max(p[3] - 1, p[1])), fill=255)
    elif part.shape == "line":
        *path, width = p
        draw.line(path, fill=255, width=max(1, round(width)))
        for x, y in zip(path[::2], path[1::2], strict=True):
            ellipse(x, y, width / 2, width / 2)
    else:
        raise ValueError(f"unknown shape {part.shape!r}")
    blocks = np.asarray(image, dtype=np.float32).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING)
    return blocks.mean(axis=(1, 3)) / 255


@cache
def sprite_layers(category: str, size: int, flipped: bool = False) -> SpriteLayers:
    """Rasterises the sprite of a category.

    Args:
        category: One of CATEGORIES.
        size: Side S of the sprite's box in pixels, at least 1.
        flipped: Whether to mirror the sprite left to right.

    Returns:
        The layers of the sprite; their arrays are shared between calls and therefore read-only.

    Raises:
        ValueError: If the category has no sprite.
    """
    if category not in SPRITES:
        raise ValueError(f"no sprite for category {category!r}; known: {', '.join(CATEGORIES)}")
    alpha = np.zeros((size, size), dtype=np.float32)
    fixed = np.zeros((size, size, 3), dtype=np.float32)
    body = np.zeros((size, size), dtype=np.float32)
    for part in SPRITES[category].parts:
        mask = _draw_mask(part, size)
        part_fixed, part_body = PAINTS[part.paint]
        fixed = fixed * (1 - mask[..., None]) + mask[..., None] * np.asarray(part_fixed, dtype=np.float32)
        body = body * (1 - mask) + mask * np.float32(part_body)
        alpha = alpha * (1 - mask) + mask
    layers = [np.ascontiguousarray(a[:, ::-1]) if flipped else a for a in (alpha, fixed, body)]
    for layer in layers:
        layer.flags.writeable = False
    return SpriteLayers(*layers)
