"""Which editors there are, and how each is made from its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from storage.records import Case
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


def make_editor(config: EditorConfig, store: Store, cases: Callable[[], Iterable[Case]]) -> Editor:
    """Make an editor.

    Args:
        store: where adapters are.
        cases: where the classical editor finds objects to paste.
    """
    if config.kind == "classical":
        from tasks.editing.classical import ClassicalEditor
        from tasks.editing.cutouts import Cutouts

        objects = ((case.category, decode(case.source), decode_mask(case.mask)) for case in cases())
        return ClassicalEditor(Cutouts.from_objects(objects), careful_share=config.careful_share)
    from tasks.editing.model_editor import ModelEditor

    adapter = store.resolve(config.adapter) if config.adapter else None
    model = load_miniature()
    if adapter is not None:
        from training.lora import load_adapter_bytes

        load_adapter_bytes(model.transformer, adapter.file("weights"))
    return ModelEditor(model, adapter.ref.manifest if adapter else "", config.num_steps)


def load_miniature(folder: Path | None = None):  # noqa: ANN201 - importing the type would import torch
    """The committed miniature editor, on a GPU where there is one."""
    import torch

    from tasks.miniature.weights import WEIGHTS
    from training.editors.miniature import MiniatureEditor

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return MiniatureEditor.from_pretrained(folder or WEIGHTS).to(device)
