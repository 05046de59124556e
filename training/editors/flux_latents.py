"""What the editors of the FLUX family share: packed latents, places in a sequence, the layers to adapt.

Four latents, a square, are one token, and the tokens of the source image follow those of the image that is drawn. The
transformer tells tokens apart by their coordinates: which image, row, column.

Axes: see `training.editors.interface`; S all tokens of the images, N + M.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from training.editors.diffusers_editor import DiffusersEditor, Pipeline
from training.editors.interface import Condition, Grid, Pixels, Shape, Text
from training.editors.settings import DiffusersSettings

ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Of the blocks with two streams; those with one have the first three as well, except in FLUX.2."""


class FluxEditor(DiffusersEditor):
    """Over a pipeline whose latents are packed two by two.

    Sources are brought to the condition's area in their own aspect ratio, larger or smaller: a token of the source
    and one of the target have the same row and column where they show the same place only if the areas are equal, and
    then they always have. diffusers takes one of seventeen sizes of a megapixel for Kontext, and leaves small images
    as they are for Klein.
    """

    block_targets: ClassVar[tuple[str, ...]] = (
        *ATTENTION_TARGETS,
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
        "proj_mlp",
    )
    """Attention and MLP projections whose names, the ends of a path, nothing else has."""
    single_output: ClassVar[str] = "proj_out"
    """The output of a block with one stream; another layer's path ends alike, so it is named in full."""

    def __init__(self, pipeline: Pipeline, settings: DiffusersSettings, weights: str) -> None:
        super().__init__(pipeline, settings, weights)
        blocks = range(pipeline.transformer.config.num_single_layers)
        outputs = (f"single_transformer_blocks.{block}.{self.single_output}" for block in blocks)
        self.lora_targets = (*self.block_targets, *outputs)

    @property
    def token_size(self) -> int:
        """Pixels per side of a token."""
        return 2 * self.pipeline.vae_scale_factor

    def encode_source(self, source: Pixels) -> Tensor:
        vae = self.pipeline.vae
        image_BCHW = (torch.tensor(source).float() / 127.5 - 1).permute(2, 0, 1)[None].to(vae.device, vae.dtype)
        # The most likely latents, not drawn ones: a case has one condition.
        return self.scaled(pack(vae.encode(image_BCHW).latent_dist.mode()))

    def decode_image(self, latents_1NC: Tensor, grid: Grid) -> Tensor:
        vae = self.pipeline.vae
        latents_BCHW = unpack(self.unscaled(latents_1NC), grid).to(vae.device, vae.dtype)
        return (vae.decode(latents_BCHW, return_dict=False)[0][0].float() / 2 + 0.5).clamp(0, 1)

    def scaled(self, latents_BNC: Tensor) -> Tensor:
        """Packed latents of the autoencoder to the transformer's scale."""
        config = self.pipeline.vae.config
        return (latents_BNC - config.shift_factor) * config.scaling_factor

    def unscaled(self, latents_BNC: Tensor) -> Tensor:
        """The inverse of `scaled`."""
        config = self.pipeline.vae.config
        return latents_BNC / config.scaling_factor + config.shift_factor

    def predict(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition, text: Text) -> Tensor:
        (velocity_BSC,) = self.transformer(
            hidden_states=torch.cat([latents_BNC, condition.source_BMC.to(latents_BNC.dtype)], dim=1),
            timestep=t_B,
            encoder_hidden_states=text.tokens_BLD,
            return_dict=False,
            **self.inputs(condition.shape, text),
        )
        return velocity_BSC[:, : latents_BNC.shape[1]]

    @abstractmethod
    def inputs(self, shape: Shape, text: Text) -> dict[str, Tensor | None]:
        """What else the transformer takes: the coordinates `img_ids` and `txt_ids`, guidance, pooled texts."""


def text_of(tokens_BLD: Tensor, pooled_BD: Tensor | None = None) -> Text:
    """Encoded texts of one padded length, all of which the transformer attends to.

    The models of this family were trained without a mask over the padding: its tokens are part of the text.
    """
    return Text(tokens_BLD, torch.ones(tokens_BLD.shape[:2], dtype=torch.bool, device=tokens_BLD.device), pooled_BD)


def pack(latents_BCHW: Tensor) -> Tensor:
    """Latents to tokens row by row, (B, H / 2 * W / 2, C * 4); a token holds channel by channel its square."""
    batch, channels, height, width = latents_BCHW.shape
    squares = latents_BCHW.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack(latents_BNC: Tensor, grid: Grid) -> Tensor:
    """The inverse of `pack`."""
    rows, columns = grid
    batch, _, channels = latents_BNC.shape
    squares = latents_BNC.reshape(batch, rows, columns, channels // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, rows * 2, columns * 2)


def image_coordinates(
    shape: Shape, target: int, source: int, start: int = 0, device: torch.device | None = None
) -> Tensor:
    """Which image, row and column, (S, 3) float32.

    Args:
        target: the number of the image that is drawn.
        source: the number of the source image.
        start: of the rows and columns.
    """
    parts = []
    for image, (rows, columns) in ((target, shape.target), *((source, grid) for grid in shape.sources)):
        axes = ((image, 1), (start, rows), (start, columns))
        ranges = [torch.arange(first, first + count, device=device) for first, count in axes]
        parts.append(torch.cartesian_prod(*ranges))
    return torch.cat(parts).float()
