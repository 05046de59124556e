"""Filling a hole in a picture with what could be behind it, copied patch by patch from the rest of the picture.

The search for the patches runs on a reduced picture, coarse to fine (`classical_patchmatch`); at full size the places
found there are copied from, so that texture and grain are the photograph's own.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.editing.classical_matting import Image, Mask, blur, distance_to, grow, resize
from tasks.editing.classical_patchmatch import copy, make_level, search

COARSEST = 24
FINEST = 144
"""The shorter side of the reduced picture at the first and at the last level."""
SMOOTH_SIDE = 96
"""The longer side at which the first guess is made."""
MOST_PATCHES = 7_000
"""A larger hole is searched at a smaller size: it bounds the time."""


def fill_hole(image: Image, hole: Mask, rng: np.random.Generator) -> Image:
    """Fill a hole.

    Args:
        image: (H, W, 3) in [0, 1]; what it shows inside the hole does not matter.
        hole: (H, W); may touch the border, must not be everything.
        rng: of the search.

    Returns: the picture, unchanged outside the hole.  Raises: ValueError if nothing is known.
    """
    if hole.all():
        raise ValueError("the hole covers the whole picture")
    if not hole.any():
        return image
    smooth = _smooth_fill(image, hole)
    levels = _sizes(hole)
    found: NDArray[np.float32] | None = None
    for size in levels:
        level = make_level(smooth, hole, size)
        if level is None:
            continue
        guess = level.image if found is None else copy(level, found)
        found = search(level, guess, found, rng, rounds=6 if found is None else 3)
    if found is None:
        return smooth
    return _copy_at_full_size(image, smooth, hole, found)


def _smooth_fill(image: Image, hole: Mask) -> Image:
    """A first guess: surroundings blurred into the hole, nearer ones first, wider across than down."""
    height, width = hole.shape
    scale = min(1.0, SMOOTH_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    known = resize((~hole).astype(np.float32), size)
    colours = resize(image * (~hole)[..., None].astype(np.float32), size)
    filled = colours / np.maximum(known, 1e-6)[..., None]
    missing = known < 0.05
    reach = 1.0
    while missing.any() and reach < 4 * SMOOTH_SIDE:
        near = cv2.GaussianBlur(known, (0, 0), 2 * reach, sigmaY=reach, borderType=cv2.BORDER_REPLICATE)
        spread = cv2.GaussianBlur(colours, (0, 0), 2 * reach, sigmaY=reach, borderType=cv2.BORDER_REPLICATE)
        new = missing & (near > 0.02)
        filled[new] = spread[new] / near[new][:, None]
        missing &= ~new
        reach *= 1.6
    filled[missing] = image[~hole].mean(0)
    wide = resize(blur(filled, 1.0), (width, height), cv2.INTER_LINEAR)
    return np.where(hole[..., None], wide, image)


def _sizes(hole: Mask) -> list[tuple[int, int]]:
    """(width, height) of the levels, coarse to fine."""
    height, width = hole.shape
    short = min(height, width)
    finest = min(FINEST, short, max(COARSEST, int(short * np.sqrt(MOST_PATCHES / max(hole.sum(), 1)))))
    shorts = [finest]
    while shorts[-1] > 1.6 * COARSEST:
        shorts.append(max(COARSEST, round(shorts[-1] / 1.8)))
    return [(max(8, round(width * s / short)), max(8, round(height * s / short))) for s in reversed(shorts)]


def _copy_at_full_size(image: Image, smooth: Image, hole: Mask, found: NDArray[np.float32]) -> Image:
    """Copy from the found places, mixed where neighbouring patches disagree, and match the hole's rim in colour."""
    height, width = hole.shape
    rows, columns = found.shape[:2]
    y, x = np.nonzero(hole)
    v, u = (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5
    below, right = np.floor(v).astype(np.intp), np.floor(u).astype(np.intp)
    colours = np.zeros((len(y), 3), np.float32)
    total = np.zeros(len(y), np.float32)
    for j in (0, 1):
        for i in (0, 1):
            row, column = np.clip(below + j, 0, rows - 1), np.clip(right + i, 0, columns - 1)
            share = (np.abs(1 - j - (v - below)) * np.abs(1 - i - (u - right))).astype(np.float32)
            dy, dx = np.rint(found[row, column] * (height, width)).astype(np.intp).T
            there_y, there_x = np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)
            share = np.where(hole[there_y, there_x], 0, share)
            colours += share[:, None] * image[there_y, there_x]
            total += share
    filled = image.copy()
    filled[y, x] = np.where((total > 1e-3)[:, None], colours / np.maximum(total, 1e-3)[:, None], smooth[y, x])
    return _match_rim(image, filled, hole)


def _match_rim(image: Image, filled: Image, hole: Mask) -> Image:
    """Remove the step in coarse colour at the hole's rim, spread smoothly into the hole."""
    unit = min(hole.shape) / 64
    ring = grow(hole, 2 * unit) & ~hole
    inner = hole & (distance_to(~hole) <= 2 * unit)
    sigma = 2 * unit

    def coarse(where: Mask) -> tuple[NDArray, NDArray]:
        weight = where.astype(np.float32)
        near = blur(weight, sigma)
        return blur(filled * weight[..., None], sigma) / np.maximum(near, 1e-5)[..., None], near

    outside, near_outside = coarse(ring)
    inside, near_inside = coarse(inner)
    sure = np.minimum(near_outside, near_inside) > 0.02
    step = np.where(sure[..., None], outside - inside, 0)
    # A large step is an edge of the scene that happens to lie at the rim, and no business of ours.
    step *= np.exp(-((np.abs(step).max(2, keepdims=True) / 0.08) ** 2))
    fading = np.exp(-distance_to(~hole) / (3 * unit)).astype(np.float32)
    corrected = filled + np.where(hole[..., None], blur(step.astype(np.float32), unit) * fading[..., None], 0)
    return np.where(hole[..., None], np.clip(corrected, 0, 1), image).astype(np.float32)
