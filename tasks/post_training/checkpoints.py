"""Checkpoints in a folder: one safetensors file with everything inside, replaced only once it is whole."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tasks.post_training.job import Job
from tasks.post_training.publishing import STATE, WEIGHTS, damaged
from tasks.post_training.reading import write_whole
from training.lora import Transformer, adapter_bytes, named_like_adapter
from training.state import Checkpoint


@dataclass(frozen=True)
class FolderSink:
    """Keeps the newest checkpoint of a run, see `training.state.Sink`."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file of the newest checkpoint."""
        return self.folder / "checkpoint.safetensors"

    def save(self, checkpoint: Checkpoint) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        told = {"step": checkpoint.step, "history": checkpoint.history, "run": dict(checkpoint.run)}
        save_file(checkpoint.tensors, unfinished, metadata={name: json.dumps(value) for name, value in told.items()})
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # a machine that loses power keeps the one before, or this one
        os.replace(unfinished, self.path)

    def load(self) -> Checkpoint | None:
        return read_checkpoint(self.path) if self.path.exists() else None


def read_checkpoint(path: Path) -> Checkpoint:
    """From a file that `FolderSink` wrote. Raises: ValueError for a damaged one, with the remedy."""
    try:
        with safe_open(path, framework="pt") as file:
            told = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise damaged(path, error) from error
    return Checkpoint(told["step"], tensors, told["history"], told.get("run", {}))


@dataclass(frozen=True)
class PublishingSink:
    """Keeps the newest checkpoint, and lays every so-many-th aside for the stage."""

    sink: FolderSink
    job: Job
    transformer: Transformer

    def save(self, checkpoint: Checkpoint) -> None:
        self.sink.save(checkpoint)
        if self.job.config.publishes_at(checkpoint.step):
            self._lay_aside(checkpoint)

    def load(self) -> Checkpoint | None:
        checkpoint = self.sink.load()
        if checkpoint is not None and self.job.config.publishes_at(checkpoint.step):
            # It may be that it was saved and never laid aside; the stage knows what is published.
            self._lay_aside(checkpoint)
        return checkpoint

    def _lay_aside(self, checkpoint: Checkpoint) -> None:
        self.job.to_publish.mkdir(exist_ok=True)
        stem = self.job.to_publish / f"{checkpoint.step:06d}"
        state, weights = stem.with_suffix(STATE), stem.with_suffix(WEIGHTS)
        state.unlink(missing_ok=True)
        os.link(self.sink.path, state)
        averages = [checkpoint.tensors[f"average.{i}"] for i in range(_count(checkpoint))]
        # The weights come last: where they are, the checkpoint is whole.
        write_whole(weights, adapter_bytes(self.transformer, named_like_adapter(self.transformer, averages)))


def _count(checkpoint: Checkpoint) -> int:
    return sum(name.startswith("average.") for name in checkpoint.tensors)
