"""The pipeline's scorer as the reward of Flow-GRPO: here the two meet, and neither knows the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from storage.records import identity
from tasks.hp_scorer.contract import EditTriplet, Scorer
from tasks.post_training.score_journal import ScoreJournal
from training.editors.interface import Pixels
from training.reward import Reward


@dataclass(frozen=True)
class ScorerReward:
    """Scores of a rollout's images, see `training.reward.Reward`; what the journal knows is not asked for again."""

    scorer: Scorer
    triplets: Mapping[str, EditTriplet]
    """By case, without an edited image."""
    journal: ScoreJournal

    def __call__(self, case_ids: Sequence[str], images: Sequence[Pixels]) -> list[float | None]:
        known = [self.journal.known(case_id, image) for case_id, image in zip(case_ids, images, strict=True)]
        scores = [score for _, score in known]
        asked = [i for i, (is_known, _) in enumerate(known) if not is_known]
        triplets = (replace(self.triplets[case_ids[i]], edited=images[i]) for i in asked)
        for number, judgement in self.scorer.judgements(triplets):
            i = asked[number]
            scores[i] = judgement.score
            self.journal.keep(case_ids[i], images[i], judgement.outcome, judgement.score, judgement.raw_reply)
        return scores


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
