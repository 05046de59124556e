"""What a training process is told, and where it leaves what came out. No torch here: flows read this too."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field

from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig
from tasks.stage import StageConfig
from training.config import FlowGrpoConfig, miniature


class PostTrainConfig(StageConfig):
    """How to post-train."""

    scorer: ScorerConfig = MeasuredConfig()
    """The reward."""
    grpo: FlowGrpoConfig = Field(default_factory=miniature)
    permute_rewards: bool = Field(
        False, description="A control: rewards are shuffled within each case and must teach nothing."
    )


class Job(StageConfig):
    """The order to a training process."""

    store: str
    realpref: str
    """The version to train on, such as realpref@v3."""
    scorer: str | None = None
    """The calibration of the judge, such as scorer@v2."""
    config: PostTrainConfig
    folder: Path
    """On the local disk: checkpoints, metrics and the result."""

    @property
    def metrics(self) -> Path:
        """One JSON object per line and iteration, appended."""
        return self.folder / "metrics.jsonl"

    @property
    def adapter(self) -> Path:
        """The result in diffusers' layout; it exists once training is done."""
        return self.folder / "pytorch_lora_weights.safetensors"

    @property
    def checkpoint(self) -> Path:
        """What an interrupted training continues from."""
        return self.folder / "checkpoint.safetensors"

    def forget(self) -> None:
        """Remove result, checkpoint and metrics. Raises: BlockingIOError while a process is training here."""
        if self.folder.exists():
            with self.lock(wait=False):
                for path in (self.adapter, self.checkpoint, self.metrics):
                    path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, wait: bool = True) -> Iterator[None]:
        """Hold the folder: of two processes, the later one waits or is refused."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(
                    error.errno, "a process is training in it; end it first", str(self.folder)
                ) from error
            yield

    @property
    def gate(self) -> Path:
        """What the gate measured, JSON."""
        return self.folder / "gate.json"
