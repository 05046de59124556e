"""The gate refuses what would train something else than the reward."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.encoded_here import EncodedHere
from training import config as configs
from training import gate, sde, shares
from training.cases import TrainingCase
from training.lora import adapter_parameters, add_adapter


@pytest.fixture
def ready(tiny_editor_factory):
    editor = tiny_editor_factory()
    add_adapter(editor.transformer, configs.tiny(), 0)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    conditions = EncodedHere(editor, {"a": (picture, "blur the background")})
    return editor, [TrainingCase(case_id="a", edit_type="bokeh")], conditions


def test_it_passes_and_leaves_the_editor_as_it_was(ready):
    editor, cases, conditions = ready
    before = [p.detach().clone() for p in adapter_parameters(editor.transformer)]
    measured = gate.check(editor, cases, conditions, configs.tiny())
    assert measured["ratio deviation"] < 1e-5
    assert measured["KL gradient"] > 0
    after = adapter_parameters(editor.transformer)
    assert all(torch.equal(b, a) for b, a in zip(before, after, strict=True))


def test_rounded_trajectories_are_refused(ready, monkeypatch):
    """Latents kept in bfloat16 while log-probabilities are computed in float32 move every ratio."""
    editor, cases, conditions = ready
    roll_out = shares.roll_out

    def rounded(*args, **kwargs):
        trajectory = roll_out(*args, **kwargs)
        trajectory.next_SBNC.copy_(trajectory.next_SBNC.bfloat16().float())
        return trajectory

    monkeypatch.setattr(shares, "roll_out", rounded)
    with pytest.raises(gate.GateError, match="ratios deviate"):
        gate.check(editor, cases, conditions, configs.tiny())


def test_a_kl_without_gradient_is_refused(ready, monkeypatch):
    editor, cases, conditions = ready
    kl = sde.kl_divergence
    monkeypatch.setattr(gate.sde, "kl_divergence", lambda policy, base: kl(policy, base).detach().requires_grad_())
    with pytest.raises(gate.GateError, match="no gradient"):
        gate.check(editor, cases, conditions, configs.tiny())


def test_a_model_that_answers_differently_each_time_is_refused(ready):
    editor, cases, conditions = ready
    velocity = editor.velocity
    editor.velocity = lambda x, t, c: velocity(x, t, c) + 2e-2 * torch.randn_like(x)
    with pytest.raises(gate.GateError, match="ratios deviate"):
        gate.check(editor, cases, conditions, configs.tiny())


def test_an_adapter_that_is_not_zero_at_first_is_refused(ready):
    editor, cases, conditions = ready
    with torch.no_grad():
        for parameter in adapter_parameters(editor.transformer):
            parameter.add_(0.05)
    with pytest.raises(gate.GateError, match="fresh adapter moves the editor"):
        gate.check(editor, cases, conditions, configs.tiny())


def test_an_unfrozen_base_is_refused(ready):
    editor, cases, conditions = ready
    next(p for p in editor.transformer.parameters() if not p.requires_grad).requires_grad_(True)
    with pytest.raises(gate.GateError, match="trainable"):
        gate.check(editor, cases, conditions, configs.tiny())


def test_a_rounded_adapter_is_refused(ready):
    editor, cases, conditions = ready
    for parameter in adapter_parameters(editor.transformer):
        parameter.data = parameter.data.double()
    with pytest.raises((gate.GateError, RuntimeError)):
        gate.check(editor, cases, conditions, configs.tiny())


def test_a_model_that_depends_on_the_size_of_the_batch_is_refused(ready):
    """Two samples alone would look well: the run has larger batches, and the gate uses those."""
    editor, cases, conditions = ready
    velocity = editor.velocity
    editor.velocity = lambda x, t, c: velocity(x, t, c) * (1.01 if len(x) > 12 else 1.0)
    config = replace(configs.tiny(), group_size=8, rollout_batch=8)
    with pytest.raises(gate.GateError, match=r"ratios deviate.*old_log_prob \"replay\" helps"):
        gate.check(editor, cases, conditions, config)
    assert gate.check(editor, cases, conditions, replace(config, old_log_prob="replay"))["ratio deviation"] < 1e-6
