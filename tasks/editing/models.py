"""The editing models that can be trained: loading them, and naming their weights without loading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.editing.settings import ModelConfig

if TYPE_CHECKING:
    from training.editors.interface import TrainableEditor


def load_model(config: ModelConfig, encoders: bool = True, device: str | None = None) -> TrainableEditor:
    """A model.

    Args:
        encoders: also load what encodes sources and instructions; without, conditions must be encoded already.
        device: None: a GPU where there is one.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if config.kind == "miniature":
        from tasks.miniature.editor import load_miniature

        return load_miniature().to(device)
    from training.editors.pipelines import load_editor

    return load_editor(config.settings, device, encoders)


def fingerprint_of_model(config: ModelConfig) -> str:
    """The fingerprint that the loaded model has, see `TrainableEditor.fingerprint`; it is read off the files."""
    if config.kind == "miniature":
        from tasks.miniature.editor import weights_fingerprint

        return weights_fingerprint()
    from training.editors.pipelines import fingerprint_of

    return fingerprint_of(config.settings)
