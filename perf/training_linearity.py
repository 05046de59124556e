"""Whether the time of a rollout grows linearly in the sampling steps, and that of an iteration in the group size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from perf.training_run import Rig, Timed, fastest, timed_iterations
from training.config import FlowGrpoConfig

STEPS = (5, 10, 20, 40)
GROUP_SIZES = (4, 8, 16, 32)


class Linearity:
    """Iterations of several sizes, measured in turns on one thread."""

    def __init__(
        self, rig: Rig, config: FlowGrpoConfig, steps: Sequence[int] = STEPS, sizes: Sequence[int] = GROUP_SIZES
    ) -> None:
        """Over the sampling steps and the group sizes to compare."""
        self.rig = rig
        few = replace(config, iterations=1, groups=2)
        self.by_steps = [(number, replace(few, num_steps=number)) for number in steps]
        self.by_size = [(size, replace(few, group_size=size)) for size in sizes]
        self.measured: dict[FlowGrpoConfig, list[Timed]] = {config: [] for _, config in (*self.by_steps, *self.by_size)}

    def turn(self, done: Callable[[], object]) -> None:
        """Measure each once more; `done` is called after each."""
        for config, measured in self.measured.items():
            measured.extend(timed_iterations(self.rig, config))
            done()

    def figures(self) -> dict[str, Any]:
        """The lines and how far each point is off."""
        rollout = {
            number: min(timed.parts_per_image["rollout"] for timed in self.measured[config])
            for number, config in self.by_steps
        }
        iteration = {size: fastest(self.measured[config]).seconds for size, config in self.by_size}
        return {
            "rollout_seconds_per_image_by_num_steps": line(rollout),
            "iteration_seconds_by_group_size": line(iteration),
        }


def line(points: Mapping[int, float]) -> dict[str, Any]:
    """The line that is relatively closest to the points, and each point's deviation from it, relative to the line."""
    x, y = (np.array(list(values), dtype=float) for values in (points.keys(), points.values()))
    slope, constant = np.polyfit(x, y, 1, w=1 / y)
    deviations = y / (constant + slope * x) - 1
    return {
        "points": {str(number): round(value, 5) for number, value in points.items()},
        "constant": round(float(constant), 6),
        "slope": round(float(slope), 6),
        "deviations": {str(number): round(float(off), 4) for number, off in zip(points, deviations, strict=True)},
        "largest_deviation": round(float(np.abs(deviations).max()), 4),
    }
