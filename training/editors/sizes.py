"""Sizes of images in pixels: as large as wanted, in their own aspect ratio, in whole tokens."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from training.editors.interface import Pixels


def fitted(height: int, width: int, area: int, multiple: int = 32) -> tuple[int, int]:
    """The height and width of about this area in the aspect ratio of an image, both multiples of `multiple`.

    Source: `calculate_dimensions` of diffusers' QwenImageEditPlusPipeline, so that its sizes are ours; at least one
    `multiple` a side, which keeps very long images from vanishing.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} x {width} pixels has no size")
    wanted_width = math.sqrt(area * width / height)
    wanted_height = wanted_width / (width / height)
    return (
        max(multiple, round(wanted_height / multiple) * multiple),
        max(multiple, round(wanted_width / multiple) * multiple),
    )


def resized(image: Pixels, height: int, width: int) -> Pixels:
    """The image in this size, by Lanczos as diffusers' image processors do it; itself where it has the size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
