"""What Flow-GRPO and supervised training need from an editing model, whatever its size.

Axes: B samples, N tokens of the image that is drawn, M tokens of the source images, C latent channels, L text tokens,
D text features. `t` runs from 1 (noise) to 0 (image), x_t = (1 - t) x_0 + t noise, and the velocity is
dx/dt = noise - x_0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

Pixels = NDArray[np.uint8]
"""One image, (H, W, 3), sRGB."""

Grid = tuple[int, int]
"""Rows and columns of the tokens of one image."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the samples of one batch must have in common: the position embeddings are computed once per batch."""

    target: Grid
    """Of the image that is drawn."""
    sources: tuple[Grid, ...]
    """Of the source images, whose tokens follow those of the target in one sequence."""

    @property
    def num_tokens(self) -> int:
        """N, of the image that is drawn."""
        return math.prod(self.target)

    @property
    def num_source_tokens(self) -> int:
        """M, of all source images."""
        return sum(math.prod(grid) for grid in self.sources)


@dataclass(frozen=True, slots=True)
class Text:
    """Encoded instructions."""

    tokens_BLD: Tensor
    mask_BL: Tensor
    """bool: True where a token is real, False where it pads."""
    pooled_BD: Tensor | None = None
    """One vector per instruction, for models that want one."""

    def take(self, index: Tensor) -> Text:
        """The samples at `index`."""
        pooled = None if self.pooled_BD is None else self.pooled_BD[index]
        return Text(self.tokens_BLD[index], self.mask_BL[index], pooled)

    def padded(self, length: int) -> Text:
        """With zeros up to `length` tokens."""
        more = length - self.tokens_BLD.shape[1]
        return replace(self, tokens_BLD=pad(self.tokens_BLD, (0, 0, 0, more)), mask_BL=pad(self.mask_BL, (0, more)))

    def trimmed(self) -> Text:
        """Without the columns in which every sample only pads."""
        length = int(self.mask_BL.any(0).sum())
        return replace(self, tokens_BLD=self.tokens_BLD[:, :length], mask_BL=self.mask_BL[:, :length])

    @property
    def attention_mask(self) -> Tensor | None:
        """The mask, or None where nothing pads: attention without a mask has the faster kernels."""
        return None if bool(self.mask_BL.all()) else self.mask_BL


@dataclass(frozen=True, slots=True)
class Condition:
    """An encoded batch of (source image, instruction); all samples share one shape.

    Encoded once per case and reused for every sample, every step and every update.
    """

    shape: Shape
    source_BMC: Tensor
    """Latents of the source images, in the model's own scale."""
    text: Text
    negative: Text | None = None
    """What guidance leads away from; None without guidance."""

    def __len__(self) -> int:
        return len(self.source_BMC)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(B, N, C) of the latents that are drawn."""
        return len(self), self.shape.num_tokens, self.source_BMC.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.source_BMC.device

    def take(self, indices: Sequence[int] | Tensor) -> Condition:
        """The samples at `indices`, which may repeat."""
        index = torch.as_tensor(indices, device=self.device)
        negative = None if self.negative is None else self.negative.take(index)
        return Condition(self.shape, self.source_BMC[index], self.text.take(index), negative)

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return condition_of(self.shape, moved)

    def tensors(self) -> dict[str, Tensor]:
        """By name, for keeping; `condition_of` is the inverse."""
        named = {"source_BMC": self.source_BMC}
        for role, text in (("text", self.text), ("negative", self.negative)):
            if text is not None:
                named |= {f"{role}.tokens_BLD": text.tokens_BLD, f"{role}.mask_BL": text.mask_BL}
                named |= {} if text.pooled_BD is None else {f"{role}.pooled_BD": text.pooled_BD}
        return named


def condition_of(shape: Shape, tensors: Mapping[str, Tensor]) -> Condition:
    """A condition from its named tensors, see `Condition.tensors`."""
    texts = {
        role: Text(tokens, tensors[f"{role}.mask_BL"], tensors.get(f"{role}.pooled_BD"))
        for role in ("text", "negative")
        if (tokens := tensors.get(f"{role}.tokens_BLD")) is not None
    }
    return Condition(shape, tensors["source_BMC"], texts["text"], texts.get("negative"))


def join(conditions: Sequence[Condition]) -> Condition:
    """One batch of several, their texts padded to the longest. Raises: ValueError where shapes differ."""
    shapes = {condition.shape for condition in conditions}
    if len(shapes) != 1:
        raise ValueError(f"a batch shares one shape, these are of {len(shapes)}: {sorted(map(str, shapes))}")
    negatives = [condition.negative for condition in conditions if condition.negative is not None]
    if negatives and len(negatives) != len(conditions):
        raise ValueError(f"{len(negatives)} of {len(conditions)} conditions are guided; it takes all or none")
    return Condition(
        shapes.pop(),
        torch.cat([condition.source_BMC for condition in conditions]),
        _join_texts([condition.text for condition in conditions]),
        _join_texts(negatives) if negatives else None,
    )


def _join_texts(texts: Sequence[Text]) -> Text:
    length = max(text.tokens_BLD.shape[1] for text in texts)
    padded = [text.padded(length) for text in texts]
    pooled = [text.pooled_BD for text in padded if text.pooled_BD is not None]
    return Text(
        torch.cat([text.tokens_BLD for text in padded]),
        torch.cat([text.mask_BL for text in padded]),
        torch.cat(pooled) if pooled else None,
    )


class TrainableEditor(Protocol):
    """An editing model that can be trained by Flow-GRPO."""

    @property
    def transformer(self) -> nn.Module:
        """The part that is trained; LoRA goes here."""

    @property
    def fingerprint(self) -> str:
        """The hash of everything that changes what the model draws, adapters excepted."""

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The layers of the transformer that an adapter goes on unless a configuration names others."""

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""

    @property
    def passes_vary(self) -> bool:
        """Whether the number of passes of the transformer depends on the texts of a batch."""

    def to(self, device: torch.device | str) -> TrainableEditor:
        """Move it, in place."""

    def shape_of(self, height: int, width: int) -> Shape:
        """The shape of a case whose source image has this size in pixels. Raises: ValueError for one it cannot take."""

    def encode(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Condition:
        """Cases whose sources are of one shape."""

    def velocity(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition) -> Tensor:
        """dx/dt at (x_t, t), (B, N, C) float32; guided where the condition is."""

    def decode(self, latents_BNC: Tensor, shape: Shape) -> list[Pixels]:
        """Latents at t = 0 to images."""

    def sampling_times(self, num_steps: int, shape: Shape) -> Tensor:
        """The times of a sampling run from 1 to 0 in the model's own spacing, (num_steps + 1,) float32."""


class SupervisedEditor(TrainableEditor, Protocol):
    """An editing model that can also be taught from targets."""

    def encode_images(self, images: Sequence[Pixels]) -> Tensor:
        """Images to latents x_0, (B, N, C) float32."""

    def latent_mask(self, region_BHW: NDArray[np.floating]) -> Tensor:
        """Masks in pixels to how much of each latent they cover, (B, N, C) or (B, N, 1) float32."""

    def shift_times(self, even: Tensor) -> Tensor:
        """Evenly spaced numbers in [0, 1] to the model's own spacing of t; keeps 0 and 1."""
