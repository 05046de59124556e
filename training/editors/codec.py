"""A small invertible image codec: pixels packed into tokens, and the cosine transform of their 8 x 8 blocks.

Latents are pixels in [-1, 1], ordered so that a token holds its square of the image block by block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 8
"""Pixels per side of a block; the factor of Qwen-Image's autoencoder."""


@dataclass(frozen=True)
class Codec:
    """Packs images whose sides are multiples of `token_size`.

    Attributes:
        token_size: pixels per side of a token, a multiple of `BLOCK`.
    """

    token_size: int = 16

    def __post_init__(self) -> None:
        if self.token_size % BLOCK:
            raise ValueError(f"token_size {self.token_size}: must be a multiple of {BLOCK}")

    @property
    def channels(self) -> int:
        """Numbers per token."""
        return 3 * self.token_size**2

    @property
    def blocks(self) -> int:
        """Blocks per token."""
        return (self.token_size // BLOCK) ** 2

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens. Raises: ValueError for sides that are no multiples of the token's."""
        if height % self.token_size or width % self.token_size:
            raise ValueError(f"image of {width} x {height} pixels: both must be multiples of {self.token_size}")
        return height // self.token_size, width // self.token_size

    def encode(self, images_BHWC: Tensor) -> Tensor:
        """Images in [0, 1], (B, H, W, 3), to latents (B, N, channels)."""
        return self._pack(2 * images_BHWC - 1)

    def decode(self, latents_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
        """The inverse of `encode`; values outside [0, 1] are kept."""
        rows, columns = grid
        side = self.token_size // BLOCK
        tokens = latents_BNC.reshape(-1, rows, columns, side, side, BLOCK, BLOCK, 3)
        pixels = tokens.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(
            -1, rows * self.token_size, columns * self.token_size, 3
        )
        return (pixels + 1) / 2

    def encode_mask(self, masks_BHW: Tensor) -> Tensor:
        """A mask in [0, 1] as weights of the latents, (B, N, channels)."""
        return self._pack(masks_BHW[..., None].expand(-1, -1, -1, 3))

    def to_frequencies(self, latents_BNC: Tensor) -> Tensor:
        """The orthonormal cosine transform of each block and channel, (B, N, blocks, 8, 8, 3)."""
        basis = _cosine_basis().to(latents_BNC)
        blocks = latents_BNC.reshape(*latents_BNC.shape[:2], self.blocks, BLOCK, BLOCK, 3)
        return torch.einsum("bnkyxc,vy,ux->bnkvuc", blocks, basis, basis)

    def from_frequencies(self, frequencies: Tensor) -> Tensor:
        """The inverse of `to_frequencies`, (B, N, channels)."""
        basis = _cosine_basis().to(frequencies)
        return torch.einsum("bnkvuc,vy,ux->bnkyxc", frequencies, basis, basis).flatten(2)

    def _pack(self, pixels_BHWC: Tensor) -> Tensor:
        batch, height, width, _ = pixels_BHWC.shape
        rows, columns = self.grid(height, width)
        side = self.token_size // BLOCK
        tokens = pixels_BHWC.reshape(batch, rows, side, BLOCK, columns, side, BLOCK, 3)
        return tokens.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, rows * columns, self.channels)


def _cosine_basis() -> Tensor:
    """The orthonormal DCT-II matrix, (8, 8), rows are frequencies."""
    k, n = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK, dtype=torch.float64)[None, :]
    basis = torch.cos(math.pi * (n + 0.5) * k / BLOCK) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis.float()
