"""One training step of a published editor in its full size: random weights, conditions of noise, all else real.

What is timed is everything between two cases' encodings and the optimiser's step: rollout, decoding, replay with the
reference, update. Encoding happens before training in the product, and the judge is not here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from tqdm import tqdm

from perf.training_comparison import differences, plain_iteration
from perf.training_rigs import Sides, full_size_rig
from perf.training_run import Encoded, Rig, fastest, move_adapter, timed_iterations
from tasks.post_training.fitting import fitting_sizes
from training.config import FlowGrpoConfig
from training.editors.diffusers_editor import DiffusersEditor
from training.editors.full_size import FullSize, count_parameters
from training.editors.interface import Condition
from training.float8 import convert_measured
from training.flops import floor_seconds, image_flops, measure_matmul_rate
from training.memory import explain, is_out_of_memory, peak_memory_mb
from training.parallel import prepare

MOVED = 0.02
"""How far the adapter is moved before, as in a training that has begun."""
PLAIN_GROUP = 2
"""Samples per group of the plain loop, which takes as long for each."""
PLAIN_KL = 1.0
"""Its weight where losses are compared, see `perf.training_comparison.HEAVIER`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSizeOptions:
    """How it is run."""

    editor: str
    sides: Sides
    device: Literal["cpu", "cuda"]
    dtype: Literal["bfloat16", "float32"]
    lanes: int = 1
    layers: int | None = None
    guided: bool = False
    fit: bool = False
    activation_checkpointing: bool = False
    compile_blocks: bool = False
    float8: bool = False
    attention_backend: str | None = None
    plain: bool = True


def measure_full_size(size: FullSize, config: FlowGrpoConfig, options: FullSizeOptions) -> dict[str, Any]:
    """Measure. Returns: the figures. Raises: SystemExit that says what to lower where memory runs out."""
    try:
        return _measure(size, config, options)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sides = {"target_area": options.sides.target**2, "condition_area": options.sides.condition**2}
        raise SystemExit(explain(error, config, asdict(options), sides)) from error


def _measure(size: FullSize, config: FlowGrpoConfig, options: FullSizeOptions) -> dict[str, Any]:
    float8_error: dict[str, float] = {}

    def set_up(editor: DiffusersEditor, group: Condition) -> None:
        if options.float8:
            converted, error = convert_measured(editor, group, config)
            float8_error.update(float8_saved_mb=round(converted.saved_mb), float8_velocity_error=error.velocity)
        prepare(
            editor.transformer,
            compile_blocks=options.compile_blocks,
            activation_checkpointing=options.activation_checkpointing,
            attention_backend=options.attention_backend,
        )

    rate = measure_matmul_rate(options.device, getattr(torch, options.dtype))
    with tqdm(total=4, desc=options.editor, leave=False) as bar:
        rig = full_size_rig(
            size, options.sides, config, options.device, options.dtype, options.guided, options.layers, set_up
        )
        move_adapter(rig.editor, MOVED)
        bar.update()
        if options.fit:
            sizes = fitting_sizes(rig.editor, rig.cases, Encoded(rig), _of_few_steps(config))  # type: ignore[arg-type]
            config = replace(config, micro_batch=sizes["micro_batch"], rollout_batch=sizes["rollout_batch"])
        timed_iterations(rig, replace(_of_few_steps(config), iterations=1), options.lanes)
        bar.update()
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        measured = timed_iterations(rig, config, options.lanes)
        peak = peak_memory_mb(options.device)
        bar.update()
        plain: dict[str, Any] = {"ratio_to_reference_loop": None}
        best = fastest(measured)
        if options.plain:
            plain = _against_plain(rig, config, best.per_image)
        bar.update()
    flops = image_flops(
        rig.passes, config, rig.encoding, guided=options.guided, recomputing=options.activation_checkpointing
    )
    # The floor is of the gradient, whatever the memory costs; what is really computed is told beside it.
    floor = image_flops(rig.passes, config, rig.encoding, guided=options.guided)
    floor_of = {"rollout": floor.rollout + floor.decode, "replay": floor.replay + floor.reference + floor.old_log_prob}
    at_best = rate.best * options.lanes
    return {
        **asdict(options),
        "device": rate.device,
        "parameters": count_parameters(rig.editor.transformer),
        "tokens": size.tokens(options.sides.shape),
        "group_size": config.group_size,
        "num_steps": config.num_steps,
        "window_length": config.window_length,
        "kl_weight": config.kl_weight,
        "micro_batch": config.micro_batch,
        "rollout_batch": config.rollout_batch,
        "matmul_tflops": round(rate.best / 1e12, 4),
        "image_tflop": round(floor.total / 1e12, 4),
        "image_tflop_computed": round(flops.total / 1e12, 4),
        "images_per_iteration": best.images,
        "seconds_per_image": round(best.per_image, 5),
        "share_of_floor": round(floor_seconds(floor.total, at_best) / best.per_image, 4),
        "share_of_floor_by_part": {
            part: round(floor_seconds(of_part, at_best) / best.parts_per_image[part], 4)
            for part, of_part in floor_of.items()
        },
        "seconds_per_image_by_part": {part: round(took, 6) for part, took in best.parts_per_image.items()},
        "seconds_per_image_of_all": [round(timed.per_image, 5) for timed in measured],
        "peak_memory_mb": round(peak),
        "ratio_deviation": best.ratio_deviation,
        "ratio_to_published_recipe": None,
        **float8_error,
        **plain,
    }


def _of_few_steps(config: FlowGrpoConfig) -> FlowGrpoConfig:
    """With as few sampling steps as there can be: every kind of pass occurs, in its size, sooner."""
    return replace(config, window_end=config.window_length, num_steps=config.window_length + 1)


def _against_plain(rig: Rig, config: FlowGrpoConfig, seconds_per_image: float) -> dict[str, Any]:
    """The plain loop on a few samples, and the same few by our loop, to see that both learn the same.

    How close they come is told, not checked: bfloat16 rounds what is batched otherwise to other numbers.
    """
    few = replace(config, iterations=1, group_size=PLAIN_GROUP, groups=2, kl_weight=PLAIN_KL)
    (ours,) = timed_iterations(rig, few)
    plain = plain_iteration(rig, few, ours.scores_PG)
    return {
        "ratio_to_reference_loop": round(plain.per_image / seconds_per_image, 3),
        "reference_loop_images": plain.images,
        "reference_loop_seconds_per_image": round(plain.per_image, 5),
        "relative_differences": differences(ours, plain),
    }
