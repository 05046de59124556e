"""From an annotated image to an instruction: what could be asked of it, and how to say so in varied words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, Request
from tasks.collection.vocabulary import BACKGROUNDS, COLOURS, LIGHTS, PLACES, STYLES, TINTS

FREE_WIDTH = 0.5
"""An object is added only on a side where this share of the image's width lies free beside the subject."""
DIFFERENT_COLOUR = 0.30
"""A recolouring asks only for colours at least this far (Euclidean, sRGB) from the subject's median colour."""

TEMPLATES: dict[EditType, tuple[str, ...]] = {
    EditType.ADDITION: (
        "add a {new} on the {place}",
        "put a {new} on the {place} side",
        "place a {new} to the {place} of the {subject}",
    ),
    EditType.REMOVAL: (
        "remove the {subject}",
        "erase the {subject} from the picture",
        "take the {subject} away",
    ),
    EditType.SWAP: (
        "replace the {subject} with a {new}",
        "swap the {subject} for a {new}",
        "turn the {subject} into a {new}",
    ),
    EditType.BACKGROUND: (
        "change the background to a {background}",
        "put the {subject} in front of a {background}",
        "replace everything behind the {subject} with a {background}",
    ),
    EditType.COLOUR: (
        "make the {subject} {colour}",
        "paint the {subject} {colour}",
        "change the color of the {subject} to {colour}",
    ),
    EditType.BOKEH: (
        "blur the background",
        "add bokeh behind the {subject}",
        "keep the {subject} sharp and blur the rest",
    ),
    EditType.RELIGHT: (
        "light the scene with {tint} light from {light}",
        "add {tint} light coming from {light}",
        "relight the {subject} from {light} with {tint} light",
    ),
    EditType.STYLE: (
        "turn the picture into a {style}",
        "make it look like a {style}",
        "redraw the scene as a {style}",
    ),
}

_SAID = {"left": "the left", "right": "the right", "above": "above"}


def choose_request(
    edit_type: EditType,
    image: NDArray[np.floating],
    mask: NDArray[np.bool_],
    new_categories: Sequence[str],
    rng: np.random.Generator,
) -> Request | None:
    """Choose what to ask of an image.

    Args:
        image: (H, W, 3), sRGB in [0, 1].
        mask: (H, W), the subject.
        new_categories: what may be added or swapped in; without the subject's own category.

    Returns: the request, or None where this image does not suit the edit type (no free side, say).
    """
    match edit_type:
        case EditType.ADDITION:
            columns = np.flatnonzero(mask.any(0)) / mask.shape[1]
            free = {"left": columns[0], "right": 1 - (columns[-1] + 1 / mask.shape[1])}
            places = [place for place in PLACES if free[place] >= FREE_WIDTH]
            if not places or not new_categories:
                return None
            return Request(new_category=_one(new_categories, rng), place=_one(places, rng))
        case EditType.SWAP:
            return Request(new_category=_one(new_categories, rng)) if new_categories else None
        case EditType.COLOUR:
            present = np.median(image[mask], axis=0)
            others = [n for n, rgb in COLOURS.items() if np.linalg.norm(present - rgb) >= DIFFERENT_COLOUR]
            return Request(colour=_one(others, rng)) if others else None
        case EditType.BACKGROUND:
            return Request(background=_one(BACKGROUNDS, rng))
        case EditType.RELIGHT:
            return Request(light=_one(tuple(LIGHTS), rng), tint=_one(tuple(TINTS), rng))
        case EditType.STYLE:
            return Request(style=_one(STYLES, rng))
        case EditType.REMOVAL | EditType.BOKEH:
            return Request()


def phrase(edit_type: EditType, subject: str, request: Request, rng: np.random.Generator) -> str:
    """Say a request in words; `subject` is the subject's category."""
    text = _one(TEMPLATES[edit_type], rng).format(
        subject=subject,
        new=request.new_category,
        colour=request.colour,
        place=request.place,
        background=request.background,
        light=_SAID.get(request.light or ""),
        tint=request.tint,
        style=request.style,
    )
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def words(categories: Sequence[str]) -> tuple[str, ...]:
    """Every word that an instruction about these categories can contain, sorted."""
    texts = ["an", *categories, *COLOURS, *PLACES, *BACKGROUNDS, *STYLES, *TINTS, *_SAID.values()]
    for templates in TEMPLATES.values():
        texts += [" ".join(w for w in template.split() if "{" not in w) for template in templates]
    return tuple(sorted({word for text in texts for word in text.split()}))


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
