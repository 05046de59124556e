"""PatchMatch on one size of a picture: for every patch that overlaps a hole, its like in the known part.

Matching (Barnes et al., 2009) and voting (Wexler et al., 2004) take turns, in numpy: all patches try the same kind of
candidate at once, so a round is a few dozen array operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tasks.editing.classical_matting import Image, Mask, resize

RADIUS = 3
"""Patches are squares of 2 * RADIUS + 1 pixels."""
DOWN_COST, ACROSS_COST = 0.02, 0.004
"""What fetching a patch from farther away costs, in mean squared difference per (share of the picture)^2; scenes are
layered, so a source at the same height is likelier."""

_Index = NDArray[np.intp]
_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """One size of the picture: its known patches, and where to look."""

    image: Image
    hole: Mask
    targets: _Index
    """(N, 2) centres of the patches that overlap the hole."""
    allowed: Mask
    """Centres of the patches that are wholly known."""


def make_level(smooth: Image, hole: Mask, size: tuple[int, int]) -> Level | None:
    """One level, or None where no whole patch is known."""
    covered = resize(hole.astype(np.float32), size) > 0.02
    near = _near(covered)
    inside = np.zeros_like(covered)
    inside[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
    allowed = inside & ~near
    if allowed.sum() < 20 or not covered.any():
        return None
    return Level(image=resize(smooth, size), hole=covered, targets=np.argwhere(near), allowed=allowed)


def _near(hole: Mask) -> Mask:
    """Centres of the patches that overlap the hole."""
    return cv2.dilate(hole.astype(np.uint8), np.ones((2 * RADIUS + 1,) * 2, np.uint8)) > 0


def _patches(image: Image) -> _Floats:
    """(H, W, 3 * side^2) the patch around every pixel."""
    padded = np.pad(image, ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)), mode="reflect")
    windows = sliding_window_view(padded, (2 * RADIUS + 1, 2 * RADIUS + 1), axis=(0, 1))
    return np.ascontiguousarray(windows).reshape(*image.shape[:2], -1)


def search(level: Level, guess: Image, found: _Floats | None, rng: np.random.Generator, rounds: int) -> _Floats:
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
        wide = resize(found, (int(shape[1]), int(shape[0])), cv2.INTER_NEAREST)
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


def _cost(known: NDArray, wanted: NDArray, targets: _Index, sources: _Index, shape: NDArray) -> _Floats:
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


def _vote(level: Level, sources: _Index, costs: NDArray, confidence: NDArray) -> Image:
    """Every pixel of the hole as the mean of what the patches over it say."""
    height, width = level.hole.shape
    scale = float(np.quantile(costs, 0.75)) + 1e-6
    weights = (np.exp(-costs / scale) * confidence[tuple(level.targets.T)]).astype(np.float32)
    total = np.zeros((height, width), np.float32)
    colours = np.zeros_like(level.image)
    for dy in range(-RADIUS, RADIUS + 1):
        for dx in range(-RADIUS, RADIUS + 1):
            y, x = (level.targets + np.array((dy, dx))).T
            ok = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            y, x = y[ok], x[ok]
            # One offset moves distinct centres to distinct pixels, so plain indexed addition is enough.
            total[y, x] += weights[ok]
            colours[y, x] += weights[ok][:, None] * level.image[tuple((sources[ok] + np.array((dy, dx))).T)]
    voted = colours / np.maximum(total, 1e-8)[..., None]
    return np.where(level.hole[..., None], voted, level.image)


def copy(level: Level, found: _Floats) -> Image:
    """A level's picture with its hole copied from the offsets of a coarser one."""
    height, width = level.hole.shape
    offsets = resize(found, (width, height), cv2.INTER_NEAREST)
    return _fetch(level.image, level.hole, offsets)


def _fetch(image: Image, where: Mask, offsets: _Floats) -> Image:
    """The picture with some pixels copied from elsewhere."""
    height, width = where.shape
    y, x = np.nonzero(where)
    dy, dx = np.rint(offsets[y, x] * (height, width)).astype(np.intp).T
    copied = image.copy()
    copied[y, x] = image[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
    return copied
