"""What a configuration would take before anything is there: calls to judges, GPU-hours, dollars, time, disk.

GPU-hours are counted operations (`training.flops`) divided by what a GPU does; nothing is measured for them.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from storage.records import EditType
from tasks.editing.settings import DiffusersModel, ModelConfig
from tasks.hp_scorer.catalogue import rubrics_of
from tasks.hp_scorer.prices import price_of, tokens_of_call
from tasks.hp_scorer.question_bank import bank_of
from tasks.hp_scorer.settings import ScorerConfig
from tasks.settings import Settings
from tasks.sizes import PipelineConfig
from training.editors.settings import DiffusersSettings

if TYPE_CHECKING:  # torch, which flows do without
    from training.editors.full_size import FullSize
    from training.editors.interface import Shape
    from training.flops import Encoding, Passes

KEPT_SHARE = 0.35
"""Of the rated edits that are not full, assumed for what is encoded: the paper does not say."""
RATERS = 5
SECONDS_PER_RATING = 15
"""Assumed, of one person rating one edit."""
LINE = 118
"""Characters of a line below the table, which is about as wide."""
OPEN_JUDGES = {"Qwen/Qwen3-VL-32B-Instruct": 33.4e9, "Qwen/Qwen3-VL-8B-Instruct": 8.8e9}
"""Parameters of judges that one serves oneself: a token takes two operations of each."""


class Costs(Settings):
    """Prices and speeds that an estimate is made with."""

    gpu_dollars_per_hour: float = Field(3.0, ge=0, description="Of one GPU.")
    tflops: float = Field(989.0, gt=0, description="Dense bfloat16, of one GPU; 989: H100, H200.")
    attained: float = Field(0.4, gt=0, le=1, description="The share of that which is reached; assumed, not measured.")

    def hours(self, flops: float) -> float:
        """GPU-hours of so many operations."""
        return flops / (self.tflops * 1e12 * self.attained) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Of one stage."""

    stage: str
    items: int
    what: str
    """What the items are."""
    calls: int = 0
    tokens: int = 0
    editor_hours: float = 0.0
    judge_hours: float = 0.0
    """GPU-hours of a judge that one serves oneself."""
    price: float | None = 0.0
    """Of calls to a judge elsewhere, US dollars; None where nobody knows."""

    def dollars(self, costs: Costs) -> float | None:
        """With the GPUs."""
        gpus = (self.editor_hours + self.judge_hours) * costs.gpu_dollars_per_hour
        return None if self.price is None else self.price + gpus


def estimate(config: PipelineConfig, costs: Costs) -> list[Estimate]:
    """By stage, for one run from nothing. Raises: ValueError for an editor whose published size is not known."""
    from training.flops import image_flops

    types, grpo = len(EditType), config.train.grpo
    edits, bench = types * config.collect.train_per_edit_type, types * config.collect.bench_per_edit_type
    triplets, pool = types * config.pick.per_edit_type, types * config.pick.pool_per_edit_type
    kept, images = round(edits * KEPT_SHARE), grpo.iterations * grpo.groups * grpo.group_size
    work, guided = _work_of(config.train.model), _is_guided(config.train.model)
    passes, encoding = work
    drawn = config.benchmark.editor.steps * passes.reference * (2 if guided else 1) + encoding.decode + encoding.encode
    recomputing = config.train.running.activation_checkpointing
    # Encoded once, before: what is left of it is in the stage that does it.
    trained = image_flops(passes, grpo, encoding._replace(encode=0), guided=guided, recomputing=recomputing)

    def judged(stage: str, what: str, items: int, scorer: ScorerConfig, each: int = 1, **more: float) -> Estimate:
        calls, tokens, hours, price = _judging(scorer, items * each, costs)
        of = what if scorer.kind == "measured" else f"{what}, {scorer.judge.model.rpartition('/')[2]}"
        return Estimate(
            stage=stage, items=items, what=of, calls=calls, tokens=tokens, judge_hours=hours, price=price, **more
        )

    def calibrated(scorer: ScorerConfig) -> Estimate:
        # As often as in the first round of the loop: every question of the bank is tried on every triplet.
        bank = bank_of(scorer)
        tried = 1 + math.ceil(sum(len(bank[t]) for t in EditType) / types)
        return judged("calibrate-scorer", "triplets", triplets, scorer, tried)

    def watched(scorer: ScorerConfig) -> Estimate:
        # One sample of each group, every so many iterations, the first included.
        looks = math.ceil(grpo.iterations / grpo.second_judge_every)
        return judged("post-train", "images, second look", looks * grpo.groups, scorer)

    people = RATERS * triplets * SECONDS_PER_RATING / 3600
    return [
        Estimate(stage="collect-cases", items=edits + bench, what="cases"),
        Estimate(stage="edit-baseline", items=edits, what="edits", editor_hours=costs.hours(edits * drawn)),
        judged("pick-triplets", "edits", pool, config.pick.scorer),
        Estimate(stage="collect-labels", items=RATERS * triplets, what=f"ratings, some {people:.0f} hours of people"),
        *([calibrated(config.evaluate.scorer)] if config.evaluate else []),
        calibrated(config.calibrate.scorer),
        judged("rate-edits", "edits", edits, config.rate.scorer),
        Estimate(stage="build-realpref", items=kept, what=f"cases kept, if {KEPT_SHARE:.0%} are"),
        Estimate(stage="encode-cases", items=kept, what="cases", editor_hours=costs.hours(kept * encoding.encode)),
        judged("post-train", "images", images, config.train.scorer, editor_hours=costs.hours(images * trained.total)),
        *([watched(config.train.second_judge)] if config.train.second_judge else []),
        judged("benchmark", "edits", 2 * bench, config.benchmark.scorer, editor_hours=costs.hours(2 * bench * drawn)),
    ]


def estimate_lines(config: PipelineConfig, costs: Costs) -> Iterator[str]:
    """The same for people: a table, the sum, time and disk, and what it rests on."""
    rows = estimate(config, costs)
    header = ("stage", "items", "calls", "M tokens", "GPU-h editor", "GPU-h judge", "dollars", "of what, judged by")
    cells = [header]
    for row in rows:
        dollars = row.dollars(costs)
        cells.append(
            (
                row.stage,
                f"{row.items:,}",
                _number(row.calls),
                _number(row.tokens / 1e6),
                _number(row.editor_hours, 1),
                _number(row.judge_hours, 1),
                "unknown" if dollars is None else _number(dollars),
                row.what,
            )
        )
    known = [dollars for row in rows if (dollars := row.dollars(costs)) is not None]
    cells.append(
        (
            "all",
            "",
            _number(sum(row.calls for row in rows)),
            _number(sum(row.tokens for row in rows) / 1e6),
            _number(sum(row.editor_hours for row in rows), 1),
            _number(sum(row.judge_hours for row in rows), 1),
            f"{_number(sum(known))}{'' if len(known) == len(rows) else ' and more'}",
            "",
        )
    )
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for line in cells:
        first, *middle, last = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join([first.strip().ljust(widths[0]), *middle, last.strip()]).rstrip()
    told = (_time_line(config, rows), _disk_line(config, rows), _basis_line(costs))
    yield from (part for line in told for part in textwrap.wrap(line, LINE, subsequent_indent="  "))


def _number(value: float, digits: int = 0) -> str:
    """For a cell: nothing is a dash, and what is too little to show is no nothing."""
    if not value:
        return "-"
    least = 10**-digits
    return f"{value:,.{digits}f}" if value >= least / 2 else f"<{least:g}"


def _time_line(config: PipelineConfig, rows: Sequence[Estimate]) -> str:
    """How long training takes on its GPUs, and how many a judge of one's own needs beside them to keep up."""
    training, *_ = (row for row in rows if row.stage == "post-train")
    gpus = config.train.running.processes
    hours = training.editor_hours / gpus
    beside = math.ceil(sum(row.judge_hours for row in rows if row.stage == "post-train") / hours)
    judge = f" and {beside} beside for the judge" if beside else ", if the judge keeps up"
    return f"Time: training takes about {hours:,.0f} hours on {gpus} GPU{'s' if gpus > 1 else ''}{judge}."


def _disk_line(config: PipelineConfig, rows: Sequence[Estimate]) -> str:
    (cases,) = (row.items for row in rows if row.stage == "encode-cases")
    disk, every, grpo = disk_of(config), config.train.running.publish_every, config.train.grpo
    count = sum(map(config.train.publishes_at, range(grpo.checkpoint_every, grpo.iterations, grpo.checkpoint_every)))
    return (
        f"Disk: {cases:,} encodings of {disk.encoding / 1e6:.1f} MB, {cases * disk.encoding / 1e9:,.0f} GB; {count} "
        f"checkpoints published on the way (publish_every {every}), each {disk.state / 1e9:.1f} GB of state and "
        f"{disk.weights / 1e9:.2f} GB of weights, {count * (disk.state + disk.weights) / 1e9:,.0f} GB. Images, which "
        f"depend on the photographs, are not counted."
    )


def _basis_line(costs: Costs) -> str:
    return (
        f"GPU-hours: counted operations at {costs.attained:.0%} of {costs.tflops:g} TFLOP/s (assumed, not measured); a "
        f"GPU at ${costs.gpu_dollars_per_hour:g} an hour. Judges' tokens: roughly, by the length of the rubrics."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Bytes that one of each takes."""

    encoding: int
    """A case, encoded."""
    state: int
    """A published checkpoint: what training goes on from."""
    weights: int
    """The adapter that is published with it."""


def disk_of(config: PipelineConfig) -> Disk:
    """By the model that is trained, on the meta device. Raises: ValueError where its published size is not known."""
    import torch

    from training.editors.full_size import full_size_editor, random_condition
    from training.lora import add_adapter

    settings = _published(config.train.model)
    size = size_of(settings.model)
    editor = full_size_editor(size, guidance=settings.guidance)
    with torch.device("meta"):
        adapter = add_adapter(editor.transformer, config.train.grpo, 0, editor.lora_targets)
        tensors = random_condition(size, editor, _shape_of(settings)).tensors().values()
    numbers, each = sum(parameter.numel() for parameter in adapter), getattr(torch, settings.dtype).itemsize
    return Disk(
        # Kept in the precision that the model computes in, which on the meta device is another.
        encoding=sum(t.numel() * (each if t.is_floating_point() else t.itemsize) for t in tensors),
        # In float32 the parameter, its average and the optimiser's two moments.
        state=4 * 4 * numbers,
        weights=4 * numbers,
    )


def _is_guided(model: ModelConfig) -> bool:
    return isinstance(model, DiffusersModel) and model.settings.guidance > 1


def _work_of(model: ModelConfig) -> tuple[Passes, Encoding]:
    """What one image takes in one pass, and around it."""
    from training.flops import count_encoding, full_size_passes

    settings = _published(model)
    size, shape = size_of(settings.model), _shape_of(settings)
    return full_size_passes(size, shape), count_encoding(size, shape)


def _published(model: ModelConfig) -> DiffusersSettings:
    """Raises: ValueError for a model that is none of the published ones."""
    if not isinstance(model, DiffusersModel):
        raise ValueError(
            f"model {model.kind}: its work is not worth counting; an estimate is for the published editors"
        )
    return model.settings


def _shape_of(settings: DiffusersSettings) -> Shape:
    """Of a square image after a square source."""
    from training.editors.full_size import square_shape

    return square_shape(_side(settings.target_area), _side(settings.condition_area))


def size_of(model: str) -> FullSize:
    """The published size of a model by its name. Raises: ValueError that says which are known."""
    from training.editors.full_size import FULL_SIZES

    name = model.rstrip("/").rpartition("/")[2]
    if name not in FULL_SIZES:
        raise ValueError(f"{model}: its published size is not known; known are {', '.join(sorted(FULL_SIZES))}")
    return FULL_SIZES[name]


def _side(area: int) -> int:
    """Of a square of this area, in whole tokens."""
    return max(32, round(math.sqrt(area) / 32) * 32)


def _judging(scorer: ScorerConfig, judgements: int, costs: Costs) -> tuple[int, int, float, float | None]:
    """Calls, tokens, GPU-hours of one's own, dollars elsewhere; of as many judgements of each edit type."""
    if scorer.kind == "measured":
        return 0, 0, 0.0, 0.0
    calls = judgements * scorer.repeats
    each = [tokens_of_call(scorer, rubric) for rubric in rubrics_of(scorer).values()]
    prompt, completion = (sum(getattr(t, name) for t in each) / len(each) for name in ("prompt", "completion"))
    tokens = round(calls * (prompt + completion))
    if scorer.judge.model in OPEN_JUDGES:
        return calls, tokens, costs.hours(2 * OPEN_JUDGES[scorer.judge.model] * tokens), 0.0
    price = price_of(scorer.judge)
    return (
        calls,
        tokens,
        0.0,
        None if price is None else calls * (prompt * price.prompt + completion * price.completion) / 1e6,
    )
