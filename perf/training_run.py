"""Iterations of the real training loop, timed and taken apart, and the same ones by the plain loop.

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

from perf.reference_loop import iterate_singly
from training.cases import CaseSampler, TrainingCase
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

SAME = 1e-5
"""Two loops that differ by less, relatively, in loss, KL and norm of the gradient have made the same update."""


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


def timed_iterations(rig: Rig, config: FlowGrpoConfig, lanes: int = 1, encodings_per_case: int = 1) -> list[Timed]:
    """Train by `training.loop.train` and time every iteration; the adapter is then as it was.

    Args:
        config: its `iterations` are all timed: what has to warm up is warmed up by a call before.
    """
    device = rig.editor.device
    found: list[Timed] = []
    replay, steps = 0.0, 0

    def timed_gradients(*arguments: Any, **options: Any) -> tuple[list[Tensor], Measured]:
        nonlocal replay, steps
        started = _now(device)
        gradients, measured = gradients_of(*arguments, **options)
        replay, steps = replay + _now(device) - started, steps + measured.steps
        return gradients, measured

    def timed_old_log_prob(*arguments: Any, **options: Any) -> Batch:
        nonlocal replay
        started = _now(device)
        batch = with_replayed_log_prob(*arguments, **options)
        replay += _now(device) - started
        return batch

    def watch(done: Iteration) -> None:
        nonlocal wall, processor, replay, steps
        seconds, spent = _now(device) - wall, time.process_time() - processor
        metrics = done.metrics
        parts = {part: getattr(metrics, f"seconds_{part}") for part in PARTS if part != "replay"}
        found.append(
            Timed(
                steps // config.window_length,
                seconds,
                spent,
                parts | {"replay": replay, "update": parts["update"] - replay},
                metrics.loss,
                metrics.kl,
                metrics.gradient_norm,
                metrics.ratio_deviation,
                torch.tensor([group.scores for group in done.groups]),
            )
        )
        replay, steps = 0.0, 0
        wall, processor = _now(device), time.process_time()

    rig.set_up()
    with (
        _same_adapter_after(rig.editor),
        patch("training.loop.gradients_of", timed_gradients),
        patch("training.loop.with_replayed_log_prob", timed_old_log_prob),
    ):
        wall, processor = _now(device), time.process_time()
        train(
            rig.editor,
            rig.cases,
            Encoded(rig, encodings_per_case),
            lambda case_ids, images: [rig.score(image) for image in images],
            config,
            _Nowhere(),
            watch=watch,
            lanes=lanes,
            base="measured",
        )
    if not all(timed.images for timed in found):
        raise ValueError("an iteration in which no group had samples of different scores: nothing was trained")
    return found


def plain_iteration(rig: Rig, config: FlowGrpoConfig, scores_PG: Tensor) -> Timed:
    """The first iteration of the same training by the plain loop; the adapter is then as it was.

    Args:
        scores_PG: of the real loop. The plain loop's images are scored as well, but are now and then another shade,
            by rounding: their scores would make a slightly different update.
    """
    device = rig.editor.device
    picked = CaseSampler(rig.cases, config).pick(0)

    def encoder(case_id: str) -> Callable[[], Condition]:
        return lambda: rig.encode(case_id).to(device)

    def scored(images: Sequence[Pixels]) -> Tensor:
        for image in images:
            rig.score(image)
        return scores_PG

    rig.set_up()
    with _same_adapter_after(rig.editor) as parameters:
        wall, processor = _now(device), time.process_time()
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        encoders = [encoder(rig.cases[position].case_id) for position in picked]
        done = iterate_singly(rig.editor, encoders, scored, config, 0, optimizer)
        seconds, spent = _now(device) - wall, time.process_time() - processor
        optimizer.zero_grad()
    return Timed(
        done.images, seconds, spent, {}, done.loss, done.kl, done.gradient_norm, float("nan"), scores_PG
    )


def differences(ours: Timed, theirs: Timed) -> dict[str, float]:
    """How far the same iteration by two loops is apart, relative to the larger number."""

    def apart(one: float, other: float) -> float:
        return abs(one - other) / max(abs(one), abs(other))

    names = ("loss", "kl", "gradient_norm")
    return {name: apart(getattr(ours, name), getattr(theirs, name)) for name in names}


def check_same(ours: Timed, theirs: Timed) -> dict[str, float]:
    """The differences. Raises: ValueError where what two loops learnt was not the same, so that times say nothing."""
    found = differences(ours, theirs)
    if ours.images != theirs.images or not max(found.values()) <= SAME:
        raise ValueError(
            f"our loop trained on {ours.images} images, the plain one on {theirs.images}, and they differ by {found}, "
            f"more than {SAME:g}: they have not made the same update"
        )
    return found


def move_adapter(editor: TrainableEditor, size: float) -> None:
    """Give a fresh adapter something to do: policy and reference agree before, and no KL is to be compared."""
    with torch.no_grad():
        for number, parameter in enumerate(adapter_parameters(editor.transformer)):
            drawn = torch.randn(parameter.shape, generator=generator_of(7, number))
            parameter.add_(size * drawn.to(parameter.device))


@contextmanager
def _same_adapter_after(editor: TrainableEditor) -> Iterator[list[Tensor]]:
    """Within this block the adapter, whose parameters are given, may be trained."""
    parameters: list[Tensor] = list(adapter_parameters(editor.transformer))
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        yield parameters
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def _now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
