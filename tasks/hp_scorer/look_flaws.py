"""What can be wrong with a new look: background, colour, blur, light and style; badnesses, 0 for a perfect edit."""

from __future__ import annotations

import numpy as np

from tasks.collection.vocabulary import COLOURS, LIGHTS, TINTS
from tasks.hp_scorer import measurements as m
from tasks.hp_scorer.case import Case
from tasks.miniature import backgrounds


def _backdrop(case: Case) -> m.Image:
    request = case.triplet.request
    assert request.background
    height, width = case.seen.mask.shape
    return backgrounds.paint(request.background, height, width)


def wrong_backdrop(case: Case) -> float:
    """Colour distance to the named backdrop, row band by row band: it need not be the very same picture."""
    seen = case.seen
    backdrop = _backdrop(case)
    distances = [
        np.abs(seen.edited[band].mean(0) - backdrop[band].mean(0)).mean() for band in m.bands(~seen.grown(1.5), 8)
    ]
    return float(np.mean(distances))


def old_backdrop(case: Case) -> float:
    """How much of the old background shines through."""
    seen = case.seen
    return abs(m.share_left(seen.edited, _backdrop(case), seen.source, ~seen.grown(4.5)))


def old_rim(case: Case) -> float:
    """How much of the old background is left in a rim around the subject."""
    seen = case.seen
    return m.share_left(seen.edited, _backdrop(case), seen.source, seen.grown(3.5) & ~seen.grown(0.8))


def backdrop_blurred(case: Case) -> float:
    """Missing local contrast of the new background."""
    seen = case.seen
    where = ~seen.grown(3)
    expected = m.mean_over(m.detail(_backdrop(case)), where)
    return 1 - m.mean_over(m.detail(seen.edited), where) / (expected + 1e-3)


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
    # A thing of many colours has no main one: then all of it is meant.
    return body if body.sum() >= max(8, 0.25 * inner.sum()) else seen.mask


def colour_missing(case: Case) -> float:
    """Distance from the named colour, as a share of the distance before the edit."""
    seen = case.seen
    assert case.triplet.request.colour
    wanted = np.asarray(COLOURS[case.triplet.request.colour])
    before, after = m.distance_to_shades(seen.source, wanted), m.distance_to_shades(seen.edited, wanted)
    bands = m.bands(_body(case), 3)
    return m.worst_and_mean([min(1.0, m.mean_over(after, b) / max(m.mean_over(before, b), 0.12)) for b in bands])


def details_changed(case: Case) -> float:
    """Change within the subject where it does not have its main colour."""
    seen = case.seen
    rest = seen.shrunk(1.0) & ~m.grow(_body(case), 1.0 * seen.unit)
    return m.mean_over(seen.change, rest)


def sharpness_left(case: Case) -> float:
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


def colours_moved(case: Case) -> float:
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


def light_missing(case: Case) -> float:
    """1 minus the brightening towards the lamp, as a share of what a proper light gives."""
    request = case.triplet.request
    assert request.light
    gain = _gain(case).mean(2)
    height, width = gain.shape
    towards = LIGHTS[request.light]
    axis = np.linspace(-1, 1, width)[None, :] * towards[0] + np.linspace(-1, 1, height)[:, None] * towards[1]
    slope = float((gain * axis).sum() / (axis**2).sum())
    return 1 - slope / 0.50


def tint_missing(case: Case) -> float:
    """Distance of the light's colour from the named one (log ratios of the channels)."""
    assert case.triplet.request.tint
    gain = _gain(case).mean((0, 1))
    wanted = np.log(np.asarray(TINTS[case.triplet.request.tint]))
    difference = (gain - gain.mean()) - (wanted - wanted.mean())
    return float(np.abs(difference).mean() / np.abs(wanted - wanted.mean()).mean())


def contrast_lost(case: Case) -> float:
    """Local contrast, relative to local brightness, that the relit picture has lost."""
    seen = case.seen
    sigma = 3 * seen.unit

    def relative(image: m.Image) -> float:
        return float((m.detail(image) / (m.soften(image @ m.LUMA, sigma) + 0.08)).mean())

    return 1 - relative(seen.edited) / (relative(seen.source) + 1e-3)


def redrawn(case: Case) -> float:
    """How far the relit picture is from the source under any smooth light."""
    seen = case.seen
    return float(np.abs(seen.edited - np.clip(seen.source * np.exp(_gain(case)), 0, 1)).mean())


_TONES = {
    "sepia photograph": (np.array([0.10, 0.075, 0.045]), np.array([1.0, 0.815, 0.59])),
    "blueprint": (np.array([0.10, 0.25, 0.62]), np.array([0.90, 0.95, 0.98])),
}
"""Styles of one ink: all colours lie between two."""
_CONTRAST = {"pencil sketch": 2.5, "blueprint": 2.1, "mosaic": 1.0, "sepia photograph": 0.72}
"""Contrast of a style, relative to that of the structure it keeps."""


def _unlike_style(case: Case, image: m.Image) -> m.Image:
    """(H, W) how far each pixel is from the palette of the named style."""
    style = case.triplet.request.style
    luma = image @ m.LUMA
    if style == "mosaic":
        return np.abs(image - m.mosaic(image, case.seen.unit)).mean(2)
    if style == "pencil sketch":
        return np.abs(image - luma[..., None]).mean(2) + np.clip(0.75 - m.soften(luma, 2 * case.seen.unit), 0, 1)
    assert style
    dark, light = _TONES[style]
    position = np.clip((image - dark) @ (light - dark) / ((light - dark) @ (light - dark)), 0, 1)
    unlike = np.abs(image - (dark + position[..., None] * (light - dark))).mean(2)
    if style == "blueprint":
        unlike += np.clip(m.soften(luma, 2 * case.seen.unit) - 0.65, 0, 1)
    return unlike


def _structure(case: Case) -> m.Image:
    """(H, W) what the named style should keep of the source: brightness, blocks, or lines where it is darker."""
    seen, style = case.seen, case.triplet.request.style
    luma = seen.source @ m.LUMA
    if style == "mosaic":
        return m.mosaic(luma[..., None], seen.unit)[..., 0]
    if style in ("pencil sketch", "blueprint"):
        return np.clip(m.soften(luma, 2 * seen.unit) - luma, 0, 1)
    return luma


def style_missing(case: Case) -> float:
    """Distance from the style's palette, as a share of the source's; subject and background looked at apart."""
    seen = case.seen
    after, before = _unlike_style(case, seen.edited), _unlike_style(case, seen.source)
    parts = (seen.shrunk(0.5), ~seen.grown(1.5))
    return m.worst_and_mean([m.mean_over(after, part) / max(m.mean_over(before, part), 0.04) for part in parts])


def content_lost(case: Case) -> float:
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


def smudged(case: Case) -> float:
    """Loss of local contrast where the picture is smudged worst, relative to the style's usual loss."""
    seen = case.seen
    sigma = 3 * seen.unit
    source = m.mosaic(seen.source, seen.unit) if case.triplet.request.style == "mosaic" else seen.source
    before, after = m.soften(m.detail(source), sigma), m.soften(m.detail(seen.edited), sigma)
    where = before > 0.5 * np.median(before)
    kept = (after / (before + 0.01))[where]
    return 1 - float(np.quantile(kept, 0.04) / max(np.median(kept), 1e-3))


def not_crisp(case: Case) -> float:
    """Fine contrast that is missing where the style should show some, as a share of what a clean one has."""
    seen, style = case.seen, case.triplet.request.style
    assert style

    def fine(luma: m.Image) -> m.Image:
        return m.soften(np.abs(luma - m.soften(luma, seen.unit)), 1.5 * seen.unit)

    wanted, found = _CONTRAST[style] * fine(_structure(case)), fine(seen.edited @ m.LUMA)
    where = wanted > np.quantile(wanted, 0.75)
    return 1 - float(np.minimum(found, wanted)[where].sum() / max(wanted[where].sum(), 1e-6))
