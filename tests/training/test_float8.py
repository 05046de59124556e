"""The frozen base in float8: what is rounded, what is not, what an adapter sees of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.training.tiny_transformer import apart, gradients, make, put_adapter_on, velocity
from training import config as configs
from training.editors.interface import Condition
from training.float8 import (
    Float8Linear,
    convert_base,
    convert_measured,
    dequantise,
    has_kernel,
    multiply,
    quantise,
)
from training.lora import adapter_bytes, adapter_parameters, adapter_state, add_adapter, load_adapter, reference

FLOAT8 = torch.float8_e4m3fn


def layers(transformer, kind=Float8Linear):
    return {name: module for name, module in transformer.named_modules() if isinstance(module, kind)}


@given(st.integers(0, 2**32 - 1), st.floats(-12, 12), st.sampled_from([torch.float32, torch.bfloat16]))
def test_every_number_is_within_a_sixteenth(seed, magnitude, dtype):
    """Down to a 2^14th of the row's largest, where float8 runs out of exponents."""
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randn(5, 48, generator=generator) * 10.0**magnitude).to(dtype)
    quantised, scale = quantise(rows)
    back = dequantise(quantised, scale, torch.float32)
    least = rows.float().abs().amax(1, keepdim=True).clamp(min=2.0**-14) * 2.0**-13
    difference = (back - rows.float()).abs()
    assert (difference <= torch.maximum(rows.float().abs() / 16, least / 16)).all()


def test_scales_are_powers_of_two_and_survive_bfloat16():
    """A cast of the whole model, as `.to(bfloat16)` is, must not move the weights by half a percent."""
    _, scale = quantise(torch.randn(64, 32) * torch.logspace(-8, 8, 64)[:, None])
    mantissa, _ = torch.frexp(scale)
    assert set(mantissa.flatten().tolist()) == {0.5}
    assert torch.equal(scale.to(torch.bfloat16).float(), scale)


def test_extremes_of_a_row():
    rows = torch.tensor([[448.0, 1.0], [511.9, 0.0], [0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [3e38, 1.0]])
    quantised, scale = quantise(rows)
    back = dequantise(quantised, scale, torch.float32)
    assert back[0].tolist() == [448.0, 1.0]
    assert back[1, 0] == 512.0, "rounded, not saturated"
    assert back[2].tolist() == [0.0, 0.0]
    assert not back[3:5, 0].isfinite().any(), "what is broken stays visible"
    assert back[5, 0] == pytest.approx(3e38, rel=1 / 16)


def test_a_row_does_not_depend_on_its_company():
    """Or a sample's ratio would depend on the batch that it is replayed in."""
    layer = Float8Linear(nn.Linear(64, 32))
    rows = torch.randn(6, 64) * torch.tensor([1, 1, 1, 1e4, 1e-4, 1])[:, None]
    together = layer(rows)
    alone = torch.cat([layer(row[None]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bias", [True, False])
def test_the_kernel_multiplies_the_same_numbers(bias):
    """The very call that a GPU gets; torch has it on CPUs too. It rounds to bfloat16."""
    layer = nn.Linear(64, 48, bias=bias)
    weight, weight_scale = quantise(layer.weight.detach())
    rows, row_scale = quantise(torch.randn(7, 64))
    bias_O = layer.bias.detach() if bias else None
    told = (rows, row_scale, weight, weight_scale, bias_O, torch.float32)
    plain, by_kernel = multiply(*told, kernel=False), multiply(*told, kernel=True)
    assert float((plain - by_kernel).norm() / plain.norm()) < 2**-8
    assert not has_kernel(torch.device("cpu"))


def test_the_gradient_is_that_of_the_quantised_weights_and_for_the_input_alone():
    layer = Float8Linear(nn.Linear(32, 16))
    rows = torch.randn(2, 3, 32, requires_grad=True)
    upstream = torch.randn(2, 3, 16)
    layer(rows).backward(upstream)
    expected = upstream @ dequantise(layer.weight.view(FLOAT8), layer.scale_O1, torch.float32)
    torch.testing.assert_close(rows.grad, expected)
    assert layer.weight.grad is None
    assert not layer.weight.requires_grad


def test_under_autocast_it_is_as_precise_as_a_layer_would_be():
    layer = Float8Linear(nn.Linear(32, 16))
    rows = torch.randn(3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(rows)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, layer(rows.to(torch.bfloat16)))


def test_only_projections_of_the_blocks_are_converted():
    transformer = make()
    converted = convert_base(transformer)
    names = layers(transformer)
    assert converted.layers == len(names) == 2 * 12
    assert all(name.endswith("base_layer") for name in names)
    kept = {name for name in layers(transformer, nn.Linear) if "lora_" not in name} - set(names)
    assert {name.split(".")[2] for name in kept if name.startswith("transformer_blocks")} == {"img_mod", "txt_mod"}
    assert {"img_in", "txt_in", "proj_out"} <= kept


def test_the_memory_of_the_weights_is_a_quarter_of_float32():
    transformer = make()
    before = sum(p.nbytes for p in transformer.parameters())
    converted = convert_base(transformer)
    after = sum(p.nbytes for p in transformer.parameters()) + sum(
        layer.scale_O1.nbytes for layer in layers(transformer).values()
    )
    assert converted.saved_mb * 2**20 == before - after
    weights = sum(layer.weight.numel() for layer in layers(transformer).values())
    assert converted.saved_mb * 2**20 == pytest.approx(3 * weights, rel=0.03)


@pytest.mark.parametrize("adapter_first", [True, False])
def test_an_adapter_sits_on_a_quantised_base(adapter_first):
    exact, quantised = make(), make(with_adapter=adapter_first)
    convert_base(quantised)
    if not adapter_first:
        put_adapter_on(quantised)
    assert all(p.dtype == torch.float32 for p in adapter_parameters(quantised))
    with torch.no_grad():
        off = float((velocity(quantised) - velocity(exact)).norm() / velocity(exact).norm())
    assert 1e-4 < off < 0.05
    gradient, expected = (torch.cat([g.flatten() for g in gradients(t)]) for t in (quantised, exact))
    assert float(torch.cosine_similarity(gradient, expected, 0)) > 0.99
    with reference(quantised), torch.no_grad():
        assert apart(velocity(quantised), velocity(exact)) > 0


def test_an_adapter_is_saved_from_one_quantised_base_and_loaded_on_another():
    trained, fresh = make(), make(with_adapter=False)
    for transformer in (trained, fresh):
        convert_base(transformer)
    load_adapter(fresh, adapter_bytes(trained, adapter_state(trained)))
    assert apart(velocity(trained), velocity(fresh)) == 0


def test_a_cast_of_the_model_leaves_the_weights_alone():
    transformer = make()
    convert_base(transformer)
    layer = transformer.transformer_blocks[0].attn.to_q.base_layer
    before = dequantise(layer.weight.view(FLOAT8), layer.scale_O1, torch.float32)
    layer.to(torch.bfloat16)
    assert layer.weight.dtype == torch.uint8
    assert torch.equal(dequantise(layer.weight.view(FLOAT8), layer.scale_O1, torch.float32), before)
    assert layer(torch.randn(2, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_what_cannot_be_converted_is_said():
    transformer = make()
    with pytest.raises(ValueError, match="no linear layer was left to convert"):
        convert_base(transformer, skip=("attn", "mlp", "mod"))
    transformer.transformer_blocks[0].attn.to_q.base_layer = nn.Linear(64, 40)
    with pytest.raises(ValueError, match=r"attn\.to_q\.base_layer is 64 to 40, not multiples of 16: name it in skip"):
        convert_base(transformer)


def test_what_a_conversion_changes_is_measured(tiny_editor_factory):
    """Also the ratios it would cause, which are of the size of a clip range: rollouts and updates must agree."""
    editor = tiny_editor_factory()
    config = replace(configs.tiny(), group_size=2)
    add_adapter(editor.transformer, config, 0)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        condition: Condition = editor.encode([picture] * 2, ["remove the cat"] * 2)
    converted, error = convert_measured(editor, condition, config)
    assert converted.layers == 24
    assert 0 < error.velocity <= error.worst_sample < 0.05
    assert 0 < error.ratio_deviation < 1e-2
