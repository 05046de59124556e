"""How an editing model of diffusers is loaded and used."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from storage.records import identity


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersSettings:
    """Which pipeline, at which sizes. An image keeps its aspect ratio: sizes are areas in pixels."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    model: str
    """A folder that a pipeline was saved in, or its name on the hub, such as Qwen/Qwen-Image-Edit-2509."""
    revision: str | None = None
    """Of the hub's repository: a commit, so that the same settings mean the same weights later."""
    target_area: int = 512 * 512
    """Of the image that is drawn."""
    condition_area: int = 512 * 512
    """Of the source image as the transformer sees it, whatever its own size. diffusers' Qwen-Image-Edit takes
    1024 x 1024 always, which makes a 512 x 512 edit 2.7 times as dear."""
    vision_area: int = 384 * 384
    """Of the source image as a vision-language text encoder sees it, where that may be another size."""
    guidance: float = 1.0
    """Classifier-free, against the negative prompt; 1 is without, at half the cost."""
    negative_prompt: str = " "
    embedded_guidance: float = 2.5
    """Of guidance-distilled models, which take it as an input (FLUX)."""
    max_text_tokens: int = 512
    """Longer instructions are cut off where the model's own pipeline does so."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the frozen weights and of what is computed with them; the adapter is float32 always."""

    def __post_init__(self) -> None:
        for name in ("target_area", "condition_area", "vision_area"):
            if (area := getattr(self, name)) < 32 * 32:
                raise ValueError(f"{name} {area}: in pixels, at least {32 * 32}")
        if self.guidance < 1:
            raise ValueError(f"guidance {self.guidance}: at least 1, which is without guidance")

    def fingerprint(self, editor: str, weights: str) -> str:
        """The hash of everything that changes what an editor draws.

        Args:
            editor: the name of its class.
            weights: what identifies them, see `training.editors.pipelines.identity_of`.
        """
        # Where the weights lie is not what they are.
        used = {name: value for name, value in asdict(self).items() if name not in ("model", "revision")}
        return identity(editor, weights, used)
