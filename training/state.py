"""The state of a training run as named tensors, so that a checkpoint is a safetensors file and never a pickle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

History = list[dict[str, float]]
"""What was measured, one row per step or iteration."""


class Sink(Protocol):
    """Keeps the newest checkpoint of a run; where and how is not training's business."""

    def save(self, step: int, tensors: dict[str, Tensor], history: History) -> None:
        """Keep the state after `step` steps; it replaces the one before only once it is whole."""

    def load(self) -> tuple[int, dict[str, Tensor], History] | None:
        """The newest whole state, or None."""


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def training_state(
    parameters: Sequence[Tensor], optimizer: torch.optim.AdamW, average: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Parameters, their running average and the optimiser's moments, copied to the CPU."""
    state = {}
    for i, (parameter, averaged) in enumerate(zip(parameters, average, strict=True)):
        state[f"parameter.{i}"] = parameter
        state[f"average.{i}"] = averaged
        for name, value in optimizer.state.get(parameter, {}).items():
            state[f"{name}.{i}"] = value
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def restore_training_state(
    state: dict[str, Tensor], parameters: Sequence[Tensor], optimizer: torch.optim.AdamW, average: Sequence[Tensor]
) -> None:
    """The inverse of `training_state`, in place; the parameters in the same order and shapes.

    Raises: ValueError where the state is of other parameters.
    """
    with torch.no_grad():
        for i, (parameter, averaged) in enumerate(zip(parameters, average, strict=True)):
            saved = state.get(f"parameter.{i}")
            if saved is None or saved.shape != parameter.shape:
                shape = "nothing" if saved is None else tuple(saved.shape)
                raise ValueError(f"checkpoint has {shape} for parameter {i} of shape {tuple(parameter.shape)}")
            parameter.copy_(saved)
            averaged.copy_(state[f"average.{i}"])
            for name in _MOMENTS:
                if (value := state.get(f"{name}.{i}")) is not None:
                    optimizer.state[parameter][name] = value if name == "step" else value.to(parameter.device)
