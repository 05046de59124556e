"""One sampling step: the ODE's, and noisy ones with a tractable log-probability.

Axes: B samples, N tokens, C channels. `t` runs from 1 (noise) to 0 (image), velocity v = noise - x_0, dt < 0.
Images and velocities in float32: rounding a trajectory to bfloat16 alone moves ratios by half a usual clip range.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Sde(StrEnum):
    """How a trained step adds its noise."""

    FLOW = "flow"
    """Flow-GRPO's. As steps get smaller it has the ODE's marginals at any noise level; few steps leave too much noise
    (ten steps, level 0.7, data of variance 1: at t = 0.8 the variance is 19 % too large)."""
    CPS = "cps"
    """Coefficient-preserving: image and noise, as predicted, keep the weights 1 - t and t, so that no grain is left.
    It has the ODE's marginals only where x_t tells x_0, and elsewhere narrower ones, however small the steps, for a
    step's noise does not shrink with it (same data, level 0.8: at t = 0.4 the variance is 36 % too small with ten
    steps, 27 % with a thousand)."""


class StepDistribution(NamedTuple):
    """The Gaussian that one noisy step draws from."""

    mean_BNC: Tensor
    std_B: Tensor
    """Per sample, > 0; for FLOW the diffusion coefficient times sqrt(-dt)."""


def ode_step(latents_BNC: Tensor, velocity_BNC: Tensor, t_B: Tensor, t_next_B: Tensor) -> Tensor:
    """An Euler step of dx = v dt."""
    return latents_BNC + velocity_BNC * _column(t_next_B - t_B)


def step_distribution(
    latents_BNC: Tensor,
    velocity_BNC: Tensor,
    t_B: Tensor,
    t_next_B: Tensor,
    noise_level: float,
    t_limit: float,
    sde: Sde = Sde.FLOW,
) -> StepDistribution:
    """The distribution of x at t_next.

    Args:
        latents_BNC, velocity_BNC: x_t and v(x_t, t), float32.
        t_B, t_next_B: in (0, 1], t_next < t. The last step, to t_next = 0, is the ODE's.
        noise_level: > 0; 0 would make the step an ODE's, which has no density. For FLOW a in the paper's sigma_t; for
            CPS eta, at most 1, where all noise is drawn afresh. The two scales have nothing in common.
        t_limit: FLOW alone: stands for t in 1 - t where t is 1, so that sigma stays finite: the first time below 1.
        sde: which noise.

    Raises: ValueError where the step has no density, or one that no image should be drawn from.
    """
    if not noise_level > 0:
        raise ValueError(f"noise_level {noise_level}: an SDE step needs noise; use ode_step without")
    if not bool(((t_next_B > 0) & (t_next_B < t_B)).all()):
        raise ValueError(
            f"t {t_B.tolist()}, t_next {t_next_B.tolist()}: must be 0 < t_next < t; take the last step with ode_step, "
            "since a step to t_next 0 has no density (cps) or leaves its noise in the image (flow)"
        )
    match Sde(sde):
        case Sde.FLOW:
            return _flow_step(latents_BNC, velocity_BNC, t_B, t_next_B, noise_level, t_limit)
        case Sde.CPS:
            return _cps_step(latents_BNC, velocity_BNC, t_B, t_next_B, noise_level)


def _flow_step(
    latents_BNC: Tensor, velocity_BNC: Tensor, t_B: Tensor, t_next_B: Tensor, noise_level: float, t_limit: float
) -> StepDistribution:
    """drift = v + sigma_t^2 / (2 t) * (x_t + (1 - t) v),  sigma_t = noise_level * sqrt(t / (1 - t)).

    Source: HP-Edit, task-aware Flow-GRPO; Flow-GRPO (arXiv 2505.05470), equation 9.
    """
    if not 0 < t_limit < 1:
        raise ValueError(f"t_limit {t_limit}: must be in (0, 1), the first sampling time below 1")
    dt_B = t_next_B - t_B
    sigma_B = noise_level * torch.sqrt(t_B / (1 - torch.where(t_B >= 1, torch.full_like(t_B, t_limit), t_B)))
    correction_B = sigma_B**2 / (2 * t_B)
    mean_BNC = latents_BNC * _column(1 + correction_B * dt_B) + velocity_BNC * _column(
        (1 + correction_B * (1 - t_B)) * dt_B
    )
    return StepDistribution(mean_BNC, sigma_B * torch.sqrt(-dt_B))


def _cps_step(
    latents_BNC: Tensor, velocity_BNC: Tensor, t_B: Tensor, t_next_B: Tensor, noise_level: float
) -> StepDistribution:
    """mean = (1 - t') x_0 + sqrt(t'^2 - std^2) x_1,  std = t' sin(noise_level pi / 2).

    x_0 = x_t - t v and x_1 = x_t + (1 - t) v are the image and the noise that the velocity predicts; t' is t_next.

    Source: Coefficients-Preserving Sampling (arXiv 2509.05952), as in Flow-GRPO's code.
    """
    if noise_level > 1:
        raise ValueError(f"noise_level {noise_level}: CPS takes (0, 1]; beyond 1 the sine falls again")
    # sqrt(t'^2 - std^2) in a form that cannot become the root of a rounding error below 0.
    kept_B = t_next_B * math.cos(noise_level * math.pi / 2)
    mean_BNC = latents_BNC * _column(1 - t_next_B + kept_B) + velocity_BNC * _column(
        kept_B * (1 - t_B) - (1 - t_next_B) * t_B
    )
    return StepDistribution(mean_BNC, t_next_B * math.sin(noise_level * math.pi / 2))


def sample(distribution: StepDistribution, noise_BNC: Tensor) -> Tensor:
    """mean + std * noise."""
    return distribution.mean_BNC + _column(distribution.std_B) * noise_BNC


def log_probability(distribution: StepDistribution, drawn_BNC: Tensor) -> Tensor:
    """log N(drawn; mean, std), **averaged** over tokens and channels, (B,) float64.

    The average, not the sum, is what clip ranges of 1e-5 to 1e-4 refer to (Flow-GRPO's convention).

    A true density for either noise, so that ratios, KL and `Guard` mean the same. Published code has for CPS
    -(drawn - mean)^2 alone, which is 2 std^2 times this: its clip range eps is eps / (2 std^2) here, another one at
    every step (noise level 0.8: 0.7 eps to 2.2 eps for t_next from 0.9 to 0.5), and its loss weighs steps by 2 std^2.
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
