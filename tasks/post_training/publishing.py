"""Checkpoints on their way to become versions: laid aside by the training process, committed by the stage.

A checkpoint that is published holds the averaged adapter in diffusers' layout, to be looked at, and the whole state of
the run, so that a training whose machine is gone goes on elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

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
        self.weights.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)


def history_of(checkpoint: Path) -> list[dict[str, Any]]:
    """What had been measured by then; the tensors, which are gigabytes, are not read. Nothing where no file is.

    Raises: ValueError for a damaged file, with the remedy.
    """
    if not checkpoint.exists():
        return []
    try:
        with safe_open(checkpoint, framework="np") as file:
            return json.loads(file.metadata()["history"])
    except SafetensorError as error:
        raise damaged(checkpoint, error) from error


def damaged(checkpoint: Path, error: SafetensorError) -> ValueError:
    """What is said of a checkpoint that cannot be read."""
    return ValueError(
        f"the checkpoint {checkpoint} is damaged ({error}): delete it, and the run goes on from the newest one that "
        "was published, or begins anew"
    )


def to_publish(job: Job) -> Iterator[ToPublish]:
    """The checkpoints that are laid aside, oldest first."""
    for weights in sorted(job.to_publish.glob(f"*{WEIGHTS}")):
        stem = weights.name.removesuffix(WEIGHTS)
        yield ToPublish(int(stem), weights.with_name(stem + STATE), weights)
