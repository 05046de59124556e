"""An editing model as an editor: batches, seeds and sampling steps around a trainable model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.editing.interface import EditFailure, EditTask, Picture, StreamingEditor
from training.editors.interface import Shape, TrainableEditor
from training.lanes import default_lanes, one_thread_per_operation
from training.rollout import generate, generator_of

_Waiting = list[tuple[int, EditTask]]
"""Tasks with their positions."""


@dataclass(frozen=True)
class ModelEditor(StreamingEditor):
    """Edits with a model by plain ODE sampling, see `Editor`.

    A batch shares one shape, not one size: what of a photograph's size is lost in whole tokens does not part it from
    others. Each task's noise comes from its own seed.
    """

    model: TrainableEditor
    fingerprint: str
    """The hash of everything that changes the pictures: weights, adapter, steps."""
    num_steps: int = 8
    batch_size: int = 64
    drawing: Callable[[], AbstractContextManager[object]] = nullcontext
    """Entered around each batch, such as to switch an adapter off."""

    def edits(self, tasks: Iterable[EditTask]) -> Generator[tuple[int, Picture], None, None]:
        """See `StreamingEditor`. A task waits until its batch is full; at most one batch per shape waits."""
        waiting: dict[Shape, _Waiting] = {}
        for position, task in enumerate(tasks):
            try:
                shape = self.model.shape_of(*task.source.shape[:2])
            except ValueError as error:  # a size that the model cannot take
                yield position, EditFailure(f"size: {error}")
                continue
            batch = waiting.setdefault(shape, [])
            batch.append((position, task))
            if len(batch) == self.batch_size:
                yield from self._edit(waiting.pop(shape))
        for batch in waiting.values():
            yield from self._edit(batch)

    def _edit(self, batch: _Waiting) -> Generator[tuple[int, Picture], None, None]:
        """A batch; what the model refuses does not take the others with it."""
        positions = [position for position, _ in batch]
        try:
            pictures: Sequence[Picture] = self._draw([task for _, task in batch])
        except ValueError as error:
            if len(batch) > 1:
                for one in batch:
                    yield from self._edit([one])
                return
            pictures = [EditFailure(f"refused: {error}")]
        except torch.OutOfMemoryError as error:
            error.add_note(f"{len(batch)} pictures at once did not fit: a smaller editor.batch takes less")
            raise
        yield from zip(positions, pictures, strict=True)

    def _draw(self, tasks: Sequence[EditTask]) -> list[NDArray[np.uint8]]:
        with torch.no_grad(), one_thread_per_operation(), self.drawing():
            condition = self.model.encode([t.source for t in tasks], [t.instruction for t in tasks])
            shape, device = condition.noise_shape[1:], condition.device
            noise = [torch.randn(shape, generator=generator_of(task.seed, 4)) for task in tasks]
            latents = generate(self.model, condition, self.num_steps, torch.stack(noise).to(device), default_lanes())
            return self.model.decode(latents, condition.shape)
