"""What the paper's run would take, told before anything is there."""

import subprocess
import sys
from dataclasses import replace

import pytest

from tasks.editing.settings import DiffusersModel
from tasks.estimate import Costs, disk_of, estimate, estimate_lines, size_of
from tasks.sizes import GPT_4O, miniature, paper
from training.editors.settings import DiffusersSettings


@pytest.fixture(scope="module")
def told():
    """By the command of the README."""
    command = [sys.executable, "-m", "flows.hp_edit", "--size", "paper", "--dry-run", "--gpu-dollars-per-hour", "2"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def cells(told, stage):
    return next(line.split() for line in told if line.startswith(stage))


def test_it_tells_every_stage_of_the_pipeline(told):
    stages = [line.split()[0] for line in told[1 : told.index(next(line for line in told if line.startswith("all")))]]
    assert stages == [
        *("collect-cases", "edit-baseline", "pick-triplets", "collect-labels", "calibrate-scorer", "calibrate-scorer"),
        *("rate-edits", "build-realpref", "encode-cases", "post-train", "benchmark"),
    ]
    assert "assumed, not measured" in " ".join(told)
    assert max(map(len, told)) <= 120


def test_training_is_as_many_images_calls_and_operations_as_configured(told):
    """By hand: 0.69 PFLOP an image with activations recomputed a third more in three of ten steps, at 40 % of 989."""
    _, items, calls, tokens, editor, judge, dollars, *_ = cells(told, "post-train")
    images = 1000 * 32 * 16
    assert items == calls == f"{images:,}"
    by_hand = images * 0.79e15 / (0.4 * 989e12) / 3600
    assert float(editor.replace(",", "")) == pytest.approx(by_hand, rel=0.05)
    # A token of a model with 33.4 billion parameters takes two operations of each.
    assert float(judge) == pytest.approx(2 * 33.4e9 * float(tokens) * 1e6 / (0.4 * 989e12) / 3600, rel=0.01)
    assert float(dollars) == pytest.approx(2 * (float(editor) + float(judge)), abs=1)


def test_rating_and_bench_ask_the_judges_they_are_configured_with(told):
    rated, benched = cells(told, "rate-edits"), cells(told, "benchmark")
    assert rated[1] == rated[2] == "160,000"
    assert benched[2] == f"{2 * 8 * 205:,}"
    assert rated[4] == "-", "rating draws nothing"
    assert benched[5] == "-", "GPT-4o runs on nobody's GPU"
    judges = [line.split(", ")[-1] for line in told if line.startswith("calibrate-scorer")]
    assert judges == ["gpt-4o-2024-11-20", "Qwen3-VL-32B-Instruct"]


def test_the_time_is_that_of_so_many_gpus(told):
    """A judge of one's own needs GPUs beside them: as many as keep up."""
    hours = float(cells(told, "post-train")[4])
    assert f"training takes about {hours / 8:.0f} hours on 8 GPUs and 1 beside for the judge" in " ".join(told)
    assert f"about {hours / 2:.0f} hours on 2 GPUs" in " ".join(estimate_lines(paper(processes=2), Costs()))
    for processes in (3, 32):
        with pytest.raises(ValueError, match=rf"updates_per_rollout x processes = {2 * processes}"):
            paper(processes=processes)


def test_the_disk_is_what_the_parameters_and_tokens_take(told):
    """By hand: 60 blocks of rank 32 in twelve layers; a case is 32 x 32 tokens of its source and 230 of text."""
    dim, rank = 3072, 32
    attention, mlp = 8 * (dim + dim) * rank, 4 * (dim + 4 * dim) * rank
    parameters = 60 * (attention + mlp)
    disk = disk_of(paper())
    assert (disk.weights, disk.state) == (4 * parameters, 16 * parameters)
    assert disk.encoding == 2 * (32 * 32 * 64 + 230 * 3584) + 230
    text = " ".join(line.strip() for line in told)
    assert f"56,000 encodings of 1.8 MB, {56_000 * disk.encoding / 1e9:.0f} GB" in text
    assert f"19 checkpoints published on the way (publish_every 50), each {16 * parameters / 1e9:.1f} GB" in text


def test_with_guidance_a_case_has_a_second_text():
    config = paper()
    model = DiffusersModel(settings=replace(config.train.model.settings, guidance=4.0))
    guided = config.model_copy(update={"train": config.train.model_copy(update={"model": model})})
    assert disk_of(guided).encoding - disk_of(config).encoding == 2 * 230 * 3584 + 230


def test_a_second_judge_is_asked_once_per_group_now_and_then():
    config = paper()
    train = config.train.model_copy(update={"second_judge": GPT_4O, "grpo": replace(config.train.grpo, iterations=11)})
    first, second = (
        row for row in estimate(config.model_copy(update={"train": train}), Costs()) if row.stage == "post-train"
    )
    assert first.calls == 11 * 32 * 16
    assert second.calls == 3 * 32, "in iterations 0, 5 and 10"
    assert second.price > 0
    assert second.editor_hours == 0, "it looks at what is drawn anyway"


def test_only_published_editors_are_counted():
    assert size_of("Qwen/Qwen-Image-Edit-2509").config["num_layers"] == 60
    with pytest.raises(ValueError, match=r"my/editor: its published size is not known; known are FLUX\.1-Kontext-dev"):
        size_of("my/editor")
    with pytest.raises(ValueError, match="not worth counting"):
        estimate(miniature(), Costs())


def test_models_of_training_encoding_and_benchmark_are_one():
    other = DiffusersModel(settings=DiffusersSettings(model="Qwen/Qwen-Image-Edit-2511"))
    config = paper()
    with pytest.raises(ValueError, match="must be one"):
        type(config)(**dict(config) | {"encode": config.encode.model_copy(update={"model": other})})
