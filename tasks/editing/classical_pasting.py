"""Putting an object into a picture: how large, where, in whose light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.editing.classical_matting import Alpha, Image, Mask, as_floats, blend, blur, resize, unit_of

SMALLEST_SHARE = 0.035
"""Of the picture's area that an added object covers: a mouse beside a bus would otherwise not be seen."""
LARGEST_HEIGHT, LARGEST_WIDTH = 0.75, 0.42
"""Of the picture's height and width that an added object takes, at most."""
LONGEST_SIDE_METRES: dict[str, float] = {
    "person": 1.7, "bicycle": 1.7, "car": 4.2, "motorcycle": 2.1, "airplane": 12, "bus": 10, "train": 15, "truck": 7,
    "boat": 6, "traffic light": 0.9, "fire hydrant": 0.8, "stop sign": 0.8, "parking meter": 1.4, "bench": 1.6,
    "bird": 0.35, "cat": 0.5, "dog": 0.8, "horse": 2.2, "sheep": 1.2, "cow": 2.2, "elephant": 4, "bear": 1.8,
    "zebra": 2.2, "giraffe": 4.6, "backpack": 0.5, "umbrella": 1, "handbag": 0.35, "tie": 0.5, "suitcase": 0.65,
    "frisbee": 0.27, "skis": 1.7, "snowboard": 1.5, "sports ball": 0.22, "kite": 1.2, "baseball bat": 0.85,
    "baseball glove": 0.3, "skateboard": 0.8, "surfboard": 2, "tennis racket": 0.7, "bottle": 0.28,
    "wine glass": 0.2, "cup": 0.11, "fork": 0.19, "knife": 0.22, "spoon": 0.18, "bowl": 0.2, "banana": 0.18,
    "apple": 0.08, "sandwich": 0.15, "orange": 0.08, "broccoli": 0.15, "carrot": 0.18, "hot dog": 0.16, "pizza": 0.32,
    "donut": 0.1, "cake": 0.25, "chair": 0.9, "couch": 2, "potted plant": 0.6, "bed": 2, "dining table": 1.6,
    "toilet": 0.75, "tv": 1, "laptop": 0.35, "mouse": 0.11, "remote": 0.18, "keyboard": 0.45, "cell phone": 0.15,
    "microwave": 0.5, "oven": 0.8, "toaster": 0.3, "sink": 0.55, "refrigerator": 1.8, "book": 0.23, "clock": 0.3,
    "vase": 0.3, "scissors": 0.18, "teddy bear": 0.4, "hair drier": 0.22, "toothbrush": 0.18,
}  # fmt: skip
"""About how large things are: what makes a cup beside a person a small thing."""


@dataclass(frozen=True)
class Placed:
    """An object at its place in a picture."""

    colours: Image
    """(H, W, 3): its colours, anything where it is not."""
    alpha: Alpha
    """(H, W): its opacity."""


def place(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], shape: tuple[int, int], box: tuple[int, ...]) -> Placed:
    """Scale a cut-out into a box (top, left, height, width), which may reach over the picture's border."""
    top, left, height, width = box
    # Lanczos would ring at the cut edge; area averaging makes a cubic enlargement blocky.
    shrinking = height < alpha.shape[0]
    how = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
    small_rgb = np.clip(resize(as_floats(rgb), (width, height), how), 0, 1)
    small_alpha = np.clip(resize(as_floats(alpha), (width, height), how), 0, 1)
    colours, opacity = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.float32)
    rows, columns = slice(max(top, 0), min(top + height, shape[0])), slice(max(left, 0), min(left + width, shape[1]))
    cut = (
        slice(rows.start - top, max(rows.stop - top, rows.start - top)),
        slice(columns.start - left, max(columns.stop - left, columns.start - left)),
    )
    colours[rows, columns], opacity[rows, columns] = small_rgb[cut], small_alpha[cut]
    return Placed(colours, opacity)


def beside(
    mask: Mask,
    side: str,
    cut: tuple[int, int],
    coverage: float,
    categories: tuple[str, str],
    rng: np.random.Generator,
    smaller: float = 1.0,
    astray: float = 0.0,
) -> tuple[int, int, int, int]:
    """Where a new object stands beside the subject.

    Args:
        side: "left" or "right".
        cut: (height, width) of the cut-out.
        coverage: share of its box that it fills.
        categories: of the subject and of the new object, for their sizes.
        smaller: factor on the sensible size.
        astray: 0 is the side asked for, 1 the mirrored place on the other side.

    Returns: its box (top, left, height, width), wholly within the picture.
    """
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    subject_side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    old, new = (LONGEST_SIDE_METRES.get(category) for category in categories)
    # The square root: half way between true sizes and equal ones, since depth is unknown and both must be seen.
    relative = np.sqrt(new / old) if old and new else 1.0
    scale = subject_side * relative / max(cut)
    scale = max(scale, np.sqrt(SMALLEST_SHARE * height * width / (cut[0] * cut[1] * max(coverage, 0.1))))
    free = columns[0] if side == "left" else width - 1 - columns[-1]
    room = min(LARGEST_WIDTH * width, max(0.95 * free, 0.25 * width))
    scale = min(scale, room / cut[1], LARGEST_HEIGHT * height / cut[0])
    tall, wide = (max(2, round(length * scale * smaller)) for length in cut)
    ground = int(np.clip(rows[-1] + 1, 0.75 * height, 0.96 * height))
    middle = free / 2 if side == "left" else width - free / 2
    middle += rng.uniform(-0.15, 0.15) * max(free - wide, 0)
    # Not past the middle of the picture, even if the subject leaves little room.
    low, high = (0, 0.48 * width - wide) if side == "left" else (0.52 * width, width - wide)
    left = np.clip(middle - wide / 2, min(low, high), max(low, high))
    left += astray * (width - wide - 2 * left)
    return max(ground - tall, 0), int(np.clip(left, 0, width - wide)), tall, wide


def instead_of(mask: Mask, cut: tuple[int, int], coverage: float) -> tuple[int, int, int, int]:
    """Where a new object stands in the subject's place: on its ground, about as large, not much beyond its box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    scale = np.sqrt(mask.sum() / (cut[0] * cut[1] * max(coverage, 0.1)))
    scale = min(scale, 1.25 * height / cut[0], 1.25 * width / cut[1])
    tall, wide = max(2, round(cut[0] * scale)), max(2, round(cut[1] * scale))
    centre = (columns[0] + columns[-1] + 1) / 2
    return int(rows[-1] + 1 - tall), round(centre - wide / 2), tall, wide


def harmonise(scene: Image, placed: Placed, amount: float = 0.5) -> Placed:
    """Bring an object part of the way to the light of the place where it stands: brightness, contrast and cast."""
    inside = placed.alpha > 0.5
    if not inside.any():
        return placed
    lab = cv2.cvtColor(placed.colours, cv2.COLOR_RGB2LAB)
    around = cv2.cvtColor(scene, cv2.COLOR_RGB2LAB)
    near = blur(placed.alpha, 8 * unit_of(scene))
    near = near > 0.1 * near.max()
    own, there = lab[inside], around[near]
    spread = np.clip(there[:, 0].std() / max(own[:, 0].std(), 1), 0.7, 1.3)
    lightness = own[:, 0].mean()
    shift = np.clip(there.mean(0) - own.mean(0), (-25, -10, -10), (25, 10, 10)) * (amount, 0.4 * amount, 0.4 * amount)
    lab[..., 0] = (lab[..., 0] - lightness) * spread**amount + lightness
    moved = cv2.cvtColor(np.clip(lab + shift, (0, -127, -127), (100, 127, 127)).astype(np.float32), cv2.COLOR_LAB2RGB)
    return Placed(np.clip(moved, 0, 1), placed.alpha)


def paste(scene: Image, placed: Placed, shadow: float = 0.35) -> Image:
    """The object over the scene, with a soft shadow on the ground where it stands."""
    unit = unit_of(scene)
    rows = np.flatnonzero((placed.alpha > 0.5).any(1))
    if shadow > 0 and len(rows):
        foot = placed.alpha.copy()
        foot[: max(rows[-1] - round(0.12 * (rows[-1] - rows[0]) + unit), 0)] = 0
        lowered = np.roll(foot, round(0.4 * unit), 0)
        lowered[: round(0.4 * unit)] = 0
        dark = cv2.GaussianBlur(lowered, (0, 0), 1.2 * unit, sigmaY=0.5 * unit, borderType=cv2.BORDER_REPLICATE)
        scene = scene * (1 - shadow * dark)[..., None]
    return blend(scene, placed.colours, placed.alpha)
