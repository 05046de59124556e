"""LongCat-Image-Edit: a FLUX-like transformer whose texts come from Qwen2.5-VL, which sees the source as well.

Axes: see `training.editors.interface`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.pipelines.longcat_image.pipeline_longcat_image_edit import split_quotation
from torch import Tensor

from training.editors.flux_latents import FluxEditor, image_coordinates, text_of
from training.editors.interface import Pixels, Shape, Text
from training.editors.sizes import fitted, resized


class LongCatEditor(FluxEditor):
    """Over diffusers' LongCatImageEditPipeline.

    Its own pipeline guides against the negative prompt "" with 4.5, and shows the source to the text encoder at a
    quarter of the area that the transformer sees.
    """

    def encode_text(self, sources: Sequence[Pixels], instructions: Sequence[str]) -> Text:
        pipeline = self.pipeline
        seen = pipeline.image_processor_vl(images=self._views(sources), return_tensors="pt")
        rows_and_columns = seen["image_grid_thw"]
        num_image_tokens = int(rows_and_columns[0].prod()) // pipeline.image_processor_vl.merge_size**2
        image_tokens = pipeline.image_token * num_image_tokens
        prefix = self._tokens(pipeline.prompt_template_encode_prefix.replace(pipeline.image_token, image_tokens))
        suffix = self._tokens(pipeline.prompt_template_encode_suffix)
        texts = pipeline.tokenizer.pad(
            {"input_ids": [self._words(instruction) for instruction in instructions]},
            max_length=self.settings.max_text_tokens,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids_BL = _between(prefix, texts["input_ids"], suffix).to(self.device)
        mask_BL = _between([1] * len(prefix), texts["attention_mask"], [1] * len(suffix)).to(self.device)
        # Since version 5 transformers counts an image's rows and columns only where it is told which tokens are the
        # image's; diffusers' pipeline tells it nothing, and gets other texts than the model was trained on.
        # https://github.com/huggingface/diffusers/issues/14194
        is_image_BL = (ids_BL == pipeline.text_encoder.config.image_token_id).int()
        hidden_BLD = pipeline.text_encoder.model(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            pixel_values=seen["pixel_values"].to(self.device),
            image_grid_thw=rows_and_columns.to(self.device),
            mm_token_type_ids=is_image_BL,
        ).last_hidden_state
        first = prefix.index(pipeline.tokenizer.convert_tokens_to_ids("<|vision_start|>"))
        return text_of(hidden_BLD[:, first : -len(suffix)])

    def _views(self, sources: Sequence[Pixels]) -> list[Pixels]:
        """What the text encoder sees, in a size that follows from the shape: a batch has texts of one length."""
        condition_size = self.condition_size(*sources[0].shape[:2])
        size = fitted(*condition_size, self.settings.vision_area, self.token_size // 2)
        return [resized(resized(source, *condition_size), *size) for source in sources]

    def _tokens(self, text: str) -> list[int]:
        return self.pipeline.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _words(self, instruction: str) -> list[int]:
        """Tokens of an instruction, those in quotation marks letter by letter: they are to be written as they stand."""
        parts = [letter for part, quoted in split_quotation(instruction) for letter in (part if quoted else [part])]
        return [token for part in parts for token in self._tokens(part)][: self.settings.max_text_tokens]

    def inputs(self, shape: Shape, text: Text) -> dict[str, Tensor | None]:
        # Words go along the diagonal; the images begin where the text ends.
        length = text.tokens_BLD.shape[1]
        words_L = torch.arange(length, device=self.device).float()
        return {
            "img_ids": image_coordinates(shape, target=1, source=2, start=length, device=self.device),
            "txt_ids": torch.stack([torch.zeros_like(words_L), words_L, words_L], dim=1),
        }


def _between(before: Sequence[int], middle_BL: Tensor, after: Sequence[int]) -> Tensor:
    """Each row of the middle between the same tokens."""
    before_BL, after_BL = (middle_BL.new_tensor(tokens).expand(len(middle_BL), -1) for tokens in (before, after))
    return torch.cat([before_BL, middle_BL, after_BL], dim=1)
