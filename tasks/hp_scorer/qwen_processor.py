"""What turns text and images into a Qwen3-VL model's inputs, with torchvision and without.

The stock processor asks for torchvision because of videos, which no judge looks at.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


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
    from transformers import AutoTokenizer, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class ImageOnly(Qwen3VLProcessor):
        @classmethod
        def _get_arguments_from_pretrained(cls, model: str, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
            parts = (Qwen2VLImageProcessorPil, AutoTokenizer)
            return [*(part.from_pretrained(model, **kwargs) for part in parts), None]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor" and argument is None:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

    return ImageOnly


def torchvision_works() -> bool:
    """Whether torchvision is there and can be imported.

    One that is installed and broken, as beside a torch that was built otherwise, is hidden from this process: the
    transformers library looks whether there is one, not whether it works, and then fails where it first imports it.
    """
    try:
        import torchvision.transforms.v2  # noqa: F401
    except ModuleNotFoundError:
        return False
    except Exception:  # of any kind: RuntimeError for a missing operator, OSError for a missing library
        sys.modules["torchvision"] = None  # type: ignore[assignment]
        from transformers.utils import import_utils

        import_utils.is_torchvision_available.cache_clear()
        return False
    return True
