"""Iterations of the real training loop, timed and taken apart.

An *image* here is a sample that was rolled out, scored and trained on. Times are the clock's, in seconds; those of the
processor, in all threads, are taken beside them: on a machine that others use as well they are what can be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from training.cases import TrainingCase
from training.config import FlowGrpoConfig
from training.editors.interface import Condition, Pixels, Shape, TrainableEditor
from training.flops import Encoding, Passes
from training.loop import Iteration, train
from training.lora import adapter_parameters
from training.rollout import generator_of
from training.update import Batch, Measured, gradients_of, with_replayed_log_prob

PARTS = ("encode", "rollout", "reward", "replay", "update")
"""What an iteration's time is spent on. Decoding belongs to the rollout; reference and, where they are computed once
more, old probabilities to the replay; the update is the optimiser's step and the running average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """An editor with an adapter, cases for it, and what they cost by counting."""

    editor: TrainableEditor
    cases: Sequence[TrainingCase]
    encode: Callable[[str], Condition]
    """Encodes a case, by its id, anew each time; or gives a condition that was made before, which takes no time."""
    score: Callable[[Pixels], float]
    """The reward, 0 to 5, a function of the pixels that takes next to no time."""
    passes: Passes
    """Of one sample, without guidance, the mean of the cases, in FLOP."""
    encoding: Encoding
    """What `encode` and `decode` do, in FLOP."""
    set_up: Callable[[], None] = lambda: None
    """Puts the editor, which several rigs may share, into the settings of this one."""


class Encoded:
    """The conditions of a rig: encoded when an iteration asks for them, and not kept for the next."""

    def __init__(self, rig: Rig, times: int = 1) -> None:
        """Of a rig, each case encoded so many times over, as in a loop that encodes every sample."""
        self.rig = rig
        self.times = times

    def __call__(self, case_ids: Sequence[str]) -> list[Condition]:
        return [[self.rig.encode(case_id) for _ in range(self.times)][-1] for case_id in case_ids]

    def shape_of(self, case_id: str) -> Shape:
        """The shape of a case."""
        return self.rig.encode(case_id).shape


class Timed(NamedTuple):
    """One iteration."""

    images: int
    seconds: float
    processor_seconds: float
    parts: Mapping[str, float]
    """Seconds by what they were spent on; what is left is bookkeeping."""
    loss: float
    kl: float
    gradient_norm: float
    ratio_deviation: float
    """Largest |ratio - 1| of the update that is on-policy."""
    scores_PG: Tensor

    @property
    def per_image(self) -> float:
        """Seconds per image."""
        return self.seconds / self.images

    @property
    def parts_per_image(self) -> dict[str, float]:
        """Seconds per image of each part."""
        return {part: self.parts[part] / self.images for part in PARTS}


def fastest(of: Sequence[Timed]) -> Timed:
    """The iteration that was disturbed least."""
    return min(of, key=lambda timed: timed.per_image)


def processor_time(of: Sequence[Timed]) -> float:
    """The least seconds of a processor per image, all threads together."""
    return min(timed.processor_seconds / timed.images for timed in of)


class _Nowhere:
    """A sink that keeps nothing."""

    def save(self, checkpoint: Any) -> None: ...

    def load(self) -> None:
        return None


class _Stopwatch:
    """Times iterations while a training runs, and what the loop's own clock does not tell apart."""

    def __init__(self, device: torch.device, window_length: int) -> None:
        self.device, self.window_length = device, window_length
        self.found: list[Timed] = []

    def start(self) -> None:
        """A new iteration begins."""
        self.replay, self.steps = 0.0, 0
        self.wall, self.processor = now(self.device), time.process_time()

    def gradients(self, *arguments: Any, **options: Any) -> tuple[list[Tensor], Measured]:
        """In place of `gradients_of`."""
        started = now(self.device)
        gradients, measured = gradients_of(*arguments, **options)
        self.replay += now(self.device) - started
        self.steps += measured.steps
        return gradients, measured

    def old_log_prob(self, *arguments: Any, **options: Any) -> Batch:
        """In place of `with_replayed_log_prob`."""
        started = now(self.device)
        batch = with_replayed_log_prob(*arguments, **options)
        self.replay += now(self.device) - started
        return batch

    def watch(self, done: Iteration) -> bool:
        """An iteration is over; another one shall follow."""
        seconds, spent = now(self.device) - self.wall, time.process_time() - self.processor
        metrics = done.metrics
        parts = {part: getattr(metrics, f"seconds_{part}") for part in PARTS if part != "replay"}
        parts |= {"replay": self.replay, "update": parts["update"] - self.replay}
        self.found.append(
            Timed(
                images=self.steps // self.window_length,
                seconds=seconds,
                processor_seconds=spent,
                parts=parts,
                loss=metrics.loss,
                kl=metrics.kl,
                gradient_norm=metrics.gradient_norm,
                ratio_deviation=metrics.ratio_deviation,
                scores_PG=torch.tensor([group.scores for group in done.groups]),
            )
        )
        self.start()
        return False


def timed_iterations(rig: Rig, config: FlowGrpoConfig, lanes: int = 1, encodings_per_case: int = 1) -> list[Timed]:
    """Train by `training.loop.train` and time every iteration; the adapter is then as it was.

    Args:
        config: its `iterations` are all timed: what has to warm up is warmed up by a call before.
    """
    stopwatch = _Stopwatch(rig.editor.device, config.window_length)

    def reward(case_ids: Sequence[str], images: Sequence[Pixels]) -> list[float | None]:
        return [rig.score(image) for image in images]

    rig.set_up()
    with (
        same_adapter_after(rig.editor),
        patch("training.loop.gradients_of", stopwatch.gradients),
        patch("training.loop.with_replayed_log_prob", stopwatch.old_log_prob),
    ):
        stopwatch.start()
        train(
            rig.editor,
            rig.cases,
            Encoded(rig, encodings_per_case),
            reward,
            config,
            _Nowhere(),
            watch=stopwatch.watch,
            lanes=lanes,
            base="measured",
        )
    if not all(timed.images for timed in stopwatch.found):
        raise ValueError("an iteration in which no group had samples of different scores: nothing was trained")
    return stopwatch.found


def move_adapter(editor: TrainableEditor, size: float) -> None:
    """Give a fresh adapter something to do: policy and reference agree before, and no KL is to be compared."""
    with torch.no_grad():
        for number, parameter in enumerate(adapter_parameters(editor.transformer)):
            drawn = torch.randn(parameter.shape, generator=generator_of(7, number))
            parameter.add_(size * drawn.to(parameter.device))


@contextmanager
def same_adapter_after(editor: TrainableEditor) -> Iterator[list[Tensor]]:
    """Within this block the adapter, whose parameters are given, may be trained."""
    parameters: list[Tensor] = list(adapter_parameters(editor.transformer))
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        yield parameters
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
