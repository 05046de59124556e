"""One sampling step: the ODE's, and the SDE's with the same marginals and a tractable log-probability.

Axes: B samples, N tokens, C channels. `t` runs from 1 (noise) to 0 (image), velocity v = noise - x_0, dt < 0.
Images and velocities in float32: rounding a trajectory to bfloat16 alone moves ratios by half a usual clip range.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class StepDistribution(NamedTuple):
    """The Gaussian that one SDE step draws from."""

    mean_BNC: Tensor
    std_B: Tensor
    """Per sample, > 0; the diffusion coefficient times sqrt(-dt)."""


def ode_step(latents_BNC: Tensor, velocity_BNC: Tensor, t_B: Tensor, t_next_B: Tensor) -> Tensor:
    """An Euler step of dx = v dt."""
    return latents_BNC + velocity_BNC * _column(t_next_B - t_B)


def step_distribution(
    latents_BNC: Tensor, velocity_BNC: Tensor, t_B: Tensor, t_next_B: Tensor, noise_level: float, t_limit: float
) -> StepDistribution:
    """The distribution of x at t_next under the Flow-SDE.

    drift = v + sigma_t^2 / (2 t) * (x_t + (1 - t) v),  sigma_t = noise_level * sqrt(t / (1 - t)).

    Args:
        latents_BNC, velocity_BNC: x_t and v(x_t, t), float32.
        t_B, t_next_B: in (0, 1], t_next < t.
        noise_level: a in the paper's sigma_t; 0 would make the step an ODE's, which has no density.
        t_limit: stands for t in 1 - t where t is 1, so that sigma stays finite: the first time below 1.

    Source: HP-Edit, task-aware Flow-GRPO; Flow-GRPO (arXiv 2505.05470), equation 9.
    """
    if noise_level <= 0:
        raise ValueError(f"noise_level {noise_level}: an SDE step needs noise; use ode_step without")
    dt_B = t_next_B - t_B
    sigma_B = noise_level * torch.sqrt(t_B / (1 - torch.where(t_B >= 1, torch.full_like(t_B, t_limit), t_B)))
    correction_B = sigma_B**2 / (2 * t_B)
    mean_BNC = latents_BNC * _column(1 + correction_B * dt_B) + velocity_BNC * _column(
        (1 + correction_B * (1 - t_B)) * dt_B
    )
    return StepDistribution(mean_BNC, sigma_B * torch.sqrt(-dt_B))


def sample(distribution: StepDistribution, noise_BNC: Tensor) -> Tensor:
    """mean + std * noise."""
    return distribution.mean_BNC + _column(distribution.std_B) * noise_BNC


def log_probability(distribution: StepDistribution, drawn_BNC: Tensor) -> Tensor:
    """log N(drawn; mean, std), **averaged** over tokens and channels, (B,) float64.

    The average, not the sum, is what clip ranges of 1e-5 to 1e-4 refer to (Flow-GRPO's convention).
    """
    # Ratios differ from 1 by 1e-6, which a float32 near 1 hardly resolves: the averages are taken in float64.
    std_B = distribution.std_B.double()
    squared_B = ((drawn_BNC.detach() - distribution.mean_BNC) ** 2).flatten(1).mean(1, dtype=torch.float64)
    return -squared_B / (2 * std_B**2) - torch.log(std_B) - 0.5 * math.log(2 * math.pi)


def kl_divergence(policy: StepDistribution, reference: StepDistribution) -> Tensor:
    """Exact KL(policy || reference) of two steps with one std, averaged over tokens and channels, (B,) float32.

    |mean - mean'|^2 / (2 std^2), where std contains sqrt(-dt). Flow-GRPO's code omits that factor, so its weights
    do not carry over.
    """
    squared_B = ((policy.mean_BNC - reference.mean_BNC) ** 2).flatten(1).mean(1)
    return squared_B / (2 * policy.std_B**2)


def _column(values_B: Tensor) -> Tensor:
    return values_B[:, None, None]
