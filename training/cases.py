"""What is trained on, and which cases an iteration takes.

Every choice depends on (seed, iteration) and, where cases rest, on what was measured before: no generator is carried
along, so a run continues from its checkpoint exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.config import FlowGrpoConfig
from training.editors.interface import Condition
from training.rollout import generator_of

EASIEST = 1 / 3
"""The share of the cases that a curriculum begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCase:
    """One case to train on; what it looks like is the business of `Conditions`."""

    case_id: str
    edit_type: str
    difficulty: float = 1.0
    """What the baseline left to gain, in [0, 1]."""
    full_at: float = 5.0
    """Scores from here on count as full; the judge's own threshold."""


class Conditions(Protocol):
    """The encoded cases."""

    def __call__(self, case_ids: Sequence[str]) -> list[Condition]:
        """One condition of one sample per case, in order. Raises: KeyError for a case that was not encoded."""


class CaseSampler:
    """Picks the cases of each iteration."""

    def __init__(self, cases: Sequence[TrainingCase], config: FlowGrpoConfig) -> None:
        """Over cases in an order that is the same in every process and after every restart."""
        self.config = config
        self.difficulty = torch.tensor([case.difficulty for case in cases], dtype=torch.float64)
        self.rests_until = torch.zeros(len(cases), dtype=torch.long)
        """The iteration from which a case may be picked again."""

    def pick(self, iteration: int) -> list[int]:
        """Positions of `groups` cases."""
        config = self.config
        if not (config.difficulty_power or config.curriculum_share or config.rest_solved):
            return _shuffled_epochs(len(self.difficulty), config.groups, iteration, config.seed)
        # Efraimidis and Spirakis (2006): the largest of u^(1/w) are a sample without replacement, weighted by w.
        weights = self.difficulty.clamp(min=1e-3) ** config.difficulty_power
        drawn = torch.rand(len(weights), generator=generator_of(config.seed, iteration, 3), dtype=torch.float64)
        keys = drawn.clamp(min=1e-300).log() / weights
        open_, rests = self._open(iteration), (self.rests_until - iteration).clamp(min=0)
        # Open and awake ones first. Where they are too few, those that wake first, and only then what is not open yet.
        order = sorted(range(len(keys)), key=lambda i: (not open_[i], int(rests[i]), -float(keys[i])))
        return [order[i % len(order)] for i in range(config.groups)]

    def _open(self, iteration: int) -> Tensor:
        """Which cases the curriculum has reached: from the easiest to all."""
        config = self.config
        if not config.curriculum_share:
            return torch.ones(len(self.difficulty), dtype=torch.bool)
        progress = min(1.0, iteration / (config.curriculum_share * config.iterations))
        count = math.ceil(len(self.difficulty) * (EASIEST + (1 - EASIEST) * progress))
        open_ = torch.zeros(len(self.difficulty), dtype=torch.bool)
        open_[torch.argsort(self.difficulty, stable=True)[:count]] = True
        return open_

    def learn(self, iteration: int, positions: Sequence[int], solved: Sequence[bool]) -> None:
        """Online re-filtering: a case whose whole group got the full score rests, since it teaches nothing now."""
        for position, full in zip(positions, solved, strict=True):
            if full and self.config.rest_solved:
                self.rests_until[position] = iteration + 1 + self.config.rest_solved


def _shuffled_epochs(num_cases: int, groups: int, iteration: int, seed: int) -> list[int]:
    """A fresh shuffle per epoch: every case has its turn before any has two."""
    picked = []
    for position in range(iteration * groups, (iteration + 1) * groups):
        epoch, offset = divmod(position, num_cases)
        order = torch.randperm(num_cases, generator=generator_of(seed, epoch, 3))
        picked.append(int(order[offset]))
    return picked
