"""Qwen-Image pipelines of two layers with random weights: all parts real, only tiny."""

import json
import re
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.tasks.hp_scorer.tiny_qwen import SPECIAL
from training.editors.qwen_processor import image_only
from training.rollout import generator_of

CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{%- for part in message.content -%}{{ part.text }}{%- endfor -%}{{ '<|im_end|>\\n' }}{%- endfor -%}"
)
"""As in the Instruct models, for texts."""
SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
"""Of Qwen/Qwen-Image-Edit-2509."""
TEXT_DIM, LATENT_CHANNELS = 64, 4
AUTOENCODER = {
    "base_dim": 16,
    "z_dim": LATENT_CHANNELS,
    "num_res_blocks": 1,
    # Far from 0 and 1, so that leaving one out shows.
    "latents_mean": [-0.7, 0.3, 0.1, 1.2],
    "latents_std": [2.8, 1.4, 0.6, 2.1],
}
TEXT = {
    "hidden_size": TEXT_DIM,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.2,
}
VISION = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": TEXT_DIM,
    "initializer_range": 0.2,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def make_tiny_qwen_image_edit(folder: Path, plus: bool = True, zero_cond_t: bool = False) -> Path:
    """Save a Qwen-Image-Edit pipeline as the hub has it.

    Args:
        plus: of the class of 2509 and 2511; else of the original.
        zero_cond_t: as 2511 is.
    """
    kind = QwenImageEditPlusPipeline if plus else QwenImageEditPipeline
    tokenizer = _tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = kind(
            scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
            vae=AutoencoderKLQwenImage(dim_mult=[1, 1, 2, 2], temperal_downsample=[False, True, True], **AUTOENCODER),
            text_encoder=Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(
                    text_config=_text(tokenizer) | {"rope_parameters": ROPE | {"mrope_section": [2, 3, 3]}},
                    vision_config=VISION | {"fullatt_block_indexes": [1]},
                    **_token_ids(tokenizer),
                )
            ),
            tokenizer=tokenizer,
            processor=image_only(Qwen2VLProcessor)(image_processor=_image_processor(28), tokenizer=tokenizer),
            transformer=QwenImageTransformer2DModel(
                in_channels=4 * LATENT_CHANNELS,
                out_channels=LATENT_CHANNELS,
                num_layers=2,
                attention_head_dim=32,
                num_attention_heads=4,
                joint_attention_dim=TEXT_DIM,
                axes_dims_rope=(8, 12, 12),
                zero_cond_t=zero_cond_t,
            ),
        )
    start = re.split(r"\{}|<\|vision_start", pipeline.prompt_template_encode)[0]
    assert len(tokenizer(start).input_ids) == pipeline.prompt_template_encode_start_idx
    pipeline.save_pretrained(folder)
    return folder


def make_tiny_qwen_image21(folder: Path, sample_sigmas: list[float] | None = None) -> Path:
    """Save a Qwen-Image 2.1 pipeline as the hub has it."""
    tokenizer = _tokenizer()
    rope = ROPE | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        QwenImage21Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER),
            vae=AutoencoderKLQwenImage21(decoder_base_dim=16, dim_mult=[1, 1, 1, 2, 2], **AUTOENCODER),
            text_encoder=Qwen3VLForConditionalGeneration(
                Qwen3VLConfig(
                    text_config=_text(tokenizer) | {"head_dim": 16, "rope_parameters": rope},
                    vision_config=VISION | {"num_position_embeddings": 256, "deepstack_visual_indexes": [0]},
                    **_token_ids(tokenizer),
                )
            ),
            processor=image_only(Qwen3VLProcessor)(
                image_processor=_image_processor(32), tokenizer=tokenizer, chat_template=CHAT_TEMPLATE
            ),
            transformer=QwenImage21Transformer2DModel(
                in_channels=LATENT_CHANNELS,
                out_channels=LATENT_CHANNELS,
                num_layers=2,
                attention_head_dim=32,
                num_attention_heads=4,
                context_in_dim=TEXT_DIM,
                axes_dims_rope=(8, 12, 12),
            ),
            sample_sigmas=sample_sigmas,
        ).save_pretrained(folder)
    return folder


def _text(tokenizer):
    first, last = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    return TEXT | {"vocab_size": len(tokenizer), "bos_token_id": first, "eos_token_id": last}


def _token_ids(tokenizer):
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _image_processor(multiple):
    return Qwen2VLImageProcessorPil(
        patch_size=multiple // 2, size={"shortest_edge": multiple**2, "longest_edge": 160 * 160}
    )


def _tokenizer():
    """Trained on the template until its words are single tokens, as in the real one: the prefix is cut off by count."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    template = QwenImageEditPlusPipeline(*[None] * 6).prompt_template_encode
    bpe.train_from_iterator(re.split(r"<\|\w+\|>", template), trainer)
    learnt = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=list(SPECIAL),
        chat_template=CHAT_TEMPLATE,
    )


def picture(height, width, seed=0):
    """Smooth, with edges: unlike noise, it is still something when it is resized."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def noise_of(condition, seed=1):
    return torch.randn(condition.noise_shape, generator=generator_of(seed))


def recorded(module, run):
    """What the module was called with while `run` ran and what it returned, call by call; and what `run` returned."""
    calls = []

    def record(module, args, given, result):
        assert not args
        calls.append(given | {"result": result[0]})

    handle = module.register_forward_hook(record, with_kwargs=True)
    try:
        returned = run()
    finally:
        handle.remove()
    return calls, returned


def perturb(parameters):
    """Make a fresh adapter do something."""
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator_of(i)))


def largest_difference(image, other):
    """Of two images, in steps of 1 / 255."""
    return np.abs(np.asarray(image).astype(int) - np.asarray(other).astype(int)).max()
