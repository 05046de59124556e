"""Checkpoints on their way to become versions: laid aside by the training process, committed by the stage.

A checkpoint that is published holds the averaged adapter in diffusers' layout, to be looked at, and the whole state of
the run, so that a training whose machine is gone goes on elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.post_training.job import Job

STATE, WEIGHTS = ".state.safetensors", ".weights.safetensors"


@dataclass(frozen=True)
class ToPublish:
    """The files of one checkpoint."""

    step: int
    state: Path
    weights: Path

    def forget(self) -> None:
        """Remove them: the checkpoint has become a version."""
        self.weights.unlink()
        self.state.unlink()


def to_publish(job: Job) -> Iterator[ToPublish]:
    """The checkpoints that are laid aside, oldest first."""
    for weights in sorted(job.to_publish.glob(f"*{WEIGHTS}")):
        stem = weights.name.removesuffix(WEIGHTS)
        yield ToPublish(int(stem), weights.with_name(stem + STATE), weights)
