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

from safetensors import safe_open

from tasks.post_training.job import Job

STATE, WEIGHTS = ".state.safetensors", ".weights.safetensors"


@dataclass(frozen=True)
class ToPublish:
    """The files of one checkpoint."""

    step: int
    state: Path
    weights: Path

    def history(self) -> list[dict[str, Any]]:
        """What had been measured by then."""
        with safe_open(self.state, framework="np") as file:
            return json.loads(file.metadata()["history"])

    def forget(self) -> None:
        """Remove them: the checkpoint has become a version."""
        self.weights.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)


def to_publish(job: Job) -> Iterator[ToPublish]:
    """The checkpoints that are laid aside, oldest first."""
    for weights in sorted(job.to_publish.glob(f"*{WEIGHTS}")):
        stem = weights.name.removesuffix(WEIGHTS)
        yield ToPublish(int(stem), weights.with_name(stem + STATE), weights)
