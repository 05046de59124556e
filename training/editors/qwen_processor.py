"""What turns text and images into the inputs of a Qwen vision-language model, without torchvision.

The stock processors ask for torchvision because of videos, which nothing here looks at.
"""

from __future__ import annotations

import sys
from typing import Any


def image_only(kind: Any) -> Any:
    """The processor class `kind`, such as `Qwen2VLProcessor`, without its part for videos; call `from_pretrained`.

    Images are resized by pillow, so that the same image gives the same inputs on every machine. The class bears the
    stock one's name: what is saved with it is read by the stock one.
    """
    torchvision_works()
    from transformers import AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    class ImageOnly(kind):
        @classmethod
        def _get_arguments_from_pretrained(cls, model: str, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
            parts = (Qwen2VLImageProcessorPil, AutoTokenizer)
            return [*(part.from_pretrained(model, **kwargs) for part in parts), None]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor" and argument is None:
                return type(None)
            return super().check_argument_for_proper_class(argument_name, argument)

        def save_pretrained(self, folder: str, **kwargs: Any) -> None:
            for part in (self.image_processor, self.tokenizer):
                part.save_pretrained(folder, **kwargs)

    ImageOnly.__name__, ImageOnly.__module__ = kind.__name__, kind.__module__
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
