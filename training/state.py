"""The state of a training run as named tensors, so that a checkpoint is a safetensors file and never a pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from storage.records import identity

History = list[dict[str, Any]]
"""What was measured, one row of JSON per step or iteration."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run as it stands after some steps."""

    step: int
    tensors: dict[str, Tensor]
    history: History
    run: Mapping[str, Any] = field(default_factory=dict)
    """What the run is of: configuration, editor, cases. A run goes on from a checkpoint of its own alone."""

    @property
    def digest(self) -> str:
        """Of all tensors."""
        parts = [part for n, value in sorted(self.tensors.items()) for part in (n, value.numpy().tobytes())]
        return identity(*parts)


class OtherRunError(ValueError):
    """A checkpoint belongs to another run."""


class Sink(Protocol):
    """Keeps the newest checkpoint of a run; where and how is not training's business."""

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep a checkpoint; it replaces the one before only once it is whole."""

    def load(self) -> Checkpoint | None:
        """The newest whole one, or None."""


def check_run(checkpoint: Checkpoint, run: Mapping[str, Any]) -> None:
    """Raises: OtherRunError that names what differs."""
    before, now = dict(_flat(checkpoint.run)), dict(_flat(run))
    if names := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        told = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in names)
        raise OtherRunError(
            f"the checkpoint after {checkpoint.step} steps is of another run: {told}. "
            "Go back to these settings, or train from the start (refresh)"
        )


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, inside in value.items():
        if isinstance(inside, Mapping):
            yield from _flat(inside, f"{before}{name}.")
        else:
            yield before + name, list(inside) if isinstance(inside, tuple) else inside


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
