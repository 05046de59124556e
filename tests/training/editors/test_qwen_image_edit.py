"""Qwen-Image-Edit: our sampling is the pipeline's, at sizes of our own and for many cases at once."""

from contextlib import contextmanager
from dataclasses import replace

import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit as original_module
import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as plus_module
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.training.editors.tiny_qwen import (
    largest_difference,
    make_tiny_qwen_image_edit,
    noise_of,
    perturb,
    picture,
    recorded,
)
from training import config as configs
from training.editors.interface import join
from training.editors.pipelines import load_editor
from training.editors.settings import DiffusersSettings
from training.lora import WEIGHTS_FILE, adapter_bytes, adapter_state, add_adapter
from training.rollout import generate

VERSIONS = {"original": {"plus": False}, "2509": {}, "2511": {"zero_cond_t": True}}
ASPECTS = {"landscape": (60, 90), "portrait": (100, 50), "square": (70, 70)}
NUM_STEPS = 3
INSTRUCTION = "make the cat blue"
LONG = "replace the background by a snowy mountain at dawn, in soft light"
DIMENSIONS = original_module.calculate_dimensions


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.set_num_threads(1)
    return {
        name: make_tiny_qwen_image_edit(tmp_path_factory.mktemp(name), **options) for name, options in VERSIONS.items()
    }


@pytest.fixture(scope="module")
def load(folders):
    """Loads a version; its areas differ from one another, so that mixing them up shows."""

    def load(version="2509", encoders=True, **settings):
        areas = {"target_area": 96 * 96, "condition_area": 64 * 64, "vision_area": 80 * 80}
        chosen = {"model": str(folders[version]), "dtype": "float32"} | areas | settings
        editor = load_editor(DiffusersSettings(**chosen), "cpu", encoders)
        editor.pipeline.set_progress_bar_config(disable=True)
        return editor

    return load


@pytest.fixture(scope="module")
def editors(load):
    """Of each version, without guidance."""
    return {version: load(version) for version in VERSIONS}


@pytest.fixture(scope="module")
def editor(editors):
    return editors["2509"]


def pipelines_edit(editor, source, mended=True, **options):
    """By the editor's own pipeline, at the editor's sizes."""
    settings = editor.settings
    rows, columns = editor.shape_of(*source.shape[:2]).target
    guided = {"negative_prompt": settings.negative_prompt} if settings.guidance > 1 else {}
    with pytest.MonkeyPatch.context() as patch, told_which_tokens_are_images(editor, mended):
        patch.setattr(plus_module, "VAE_IMAGE_SIZE", settings.condition_area)
        patch.setattr(plus_module, "CONDITION_IMAGE_SIZE", settings.vision_area)
        # The original has no such constant: it asks for 1024 * 1024.
        patch.setattr(
            original_module,
            "calculate_dimensions",
            lambda area, ratio: DIMENSIONS(area * settings.condition_area / 1024**2, ratio),
        )
        return editor.pipeline(
            image=Image.fromarray(source),
            prompt=INSTRUCTION,
            true_cfg_scale=settings.guidance,
            height=16 * rows,
            width=16 * columns,
            num_inference_steps=NUM_STEPS,
            **guided,
            **options,
        ).images


@contextmanager
def told_which_tokens_are_images(editor, told):
    """What the pipeline forgets since transformers 5: https://github.com/huggingface/diffusers/issues/14194."""

    def tell(module, args, given):
        return args, given | {"mm_token_type_ids": (given["input_ids"] == module.config.image_token_id).int()}

    def forget(module, args, given):
        return args, given | {"mm_token_type_ids": None}

    handle = editor.pipeline.text_encoder.model.register_forward_pre_hook(tell if told else forget, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_an_edit_is_the_pipelines(editors, version, aspect, guidance, monkeypatch):
    editor = editors[version]
    monkeypatch.setattr(editor, "settings", replace(editor.settings, guidance=guidance))
    source = picture(*ASPECTS[aspect])
    condition = editor.encode([source], [INSTRUCTION])
    noise = noise_of(condition)
    # Every call of the transformer is the pipeline's ...
    ours, latents = recorded(editor.transformer, lambda: generate(editor, condition, NUM_STEPS, noise))
    theirs, expected = recorded(
        editor.transformer, lambda: pipelines_edit(editor, source, latents=noise, output_type="latent")
    )
    assert len(ours) == len(theirs) == NUM_STEPS * (2 if guidance > 1 else 1)
    for our, their in zip(ours, theirs, strict=True):
        assert our["img_shapes"] == their["img_shapes"]
        assert our["encoder_hidden_states_mask"] is their["encoder_hidden_states_mask"] is None
        for name in ("hidden_states", "timestep", "encoder_hidden_states", "result"):
            torch.testing.assert_close(our[name], their[name], atol=1e-5, rtol=1e-5)
    assert ours[0]["result"].std() > 0.1
    assert ours[0]["encoder_hidden_states"].std() > 0.1
    # ... and so are times, latents and pixels.
    assert torch.equal(editor.sampling_times(NUM_STEPS, condition.shape), editor.pipeline.scheduler.sigmas)
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)
    (image,) = editor.decode(latents, condition.shape)
    (drawn,) = pipelines_edit(editor, source, latents=noise)
    assert largest_difference(image, drawn) <= 1
    assert image.std() > 10


def test_the_tiny_pipelines_differ_as_the_real_ones_do(editors):
    kinds = {name: (type(one.pipeline).__name__, one.transformer.zero_cond_t) for name, one in editors.items()}
    assert kinds == {
        "original": ("QwenImageEditPipeline", False),
        "2509": ("QwenImageEditPlusPipeline", False),
        "2511": ("QwenImageEditPlusPipeline", True),
    }


@pytest.mark.parametrize("version", ["original", "2509"])
def test_the_pipeline_as_it_comes_differs_in_the_places_of_image_tokens_alone(editors, version):
    """Fails when diffusers has mended its issue 14194; the tests can then leave its pipelines as they are."""
    editor = editors[version]
    source = picture(*ASPECTS["landscape"])
    told = editor.encode([source], [INSTRUCTION]).text.tokens_BLD
    with told_which_tokens_are_images(editor, False):
        untold = editor.encode([source], [INSTRUCTION]).text.tokens_BLD
    embedded, _ = editor.pipeline.encode_prompt(
        image=[Image.fromarray(source).resize(editor.vision_size(*source.shape[:2])[::-1], Image.Resampling.LANCZOS)],
        prompt=INSTRUCTION,
    )
    torch.testing.assert_close(embedded, untold, atol=1e-5, rtol=1e-5)
    assert (told - untold).abs().max() > 0.1


@given(height=st.integers(100, 5000), width=st.integers(100, 5000))
def test_sizes_are_the_pipelines(editor, height, width):
    """At its own areas, which would be slow to draw here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editor, "settings", replace(editor.settings, target_area=1024**2, condition_area=1024**2))
        shape = editor.shape_of(height, width)
    columns, rows, _ = (side and side // 16 for side in DIMENSIONS(1024 * 1024, width / height))
    assert shape.target == shape.sources[0] == (rows, columns)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_of_mixed_instructions_and_times_is_its_cases(editors, version):
    """Text is padded to the longest, and the velocity must not notice: neither by its mask nor by its positions."""
    editor = editors[version]
    sources = [picture(60, 90, seed) for seed in range(3)]
    texts = [INSTRUCTION, "remove", LONG]
    alone = [editor.encode([source], [text]) for source, text in zip(sources, texts, strict=True)]
    together = join(alone)
    assert not together.text.mask_BL.all()
    latents, t = noise_of(together), torch.tensor([0.9, 0.5, 0.1])
    with torch.no_grad():
        velocity = editor.velocity(latents, t, together)
        for i, condition in enumerate(alone):
            row = slice(i, i + 1)
            expected = editor.velocity(latents[row], t[row], condition)
            torch.testing.assert_close(velocity[row], expected, atol=1e-5, rtol=1e-5)
            padded = replace(condition, text=condition.text.padded(100))
            torch.testing.assert_close(editor.velocity(latents[row], t[row], padded), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad_on", ["left", "right"])
def test_cases_encode_alike_alone_and_together(load, pad_on):
    """With sources of several sizes and instructions of several lengths, whichever side the tokenizer pads on."""
    editor = load(guidance=4.0)
    editor.pipeline.processor.tokenizer.padding_side = pad_on
    sources = [picture(60, 90, 0), picture(118, 181, 1), picture(60, 91, 2)]
    instructions = ["remove it", LONG, INSTRUCTION]
    together = editor.encode(sources, instructions)
    assert len(set(together.text.mask_BL.sum(1).tolist())) == 3
    for i, (source, instruction) in enumerate(zip(sources, instructions, strict=True)):
        row, alone = together.take([i]), editor.encode([source], [instruction])
        assert row.shape == alone.shape
        torch.testing.assert_close(row.source_BMC, alone.source_BMC, atol=1e-5, rtol=1e-5)
        for text, expected in ((row.text, alone.text), (row.negative, alone.negative)):
            assert not text.tokens_BLD[~text.mask_BL].any()
            assert torch.equal(text.trimmed().mask_BL, expected.mask_BL)
            torch.testing.assert_close(text.trimmed().tokens_BLD, expected.tokens_BLD, atol=1e-5, rtol=1e-5)


def test_sources_of_several_shapes_are_no_batch(editor):
    with pytest.raises(ValueError, match="a batch shares one shape"):
        editor.encode([picture(60, 90), picture(90, 60)], ["remove it"] * 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_saved_adapter_acts_in_the_pipeline_as_in_the_editor(load, tmp_path, version):
    """At its full strength: its alpha is not its rank, and a file without it runs at another strength, silently."""
    editor = load(version)
    source = picture(*ASPECTS["landscape"])
    condition = editor.encode([source], [INSTRUCTION])
    noise = noise_of(condition)
    plain = generate(editor, condition, NUM_STEPS, noise)
    parameters = add_adapter(editor.transformer, replace(configs.tiny(), lora_alpha=16), 0, editor.lora_targets)
    # Every target, in every block, has its two matrices.
    assert len(parameters) == 2 * len(editor.lora_targets) * len(editor.transformer.transformer_blocks)
    perturb(parameters)
    adapted = generate(editor, condition, NUM_STEPS, noise)
    assert (adapted - plain).abs().max() > 0.05
    (tmp_path / WEIGHTS_FILE).write_bytes(adapter_bytes(editor.transformer, adapter_state(editor.transformer)))

    fresh = load(version)
    fresh.pipeline.load_lora_weights(tmp_path)
    drawn = pipelines_edit(fresh, source, latents=noise, output_type="latent")
    torch.testing.assert_close(drawn, adapted, atol=1e-4, rtol=0)


def test_without_encoders_it_draws_what_was_encoded_before_and_encodes_nothing(editor, load):
    source = picture(60, 90)
    condition = editor.encode([source], [INSTRUCTION])
    lean = load(encoders=False)
    assert lean.pipeline.text_encoder is None
    assert lean.fingerprint == editor.fingerprint
    noise = noise_of(condition)
    latents = generate(lean, condition, NUM_STEPS, noise)
    assert torch.equal(latents, generate(editor, condition, NUM_STEPS, noise))
    assert np.array_equal(lean.decode(latents, condition.shape), editor.decode(latents, condition.shape))
    with pytest.raises(ValueError, match="without its encoders"):
        lean.encode([source], [INSTRUCTION])


def test_in_bfloat16_it_draws_nearly_the_same(editor, load):
    """The frozen parts and what they compute in bfloat16; states, velocities and the adapter in float32."""
    coarse = load(dtype="bfloat16")
    parts = [coarse.pipeline.transformer, coarse.pipeline.vae, coarse.pipeline.text_encoder]
    assert {part.dtype for part in parts} == {torch.bfloat16}
    source = picture(60, 90)
    conditions = [one.encode([source], [INSTRUCTION]) for one in (editor, coarse)]
    parameters = add_adapter(coarse.transformer, configs.tiny(), 0, coarse.lora_targets)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    noise, t = noise_of(conditions[0]), torch.tensor([0.6])
    exact, near = (one.velocity(noise, t, given) for one, given in zip((editor, coarse), conditions, strict=True))
    assert near.dtype == torch.float32
    assert (near - exact).norm() / exact.norm() < 0.05
    # A fresh adapter changes nothing, so only one of its two matrices has a gradient; but for the text of the last
    # block, which ends in nothing, all of those have.
    gradients = torch.autograd.grad(near.square().mean(), parameters, allow_unused=True)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in gradients) > len(parameters) / 3
    (image,), (expected,) = (one.decode(noise, conditions[0].shape) for one in (coarse, editor))
    assert np.abs(image.astype(int) - expected.astype(int)).mean() < 2
