"""Qwen-Image 2.1: our sampling is the pipeline's, at sizes of our own and for many cases at once."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.editors.tiny_qwen import (
    largest_difference,
    make_tiny_qwen_image21,
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

ASPECTS = {"landscape": (60, 90), "portrait": (100, 50), "square": (70, 70)}
NUM_STEPS = 3
INSTRUCTION = "make the cat blue"
LONG = "replace the background by a snowy mountain at dawn, in soft light"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return make_tiny_qwen_image21(tmp_path_factory.mktemp("qwen21"))


@pytest.fixture(scope="module")
def load(folder):
    def load(encoders=True, **settings):
        chosen = {"model": str(folder), "dtype": "float32", "target_area": 96 * 96, "condition_area": 64 * 64}
        editor = load_editor(DiffusersSettings(**chosen | settings), "cpu", encoders)
        editor.pipeline.set_progress_bar_config(disable=True)
        return editor

    return load


@pytest.fixture(scope="module")
def editor(load):
    return load()


def pipelines_edit(editor, source, **options):
    """By the editor's own pipeline, at the editor's sizes."""
    settings = editor.settings
    rows, columns = editor.shape_of(*source.shape[:2]).target
    return editor.pipeline(
        image=Image.fromarray(source),
        prompt=INSTRUCTION,
        negative_prompt=settings.negative_prompt if settings.guidance > 1 else None,
        true_cfg_scale=settings.guidance,
        height=16 * rows,
        width=16 * columns,
        output_resolution=math.isqrt(settings.condition_area),
        num_inference_steps=NUM_STEPS,
        **options,
    ).images


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("aspect", ASPECTS)
def test_an_edit_is_the_pipelines(editor, aspect, guidance, monkeypatch):
    monkeypatch.setattr(editor, "settings", replace(editor.settings, guidance=guidance))
    source = picture(*ASPECTS[aspect])
    condition = editor.encode([source], [INSTRUCTION])
    noise = noise_of(condition)
    # Every call of the transformer is the pipeline's ...
    ours, latents = recorded(editor.transformer, lambda: generate(editor, condition, NUM_STEPS, noise))
    theirs, expected = recorded(
        editor.transformer,
        lambda: pipelines_edit(editor, source, latents=noise, output_type="latent", use_kv_cache=False),
    )
    assert len(ours) == len(theirs) == NUM_STEPS * (2 if guidance > 1 else 1)
    for our, their in zip(ours, theirs, strict=True):
        assert our["img_shapes"] == their["img_shapes"]
        assert torch.equal(our["img_mask"], their["img_mask"])
        for name in ("hidden_states", "timestep", "result"):
            torch.testing.assert_close(our[name], their[name], atol=1e-5, rtol=1e-5)
        # The places of the source, whose text the transformer does not look at, are kept empty.
        text = their["encoder_hidden_states"]
        places = their["img_mask"][:, : text.shape[1], None]
        torch.testing.assert_close(our["encoder_hidden_states"], text.masked_fill(places, 0), atol=1e-5, rtol=1e-5)
    assert ours[0]["result"].std() > 0.1
    # ... and so are times, latents and pixels.
    assert torch.equal(editor.sampling_times(NUM_STEPS, condition.shape), editor.pipeline.scheduler.sigmas)
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)
    (image,) = editor.decode(latents, condition.shape)
    (drawn,) = pipelines_edit(editor, source, latents=noise)
    over_white = Image.new("RGBA", drawn.size, "white")
    over_white.alpha_composite(drawn)
    assert largest_difference(image, over_white.convert("RGB")) <= 1
    assert image.std() > 10


def test_a_batch_of_mixed_instructions_and_times_is_its_cases(editor):
    """In this model padding moves the image: text that is longer puts it further away."""
    sources = [picture(60, 90, seed) for seed in range(4)]
    texts = [INSTRUCTION, "remove", LONG, INSTRUCTION]
    alone = [editor.encode([source], [text]) for source, text in zip(sources, texts, strict=True)]
    together = join(alone)
    lengths = together.text.mask_BL.sum(1).tolist()
    assert len(set(lengths)) == 3
    latents, t = noise_of(together), torch.tensor([0.9, 0.5, 0.1, 0.3])
    latents.requires_grad_()
    velocity = editor.velocity(latents, t, together)
    (gradient,) = torch.autograd.grad(velocity.square().sum(), latents)
    for i, condition in enumerate(alone):
        row = slice(i, i + 1)
        expected = editor.velocity(latents[row], t[row], condition)
        torch.testing.assert_close(velocity[row], expected, atol=1e-5, rtol=1e-5)
        (of_one,) = torch.autograd.grad(expected.square().sum(), latents)
        torch.testing.assert_close(gradient[row], of_one[row], atol=1e-4, rtol=1e-4)
        padded = replace(condition, text=condition.text.padded(100))
        torch.testing.assert_close(editor.velocity(latents[row], t[row], padded), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pad_on", ["left", "right"])
def test_cases_encode_alike_alone_and_together(load, pad_on):
    editor = load(guidance=4.0)
    editor.pipeline.processor.tokenizer.padding_side = pad_on
    sources = [picture(60, 90, 0), picture(118, 181, 1), picture(60, 91, 2)]
    instructions = ["", LONG, INSTRUCTION]
    together = editor.encode(sources, instructions)
    for i, (source, instruction) in enumerate(zip(sources, instructions, strict=True)):
        row, alone = together.take([i]), editor.encode([source], [instruction])
        torch.testing.assert_close(row.source_BMC, alone.source_BMC, atol=1e-5, rtol=1e-5)
        for text, expected in ((row.text, alone.text), (row.negative, alone.negative)):
            assert torch.equal(text.trimmed().mask_BL, expected.mask_BL)
            torch.testing.assert_close(text.trimmed().tokens_BLD, expected.tokens_BLD, atol=1e-5, rtol=1e-5)


def test_a_saved_adapter_acts_in_the_pipeline_as_in_the_editor(load, tmp_path):
    editor = load()
    source = picture(*ASPECTS["landscape"])
    condition = editor.encode([source], [INSTRUCTION])
    noise = noise_of(condition)
    plain = generate(editor, condition, NUM_STEPS, noise)
    parameters = add_adapter(editor.transformer, replace(configs.tiny(), lora_alpha=16), 0, editor.lora_targets)
    assert len(parameters) == 2 * len(editor.lora_targets) * len(editor.transformer.transformer_blocks)
    perturb(parameters)
    adapted = generate(editor, condition, NUM_STEPS, noise)
    assert (adapted - plain).abs().max() > 0.05
    (tmp_path / WEIGHTS_FILE).write_bytes(adapter_bytes(editor.transformer, adapter_state(editor.transformer)))

    fresh = load()
    fresh.pipeline.load_lora_weights(tmp_path)
    drawn = pipelines_edit(fresh, source, latents=noise, output_type="latent")
    torch.testing.assert_close(drawn, adapted, atol=1e-4, rtol=0)


def test_in_bfloat16_and_without_encoders_it_draws_nearly_the_same(editor, load):
    source = picture(60, 90)
    condition = editor.encode([source], [INSTRUCTION])
    coarse = load(encoders=False, dtype="bfloat16")
    assert coarse.pipeline.text_encoder is None
    noise, t = noise_of(condition), torch.tensor([0.6])
    with torch.no_grad():
        exact, near = (one.velocity(noise, t, condition) for one in (editor, coarse))
    assert near.dtype == torch.float32
    assert (near - exact).norm() / exact.norm() < 0.05
    (image,), (expected,) = (one.decode(noise, condition.shape) for one in (coarse, editor))
    assert np.abs(image.astype(int) - expected.astype(int)).mean() < 2


def test_a_distilled_checkpoint_brings_its_times(editor, tmp_path):
    distilled = load_editor(
        DiffusersSettings(model=str(make_tiny_qwen_image21(tmp_path, [1.0, 0.8, 0.3])), dtype="float32"), "cpu", False
    )
    shape = editor.shape_of(60, 90)
    own, other = (distilled.sampling_times(num_steps, shape) for num_steps in (3, 4))
    assert not torch.allclose(own, editor.sampling_times(3, shape))
    assert torch.equal(other, editor.sampling_times(4, shape))


def test_a_source_that_its_two_readers_see_in_two_sizes_is_refused(load):
    with pytest.raises(ValueError, match="condition_area 36864"):
        load(condition_area=192 * 192).encode([picture(60, 90)], [INSTRUCTION])
