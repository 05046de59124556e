"""Procedural backgrounds: twelve kinds of place, each with variations, at any size.

`paint` is float64 throughout, because numpy's float32 transcendental functions differ in the last bit between
processors, and a rendered world must have the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tasks.collection.vocabulary import BACKGROUNDS

Image = NDArray[np.float64]
"""(H, W, 3), sRGB in [0, 1]."""
_Grid = NDArray[np.floating]
_Dice = Callable[[float, float], float]
"""Draws a number between two bounds; the canonical variation takes the middle."""

BUSY = frozenset({"brick wall", "wooden wall", "tiles", "stripes", "polka dots", "city"})
"""Kinds whose texture is strong: where people edit carelessly, see `sloppiness.probability`."""


def _mix(first: tuple[float, ...] | Image, second: tuple[float, ...] | Image, weight: _Grid) -> Image:
    return np.asarray(first) * (1 - weight[..., None]) + np.asarray(second) * weight[..., None]


def _step(values: _Grid, sharpness: float = 40.0) -> _Grid:
    """A soft step from 0 to 1 where `values` crosses 0, about one pixel wide at 64 pixels."""
    return np.clip(0.5 + sharpness * values, 0.0, 1.0)


def _wave(values: _Grid) -> _Grid:
    return 0.5 + 0.5 * np.sin(2 * np.pi * values)


def _beach(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    horizon, shore = dice(0.33, 0.43), dice(0.62, 0.70)
    sea = _mix((0.10, 0.45, 0.70), (0.75, 0.92, 0.96), (_wave(v * 13 + 0.25 * np.sin(9 * u + dice(0, 6))) > 0.85) * 0.8)
    sand = _mix(
        (0.93, 0.83, 0.60), (0.80, 0.67, 0.44), (_wave(u * 9 + v * 4 + dice(0, 1)) * _wave(v * 11 - u * 3)) ** 2
    )
    sky = _mix((0.45, 0.75, 0.96), (0.85, 0.95, 1.0), np.clip(v / horizon, 0, 1))
    ground = _mix(sea, sand, _step(v - shore + 0.02 * np.sin(11 * u + dice(0, 6))))
    return _mix(sky, ground, _step(v - horizon))


def _meadow(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    horizon = dice(0.32, 0.42) + 0.04 * np.sin(5 * u + dice(0, 6))
    tufts = _wave(u * 11 + 0.5 * np.floor(v * 9) + dice(0, 1)) * _wave(v * 9)
    grass = _mix((0.42, 0.70, 0.24), (0.22, 0.48, 0.14), np.clip(1.6 * tufts - 0.3, 0, 1))
    return _mix(_mix((0.50, 0.78, 0.98), (0.80, 0.93, 0.99), np.clip(v * 2.5, 0, 1)), grass, _step(v - horizon))


def _night_sky(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    shift = dice(0, 1)
    sky = _mix((0.03, 0.04, 0.16), (0.16, 0.14, 0.38), np.clip(v, 0, 1))
    row = np.floor(v * 7)
    column = u * 6 + 0.37 * row + shift
    distance = np.hypot((column - np.floor(column) - 0.5) / 6, (v * 7 - row - 0.5) / 7)
    stars = np.clip(1.8 - distance * 60, 0, 1)
    hills = _step(v - 0.80 - 0.05 * np.sin(6 * u + 6 * shift))
    return _mix(_mix(sky, (1.0, 0.97, 0.80), stars), (0.05, 0.10, 0.09), hills)


def _snowy_hill(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    horizon = dice(0.46, 0.54) + 0.07 * np.sin(4 * u + dice(0, 6))
    shift = dice(0, 1)
    column = u * 6 + shift
    inside = np.abs(column - np.floor(column) - 0.5)
    trees = _step(0.16 * (v - horizon + 0.30) / 0.30 * 2 - inside / 1.6, 20) * _step(v - horizon + 0.28)
    sky = _mix((0.66, 0.76, 0.86), (0.86, 0.90, 0.95), np.clip(v * 2, 0, 1))
    snow = _mix((0.95, 0.97, 1.0), (0.78, 0.85, 0.95), _wave(v * 8 + 0.6 * np.sin(6 * u + 6 * shift)) ** 2)
    return _mix(_mix(sky, (0.10, 0.32, 0.26), trees), snow, _step(v - horizon))


def _desert(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    horizon = dice(0.36, 0.46) + 0.05 * np.sin(5 * u + dice(0, 6))
    ripples = _wave(v * 12 + 0.5 * np.sin(8 * u + dice(0, 6)) + u * 2)
    sand = _mix((0.93, 0.66, 0.36), (0.74, 0.43, 0.20), ripples**2)
    return _mix(_mix((0.98, 0.86, 0.62), (1.0, 0.95, 0.80), np.clip(v * 2.5, 0, 1)), sand, _step(v - horizon))


def _sunset(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    horizon, sun = dice(0.64, 0.72), dice(0.2, 0.8)
    sky = _mix((0.36, 0.18, 0.48), (1.0, 0.55, 0.22), np.clip(v / horizon, 0, 1))
    clouds = np.clip(_wave(v * 7 + 0.35 * np.sin(5 * u + dice(0, 6))) * 2 - 1, 0, 1)
    sky = _mix(sky, (0.80, 0.30, 0.42), 0.8 * clouds)
    sky = _mix(sky, (1.0, 0.90, 0.55), _step(0.10 - np.hypot(u - sun, v - horizon + 0.10)))
    water = _mix((0.30, 0.16, 0.34), (0.95, 0.52, 0.30), _wave(v * 15 + 0.3 * np.sin(9 * u)) * 0.8)
    return _mix(sky, water, _step(v - horizon))


def _brick_wall(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    rows = v * 9 + dice(0, 1)
    row = np.floor(rows)
    columns = u * 5 + 0.5 * (row % 2) + dice(0, 1)
    column = np.floor(columns)
    mortar = np.maximum(_step(np.abs(rows - row - 0.5) - 0.40, 12), _step(np.abs(columns - column - 0.5) - 0.43, 12))
    shade = 0.5 + 0.5 * np.sin(column * 2.3 + row * 1.7)
    warmth = dice(-0.08, 0.08)
    brick = _mix((0.62 + warmth, 0.28, 0.20), (0.76 + warmth, 0.40, 0.28), shade)
    return _mix(brick, (0.84, 0.80, 0.74), mortar)


def _wooden_wall(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    columns = u * 6 + dice(0, 1)
    column = np.floor(columns)
    gap = _step(np.abs(columns - column - 0.5) - 0.42, 14)
    grain = _wave(v * 5 + 0.7 * np.sin(column * 2.1 + dice(0, 6)) + 0.3 * np.sin(u * 40))
    tone = dice(-0.05, 0.05)
    wood = _mix((0.70 + tone, 0.50 + tone, 0.30), (0.54 + tone, 0.35 + tone, 0.18), grain)
    return _mix(wood, (0.25, 0.15, 0.08), gap)


def _tiles(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    x, y = np.floor(u * 8 + dice(0, 1)), np.floor(v * 8 + dice(0, 1))
    green = dice(0.52, 0.72)
    return _mix((0.90, 0.92, 0.90), (0.35, green, 0.70), (x + y) % 2)


def _stripes(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    slope = 0.6 if dice(-1, 1) > 0 else -0.6
    red = dice(0.55, 0.80)
    return _mix((0.94, 0.90, 0.80), (red, 0.55, 0.62), _step(_wave(u * 6 + slope * v * 6 + dice(0, 1)) - 0.5, 4))


def _polka_dots(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    rows = v * 6 + dice(0, 1)
    row = np.floor(rows)
    columns = u * 6 + 0.5 * (row % 2) + dice(0, 1)
    distance = np.hypot(columns - np.floor(columns) - 0.5, rows - row - 0.5)
    return _mix((0.30, 0.55, dice(0.55, 0.75)), (0.97, 0.95, 0.88), _step(0.28 - distance, 8))


def _city(u: _Grid, v: _Grid, dice: _Dice) -> Image:
    shift = dice(0, 1)
    block = np.floor(u * 6 + shift)
    top = 0.28 + 0.16 * np.sin(block * 2.7 + 1.3)
    houses = _mix((0.38, 0.42, 0.50), (0.55, 0.52, 0.50), 0.5 + 0.5 * np.sin(block * 5.1))
    x, y = u * 12 + 2 * shift, v * 12
    windows = (np.abs(x - np.floor(x) - 0.5) < 0.24) & (np.abs(y - np.floor(y) - 0.5) < 0.24) & (v < 0.80)
    houses = _mix(houses, (0.98, 0.90, 0.55), windows.astype(float))
    picture = _mix(_mix((0.60, 0.80, 0.95), (0.86, 0.92, 0.97), np.clip(v * 2, 0, 1)), houses, _step(v - top))
    return _mix(picture, (0.45, 0.46, 0.48), _step(v - 0.82))


_PAINTERS: dict[str, Callable[[_Grid, _Grid, _Dice], Image]] = {
    "beach": _beach,
    "meadow": _meadow,
    "night sky": _night_sky,
    "brick wall": _brick_wall,
    "snowy hill": _snowy_hill,
    "desert": _desert,
    "wooden wall": _wooden_wall,
    "sunset": _sunset,
    "tiles": _tiles,
    "stripes": _stripes,
    "polka dots": _polka_dots,
    "city": _city,
}
KINDS = tuple(_PAINTERS)
VARIATIONS = 2
"""Values that each property of a background can take."""
assert set(BACKGROUNDS) <= set(KINDS)


def paint(kind: str, height: int, width: int, rng: np.random.Generator | None = None) -> Image:
    """Paint a background.

    Args:
        kind: one of `KINDS`.
        height, width: in pixels.
        rng: draws the variation (phases, horizon, hue); None gives the canonical one, the middle of every range.

    Returns: (height, width, 3) float64, sRGB in [0, 1].  Raises: ValueError for an unknown kind.
    """
    if kind not in _PAINTERS:
        raise ValueError(f"unknown background {kind!r}; known: {', '.join(KINDS)}")
    v, u = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")

    def dice(low: float, high: float) -> float:
        # Few values of each: a hidden part of a background can then be told from the part that is seen.
        share = 0.5 if rng is None else (int(rng.integers(VARIATIONS)) + 0.5) / VARIATIONS
        return low + share * (high - low)

    return np.clip(_PAINTERS[kind](u, v, dice), 0.0, 1.0)
