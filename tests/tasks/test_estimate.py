"""What the paper's run would take, told before anything is there."""

import subprocess
import sys

import pytest

from tasks.editing.settings import DiffusersModel
from tasks.estimate import Costs, estimate, size_of
from tasks.sizes import miniature, paper
from training.editors.settings import DiffusersSettings


@pytest.fixture(scope="module")
def told():
    """By the command of the README."""
    command = [sys.executable, "-m", "flows.hp_edit", "--size", "paper", "--dry-run", "--gpu-dollars-per-hour", "2"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def cells(told, stage):
    return next(line.split() for line in told if line.startswith(stage))


def test_it_tells_every_stage_of_the_pipeline(told):
    stages = [line.split()[0] for line in told[1:-2]]
    assert stages == [
        *("collect-cases", "edit-baseline", "pick-triplets", "collect-labels", "calibrate-scorer", "calibrate-scorer"),
        *("rate-edits", "build-realpref", "encode-cases", "post-train", "benchmark"),
    ]
    assert "assumed, not measured" in told[-1]


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
    assert float(rated[4]) == 0, "rating draws nothing"
    assert float(benched[5]) == 0, "GPT-4o runs on nobody's GPU"


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
