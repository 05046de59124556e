"""The questions of the stand-in judge: per edit type, what is measured, and when the answer is a full yes or no.

A question's measure falls from good to bad: at most `good` is a full yes (1), at least `bad` a full no (0), linear
between. The numbers were fixed on the degradation ladder (`python -m tasks.miniature.ladder`) before any editor was
trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from storage.records import EditType, Request
from tasks.collection.vocabulary import COLOURS, LIGHTS, TINTS
from tasks.hp_scorer import measurements as m
from tasks.hp_scorer.contract import EditTriplet
from tasks.hp_scorer.measurements import Measured
from tasks.miniature import backgrounds


class Sighting(Protocol):
    """Where an object was found, see `SpriteRecogniser`."""

    @property
    def explained(self) -> float: ...

    @property
    def opacity(self) -> float: ...

    @property
    def alpha(self) -> m.Image: ...


class Recogniser(Protocol):
    """Knows what objects look like. The miniature has one; for photographs there is none."""

    @property
    def fingerprint(self) -> str: ...

    def look(self, seen: Measured, edit_type: EditType, request: Request) -> Sighting:
        """Look for the requested new object where it should be."""


@dataclass(frozen=True)
class Case:
    """One triplet while it is being judged."""

    triplet: EditTriplet
    seen: Measured
    sighting: Sighting | None
    """Of the new object, in additions and swaps that are judged with a recogniser."""


@dataclass(frozen=True)
class Question:
    """One question of a rubric, answered by a measurement."""

    name: str
    measure: Callable[[Case], float]
    good: float
    bad: float
    follows: bool = False
    """Whether the answer says that the instruction was followed, rather than how well."""

    def answer(self, case: Case) -> float:
        """In [0, 1]; 1 is a full yes."""
        return float(np.clip((self.bad - self.measure(case)) / (self.bad - self.good), 0, 1))


# --- what is measured: every function returns a badness, 0 for a perfect edit -------------------------------------


def _change_outside(case: Case) -> float:
    """Change beyond the subject's surroundings."""
    return m.mean_over(case.seen.change, ~case.seen.grown(2.5))


def _worst_change_outside(case: Case) -> float:
    """The largest local change beyond the subject's surroundings: blotches count that a mean would forgive."""
    where = ~case.seen.grown(2.5)
    return _local_peak(case.seen, where)


def _local_peak(seen: Measured, where: m.Mask) -> float:
    values = m.soften(np.where(where, seen.change, 0.0), 2.5 * seen.unit)
    return float(np.quantile(values[where], 0.99)) if where.any() else 0.0


def _ring_change(case: Case) -> float:
    """Change in the ring around the subject, which only a spilling edit touches."""
    return m.mean_over(case.seen.change, case.seen.grown(4) & ~case.seen.grown(1.2))


def _left_of_subject(case: Case) -> float:
    """How much of the removed subject is still seen: the smaller of what its colours and what its edges say.

    Either alone errs where the hidden background happens to look like the subject; both together hardly do.
    """
    seen = case.seen
    colours = m.share_left(seen.edited, seen.fill, seen.source, seen.shrunk(0.5), parts=4)
    edges, around = [m.edges(image) for image in (seen.edited, seen.source)], seen.grown(1.0)
    return min(colours, m.share_left(edges[0], np.zeros_like(edges[0]), edges[1], around, parts=4))


def _patch_colour(case: Case) -> float:
    """How far the filled place is from its surroundings in colour, row by row."""
    seen = case.seen
    inside = seen.mask
    differences, weights = [], []
    for band in m.bands(inside, 6):
        rows = np.flatnonzero(band.any(1))
        around = np.zeros_like(band)
        around[rows[0] : rows[-1] + 1] = True
        around &= seen.grown(9) & ~seen.grown(1.5)
        if around.any():
            differences.append(np.abs(seen.edited[band].mean(0) - seen.edited[around].mean(0)).mean())
            weights.append(band.sum())
    return float(np.average(differences, weights=weights)) if differences else 0.0


def _patch_texture(case: Case) -> float:
    """How far the filled place's local contrast is from that of its surroundings, as |log ratio|."""
    seen = case.seen
    contrast = m.detail(seen.edited)
    inside = m.mean_over(contrast, seen.shrunk(1.0)) + 0.01
    around = m.mean_over(contrast, seen.grown(9) & ~seen.grown(1.5)) + 0.01
    return abs(float(np.log(inside / around)))


def _object_absent(case: Case) -> float:
    """1 minus how well the new object is seen: the share of the change that it explains, times its opacity."""
    if case.sighting is None:
        return 1 - min(1.0, _changed_share(case) / 0.6)
    return 1 - max(case.sighting.explained, 0.0) * min(case.sighting.opacity, 1.0)


def _object_unclear(case: Case) -> float:
    """What of the change at the object's place is not the object: wrong drawing, ghosts, smears."""
    return 0.0 if case.sighting is None else 1 - max(case.sighting.explained, 0.0)


def _object_pale(case: Case) -> float:
    return 0.0 if case.sighting is None else 1 - case.sighting.opacity


def _changed_share(case: Case) -> float:
    """Without a recogniser: how much of the place that should hold a new object has changed."""
    seen = case.seen
    if case.triplet.edit_type == EditType.SWAP:
        where = seen.mask
    else:
        columns = np.arange(seen.mask.shape[1]) / seen.mask.shape[1]
        side = columns < 0.45 if case.triplet.request.place == "left" else columns > 0.55
        blob = (seen.change > 0.06) & side[None, :] & ~seen.mask
        return min(1.0, float(blob.mean()) / 0.05)
    return float((seen.change[where] > 0.06).mean())


def _beyond_object(case: Case) -> float:
    """The largest local change where neither the old nor the new object is."""
    seen = case.seen
    allowed = _new_object(case, 1.5)
    if case.triplet.edit_type == EditType.SWAP:
        allowed |= seen.grown(1.5)
    return _local_peak(seen, ~allowed)


def _halo_of_object(case: Case) -> float:
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
    return m.grow(seen.change > 0.10, units * seen.unit)


def _old_behind_new(case: Case) -> float:
    """How much of the swapped-out subject shows where the new object does not cover it."""
    seen = case.seen
    bare = seen.mask & ~_new_object(case, 0.8)
    if bare.sum() < 6 * seen.unit**2:
        return 0.0
    return m.share_left(seen.edited, seen.fill, seen.source, bare, parts=2)


def _backdrop(case: Case) -> m.Image:
    request = case.triplet.request
    assert request.background
    height, width = case.seen.mask.shape
    return backgrounds.paint(request.background, height, width)


def _wrong_backdrop(case: Case) -> float:
    """Colour distance to the named backdrop, row band by row band: it need not be the very same picture."""
    seen = case.seen
    backdrop = _backdrop(case)
    distances = [
        np.abs(seen.edited[band].mean(0) - backdrop[band].mean(0)).mean() for band in m.bands(~seen.grown(1.5), 8)
    ]
    return float(np.mean(distances))


def _old_backdrop(case: Case) -> float:
    """How much of the old background shines through."""
    seen = case.seen
    return abs(m.share_left(seen.edited, _backdrop(case), seen.source, ~seen.grown(4.5)))


def _old_rim(case: Case) -> float:
    """How much of the old background is left in a rim around the subject."""
    seen = case.seen
    return m.share_left(seen.edited, _backdrop(case), seen.source, seen.grown(3.5) & ~seen.grown(0.8))


def _backdrop_blurred(case: Case) -> float:
    """Missing local contrast of the new background."""
    seen = case.seen
    where = ~seen.grown(3)
    expected = m.mean_over(m.detail(_backdrop(case)), where)
    return 1 - m.mean_over(m.detail(seen.edited), where) / (expected + 1e-3)


def _subject_changed(case: Case) -> float:
    return m.mean_over(np.abs(case.seen.edited - case.seen.source).mean(2), case.seen.shrunk(1.0))


def _subject_blurred(case: Case) -> float:
    """Contrast that the subject has lost."""
    seen = case.seen
    where = seen.shrunk(0.5)
    before, after = m.mean_over(m.detail(seen.source), where), m.mean_over(m.detail(seen.edited), where)
    return 1 - after / (before + 1e-3)


def _body(case: Case) -> m.Mask:
    """The part of the subject that has its main colour (or a shade of it): what a recolouring should change."""
    seen = case.seen
    inner = seen.shrunk(0.5)
    pixels = seen.source[inner]
    colourful = np.ptp(pixels, axis=1) > 0.2
    if colourful.mean() > 0.35:  # a clock's white face is not what "make the clock green" is about
        pixels = pixels[colourful]
    bins = np.floor(pixels * 5.999).astype(int) @ np.array([36, 6, 1])
    main = pixels[bins == np.bincount(bins).argmax()].mean(0)
    body = inner & m.same_hue(seen.source, main)
    return body if body.sum() >= 8 else seen.mask


def _colour_missing(case: Case) -> float:
    """Distance from the named colour, as a share of the distance before the edit."""
    seen = case.seen
    assert case.triplet.request.colour
    wanted = np.asarray(COLOURS[case.triplet.request.colour])
    before, after = m.distance_to_shades(seen.source, wanted), m.distance_to_shades(seen.edited, wanted)
    bands = m.bands(_body(case), 3)
    return m.worst_and_mean([min(1.0, m.mean_over(after, b) / max(m.mean_over(before, b), 0.12)) for b in bands])


def _details_changed(case: Case) -> float:
    """Change within the subject where it does not have its main colour."""
    seen = case.seen
    rest = seen.shrunk(1.0) & ~m.grow(_body(case), 1.0 * seen.unit)
    return m.mean_over(seen.change, rest)


def _sharpness_left(case: Case) -> float:
    """Share of the contrast that a moderate blur takes away and that is still there; three columns looked at apart."""
    seen = case.seen
    outside = ~seen.grown(4)
    before, after = m.detail(seen.source), m.detail(seen.edited)
    blurred = m.detail(m.soften(seen.source, 2.2 * seen.unit))
    floor = 0.25 * m.mean_over(before - blurred, outside) + 1e-4
    shares = []
    for columns in np.array_split(np.arange(seen.mask.shape[1]), 3):
        part = np.zeros_like(outside)
        part[:, columns] = outside[:, columns]
        if part.any():
            excess = m.mean_over(after - blurred, part) / max(m.mean_over(before - blurred, part), floor)
            shares.append(max(0.0, excess))
    return m.worst_and_mean(shares)


def _colours_moved(case: Case) -> float:
    """Change of the background's coarse colours, which a blur keeps."""
    seen = case.seen
    sigma = 5 * seen.unit
    moved = np.abs(m.soften(seen.edited, sigma) - m.soften(seen.source, sigma)).mean(2)
    return m.mean_over(moved, ~seen.grown(9))


def _gain(case: Case) -> m.Image:
    """(H, W, 3) the coarse factor from source to edited, as a logarithm."""
    seen = case.seen
    sigma = 4 * seen.unit
    return np.log(m.soften(seen.edited, sigma) + 0.02) - np.log(m.soften(seen.source, sigma) + 0.02)


def _light_missing(case: Case) -> float:
    """1 minus the brightening towards the lamp, as a share of what a proper light gives."""
    request = case.triplet.request
    assert request.light
    gain = _gain(case).mean(2)
    height, width = gain.shape
    towards = LIGHTS[request.light]
    axis = np.linspace(-1, 1, width)[None, :] * towards[0] + np.linspace(-1, 1, height)[:, None] * towards[1]
    slope = float((gain * axis).sum() / (axis**2).sum())
    return 1 - slope / 0.50


def _tint_missing(case: Case) -> float:
    """Distance of the light's colour from the named one (log ratios of the channels)."""
    assert case.triplet.request.tint
    gain = _gain(case).mean((0, 1))
    wanted = np.log(np.asarray(TINTS[case.triplet.request.tint]))
    difference = (gain - gain.mean()) - (wanted - wanted.mean())
    return float(np.abs(difference).mean() / np.abs(wanted - wanted.mean()).mean())


def _contrast_lost(case: Case) -> float:
    """Local contrast, relative to local brightness, that the relit picture has lost."""
    seen = case.seen
    sigma = 3 * seen.unit

    def relative(image: m.Image) -> float:
        return float((m.detail(image) / (m.soften(image @ m.LUMA, sigma) + 0.08)).mean())

    return 1 - relative(seen.edited) / (relative(seen.source) + 1e-3)


def _redrawn(case: Case) -> float:
    """How far the relit picture is from the source under any smooth light."""
    seen = case.seen
    return float(np.abs(seen.edited - np.clip(seen.source * np.exp(_gain(case)), 0, 1)).mean())


def _unlike_style(case: Case, image: m.Image) -> m.Image:
    """(H, W) how far each pixel is from the palette of the named style."""
    style = case.triplet.request.style
    luma = image @ m.LUMA
    if style == "sepia photograph":
        tone = luma[..., None] * np.array([1.0, 0.83, 0.61]) / 0.856
        return np.abs(image - tone).mean(2)
    if style == "mosaic":
        return np.abs(image - m.mosaic(image, case.seen.unit)).mean(2)
    if style == "pencil sketch":
        return np.abs(image - luma[..., None]).mean(2) + np.clip(0.75 - m.soften(luma, 2 * case.seen.unit), 0, 1)
    blue, white = np.array([0.10, 0.25, 0.62]), np.array([0.90, 0.95, 0.98])
    position = np.clip((image - blue) @ (white - blue) / ((white - blue) @ (white - blue)), 0, 1)
    return np.abs(image - (blue + position[..., None] * (white - blue))).mean(2) + np.clip(
        m.soften(luma, 2 * case.seen.unit) - 0.65, 0, 1
    )


def _style_missing(case: Case) -> float:
    """Distance from the style's palette, as a share of the source's; the worse of subject and background."""
    seen = case.seen
    after, before = _unlike_style(case, seen.edited), _unlike_style(case, seen.source)
    parts = (seen.shrunk(0.5), ~seen.grown(1.5))
    return max(m.mean_over(after, part) / max(m.mean_over(before, part), 0.04) for part in parts)


def _content_lost(case: Case) -> float:
    """1 minus the correlation of the picture's structure with what the style should keep."""
    seen = case.seen
    style = case.triplet.request.style
    before, after = seen.source @ m.LUMA, seen.edited @ m.LUMA
    sigma = 2 * seen.unit
    if style == "pencil sketch":
        before, after = before - m.soften(before, sigma), after - m.soften(after, sigma)
    elif style == "blueprint":
        before, after = m.soften(before, sigma) - before, after - m.soften(after, sigma)
    elif style == "mosaic":
        before, after = m.soften(before, sigma), m.soften(after, sigma)
    return 1 - m.correlation(before, after, np.ones(before.shape, bool))


def _smudged(case: Case) -> float:
    """Loss of local contrast where the picture is smudged worst, relative to the style's usual loss."""
    seen = case.seen
    sigma = 3 * seen.unit
    source = m.mosaic(seen.source, seen.unit) if case.triplet.request.style == "mosaic" else seen.source
    before, after = m.soften(m.detail(source), sigma), m.soften(m.detail(seen.edited), sigma)
    where = before > 0.5 * np.median(before)
    kept = (after / (before + 0.01))[where]
    return 1 - float(np.quantile(kept, 0.04) / max(np.median(kept), 1e-3))


def _nothing_changed(case: Case) -> float:
    """Whether it is the same picture: the generic judge's first question."""
    return 1 - float(np.clip(np.abs(case.seen.edited - case.seen.source).mean() / 0.04, 0, 1))


def _everything_changed(case: Case) -> float:
    """Over-editing, as far as one can tell without knowing what was asked."""
    return float((case.seen.change > 0.15).mean())


def _grainy(case: Case) -> float:
    """Fine grain that the source does not have."""
    return max(_grain(case.seen.edited) - _grain(case.seen.source), 0.0)


def _grain(image: m.Image) -> float:
    luma = image @ m.LUMA
    return float(
        np.abs(luma - np.median(np.stack([np.roll(luma, s, a) for a in (0, 1) for s in (-1, 0, 1)]), 0)).mean()
    )


_REST = Question("is the rest kept?", _change_outside, 0.02, 0.12)
_BLOTCH = Question("is it free of blotches elsewhere?", _worst_change_outside, 0.05, 0.25)

QUESTIONS: dict[EditType, tuple[Question, ...]] = {
    EditType.ADDITION: (
        Question("is the new object there?", _object_absent, 0.2, 0.9, follows=True),
        Question("is it drawn properly?", _object_unclear, 0.1, 0.6),
        Question("is it opaque?", _object_pale, 0.08, 0.7),
        Question("are its edges free of halos?", _halo_of_object, 0.03, 0.25),
        Question("is the rest kept?", _beyond_object, 0.05, 0.25),
    ),
    EditType.REMOVAL: (
        Question("is the object gone?", _left_of_subject, 0.15, 0.9, follows=True),
        Question("does the place match its surroundings in colour?", _patch_colour, 0.07, 0.25),
        Question("does the place match its surroundings in texture?", _patch_texture, 0.5, 1.6),
        _REST,
        _BLOTCH,
    ),
    EditType.SWAP: (
        Question("is the new object there?", _object_absent, 0.2, 0.9, follows=True),
        Question("is it drawn properly?", _object_unclear, 0.1, 0.6),
        Question("is it opaque?", _object_pale, 0.08, 0.7),
        Question("is the original completely gone?", _old_behind_new, 0.2, 0.9),
        Question("are its edges free of halos?", _halo_of_object, 0.03, 0.25),
        Question("is the rest kept?", _beyond_object, 0.05, 0.25),
    ),
    EditType.BACKGROUND: (
        Question("is it the background asked for?", _wrong_backdrop, 0.03, 0.25, follows=True),
        Question("is the old background gone?", _old_backdrop, 0.06, 0.6),
        Question("is the rim clean?", _old_rim, 0.15, 0.9),
        Question("is the new background detailed?", _backdrop_blurred, 0.15, 0.7),
        Question("is the subject kept?", _subject_changed, 0.03, 0.2),
    ),
    EditType.COLOUR: (
        Question("has it the colour asked for?", _colour_missing, 0.2, 0.9, follows=True),
        Question("does the colour stay inside?", _ring_change, 0.03, 0.25),
        Question("are its details kept?", _details_changed, 0.05, 0.3),
        _REST,
        _BLOTCH,
    ),
    EditType.BOKEH: (
        Question("is the background blurred, everywhere?", _sharpness_left, 0.15, 0.95, follows=True),
        Question("is the subject sharp?", _subject_blurred, 0.25, 0.7),
        Question("is the subject kept?", _subject_changed, 0.015, 0.12),
        Question("does the background keep its colours?", _colours_moved, 0.02, 0.12),
    ),
    EditType.RELIGHT: (
        Question("does the light come from there?", _light_missing, 0.2, 1.0, follows=True),
        Question("has it the tint asked for?", _tint_missing, 0.3, 1.2),
        Question("is the contrast kept?", _contrast_lost, 0.12, 0.6),
        Question("is it the same scene?", _redrawn, 0.03, 0.15),
    ),
    EditType.STYLE: (
        Question("is it in that style, everywhere?", _style_missing, 0.2, 0.95, follows=True),
        Question("does it show the same things?", _content_lost, 0.25, 0.9),
        Question("is it free of smudges?", _smudged, 0.5, 1.0),
    ),
}

GENERIC: tuple[Question, ...] = (
    Question("has something changed?", _nothing_changed, 0.2, 1.0, follows=True),
    Question("is it not over-edited?", _everything_changed, 0.35, 1.0),
    Question("is it free of grain?", _grainy, 0.004, 0.05),
    Question("does it show the same things?", _subject_changed, 0.25, 0.7),
)
"""One set for all edit types, from the same measurements: the stand-in for the paper's Base-Scorer."""
