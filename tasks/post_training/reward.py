"""The pipeline's scorer as the reward of Flow-GRPO: here the two meet, and neither knows the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from storage.records import identity
from tasks.hp_scorer.contract import EditTriplet, Scorer
from training.editors.interface import Pixels
from training.reward import Reward


@dataclass(frozen=True)
class ScorerReward:
    """Scores of a rollout's images, see `training.reward.Reward`."""

    scorer: Scorer
    triplets: Mapping[str, EditTriplet]
    """By case, without an edited image."""

    def __call__(self, case_ids: Sequence[str], images: Sequence[Pixels]) -> list[float | None]:
        triplets = [replace(self.triplets[i], edited=image) for i, image in zip(case_ids, images, strict=True)]
        return [judgement.score for judgement in self.scorer.score(triplets)]


@dataclass(frozen=True)
class PermutedReward:
    """A control: the scores shuffled within each case, so that they say nothing about the images any more."""

    reward: Reward
    seed: int

    def __call__(self, case_ids: Sequence[str], images: Sequence[Pixels]) -> list[float | None]:
        scores = self.reward(case_ids, images)
        permuted = list(scores)
        for case_id in dict.fromkeys(case_ids):
            rows = [row for row, other in enumerate(case_ids) if other == case_id]
            # Seeded by the images themselves: a run that is resumed shuffles as it would have.
            seed = int(identity(self.seed, *(images[row].tobytes() for row in rows)), 16)
            for row, source in zip(rows, np.random.default_rng(seed).permutation(rows), strict=True):
                permuted[row] = scores[source]
        return permuted
