"""FLUX.2 Klein: texts by inner layers of Qwen3, latents whitened by statistics, its own spacing of times.

Axes: see `training.editors.interface`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor
from torch.nn.functional import pad

from training.editors.diffusers_editor import Pipeline
from training.editors.flux_latents import ATTENTION_TARGETS, FluxEditor, image_coordinates, text_of
from training.editors.interface import Pixels, Shape, Text
from training.editors.settings import DiffusersSettings

SOURCE_TIME = 10
"""The first coordinate of a source's tokens; the image that is drawn has 0."""


class Flux2KleinEditor(FluxEditor):
    """Over diffusers' Flux2KleinPipeline, with one source image.

    Its base models are guided against a negative prompt, "" in diffusers' own pipeline; the distilled ones not at all.
    """

    block_targets: ClassVar[tuple[str, ...]] = (
        *ATTENTION_TARGETS,
        "ff.linear_in",
        "ff.linear_out",
        "ff_context.linear_in",
        "ff_context.linear_out",
        "to_qkv_mlp_proj",
    )
    single_output: ClassVar[str] = "attn.to_out"

    def __init__(self, pipeline: Pipeline, settings: DiffusersSettings, weights: str) -> None:
        if pipeline.config.is_distilled and settings.guidance > 1:
            raise ValueError(f"guidance {settings.guidance}: {settings.model} is distilled and takes none, which is 1")
        super().__init__(pipeline, settings, weights)

    def shift(self, num_steps: int, shape: Shape) -> float:
        return compute_empirical_mu(image_seq_len=shape.num_tokens, num_steps=num_steps)

    def encode_text(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Text:
        tokens_BLD, _ = self.pipeline.encode_prompt(
            prompt=list(instructions), device=self.device, max_sequence_length=self.settings.max_text_tokens
        )
        return text_of(tokens_BLD)

    def scaled(self, latents_BNC: Tensor) -> Tensor:
        mean_C, deviation_C = self._statistics(latents_BNC)
        return (latents_BNC - mean_C) / deviation_C

    def unscaled(self, latents_BNC: Tensor) -> Tensor:
        mean_C, deviation_C = self._statistics(latents_BNC)
        return latents_BNC * deviation_C + mean_C

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel of a token, measured when the autoencoder was trained."""
        vae = self.pipeline.vae
        return vae.bn.running_mean.to(like), (vae.bn.running_var + vae.config.batch_norm_eps).sqrt().to(like)

    def inputs(self, shape: Shape, text: Text) -> dict[str, Tensor | None]:
        # A fourth coordinate counts the words of the text, which are at no place in any image.
        images_S3 = image_coordinates(shape, target=0, source=SOURCE_TIME, device=self.device)
        words_L1 = torch.arange(text.tokens_BLD.shape[1], device=self.device).float()[:, None]
        return {"guidance": None, "img_ids": pad(images_S3, (0, 1)), "txt_ids": pad(words_L1, (3, 0))}
