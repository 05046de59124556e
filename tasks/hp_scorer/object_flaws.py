"""What can be wrong with an object that was added, removed or swapped: badnesses, 0 for a perfect edit."""

from __future__ import annotations

import numpy as np

from storage.records import EditType
from tasks.hp_scorer import measurements as m
from tasks.hp_scorer.case import Case
from tasks.hp_scorer.picture_flaws import local_peak


def left_of_subject(case: Case) -> float:
    """How much of the removed subject is still seen: the smaller of what its colours and what its edges say.

    Either alone errs where the hidden background happens to look like the subject; both together hardly do.
    """
    seen = case.seen
    colours = m.share_left(seen.edited, seen.fill, seen.source, seen.shrunk(0.5), parts=4)
    edges, around = [m.edges(image) for image in (seen.edited, seen.source)], seen.grown(1.0)
    return min(colours, m.share_left(edges[0], np.zeros_like(edges[0]), edges[1], around, parts=4))


def patch_colour(case: Case) -> float:
    """How far the filled place is from its surroundings in colour, row by row; busy surroundings allow more."""
    seen = case.seen
    coarse = m.soften(seen.edited, seen.unit)
    differences, weights = [], []
    for band in m.bands(seen.mask, 6):
        rows = np.flatnonzero(band.any(1))
        around = np.zeros_like(band)
        around[rows[0] : rows[-1] + 1] = True
        around &= _surroundings(case)
        if around.any():
            apart = np.abs(seen.edited[band].mean(0) - seen.edited[around].mean(0))
            differences.append(np.clip(apart - 0.3 * coarse[around].std(0), 0, None).mean())
            weights.append(band.sum())
    return float(np.average(differences, weights=weights)) if differences else 0.0


def patch_texture(case: Case) -> float:
    """How far the filled place's local contrast is outside the range of its surroundings, as a log ratio."""
    seen = case.seen
    contrast = m.detail(seen.edited)
    inside = m.mean_over(contrast, seen.shrunk(1.0)) + 0.01
    rows, columns = np.nonzero(seen.mask)
    lower, right = np.indices(seen.mask.shape) >= np.array([rows.mean(), columns.mean()])[:, None, None]
    quarters = [(lower == a) & (right == b) & _surroundings(case) for a in (False, True) for b in (False, True)]
    around = sorted(m.mean_over(contrast, quarter) + 0.01 for quarter in quarters if quarter.sum() >= 12)
    if not around:
        return 0.0
    # The extreme quarters may hold something else altogether.
    low, high = (around[1], around[-2]) if len(around) > 2 else (around[0], around[-1])
    return float(max(np.log(inside / high), np.log(low / inside), 0.0))


def _surroundings(case: Case) -> m.Mask:
    return case.seen.grown(9) & ~case.seen.grown(1.5)


def object_absent(case: Case) -> float:
    """1 minus how well the new object is seen: the share of the change that it explains, times its opacity."""
    if case.sighting is None:
        return 1 - min(1.0, _changed_share(case) / 0.6)
    return 1 - max(case.sighting.explained, 0.0) * min(case.sighting.opacity, 1.0)


def object_unclear(case: Case) -> float:
    """What of the change at the object's place is not the object: wrong drawing, ghosts, smears."""
    return 0.0 if case.sighting is None else 1 - max(case.sighting.explained, 0.0)


def object_pale(case: Case) -> float:
    """How much of what is behind the new object shines through it."""
    seen = case.seen
    if case.sighting is not None:
        return 1 - case.sighting.opacity
    if case.triplet.edit_type == EditType.SWAP:
        return 0.0  # `old_behind_new` sees it
    inner = ~m.grow(~_changed_object(case), 1.2 * seen.unit)
    return m.structure_left(seen.edited, seen.source, inner, seen.unit) if inner.sum() >= 8 else 0.0


def _changed_share(case: Case) -> float:
    """Without a recogniser: how much of the place that should hold a new object has changed."""
    seen = case.seen
    if case.triplet.edit_type == EditType.SWAP:
        return float((seen.change[seen.mask] > 0.06).mean())
    return min(1.0, float((_changed_object(case) & _asked_side(case)).mean()) / 0.05)


def _asked_side(case: Case) -> m.Mask:
    columns = np.arange(case.seen.mask.shape[1]) / case.seen.mask.shape[1]
    side = columns < 0.5 if case.triplet.request.place == "left" else columns >= 0.5
    return side[None, :] & ~case.seen.mask


def _changed_object(case: Case) -> m.Mask:
    """Without a recogniser, the new object of an addition: the largest connected change on the side asked for."""
    return m.largest_part(case.seen.change > 0.08, _asked_side(case))


def beyond_object(case: Case) -> float:
    """The largest local change where neither the old nor the new object is."""
    seen = case.seen
    allowed = _new_object(case, 1.5)
    if case.triplet.edit_type == EditType.SWAP:
        allowed |= seen.grown(1.5)
    return local_peak(seen, ~allowed)


def halo_of_object(case: Case) -> float:
    """Change in the ring around the new object."""
    seen = case.seen
    new = _new_object(case, 1.2)
    ring = _new_object(case, 4) & ~new
    if case.triplet.edit_type == EditType.SWAP:
        ring &= ~seen.grown(1.2)
    return m.mean_over(seen.change, ring)


def _new_object(case: Case, units: float) -> m.Mask:
    """The new object's place, grown by a length."""
    seen = case.seen
    if case.sighting is not None:
        return m.grow(case.sighting.alpha > 0.5, units * seen.unit)
    if case.triplet.edit_type == EditType.ADDITION:
        return m.grow(_changed_object(case), units * seen.unit)
    return m.grow(seen.change > 0.10, units * seen.unit)


def old_behind_new(case: Case) -> float:
    """How much of the swapped-out subject is still seen: where the new object does not cover it, if one knows that."""
    seen = case.seen
    if case.sighting is None:
        return m.structure_left(seen.edited, seen.source, seen.mask, seen.unit)
    bare = seen.mask & ~_new_object(case, 0.8)
    if bare.sum() < 6 * seen.unit**2:
        return 0.0
    return m.share_left(seen.edited, seen.fill, seen.source, bare, parts=2)
