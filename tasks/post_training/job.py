"""What a training process is told, and where it leaves what came out. No torch here: flows read this too."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from tasks.editing.catalogue import EditorConfig
from tasks.hp_scorer.catalogue import ScorerConfig
from tasks.stage import StageConfig
from training.config import FlowGrpoConfig, miniature


class PostTrainConfig(StageConfig):
    """How to post-train."""

    editor: EditorConfig = EditorConfig()
    """What is trained; without an adapter."""
    scorer: ScorerConfig = ScorerConfig()
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
    def gate(self) -> Path:
        """What the gate measured, JSON."""
        return self.folder / "gate.json"
