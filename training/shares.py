"""What one optimiser step learns from: groups of samples, drawn in batches of one shape and handed to the judge.

Axes: G samples per group, B samples, K draws of noise, N tokens, C channels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from training.asking import Asker
from training.config import FlowGrpoConfig
from training.editors.interface import Condition, Pixels, TrainableEditor, join
from training.parallel import World
from training.reward import Reward
from training.rollout import Trajectory, draw_noise, joined, repeat_groups, roll_out, window_start
from training.update import Batch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Share:
    """Groups of this process, drawn; their scores are on the way."""

    positions: tuple[int, ...]
    """Of the groups within the iteration."""
    case_ids: tuple[str, ...]
    batches: Sequence[Batch]
    pictures: Sequence[Pixels]
    """G per group, groups in the order of the positions."""
    broken: frozenset[int]
    """Positions whose latents came out as no numbers; no judge is asked about them."""
    scores: Future[list[float | None]]
    """Of the groups that are not broken."""
    second_scores: Future[list[float | None]] | None
    """Of the first sample of each."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A reward and the thread that asks it."""

    reward: Reward
    asker: Asker

    def ask(self, case_ids: Sequence[str], images: Sequence[Pixels]) -> Future[list[float | None]]:
        """The scores, some time later."""
        return self.asker.submit(lambda: self.reward(case_ids, images))


def draw_share(
    editor: TrainableEditor,
    encoded: Mapping[int, tuple[str, Condition]],
    config: FlowGrpoConfig,
    iteration: int,
    judge: Judge,
    second_judge: Judge | None,
    lanes: int = 1,
    in_step: World | None = None,
) -> Share:
    """Draw the samples of some groups and hand them to the judge.

    Args:
        encoded: case and condition of each group, by its position within the iteration.
        second_judge: None where this iteration asks none.
        in_step: the processes that must make the same passes.
    """
    batched = list(_of_one_shape(encoded, config))
    if in_step is not None:  # of more shapes there are more batches: the others draw one of theirs again
        batched += batched[-1:] * (in_step.largest(len(batched)) - len(batched))
    batches: list[Batch] = []
    pictures: dict[int, Sequence[Pixels]] = {}
    broken = set()
    for some in batched:
        batch = draw_batch(editor, [encoded[position][1] for position in some], some, config, iteration, lanes)
        if some[0] in pictures:
            continue
        batches.append(batch)
        final_BNC = batch.trajectory.final_BNC
        drawn = editor.decode(final_BNC.nan_to_num(), batch.condition.shape)
        for i, position in enumerate(some):
            rows = slice(i * config.group_size, (i + 1) * config.group_size)
            pictures[position] = drawn[rows]
            if not bool(torch.isfinite(final_BNC[rows]).all()):
                broken.add(position)
                logger.warning(
                    "iteration %d: the samples of case %s are no numbers and are left out; encode it again",
                    iteration,
                    encoded[position][0],
                )
    whole = [position for position in encoded if position not in broken]
    images = [picture for position in whole for picture in pictures[position]]
    of_images = [encoded[position][0] for position in whole for _ in range(config.group_size)]
    seconds = [encoded[position][0] for position in whole]
    return Share(
        positions=tuple(encoded),
        case_ids=tuple(case_id for case_id, _ in encoded.values()),
        batches=batches,
        pictures=[picture for position in encoded for picture in pictures[position]],
        broken=frozenset(broken),
        scores=judge.ask(of_images, images),
        second_scores=second_judge.ask(seconds, images[:: config.group_size]) if second_judge else None,
    )


def draw_batch(
    editor: TrainableEditor,
    conditions: Sequence[Condition],
    positions: tuple[int, ...],
    config: FlowGrpoConfig,
    iteration: int,
    lanes: int,
) -> Batch:
    """Some groups of one shape; a group that is too large for one pass in parts, with their parts of the noise."""
    condition = join(conditions).to(editor.device)
    condition = condition.take(repeat_groups(range(len(conditions)), config.group_size))
    noise_KBNC = draw_noise(condition, config, iteration, positions)
    first = window_start(config, iteration)

    def part(rows_B: Tensor) -> Trajectory:
        return roll_out(editor, condition.take(rows_B), config, first, noise_KBNC[:, rows_B], lanes)

    parts = [part(rows_B) for rows_B in torch.arange(len(condition)).split(config.rollout_batch)]
    return Batch(positions, condition, joined(parts))


def _of_one_shape(encoded: Mapping[int, tuple[str, Condition]], config: FlowGrpoConfig) -> Iterator[tuple[int, ...]]:
    """The groups in batches of one shape, as many at once as a rollout may have."""
    at_once = max(1, config.rollout_batch // config.group_size)
    by_shape: dict[object, list[int]] = {}
    for position, (_, condition) in encoded.items():
        by_shape.setdefault(condition.shape, []).append(position)
    for some in by_shape.values():
        yield from (tuple(some[i : i + at_once]) for i in range(0, len(some), at_once))
