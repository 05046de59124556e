"""The clipped policy objective of GRPO, one number per sample and step.

Axes: B samples, or samples times steps: each row is one drawn step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """The loss and what to watch while it falls."""

    loss: Tensor
    """Scalar, to be minimised."""
    clipped_share: Tensor
    """Scalar in [0, 1]: samples whose ratio the clip holds back (it acts on the loss, not merely on the ratio)."""
    ratio: Tensor
    """(B,), detached."""


class Guard(NamedTuple):
    """What GRPO-Guard has to know of each step, to put the ratios of all steps on one scale around 1.

    With drawn = mean_old + std * noise and a policy whose mean lies apart by delta, the log-ratio of *mean*
    log-probabilities is -mean(delta^2) / (2 std^2) + mean(noise * delta) / std. Its first part grows with every
    update, and unlike a sum's it is not balanced by the spread of the second: ratios fall below 1, so the clip never
    holds back a sample that is pushed too far up. Both parts also depend on the step's std. Adding the first and
    multiplying by std leaves mean(noise * delta): no bias, and at every step the spread rms(delta) / sqrt(N * C).

    Source: GRPO-Guard (arXiv 2510.22319), whose sqrt(-dt) * sigma_t is `std_B`.
    """

    kl_B: Tensor
    """(B,) mean(delta^2) / (2 std^2), with gradient: `sde.kl_divergence` of the policy and the one that drew."""
    std_B: Tensor
    """(B,) of the steps, `StepDistribution.std_B`."""
    duration_B: Tensor
    """(B,) t - t_next > 0. The mean follows the velocity in proportion to it, so a step's loss is divided by it: under
    the Flow-SDE each then has the same gradient with respect to its velocity. (Not under CPS, whose mean does not.)"""


def policy_loss(
    log_prob_B: Tensor,
    old_log_prob_B: Tensor,
    advantage_B: Tensor,
    ratio_clip: float,
    ratio_clip_high: float | None = None,
    guard: Guard | None = None,
) -> PolicyLoss:
    """-E[w min(A r, A clip(r, 1 - eps, 1 + eps_high))], r = exp(log p - log p_old), w = 1.

    With a guard r = exp((log p - log p_old + KL) * std) and w = 1 / (t - t_next).

    Args:
        log_prob_B: mean log-probabilities under the policy, with gradient.
        old_log_prob_B: those under the policy that drew the samples.
        advantage_B: group-relative advantages.
        ratio_clip: eps; about 1e-5 to 1e-3 on the scale of *mean* log-probabilities, 2e-6 with a guard (its paper's).
        ratio_clip_high: eps_high where it differs from eps; EditScore clips to [1 - 1e-4, 1 + 5e-4].
        guard: None leaves ratios as they are. With it the loss is std / (t - t_next) times as steep, which a KL weight
            and a bound on the gradient's norm have to follow.

    Source: PPO (arXiv 1707.06347), equation 7, as in Flow-GRPO; the guard from GRPO-Guard (arXiv 2510.22319).
    """
    log_ratio_B = log_prob_B - old_log_prob_B
    if guard is not None:
        log_ratio_B = (log_ratio_B + guard.kl_B) * guard.std_B
    # The bound keeps exp() finite after a wild update; a usual log-ratio is below 1e-2.
    ratio_B = torch.exp(log_ratio_B.clamp(-5, 5))
    high = ratio_clip if ratio_clip_high is None else ratio_clip_high
    plain_B = advantage_B * ratio_B
    clipped_B = advantage_B * ratio_B.clamp(1 - ratio_clip, 1 + high)
    held_back_B = clipped_B < plain_B
    gain_B = torch.minimum(plain_B, clipped_B)
    if guard is not None:
        gain_B = gain_B / guard.duration_B
    return PolicyLoss(-gain_B.mean(), held_back_B.float().mean(), ratio_B.detach())
