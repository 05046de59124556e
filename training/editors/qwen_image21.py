"""Qwen-Image 2.1: one transformer that draws and edits, 7 billion parameters, made for use without guidance.

Axes: see `training.editors.interface`; S all tokens of text and images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor, nn

from training.editors.interface import Condition, Grid, Pixels, Text
from training.editors.qwen_image_edit import real_tokens
from training.editors.qwen_latents import QwenEditor
from training.editors.sizes import resized

SLOT = 4
"""Tokens of the transformer, two by two, that one image token of the text encoder stands for."""


class QwenImage21Editor(QwenEditor):
    """Over diffusers' QwenImage21Pipeline, with one source image.

    Text and source are one sequence: where the text encoder saw the source, its tokens are replaced by the source's
    latents. What it said of them is kept as zeros, which no real token has; so a condition knows these places.

    Text encoder and transformer see the source in one size; `settings.vision_area` is without effect.
    """

    passes_vary = True
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "img_mlp.proj", "img_mlp.gate_layer", "img_mlp.out")

    def encode_text(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Text:
        pipeline = self.pipeline
        inputs = pipeline.processor(
            # Not nothing: the model knows no token that begins a text.
            text=[pipeline.prompt_template_ti2i.format(text or " ") for text in instructions],
            images=[Image.fromarray(resized(source, *self.condition_size(*source.shape[:2]))) for source in sources],
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        with _without_effect(pipeline.text_encoder.model.language_model.norm):
            hidden_BLD = pipeline.text_encoder.model(**inputs).last_hidden_state
        is_image_BL = inputs.input_ids == pipeline.text_encoder.config.image_token_id
        expected = self.shape_of(*sources[0].shape[:2]).num_source_tokens // SLOT
        if counts := set(is_image_BL.sum(1).tolist()) - {expected}:
            raise ValueError(
                f"the text encoder sees the source as {min(counts)} tokens where the transformer expects {expected}:"
                f" condition_area {self.settings.condition_area} is outside what the model's processor keeps"
            )
        return real_tokens(hidden_BLD.masked_fill(is_image_BL[..., None], 0), inputs.attention_mask, pipeline._drop_idx)

    def predict(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition, text: Text) -> Tensor:
        # The image's positions begin where the text ends, and the transformer takes padding for text: samples are
        # drawn beside those whose text is as long, without any padding.
        lengths_B = text.mask_BL.sum(1)
        groups = [(lengths_B == length).nonzero()[:, 0] for length in lengths_B.unique()]
        parts = [
            self._predict(latents_BNC[rows_B], t_B[rows_B], condition.take(rows_B), text.take(rows_B).trimmed())
            for rows_B in groups
        ]
        return torch.cat(parts)[torch.cat(groups).argsort()]

    def _predict(self, latents_BNC: Tensor, t_B: Tensor, condition: Condition, text: Text) -> Tensor:
        batch, num_tokens, _ = latents_BNC.shape
        source_BL = (text.tokens_BLD == 0).all(2)
        target_BL = source_BL.new_ones(batch, num_tokens // SLOT)
        grids = (*condition.shape.sources, condition.shape.target)
        (velocity_BSC,) = self.transformer(
            hidden_states=torch.cat([condition.source_BMC, latents_BNC], dim=1),
            timestep=t_B,
            encoder_hidden_states=text.tokens_BLD,
            img_shapes=[[(1, *grid) for grid in grids]] * batch,
            img_mask=torch.cat([source_BL, target_BL], dim=1),
            return_dict=False,
        )
        return velocity_BSC[:, -num_tokens:]

    def spacing(self, num_steps: int) -> list[float]:
        # Distilled checkpoints bring the times of their few steps along.
        own = self.pipeline.config.get("sample_sigmas")
        return list(own) if own and len(own) == num_steps else super().spacing(num_steps)

    def to_image(self, pixels_BCHW: Tensor) -> Tensor:
        # Its autoencoder also knows transparency; sources have none.
        return torch.cat([pixels_BCHW, torch.ones_like(pixels_BCHW[:, :1])], dim=1)

    def to_pixels(self, image_BCHW: Tensor) -> Tensor:
        # Over white, as the pipeline shows transparent images to its text encoder.
        colour_BCHW, opacity_BCHW = image_BCHW.split([3, 1], dim=1)
        return colour_BCHW * opacity_BCHW + 1 - opacity_BCHW

    def pack(self, latents_BCYX: Tensor) -> Tensor:
        return latents_BCYX.flatten(2).transpose(1, 2)

    def unpack(self, latents_BNC: Tensor, grid: Grid) -> Tensor:
        return latents_BNC.transpose(1, 2).unflatten(2, grid)


@contextmanager
def _without_effect(module: nn.Module) -> Iterator[None]:
    """Within this block the module returns what it is given.

    The last norm of the text encoder: the transformer learnt from what comes before it, which transformers since
    version 5 does not give out.
    """
    handle = module.register_forward_hook(lambda module, given, result: given[0])
    try:
        yield
    finally:
        handle.remove()
