"""The edits that change how a picture looks and not what it shows: colour, blur, light and style, at any size."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.collection.vocabulary import COLOURS, LIGHTS, TINTS
from tasks.editing.classical_matting import Alpha, Image, Mask, blend, blur, clean_colours, grow, luma, unit_of

BOKEH_UNITS = 2.5
"""Standard deviation of the background's blur, in 64ths of the shorter side."""
LIGHT_RANGE = (0.45, 1.35)
"""Brightness factor on the far and on the near side of a lamp."""
BODY_SHARE = 0.15
"""If the main-coloured part of a subject is a smaller share of it than this, the whole subject is recoloured."""


def main_coloured(image: Image, mask: Mask) -> Alpha:
    """How much each pixel belongs to the main-coloured part of the subject: a coat, not the face above it."""
    if not mask.any():
        return mask.astype(np.float32)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    inside = grow(mask, -0.5 * unit_of(image))
    inside = inside if inside.any() else mask
    colourful = inside & (np.ptp(image, axis=2) > 0.2)
    if colourful.sum() > 0.35 * inside.sum():
        a, b = _mode(lab[colourful][:, 1:])
        strength = math.hypot(a, b)
        alike = (lab[..., 1] * a + lab[..., 2] * b) / np.maximum(chroma * strength, 1e-3)
        # Dark pixels have little chroma whatever their hue, so the line falls with lightness.
        enough = _rise(chroma, 0.20 * strength * np.clip(lab[..., 0] / 50, 0.5, 1), 0.4)
        weight = _rise(alike, 0.82, 0.12) * enough
    else:
        weight = 1 - _rise(chroma, 18, 0.5)
        usual = float(np.median(lab[inside & (chroma < 18)][:, 0])) if (inside & (chroma < 18)).any() else 0.0
        if usual > 40:
            # The black parts of a light thing are its tyres, hands and letters, not its shadows.
            weight = weight * _rise(lab[..., 0], 0.35 * usual, 0.8)
    weight = blur(weight.astype(np.float32), 0.25 * unit_of(image))
    if weight[inside].mean() < BODY_SHARE:
        return np.ones(mask.shape, np.float32)
    return weight


def _mode(points: NDArray[np.float32], width: float = 8.0) -> tuple[float, float]:
    """Where most of the points are: the centre of the fullest cell of a smoothed histogram."""
    edges = np.arange(-128, 128 + width, width)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=(edges, edges))
    row, column = np.unravel_index(int(cv2.GaussianBlur(counts, (0, 0), 1.0).argmax()), counts.shape)
    return float(edges[row] + width / 2), float(edges[column] + width / 2)


def _rise(values: NDArray, start: float | NDArray, width: float) -> NDArray:
    """A soft step from 0 to 1, from `start` over a share `width` of it."""
    return np.clip((values - start) / (width * np.maximum(start, 1e-6)), 0, 1)


def recolour(image: Image, alpha: Alpha, colour: str) -> Image:
    """Paint what `alpha` covers in a colour, as a paint under the same light: its shadows and highlights stay."""
    sure = alpha > 0.5
    paint = np.asarray(COLOURS[colour], np.float32)
    brightness = luma(image)
    usual = float(np.median(brightness[sure])) if sure.any() else 0.5
    # The offset keeps the grain of a black subject from becoming black and white speckles of its new colour.
    shade = np.clip((brightness + 0.08) / (usual + 0.08), 0, 1)
    shine = np.clip((brightness - usual) / max(1.02 - usual, 0.2), 0, 1)
    # Paint on a thing in the dark is dark paint.
    lit = float(np.clip(0.65 + 0.8 * usual, 0.72, 1))
    shaded = paint * lit * (0.2 + 0.8 * shade[..., None])
    painted = shaded + (1 - shaded) * (0.55 * shine[..., None])
    return np.clip(blend(image, painted, alpha), 0, 1)


def blur_background(image: Image, alpha: Alpha, units: float | None = None) -> Image:
    """Blur what the subject does not cover, as a round aperture does; the subject stays sharp and does not bleed."""
    sigma = (BOKEH_UNITS if units is None else units) * unit_of(image)
    if sigma < 0.3:
        return image.copy()
    behind = (~grow(alpha > 0.02, 0.3 * unit_of(image))).astype(np.float32)
    kernel = _disc(2 * sigma)
    weight = cv2.filter2D(behind, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    # Bright points count for more, as they do in a lens.
    bright = cv2.filter2D(image**1.5 * behind[..., None], -1, kernel, borderType=cv2.BORDER_REPLICATE)
    blurred = np.clip(bright / np.maximum(weight, 1e-4)[..., None], 0, 1) ** (1 / 1.5)
    hidden = weight < 1e-3
    blurred[hidden] = image[hidden]
    return blend(blurred, clean_colours(image, alpha), alpha)


def _disc(radius: float) -> NDArray[np.float32]:
    """A filled disc with a soft rim; its sum is 1 and its standard deviation per axis is half its radius."""
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1)
    return (disc / disc.sum()).astype(np.float32)


def light_field(light: str, tint: str, height: int, width: int, strength: float = 1.0) -> Image:
    """The factor by which a light multiplies an image, (height, width, 3); strength 0 is no change."""
    x, y = LIGHTS[light]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    low, high = LIGHT_RANGE
    full = (low + (high - low) * (0.5 + 0.5 * (across * x + down * y)))[..., None] * np.asarray(TINTS[tint], np.float32)
    return np.asarray(full**strength, np.float32)


def relight(image: Image, field: Image) -> Image:
    """Multiply by a light; highlights are rolled off instead of clipped, so that they keep their drawing."""
    lit = image * field
    knee = 0.85
    over = np.maximum(lit - knee, 0)
    return np.where(lit > knee, knee + (1 - knee) * (1 - np.exp(-over / (1 - knee))), lit).astype(np.float32)


def stylise(image: Image, style: str) -> Image:
    """The four styles; each keeps what the picture shows and where."""
    unit = unit_of(image)
    if style == "mosaic":
        return _mosaic(image)
    brightness = luma(image)
    if style == "sepia photograph":
        # Black fades first on an old print; the tone is brown at every brightness.
        return (0.07 + 0.78 * brightness[..., None]) * np.array([1.168, 0.970, 0.713], np.float32)
    drawn = blur(brightness, 0.12 * unit)
    lines = 3.0 * (blur(brightness, 2 * unit) - drawn) + 0.15 * (1 - brightness)
    if style == "pencil sketch":
        return np.clip(0.93 - lines[..., None] * np.array([0.85, 0.85, 0.80], np.float32), 0, 1)
    if style == "blueprint":
        lines = np.clip(lines, 0, 1)[..., None]
        return np.clip(np.array([0.10, 0.25, 0.62]) + lines * np.array([0.80, 0.70, 0.36]), 0, 1).astype(np.float32)
    raise ValueError(f"unknown style {style!r}")


def _mosaic(image: Image) -> Image:
    """Squares of four units, each of one colour.

    Their edges are rounded one by one, so that the grid is the same at every resolution of a picture.
    """
    side = 4 * unit_of(image)

    def starts(length: int) -> NDArray[np.intp]:
        places = np.rint(np.arange(0, length, side)).astype(np.intp)
        return np.unique(places[places < length])

    rows, columns = starts(image.shape[0]), starts(image.shape[1])
    heights, widths = np.diff(rows, append=image.shape[0]), np.diff(columns, append=image.shape[1])
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, 0), columns, 1)
    means = sums / (heights[:, None] * widths)[..., None]
    return means.astype(np.float32).repeat(heights, 0).repeat(widths, 1)
