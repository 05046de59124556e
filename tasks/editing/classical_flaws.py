"""What careless people make of an edit: the flaws of the classical editor's lower quality levels, at any strength.

The same kinds as the miniature world's (`tasks.miniature.sloppiness`), for photographs of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from storage.records import EditType, Request
from tasks.collection.vocabulary import COLOURS
from tasks.editing import classical_effects as effects
from tasks.editing.classical_matting import Alpha, Image, Mask, blend, blur, soft_grow, unit_of

# In the order in which they are added: what draws the picture anew comes first.
KINDS: dict[EditType, tuple[str, ...]] = {
    EditType.ADDITION: ("tiny", "astray", "pale", "halo", "drift"),
    EditType.REMOVAL: ("ghost", "smudge", "fragment", "drift"),
    EditType.SWAP: ("leftover", "pale", "halo", "drift"),
    EditType.BACKGROUND: ("mixed", "halo", "washed subject"),
    EditType.COLOUR: ("weak", "bleeding", "patchy", "drift"),
    EditType.BOKEH: ("weak", "uneven", "soft subject", "drift"),
    EditType.RELIGHT: ("wrong side", "weak", "flat"),
    EditType.STYLE: ("weak", "patchy", "smudged"),
}
WHILE_PLACING = frozenset({"tiny", "astray"})
"""Flaws of an addition that are made when the object is placed, not afterwards."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A careful edit and what it was made from."""

    edit_type: EditType
    request: Request
    source: Image
    mask: Mask
    subject: Alpha
    """(H, W): the subject's opacity."""
    picture: Image
    """(H, W, 3): the careful edit."""
    new: Alpha | None = None
    """(H, W): the new object's opacity, in additions and swaps."""
    without: Image | None = None
    """(H, W, 3): in additions and swaps, the picture just before the new object was pasted."""


def spoil(made: Made, picture: Image, kind: str, strength: float, rng: np.random.Generator) -> Image:
    """Add one flaw.

    Args:
        made: the careful edit.
        picture: the edit so far; the careful one, or one that has other flaws already.
        kind: one of `KINDS[made.edit_type]`.
        strength: in [0, 1]; 0 adds nothing.
        rng: places the blotches.
    """
    source, subject, request = made.source, made.subject, made.request
    unit = unit_of(source)
    match made.edit_type, kind:
        case _, "drift":
            return _drift(picture, strength, rng)
        case (EditType.STYLE | EditType.COLOUR | EditType.RELIGHT, "weak"):
            return blend(picture, source, 0.8 * strength)
        case EditType.RELIGHT, "wrong side":
            return _lit_from_elsewhere(made, strength)
        case EditType.RELIGHT, "flat":
            haze = blur(picture, 6 * unit)
            return blend(picture, 0.5 + 0.6 * (haze - 0.5), 0.75 * strength)
        case EditType.BOKEH, "weak":
            return effects.blur_background(source, subject, effects.BOKEH_UNITS * (1 - 0.85 * strength))
        case EditType.BOKEH, "uneven":
            side = np.linspace(0, 1, source.shape[1], dtype=np.float32)
            side = side if np.flatnonzero(made.mask.any(0)).mean() < source.shape[1] / 2 else 1 - side
            return blend(picture, source, strength * np.clip(3 * side - 1.2, 0, 1) * np.ones_like(subject))
        case EditType.BOKEH, "soft subject":
            return blend(picture, blur(picture, 2 * unit), strength * soft_grow(made.mask, unit, 2 * unit))
        case EditType.STYLE, "patchy":
            return blend(picture, source, strength * soft_grow(made.mask, unit, unit))
        case EditType.STYLE, "smudged":
            return _smear(picture, strength, rng)
        case EditType.COLOUR, "bleeding":
            assert request.colour
            spill = soft_grow(made.mask, 3 * unit, 4 * unit) * (1 - subject)
            return blend(picture, np.asarray(COLOURS[request.colour], np.float32), 0.75 * strength * spill)
        case EditType.COLOUR, "patchy":
            return blend(picture, source, _lower_part(made.mask, 0.55 * strength, unit))
        case EditType.BACKGROUND, "mixed":
            return blend(picture, source, 0.65 * strength)
        case EditType.BACKGROUND, "halo":
            return blend(picture, source, strength * soft_grow(made.mask, 2.5 * unit, 2 * unit))
        case EditType.BACKGROUND, "washed subject":
            return blend(picture, 0.35 + 0.45 * blur(picture, 1.2 * unit), strength * subject)
        case EditType.REMOVAL, "ghost":
            return blend(picture, source, 0.75 * strength)
        case EditType.REMOVAL, "smudge":
            return _smudge(made, picture, strength)
        case EditType.REMOVAL, "fragment":
            return blend(picture, source, _lower_part(made.mask, 0.6 * strength, unit))
        case EditType.SWAP, "leftover":
            assert made.new is not None
            shining = blend(picture, source, 0.3 * strength * subject)
            return blend(shining, source, strength * np.clip(subject - made.new, 0, 1))
        case ((EditType.ADDITION | EditType.SWAP), "pale"):
            assert made.without is not None
            return blend(picture, made.without, 0.85 * strength)
        case ((EditType.ADDITION | EditType.SWAP), "halo"):
            assert made.new is not None
            ring = soft_grow(made.new > 0.5, 1.5 * unit, 2.5 * unit) * (1 - made.new)
            return blend(picture, np.array([0.97, 0.96, 0.92], np.float32), 0.85 * strength * ring)
    raise ValueError(f"{made.edit_type}: unknown flaw {kind!r}; known: {', '.join(KINDS[made.edit_type])}")


def _drift(picture: Image, strength: float, rng: np.random.Generator) -> Image:
    """Everything a little softer, paler and off in colour, as after a bad re-encoding."""
    cast = rng.uniform(-1, 1, 3)
    cast = (0.07 * cast / np.abs(cast).max()).astype(np.float32)
    washed = 0.12 + 0.78 * blur(picture, 0.35 * unit_of(picture)) + cast
    return np.clip(blend(picture, washed, strength), 0, 1)


def _lit_from_elsewhere(made: Made, strength: float) -> Image:
    light, tint = made.request.light, made.request.tint
    assert light
    assert tint
    height, width = made.source.shape[:2]
    opposite = {"left": "right", "right": "left", "above": "left"}[light]
    right = effects.light_field(light, tint, height, width, 1 - strength)
    wrong = effects.light_field(opposite, tint, height, width, strength)
    return effects.relight(made.source, np.asarray(right * wrong, np.float32))


def _lower_part(mask: Mask, share: float, unit: float) -> Alpha:
    """1 over the lower share of the subject's rows, with a soft upper edge, over the whole width."""
    rows = np.flatnonzero(mask.any(1))
    start = rows[-1] + 1 - share * (rows[-1] - rows[0] + 1)
    ramp = np.clip((np.arange(mask.shape[0]) - start) / unit, 0, 1).astype(np.float32)
    return ramp[:, None] * np.ones(mask.shape, np.float32)


def _smudge(made: Made, picture: Image, strength: float) -> Image:
    """A smooth, darker patch instead of the texture."""
    unit = unit_of(picture)
    around = soft_grow(made.mask, 4 * unit, unit) * (1 - made.subject)
    colour = (picture * around[..., None]).sum((0, 1)) / max(float(around.sum()), 1e-3)
    patch = 0.8 * (0.5 * colour + 0.5 * blur(picture, 4 * unit))
    return blend(picture, patch, 0.9 * strength * soft_grow(made.mask, unit, unit))


def _smear(picture: Image, strength: float, rng: np.random.Generator) -> Image:
    """Two smeared, darkened blotches."""
    height, width = picture.shape[:2]
    unit = unit_of(picture)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    blotch = np.zeros((height, width), np.float32)
    for _ in range(2):
        y, x = rng.uniform(0.15, 0.85, 2) * (height, width)
        blotch = np.maximum(blotch, np.clip(2.2 - np.hypot(rows - y, columns - x) / (8 * unit), 0, 1))
    return blend(picture, 0.75 * blur(picture, 4 * unit) + 0.06, strength * blotch.astype(np.float32))
