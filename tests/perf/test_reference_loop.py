"""The plain loop and the real one, from the same noise: the same samples, losses and gradients."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from perf.reference_loop import roll_out_singly, update_singly
from training import config as configs
from training.editors.interface import join
from training.lora import adapter_parameters, add_adapter
from training.rollout import draw_noise, generator_of, repeat_groups, roll_out
from training.update import Batch, gradients_of, with_replayed_log_prob

INSTRUCTIONS = ("remove the cat", "make the large blue ball in the middle of it red")
CONFIG = replace(configs.tiny(), groups=2, group_size=3, kl_weight=0.3, num_steps=5, micro_batch=4)
FIRST = 1
ADVANTAGES_B = torch.tensor([1.3, -0.2, 1.1, 0.8, -0.6, -1.4])
"""Not balanced, or a loss of nearly zero would be compared."""


@pytest.fixture(params=["flow", "cps"])
def config(request):
    return replace(CONFIG, sde=request.param, noise_level=0.6)


@pytest.fixture
def editor(tiny_editor_factory):
    """With an adapter that already does something: at first the reference is the policy, and no KL has a gradient."""
    editor = tiny_editor_factory()
    parameters = add_adapter(editor.transformer, CONFIG, 0)
    with torch.no_grad():
        for number, parameter in enumerate(parameters):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator_of(7, number)))
    return editor


def sources():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (len(INSTRUCTIONS), 32, 48, 3), dtype=np.uint8)


def rolled_out(editor, config):
    """By the real loop's parts, and by the plain loop, from one noise."""
    cases = list(zip(sources(), INSTRUCTIONS, strict=True))
    with torch.no_grad():
        encoded = join([editor.encode([source], [instruction]) for source, instruction in cases])
    condition = encoded.take(repeat_groups(range(len(cases)), config.group_size))
    noise_KBNC = draw_noise(condition, config, 3, range(len(cases)))
    trajectory = roll_out(editor, condition, config, FIRST, noise_KBNC)
    encoders = [partial(editor.encode, [s], [i]) for s, i in cases for _ in range(config.group_size)]
    samples = roll_out_singly(editor, encoders, config, FIRST, noise_KBNC)
    return Batch(tuple(range(len(cases))), condition, trajectory), samples


def change(editor):
    """As an optimiser step would: ratios are not 1 any more."""
    with torch.no_grad():
        for number, parameter in enumerate(adapter_parameters(editor.transformer)):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator_of(8, number)))


def test_samples_are_the_same(editor, config):
    batch, samples = rolled_out(editor, config)
    trajectory = batch.trajectory
    torch.testing.assert_close(torch.cat([s.final_1NC for s in samples]), trajectory.final_BNC, atol=1e-4, rtol=1e-4)
    for number in range(config.window_length):
        states_BNC = torch.cat([sample.steps[number].state_1NC for sample in samples])
        torch.testing.assert_close(states_BNC, trajectory.states_SBNC[number], atol=1e-4, rtol=1e-4)
        old_B = torch.cat([sample.old_log_prob_1[number] for sample in samples])
        torch.testing.assert_close(old_B, trajectory.log_prob_SB[number], atol=1e-5, rtol=1e-5)
    pictures = editor.decode(trajectory.final_BNC, batch.condition.shape)
    difference = [np.abs(s.image.astype(int) - p).max() for s, p in zip(samples, pictures, strict=True)]
    assert max(difference) <= 1


@pytest.mark.parametrize("updated", [False, True], ids=["on-policy", "off-policy"])
def test_losses_and_gradients_are_the_same(editor, config, updated):
    config = replace(config, ratio_clip=4e-6, ratio_clip_high=8e-6) if updated else config
    batch, samples = rolled_out(editor, config)
    if updated:
        change(editor)
    gradients, measured = gradients_of(editor, [(batch, ADVANTAGES_B)], len(samples), config)
    update = update_singly(editor, samples, ADVANTAGES_B, config)
    if updated:
        assert 0.1 < measured.clipped / measured.steps < 0.9
    assert update.loss == pytest.approx(measured.loss / measured.steps, rel=1e-5)
    assert update.kl == pytest.approx(measured.kl / measured.steps, rel=1e-5)
    assert_close(update.gradients, gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


def assert_close(ours, theirs):
    """Relative to the whole gradient: a few of its parts are zero but for rounding."""
    ours, theirs = (torch.cat([gradient.flatten() for gradient in some]) for some in (ours, theirs))
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_probabilities_of_the_rollout_or_computed_again(editor, config):
    batch, samples = rolled_out(editor, config)
    again = with_replayed_log_prob(editor, batch, config).trajectory.log_prob_SB
    ours = torch.stack([torch.cat(sample.old_log_prob_1) for sample in samples], dim=1)
    torch.testing.assert_close(ours, again, atol=1e-5, rtol=1e-5)


def test_without_a_weight_the_reference_is_looked_at_in_vain(editor, config):
    config = replace(config, kl_weight=0.0)
    batch, samples = rolled_out(editor, config)
    gradients, measured = gradients_of(editor, [(batch, ADVANTAGES_B)], len(samples), config)
    update = update_singly(editor, samples, ADVANTAGES_B, config)
    assert update.kl > 0
    assert np.isnan(measured.kl)
    assert_close(update.gradients, gradients)


def test_gradients_are_left_for_an_optimiser_and_do_not_pile_up(editor, config):
    _, samples = rolled_out(editor, config)
    first, second = (update_singly(editor, samples, ADVANTAGES_B, config).gradients for _ in range(2))
    assert_close(first, second)
    assert all(
        parameter.grad is gradient
        for parameter, gradient in zip(adapter_parameters(editor.transformer), second, strict=True)
    )


def test_a_correction_of_ratios_is_refused(editor):
    with pytest.raises(ValueError, match="ratio_correction"):
        roll_out_singly(editor, [], replace(CONFIG, ratio_correction=True), FIRST, torch.zeros(3, 0, 1, 1))
