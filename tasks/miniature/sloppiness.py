"""Sloppy edits: what careless editors do, at any strength. Part of the training targets, and of the ladder of judges.

Real editing data are of mixed quality, and a model trained on them has learnt both modes. Three kinds of sloppiness
per edit type, each a picture between the clean target (strength 0) and a plainly bad edit (strength 1).
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from storage.records import EditType, Request
from tasks.collection.vocabulary import COLOURS
from tasks.miniature import backgrounds
from tasks.miniature.backgrounds import Image
from tasks.miniature.scenes import SIZE, Scene, coverage, render, rng_of
from tasks.miniature.targets import (
    BOKEH_SIGMA,
    added_placement,
    bokeh,
    changed_region,
    light_field,
    render_target,
    swapped_placement,
)

KINDS: dict[EditType, tuple[str, ...]] = {
    EditType.ADDITION: ("pale", "halo", "smeared surroundings"),
    EditType.REMOVAL: ("ghost", "smudge", "fragment"),
    EditType.SWAP: ("leftover", "pale", "halo"),
    EditType.BACKGROUND: ("mixed", "halo", "washed subject"),
    EditType.COLOUR: ("weak", "bleeding", "patchy"),
    EditType.BOKEH: ("weak", "uneven", "soft subject"),
    EditType.RELIGHT: ("weak", "wrong side", "flat"),
    EditType.STYLE: ("weak", "patchy", "smudged"),
}


def probability(scene: Scene, edit_type: EditType) -> float:
    """How likely a training target is sloppy: people take less care where it is difficult, and with light."""
    busy = 0.25 if scene.background in backgrounds.BUSY else 0.0
    small = 0.05 if scene.subject.size <= 24 else 0.0
    light = 0.15 if edit_type == EditType.RELIGHT else 0.0
    return 0.10 + busy + small + light


def render_sloppy(scene: Scene, edit_type: EditType, request: Request, kind: str, strength: float) -> Image:
    """A sloppy version of the target, (SIZE, SIZE, 3) in [0, 1].

    Args:
        kind: one of `KINDS[edit_type]`.
        strength: in [0, 1]; 0 is the clean target.
    """
    source, target = render(scene), render_target(scene, edit_type, request)
    subject = coverage(scene.subject)
    region = changed_region(scene, edit_type, request)
    match edit_type, kind:
        case (EditType.STYLE | EditType.COLOUR, "weak"):
            return _blend(target, source, 0.8 * strength)
        case EditType.RELIGHT, "weak":
            assert request.light
            assert request.tint
            return np.clip(source * light_field(request.light, request.tint, 1 - 0.8 * strength), 0, 1)
        case EditType.RELIGHT, "wrong side":
            assert request.light
            assert request.tint
            opposite = {"left": "right", "right": "left", "above": "left"}[request.light]
            right, wrong = light_field(request.light, request.tint), light_field(opposite, request.tint)
            return np.clip(source * right ** (1 - strength) * wrong**strength, 0, 1)
        case EditType.RELIGHT, "flat":
            haze = ndimage.gaussian_filter(target, (6, 6, 0), mode="nearest")
            return _blend(target, 0.5 + 0.6 * (haze - 0.5), 0.75 * strength)
        case EditType.BOKEH, "weak":
            return bokeh(scene, BOKEH_SIGMA * (1 - 0.8 * strength))
        case EditType.BOKEH, "uneven":
            side = np.linspace(0, 1, SIZE)[None, :, None] * np.ones((SIZE, 1, 1))
            side = side if scene.subject.flipped else 1 - side
            return _blend(target, bokeh(scene, 0.4), strength * np.clip(3 * side - 1, 0, 1))
        case EditType.BOKEH, "soft subject":
            return _blend(target, ndimage.gaussian_filter(target, (2, 2, 0)), strength * _grow(subject, 2)[..., None])
        case EditType.STYLE, "patchy":
            return _blend(target, source, strength * _grow(subject, 1)[..., None])
        case EditType.STYLE, "smudged":
            return _smear(scene, target, strength, np.ones((SIZE, SIZE)))
        case EditType.COLOUR, "bleeding":
            assert request.colour
            spill = np.clip(_grow(subject, 6) - subject, 0, 1)[..., None]
            return _blend(target, np.asarray(COLOURS[request.colour]) * np.ones_like(target), 0.75 * strength * spill)
        case EditType.COLOUR, "patchy":
            rows = np.arange(SIZE)[:, None, None]
            middle = scene.subject.bottom - scene.subject.size * 0.55 * strength
            return _blend(target, source, np.clip(rows - middle, 0, 1) * np.ones((1, SIZE, 1)))
        case EditType.BACKGROUND, "mixed":
            return _blend(target, source, 0.65 * strength)
        case EditType.BACKGROUND, "halo":
            ring = np.clip(_grow(subject, 4) - subject, 0, 1)[..., None]
            return _blend(target, source, strength * ring)
        case EditType.BACKGROUND, "washed subject":
            return _blend(
                target, 0.35 + 0.45 * ndimage.gaussian_filter(target, (1.2, 1.2, 0)), strength * subject[..., None]
            )
        case EditType.REMOVAL, "ghost":
            return _blend(target, source, 0.7 * strength)
        case EditType.REMOVAL, "smudge":
            around = np.clip(_grow(subject, 5) - subject, 0, 1)[..., None]
            fill = (target * around).sum((0, 1)) / around.sum()
            return _blend(target, 0.75 * fill * np.ones_like(target), 0.9 * strength * _grow(subject, 1)[..., None])
        case EditType.REMOVAL, "fragment":
            rows = np.arange(SIZE)[:, None]
            lower = np.clip(rows - (scene.subject.bottom - scene.subject.size * 0.5 * strength), 0, 1)
            return _blend(target, source, lower[..., None])
        case EditType.SWAP, "leftover":
            new = coverage(swapped_placement(scene, request))
            behind = np.clip(subject - new, 0, 1)[..., None]
            return _blend(_blend(target, source, 0.25 * strength), source, strength * behind)
        case (EditType.ADDITION | EditType.SWAP, "pale"):
            without = source if edit_type == EditType.ADDITION else render_target(scene, EditType.REMOVAL, Request())
            return _blend(target, without, 0.7 * strength)
        case (EditType.ADDITION | EditType.SWAP, "halo"):
            placed = added_placement(request) if edit_type == EditType.ADDITION else swapped_placement(scene, request)
            ring = np.clip(_grow(coverage(placed), 4) - coverage(placed), 0, 1)[..., None]
            return _blend(target, np.array([0.97, 0.96, 0.92]) * np.ones_like(target), 0.85 * strength * ring)
        case EditType.ADDITION, "smeared surroundings":
            return _smear(scene, target, strength, 1 - region)
    raise ValueError(f"{edit_type}: unknown sloppiness {kind!r}; known: {', '.join(KINDS[edit_type])}")


def _blend(first: Image, second: Image, weight: float | Image) -> Image:
    return first * (1 - weight) + second * weight


def _grow(mask: Image, pixels: float) -> Image:
    """The mask grown by about `pixels`, with a soft edge."""
    distance = ndimage.distance_transform_edt(mask < 0.5)
    return np.maximum(mask, np.clip(pixels + 1 - distance, 0, 1))


def _smear(scene: Scene, image: Image, strength: float, where: Image) -> Image:
    """Two smeared, darkened blotches, at places that depend on the scene."""
    rng = rng_of(scene.seed, scene.index, 4)
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    blotch = np.zeros((SIZE, SIZE))
    for _ in range(2):
        y, x = rng.integers(10, SIZE - 10, 2)
        blotch = np.maximum(blotch, np.clip(2.2 - np.hypot(rows - y, columns - x) / 6, 0, 1))
    smeared = 0.75 * ndimage.gaussian_filter(image, (4, 4, 0), mode="nearest") + 0.06
    return _blend(image, smeared, strength * (blotch * where)[..., None])
