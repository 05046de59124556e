"""Real pipelines of the FLUX family, tiny and with random weights: all parts real, only small.

Nothing is downloaded: the tokenizers are trained here, on the few texts that the tests use.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from tests.training.editors.against_diffusers import INSTRUCTIONS
from training.editors.qwen_processor import image_only

QWEN_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def loaded(kind, folder, **options):
    """A pipeline of diffusers, by its own loader, quiet."""
    pipeline = kind.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_kontext(folder: Path, guidance_embeds: bool = True) -> Path:
    """A FluxKontextPipeline."""
    from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    torch.manual_seed(0)
    tokens = ["<|startoftext|>", "<|endoftext|>"]
    vocab, merges = _trained_bpe(INSTRUCTIONS, tokens, end_of_word_suffix="</w>")
    clip = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    letters = sorted(set("".join(INSTRUCTIONS)))
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    t5 = T5Config(vocab_size=len(pieces), d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2, is_gated_act=True)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    FluxKontextPipeline(
        scheduler=_flux_scheduler(),
        vae=AutoencoderKL(**_autoencoder(latent_channels=4), shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=CLIPTextModel(clip),
        tokenizer=CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=clip.max_position_embeddings),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512),
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def save_klein(folder: Path, is_distilled: bool = False) -> Path:
    """A Flux2KleinPipeline."""
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    tokenizer = _qwen_tokenizer(Qwen2Tokenizer, INSTRUCTIONS)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    qwen = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=28,  # the pipeline reads layers 9, 18 and 27
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * 16,
        guidance_embeds=False,
        axes_dims_rope=(4, 4, 4, 4),
    )
    vae = AutoencoderKLFlux2(**_autoencoder(latent_channels=4))
    vae.bn.running_mean.normal_(0, 0.2)
    vae.bn.running_var.uniform_(0.1, 0.5)
    Flux2KleinPipeline(
        scheduler=_flux_scheduler(),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(qwen),
        tokenizer=tokenizer,
        transformer=transformer,
        is_distilled=is_distilled,
    ).save_pretrained(folder)
    return folder


def save_longcat(folder: Path) -> Path:
    """A LongCatImageEditPipeline."""
    from diffusers import AutoencoderKL, LongCatImageEditPipeline, LongCatImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(0)
    tokenizer = _qwen_tokenizer(Qwen2Tokenizer, INSTRUCTIONS)
    qwen = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    transformer = LongCatImageTransformer2DModel(
        in_channels=64,  # of 16 latents, which the pipeline takes for granted
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 6, 6),
    )
    LongCatImageEditPipeline(
        scheduler=_flux_scheduler(),
        vae=AutoencoderKL(**_autoencoder(latent_channels=16), shift_factor=0.1159, scaling_factor=0.3611),
        text_encoder=Qwen2_5_VLForConditionalGeneration(qwen),
        tokenizer=tokenizer,
        text_processor=image_only(Qwen2VLProcessor)(
            image_processor=Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 512 * 512}),
            tokenizer=tokenizer,
        ),
        transformer=transformer,
    ).save_pretrained(folder)
    return folder


def _autoencoder(latent_channels):
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "latent_channels": latent_channels,
        "norm_num_groups": 4,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def _flux_scheduler():
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def _qwen_tokenizer(tokenizer_class, texts):
    vocab, merges = _trained_bpe(texts, QWEN_TOKENS)
    return tokenizer_class(vocab=vocab, merges=merges, extra_special_tokens=QWEN_TOKENS[1:])


def _trained_bpe(texts, special_tokens, **options):
    """The vocabulary and merges of a byte-level tokenizer."""
    tokenizer = Tokenizer(BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=700, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False, **options
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]
