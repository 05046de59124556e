"""Checkpoints in a folder: one safetensors file with everything inside, replaced only once it is whole."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from training.state import History


@dataclass(frozen=True)
class FolderSink:
    """Keeps the newest checkpoint of a run, see `training.state.Sink`."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file of the newest checkpoint."""
        return self.folder / "checkpoint.safetensors"

    def save(self, step: int, tensors: dict[str, Tensor], history: History) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        save_file(tensors, unfinished, metadata={"step": str(step), "history": json.dumps(history)})
        os.replace(unfinished, self.path)

    def load(self) -> tuple[int, dict[str, Tensor], History] | None:
        if not self.path.exists():
            return None
        with safe_open(self.path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return int(metadata["step"]), tensors, json.loads(metadata["history"])
