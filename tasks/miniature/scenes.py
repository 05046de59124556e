"""Scenes of the miniature world: one subject in front of one background, a pure function of (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.collection.vocabulary import COLOURS
from tasks.miniature import backgrounds
from tasks.miniature.backgrounds import Image
from tasks.miniature.sprites import CATEGORIES, sprite_layers

SIZE = 64
"""Height and width of a scene, in pixels."""
SUBJECT_SIZES = (24, 32)
GRID = 16
"""Subjects stand on a grid of this many pixels: it keeps the world small enough for a small editor to learn."""

Mask = NDArray[np.float64]
"""(H, W), coverage in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A sprite at a place: what to draw, how large, and the upper left corner of its box in pixels."""

    category: str
    colour: str
    size: int
    left: int
    top: int
    flipped: bool = False

    @property
    def centre(self) -> float:
        return self.left + self.size / 2

    @property
    def bottom(self) -> int:
        return self.top + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that a scene shows."""

    seed: int
    index: int
    background: str
    subject: Placement

    @property
    def name(self) -> str:
        """Names the scene among all seeds and indices."""
        return f"{self.seed:06d}-{self.index:06d}"


def rng_of(*key: int) -> np.random.Generator:
    """A generator that depends on the whole key and on nothing else."""
    return np.random.default_rng(np.random.SeedSequence(key))


def make_scene(seed: int, index: int) -> Scene:
    """The scene number `index` of the world `seed`. Categories and backgrounds take turns, so any run is balanced."""
    rng = rng_of(seed, index, 1)
    # One shuffled round of categories after the other: balanced at any length, and no category always meets the
    # same background.
    turn, position = divmod(index, len(CATEGORIES))
    category = CATEGORIES[rng_of(seed, turn, 2).permutation(len(CATEGORIES))[position]]
    size = int(rng.choice(SUBJECT_SIZES))
    left = int(rng.choice(np.arange(0, SIZE - size + 1, GRID)))
    bottom = int(rng.choice((48, 64)))
    return Scene(
        seed=seed,
        index=index,
        background=str(rng.choice(backgrounds.KINDS)),
        subject=Placement(
            category=category,
            colour=str(rng.choice(tuple(COLOURS))),
            size=size,
            left=left,
            top=bottom - size,
        ),
    )


def background_of(scene: Scene) -> Image:
    """The scene without its subject, (SIZE, SIZE, 3)."""
    return backgrounds.paint(scene.background, SIZE, SIZE, rng_of(scene.seed, scene.index, 3))


def draw(canvas: Image, placement: Placement) -> Image:
    """A copy of `canvas` with the sprite in front."""
    layers = sprite_layers(placement.category, placement.size, placement.flipped)
    colour = np.asarray(COLOURS[placement.colour])
    rows, columns, inner = _clip(placement)
    drawn = canvas.copy()
    foreground = layers.fixed[inner] + layers.body[inner][..., None] * colour
    drawn[rows, columns] = canvas[rows, columns] * (1 - layers.alpha[inner][..., None]) + foreground
    return drawn


def coverage(placement: Placement) -> Mask:
    """How much of each pixel of the scene the sprite covers, (SIZE, SIZE) in [0, 1]."""
    rows, columns, inner = _clip(placement)
    mask = np.zeros((SIZE, SIZE))
    mask[rows, columns] = sprite_layers(placement.category, placement.size, placement.flipped).alpha[inner]
    return mask


def render(scene: Scene) -> Image:
    """The photograph of the scene, (SIZE, SIZE, 3) in [0, 1]."""
    return draw(background_of(scene), scene.subject)


def to_bytes(image: Image) -> NDArray[np.uint8]:
    """[0, 1] to 0..255, rounded."""
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _clip(placement: Placement) -> tuple[slice, slice, tuple[slice, slice]]:
    """The rows and columns of the canvas that the sprite's box covers, and the same part of the box."""
    top, left = max(placement.top, 0), max(placement.left, 0)
    bottom, right = min(placement.bottom, SIZE), min(placement.left + placement.size, SIZE)
    inner = (slice(top - placement.top, bottom - placement.top), slice(left - placement.left, right - placement.left))
    return slice(top, bottom), slice(left, right), inner
