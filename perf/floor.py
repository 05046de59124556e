"""How much arithmetic one trained image takes, and what each lever saves of it: `python -m perf.floor`.

Counted on diffusers' own transformers in their published sizes, see `training.flops`; no weights, no GPU. An image is
rolled out, has an advantage and is trained on; the judge is not in it. Seconds are the floor: what is left of the time
when all else is free and every product runs as fast as the fastest. One column takes the 989 TFLOP/s that NVIDIA
states for dense bfloat16 on an H100, H200 or H800; on a GPU, or with `--device cpu`, another one takes the best rate
that this device reaches with matrix products alone.

The levers begin with all that published recipes for Qwen-Image-Edit spend (flow_grpo, verl-omni and Flow-Factory have
most of it each, none has all): guidance, a source of 1024 x 1024 pixels, every step but the last trained, probabilities
and reference computed once more, every sample encoded anew, activations recomputed. Each row pulls one lever more; the
factors multiply to the last row's. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch

from training.config import FlowGrpoConfig, paper
from training.editors.full_size import FULL_SIZES, count_parameters, full_size_editor, square_shape
from training.flops import (
    Encoding,
    ImageFlops,
    MatmulRate,
    Passes,
    count_encoding,
    floor_seconds,
    full_size_passes,
    image_flops,
    measure_matmul_rate,
)

H100_BFLOAT16 = 989e12
"""FLOP/s, dense; the same for an H200 and an H800. Source: NVIDIA's data sheets, half of the figure with sparsity."""
RESOLUTIONS = ((384, 384), (512, 512), (512, 1024), (1024, 1024))
"""Sides in pixels of the image that is drawn and of its source."""
LEVERS_OF = "Qwen-Image-Edit-2509"


@dataclass(frozen=True, slots=True)
class Counted:
    """One editor at one resolution."""

    parameters: int
    tokens: int
    """N, of image, source and text."""
    passes: Passes
    encoding: Encoding


@cache
def counted(editor: str, resolution: tuple[int, int]) -> Counted:
    """Count, once."""
    size, shape = FULL_SIZES[editor], square_shape(*resolution)
    return Counted(
        count_parameters(full_size_editor(size).transformer),
        size.tokens(shape),
        full_size_passes(size, shape, paper().lora_rank),
        count_encoding(size, shape),
    )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a loop trains, as far as it costs."""

    config: FlowGrpoConfig
    resolution: tuple[int, int]
    guided: bool = False
    recomputing: bool = False
    encode_every_sample: bool = False

    def flops(self, editor: str) -> ImageFlops:
        """Of one image."""
        found = counted(editor, self.resolution)
        return image_flops(
            found.passes,
            self.config,
            found.encoding,
            guided=self.guided,
            recomputing=self.recomputing,
            encode_every_sample=self.encode_every_sample,
        )


def levers() -> list[tuple[str, Recipe]]:
    """What is published, and one lever more each time."""
    ours = paper()
    dear = replace(ours, window_length=9, window_end=9, old_log_prob="replay")
    recipe = Recipe(dear, (512, 1024), guided=True, recomputing=True, encode_every_sample=True)
    rows = [("all that published recipes spend", recipe)]
    for name, changes in (
        ("no guidance while training", {"guided": False}),
        ("source of 512 x 512, not 1024 x 1024", {"resolution": (512, 512)}),
        ("3 of 10 steps trained, not 9", {"config": replace(ours, old_log_prob="replay")}),
        ("probabilities of the rollout itself", {"config": ours}),
        ("each case encoded once, not each sample", {"encode_every_sample": False}),
        ("no reference, where the KL has no weight", {"config": replace(ours, kl_weight=0.0)}),
        ("activations kept, where memory allows", {"recomputing": False}),
    ):
        recipe = replace(recipe, **changes)
        rows.append((name, recipe))
    return rows


def editor_figures(editor: str, resolution: tuple[int, int], rate: MatmulRate | None) -> dict[str, Any]:
    """One row of the table."""
    found = counted(editor, resolution)
    image = Recipe(paper(), resolution).flops(editor)
    without_kl = Recipe(replace(paper(), kl_weight=0.0), resolution).flops(editor)
    figures = {
        "editor": editor,
        "target": resolution[0],
        "source": resolution[1],
        "parameters": found.parameters,
        "tokens": found.tokens,
        "forward_tflop": _tera(found.passes.reference),
        "training_tflop": _tera(found.passes.training),
        "recomputing_tflop": _tera(found.passes.recomputing),
        "parts_tflop": {name: _tera(part) for name, part in asdict(image).items()},
        "image_pflop": _peta(image.total),
        "image_pflop_without_kl": _peta(without_kl.total),
        "seconds_at_989": round(floor_seconds(image.total, H100_BFLOAT16), 4),
        "seconds_at_989_without_kl": round(floor_seconds(without_kl.total, H100_BFLOAT16), 4),
    }
    if rate is not None:
        figures["seconds_here"] = round(floor_seconds(image.total, rate.best), 4)
    return figures


def lever_figures() -> list[dict[str, Any]]:
    """One row per lever: what is left, what it gives, and what all up to it give."""
    totals = [(name, recipe.flops(LEVERS_OF).total) for name, recipe in levers()]
    before = [totals[0], *totals]
    return [
        {
            "lever": name,
            "image_pflop": _peta(total),
            "factor": round(previous / total, 3),
            "in_all": round(totals[0][1] / total, 3),
        }
        for (name, total), (_, previous) in zip(totals, before, strict=False)
    ]


def print_editors(rows: Sequence[dict[str, Any]]) -> None:
    """One line per editor and resolution."""
    print(
        f"{'':22}{'target/':>8}{'':>8}{'forward':>9}{'trained step':>14}{'recomputing':>13}"
        f"{'image':>8}{'no KL':>8}{'seconds at':>14}\n"
        f"{'':22}{'source':>8}{'tokens':>8}{'TFLOP':>9}{'TFLOP':>14}{'TFLOP':>13}{'PFLOP':>8}{'PFLOP':>8}"
        f"{'989 TFLOP/s':>14}{'  here' if 'seconds_here' in rows[0] else ''}"
    )
    for row in rows:
        print(
            f"{row['editor']:22}{row['target']}/{row['source']:<4}{row['tokens']:8}{row['forward_tflop']:9.1f}"
            f"{row['training_tflop']:14.1f}{row['recomputing_tflop']:13.1f}{row['image_pflop']:8.3f}"
            f"{row['image_pflop_without_kl']:8.3f}{row['seconds_at_989']:14.3f}"
            + (f"  {row['seconds_here']:.4g}" if "seconds_here" in row else "")
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--editors", nargs="+", choices=FULL_SIZES, default=list(FULL_SIZES), metavar="NAME")
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "none",
        help="the one whose rate is measured, or none (%(default)s)",
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="(%(default)s)")
    arguments = parser.parse_args()
    rate = None
    if arguments.device != "none":
        rate = measure_matmul_rate(arguments.device, getattr(torch, arguments.dtype))
        print(f"{rate.device}, {rate.dtype}: {rate.best / 1e12:.4g} TFLOP/s")
        for product, of_one in rate.rates.items():
            print(f"{of_one / 1e12:12.4g}  {product.m} x {product.k} x {product.n}")
    rows = [editor_figures(editor, resolution, rate) for editor in arguments.editors for resolution in RESOLUTIONS]
    print_editors(rows)
    pulled = lever_figures()
    print(f"\n{LEVERS_OF}, target 512 x 512\n{'PFLOP':>8}{'factor':>8}{'in all':>8}")
    for row in pulled:
        print(f"{row['image_pflop']:8.3f}{row['factor']:8.2f}{row['in_all']:8.2f}  {row['lever']}")
    figures = {
        "num_steps": paper().num_steps,
        "window_length": paper().window_length,
        "group_size": paper().group_size,
        "lora_rank": paper().lora_rank,
        "editors": rows,
        "levers": pulled,
    }
    if rate is not None:
        figures |= {"device": rate.device, "dtype": rate.dtype, "device_tflops": round(rate.best / 1e12, 4)}
    print(json.dumps(figures))


def _tera(flops: float) -> float:
    return round(flops / 1e12, 3)


def _peta(flops: float) -> float:
    return round(flops / 1e15, 4)


if __name__ == "__main__":
    main()
