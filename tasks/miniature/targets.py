"""The exact target of every edit: what a perfect editor would return. Kept for the referee and for pre-training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from storage.records import EditType, Request
from tasks.collection.vocabulary import LIGHTS, TINTS
from tasks.miniature import backgrounds
from tasks.miniature.backgrounds import Image
from tasks.miniature.scenes import SIZE, Placement, Scene, background_of, coverage, draw, render
from tasks.miniature.sprite_art import SPRITES

ADDED_SIZE = 24
ADDED_CENTRES = {"left": 12, "right": 44}
ADDED_BOTTOM = 64
BOKEH_SIGMA = 2.5
"""Blur of the background, in pixels of a 64-pixel scene."""
LIGHT_RANGE = (0.45, 1.35)
"""Brightness factor on the far and on the near side of a lamp."""
_LUMA = np.array([0.299, 0.587, 0.114])


def added_placement(request: Request) -> Placement:
    """Where and how a new object of an addition stands; a colour that is left open is the object's usual one."""
    assert request.new_category
    assert request.place
    centre = ADDED_CENTRES[request.place]
    return Placement(
        category=request.new_category,
        colour=request.colour or SPRITES[request.new_category].usual_colour,
        size=ADDED_SIZE,
        left=centre - ADDED_SIZE // 2,
        top=ADDED_BOTTOM - ADDED_SIZE,
    )


def swapped_placement(scene: Scene, request: Request) -> Placement:
    """The new object of a swap: the old one's size and ground."""
    assert request.new_category
    colour = request.colour or SPRITES[request.new_category].usual_colour
    return replace(scene.subject, category=request.new_category, colour=colour, flipped=False)


def light_field(light: str, tint: str, strength: float = 1.0) -> Image:
    """The factor by which a light multiplies an image, (SIZE, SIZE, 3); strength 0 is no change."""
    towards = np.asarray(LIGHTS[light])
    axis = np.linspace(-1, 1, SIZE)
    nearness = 0.5 + 0.5 * (axis[None, :] * towards[0] + axis[:, None] * towards[1])
    low, high = LIGHT_RANGE
    full = (low + (high - low) * nearness)[..., None] * np.asarray(TINTS[tint])
    return full**strength


def stylise(image: Image, style: str) -> Image:
    """The four styles; each keeps what the picture shows and where."""
    luma = image @ _LUMA
    if style == "sepia photograph":
        return np.clip(luma[..., None] * np.array([1.05, 0.86, 0.62]) * 0.85 + np.array([0.12, 0.08, 0.04]), 0, 1)
    if style == "mosaic":
        blocks = image.reshape(SIZE // 4, 4, SIZE // 4, 4, 3).mean((1, 3))
        return blocks.repeat(4, 0).repeat(4, 1)
    lines = np.clip(3.0 * (ndimage.gaussian_filter(luma, 2.0) - luma) + 0.15 * (1 - luma), 0, 1)[..., None]
    if style == "pencil sketch":
        return np.clip(0.97 - lines * np.array([0.85, 0.85, 0.80]), 0, 1)
    if style == "blueprint":
        return np.clip(np.array([0.10, 0.25, 0.62]) + lines * np.array([0.80, 0.70, 0.36]), 0, 1)
    raise ValueError(f"unknown style {style!r}")


def bokeh(scene: Scene, sigma: float | Image = BOKEH_SIGMA) -> Image:
    """The subject sharp in front of its blurred background, without the subject's colour bleeding into it."""
    blurred = ndimage.gaussian_filter(background_of(scene), (sigma, sigma, 0), mode="nearest")
    return draw(blurred, scene.subject)


def render_target(scene: Scene, edit_type: EditType, request: Request) -> Image:
    """What a perfect editor makes of the scene, (SIZE, SIZE, 3) in [0, 1].

    Where the request leaves something open (a colour, the exact place), this is the usual choice; `referee` accepts
    the others too.
    """
    match edit_type:
        case EditType.ADDITION:
            return draw(render(scene), added_placement(request))
        case EditType.REMOVAL:
            return background_of(scene)
        case EditType.SWAP:
            return draw(background_of(scene), swapped_placement(scene, request))
        case EditType.BACKGROUND:
            assert request.background
            return draw(backgrounds.paint(request.background, SIZE, SIZE), scene.subject)
        case EditType.COLOUR:
            assert request.colour
            return draw(background_of(scene), replace(scene.subject, colour=request.colour))
        case EditType.BOKEH:
            return bokeh(scene)
        case EditType.RELIGHT:
            assert request.light
            assert request.tint
            return np.clip(render(scene) * light_field(request.light, request.tint), 0, 1)
        case EditType.STYLE:
            assert request.style
            return stylise(render(scene), request.style)


def changed_region(scene: Scene, edit_type: EditType, request: Request) -> Image:
    """The exact mask of what the edit may change, (SIZE, SIZE) in [0, 1]."""
    subject = coverage(scene.subject)
    match edit_type:
        case EditType.ADDITION:
            return coverage(added_placement(request))
        case EditType.REMOVAL | EditType.COLOUR:
            return subject
        case EditType.SWAP:
            return np.maximum(subject, coverage(swapped_placement(scene, request)))
        case EditType.BACKGROUND | EditType.BOKEH:
            return 1 - subject
        case EditType.RELIGHT | EditType.STYLE:
            return np.ones((SIZE, SIZE))
