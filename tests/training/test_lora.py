"""The adapter's file: what is saved acts when it is read, at its full strength."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load

from training import config as configs
from training.lora import adapter_bytes, adapter_state, add_adapter, load_adapter, reference
from training.rollout import generator_of


@pytest.fixture
def trained(tiny_editor_factory):
    """An editor with an adapter that does something; its alpha is not its rank."""
    editor = tiny_editor_factory()
    parameters = add_adapter(editor.transformer, replace(configs.tiny(), lora_alpha=16), 0)
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator_of(i)))
    return editor


def velocity(editor):
    source = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    condition = editor.encode(list(source), ["remove the cat"])
    x = torch.randn(condition.noise_shape, generator=generator_of(9))
    with torch.no_grad():
        return editor.velocity(x, torch.tensor([0.7]), condition)


def test_a_saved_adapter_draws_the_same_to_the_bit(trained, tiny_editor_factory):
    data = adapter_bytes(trained.transformer, adapter_state(trained.transformer))
    fresh = tiny_editor_factory()
    before = velocity(fresh)
    load_adapter(fresh.transformer, data)
    assert torch.equal(velocity(fresh), velocity(trained))
    assert not torch.allclose(velocity(fresh), before, atol=1e-3)


def test_without_its_adapter_the_editor_is_the_reference(trained, tiny_editor_factory):
    with reference(trained.transformer):
        torch.testing.assert_close(velocity(trained), velocity(tiny_editor_factory()))
    assert trained.fingerprint == tiny_editor_factory().fingerprint


def test_the_file_is_one_of_diffusers(trained):
    state = load(adapter_bytes(trained.transformer, adapter_state(trained.transformer)))
    assert all(name.startswith("transformer.transformer_blocks.") for name in state)
    assert {name.rsplit(".", 2)[1] for name in state} == {"lora_A", "lora_B"}
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_equal_adapters_are_equal_files(trained):
    """Two processes must agree: sets and hash maps have another order in each."""
    state = adapter_state(trained.transformer)
    files = {adapter_bytes(trained.transformer, dict(reversed(state.items()) if i % 2 else state)) for i in range(4)}
    assert len(files) == 1


def test_a_fresh_adapter_changes_nothing(tiny_editor_factory):
    editor = tiny_editor_factory()
    before = velocity(editor)
    add_adapter(editor.transformer, configs.tiny(), 0)
    torch.testing.assert_close(velocity(editor), before)
