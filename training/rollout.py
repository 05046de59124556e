"""Sampling: plain ODE sampling for evaluation, and rollouts whose window of SDE steps can be trained on.

Axes: B samples, N tokens, C channels, S trained steps, K = 1 + S draws of noise, G samples per group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from training import sde
from training.config import FlowGrpoConfig
from training.editors.interface import Condition, TrainableEditor
from training.lanes import velocity


@dataclass(frozen=True, slots=True)
class Trajectory:
    """What one rollout leaves behind for the updates; float32, log-probabilities float64."""

    states_SBNC: Tensor
    """x_t before each trained step."""
    next_SBNC: Tensor
    """x_t after it."""
    times_S: Tensor
    next_times_S: Tensor
    t_limit: float
    """The first time below 1 of the run, see `sde.step_distribution`: carried along, never worked out anew."""
    log_prob_SB: Tensor
    """Of the step that was drawn, under the policy that drew it."""
    final_BNC: Tensor
    """Latents at t = 0."""
    mean_SBNC: Tensor | None = None
    """Of the step under the policy that drew it; kept where the ratio's bias is corrected."""

    def take(self, indices: Tensor) -> Trajectory:
        """The samples at `indices`."""
        return Trajectory(
            self.states_SBNC[:, indices],
            self.next_SBNC[:, indices],
            self.times_S,
            self.next_times_S,
            self.t_limit,
            self.log_prob_SB[:, indices],
            self.final_BNC[indices],
            None if self.mean_SBNC is None else self.mean_SBNC[:, indices],
        )


def joined(parts: Sequence[Trajectory]) -> Trajectory:
    """Trajectories of one window and one shape as one."""
    if len(parts) == 1:
        return parts[0]
    first, means = parts[0], [part.mean_SBNC for part in parts if part.mean_SBNC is not None]
    return replace(
        first,
        states_SBNC=torch.cat([part.states_SBNC for part in parts], dim=1),
        next_SBNC=torch.cat([part.next_SBNC for part in parts], dim=1),
        log_prob_SB=torch.cat([part.log_prob_SB for part in parts], dim=1),
        final_BNC=torch.cat([part.final_BNC for part in parts]),
        mean_SBNC=torch.cat(means, dim=1) if means else None,
    )


def generator_of(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that depends on the whole key and nothing else, so that any step can be made again."""
    mixed = 0
    for part in key:
        mixed = (mixed * 1_000_003 + part + 1) % (2**63 - 1)
    return torch.Generator(device).manual_seed(mixed)


def window_start(config: FlowGrpoConfig, iteration: int) -> int:
    """Where this rollout's SDE window begins: one draw for all samples, so that a group's samples can be compared."""
    choices = config.window_end - config.window_length + 1
    return int(torch.randint(choices, (1,), generator=generator_of(config.seed, iteration, 1)))


def draw_noise(condition: Condition, config: FlowGrpoConfig, iteration: int, groups: Sequence[int]) -> Tensor:
    """What a rollout starts from and what its SDE steps add, (K, B, N, C) float32 on the condition's device.

    Each group draws its own, whichever process, batch or device it is rolled out on; drawn on the CPU, whose
    generator gives the same numbers everywhere.

    Args:
        condition: `group_size` samples for each of the groups, in order.
        groups: the positions of the groups within the iteration.
    """
    _, tokens, channels = condition.noise_shape
    size = (1 + config.window_length, config.group_size, tokens, channels)
    drawn = [torch.randn(size, generator=generator_of(config.seed, iteration, 2, group)) for group in groups]
    return torch.cat(drawn, dim=1).to(condition.device)


@torch.no_grad()
def generate(
    editor: TrainableEditor, condition: Condition, num_steps: int, noise_BNC: Tensor, lanes: int = 1
) -> Tensor:
    """Edit by the ODE; returns latents at t = 0, (B, N, C)."""
    latents_BNC = noise_BNC
    times = editor.sampling_times(num_steps, condition.shape).to(noise_BNC.device)
    for t, t_next in pairwise(times):
        t_B, t_next_B = t.expand(len(condition)), t_next.expand(len(condition))
        velocity_BNC = velocity(editor, latents_BNC, t_B, condition, lanes)
        latents_BNC = sde.ode_step(latents_BNC, velocity_BNC, t_B, t_next_B)
    return latents_BNC


@torch.no_grad()
def roll_out(
    editor: TrainableEditor,
    condition: Condition,
    config: FlowGrpoConfig,
    first: int,
    noise_KBNC: Tensor,
    lanes: int = 1,
) -> Trajectory:
    """Sample with SDE steps inside the window and ODE steps elsewhere.

    Args:
        first: the first step of the window, see `window_start`.
        noise_KBNC: see `draw_noise`.
    """
    times = editor.sampling_times(config.num_steps, condition.shape).to(condition.device)
    t_limit = float(times[1])
    trained = range(first, first + config.window_length)
    latents_BNC = noise_KBNC[0]
    states, nexts, log_probs, means = [], [], [], []
    for step in range(config.num_steps):
        t_B, t_next_B = times[step].expand(len(condition)), times[step + 1].expand(len(condition))
        velocity_BNC = velocity(editor, latents_BNC, t_B, condition, lanes)
        if step in trained:
            distribution = sde.step_distribution(
                latents_BNC, velocity_BNC, t_B, t_next_B, config.noise_level, t_limit, sde.Sde(config.sde)
            )
            drawn_BNC = sde.sample(distribution, noise_KBNC[1 + step - first])
            states.append(latents_BNC)
            nexts.append(drawn_BNC)
            log_probs.append(sde.log_probability(distribution, drawn_BNC))
            if config.ratio_correction:
                means.append(distribution.mean_BNC)
            latents_BNC = drawn_BNC
        else:
            latents_BNC = sde.ode_step(latents_BNC, velocity_BNC, t_B, t_next_B)
    window = torch.tensor(list(trained), device=times.device)
    return Trajectory(
        torch.stack(states),
        torch.stack(nexts),
        times[window],
        times[window + 1],
        t_limit,
        torch.stack(log_probs),
        latents_BNC,
        torch.stack(means) if means else None,
    )


def replay(
    editor: TrainableEditor, condition: Condition, trajectory: Trajectory, config: FlowGrpoConfig
) -> sde.StepDistribution:
    """The distributions that the editor, as it now is, gives for the trained steps; all steps in one forward pass.

    Returns: for S * B rows, step by step, so that row s * B + b is step s of sample b.
    """
    steps, samples = trajectory.states_SBNC.shape[:2]
    states_BNC = trajectory.states_SBNC.flatten(0, 1)
    t_B = trajectory.times_S.repeat_interleave(samples)
    t_next_B = trajectory.next_times_S.repeat_interleave(samples)
    repeated = condition.take(torch.arange(samples).repeat(steps))
    velocity_BNC = editor.velocity(states_BNC, t_B, repeated)
    return sde.step_distribution(
        states_BNC, velocity_BNC, t_B, t_next_B, config.noise_level, trajectory.t_limit, sde.Sde(config.sde)
    )


def repeat_groups(indices: Sequence[int], group_size: int) -> Tensor:
    """Each index `group_size` times, groups kept together."""
    return torch.tensor(list(indices)).repeat_interleave(group_size)
