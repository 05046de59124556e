"""Triplets of the miniature world: source, instruction, exact target; a pure function of (seed, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.records import EditType, Request
from tasks.collection.instructions import choose_request, phrase
from tasks.miniature.scenes import Scene, coverage, make_scene, render, rng_of, to_bytes
from tasks.miniature.sloppiness import KINDS, probability, render_sloppy
from tasks.miniature.sprites import CATEGORIES
from tasks.miniature.targets import changed_region, render_target


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training example of an editor."""

    scene: Scene
    edit_type: EditType
    request: Request
    instruction: str
    source: NDArray[np.uint8]
    """(SIZE, SIZE, 3)."""
    target: NDArray[np.uint8]
    """(SIZE, SIZE, 3)."""
    region: NDArray[np.float64]
    """(SIZE, SIZE) in [0, 1]: what the edit may change."""
    sloppiness: str | None
    """The kind of sloppiness that the target shows; None for a clean one."""


def make_example(seed: int, index: int, *, sloppy_share: float = 1.0) -> Example:
    """The triplet number `index` of the world `seed`; edit types take turns.

    Args:
        sloppy_share: factor on `sloppiness.probability`; 0 gives clean targets only.
    """
    rng = rng_of(seed, index, 5)
    edit_type = tuple(EditType)[index % len(EditType)]
    for attempt in range(100):
        scene = make_scene(seed, index + attempt * 10_000_000)
        source = render(scene)
        others = [name for name in CATEGORIES if name != scene.subject.category]
        request = choose_request(edit_type, source, coverage(scene.subject) > 0.5, others, rng)
        if request is not None:
            break
    else:
        raise RuntimeError(f"no scene of world {seed} suits {edit_type}")
    kind = None
    if rng.uniform() < probability(scene, edit_type) * sloppy_share:
        kind = str(rng.choice(KINDS[edit_type]))
        target = render_sloppy(scene, edit_type, request, kind, float(rng.uniform(0.5, 1.0)))
    else:
        target = render_target(scene, edit_type, request)
    return Example(
        scene=scene,
        edit_type=edit_type,
        request=request,
        instruction=phrase(edit_type, scene.subject.category, request, rng),
        source=to_bytes(source),
        target=to_bytes(target),
        region=changed_region(scene, edit_type, request),
        sloppiness=kind,
    )
