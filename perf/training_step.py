"""How long a trained image takes, against the floor, a plain loop, a published recipe: `python -m perf.training_step`.

An image is a sample that is rolled out, scored and trained on; the judge is not measured: the reward is a function of
the pixels. `share_of_floor` is the time that the image's matrix products take at this device's best rate, see
`perf.floor`, over the time it took. Iterations are those of `training.loop.train`.

Without options, minutes on a CPU: the miniature editor in the configuration of `make run`. `ratio_to_reference_loop` is
the time of `perf.reference_loop` over ours for the very same update, which is checked, each on one thread.
`ratio_to_published_recipe` is the time of the dearest row over that of ours in the table of levers, on a small editor
that has guidance and sources of any size. What is compared takes turns, and the fastest of the turns counts; what ends
in `processor` compares the processor's time instead of the clock's, and does not mind what else the machine does.

With `--editor` a published editor in its full size, of random weights: on a GPU with `--device cuda`, or a slice of it
on a CPU (`--layers 1 --target 64 --condition 64 --group-size 2`). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from perf.training_comparison import Comparison
from perf.training_full_size import FullSizeOptions, measure_full_size
from perf.training_levers import Ladder, print_levers
from perf.training_linearity import STEPS, Linearity
from perf.training_rigs import Sides, miniature_rig
from perf.training_run import move_adapter, timed_iterations
from training.config import miniature, paper
from training.editors.full_size import FULL_SIZES
from training.flops import measure_matmul_rate
from training.lanes import default_lanes, one_thread_per_operation
from training.memory import peak_memory_mb

MOVED = 0.2
"""How far the adapter is moved before: a fresh one has no KL to compare."""


def measure_miniature(rounds: int, lanes: int, quick: bool = False) -> dict[str, Any]:
    """Everything on a CPU. Returns: the figures."""
    config = replace(miniature(1), groups=2, group_size=4) if quick else miniature(1)
    rig = miniature_rig(config)
    move_adapter(rig.editor, MOVED)
    timed_iterations(rig, config, lanes)  # the first one fills caches and starts threads
    peak = peak_memory_mb("cpu")
    comparison = Comparison(rig, config, config.groups // (1 if quick else 2), lanes)
    ladder = Ladder(8, 2) if quick else Ladder()
    linear = Linearity(rig, replace(config, group_size=2), STEPS[:3], (2, 4, 8)) if quick else Linearity(rig, config)
    rates: list[float] = []
    each = len(comparison.measured) + len(ladder.steps) + len(linear.measured)
    with tqdm(total=rounds * each, desc="measured", leave=False) as bar:
        for _ in range(rounds):
            # Again and again, as the machine is not always the same.
            rates.append(measure_matmul_rate("cpu", torch.float32, tries=1 if quick else 3).best)
            comparison.turn(bar.update)
            ladder.turn(bar.update)
            linear.turn(bar.update)
    figures = {
        "editor": "miniature",
        "device": f"{os.cpu_count()} cores",
        "dtype": "float32",
        "matmul_gflops_of_one_thread": round(max(rates) / 1e9, 2),
        "rounds": rounds,
        "load_average": round(os.getloadavg()[0], 2),
        "peak_memory_mb": round(peak),
        **comparison.figures(max(rates)),
        **ladder.figures(),
        "linearity": linear.figures(),
    }
    print_levers(figures)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    ours = paper()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="little of everything, for tests")
    parser.add_argument("--lanes", type=int, default=None, help="of a CPU (its cores)")
    full = parser.add_argument_group("a published editor in its full size")
    known = [name for name, size in FULL_SIZES.items() if size.vae is not None]
    full.add_argument("--editor", choices=known, metavar="NAME", help=", ".join(known))
    full.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    full.add_argument("--dtype", choices=("bfloat16", "float32"), help="(bfloat16; on a CPU float32)")
    full.add_argument("--target", type=int, default=512, help="side of the image that is drawn, pixels (%(default)s)")
    full.add_argument("--condition", type=int, default=512, help="side of its source, pixels (%(default)s)")
    full.add_argument("--layers", type=int, help="blocks of each kind, instead of all")
    full.add_argument("--groups", type=int, default=2, help="in an iteration, which has 2 updates (%(default)s)")
    full.add_argument("--group-size", type=int, default=ours.group_size, help="(%(default)s)")
    full.add_argument("--num-steps", type=int, default=ours.num_steps, help="(%(default)s)")
    full.add_argument("--window", type=int, default=ours.window_length, help="trained steps (%(default)s)")
    full.add_argument("--kl", type=float, default=ours.kl_weight, help="0: no reference (%(default)s)")
    full.add_argument("--guided", action="store_true", help="two passes instead of one")
    full.add_argument("--old-log-prob", choices=("rollout", "replay"), default=ours.old_log_prob, help="(%(default)s)")
    full.add_argument("--micro-batch", type=int, default=ours.micro_batch, help="samples x steps (%(default)s)")
    full.add_argument("--rollout-batch", type=int, default=ours.rollout_batch, help="samples (%(default)s)")
    full.add_argument("--fit", action="store_true", help="find the largest of both that the memory takes")
    full.add_argument("--checkpointing", action="store_true", help="compute activations again, do not keep them")
    full.add_argument("--compile", action="store_true", help="the repeated blocks")
    full.add_argument("--float8", action="store_true", help="the frozen base")
    full.add_argument("--attention-backend", metavar="NAME", help="of diffusers")
    full.add_argument("--iterations", type=int, default=2, help="after one that warms up (%(default)s)")
    full.add_argument("--no-plain", action="store_true", help="leave the plain loop out")
    told = parser.parse_args(arguments)
    lanes = told.lanes or (1 if told.device == "cuda" else default_lanes())
    with one_thread_per_operation():
        if told.editor is None:
            figures = measure_miniature(1 if told.quick else told.rounds, lanes, told.quick)
        else:
            config = replace(
                ours,
                iterations=told.iterations,
                groups=told.groups,
                group_size=told.group_size,
                num_steps=told.num_steps,
                window_length=told.window,
                window_end=max(told.window, min(ours.window_end, told.num_steps - 1)),
                kl_weight=told.kl,
                old_log_prob=told.old_log_prob,
                micro_batch=told.micro_batch,
                rollout_batch=told.rollout_batch,
            )
            options = FullSizeOptions(
                editor=told.editor,
                sides=Sides(told.target, told.condition),
                device=told.device,
                dtype=told.dtype or ("float32" if told.device == "cpu" else "bfloat16"),
                lanes=lanes,
                layers=told.layers,
                guided=told.guided,
                fit=told.fit,
                activation_checkpointing=told.checkpointing,
                compile_blocks=told.compile,
                float8=told.float8,
                attention_backend=told.attention_backend,
                plain=not told.no_plain,
            )
            figures = measure_full_size(FULL_SIZES[told.editor], config, options)
    for name, value in figures.items():
        if not isinstance(value, list):
            print(f"{name:40s}{value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
