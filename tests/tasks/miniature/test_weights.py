"""The committed miniature editor: made for this very world, small, strong but imperfect."""

import json

import numpy as np
import pytest

from storage.records import EditType
from tasks.hp_scorer.contract import EditTriplet
from tasks.hp_scorer.measured import MeasuredScorer
from tasks.miniature.editor import WEIGHTS, load_miniature
from tasks.miniature.examples import make_example
from tasks.miniature.recogniser import SpriteRecogniser
from tasks.miniature.scenes import coverage
from tasks.miniature.world import world_fingerprint


def test_they_were_made_for_this_world():
    """A change of scenes, targets, words or sloppiness needs `python -m tasks.miniature.pretrain`."""
    made_for = json.loads((WEIGHTS / "world.json").read_text())["fingerprint"]
    assert made_for == world_fingerprint(), "the world has changed: the editor must be trained again"


def test_they_are_small_and_safe():
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= 16_000_000


@pytest.mark.slow
def test_the_editor_is_strong_but_imperfect():
    """As the paper's baseline, whose mean is 4.47: full scores are common, and each edit type has hard ones."""
    from tasks.editing.interface import EditTask
    from tasks.editing.model_editor import ModelEditor

    count = 480
    examples = [make_example(424_242, index, sloppy_share=0) for index in range(count)]
    tasks = [
        EditTask(
            case_id=str(index),
            edit_type=example.edit_type,
            instruction=example.instruction,
            request=example.request,
            category=example.scene.subject.category,
            source=example.source,
            mask=coverage(example.scene.subject) > 0.5,
            seed=index,
        )
        for index, example in enumerate(examples)
    ]
    judge = MeasuredScorer(recogniser=SpriteRecogniser(), integer=True)
    fields = ("case_id", "edit_type", "instruction", "request", "category", "source", "mask")
    triplets = [
        EditTriplet(**{name: getattr(task, name) for name in fields}, edited=picture)
        for task, picture in zip(tasks, ModelEditor(load_miniature()).edit(tasks), strict=True)
    ]
    full = np.array([score.score == 5 for score in judge.score(triplets)])
    assert 0.45 <= full.mean() <= 0.80
    for edit_type in EditType:
        share = full[[task.edit_type == edit_type for task in tasks]].mean()
        assert 0.25 <= share <= 0.90, (edit_type, share)
