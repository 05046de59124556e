"""A Flow-GRPO update as plainly as it can be written: what the real loop's speed and its gradients are compared with.

Nothing is shared and nothing is batched. Every sample encodes its case anew, is drawn and decoded alone, and the
probabilities of its trained steps are computed in passes of their own; every trained step then takes one pass of the
reference, whatever the KL weighs, one of the policy, and one backward. Published loops do each of these somewhere.

The mathematics of a single step (`training.sde`, `training.objective`) and of a group (`training.advantage`) is the
loop's own; all that the loop adds to it (batches, buckets, lanes, replay of all steps at once, probabilities kept from
the rollout) is left out. So the same noise has to give the same losses and the same gradients, up to rounding, and
what is left is the time.

Axes: B samples, N tokens, C channels, K = 1 + S draws of noise, S trained steps; 1 is one sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training import sde
from training.advantage import group_advantages
from training.config import FlowGrpoConfig
from training.editors.interface import Condition, Pixels, TrainableEditor
from training.lora import adapter_parameters, reference
from training.objective import policy_loss
from training.reward import rewards_of
from training.rollout import draw_noise, window_start


class Step(NamedTuple):
    """One trained step of one sample."""

    state_1NC: Tensor
    next_1NC: Tensor
    t_1: Tensor
    t_next_1: Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """What the rollout of one sample leaves behind."""

    condition: Condition
    steps: tuple[Step, ...]
    old_log_prob_1: tuple[Tensor, ...]
    """One per trained step."""
    t_limit: float
    """The first time below 1, see `sde.step_distribution`."""
    final_1NC: Tensor
    image: Pixels


@torch.no_grad()
def roll_out_singly(
    editor: TrainableEditor,
    encoders: Sequence[Callable[[], Condition]],
    config: FlowGrpoConfig,
    first: int,
    noise_KBNC: Tensor,
) -> list[Sample]:
    """Draw the samples one after the other.

    Args:
        encoders: one per sample, gives the condition of its case when it is called, as `editor.encode` does.
        first: the first step of the window, see `training.rollout.window_start`.
        noise_KBNC: what each sample starts from and what each of its trained steps adds, see
            `training.rollout.draw_noise`.

    Raises: ValueError for a configuration whose objective this loop does not have.
    """
    if config.ratio_correction:
        raise ValueError("ratio_correction: the reference loop compares ratios as they are")
    return [_draw(editor, encode(), config, first, noise_KBNC[:, b : b + 1]) for b, encode in enumerate(encoders)]


def _draw(
    editor: TrainableEditor, condition: Condition, config: FlowGrpoConfig, first: int, noise_K1NC: Tensor
) -> Sample:
    times = editor.sampling_times(config.num_steps, condition.shape).to(condition.device)
    t_limit = float(times[1])
    latents_1NC = noise_K1NC[0]
    steps: list[Step] = []
    for number in range(config.num_steps):
        t_1, t_next_1 = times[number : number + 1], times[number + 1 : number + 2]
        velocity_1NC = editor.velocity(latents_1NC, t_1, condition)
        if first <= number < first + config.window_length:
            distribution = sde.step_distribution(
                latents_1NC, velocity_1NC, t_1, t_next_1, config.noise_level, t_limit, sde.Sde(config.sde)
            )
            next_1NC = sde.sample(distribution, noise_K1NC[1 + len(steps)])
            steps.append(Step(latents_1NC, next_1NC, t_1, t_next_1))
        else:
            next_1NC = sde.ode_step(latents_1NC, velocity_1NC, t_1, t_next_1)
        latents_1NC = next_1NC
    old = tuple(
        sde.log_probability(_distribution(editor, condition, step, config, t_limit), step.next_1NC) for step in steps
    )
    (image,) = editor.decode(latents_1NC, condition.shape)
    return Sample(condition, tuple(steps), old, t_limit, latents_1NC, image)


class Update(NamedTuple):
    """What one update comes to."""

    loss: float
    """Mean over samples and trained steps."""
    kl: float
    """Mean to the reference."""
    gradients: list[Tensor]
    """One per adapter parameter, in the order of `adapter_parameters`."""


def update_singly(
    editor: TrainableEditor, samples: Sequence[Sample], advantages_B: Tensor, config: FlowGrpoConfig
) -> Update:
    """The gradient of one update, accumulated step by step; it stays in `Tensor.grad` for an optimiser as well."""
    parameters = adapter_parameters(editor.transformer)
    for parameter in parameters:
        parameter.grad = None
    parts = len(samples) * config.window_length
    losses, divergences = [], []
    for sample, advantage in zip(samples, advantages_B.to(editor.device), strict=True):
        for step, old_log_prob_1 in zip(sample.steps, sample.old_log_prob_1, strict=True):
            with torch.no_grad(), reference(editor.transformer):
                base = _distribution(editor, sample.condition, step, config, sample.t_limit)
            policy = _distribution(editor, sample.condition, step, config, sample.t_limit)
            surrogate = policy_loss(
                sde.log_probability(policy, step.next_1NC),
                old_log_prob_1,
                advantage[None],
                config.ratio_clip,
                config.ratio_clip_high,
            )
            kl = sde.kl_divergence(policy, base).mean()
            loss = surrogate.loss + config.kl_weight * kl
            (loss / parts).backward()
            losses.append(loss.detach())
            divergences.append(kl.detach())
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:  # the last block's text stream ends in nothing
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    return Update(float(torch.stack(losses).mean()), float(torch.stack(divergences).mean()), gradients)


class Iteration(NamedTuple):
    """What one iteration comes to, as `training.metrics.Metrics` has it."""

    loss: float
    """Mean over the trained steps of all updates."""
    kl: float
    gradient_norm: float
    """Mean over the updates, before it is limited."""
    images: int
    """That were trained on."""


def iterate_singly(
    editor: TrainableEditor,
    encoders: Sequence[Callable[[], Condition]],
    scored: Callable[[Sequence[Pixels]], Tensor],
    config: FlowGrpoConfig,
    iteration: int,
    optimizer: torch.optim.Optimizer,
) -> Iteration:
    """One iteration of Flow-GRPO as `training.loop` makes it, one sample after the other.

    Args:
        encoders: one per group, in the order of the groups; gives the condition of one sample.
        scored: gives the scores of the samples of all groups, (P, G) in [0, 5].
        optimizer: of the adapter's parameters.
    """
    first = window_start(config, iteration)
    samples: list[Sample] = []
    for group, encode in enumerate(encoders):
        noise_KBNC = draw_noise(encode(), config, iteration, [group])
        samples += roll_out_singly(editor, [encode] * config.group_size, config, first, noise_KBNC)
    rewards_PG = rewards_of(scored([sample.image for sample in samples]), config.reward_slope, config.reward_shift)
    advantages_B = group_advantages(
        rewards_PG, config.advantage_limit, min_scored_share=config.min_scored_share
    ).flatten()
    updates: list[tuple[Update, float, int]] = []
    for rows_B in torch.arange(len(samples)).chunk(config.updates_per_rollout):
        # The loop leaves out what teaches nothing, and divides by the number of those that are left.
        useful = rows_B[advantages_B[rows_B] != 0].tolist()
        if useful:
            update = update_singly(editor, [samples[b] for b in useful], advantages_B[useful], config)
            norm = float(nn.utils.clip_grad_norm_(adapter_parameters(editor.transformer), config.gradient_norm))
            optimizer.step()
            updates.append((update, norm, len(useful)))
    images = sum(count for _, _, count in updates)
    if not images:
        raise ValueError("no group has samples of different scores: nothing was learnt from, so nothing is compared")
    return Iteration(
        loss=sum(update.loss * count for update, _, count in updates) / images,
        kl=sum(update.kl * count for update, _, count in updates) / images,
        gradient_norm=sum(norm for _, norm, _ in updates) / len(updates),
        images=images,
    )


def _distribution(
    editor: TrainableEditor, condition: Condition, step: Step, config: FlowGrpoConfig, t_limit: float
) -> sde.StepDistribution:
    """Of one step under the editor as it now is."""
    velocity_1NC = editor.velocity(step.state_1NC, step.t_1, condition)
    return sde.step_distribution(
        step.state_1NC, velocity_1NC, step.t_1, step.t_next_1, config.noise_level, t_limit, sde.Sde(config.sde)
    )
