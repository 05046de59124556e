"""What the editors over a pipeline of diffusers have in common: guidance, precision, times, batches.

Axes: see `training.editors.interface`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from training.editors.interface import Condition, Grid, Pixels, Shape, Text
from training.editors.settings import DiffusersSettings
from training.editors.sizes import fitted, resized

Pipeline = Any
"""A pipeline of diffusers; type checkers do not see into its lazily loaded modules."""


class DiffusersEditor(ABC):
    """A pipeline taken apart: its parts are used as they are, what it does in between is done here, sizes as wanted.

    The pipeline may lack its encoders: a training whose conditions were encoded before needs the transformer, the
    VAE and the scheduler alone.
    """

    lora_targets: tuple[str, ...]
    passes_vary: ClassVar[bool] = False
    """Whether the number of passes of the transformer depends on the texts of a batch."""
    normed_guidance: ClassVar[bool] = False
    """Whether a guided velocity is scaled back to the norm of the unguided one, token by token."""

    def __init__(self, pipeline: Pipeline, settings: DiffusersSettings, weights: str) -> None:
        """Over a loaded pipeline.

        Args:
            weights: what identifies its weights, see `training.editors.pipelines.identity_of`.
        """
        self.pipeline = pipeline
        self.settings = settings
        self.weights = weights
        for name in ("transformer", "vae", "text_encoder", "text_encoder_2"):
            if (module := getattr(pipeline, name, None)) is not None:
                module.requires_grad_(False).eval()

    @property
    def transformer(self) -> Any:
        """The pipeline's."""
        return self.pipeline.transformer

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    def to(self, device: torch.device | str) -> DiffusersEditor:
        self.pipeline.to(device)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen weights."""
        return getattr(torch, self.settings.dtype)

    @cached_property
    def fingerprint(self) -> str:
        return self.settings.fingerprint(type(self).__name__, self.weights)

    def sampling_times(self, num_steps: int, shape: Shape) -> Tensor:
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        scheduler.set_timesteps(sigmas=self.spacing(num_steps), mu=self.shift(num_steps, shape))
        return scheduler.sigmas.float().cpu()

    def spacing(self, num_steps: int) -> list[float]:
        """The times of a run before they are shifted, without the last, which is 0."""
        return np.linspace(1, 1 / num_steps, num_steps).tolist()

    def shift(self, num_steps: int, shape: Shape) -> float:
        """How far the times are shifted towards noise: the larger the image, the further (mu of the scheduler)."""
        config = self.pipeline.scheduler.config
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return low + (high - low) * (shape.num_tokens - few) / (many - few)

    def velocity(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition) -> Tensor:
        with self.precision():
            wanted_BNC = self.predict(latents_BNC, t_B, condition, condition.text).float()
            if condition.negative is None:
                return wanted_BNC
            unwanted_BNC = self.predict(latents_BNC, t_B, condition, condition.negative).float()
        guided_BNC = unwanted_BNC + self.settings.guidance * (wanted_BNC - unwanted_BNC)
        if self.normed_guidance:
            guided_BNC = guided_BNC * (wanted_BNC.norm(dim=-1, keepdim=True) / guided_BNC.norm(dim=-1, keepdim=True))
        return guided_BNC

    def precision(self) -> AbstractContextManager[Any]:
        """Around the network: the float32 adapter is used in the precision of the frozen weights."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    @torch.no_grad()
    def encode(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Condition:
        shapes = {self.shape_of(*source.shape[:2]) for source in sources}
        if len(shapes) != 1:
            raise ValueError(f"a batch shares one shape, these sources are of {len(shapes)}")
        if getattr(self.pipeline, "text_encoder", None) is None:
            raise ValueError(
                "this editor was loaded without its encoders; it takes conditions that are encoded already"
            )
        guided = self.settings.guidance > 1
        return Condition(
            shape=shapes.pop(),
            source_BMC=self.encode_sources(sources),
            text=self.encode_text(sources, instructions),
            negative=self.encode_text(sources, [self.settings.negative_prompt] * len(sources)) if guided else None,
        )

    def shape_of(self, height: int, width: int) -> Shape:
        target = fitted(height, width, self.settings.target_area, self.multiple)
        return Shape(self._grid(*target), (self._grid(*self.condition_size(height, width)),))

    def condition_size(self, height: int, width: int) -> tuple[int, int]:
        """The size in which the transformer sees a source of this size: the condition's area, larger or smaller."""
        return fitted(height, width, self.settings.condition_area, self.multiple)

    def _grid(self, height: int, width: int) -> Grid:
        return height // self.token_size, width // self.token_size

    def encode_sources(self, sources: Sequence[Pixels]) -> Tensor:
        """Source images of one shape to packed latents, (B, M, C)."""
        # One by one: the autoencoder has enough to do with one, and its memory does not grow with the batch.
        sized = (resized(source, *self.condition_size(*source.shape[:2])) for source in sources)
        return torch.cat([self.encode_source(source) for source in sized])

    @torch.no_grad()
    def decode(self, latents_BNC: Tensor, shape: Shape) -> list[Pixels]:
        # One by one: all images of a rollout at once would take hundreds of GB.
        images = (self.decode_image(latents_1NC, shape.target) for latents_1NC in latents_BNC.split(1))
        return [
            (image_CHW.permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().contiguous().numpy()
            for image_CHW in images
        ]

    @property
    @abstractmethod
    def token_size(self) -> int:
        """Pixels per side of a token."""

    @property
    def multiple(self) -> int:
        """Of which the sides of images are multiples, in pixels."""
        return self.token_size

    @abstractmethod
    def encode_source(self, source: Pixels) -> Tensor:
        """One source image, in the condition's size, to packed latents, (1, M, C)."""

    @abstractmethod
    def decode_image(self, latents_1NC: Tensor, grid: Grid) -> Tensor:
        """One image's latents to red, green and blue in [0, 1], (3, H, W) float32."""

    @abstractmethod
    def encode_text(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Text:
        """Instructions, for models whose text encoder also looks at the image."""

    @abstractmethod
    def predict(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition, text: Text) -> Tensor:
        """One pass of the transformer: the velocity of the target's tokens, (B, N, C), unguided."""
