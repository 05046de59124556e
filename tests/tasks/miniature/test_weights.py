"""The committed miniature editor: made for this very world, small, strong but imperfect."""

import json

import numpy as np
import pytest

from storage.records import EditType
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.hp_scorer.settings import MeasuredConfig
from tasks.miniature.coco import write_coco
from tasks.miniature.editor import WEIGHTS
from tasks.miniature.world import world_fingerprint
from tasks.rate_edits import RateConfig, RateEdits
from tasks.stage import execute


def test_they_were_made_for_this_world():
    """A change of scenes, targets, words or sloppiness needs `python -m tasks.miniature.pretrain`."""
    made_for = json.loads((WEIGHTS / "world.json").read_text())["fingerprint"]
    assert made_for == world_fingerprint(), "the world has changed: the editor must be trained again"


def test_they_are_small_and_safe():
    files = [file for file in WEIGHTS.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= 16_000_000


@pytest.mark.slow
def test_the_editor_is_strong_but_imperfect(store, tmp_path):
    """As the paper's baseline, whose mean is 4.47: full scores are common, and each edit type has hard ones."""
    world = write_coco(tmp_path / "world", 424_242, 600)
    config = CollectConfig(train_per_edit_type=60, bench_per_edit_type=0, bench_share=0)
    cases = execute(CollectCases(store, config, world)).version
    edits = execute(EditBaseline(store, EditConfig(), cases)).version
    scores = execute(RateEdits(store, RateConfig(scorer=MeasuredConfig(mode="integer")), edits)).version
    rows = scores.table("scores", ["edit_type", "score"]).to_pylist()
    assert len(rows) == 60 * len(EditType)

    def full_share(chosen):
        return np.mean([row["score"] == 5 for row in chosen])

    assert 0.45 <= full_share(rows) <= 0.80
    for edit_type in EditType:
        share = full_share([row for row in rows if row["edit_type"] == edit_type])
        assert 0.25 <= share <= 0.90, (edit_type, share)
