"""Finds a sprite in a picture: how the stand-in judge knows what a banana looks like.

A drawn sprite is linear in its colour and in its opacity, so the best colour and opacity at a place have a closed
form (least squares), and recognising is a search over a few places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, Request
from tasks.hp_scorer.measurements import Measured
from tasks.miniature.scenes import SUBJECT_SIZES
from tasks.miniature.sprites import SpriteLayers, sprite_layers
from tasks.miniature.targets import ADDED_BOTTOM, ADDED_CENTRES, ADDED_SIZE

Image = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Sighting:
    """The best fit of a sprite to a picture."""

    explained: float
    """Share of the picture's difference to the bare background that the sprite explains, at most 1."""
    opacity: float
    """0: not there; 1: opaque."""
    alpha: NDArray[np.float64]
    """(H, W) the coverage of the sprite at its place."""
    drawn: NDArray[np.float64]
    """(H, W, 3) the sprite there in its best colour, opaque, premultiplied by the coverage."""


class SpriteRecogniser:
    """Knows the sprites of the miniature world, see `case.Recogniser`."""

    fingerprint = "sprites-1"

    def look(self, seen: Measured, edit_type: EditType, request: Request) -> Sighting:
        """Look for the requested object where an addition or a swap should have put it."""
        assert request.new_category
        if edit_type == EditType.SWAP:
            rows, columns = np.flatnonzero(seen.mask.any(1)), np.flatnonzero(seen.mask.any(0))
            # A sprite's box is square and stands on the ground; the object may be narrower, or lower, than its box.
            extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
            size = min(SUBJECT_SIZES, key=lambda s: abs(s - extent))
            centre, bottom = (columns[0] + columns[-1] + 1) / 2, rows[-1] + 1
            return find_sprite(seen.edited, seen.fill, request.new_category, size, centre, bottom, reach=4)
        assert request.place
        centre = ADDED_CENTRES[request.place]
        return find_sprite(seen.edited, seen.source, request.new_category, ADDED_SIZE, centre, ADDED_BOTTOM, reach=4)


def find_sprite(
    picture: Image, background: Image, category: str, size: int, centre: float, bottom: float, reach: int
) -> Sighting:
    """The best fit of a sprite near a place, either way round.

    Args:
        picture, background: (H, W, 3); the picture, and the same picture without the object as well as one knows.
        size: side of the sprite's box in pixels.
        centre, bottom: where the box is expected, in pixels.
        reach: how far from there to look, in pixels.
    """
    best: tuple[float, Sighting] | None = None
    for flipped in (False, True):
        layers = _float_layers(category, size, flipped)
        for dy in range(-reach, reach + 1, 2):
            for dx in range(-reach, reach + 1, 2):
                fit = _fit(picture, background, layers, round(centre - size / 2) + dx, round(bottom) - size + dy)
                if fit is not None and (best is None or fit[0] > best[0]):
                    best = fit
        if best is not None and best[1].explained > 0.9:
            break
    if best is None:
        return Sighting(0.0, 0.0, np.zeros(picture.shape[:2]), np.zeros(picture.shape))
    return best[1]


@lru_cache(maxsize=1024)
def _float_layers(category: str, size: int, flipped: bool) -> SpriteLayers:
    layers = sprite_layers(category, size, flipped)
    return SpriteLayers(layers.alpha.astype(float), layers.fixed.astype(float), layers.body.astype(float))


def _fit(edited: Image, background: Image, layers: SpriteLayers, left: int, top: int) -> tuple[float, Sighting] | None:
    """Least squares of edited = background + opacity * (fixed + body * colour - alpha * background)."""
    height, width = edited.shape[:2]
    size = len(layers.alpha)
    rows, columns = slice(max(top, 0), min(top + size, height)), slice(max(left, 0), min(left + size, width))
    if rows.stop - rows.start < 0.8 * size or columns.stop - columns.start < 0.8 * size:
        return None
    inner = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    alpha, body = layers.alpha[inner].ravel(), layers.body[inner].ravel()
    base = background[rows, columns].reshape(-1, 3)
    seen = edited[rows, columns].reshape(-1, 3) - base
    opaque = layers.fixed[inner].reshape(-1, 3) - alpha[:, None] * base
    # Without the colour's share first: what remains depends on the opacity alone.
    energy = body @ body
    seen_rest = seen - np.outer(body, body @ seen / energy)
    opaque_rest = opaque - np.outer(body, body @ opaque / energy)
    opacity = float(np.clip((opaque_rest * seen_rest).sum() / max((opaque_rest**2).sum(), 1e-9), 0.05, 1.2))
    colour = np.clip((body @ (seen - opacity * opaque)) / energy / opacity, 0, 1)
    drawn = opaque + np.outer(body, colour)
    error = seen - opacity * drawn
    # Only where the sprite is: what lies beside it is the business of other questions.
    inside = alpha > 0.3
    total = max((seen[inside] ** 2).sum(), (drawn[inside] ** 2).sum())
    explained = 1 - (error[inside] ** 2).sum() / max(total, 1e-9)
    coverage, foreground = np.zeros((height, width)), np.zeros((height, width, 3))
    coverage[rows, columns] = layers.alpha[inner]
    foreground[rows, columns] = layers.fixed[inner] + layers.body[inner][..., None] * colour
    gain = float((seen**2).sum() - (error**2).sum())
    return gain, Sighting(float(explained), opacity, coverage, foreground)
