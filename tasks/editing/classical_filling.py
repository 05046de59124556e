"""Filling a hole in a picture with what could be behind it, copied patch by patch from the rest of the picture.

A small PatchMatch (Barnes et al., 2009) under the coarse-to-fine scheme of Wexler et al. (2004), in numpy: every
patch that overlaps the hole looks for its like in the known part, and the found patches vote for the hole's pixels.
The search runs on a reduced picture; at full size the places found there are copied from, so that texture and grain
are the photograph's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tasks.editing.classical_matting import Image, Mask, blur, distance_to, grow

RADIUS = 3
"""Patches are squares of 2 * RADIUS + 1 pixels of the reduced picture."""
COARSEST = 24
FINEST = 144
"""The shorter side of the reduced picture at the first and at the last level."""
SMOOTH_SIDE = 96
"""The longer side at which the first guess is made."""
MOST_PATCHES = 7_000
"""A larger hole is searched at a smaller size: it bounds the time."""
DOWN_COST, ACROSS_COST = 0.02, 0.004
"""What fetching a patch from farther away costs, in mean squared difference per (share of the picture)^2; scenes are
layered, so a source in the same height is likelier."""

_Index = NDArray[np.intp]


@dataclass(frozen=True)
class _Level:
    """One size of the picture: its known patches, and where to look."""

    image: Image
    hole: Mask
    targets: _Index
    """(N, 2) centres of the patches that overlap the hole."""
    allowed: Mask
    """Centres of the patches that are wholly known."""


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
        level = _level(smooth, hole, size)
        if level is None:
            continue
        guess = cv2.resize(smooth, size, interpolation=cv2.INTER_AREA) if found is None else _copy(level, found)
        found = _search(level, guess, found, rng, rounds=6 if found is None else 3)
    if found is None:
        return smooth
    return _copy_at_full_size(image, smooth, hole, found)


def _smooth_fill(image: Image, hole: Mask) -> Image:
    """A first guess: surroundings blurred into the hole, nearer ones first, wider across than down."""
    height, width = hole.shape
    scale = min(1.0, SMOOTH_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    known = cv2.resize((~hole).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    colours = cv2.resize(image * (~hole)[..., None].astype(np.float32), size, interpolation=cv2.INTER_AREA)
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
    wide = cv2.resize(blur(filled, 1.0), (width, height), interpolation=cv2.INTER_LINEAR)
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


def _level(smooth: Image, hole: Mask, size: tuple[int, int]) -> _Level | None:
    """One level, or None where no whole patch is known."""
    covered = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.02
    near = _near(covered)
    inside = np.zeros_like(covered)
    inside[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
    allowed = inside & ~near
    if allowed.sum() < 20 or not covered.any():
        return None
    image = cv2.resize(smooth, size, interpolation=cv2.INTER_AREA)
    return _Level(image=image, hole=covered, targets=np.argwhere(near), allowed=allowed)


def _near(hole: Mask) -> Mask:
    """Centres of the patches that overlap the hole."""
    return cv2.dilate(hole.astype(np.uint8), np.ones((2 * RADIUS + 1,) * 2, np.uint8)) > 0


def _patches(image: Image) -> NDArray[np.float32]:
    """(H, W, 3 * side^2) the patch around every pixel."""
    padded = np.pad(image, ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)), mode="reflect")
    windows = sliding_window_view(padded, (2 * RADIUS + 1, 2 * RADIUS + 1), axis=(0, 1))
    return np.ascontiguousarray(windows).reshape(*image.shape[:2], -1)


def _search(
    level: _Level, guess: Image, found: NDArray[np.float32] | None, rng: np.random.Generator, rounds: int
) -> NDArray[np.float32]:
    """Match and vote in turns. Returns: (H, W, 2) the offset of each pixel's source as a share of the picture."""
    shape = np.array(level.hole.shape)
    known = _patches(level.image)
    choices = np.argwhere(level.allowed)
    targets = level.targets
    number = np.full(level.hole.shape, -1)
    number[tuple(targets.T)] = np.arange(len(targets))
    if found is None:
        sources = choices[rng.integers(len(choices), size=len(targets))]
    else:
        wide = cv2.resize(found, tuple(shape[::-1].tolist()), interpolation=cv2.INTER_NEAREST)
        sources = targets + np.rint(wide[tuple(targets.T)] * shape).astype(np.intp)
        bad = ~_inside(sources, level.allowed)
        sources[bad] = choices[rng.integers(len(choices), size=bad.sum())]
    confidence = 1.3 ** -cv2.distanceTransform(level.hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    drawn = np.where(level.hole[..., None], guess, level.image)
    for _ in range(rounds):
        wanted = _patches(drawn)[tuple(targets.T)]
        costs = _cost(known, wanted, targets, sources, shape)
        for step in (1, 2, 1):
            for move in ((0, step), (0, -step), (step, 0), (-step, 0)):
                neighbour = np.clip(targets + move, 0, shape - 1)
                there = number[tuple(neighbour.T)]
                offered = np.where((there >= 0)[:, None], sources[there] - move, sources)
                _improve(known, wanted, targets, sources, costs, offered, level.allowed)
            reach = max(shape) // 2
            while reach >= 1:
                offered = sources + rng.integers(-reach, reach + 1, size=sources.shape)
                _improve(known, wanted, targets, sources, costs, offered, level.allowed)
                reach //= 3
        drawn = _vote(level, sources, costs, confidence)
    offsets = np.zeros((*level.hole.shape, 2), np.float32)
    offsets[tuple(targets.T)] = (sources - targets) / shape
    return offsets


def _inside(places: _Index, allowed: Mask) -> NDArray[np.bool_]:
    within = ((places >= 0) & (places < allowed.shape)).all(1)
    clipped = np.clip(places, 0, np.array(allowed.shape) - 1)
    return within & allowed[tuple(clipped.T)]


def _cost(known: NDArray, wanted: NDArray, targets: _Index, sources: _Index, shape: NDArray) -> NDArray[np.float32]:
    difference = wanted - known[tuple(sources.T)]
    apart = (sources - targets) / shape
    far = DOWN_COST * apart[:, 0] ** 2 + ACROSS_COST * apart[:, 1] ** 2
    return (np.einsum("nd,nd->n", difference, difference) / wanted.shape[1] + far).astype(np.float32)


def _improve(
    known: NDArray, wanted: NDArray, targets: _Index, sources: _Index, costs: NDArray, offered: _Index, allowed: Mask
) -> None:
    """Take the offered sources where they cost less; changes `sources` and `costs`."""
    rows = np.flatnonzero(_inside(offered, allowed) & (offered != sources).any(1))
    if len(rows) == 0:
        return
    new = _cost(known, wanted[rows], targets[rows], offered[rows], np.array(allowed.shape))
    better = new < costs[rows]
    sources[rows[better]] = offered[rows[better]]
    costs[rows[better]] = new[better]


def _vote(level: _Level, sources: _Index, costs: NDArray, confidence: NDArray) -> Image:
    """Every pixel of the hole as the mean of what the patches over it say."""
    height, width = level.hole.shape
    scale = float(np.quantile(costs, 0.75)) + 1e-6
    weights = (np.exp(-costs / scale) * confidence[tuple(level.targets.T)]).astype(np.float32)
    total = np.zeros((height, width), np.float32)
    colours = np.zeros_like(level.image)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            y, x = (level.targets + (dy, dx)).T
            ok = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            y, x = y[ok], x[ok]
            # One offset moves distinct centres to distinct pixels, so plain indexed addition is enough.
            total[y, x] += weights[ok]
            colours[y, x] += weights[ok][:, None] * level.image[tuple((sources[ok] + (dy, dx)).T)]
    voted = colours / np.maximum(total, 1e-8)[..., None]
    return np.where(level.hole[..., None], voted, level.image)


def _copy(level: _Level, found: NDArray[np.float32]) -> Image:
    """A level's picture with its hole copied from the offsets of a coarser one."""
    height, width = level.hole.shape
    offsets = cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)
    return _fetch(level.image, level.hole, offsets)


def _fetch(image: Image, where: Mask, offsets: NDArray[np.float32]) -> Image:
    """The picture with some pixels copied from elsewhere."""
    height, width = where.shape
    y, x = np.nonzero(where)
    dy, dx = np.rint(offsets[y, x] * (height, width)).astype(np.intp).T
    copied = image.copy()
    copied[y, x] = image[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
    return copied


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
