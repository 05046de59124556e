"""The referee: the simulated taste of the miniature world ("gold"), against which judges ("proxies") are measured.

It alone sees the clean target. It is never used for filtering or as a reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from storage.records import EditType, Request
from tasks.miniature import targets
from tasks.miniature.backgrounds import Image
from tasks.miniature.recogniser import find_sprite
from tasks.miniature.scenes import SIZE, Placement, Scene, background_of, render

TOLERANCE = 0.10
"""An edit that is done but for this share, and a picture changed elsewhere by this little, loses nothing."""
_LUMA = np.array([0.299, 0.587, 0.114])


def referee_score(scene: Scene, edit_type: EditType, request: Request, edited: NDArray[np.uint8]) -> float:
    """How close an edit is to what was asked, 0 to 5.

    5 is a clean target, 0 the unchanged source or worse. What the instruction leaves open is taken as the edit has
    it: the colour and the exact place of a new object, the strength of a blur or a light.

    Args:
        edited: (SIZE, SIZE, 3) sRGB.
    """
    if edited.shape != (SIZE, SIZE, 3):
        raise ValueError(f"edited image of shape {edited.shape}: scenes are {(SIZE, SIZE, 3)}")
    picture = edited.astype(np.float64) / 255
    source = render(scene)
    return max(_closeness(picture, target, source) for target in _acceptable(scene, edit_type, request, picture))


def _acceptable(scene: Scene, edit_type: EditType, request: Request, picture: Image) -> Iterator[Image]:
    """Clean targets that fulfil the instruction, among them the closest ones to the picture."""
    yield targets.render_target(scene, edit_type, request)
    match edit_type:
        case EditType.ADDITION:
            yield from _with_object(render(scene), targets.added_placement(request), picture, reach=6)
        case EditType.SWAP:
            yield from _with_object(background_of(scene), targets.swapped_placement(scene, request), picture, reach=4)
        case EditType.BOKEH:
            for sigma in (2.0, 3.0, 3.5):
                yield targets.bokeh(scene, sigma)
        case EditType.RELIGHT:
            assert request.light
            assert request.tint
            for strength in (0.85, 1.15):
                field = targets.light_field(request.light, request.tint, strength)
                yield np.clip(render(scene) * field, 0, 1)


def _with_object(background: Image, placement: Placement, picture: Image, reach: int) -> Iterator[Image]:
    """The object at the place and in the colour that fit the picture best, where it is there at all."""
    sighting = find_sprite(
        picture, background, placement.category, placement.size, placement.centre, placement.bottom, reach
    )
    if sighting.opacity > 0.3:
        yield background * (1 - sighting.alpha[..., None]) + sighting.drawn


def _closeness(picture: Image, target: Image, source: Image) -> float:
    """0 to 5. Three things count: the change that was asked is made, the rest is left alone, nothing is smeared.

    The region that should change is where target and source differ. Errors are taken of colours and of edges alike:
    a mean colour alone would forgive a blur.
    """
    asked = _difference(target, source)
    missing = _difference(picture, target)
    region = ndimage.maximum_filter(asked > 0.08, 3)
    kept = ~region
    done = 0.0
    if region.any():
        # Root mean square: a ghost over half of the region is worse than a tint over all of it.
        done = 1 - math.sqrt((missing[region] ** 2).mean() / (asked[region] ** 2).mean())
    damage = 0.0
    if kept.any():
        damage = 0.5 * math.sqrt((missing[kept] ** 2).mean()) + 0.5 * float(
            np.quantile(ndimage.gaussian_filter(missing * kept, 2), 0.98)
        )
    kept_well = 1 - 0.75 * (1 - _grade(2 * damage, 0.5))
    return 5.0 * _grade(1 - done, 1.0) * kept_well * _grade(_blurred(picture, target) - TOLERANCE, 0.9)


def _grade(badness: float, worst: float) -> float:
    """1 up to the tolerance, 0 from `worst` on, linear between."""
    return float(np.clip((worst - badness) / (worst - TOLERANCE), 0, 1))


def _difference(first: Image, second: Image) -> Image:
    """(H, W): difference in colour, and twice the difference in brightness gradient."""
    colour = np.sqrt(((first - second) ** 2).mean(2))
    along = [ndimage.gaussian_filter((first - second) @ _LUMA, 0.5, order=order) for order in ((1, 0), (0, 1))]
    return np.sqrt(colour**2 + (2 * np.hypot(*along)) ** 2)


def _blurred(picture: Image, target: Image) -> float:
    """How much of the target's sharpness is missing where the target is sharp, in [0, 1]."""
    wanted, found = _sharpness(target), _sharpness(picture)
    sharp = wanted > max(0.02, np.quantile(wanted, 0.75))
    return 1 - float(np.minimum(found, wanted)[sharp].sum() / wanted[sharp].sum()) if sharp.any() else 0.0


def _sharpness(image: Image) -> Image:
    """(H, W) local contrast at the finest scale, pooled over a few pixels so that a shift does not count."""
    luma = image @ _LUMA
    fine = np.abs(luma - ndimage.gaussian_filter(luma, 1.0, mode="nearest"))
    return ndimage.gaussian_filter(fine, 1.5, mode="nearest")
