"""How an editor is compared with diffusers' own pipeline, and what every editor over one must do."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from training.config import tiny
from training.editors.settings import DiffusersSettings
from training.lora import WEIGHTS_FILE, adapter_bytes, adapter_state, add_adapter
from training.rollout import generate, generator_of

INSTRUCTIONS = ["remove the cat", "write 'Open' on the door, and let it look older than it is"]
SIZES = {"square": (64, 64), "portrait": (96, 64), "landscape": (64, 112)}
"""Height and width of what is drawn; sources are half as large again."""


def settings_for(size, **others):
    """Source and target of one size: what diffusers' pipelines can be made to do as well."""
    area = size[0] * size[1]
    values = {"model": "tiny", "target_area": area, "condition_area": area, "max_text_tokens": 48, "dtype": "float32"}
    return DiffusersSettings(**values | others)


def source_for(size, seed=0):
    """A smooth picture with some noise, (H, W, 3), larger than what is drawn."""
    height, width = (side * 3 // 2 for side in size)
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
    return (np.asarray(coarse) * 0.8 + generator.uniform(0, 50, (height, width, 3))).astype(np.uint8)


def noise_for(condition, seed=1):
    return torch.randn(condition.noise_shape, generator=generator_of(seed))


@contextmanager
def calls_of(transformer):
    """The inputs by name and the output of each call within the block."""
    calls = []
    hook = transformer.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((kwargs, output[0])), with_kwargs=True
    )
    try:
        yield calls
    finally:
        hook.remove()


def assert_same_calls(ours, theirs, num_tokens):
    """Equal inputs and outputs of the transformer, call by call."""
    close = {"rtol": 1e-5, "atol": 2e-5}
    assert len(ours) == len(theirs)
    for (our_inputs, our_output), (their_inputs, their_output) in zip(ours, theirs, strict=True):
        wanted = {name: value for name, value in their_inputs.items() if isinstance(value, torch.Tensor)}
        given = {name: value for name, value in our_inputs.items() if isinstance(value, torch.Tensor)}
        assert set(given) == set(wanted)
        for name, value in wanted.items():
            # FLUX.2's coordinates are repeated over the batch, and whole numbers.
            value = value[0] if name.endswith("_ids") and value.ndim == 3 else value
            torch.testing.assert_close(
                given[name], value.float(), **close, msg=lambda text, name=name: f"{name}: {text}"
            )
        torch.testing.assert_close(our_output[:, :num_tokens], their_output[:, :num_tokens], **close)


def assert_same_edits(editor, size, edit, num_steps=3, instruction=INSTRUCTIONS[0]):
    """Ours and diffusers' edits of one picture: every call of the transformer, the times, the latents, the pixels.

    Args:
        edit: diffusers' own pipeline: (image, size, instruction, noise (B, N, C), steps, output type) to packed
            latents (B, N, C) for "latent", to an image for "pil".

    Returns: the largest differences of the latents and of the pixels.
    """
    source = source_for(size)
    condition = editor.encode([source], [instruction])
    noise = noise_for(condition)
    case = Image.fromarray(source), size, instruction, noise, num_steps
    with calls_of(editor.transformer) as ours:
        latents = generate(editor, condition, num_steps, noise)
    with calls_of(editor.transformer) as theirs:
        their_latents = edit(*case, "latent")
    assert_same_calls(ours, theirs, condition.shape.num_tokens)
    times = editor.sampling_times(num_steps, condition.shape)
    torch.testing.assert_close(times, editor.pipeline.scheduler.sigmas.float())
    torch.testing.assert_close(latents, their_latents, rtol=0, atol=1e-4)
    (pixels,) = editor.decode(latents, condition.shape)
    assert pixels.shape[:2] == size
    their_pixels = np.asarray(edit(*case, "pil"))
    difference = np.abs(pixels.astype(int) - their_pixels).max()
    assert difference <= 1
    assert pixels.std() > 1  # a picture of something
    return float((latents - their_latents).abs().max()), int(difference)


def assert_company_changes_nothing(editor, size):
    """Cases encoded and drawn together are as each is alone."""
    sources = [source_for(size, seed) for seed in (0, 1)]
    both = editor.encode(sources, INSTRUCTIONS)
    noise, t = noise_for(both), torch.tensor([0.9, 0.3])
    with torch.no_grad():
        together = editor.velocity(noise, t, both)
        for i in range(2):
            alone = editor.encode(sources[i : i + 1], INSTRUCTIONS[i : i + 1])
            for name, value in alone.tensors().items():
                torch.testing.assert_close(both.tensors()[name][i : i + 1], value, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(
                together[i : i + 1], editor.velocity(noise[i : i + 1], t[i : i + 1], alone), rtol=1e-4, atol=1e-5
            )
    assert not torch.allclose(together[0], together[1], atol=1e-2)


def assert_adapter_travels(editor, fresh, load, folder):
    """A trained adapter, saved and loaded by diffusers into a fresh editor, acts in full; its alpha is not its rank."""
    config = replace(tiny(), lora_rank=4, lora_alpha=16, lora_targets=editor.lora_targets)
    condition = editor.encode([source_for(SIZES["square"])], INSTRUCTIONS[:1])
    noise, t = noise_for(condition), torch.tensor([0.7])
    with torch.no_grad():
        for i, parameter in enumerate(add_adapter(editor.transformer, config, 0)):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator_of(i)))
        wanted = editor.velocity(noise, t, condition)
        assert not torch.allclose(wanted, fresh.velocity(noise, t, condition), atol=1e-2)
        (folder / WEIGHTS_FILE).write_bytes(adapter_bytes(editor.transformer, adapter_state(editor.transformer)))
        load(folder)
        assert torch.equal(fresh.velocity(noise, t, condition), wanted)


def assert_adapter_covers_blocks(editor):
    """The adapter is on all linear layers of all blocks but those that only modulate, and on nothing else."""
    wanted = {
        name
        for name, module in editor.transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and "transformer_blocks." in name and ".norm" not in name
    }
    add_adapter(editor.transformer, replace(tiny(), lora_targets=editor.lora_targets), 0)
    ending = ".lora_A.default"
    names = (name for name, _ in editor.transformer.named_modules())
    assert {name.removesuffix(ending) for name in names if name.endswith(ending)} == wanted


def assert_trains_in_bfloat16(editor):
    """Frozen weights in bfloat16, the adapter and its gradient in float32."""
    config = replace(tiny(), lora_targets=editor.lora_targets)
    condition = editor.encode([source_for(SIZES["square"])], INSTRUCTIONS[:1])
    parameters = add_adapter(editor.transformer, config, 0)
    velocity = editor.velocity(noise_for(condition), torch.tensor([0.7]), condition)
    assert velocity.dtype == torch.float32
    velocity.square().mean().backward()
    assert {parameter.grad.dtype for parameter in parameters} == {torch.float32}
    # B starts at zero, so the first gradient of A is; that of B is not.
    assert all(parameter.grad.isfinite().all() for parameter in parameters)
    assert sum(bool(parameter.grad.any()) for parameter in parameters) >= len(parameters) // 2


def assert_loads(load_editor, kind, settings):
    """The loader picks the editor's class; without its encoders it draws what was encoded before."""
    editor = load_editor(settings, "cpu")
    assert type(editor) is kind
    condition = editor.encode([source_for(SIZES["square"])], INSTRUCTIONS[:1])
    drawing = load_editor(settings, "cpu", encoders=False)
    assert drawing.fingerprint == editor.fingerprint
    with pytest.raises(ValueError, match="without its encoders"):
        drawing.encode([source_for(SIZES["square"])], INSTRUCTIONS[:1])
    noise = noise_for(condition)
    (one,), (two,) = (each.decode(generate(each, condition, 2, noise), condition.shape) for each in (editor, drawing))
    assert np.array_equal(one, two)
