"""Sampling: plain ODE sampling for evaluation, and rollouts whose window of SDE steps can be trained on.

Axes: B samples, N tokens, C channels, S trained steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    log_prob_SB: Tensor
    """Of the step that was drawn, under the policy that drew it."""
    final_BNC: Tensor
    """Latents at t = 0."""

    def take(self, indices: Tensor) -> Trajectory:
        """The samples at `indices`."""
        return Trajectory(
            self.states_SBNC[:, indices],
            self.next_SBNC[:, indices],
            self.times_S,
            self.next_times_S,
            self.log_prob_SB[:, indices],
            self.final_BNC[indices],
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
    editor: TrainableEditor, condition: Condition, config: FlowGrpoConfig, iteration: int, lanes: int = 1
) -> Trajectory:
    """Sample with SDE steps inside this iteration's window and ODE steps elsewhere."""
    times = editor.sampling_times(config.num_steps, condition.shape).to(condition.device)
    first = window_start(config, iteration)
    trained = range(first, first + config.window_length)
    generator = generator_of(config.seed, iteration, 2, device=condition.device)
    latents_BNC = draw_noise(condition, generator)
    states, nexts, log_probs = [], [], []
    for step in range(config.num_steps):
        t_B, t_next_B = times[step].expand(len(condition)), times[step + 1].expand(len(condition))
        velocity_BNC = velocity(editor, latents_BNC, t_B, condition, lanes)
        if step in trained:
            distribution = sde.step_distribution(
                latents_BNC, velocity_BNC, t_B, t_next_B, config.noise_level, t_limit=float(times[1])
            )
            drawn_BNC = sde.sample(distribution, draw_noise(condition, generator))
            states.append(latents_BNC)
            nexts.append(drawn_BNC)
            log_probs.append(sde.log_probability(distribution, drawn_BNC))
            latents_BNC = drawn_BNC
        else:
            latents_BNC = sde.ode_step(latents_BNC, velocity_BNC, t_B, t_next_B)
    window = torch.tensor(list(trained), device=times.device)
    return Trajectory(
        torch.stack(states), torch.stack(nexts), times[window], times[window + 1], torch.stack(log_probs), latents_BNC
    )


def draw_noise(condition: Condition, generator: torch.Generator) -> Tensor:
    """Standard normal noise in the shape of the condition's latents."""
    return torch.randn(condition.noise_shape, generator=generator, device=condition.device)


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
    t_limit = float(editor.sampling_times(config.num_steps, condition.shape)[1])
    return sde.step_distribution(states_BNC, velocity_BNC, t_B, t_next_B, config.noise_level, t_limit)


def pick_cases(num_cases: int, groups: int, iteration: int, seed: int) -> list[int]:
    """The cases of an iteration: a fresh shuffle per epoch, a pure function of (seed, iteration)."""
    picked = []
    for position in range(iteration * groups, (iteration + 1) * groups):
        epoch, offset = divmod(position, num_cases)
        order = torch.randperm(num_cases, generator=generator_of(seed, epoch, 3))
        picked.append(int(order[offset]))
    return picked


def repeat_groups(indices: Sequence[int], group_size: int) -> Tensor:
    """Each index `group_size` times, groups kept together."""
    return torch.tensor(list(indices)).repeat_interleave(group_size)
