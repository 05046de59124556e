"""Our loop and the plain one on the same iteration: how long each takes, and that both learn the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from perf.reference_loop import iterate_singly
from perf.training_run import (
    Rig,
    Timed,
    fastest,
    now,
    processor_time,
    same_adapter_after,
    timed_iterations,
)
from training.cases import CaseSampler
from training.config import FlowGrpoConfig
from training.editors.interface import Condition, Pixels
from training.flops import floor_seconds, image_flops

SAME = 1e-5
"""Two loops that differ by less, relatively, in loss, KL and norm of the gradient have made the same update."""
HEAVIER = 10
"""How much more the KL weighs where losses are compared: advantages of a group add up to nothing, and without it the
loss would be what rounding leaves of them. It costs the same."""


class Comparison:
    """Our loop and the plain one on the same iterations, taking turns."""

    def __init__(self, rig: Rig, config: FlowGrpoConfig, groups: int, lanes: int) -> None:
        """With so many groups where both are measured; ours is also measured with those of the configuration."""
        self.rig, self.lanes = rig, lanes
        self.whole = replace(config, iterations=1)
        self.same = replace(self.whole, groups=groups, kl_weight=HEAVIER * config.kl_weight)
        names = ("whole", "whole in lanes", "ours", "ours in lanes", "plain")
        self.measured: dict[str, list[Timed]] = {name: [] for name in names}
        self.differences: dict[str, float] = {}

    def turn(self, done: Callable[[], object]) -> None:
        """Measure each once more; `done` is called after each."""
        rig = self.rig
        for name, config, lanes in (
            ("whole", self.whole, 1),
            ("whole in lanes", self.whole, self.lanes),
            ("ours", self.same, 1),
            ("ours in lanes", self.same, self.lanes),
        ):
            self.measured[name].extend(timed_iterations(rig, config, lanes))
            done()
        ours = self.measured["ours"][-1]
        plain = plain_iteration(rig, self.same, ours.scores_PG)
        self.differences = check_same(ours, plain)
        self.measured["plain"].append(plain)
        done()

    def figures(self, rate: float) -> dict[str, Any]:
        """Of all turns, on a machine of this rate per thread, FLOP/s."""
        flops = image_flops(self.rig.passes, self.whole, self.rig.encoding).total

        def of(name: str, lanes: int) -> dict[str, Any]:
            best = fastest(self.measured[name])
            floor = floor_seconds(flops, rate * lanes)
            return {
                "seconds_per_image": round(best.per_image, 5),
                "processor_seconds_per_image": round(processor_time(self.measured[name]), 5),
                "share_of_floor": round(floor / best.per_image, 4),
                "seconds_per_image_by_part": {part: round(took, 6) for part, took in best.parts_per_image.items()},
            }

        best = {name: fastest(measured).per_image for name, measured in self.measured.items()}
        processor = {name: processor_time(measured) for name, measured in self.measured.items()}
        return {
            "image_gflop": round(flops / 1e9, 3),
            "images_per_iteration": self.measured["whole"][0].images,
            "lanes": self.lanes,
            **of("whole in lanes", self.lanes),
            "one_lane": of("whole", 1) | {"share_of_floor_processor": round(flops / rate / processor["whole"], 4)},
            "ratio_to_reference_loop": round(best["plain"] / best["ours"], 3),
            "ratio_to_reference_loop_processor": round(processor["plain"] / processor["ours"], 3),
            # Also against one thread: the plain loop has nothing to share out, and threads inside its small
            # operations gain it nothing.
            "ratio_to_reference_loop_in_lanes": round(best["plain"] / best["ours in lanes"], 3),
            "reference_loop_images": self.measured["plain"][0].images,
            "reference_loop_seconds_per_image": round(best["plain"], 5),
            "relative_differences": self.differences,
        }


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
    with same_adapter_after(rig.editor) as parameters:
        wall, processor = now(device), time.process_time()
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        encoders = [encoder(rig.cases[position].case_id) for position in picked]
        done = iterate_singly(rig.editor, encoders, scored, config, 0, optimizer)
        seconds, spent = now(device) - wall, time.process_time() - processor
        optimizer.zero_grad()
    return Timed(done.images, seconds, spent, {}, done.loss, done.kl, done.gradient_norm, float("nan"), scores_PG)


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
