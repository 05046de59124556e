"""The pipeline's scorer as the reward of Flow-GRPO: here the two meet, and neither knows the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from storage.records import identity
from tasks.hp_scorer.contract import EditTriplet, Scorer
from training.editors.interface import Pixels


@dataclass(frozen=True)
class ScorerReward:
    """Scores of a rollout's images, see `training.reward.Reward`."""

    scorer: Scorer
    triplets: Mapping[str, EditTriplet]
    """By case, without an edited image."""
    permute_seed: int | None = None
    """A control: shuffle the scores within each case, so that they say nothing about the images any more."""

    def __call__(self, case_ids: Sequence[str], images: Sequence[Pixels]) -> list[float | None]:
        triplets = [replace(self.triplets[i], edited=image) for i, image in zip(case_ids, images, strict=True)]
        scores = [judgement.score for judgement in self.scorer.score(triplets)]
        return scores if self.permute_seed is None else self._permuted(case_ids, images, scores)

    def _permuted(
        self, case_ids: Sequence[str], images: Sequence[Pixels], scores: list[float | None]
    ) -> list[float | None]:
        permuted = list(scores)
        for case_id in dict.fromkeys(case_ids):
            rows = [row for row, other in enumerate(case_ids) if other == case_id]
            # Seeded by the images themselves: a run that is resumed shuffles as it would have.
            seed = int(identity(self.permute_seed, *(images[row].tobytes() for row in rows)), 16)
            for row, source in zip(rows, np.random.default_rng(seed).permutation(rows), strict=True):
                permuted[row] = scores[source]
        return permuted
