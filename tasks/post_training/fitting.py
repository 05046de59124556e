"""How much fits into the memory: the largest batches of updates and rollouts, found by trying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from tasks.post_training.encoded import EncodedConditions
from training.cases import TrainingCase
from training.config import FlowGrpoConfig
from training.editors.interface import TrainableEditor
from training.lora import adapter_parameters
from training.memory import fit
from training.rollout import repeat_groups, roll_out, window_start
from training.update import Batch, gradients_of

MOST_SAMPLES = 256


def fitting_sizes(
    editor: TrainableEditor, cases: Sequence[TrainingCase], conditions: EncodedConditions, config: FlowGrpoConfig
) -> dict[str, int]:
    """The largest `rollout_batch` and `micro_batch` that run, powers of two samples, on the case with most tokens.

    A run also holds the samples of an iteration, some megabytes each: where memory is tight, take half of it.

    Args:
        editor: with its adapter, prepared as the run will have it.
    """
    largest = max(cases, key=lambda case: _tokens(conditions, case.case_id))
    (one,) = conditions([largest.case_id])
    one = one.to(editor.device)

    # What a run holds besides: the moments of the optimiser, and the average.
    parameters = adapter_parameters(editor.transformer)
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    average = [parameter.detach().clone() for parameter in parameters]

    def rolled_out(samples: int) -> Batch:
        condition = one.take(repeat_groups([0], samples))
        noise_KBNC = torch.randn(1 + config.window_length, *condition.noise_shape, device=condition.device)
        trajectory = roll_out(editor, condition, config, window_start(config, 0), noise_KBNC)
        return Batch((0,), condition, trajectory)

    def roll_out_and_decode(samples: int) -> None:
        batch = rolled_out(samples)
        editor.decode(batch.trajectory.final_BNC, batch.condition.shape)

    def update(samples: int) -> None:
        batch = rolled_out(1)
        batch = batch.take(torch.zeros(samples, dtype=torch.long))
        whole = replace(config, micro_batch=samples * config.window_length)
        gradients_of(editor, [(batch, torch.ones(samples))], samples, whole)

    sizes = {
        "rollout_batch": fit(roll_out_and_decode, MOST_SAMPLES),
        "micro_batch": fit(update, MOST_SAMPLES) * config.window_length,
    }
    del average, optimizer
    return sizes


def _tokens(conditions: EncodedConditions, case_id: str) -> int:
    shape = conditions.shape_of(case_id)
    return shape.num_tokens + shape.num_source_tokens
