"""What the editors of the Qwen-Image family share: sizes, and the autoencoder, which is one of films.

Axes: see `training.editors.interface`; T frames, H and W pixels, Y and X rows and columns of the latent image.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from training.editors.diffusers_editor import DiffusersEditor
from training.editors.interface import Grid, Pixels


class QwenEditor(DiffusersEditor):
    """Over a pipeline of the Qwen-Image family."""

    token_size = 16
    multiple = 32

    def encode_source(self, source: Pixels) -> Tensor:
        pixels_HWC = torch.tensor(source, device=self.device)
        image_BCHW = self.to_image((pixels_HWC.float() / 255 * 2 - 1).permute(2, 0, 1)[None])
        # The most likely latents, not drawn ones: a case has one condition.
        latents_BCTYX = self.pipeline.vae.encode(image_BCHW[:, :, None].to(self.dtype)).latent_dist.mode()
        mean_CTYX, std_CTYX = self._latent_scale()
        return self.pack(((latents_BCTYX - mean_CTYX) / std_CTYX)[:, :, 0])

    def decode_image(self, latents_1NC: Tensor, grid: Grid) -> Tensor:
        mean_CTYX, std_CTYX = self._latent_scale()
        latents_BCTYX = self.unpack(latents_1NC.float(), grid)[:, :, None] * std_CTYX + mean_CTYX
        image_BCTHW = self.pipeline.vae.decode(latents_BCTYX.to(self.dtype), return_dict=False)[0]
        return self.to_pixels((image_BCTHW[:, :, 0].float() / 2 + 0.5).clamp(0, 1))[0]

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
