"""Objects cut out of photographs by their masks: what the classical editor adds and swaps in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from storage.records import identity
from tasks.editing.classical_matting import as_bytes, as_floats, clean_colours, matte, resize, unit_of

PER_CATEGORY = 8
"""How many objects of a category are kept, the best ones."""
SMALLEST_AREA = 1_500
"""Pixels of the mask; smaller objects show too little to be enlarged."""
LARGEST_SIDE = 256
LARGEST_COMPONENT = 0.85
"""Share of the mask in one piece, at least: an object in pieces is hidden behind something."""
FILLED = 0.25
"""Share of its bounding box that an object fills, at least."""
GOOD_ENOUGH = 0.5
"""Of a category, only objects with at least this share of the best one's worth are kept."""


@dataclass(frozen=True, slots=True)
class Cutout:
    """One object without its surroundings."""

    rgb: NDArray[np.uint8]
    """(h, w, 3) sRGB; its own colours to the very rim."""
    alpha: NDArray[np.uint8]
    """(h, w) opacity, 255 is opaque."""

    @property
    def name(self) -> str:
        """The content hash."""
        return identity(list(self.alpha.shape), self.rgb.tobytes(), self.alpha.tobytes())


@dataclass(frozen=True)
class Cutouts:
    """A library of objects by category; build it with `from_objects`."""

    by_category: Mapping[str, tuple[Cutout, ...]]

    @classmethod
    def from_objects(
        cls, objects: Iterable[tuple[str, NDArray[np.uint8], NDArray[np.bool_]]], per_category: int = PER_CATEGORY
    ) -> Cutouts:
        """Cut out the usable objects and keep the best of every category, whatever their order.

        Args:
            objects: category, picture (H, W, 3) and mask (H, W) of each; read one by one, so a generator may
                stream photographs.
            per_category: how many to keep.
        """
        kept: dict[str, dict[str, tuple[float, Cutout]]] = {}
        for category, source, mask in objects:
            worth = _worth(mask)
            best = kept.setdefault(category, {})
            if worth is None or (len(best) == per_category and worth < min(w for w, _ in best.values())):
                continue
            cutout = _cut(source, mask)
            best[cutout.name] = (worth, cutout)
            if len(best) > per_category:
                # By content where equally good, so that the order of the objects does not matter.
                del best[min(best, key=lambda name: (best[name][0], name))]
        return cls({category: _good_enough(best) for category, best in sorted(kept.items()) if best})

    @property
    def categories(self) -> tuple[str, ...]:
        """What there is, sorted."""
        return tuple(sorted(self.by_category))

    def find(self, category: str, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """An object of a category, as (rgb (h, w, 3), alpha (h, w)), or None if there is none; same seed, same one."""
        found = self.by_category.get(category, ())
        if not found:
            return None
        cutout = found[int(identity(category, seed), 16) % len(found)]
        return cutout.rgb, cutout.alpha


def _good_enough(best: Mapping[str, tuple[float, Cutout]]) -> tuple[Cutout, ...]:
    """The objects that are not much worse than the best, in an order that only their content decides."""
    least = GOOD_ENOUGH * max(worth for worth, _ in best.values())
    return tuple(cutout for _, (worth, cutout) in sorted(best.items()) if worth >= least)


def _worth(mask: NDArray[np.bool_]) -> float | None:
    """How good an object will look, in (0, 1], or None for an unusable one."""
    area = int(mask.sum())
    if area < SMALLEST_AREA:
        return None
    y, x, height, width = _box(mask)
    # Outlines often stop a pixel or two before the border that cuts the object off.
    near = max(1, round(0.3 * unit_of(mask)))
    gaps = (y, x, mask.shape[0] - y - height, mask.shape[1] - x - width)
    touched = sum(gap < near for gap in gaps)
    object_mask = mask[y : y + height, x : x + width].astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(object_mask)
    together = float(stats[1:, cv2.CC_STAT_AREA].max()) / area
    if touched > 1 or together < LARGEST_COMPONENT or area < FILLED * height * width:
        return None
    hull = cv2.convexHull(np.argwhere(mask).astype(np.int32))
    solid = min(1.0, area / max(cv2.contourArea(hull), 1.0))
    # An object cut off by the border looks cut off wherever it is pasted; one full of bays stood behind something.
    return together * solid * min(1.0, 0.2 + math.sqrt(area) / LARGEST_SIDE) * (0.3 if touched else 1.0)


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The bounding box: top, left, height, width."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def _cut(source: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Cutout:
    """The object in its bounding box, at most `LARGEST_SIDE` long."""
    y, x, height, width = _box(mask)
    margin = math.ceil(3 * unit_of(mask))
    box = (slice(max(y - margin, 0), y + height + margin), slice(max(x - margin, 0), x + width + margin))
    image = as_floats(source[box])
    alpha = matte(image, mask[box], unit_of(mask))
    rgb = clean_colours(image, alpha, unit_of(mask))
    y, x, height, width = _box(alpha > 0.02)
    tight = (slice(y, y + height), slice(x, x + width))
    rgb, alpha = rgb[tight], alpha[tight]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        rgb, alpha = resize(rgb, size), resize(alpha, size)
    return Cutout(rgb=as_bytes(rgb), alpha=as_bytes(alpha))
