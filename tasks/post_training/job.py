"""What a training process is told, and where it leaves what came out. No torch here: flows read this too."""

from __future__ import annotations

import fcntl
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from tasks.editing.settings import MiniatureModel, ModelConfig
from tasks.hp_scorer.settings import MeasuredConfig, ScorerConfig
from tasks.settings import Settings, passing
from tasks.stage import StageConfig
from training.config import COMPUTED_ALIKE, FlowGrpoConfig, miniature

logger = logging.getLogger(__name__)


class Running(Settings):
    """How a training is run: on what, and what is looked at meanwhile."""

    processes: int = Field(1, ge=1, description="On this machine, started by torchrun; the groups are split over them.")
    launcher: tuple[str, ...] = Field(
        (), description="Instead: what starts the processes, such as torchrun with its options for several machines."
    )
    shard_base: bool = Field(False, description="Split the frozen base over the processes (FSDP2).")
    activation_checkpointing: bool = Field(
        False, description="Keep no activations between blocks: less memory, a third more work in updates."
    )
    compile_blocks: bool = Field(False, description="Compile the repeated blocks of the transformer.")
    attention_backend: str | None = Field(None, description="Of diffusers, such as _flash_3; none: torch's own.")
    lanes: int | None = Field(None, ge=1, description="Threads that batches are split over; none: a CPU's cores.")
    trackers: tuple[Literal["wandb", "trackio"], ...] = Field(
        (), description="Where metrics go besides TensorBoard's files."
    )
    publish_every: int = Field(
        50, ge=0, description="Iterations between checkpoints that become versions of `adapter`, not `latest`; 0: none."
    )
    pictures_every: int = Field(5, ge=1, description="Iterations between pictures of samples.")


class PostTrainConfig(StageConfig):
    """How to post-train."""

    model: ModelConfig = MiniatureModel()
    """The editor to train."""
    scorer: ScorerConfig = MeasuredConfig()
    """The reward."""
    second_judge: ScorerConfig | None = Field(
        None, description="An independent judge, looked at beside the reward: an alarm, never learnt from."
    )
    grpo: FlowGrpoConfig = Field(default_factory=miniature)
    float8: bool = Field(False, description="The frozen base in 8 bits: half its memory, faster on recent GPUs.")
    permute_rewards: bool = Field(
        False, description="A control: rewards are shuffled within each case and must teach nothing."
    )
    running: Running = passing(Running(), "How it is run; another way comes to the same.")

    def publishes_at(self, step: int) -> bool:
        """Whether the checkpoint after `step` iterations becomes a version: the first at or after each multiple of
        `publish_every`. The last one is the result itself.
        """
        grpo, every = self.grpo, self.running.publish_every
        return bool(every) and step < grpo.iterations and step // every > (step - grpo.checkpoint_every) // every

    @model_validator(mode="after")
    def _check_processes(self) -> PostTrainConfig:
        running, shares = self.running, self.grpo.updates_per_rollout * self.running.processes
        if running.launcher and running.processes > 1:
            raise ValueError("processes, launcher: a launcher says itself how many it starts; leave processes out")
        if self.grpo.groups % shares:
            raise ValueError(
                f"groups {self.grpo.groups}: must be a multiple of updates_per_rollout x processes = {shares}, so that "
                "every process has as many"
            )
        return self

    def deciding(self) -> dict[str, Any]:
        settings = super().deciding()
        kept = {name: value for name, value in settings["grpo"].items() if name not in COMPUTED_ALIKE}
        return settings | {"grpo": kept}


class Job(StageConfig):
    """The order to a training process."""

    store: str
    realpref: str
    """The version to train on, such as realpref@v3."""
    encodings: str
    """Its cases as the model encodes them, such as encodings@v3."""
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
        """The result in diffusers' layout; it exists once training is done. A longer run goes on in the same folder."""
        return self.folder / f"adapter-{self.config.grpo.iterations:06d}.safetensors"

    @property
    def checkpoint(self) -> Path:
        """What an interrupted training continues from."""
        return self.folder / "checkpoint.safetensors"

    @property
    def name(self) -> str:
        """For trackers: what is trained, on what."""
        return f"{self.config.model.kind} on {self.realpref}"

    def scores(self) -> list[Path]:
        """The journals of the reward, one per process: every score that the judge gave."""
        return sorted(self.folder.glob("scores*.jsonl"))

    @property
    def published_scores(self) -> Path:
        """The journal of another machine, as a published checkpoint has it."""
        return self.folder / "scores-published.jsonl"

    @contextmanager
    def publishing(self) -> Iterator[bool]:
        """Whether this process may publish: of two that watch one training, one does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "publishing.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True

    @property
    def to_publish(self) -> Path:
        """Checkpoints that are to become versions, see `tasks.post_training.publishing`."""
        return self.folder / "to-publish"

    @property
    def pictures(self) -> Path:
        """The newest samples beside their source, PNG."""
        return self.folder / "samples.png"

    @property
    def gate(self) -> Path:
        """What the gate measured, JSON."""
        return self.folder / "gate.json"

    @property
    def tensorboard(self) -> Path:
        """Event files of TensorBoard."""
        return self.folder / "tensorboard"

    @property
    def error(self) -> Path:
        """What ended the training, in words; of several processes, that of the first."""
        return self.folder / "error.txt"

    def tell(self, error: BaseException) -> None:
        """Leave word of what ended the training, unless another process has: its own may follow from that."""
        said = "".join(traceback.format_exception_only(error))
        with suppress(FileExistsError), self.error.open("x") as file:
            file.write(said)

    def forget(self) -> None:
        """Remove result, checkpoint, metrics and scores. Raises: BlockingIOError while a process is training here."""
        if self.folder.exists():
            with self.lock(wait=False):
                journals = self.folder.glob("*scores*.jsonl")
                made = self.folder.glob("adapter-*.safetensors")
                kept = (self.checkpoint, self.metrics, self.pictures, self.gate, self.error)
                for path in (*made, *kept, *journals):
                    path.unlink(missing_ok=True)
                for folder in (self.to_publish, self.tensorboard):
                    for path in folder.glob("*"):
                        path.unlink()

    @contextmanager
    def lock(self, wait: bool = True) -> Iterator[None]:
        """Hold the folder: of two processes, the later one waits or is refused."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if not wait:
                    raise BlockingIOError(
                        error.errno, "a process is training in it; end it first", str(self.folder)
                    ) from error
                logger.warning("another process is training in %s: waiting until it stops", self.folder)
                fcntl.flock(file, fcntl.LOCK_EX)
            yield
