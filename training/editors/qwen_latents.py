"""What the editors of the Qwen-Image family share: sizes, and the autoencoder, which is one of films.

Axes: see `training.editors.interface`; T frames, H and W pixels, Y and X rows and columns of the latent image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from training.editors.diffusers_editor import DiffusersEditor
from training.editors.interface import Grid, Pixels, Shape
from training.editors.sizes import fitted, resized

TOKEN = 16
"""Pixels per side of a token."""


class QwenEditor(DiffusersEditor):
    """Over a pipeline whose sources are brought to the condition's area, larger or smaller, in their aspect ratio."""

    def shape_of(self, height: int, width: int) -> Shape:
        target = fitted(height, width, self.settings.target_area)
        source = self.condition_size(height, width)
        return Shape(_grid(*target), (_grid(*source),))

    def condition_size(self, height: int, width: int) -> tuple[int, int]:
        """The size in which the transformer sees a source of this size."""
        return fitted(height, width, self.settings.condition_area)

    def encode_sources(self, sources: Sequence[Pixels]) -> Tensor:
        # One by one: the autoencoder has enough to do with one, and its memory does not grow with the batch.
        return torch.cat([self._encode_source(source) for source in sources])

    def _encode_source(self, source: Pixels) -> Tensor:
        pixels_HWC = torch.tensor(resized(source, *self.condition_size(*source.shape[:2])), device=self.device)
        image_BCHW = self.to_image((pixels_HWC.float() / 255 * 2 - 1).permute(2, 0, 1)[None])
        # The most likely latents, not drawn ones: a case has one condition.
        latents_BCTYX = self.pipeline.vae.encode(image_BCHW[:, :, None].to(self.dtype)).latent_dist.mode()
        mean_CTYX, std_CTYX = self._latent_scale()
        return self.pack(((latents_BCTYX - mean_CTYX) / std_CTYX)[:, :, 0])

    @torch.no_grad()
    def decode(self, latents_BNC: Tensor, shape: Shape) -> list[Pixels]:
        # One by one: all images of a rollout at once would take hundreds of GB.
        return [self._decode(latents_BNC[i : i + 1], shape.target) for i in range(len(latents_BNC))]

    def _decode(self, latents_BNC: Tensor, grid: Grid) -> Pixels:
        mean_CTYX, std_CTYX = self._latent_scale()
        latents_BCTYX = self.unpack(latents_BNC.float(), grid)[:, :, None] * std_CTYX + mean_CTYX
        image_BCTHW = self.pipeline.vae.decode(latents_BCTYX.to(self.dtype), return_dict=False)[0]
        pixels_BCHW = self.to_pixels((image_BCTHW[:, :, 0].float() / 2 + 0.5).clamp(0, 1))
        return (pixels_BCHW[0].permute(1, 2, 0) * 255).round().to(torch.uint8).cpu().contiguous().numpy()

    def _latent_scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the autoencoder's latents by channel, (C, 1, 1, 1) float32."""
        config = self.pipeline.vae.config
        mean, std = (torch.tensor(values, device=self.device) for values in (config.latents_mean, config.latents_std))
        return mean[:, None, None, None], std[:, None, None, None]

    def to_image(self, pixels_BCHW: Tensor) -> Tensor:
        """Red, green and blue in [-1, 1] to what the autoencoder encodes."""
        return pixels_BCHW

    def to_pixels(self, image_BCHW: Tensor) -> Tensor:
        """The inverse, in [0, 1]."""
        return image_BCHW

    @abstractmethod
    def pack(self, latents_BCYX: Tensor) -> Tensor:
        """A latent image to tokens, row by row."""

    @abstractmethod
    def unpack(self, latents_BNC: Tensor, grid: Grid) -> Tensor:
        """The inverse of `pack`."""


def _grid(height: int, width: int) -> Grid:
    return height // TOKEN, width // TOKEN
