"""A run: its parts, and what it carries from one iteration to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from storage.records import identity
from training.cases import CaseSampler, Conditions, TrainingCase
from training.config import COMPUTED_ALIKE, FlowGrpoConfig
from training.editors.interface import TrainableEditor
from training.lora import adapter_parameters
from training.parallel import World
from training.shares import Judge
from training.state import (
    Checkpoint,
    History,
    OtherRunError,
    Sink,
    check_run,
    restore_training_state,
    training_state,
)


@dataclass
class Run:
    """What a run carries from one iteration to the next."""

    editor: TrainableEditor
    cases: Sequence[TrainingCase]
    conditions: Conditions
    judge: Judge
    config: FlowGrpoConfig
    base: str
    second_judge: Judge | None
    lanes: int
    world: World
    in_step: bool = False
    history: History = field(default_factory=list)

    def __post_init__(self) -> None:
        config, shares = self.config, self.config.updates_per_rollout * self.world.size
        if config.groups % shares:
            raise ValueError(
                f"groups {config.groups}: must be a multiple of updates_per_rollout x processes = {shares}, so that "
                "every process has as many"
            )
        self.parameters = adapter_parameters(self.editor.transformer)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.sampler = CaseSampler(self.cases, config)

    @property
    def identity(self) -> dict[str, Any]:
        """What the run is of. It may become longer, or be computed in other batches."""
        # A curriculum is spread over the iterations: with more of them other cases would be open.
        free = (*COMPUTED_ALIKE, *(() if self.config.curriculum_share else ("iterations",)))
        config = {name: value for name, value in asdict(self.config).items() if name not in free}
        return {
            "config": config,
            "editor": self.base,
            "cases": identity(*(case.case_id for case in self.cases)),
        }

    def checkpoint(self, step: int) -> Checkpoint:
        """The run after `step` iterations."""
        tensors = training_state(self.parameters, self.optimizer, self.average)
        tensors["sampler.rests_until"] = self.sampler.rests_until.clone()
        # Sums are rounded by how they are split: a machine with other cores goes on as this one would have.
        tensors["lanes"] = torch.tensor(self.lanes)
        return Checkpoint(step, tensors, list(self.history), self.identity)

    def continue_from(self, sink: Sink) -> int:
        """Take up the newest checkpoint, if there is one; returns the iterations that are done."""
        saved = sink.load()
        # Hashed only where there is something to compare: it is gigabytes.
        found = self.world.gather_objects((saved.step, saved.digest) if saved and self.world.size > 1 else None)
        if len(set(found)) > 1:
            raise ValueError(
                f"the processes found different checkpoints, after {[one and one[0] for one in found]} iterations: the "
                "folder of the run must be one that all machines share"
            )
        if saved is None:
            return 0
        check_run(saved, self.identity)
        if saved.step > self.config.iterations:
            raise OtherRunError(
                f"the checkpoint is after {saved.step} iterations, and this run is to have {self.config.iterations}: "
                "train from the start (refresh), or take an adapter that was published on the way"
            )
        restore_training_state(saved.tensors, self.parameters, self.optimizer, self.average)
        self.sampler.rests_until.copy_(saved.tensors["sampler.rests_until"])
        if not self.in_step:  # a base that is shared takes no threads
            self.lanes = int(saved.tensors["lanes"])
        self.history = list(saved.history)
        return saved.step
