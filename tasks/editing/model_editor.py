"""An editing model as an editor: batches, seeds and sampling steps around a trainable model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.editing.interface import EditFailure, EditTask
from training.editors.interface import TrainableEditor
from training.lanes import default_lanes, one_thread_per_operation
from training.rollout import generate, generator_of


@dataclass(frozen=True)
class ModelEditor:
    """Edits with a model by plain ODE sampling, see `Editor`."""

    model: TrainableEditor
    fingerprint: str
    """The hash of everything that changes the pictures: weights, adapter, steps."""
    num_steps: int = 8
    batch_size: int = 64

    def edit(self, tasks: Sequence[EditTask]) -> list[NDArray[np.uint8] | EditFailure]:
        """One picture per task. A batch shares one resolution; each task's noise comes from its own seed."""
        results: list[NDArray[np.uint8] | EditFailure] = [EditFailure("not edited")] * len(tasks)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, task in enumerate(tasks):
            by_shape.setdefault(task.source.shape, []).append(i)
        for indices in by_shape.values():
            for start in range(0, len(indices), self.batch_size):
                batch = indices[start : start + self.batch_size]
                try:
                    pictures: Sequence[NDArray[np.uint8] | EditFailure] = self._edit_batch([tasks[i] for i in batch])
                except ValueError as error:  # a size that the model cannot take, say
                    pictures = [EditFailure(str(error))] * len(batch)
                for i, picture in zip(batch, pictures, strict=True):
                    results[i] = picture
        return results

    def _edit_batch(self, tasks: Sequence[EditTask]) -> list[NDArray[np.uint8]]:
        with torch.no_grad(), one_thread_per_operation():
            condition = self.model.encode([t.source for t in tasks], [t.instruction for t in tasks])
            shape, device = condition.noise_shape[1:], condition.device
            noise = [torch.randn(shape, generator=generator_of(task.seed, 4)) for task in tasks]
            latents = generate(self.model, condition, self.num_steps, torch.stack(noise).to(device), default_lanes())
            return self.model.decode(latents, condition.shape)
