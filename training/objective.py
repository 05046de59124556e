"""The clipped policy objective of GRPO, one number per sample and step."""

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


def policy_loss(log_prob_B: Tensor, old_log_prob_B: Tensor, advantage_B: Tensor, ratio_clip: float) -> PolicyLoss:
    """-E[min(A r, A clip(r, 1 - eps, 1 + eps))], r = exp(log p - log p_old).

    Args:
        log_prob_B: mean log-probabilities under the policy, with gradient.
        old_log_prob_B: those under the policy that drew the samples.
        advantage_B: group-relative advantages.
        ratio_clip: eps; about 1e-5 to 1e-3 on the scale of *mean* log-probabilities.

    Source: PPO (arXiv 1707.06347), equation 7, as in Flow-GRPO.
    """
    # The bound keeps exp() finite after a wild update; a usual log-ratio is below 1e-2.
    ratio_B = torch.exp((log_prob_B - old_log_prob_B).clamp(-5, 5))
    plain_B = advantage_B * ratio_B
    clipped_B = advantage_B * ratio_B.clamp(1 - ratio_clip, 1 + ratio_clip)
    held_back_B = clipped_B < plain_B
    return PolicyLoss(-torch.minimum(plain_B, clipped_B).mean(), held_back_B.float().mean(), ratio_B.detach())
