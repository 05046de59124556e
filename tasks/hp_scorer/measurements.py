"""What can be measured of an edit without knowing its target: how much changed and where, what is left, what is clean.

Images are float64 (H, W, 3) in [0, 1]; masks are bool (H, W). Lengths are in units of one 64th of the image's shorter
side, so that a 64-pixel scene and a photograph are measured alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Measured:
    """A source, its subject and one edited version, with the derived images that several questions need."""

    source: Image
    edited: Image
    mask: Mask

    @cached_property
    def unit(self) -> float:
        """Pixels per unit of length."""
        return min(self.mask.shape) / 64

    @cached_property
    def change(self) -> Image:
        """(H, W) mean absolute difference of the channels, smoothed over a unit so that grain does not count."""
        return soften(np.abs(self.edited - self.source).mean(2), 0.7 * self.unit)

    def grown(self, units: float) -> Mask:
        """The subject's mask, grown by a length."""
        return grow(self.mask, units * self.unit)

    def shrunk(self, units: float) -> Mask:
        """The subject's mask, shrunk by a length, or the mask itself where nothing would remain."""
        inner = ~grow(~self.mask, units * self.unit)
        return inner if inner.sum() >= 8 else self.mask

    @cached_property
    def fill(self) -> Image:
        """The source with its subject filled in from both sides: a guess of what is behind."""
        return fill_in(self.source, self.grown(1), self.unit)


def soften(values: Image, sigma: float) -> Image:
    """Gaussian blur of (H, W) or (H, W, 3)."""
    return ndimage.gaussian_filter(values, (sigma, sigma, 0)[: values.ndim], mode="nearest", truncate=3)


def grow(mask: Mask, pixels: float) -> Mask:
    """All pixels within a distance of the mask."""
    if not mask.any():
        return mask
    return ndimage.distance_transform_edt(~mask) <= pixels


def fill_in(image: Image, hole: Mask, unit: float) -> Image:
    """Fill a hole with the blurred surroundings; wider across than down, since scenes are layered."""
    if not hole.any():
        return image
    known = (~hole).astype(float)
    filled = np.zeros_like(image)
    weight = np.zeros(hole.shape)
    for reach in (4, 12, 48):
        sigma = (0.25 * reach * unit, reach * unit)
        near = ndimage.gaussian_filter(known, sigma, mode="nearest", truncate=3)
        colours = ndimage.gaussian_filter(image * known[..., None], (*sigma, 0), mode="nearest", truncate=3)
        # Farther surroundings count only where nearer ones are too thin.
        share = np.where(weight < 0.05, near, 0.0)
        filled = np.where((share > 1e-6)[..., None], colours / np.maximum(near, 1e-9)[..., None], filled)
        weight = np.maximum(weight, near)
    return np.where(hole[..., None], filled, image)


def share_left(edited: Image, without: Image, old: Image, where: Mask, parts: int = 1) -> float:
    """How much of an old appearance is left, in [0, 1]: 0 like `without`, 1 like `old`.

    The least-squares coefficient of edited - without on old - without; the mean of the whole region's and of the
    worst row band's, so that a small remainder in one corner counts, but less than the whole object would.
    """
    shares = []
    for band in bands(where, parts):
        direction = (old - without)[band]
        energy = (direction**2).sum()
        if energy > 1e-4 * direction.size:
            shares.append(float(np.clip(((edited - without)[band] * direction).sum() / energy, 0, 1)))
    return worst_and_mean(shares)


def worst_and_mean(values: Sequence[float]) -> float:
    """Half way between the mean and the worst of some badnesses; 0 for none."""
    return 0.5 * (max(values) + sum(values) / len(values)) if values else 0.0


def bands(where: Mask, parts: int) -> list[Mask]:
    """Split a region into bands of rows with about equally many pixels."""
    if parts == 1:
        return [where]
    rows = np.flatnonzero(where.any(1))
    if len(rows) < parts:
        return [where]
    total = np.cumsum(where.sum(1))
    split = np.searchsorted(total, total[-1] * np.arange(1, parts) / parts)
    edges = [0, *(int(s) + 1 for s in split), len(where)]
    found = []
    for start, stop in pairwise(edges):
        band = np.zeros_like(where)
        band[start:stop] = where[start:stop]
        if band.any():
            found.append(band)
    return found


def detail(image: Image) -> Image:
    """(H, W) local contrast: the length of the brightness gradient."""
    luma = image @ LUMA
    return np.hypot(ndimage.sobel(luma, 0), ndimage.sobel(luma, 1)) / 8


def edges(image: Image) -> Image:
    """(H, W, 2) the brightness gradient, down and across."""
    luma = image @ LUMA
    return np.stack([ndimage.sobel(luma, 0), ndimage.sobel(luma, 1)], axis=2) / 8


def mean_over(values: Image, where: Mask) -> float:
    """The mean over a region; 0 for an empty one."""
    return float(values[where].mean()) if where.any() else 0.0


def distance_to_shades(image: Image, colour: NDArray[np.float64]) -> Image:
    """(H, W) distance of each pixel to the shades of a colour: the lines from 0.4 of it to it, and on towards white."""
    dark, light = 0.4 * colour, 0.4 + 0.6 * colour
    return np.minimum(_distance_to_line(image, dark, colour), _distance_to_line(image, colour, light))


def _distance_to_line(image: Image, start: NDArray[np.float64], stop: NDArray[np.float64]) -> Image:
    along = stop - start
    position = np.clip((image - start) @ along / max(float(along @ along), 1e-9), 0, 1)
    return np.linalg.norm(image - (start + position[..., None] * along), axis=-1)


def same_hue(image: Image, colour: NDArray[np.float64]) -> Mask:
    """Where the hue is that of a colour; for a grey or white colour, where the pixel is as pale and as bright."""
    chroma = image - image.mean(2, keepdims=True)
    wanted = colour - colour.mean()
    strength, wanted_strength = np.linalg.norm(chroma, axis=2), np.linalg.norm(wanted)
    if wanted_strength < 0.08:
        return (strength < 0.10) & (np.abs(image.mean(2) - colour.mean()) < 0.45) & (image.mean(2) > 0.4)
    alike = (chroma @ wanted) / np.maximum(strength * wanted_strength, 1e-6)
    return (alike > 0.92) & (strength > 0.3 * wanted_strength)


def mosaic(image: Image, unit: float) -> Image:
    """Squares of four units, each of one colour; edges are rounded one by one, so the grid is that of any size."""
    edges = [np.rint(np.arange(0, size, 4 * unit)).astype(int) for size in image.shape[:2]]
    edges = [np.unique(edge[edge < size]) for edge, size in zip(edges, image.shape[:2], strict=True)]
    sides = [np.diff(np.append(edge, size)) for edge, size in zip(edges, image.shape[:2], strict=True)]
    sums = np.add.reduceat(np.add.reduceat(image, edges[0], axis=0), edges[1], axis=1)
    means = sums / (sides[0][:, None] * sides[1][None, :])[..., None]
    return means.repeat(sides[0], 0).repeat(sides[1], 1)


def structure_left(edited: Image, old: Image, where: Mask, unit: float) -> float:
    """How much of an old picture's fine structure is still there, in [0, 1], without knowing what is behind it.

    Local regression of the edited picture's fine structure on the old one's, weighted by how much there was.
    """
    before, after = (image - soften(image, 2 * unit) for image in (old, edited))
    weight = where[..., None].astype(float)
    energy, joint = (before**2 * weight).sum(2), (before * after * weight).sum(2)
    local = np.clip(soften(joint, 3 * unit) / (soften(energy, 3 * unit) + 1e-6), 0, 1)
    shares = [
        float((local * energy)[band].sum() / energy[band].sum())
        for band in bands(where, 4)
        if energy[band].sum() > 1e-4 * band.sum()
    ]
    return worst_and_mean(shares)


def largest_part(mask: Mask, prefer: Mask) -> Mask:
    """The connected part of a mask that covers most of a preferred region, its holes filled."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = ndimage.sum(prefer, labels, range(1, count + 1))
    return ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))


def correlation(first: Image, second: Image, where: Mask) -> float:
    """Pearson correlation over a region; 1 where either is flat there and says nothing."""
    a, b = first[where], second[where]
    a, b = a - a.mean(), b - b.mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b / spread) if spread > 1e-4 * len(a) else 1.0
