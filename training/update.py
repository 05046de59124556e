"""The gradient of one update: replay the trained steps, weigh them by their advantages, stay near the reference.

Axes: B samples, S trained steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from training import sde
from training.config import FlowGrpoConfig
from training.editors.interface import Condition, TrainableEditor
from training.lanes import add_up, map_lanes
from training.lora import adapter_parameters, reference
from training.objective import Guard, policy_loss
from training.parallel import World
from training.rollout import Trajectory, replay


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one shape that were rolled out together, whole groups in order."""

    groups: tuple[int, ...]
    """Their positions within the iteration."""
    condition: Condition
    trajectory: Trajectory

    def take(self, indices: Tensor) -> Batch:
        """Some of the samples."""
        return replace(self, condition=self.condition.take(indices), trajectory=self.trajectory.take(indices))


class Measured(NamedTuple):
    """Of one update, over the samples of this process; sums, so that processes can be added up."""

    steps: int
    """Trained steps of all samples."""
    loss: float
    clipped: float
    kl: float
    """NaN where no reference is looked at."""
    ratio_deviation: float
    """The largest |ratio - 1|."""


class NotFiniteError(ArithmeticError):
    """A loss or gradient is no number; nothing was changed by it."""


def gradients_of(
    editor: TrainableEditor,
    batches: Sequence[tuple[Batch, Tensor]],
    total: int,
    config: FlowGrpoConfig,
    lanes: int = 1,
    in_step: tuple[World, Batch] | None = None,
) -> tuple[list[Tensor], Measured]:
    """The gradient that these samples contribute to an update.

    Args:
        batches: samples with their advantages (B,); those without any should have been left out, as they cost as much.
        total: samples of the whole update, in all processes: the loss is their mean.
        lanes: threads of a CPU that the micro-batches are shared by.
        in_step: where the processes share a base and must make the same passes: they, and a batch to make those on
            that this process has no work for.

    Returns: one gradient per adapter parameter, in the order of `adapter_parameters`.
    """
    parameters = adapter_parameters(editor.transformer)
    at_once = _samples_at_once(batches, config, lanes)
    # Positions, not copies: what the memory bounds is one micro-batch per lane.
    chunks = [
        _Chunk(batch, rows_B, advantages_B[rows_B])
        for batch, advantages_B in batches
        for rows_B in torch.arange(len(batch.condition)).split(at_once)
    ]
    worked = len(chunks)
    if in_step is not None:
        world, filler = in_step
        idle = _Chunk(filler, torch.tensor([0]), torch.zeros(1))
        chunks += [idle] * (world.largest(worked) - worked)
    # All of the reference first: switching the adapter off concerns every lane. Without a KL nothing asks for it.
    base: list[sde.StepDistribution | None] = [None] * len(chunks)
    if config.kl_weight > 0:
        with torch.no_grad(), reference(editor.transformer):
            base = map_lanes(lambda chunk: _replayed(editor, chunk.samples, config), chunks, lanes)

    def work(numbers: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """The gradients of one lane's chunks, added up as they come, and what was measured of each."""
        total_gradients = [torch.zeros_like(parameter) for parameter in parameters]
        rows = []
        for number in numbers:
            chunk = chunks[number]
            loss, measured = chunk_loss(editor, chunk.samples, chunk.advantages_B, base[number], config)
            share = len(chunk.rows_B) / total if number < worked else 0.0
            # The last block's text stream ends in nothing: its adapter has no gradient.
            gradients = torch.autograd.grad(share * loss, parameters, allow_unused=True)
            for sum_, gradient in zip(total_gradients, gradients, strict=True):
                if gradient is not None:
                    sum_.add_(gradient)
            rows.append(measured)
            del loss, gradients  # else they stay while the next chunk fills the memory
        return total_gradients, rows

    # Which lane has which chunk depends on nothing but their number: the same sums, rounded alike, every time.
    numbers = [range(lane, len(chunks), lanes) for lane in range(max(1, min(lanes, len(chunks))))]
    results = map_lanes(work, numbers, lanes)
    gradients = add_up(lane_gradients for lane_gradients, _ in results)
    measured = {
        n: row for some, (_, rows) in zip(numbers, results, strict=True) for n, row in zip(some, rows, strict=True)
    }
    if not worked:
        return gradients, Measured(0, 0.0, 0.0, 0.0, 0.0)
    steps = torch.tensor([len(chunk.rows_B) * config.window_length for chunk in chunks[:worked]])
    rows = torch.stack([measured[number] for number in range(worked)]).double().cpu()
    loss, clipped, kl = (rows[:, :3] * steps[:, None]).sum(0).tolist()
    return gradients, Measured(int(steps.sum()), loss, clipped, kl, float(rows[:, 3].max()))


class _Chunk(NamedTuple):
    """Some samples of a batch, for one forward and backward pass."""

    batch: Batch
    rows_B: Tensor
    advantages_B: Tensor

    @property
    def samples(self) -> Batch:
        """They alone."""
        return self.batch.take(self.rows_B)


def chunk_loss(
    editor: TrainableEditor,
    batch: Batch,
    advantages_B: Tensor,
    base: sde.StepDistribution | None,
    config: FlowGrpoConfig,
) -> tuple[Tensor, Tensor]:
    """The mean loss of some samples, with gradient.

    Returns: the loss, and detached: loss, clipped share, mean KL to the reference, largest |ratio - 1|.
    """
    trajectory = batch.trajectory
    steps, samples = trajectory.log_prob_SB.shape
    policy = _replayed(editor, batch, config)
    log_prob_B = sde.log_probability(policy, trajectory.next_SBNC.flatten(0, 1))
    guard = None
    if trajectory.mean_SBNC is not None:
        drew = sde.StepDistribution(trajectory.mean_SBNC.flatten(0, 1), policy.std_B)
        duration_B = (trajectory.times_S - trajectory.next_times_S).repeat_interleave(samples)
        guard = Guard(sde.kl_divergence(policy, drew), policy.std_B, duration_B)
    surrogate = policy_loss(
        log_prob_B,
        trajectory.log_prob_SB.flatten(),
        advantages_B.repeat(steps).to(log_prob_B.device),
        config.ratio_clip,
        config.ratio_clip_high,
        guard,
    )
    kl = torch.full((), float("nan")) if base is None else sde.kl_divergence(policy, base).mean()
    loss = surrogate.loss if base is None else surrogate.loss + config.kl_weight * kl
    deviation = (surrogate.ratio - 1).abs().max()
    return loss, torch.stack([part.detach().to(loss) for part in (loss, surrogate.clipped_share, kl, deviation)])


def with_replayed_log_prob(editor: TrainableEditor, batch: Batch, config: FlowGrpoConfig) -> Batch:
    """The batch with the probabilities of what was drawn as the update's own batches give them, see `old_log_prob`."""
    parts = []
    for rows_B in torch.arange(len(batch.condition)).split(_samples_at_once([(batch, torch.empty(0))], config, 1)):
        part = batch.take(rows_B)
        with torch.no_grad():
            policy = _replayed(editor, part, config)
            log_prob_B = sde.log_probability(policy, part.trajectory.next_SBNC.flatten(0, 1))
        shape_SBNC = part.trajectory.next_SBNC.shape
        parts.append((log_prob_B.view(shape_SBNC[:2]), policy.mean_BNC.view(shape_SBNC)))
    kept = batch.trajectory.mean_SBNC
    means = None if kept is None else torch.cat([mean for _, mean in parts], dim=1)
    log_probs = torch.cat([log_prob for log_prob, _ in parts], dim=1)
    return replace(batch, trajectory=replace(batch.trajectory, log_prob_SB=log_probs, mean_SBNC=means))


def num_passes(batch: Batch, config: FlowGrpoConfig) -> int:
    """Forward passes that replaying a batch takes, without lanes."""
    return -(-len(batch.condition) // _samples_at_once([(batch, torch.empty(0))], config, 1))


def check_finite(norm: float, where: str) -> None:
    """Raises: NotFiniteError that says what usually helps."""
    if not norm < float("inf"):
        raise NotFiniteError(
            f"{where}: the gradient's norm is {norm}; it changed nothing, and the last checkpoint stands. "
            "Lower learning_rate, or compute in float32 (dtype), or look at the images of this iteration"
        )


def _replayed(editor: TrainableEditor, batch: Batch, config: FlowGrpoConfig) -> sde.StepDistribution:
    return replay(editor, batch.condition, batch.trajectory, config)


def _samples_at_once(batches: Sequence[tuple[Batch, Tensor]], config: FlowGrpoConfig, lanes: int) -> int:
    """Samples of one micro-batch: what the memory takes, and fewer where all lanes would not have work."""
    samples = sum(len(batch.condition) for batch, _ in batches)
    return max(1, min(config.micro_batch // config.window_length, -(-samples // lanes)))
