"""What is measured while training, per iteration and per edit type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


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

    @property
    def scored(self) -> tuple[float, ...]:
        """Without failures."""
        return tuple(score for score in self.scores if not math.isnan(score))

    @property
    def all_full(self) -> bool:
        """Whether every scored sample has the full score: nothing is left to learn."""
        return bool(self.scored) and min(self.scored) >= self.full_at

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
    """Samples without a score."""
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


def divergence(first: Sequence[float], second: Sequence[float]) -> float | None:
    """How far two judges have come apart since the run began, in points: the alarm for reward hacking.

    The gain of the first minus that of the second, each the mean of the last third less that of the first third.
    Around 0 while both see the same progress; large where only the judge that is the reward is pleased.

    Args:
        first, second: both judges' means on the same samples, one pair per look; NaN where one failed.

    Returns: None with fewer than six looks, which say nothing.
    """
    pairs = np.array([(a, b) for a, b in zip(first, second, strict=True) if not (math.isnan(a) or math.isnan(b))])
    third = len(pairs) // 3
    if third < 2:
        return None
    gains = pairs[-third:].mean(0) - pairs[:third].mean(0)
    return float(gains[0] - gains[1])
