"""A small invertible image codec: an orthonormal 8 x 8 cosine transform, packed two by two as Qwen packs its latents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 8
"""Pixels per side of a transformed block; Qwen's autoencoder has the same factor."""
PACK = 2
"""Blocks per side of a token."""
TOKEN = BLOCK * PACK
"""Pixels per side of a token."""
CHANNELS = 3 * TOKEN * TOKEN


def _cosine_basis(size: int) -> Tensor:
    """The orthonormal DCT-II matrix, rows are frequencies."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)[None, :]
    basis = torch.cos(math.pi * (n + 0.5) * k / size) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis.float()


_BASIS = _cosine_basis(BLOCK)
# Rows: brightness, blue-yellow, red-green; orthonormal, so that the whole codec is a rotation and keeps distances.
_COLOUR = torch.tensor([[1, 1, 1], [-1, -1, 2], [1, -1, 0]], dtype=torch.float32)
_COLOUR = _COLOUR / _COLOUR.norm(dim=1, keepdim=True)


def encode(images_BHWC: Tensor) -> Tensor:
    """Images in [0, 1], (B, H, W, 3) float32, to latents (B, N, CHANNELS); H and W are multiples of 16.

    The latents are a rotation of 2 * image - 1.
    """
    b, h, w, _ = images_BHWC.shape
    if h % TOKEN or w % TOKEN:
        raise ValueError(f"image of {h} x {w} pixels: both must be multiples of {TOKEN}")
    basis, colour = _BASIS.to(images_BHWC), _COLOUR.to(images_BHWC)
    blocks = (2 * images_BHWC - 1).reshape(b, h // TOKEN, PACK, BLOCK, w // TOKEN, PACK, BLOCK, 3)
    latents = torch.einsum("bipxjqyc,ux,vy,kc->bijpqkuv", blocks, basis, basis, colour)
    return latents.reshape(b, (h // TOKEN) * (w // TOKEN), CHANNELS)


def decode(latents_BNC: Tensor, grid: tuple[int, int]) -> Tensor:
    """The inverse of `encode`; values outside [0, 1] are kept. `grid`: rows and columns of tokens."""
    rows, columns = grid
    basis, colour = _BASIS.to(latents_BNC), _COLOUR.to(latents_BNC)
    blocks = latents_BNC.reshape(-1, rows, columns, PACK, PACK, 3, BLOCK, BLOCK)
    images = torch.einsum("bijpqkuv,ux,vy,kc->bipxjqyc", blocks, basis, basis, colour)
    return (images.reshape(-1, rows * TOKEN, columns * TOKEN, 3) + 1) / 2


def block_means(masks_BHW: Tensor) -> Tensor:
    """A mask's mean over each transformed block, once per coefficient of the block: (B, N, CHANNELS)."""
    b, h, w = masks_BHW.shape
    means = masks_BHW.reshape(b, h // TOKEN, PACK, BLOCK, w // TOKEN, PACK, BLOCK).mean((3, 6))
    tokens = means.permute(0, 1, 3, 2, 4).reshape(b, -1, PACK * PACK)
    return tokens.repeat_interleave(CHANNELS // (PACK * PACK), dim=2)
