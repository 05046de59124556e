"""FLUX.1 Kontext: guidance as an input, texts by T5 and, pooled, by CLIP.

Axes: see `training.editors.interface`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.editors.flux_latents import FluxEditor, image_coordinates, text_of
from training.editors.interface import Pixels, Shape, Text


class FluxKontextEditor(FluxEditor):
    """Over diffusers' FluxKontextPipeline.

    Kontext is distilled from a guided model and takes the strength as an input, `embedded_guidance`; guidance against
    the negative prompt comes on top where `guidance` asks for it, at twice the cost.
    """

    def encode_text(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Text:
        tokens_BLD, pooled_BD, _ = self.pipeline.encode_prompt(
            prompt=list(instructions), device=self.device, max_sequence_length=self.settings.max_text_tokens
        )
        return text_of(tokens_BLD, pooled_BD)

    def inputs(self, shape: Shape, text: Text) -> dict[str, Tensor | None]:
        batch, length, _ = text.tokens_BLD.shape
        guidance_B = None
        if self.transformer.config.guidance_embeds:
            guidance_B = torch.full((batch,), self.settings.embedded_guidance, device=self.device)
        return {
            "pooled_projections": text.pooled_BD,
            "guidance": guidance_B,
            "img_ids": image_coordinates(shape, target=0, source=1, device=self.device),
            "txt_ids": torch.zeros(length, 3, device=self.device),
        }
