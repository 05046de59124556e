"""A Qwen3-VL of two layers, and a tokenizer, made on the spot: all parts real, only tiny."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from storage.records import EditType
from tasks.hp_scorer.prompts import Prompt
from tasks.hp_scorer.qwen_processor import image_only_processor
from tasks.hp_scorer.rubric import rubric_of
from tasks.hp_scorer.settings import Mode
from tasks.images import png

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image_url' in part -%}<|vision_start|><|image_pad|><|vision_end|>
{%- else -%}{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
"""As in the Instruct models: parts in their order, with nothing between them."""


def make_tiny_qwen3_vl(folder: Path, lessons: Sequence[tuple[Prompt, str]] = ()) -> Path:
    """Save a model as Hugging Face lays it out.

    Args:
        lessons: prompts, and what it learns by heart to reply to them. None: it replies with garbage.

    Returns: the folder.
    """
    tokenizer = _tokenizer()
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 8192,
            "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).eval()
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = Qwen2VLImageProcessorPil(
        patch_size=16,
        size={"shortest_edge": 32 * 32, "longest_edge": 512 * 512},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    images.save_pretrained(folder)
    if lessons:
        _teach(model, image_only_processor().from_pretrained(folder), lessons)
        model.save_pretrained(folder)
    return folder


def shade(value: int, height: int = 64, width: int = 64) -> bytes:
    """A PNG of one grey."""
    return png(np.full((height, width, 3), value, np.uint8))


def prompt(edited: bytes, mode: Mode = Mode.LOGIT, source: bytes = shade(128), **changes) -> Prompt:
    """A question about an edit."""
    fields = {"rubric": rubric_of(EditType.REMOVAL), "instruction": "remove the cup", "image_kind": "png"} | changes
    return Prompt(mode=mode, source=source, edited=edited, **fields)


def verdict(score: int) -> str:
    """A reply to the same rubric."""
    answers = {question.name: "yes" for question in rubric_of(EditType.REMOVAL).questions}
    return json.dumps({"answers": answers, "reason": "so", "score": score})


def make_light_judge(folder: Path) -> Path:
    """A tiny model that judges after all: dark edited images are 1, bright ones 4."""
    lessons = [(prompt(shade(20), Mode.LOGIT), "1"), (prompt(shade(230), Mode.LOGIT), "4")]
    lessons += [(prompt(shade(20), Mode.COT), verdict(1)), (prompt(shade(230), Mode.COT), verdict(4))]
    return make_tiny_qwen3_vl(folder, lessons)


def _teach(model, processor, lessons):
    """Train until every token of every reply is all but certain."""
    end = processor.tokenizer.eos_token
    taught = []
    for prompt, reply in lessons:
        inputs = processor.apply_chat_template(
            [[{"role": "user", "content": prompt.content()}]],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = processor.tokenizer(reply + end, return_tensors="pt").input_ids
        for name, more in {"input_ids": ids, "attention_mask": ids * 0 + 1, "mm_token_type_ids": ids * 0}.items():
            inputs[name] = torch.cat([inputs[name], more], 1)
        taught.append((inputs, ids[0]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        worst = 0.0
        for inputs, ids in taught:
            logits = model(**inputs, logits_to_keep=len(ids) + 1).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, ids, reduction="none")
            loss.mean().backward()
            worst = max(worst, loss.max().item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if worst < 0.05:
            return
    raise AssertionError(f"a tiny model did not learn its lessons: {worst:.2f}")


def _tokenizer() -> Qwen2Tokenizer:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator([rubric_of(edit_type).text() for edit_type in EditType], trainer)
    learnt = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=list(SPECIAL),
        chat_template=CHAT_TEMPLATE,
    )
