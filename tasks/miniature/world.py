"""The fingerprint of the miniature world: what the committed editor was made for."""

from __future__ import annotations

from storage.records import EditType, identity
from tasks.collection.instructions import TEMPLATES, words
from tasks.miniature.examples import make_example
from tasks.miniature.scenes import to_bytes
from tasks.miniature.sloppiness import KINDS, probability, render_sloppy
from tasks.miniature.sprites import CATEGORIES

_SAMPLES = 64


def world_fingerprint() -> str:
    """The hash of a sample of the world: pictures, targets, sloppy targets, words. Any change of them changes it."""
    parts: list[object] = [list(words(CATEGORIES)), {t.value: list(texts) for t, texts in TEMPLATES.items()}]
    for index in range(_SAMPLES):
        example = make_example(0, index, sloppy_share=0.0)
        parts += [
            example.instruction,
            example.source.tobytes(),
            example.target.tobytes(),
            probability(example.scene, example.edit_type),
        ]
        for kind in KINDS[example.edit_type]:
            sloppy = render_sloppy(example.scene, example.edit_type, example.request, kind, 0.75)
            parts += [kind, to_bytes(sloppy).tobytes()]
    return identity(*parts)


assert len(EditType) <= _SAMPLES
