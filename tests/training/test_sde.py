"""The SDE step against PyTorch's own normal distribution, the ODE, and a problem with a known answer."""

import math
from itertools import pairwise

import pytest
import torch

from training import sde


def _random_step(seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents, velocity, noise = (torch.randn(5, 3, 4, generator=generator) for _ in range(3))
    t = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.2])
    return latents, velocity, noise, t, t - torch.tensor([0.1, 0.05, 0.2, 0.1, 0.15])


def test_log_probability_is_that_of_a_normal_distribution():
    latents, velocity, noise, t, t_next = _random_step()
    step = sde.step_distribution(latents, velocity, t, t_next, noise_level=0.7, t_limit=0.95)
    drawn = sde.sample(step, noise)
    expected = torch.distributions.Normal(step.mean_BNC, step.std_B[:, None, None]).log_prob(drawn).mean((1, 2))
    torch.testing.assert_close(sde.log_probability(step, drawn), expected, check_dtype=False)


def test_kl_is_that_of_two_normal_distributions():
    latents, velocity, noise, t, t_next = _random_step()
    policy = sde.step_distribution(latents, velocity, t, t_next, 0.7, 0.95)
    reference = sde.step_distribution(latents, velocity + 0.1 * noise, t, t_next, 0.7, 0.95)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(policy.mean_BNC, policy.std_B[:, None, None]),
        torch.distributions.Normal(reference.mean_BNC, reference.std_B[:, None, None]),
    ).mean((1, 2))
    torch.testing.assert_close(sde.kl_divergence(policy, reference), expected)


def test_with_hardly_any_noise_the_step_is_the_eulers():
    latents, velocity, noise, t, t_next = _random_step()
    step = sde.step_distribution(latents, velocity, t, t_next, noise_level=1e-5, t_limit=0.95)
    torch.testing.assert_close(sde.sample(step, noise), sde.ode_step(latents, velocity, t, t_next), atol=1e-4, rtol=0)


def test_a_pencil_example():
    """t = .5, t' = .4, a = 1: sigma = 1, mean = x (1 - .1) + v (1 + .5) (-.1), std = sqrt(.1)."""
    step = sde.step_distribution(
        torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 3.0), torch.tensor([0.5]), torch.tensor([0.4]), 1.0, 0.9
    )
    assert step.mean_BNC.item() == pytest.approx(2 * 0.9 + 3 * 1.5 * -0.1)
    assert step.std_B.item() == pytest.approx(math.sqrt(0.1))


def test_no_noise_is_refused():
    latents, velocity, _, t, t_next = _random_step()
    with pytest.raises(ValueError, match="noise_level 0"):
        sde.step_distribution(latents, velocity, t, t_next, noise_level=0, t_limit=0.95)


@pytest.mark.parametrize("noise_level", [0.4, 0.9])
def test_the_sde_keeps_the_marginals_of_the_ode(noise_level):
    """Data are N(m, s^2): then x_t is normal with known mean and variance at every t, whatever the noise level.

    The exact velocity of that problem is known, so the samples at t = 0 must be N(m, s^2) again.
    """
    m, s, samples, steps = 1.5, 0.5, 40_000, 400
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, 1, 1, generator=generator)
    times = torch.linspace(1, 0, steps + 1)
    for t, t_next in pairwise(times):
        variance = (1 - t) ** 2 * s**2 + t**2
        # E[noise - x_0 | x_t] of jointly normal variables.
        velocity = -m + (t - (1 - t) * s**2) / variance * (x - (1 - t) * m)
        t_B, t_next_B = t.expand(samples), t_next.expand(samples)
        if t_next == 0:
            x = sde.ode_step(x, velocity, t_B, t_next_B)
        else:
            step = sde.step_distribution(x, velocity, t_B, t_next_B, noise_level, t_limit=float(times[1]))
            x = sde.sample(step, torch.randn(x.shape, generator=generator))
    # Standard errors: .0025 of the mean, .0018 of the deviation; the rest is the step size.
    assert x.mean().item() == pytest.approx(m, abs=0.02)
    assert x.std().item() == pytest.approx(s, abs=0.02)


def test_the_log_probability_has_no_gradient_through_what_was_drawn():
    latents, velocity, noise, t, t_next = _random_step()
    velocity.requires_grad_()
    step = sde.step_distribution(latents, velocity, t, t_next, 0.7, 0.95)
    (gradient,) = torch.autograd.grad(sde.log_probability(step, sde.sample(step, noise)).sum(), velocity)
    assert gradient.abs().sum() > 0
