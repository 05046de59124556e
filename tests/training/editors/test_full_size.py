"""Editors in their published sizes: as many parameters as published, real ones where they are made on a device."""

from dataclasses import replace

import pytest
import torch

from training.editors.full_size import (
    FULL_SIZES,
    count_parameters,
    full_size_editor,
    random_condition,
    random_latents,
    random_pixels,
    square_shape,
)
from training.editors.interface import Shape

TINY = {"attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 24}
FAMILIES = ("Qwen-Image-Edit-2511", "FLUX.1-Kontext-dev", "FLUX.2-klein-base-4B", "LongCat-Image-Edit")
"""One of each transformer."""


def tiny(name):
    """An editor of the family with two blocks of each kind, 32 features and five words."""
    size = FULL_SIZES[name]
    axes = (4, 4, 4, 4) if "klein" in name else (4, 6, 6)
    config = {**size.config, **TINY, "axes_dims_rope": axes, **dict.fromkeys(size.depths, 2)}
    if "Kontext" in name:
        config["pooled_projection_dim"] = 12
    return replace(size, config=config, words=5, vision_side=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Qwen-Image-Edit", 20_430_401_088),  # as its files on the hub: 40.86 GB in bfloat16
        ("Qwen-Image-Edit-2509", 20_430_401_088),
        ("Qwen-Image-Edit-2511", 20_430_401_088),
        ("FLUX.1-Kontext-dev", 11_901_408_320),
        ("FLUX.2-klein-base-4B", 3_875_544_576),
        ("FLUX.2-klein-base-9B", 9_078_581_248),
        ("LongCat-Image-Edit", 6_270_668_864),
    ],
)
def test_parameters(name, parameters):
    editor = full_size_editor(FULL_SIZES[name])
    assert count_parameters(editor.transformer) == parameters
    assert editor.device.type == "meta"
    assert not any(parameter.requires_grad for parameter in editor.transformer.parameters())


def test_every_size_is_here():
    assert len(FULL_SIZES) == 7


def test_text_grows_with_what_the_text_encoder_sees():
    shape, large = square_shape(512, 512), square_shape(512, 1024)
    assert FULL_SIZES["Qwen-Image-Edit-2509"].text_tokens(shape) == 34 + 14 * 14
    assert FULL_SIZES["Qwen-Image-Edit-2509"].text_tokens(large) == 34 + 14 * 14
    assert FULL_SIZES["Qwen-Image-Edit"].text_tokens(shape) == 34 + 18 * 18
    assert FULL_SIZES["Qwen-Image-Edit"].text_tokens(large) == 34 + 37 * 37
    assert FULL_SIZES["FLUX.1-Kontext-dev"].text_tokens(large) == 512
    assert FULL_SIZES["Qwen-Image-Edit"].text_tokens(Shape((32, 32), ((24, 48),))) == 34 + 14 * 27
    assert FULL_SIZES["Qwen-Image-Edit-2509"].tokens(large) == 32**2 + 64**2 + 230


def test_sides_are_whole_tokens():
    assert square_shape(512, 384) == Shape((32, 32), ((24, 24),))
    with pytest.raises(ValueError, match="side 500"):
        square_shape(512, 500)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_editor_on_a_device_edits(name, dtype):
    size, shape = replace(tiny(name), vae=None), Shape((2, 3), ((3, 2),))
    editor = full_size_editor(size, "cpu", dtype, guidance=2.0)
    assert {parameter.dtype for parameter in editor.transformer.parameters()} == {getattr(torch, dtype)}
    condition = random_condition(size, editor, shape, samples=2)
    assert condition.negative is not None
    with torch.no_grad():
        velocity_BNC = editor.velocity(torch.randn(condition.noise_shape), torch.tensor([0.9, 0.5]), condition)
    assert velocity_BNC.shape == (2, 6, condition.source_BMC.shape[2])
    assert velocity_BNC.dtype == torch.float32
    assert velocity_BNC.isfinite().all()
    assert velocity_BNC.std() > 0
    times = editor.sampling_times(4, shape)
    assert times[0] == 1
    assert times[-1] == 0


def test_positions_are_exact_in_a_model_that_is_made_in_bfloat16():
    """Made in bfloat16 at once, not converted: what is computed while it is made must not be."""
    exact, made = (
        full_size_editor(replace(tiny(FAMILIES[0]), vae=None), "cpu", dtype) for dtype in ("float32", "bfloat16")
    )
    assert torch.equal(exact.transformer.pos_embed.pos_freqs, made.transformer.pos_embed.pos_freqs)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", FAMILIES[:3])
def test_autoencoders_take_what_is_made_for_them(name):
    size = FULL_SIZES[name]
    vae = full_size_editor(size, depths=dict.fromkeys(size.depths, 1)).pipeline.vae
    with torch.device("meta"):
        image = vae.decode(random_latents(size.vae, (4, 6), "meta"), return_dict=False)[0]
        latents = vae.encode(random_pixels(size.vae, (4, 6), "meta")).latent_dist.mode()
    assert image.shape == random_pixels(size.vae, (4, 6), "meta").shape
    assert latents.shape == random_latents(size.vae, (4, 6), "meta").shape
