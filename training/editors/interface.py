"""What Flow-GRPO and supervised training need from an editing model, whatever its size.

Axes: B samples, N image tokens, C latent channels, L text tokens, D text features. `t` runs from 1 (noise) to 0
(image), x_t = (1 - t) x_0 + t noise, and the velocity is dx/dt = noise - x_0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Pixels = NDArray[np.uint8]
"""One image, (H, W, 3), sRGB."""


@dataclass(frozen=True, slots=True)
class Condition:
    """An encoded batch of (source image, instruction); all samples share one resolution.

    Encoded once per case and reused for every sample, every step and every update.
    """

    source_BNC: Tensor
    text_BLD: Tensor
    text_mask_BL: Tensor
    """True where a text token is real, False where it pads."""
    grid: tuple[int, int]
    """Rows and columns of image tokens."""

    def __len__(self) -> int:
        return len(self.source_BNC)

    def take(self, indices: Sequence[int] | Tensor) -> Condition:
        """The samples at `indices`, which may repeat."""
        index = torch.as_tensor(indices, device=self.source_BNC.device)
        return Condition(self.source_BNC[index], self.text_BLD[index], self.text_mask_BL[index], self.grid)


class TrainableEditor(Protocol):
    """An editing model that can be trained."""

    @property
    def transformer(self) -> nn.Module:
        """The part that is trained; LoRA goes here."""

    @property
    def fingerprint(self) -> str:
        """The hash of everything that changes what the model draws, adapters excepted."""

    def encode(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Condition: ...

    def encode_images(self, images: Sequence[Pixels]) -> Tensor:
        """Images to latents x_0, (B, N, C) float32."""

    def latent_mask(self, region_BHW: NDArray[np.floating]) -> Tensor:
        """Masks in pixels to how much of each latent they cover, (B, N, C) or (B, N, 1) float32."""

    def velocity(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition) -> Tensor:
        """dx/dt at (x_t, t), (B, N, C) float32."""

    def decode(self, latents_BNC: Tensor, condition: Condition) -> list[Pixels]:
        """Latents at t = 0 to images."""

    def shift_times(self, even: Tensor) -> Tensor:
        """Evenly spaced numbers in [0, 1] to the model's own spacing of t; keeps 0 and 1."""


def sampling_times(editor: TrainableEditor, num_steps: int) -> Tensor:
    """The times of a sampling run from 1 to 0, (num_steps + 1,) float32."""
    return editor.shift_times(torch.linspace(1, 0, num_steps + 1))
