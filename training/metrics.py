"""What is measured while training, per iteration and per edit type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from training.advantage import has_signal
from training.config import FlowGrpoConfig
from training.reward import rewards_of
from training.update import Measured


@dataclass(frozen=True, slots=True)
class GroupScores:
    """The scores of one case's samples."""

    case_id: str
    edit_type: str
    scores: tuple[float, ...]
    """NaN where the judge failed."""
    full_at: float
    second_score: float = math.nan
    """Of the first sample by a second judge; NaN where none was asked, or it failed."""

    broken: bool = False
    """Whether its samples were no numbers, so that no judge was asked."""

    @property
    def scored(self) -> tuple[float, ...]:
        """Without failures."""
        return tuple(score for score in self.scores if not math.isnan(score))

    @property
    def all_full(self) -> bool:
        """Whether every sample has the full score, and no score is missing: nothing is left to learn."""
        return len(self.scored) == len(self.scores) and min(self.scored) >= self.full_at

    @property
    def without_spread(self) -> bool:
        """Whether all scored samples have one score: nothing can be learnt."""
        return bool(self.scored) and max(self.scored) == min(self.scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """How much is left to learn of one edit type, in one iteration."""

    groups: int
    full_groups: int
    """Groups in which every sample has the full score."""
    flat_groups: int
    """Groups whose samples all have one score, those among them."""
    score: float
    """Mean of the scored samples; NaN if there is none."""
    missing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One iteration in numbers."""

    iteration: int
    score: float
    """Mean score of the samples that were scored, 0 to 5; NaN if none was."""
    reward: float
    """Mean reward, in (0, 1)."""
    full_share: float
    """Share of scored samples with the full score."""
    no_signal_share: float
    """Share of groups that are left out of the update: all alike, or too few of them scored."""
    missing: int
    """Samples without a score, of those that a judge was asked about."""
    broken: int
    """Groups whose samples were no numbers."""
    loss: float
    clipped_share: float
    """Share of trained steps that the clip holds back, over all updates."""
    kl: float
    """Mean exact KL to the reference per trained step; NaN without a KL weight, when nobody looks."""
    ratio_deviation: float
    """Largest |ratio - 1| in the first, on-policy update: a check on the replay."""
    gradient_norm: float
    second_score: float
    """Of a second judge, on one sample per group; NaN where none was asked."""
    score_there: float
    """The first judge's mean on those very samples."""
    seconds_encode: float
    seconds_rollout: float
    seconds_reward: float
    """Of waiting for the judge; what overlaps with rollouts and updates does not count."""
    seconds_update: float
    by_edit_type: Mapping[str, Saturation] = field(default_factory=dict)


def saturation(groups: Sequence[GroupScores]) -> dict[str, Saturation]:
    """By edit type, those that have groups."""
    found = {}
    for edit_type in sorted({group.edit_type for group in groups}):
        some = [group for group in groups if group.edit_type == edit_type]
        scores = [score for group in some for score in group.scored]
        found[edit_type] = Saturation(
            groups=len(some),
            full_groups=sum(group.all_full for group in some),
            flat_groups=sum(group.without_spread for group in some),
            score=float(np.mean(scores)) if scores else math.nan,
            missing=sum(len(group.scores) - len(group.scored) for group in some),
        )
    return found


def scores_PG(groups: Sequence[GroupScores]) -> Tensor:
    """NaN where a score is missing."""
    return torch.tensor([group.scores for group in groups], dtype=torch.float32)


def metrics_of(
    iteration: int,
    groups: Sequence[GroupScores],
    updates: Sequence[tuple[Measured, float]],
    config: FlowGrpoConfig,
    seconds: Mapping[str, float],
) -> Metrics:
    """Of one iteration.

    Args:
        updates: what was measured of each, and the norm of its gradient.
        seconds: by what they were spent on.
    """
    scores = [score for group in groups for score in group.scored]
    full = [score >= group.full_at for group in groups for score in group.scored]
    rewards_PG = rewards_of(scores_PG(groups), config.reward_slope, config.reward_shift)
    signal_P = has_signal(rewards_PG, min_scored_share=config.min_scored_share)
    looked_at = [group for group in groups if not np.isnan([group.second_score, group.scores[0]]).any()]
    steps = sum(measured.steps for measured, _ in updates)

    def per_step(values: Sequence[float]) -> float:
        return sum(values) / steps if steps else 0.0

    return Metrics(
        iteration=iteration,
        score=_mean(scores),
        reward=float(rewards_PG.nanmean()),
        full_share=_mean(full),
        no_signal_share=float((~signal_P).float().mean()),
        missing=sum(len(group.scores) - len(group.scored) for group in groups if not group.broken),
        broken=sum(group.broken for group in groups),
        loss=per_step([measured.loss for measured, _ in updates]),
        clipped_share=per_step([measured.clipped for measured, _ in updates]),
        kl=per_step([measured.kl for measured, _ in updates]),
        ratio_deviation=updates[0][0].ratio_deviation if updates else 0.0,
        gradient_norm=_mean([norm for _, norm in updates]) if updates else 0.0,
        second_score=_mean([group.second_score for group in looked_at]),
        score_there=_mean([group.scores[0] for group in looked_at]),
        **{f"seconds_{what}": spent for what, spent in seconds.items()},
        by_edit_type=saturation(groups),
    )


def _mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")
