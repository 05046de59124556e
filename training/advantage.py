"""Group-relative advantages: how much better a sample is than the others of its case.

Axes: P cases, G samples per case. NaN is a reward whose score failed; it is left out, never taken for a low one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SPREAD_FLOOR = 1e-4
"""Added to the standard deviation, as in Flow-GRPO."""


def group_advantages(
    rewards_PG: Tensor, limit: float = 5.0, min_scored: int = 2, min_scored_share: float = 0.0
) -> Tensor:
    """(r - mean) / std within each group, clamped to [-limit, limit].

    Args:
        rewards_PG: (P, G) float32; NaN where the judge failed.
        limit: the clamp.
        min_scored, min_scored_share: a group with fewer scored samples gives no signal, see `has_signal`.

    Returns: (P, G) float32; 0 where a sample has no score or its group no signal (all rewards equal, too few
        scored), so that such samples add nothing to the loss. `has_signal` tells which groups those are.
    """
    scored_PG = ~torch.isnan(rewards_PG)
    count_P1 = scored_PG.sum(1, keepdim=True).clamp(min=1)
    filled_PG = torch.where(scored_PG, rewards_PG, torch.zeros_like(rewards_PG)).double()
    mean_P1 = filled_PG.sum(1, keepdim=True) / count_P1
    centred_PG = torch.where(scored_PG, filled_PG - mean_P1, torch.zeros_like(filled_PG))
    std_P1 = torch.sqrt((centred_PG**2).sum(1, keepdim=True) / count_P1)
    advantages_PG = (centred_PG / (std_P1 + SPREAD_FLOOR)).clamp(-limit, limit).float()
    signal_P = has_signal(rewards_PG, min_scored, min_scored_share)
    return torch.where(signal_P[:, None], advantages_PG, torch.zeros_like(advantages_PG))


def has_signal(rewards_PG: Tensor, min_scored: int = 2, min_scored_share: float = 0.0) -> Tensor:
    """(P,) bool: whether a group has enough scored samples and they differ.

    Args:
        rewards_PG: (P, G) float32; NaN where the judge failed.
        min_scored: the least number of scored samples. One alone differs from none, so 2 is the least that matters.
        min_scored_share: the least share of the group, in [0, 1], beside that number; 0.5 gives up groups of which
            more than half failed. What is left of such a group may be no fair sample: judges fail on odd images.
    """
    if not 0 <= min_scored_share <= 1:
        raise ValueError(f"min_scored_share {min_scored_share}: must be in [0, 1]")
    scored_PG = ~torch.isnan(rewards_PG)
    highest_P = torch.where(scored_PG, rewards_PG, rewards_PG.new_full((), -torch.inf)).amax(1)
    lowest_P = torch.where(scored_PG, rewards_PG, rewards_PG.new_full((), torch.inf)).amin(1)
    # Without the margin 0.28 of 25, which is 7.000000000000001, would ask for 8.
    required = max(min_scored, math.ceil(min_scored_share * rewards_PG.shape[1] - 1e-6))
    return (scored_PG.sum(1) >= required) & (highest_P - lowest_P > 1e-6)
