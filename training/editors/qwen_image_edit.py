"""Qwen-Image-Edit: the original, and 2509 and 2511, which are "Plus".

Axes: see `training.editors.interface`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.config import LORA_TARGETS
from training.editors import flux_latents
from training.editors.interface import Condition, Grid, Pixels, Text
from training.editors.qwen_latents import QwenEditor
from training.editors.sizes import fitted, resized


class QwenImageEditPlusEditor(QwenEditor):
    """Qwen-Image-Edit-2509 and -2511, with one source image.

    Source: diffusers' QwenImageEditPlusPipeline, which takes one case at a time, its source at 1024 x 1024 pixels.
    In one respect this editor differs from it as long as diffusers' issue 14194 is open, see `encode_text`.
    """

    lora_targets = LORA_TARGETS
    normed_guidance = True
    picture: ClassVar[str] = "Picture 1: <|vision_start|><|image_pad|><|vision_end|>"
    """What stands before the instruction, for the text encoder to see the source."""

    def vision_size(self, height: int, width: int) -> tuple[int, int]:
        """The size in which the text encoder sees a source of this size."""
        return fitted(height, width, self.settings.vision_area)

    def encode_text(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Text:
        """Instructions as the vision-language model reads them beside their sources.

        It is also told which tokens are an image's, and gives those the positions on a grid that it learnt. The
        pipeline of diffusers 0.42 does not tell it, and transformers since version 5 no longer finds out by itself:
        there all tokens stand in one row (https://github.com/huggingface/diffusers/issues/14194).
        """
        pipeline = self.pipeline
        inputs = pipeline.processor(
            text=[pipeline.prompt_template_encode.format(self.picture + text) for text in instructions],
            images=[Image.fromarray(resized(source, *self.vision_size(*source.shape[:2]))) for source in sources],
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        # Past the language model's head, whose 152,000 logits per token nobody wants.
        hidden_BLD = pipeline.text_encoder.model(**inputs).last_hidden_state
        return real_tokens(hidden_BLD, inputs.attention_mask, pipeline.prompt_template_encode_start_idx)

    def predict(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition, text: Text) -> Tensor:
        grids = (condition.shape.target, *condition.shape.sources)
        (velocity_BNC,) = self.transformer(
            hidden_states=torch.cat([latents_BNC, condition.source_BMC], dim=1),
            timestep=t_B,
            encoder_hidden_states=text.tokens_BLD,
            encoder_hidden_states_mask=text.attention_mask,
            img_shapes=[[(1, *grid) for grid in grids]] * len(latents_BNC),
            return_dict=False,
        )
        return velocity_BNC[:, : latents_BNC.shape[1]]

    def pack(self, latents_BCYX: Tensor) -> Tensor:
        return flux_latents.pack(latents_BCYX)

    def unpack(self, latents_BNC: Tensor, grid: Grid) -> Tensor:
        return flux_latents.unpack(latents_BNC, grid)


class QwenImageEditEditor(QwenImageEditPlusEditor):
    """The original Qwen-Image-Edit, whose text encoder sees the source in the size in which the transformer does.

    `settings.vision_area` is without effect.

    Source: diffusers' QwenImageEditPipeline.
    """

    picture = ""  # its template has it

    def vision_size(self, height: int, width: int) -> tuple[int, int]:
        return self.condition_size(height, width)


def real_tokens(hidden_BLD: Tensor, mask_BL: Tensor, start: int) -> Text:
    """What a text encoder says of the tokens from `start` on, padded anew.

    Args:
        mask_BL: of the real tokens, which padding may precede or follow.
        start: where the instruction begins; before it stands a system prompt that is the same for all.
    """
    rows = [hidden_LD[real_L][start:] for hidden_LD, real_L in zip(hidden_BLD, mask_BL.bool(), strict=True)]
    tokens_BLD = pad_sequence(rows, batch_first=True)
    lengths_B1 = torch.tensor([[len(row)] for row in rows], device=tokens_BLD.device)
    return Text(tokens_BLD, torch.arange(tokens_BLD.shape[1], device=tokens_BLD.device) < lengths_B1)
