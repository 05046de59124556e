"""From a judge's score to the reward of reinforcement learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from training.config import REWARD_SHIFT, REWARD_SLOPE
from training.editors.interface import Pixels


class Reward(Protocol):
    """Scores the edits of a rollout; what it is made of is not training's business."""

    def __call__(self, case_ids: Sequence[str], images: Sequence[Pixels]) -> list[float | None]:
        """One score in [0, 5] per image, or None where the judge failed: missing, never a number."""


def scores_to_tensor(scores: Sequence[float | None]) -> Tensor:
    """(B,) float32 with NaN for missing scores. Raises: ValueError outside [0, 5]."""
    for position, score in enumerate(scores):
        if score is not None and not 0 <= score <= 5:
            raise ValueError(f"score {score} of sample {position} is outside [0, 5]")
    return torch.tensor([float("nan") if score is None else score for score in scores], dtype=torch.float32)


def rewards_of(scores: Tensor, slope: float = REWARD_SLOPE, shift: float = REWARD_SHIFT) -> Tensor:
    """r = sigmoid(slope * s - shift), elementwise, in (0, 1); a missing score (NaN) stays missing.

    Source: HP-Edit, task-aware Flow-GRPO.
    """
    return torch.sigmoid(slope * scores - shift)
