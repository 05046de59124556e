"""The measurement of a training step says what it promises, and both loops learn the same; nothing is timed here."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from perf import training_full_size
from perf.training_comparison import SAME, check_same, plain_iteration
from perf.training_full_size import FullSizeOptions, measure_full_size
from perf.training_levers import LIKE_OURS
from perf.training_linearity import line
from perf.training_rigs import SMALL, Sides, checksum
from perf.training_run import PARTS, Encoded, Rig, Timed, move_adapter, timed_iterations
from storage.records import EditType
from training import config as configs
from training.cases import TrainingCase
from training.editors.full_size import FULL_SIZES
from training.flops import NOTHING, Passes, Product, measure_matmul_rate
from training.lora import adapter_parameters, add_adapter

ROOT = Path(__file__).parents[2]
QWEN = FULL_SIZES["Qwen-Image-Edit-2509"]
NARROW = replace(QWEN, config={**QWEN.config, "num_attention_heads": 1}, vae=SMALL.vae, vision_side=56)
"""Of its depth, without its width."""
FEW = replace(configs.paper(), iterations=1, groups=2, group_size=2, num_steps=4, window_length=2, window_end=2)
OPTIONS = FullSizeOptions(
    editor="Qwen-Image-Edit-2509", sides=Sides(32, 64), device="cpu", dtype="float32", lanes=2, layers=2
)


def figures_of(*options):
    command = [sys.executable, "-m", "perf.training_step", *options]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_the_quick_run_has_all_figures():
    figures = figures_of("--quick")
    for name in ("seconds_per_image", "share_of_floor", "peak_memory_mb", "matmul_gflops_of_one_thread"):
        assert figures[name] > 0, name
    for name in ("reference_loop", "published_recipe"):
        assert figures[f"ratio_to_{name}"] > 0
        assert figures[f"ratio_to_{name}_processor"] > 0
    assert figures["ratio_to_reference_loop_in_lanes"] > 0
    assert figures["dtype"] == "float32"
    assert set(figures["seconds_per_image_by_part"]) == set(PARTS)
    assert figures["one_lane"]["share_of_floor"] > 0
    assert max(figures["relative_differences"].values()) <= SAME
    assert set(figures["relative_differences"]) == {"loss", "kl", "gradient_norm"}
    rows = figures["levers"]
    assert [row["lever"] for row in rows].count(LIKE_OURS) == 1
    assert rows[0]["in_all"] == rows[0]["counted_in_all"] == 1
    assert all(row["counted_factor"] > 1 for row in rows[1:])
    assert figures["ratio_to_published_recipe_counted"] > 5
    assert set(figures["linearity"]) == {"rollout_seconds_per_image_by_num_steps", "iteration_seconds_by_group_size"}


@pytest.fixture
def rig(tiny_editor_factory):
    editor = tiny_editor_factory()
    # The KL weighs enough for the loss to be more than what advantages that add up to nothing leave of rounding.
    config = replace(configs.tiny(), iterations=1, kl_weight=100.0)
    add_adapter(editor.transformer, config, 0)
    move_adapter(editor, 0.1)
    pixels = torch.randint(0, 256, (32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()

    @torch.no_grad()
    def encode(case_id):
        return editor.encode([pixels], [f"remove the {case_id}"])

    cases = [TrainingCase(case_id=name, edit_type=EditType.REMOVAL) for name in ("cat", "dog")]
    rig = Rig(editor=editor, cases=cases, encode=encode, score=checksum, passes=Passes(1, 1, 1, 1), encoding=NOTHING)
    return rig, config


def test_both_loops_make_the_same_iteration_and_leave_the_adapter_alone(rig):
    rig, config = rig
    before = [parameter.detach().clone() for parameter in adapter_parameters(rig.editor.transformer)]
    (ours,) = timed_iterations(rig, config)
    plain = plain_iteration(rig, config, ours.scores_PG)
    assert ours.images == plain.images == config.groups * config.group_size
    assert ours.loss != 0
    assert max(check_same(ours, plain).values()) <= SAME
    by_reward_alone = replace(config, kl_weight=1e-9)
    (ours,) = timed_iterations(rig, by_reward_alone)
    plain = plain_iteration(rig, by_reward_alone, ours.scores_PG)
    assert plain.gradient_norm == pytest.approx(ours.gradient_norm, rel=SAME)
    after = adapter_parameters(rig.editor.transformer)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert sum(ours.parts.values()) == pytest.approx(ours.seconds, rel=0.2)


def test_loops_that_learn_something_else_are_not_compared(rig):
    rig, config = rig
    (ours,) = timed_iterations(rig, config)
    other = plain_iteration(rig, replace(config, kl_weight=99.9), ours.scores_PG)
    with pytest.raises(ValueError, match="not made the same update"):
        check_same(ours, other)


def test_probabilities_computed_once_more_count_as_replay(rig):
    rig, config = rig
    (ours,) = timed_iterations(rig, replace(config, old_log_prob="replay"))
    assert 0 <= ours.parts["update"] < ours.parts["replay"]


def test_encoding_every_sample_encodes_as_often(rig):
    rig, _ = rig
    asked = []
    counting = replace(rig, encode=lambda case_id: (asked.append(case_id), rig.encode(case_id))[1])
    assert len(Encoded(counting, 3)(["cat", "dog"])) == 2
    assert asked == ["cat"] * 3 + ["dog"] * 3


@pytest.fixture
def quick_rate(monkeypatch):
    """The device's rate from a small product, in no time."""
    quick = partial(measure_matmul_rate, products=[Product(64, 64, 64)], tries=1, seconds=0.01)
    monkeypatch.setattr(training_full_size, "measure_matmul_rate", quick)


@pytest.mark.usefixtures("quick_rate")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "bfloat16", "activation_checkpointing": True},
        {"dtype": "bfloat16", "float8": True, "plain": False},
        {"guided": True, "plain": False},
        {"fit": True, "plain": False},
    ],
    ids=["plain", "checkpointing", "float8", "guided", "fit"],
)
def test_a_full_size_editor_is_measured(monkeypatch, changes):
    monkeypatch.setattr("tasks.post_training.fitting.MOST_SAMPLES", 2)
    options = replace(OPTIONS, **changes)
    figures = measure_full_size(NARROW, FEW, options)
    assert figures["seconds_per_image"] > 0
    assert figures["share_of_floor"] > 0
    assert figures["images_per_iteration"] == 4
    assert figures["peak_memory_mb"] > 0
    assert figures["tokens"] == 4 + 16 + NARROW.words + 4
    assert (figures["image_tflop_computed"] > figures["image_tflop"]) == options.activation_checkpointing
    assert ("float8_velocity_error" in figures) == options.float8
    assert (figures["ratio_to_reference_loop"] is not None) == options.plain
    if options.plain and options.dtype == "float32":
        # Not the loss: of a KL this small, advantages that add up to nothing leave rounding.
        assert figures["relative_differences"]["kl"] <= SAME
        assert figures["relative_differences"]["gradient_norm"] <= SAME
    if options.fit:
        assert (figures["micro_batch"], figures["rollout_batch"]) == (4, 2)
    json.dumps(figures)


@pytest.mark.usefixtures("quick_rate")
def test_memory_that_runs_out_is_explained(monkeypatch):
    def run_out(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    monkeypatch.setattr(training_full_size, "timed_iterations", run_out)
    with pytest.raises(SystemExit, match=r"3.00 GiB") as told:
        measure_full_size(NARROW, FEW, OPTIONS)
    assert "lower micro_batch, now 24" in str(told.value)
    assert "switch activation_checkpointing on" in str(told.value)


def test_a_line_is_found_and_what_is_off_it():
    straight = line({1: 3.0, 2: 5.0, 4: 9.0})
    assert (straight["constant"], straight["slope"], straight["largest_deviation"]) == (1, 2, 0)
    bent = line({1: 1.0, 2: 4.0, 4: 16.0})
    assert bent["largest_deviation"] > 0.1


def test_parts_are_told_per_image():
    timed = Timed(4, 8.0, 6.0, dict.fromkeys(PARTS, 2.0), 0.0, 0.0, 0.0, 0.0, torch.zeros(2, 2))
    assert timed.per_image == 2
    assert timed.parts_per_image == dict.fromkeys(PARTS, 0.5)


@pytest.mark.slow
def test_a_block_of_the_real_width():
    figures = figures_of(
        *("--editor", "Qwen-Image-Edit-2509", "--layers", "1", "--target", "64", "--condition", "64"),
        *("--group-size", "2", "--num-steps", "3", "--window", "1", "--iterations", "1", "--no-plain"),
    )
    assert figures["parameters"] == 383_893_568
    assert figures["share_of_floor"] > 0.05
