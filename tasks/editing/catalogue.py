"""Which editors there are, and how each is made from its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field

from storage.records import Case, identity
from storage.store import Store
from tasks.collection.coco import decode_mask
from tasks.editing.interface import Editor
from tasks.images import decode
from tasks.stage import StageConfig


class EditorConfig(StageConfig):
    """Which editor, and how it samples."""

    kind: Literal["miniature", "classical"] = Field(
        "miniature", description="miniature: the small trained model; classical: image processing, for photographs."
    )
    num_steps: int = Field(8, ge=2, description="Sampling steps of a model.")
    adapter: str | None = Field(None, description="An adapter version to put on a model, such as adapter@v3.")
    careful_share: float = Field(0.5, ge=0, le=1, description="classical: share of the edits made with care.")


def fingerprint_of_editor(config: EditorConfig, store: Store) -> str:
    """The fingerprint that the editor will have, without making it: models are heavy.

    The classical editor's does not tell which objects it has to paste: they come from the cases, and every new case
    would make all edits anew. An edit stands with the objects that there were when it was made.
    """
    if config.kind == "classical":
        from tasks.editing.classical import fingerprint_of

        return fingerprint_of(config.careful_share)
    from tasks.miniature.editor import weights_fingerprint

    adapter = store.resolve(config.adapter).ref.manifest if config.adapter else ""
    return identity("miniature", weights_fingerprint(), adapter, config.num_steps)


def make_editor(config: EditorConfig, store: Store, cases: Callable[[], Iterable[Case]]) -> Editor:
    """Make an editor.

    Args:
        store: where adapters are.
        cases: where the classical editor finds objects to paste.
    """
    if config.kind == "classical":
        if config.adapter is not None:
            raise ValueError(f"editor classical has no weights to put {config.adapter} on; choose a model")
        from tasks.editing.classical import ClassicalEditor
        from tasks.editing.cutouts import Cutouts

        objects = ((case.category, decode(case.source), decode_mask(case.mask)) for case in cases())
        return ClassicalEditor(Cutouts.from_objects(objects), careful_share=config.careful_share)
    from tasks.editing.model_editor import ModelEditor
    from tasks.miniature.editor import load_miniature
    from training.lora import load_adapter

    model = load_miniature()
    if config.adapter is not None:
        load_adapter(model.transformer, store.resolve(config.adapter).file("weights"))
    return ModelEditor(model, fingerprint_of_editor(config, store), num_steps=config.num_steps)
