"""Qwen3-VL by transformers: what a prompt is to it, and its forward passes.

Axes: B prompts, S tokens, V vocabulary, 3 the M-RoPE axes (time, height, width).

All samples of one case share everything before the edited image. Where prompts of a batch do, their common prefix is
computed once and its keys and values are copied, as vLLM and SGLang do by themselves. M-RoPE is no obstacle: positions
are worked out for the whole prompt first and then cut, and given to the model rather than left for it to guess.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tasks.hp_scorer.digits import DIGITS
from tasks.images import decode

_SPACE = re.compile("[ĠĊčĉ▁\\s]")
"""Space as vocabularies write it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as the model's inputs, on the CPU, or a stretch of one."""

    ids_S: Tensor
    positions_3S: Tensor
    pixels: Tensor
    """(patches, features) of all its images."""
    grids: Tensor
    """(images, 3): each image's patches over time, height and width."""
    cut: int = 0
    """Where the last image begins, in tokens."""
    before: str = ""
    """The identity of everything before the last image."""

    def halves(self) -> tuple[Encoded, Encoded]:
        """What comes before the last image, and the rest."""
        patches = int(self.grids[:-1].prod(1).sum())
        return (
            Encoded(self.ids_S[: self.cut], self.positions_3S[:, : self.cut], self.pixels[:patches], self.grids[:-1]),
            Encoded(self.ids_S[self.cut :], self.positions_3S[:, self.cut :], self.pixels[patches:], self.grids[-1:]),
        )


@dataclass
class Pass:
    """Where a batch stands after a forward pass."""

    logits_BV: Tensor
    """float32, for the token that comes next."""
    mask_BS: Tensor
    """1 at the tokens so far, 0 at padding."""
    next_B: Tensor
    """The position of the token that comes next."""
    cache: Any
    """Keys and values; None where none were wanted."""


class QwenModel:
    """A model and its processor. Holds no state between calls: threads may share it."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        # A tokenizer that encodes changes its own state, and panics where another thread decodes with it.
        self._encoding, self._words = threading.Lock(), copy.deepcopy(processor.tokenizer)
        stops = model.generation_config.eos_token_id
        self.stops = {*(stops if isinstance(stops, list) else [stops]), processor.tokenizer.eos_token_id}
        """The ids of the tokens that end a reply."""

    @cached_property
    def digits(self) -> list[int]:
        """The ids of all tokens that say 0 to 5, with and without space around it."""
        vocabulary = self._words.get_vocab()
        return sorted(number for token, number in vocabulary.items() if _SPACE.sub("", token) in set(DIGITS))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def text(self, *ids: int) -> str:
        """What tokens say; control tokens say nothing unless they are alone."""
        return self._words.decode(list(ids), skip_special_tokens=len(ids) != 1)

    def encode(self, content: Sequence[Mapping[str, Any]]) -> Encoded:
        """A user's message in the form of the OpenAI protocol, as a server would read it.

        Unlike there, what looks like a control token within a text is text: an instruction cannot end the message.

        Raises: ValueError for an image that cannot be read.
        """
        last = max(number for number, part in enumerate(content) if part["type"] == "image_url")
        before = hashlib.sha256(json.dumps(content[:last]).encode()).hexdigest()
        parts = [self._part(part) for part in content]
        with self._encoding:
            inputs = self.processor.apply_chat_template(
                [[{"role": "user", "content": parts}]],
                tokenize=True,
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                return_dict=True,
                return_tensors="pt",
            )
        ids_S, grids = inputs["input_ids"][0], inputs["image_grid_thw"]
        positions_31S, _ = self.model.model.get_rope_index(inputs["input_ids"], inputs["mm_token_type_ids"], grids)
        cut = int((ids_S == self.model.config.vision_start_token_id).nonzero()[-1])
        return Encoded(ids_S, positions_31S[:, 0], inputs["pixel_values"], grids, cut, before)

    def _part(self, part: Mapping[str, Any]) -> dict[str, Any]:
        if part["type"] == "text":
            return dict(part)
        image = Image.fromarray(decode(base64.b64decode(part["image_url"]["url"].partition(",")[2])))
        self.processor.image_processor.get_number_of_image_patches(image.height, image.width)  # refuses a mere line
        return {"type": "image", "image": image}

    def start(self, batch: Sequence[Encoded], keep: bool) -> Pass:
        """Read prompts.

        Args:
            keep: whether keys and values are wanted, to go on from there.
        """
        cases = {one.before: one for one in batch}
        if len(cases) == len(batch):
            return self._forward(batch, None, keep)
        shared = self._forward([one.halves()[0] for one in cases.values()], None, True)
        order = list(cases)
        rows_B = torch.tensor([order.index(one.before) for one in batch], device=self.device)
        shared.cache.batch_select_indices(rows_B)
        shared.mask_BS = shared.mask_BS[rows_B]
        return self._forward([one.halves()[1] for one in batch], shared, keep)

    def go_on(self, so_far: Pass, ids_B: Tensor) -> Pass:
        """Read one more token of each prompt."""
        ones = torch.ones_like(so_far.mask_BS[:, :1])
        mask_BS = torch.cat([so_far.mask_BS, ones], 1)
        positions_3BS = so_far.next_B[None, :, None].expand(3, -1, 1)
        return self._run(ids_B[:, None], mask_BS, positions_3BS, so_far.cache, True)

    def _forward(self, batch: Sequence[Encoded], after: Pass | None, keep: bool) -> Pass:
        """Read stretches of prompts, padded before so that all end together."""
        longest = max(len(one.ids_S) for one in batch)
        ids_BS = torch.zeros(len(batch), longest, dtype=torch.long)
        mask_BS = torch.zeros(len(batch), longest, dtype=torch.long)
        positions_3BS = torch.zeros(3, len(batch), longest, dtype=torch.long)
        for row, one in enumerate(batch):
            place = slice(longest - len(one.ids_S), None)
            ids_BS[row, place], mask_BS[row, place], positions_3BS[:, row, place] = one.ids_S, 1, one.positions_3S
        mask_BS = mask_BS.to(self.device)
        if after is not None:
            mask_BS = torch.cat([after.mask_BS, mask_BS], 1)
        images = {
            "pixel_values": torch.cat([one.pixels for one in batch]).to(self.device, self.model.dtype),
            "image_grid_thw": torch.cat([one.grids for one in batch]).to(self.device),
        }
        cache = after.cache if after is not None else None
        return self._run(ids_BS.to(self.device), mask_BS, positions_3BS.to(self.device), cache, keep, **images)

    @torch.inference_mode()
    def _run(
        self, ids_BS: Tensor, mask_BS: Tensor, positions_3BS: Tensor, cache: Any, keep: bool, **images: Tensor
    ) -> Pass:
        found = self.model.model(
            input_ids=ids_BS,
            attention_mask=mask_BS,
            position_ids=positions_3BS,
            past_key_values=cache,
            use_cache=keep or cache is not None,
            **images,
        )
        logits_BV = self.model.lm_head(found.last_hidden_state[:, -1]).float()
        next_B = positions_3BS.amax((0, 2)) + 1
        return Pass(logits_BV, mask_BS, next_B, found.past_key_values if keep else None)
