"""What each lever of `perf.floor` gives when it is pulled for real, on the small editor of `perf.training_rigs`.

Everything is trained by our own loop, the dearest recipe too: what published loops lose beside their recipe, such as
drawing samples one by one, is `perf.reference_loop`'s to show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from perf.floor import Recipe, levers
from perf.training_rigs import SMALLER, Sides, SmallEditor
from perf.training_run import Rig, Timed, fastest, processor_time, timed_iterations
from training.config import FlowGrpoConfig, paper
from training.flops import image_flops

LIKE_OURS = "each case encoded once, not each sample"
"""The lever with which the recipe is ours; those after it give up the KL, or memory."""


@dataclass(frozen=True, slots=True)
class Step:
    """A recipe, ready to be measured."""

    name: str
    recipe: Recipe
    rig: Rig
    measured: list[Timed]

    @property
    def flops(self) -> float:
        """Of one image, counted."""
        recipe = self.recipe
        return image_flops(
            self.rig.passes,
            recipe.config,
            self.rig.encoding,
            guided=recipe.guided,
            recomputing=recipe.recomputing,
            encode_every_sample=recipe.encode_every_sample,
        ).total


class Ladder:
    """The recipes from the dearest to the cheapest, measured in turns on one thread."""

    def __init__(self, shrink: int = 4, group_size: int = 4) -> None:
        """With sides of images so much shorter than the published ones; 4 suits the editor."""
        self.steps: list[Step] = []
        small = SmallEditor(_small(paper(), group_size))
        for name, recipe in levers():
            target, condition = (side // shrink for side in recipe.resolution)
            rig = small.rig(Sides(target, condition), recipe.guided, recipe.recomputing)
            recipe = replace(recipe, config=_small(recipe.config, group_size))
            self.steps.append(Step(name, recipe, rig, []))

    def turn(self, done: Callable[[], object]) -> None:
        """Measure every recipe once more; `done` is called after each."""
        for step in self.steps:
            times = step.recipe.config.group_size if step.recipe.encode_every_sample else 1
            step.measured.extend(timed_iterations(step.rig, step.recipe.config, encodings_per_case=times))
            done()

    def figures(self) -> dict[str, Any]:
        """The ratios and the table. Each factor is to the row before."""
        rows: list[dict[str, Any]] = []
        seconds = [fastest(step.measured).per_image for step in self.steps]
        processor = [processor_time(step.measured) for step in self.steps]
        counted = [step.flops for step in self.steps]
        for i, step in enumerate(self.steps):
            before = max(0, i - 1)
            rows.append(
                {
                    "lever": step.name,
                    "seconds_per_image": round(seconds[i], 4),
                    "factor": round(seconds[before] / seconds[i], 3),
                    "processor_factor": round(processor[before] / processor[i], 3),
                    "counted_factor": round(counted[before] / counted[i], 3),
                    "in_all": round(seconds[0] / seconds[i], 3),
                    "processor_in_all": round(processor[0] / processor[i], 3),
                    "counted_in_all": round(counted[0] / counted[i], 3),
                }
            )
        ours = next(row for row in rows if row["lever"] == LIKE_OURS)
        return {
            "ratio_to_published_recipe": ours["in_all"],
            "ratio_to_published_recipe_processor": ours["processor_in_all"],
            "ratio_to_published_recipe_counted": ours["counted_in_all"],
            "ratio_to_published_recipe_all_levers": rows[-1]["in_all"],
            "levers": rows,
        }


def print_levers(figures: dict[str, Any]) -> None:
    """The table."""
    print(f"{'s/image':>10}{'factor':>9}{'counted':>9}{'in all':>9}{'counted':>9}")
    for row in figures["levers"]:
        print(
            f"{row['seconds_per_image']:10.4f}{row['factor']:9.2f}{row['counted_factor']:9.2f}{row['in_all']:9.2f}"
            f"{row['counted_in_all']:9.2f}  {row['lever']}"
        )


def _small(config: FlowGrpoConfig, group_size: int) -> FlowGrpoConfig:
    rank = config.lora_rank // SMALLER
    return replace(config, iterations=1, groups=2, group_size=group_size, lora_rank=rank, lora_alpha=2 * rank)
