"""What turns text and images into a Qwen3-VL model's inputs, with torchvision and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.editors.qwen_processor import image_only, torchvision_works


def load_processor(model: str, revision: str = "") -> Any:
    """The processor of a Qwen3-VL model: the stock one where torchvision works, else one that knows images only.

    Args:
        model: a folder, which is read without any network, or a name on the Hugging Face hub.
        revision: a commit of the hub; empty: the newest.

    Raises: OSError or ValueError where there is none.
    """
    stock = torchvision_works()
    from transformers import AutoProcessor

    kind = AutoProcessor if stock else image_only_processor()
    return kind.from_pretrained(model, revision=revision or None, local_files_only=Path(model).is_dir())


def image_only_processor() -> Any:
    """A `Qwen3VLProcessor` whose video processor is None, to call `from_pretrained` on."""
    from transformers import Qwen3VLProcessor

    return image_only(Qwen3VLProcessor)
