"""The benchmark stage around stand-ins: what a new calibration of the judge costs, and what it changes."""

from collections import Counter
from functools import cached_property

import pytest

from storage.manifest import Manifest
from storage.records import EditType
from tasks.calibration.score_map import IDENTITY, ScoreMap
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.hp_scorer.calibration import CalibratedScorer
from tasks.hp_scorer.catalogue import fingerprints_of
from tasks.miniature.coco import write_coco
from tasks.run_benchmark import MODELS, SAMPLES, BenchmarkConfig, RunBenchmark
from tasks.stage import execute
from tests.tasks.stand_ins import CountingEditor, CountingJudge

BENT = ScoreMap(((0.0, 1.0), (3.0, 2.0), (5.0, 4.5)))


class CountedBenchmark(RunBenchmark):
    """The real stage; its editors and its judge count what they do."""

    def __init__(self, store, cases, adapter, judge, maps):
        super().__init__(store, BenchmarkConfig(referee=False), cases, adapter)
        self.judge, self.maps = judge, maps

    @cached_property
    def editors(self):
        return {model: CountingEditor() for model in MODELS}

    @cached_property
    def scorer(self):
        return CalibratedScorer(self.judge, self.maps)

    def fingerprints(self):
        return {**dict.fromkeys(MODELS, CountingEditor.fingerprint), **fingerprints_of(self.scorer)}


@pytest.fixture
def inputs(store, tmp_path):
    collect = CollectConfig(train_per_edit_type=1, bench_per_edit_type=3, cases_per_image=8, bench_share=0.5)
    cases = execute(CollectCases(store, collect, write_coco(tmp_path, 5, 24))).version
    adapter = store.commit(
        Manifest(artifact="adapter", stage="post-train", stage_version=1, key="by-hand", config={}, tables={})
    )
    return cases, adapter


def run(store, inputs, maps=None, judge=None, **options):
    judge = judge or CountingJudge()
    maps = dict.fromkeys(EditType, IDENTITY) | (maps or {})
    return execute(CountedBenchmark(store, *inputs, judge, maps), **options), judge


def test_a_new_map_rates_nothing_anew_and_moves_the_scores(store, inputs):
    first, judge = run(store, inputs)
    assert len(judge.asked) == 2 * first.version.manifest.rows("samples")
    second, again = run(store, inputs, {EditType.BOKEH: BENT})
    assert (again.asked, second.done) == ([], 0)
    assert second.version.number == 2
    before, after = (r.version.table("samples").to_pylist() for r in (first, second))
    for old, new in zip(before, after, strict=True):
        for model in MODELS:
            raw = old[f"{model}_score"]
            assert new[f"{model}_raw_score"] == old[f"{model}_raw_score"] == raw
            assert new[f"{model}_score"] == (BENT(raw) if new["edit_type"] == "bokeh" else raw)
            assert new[f"{model}_edited"] == old[f"{model}_edited"]
    assert second.version.table("samples").schema.equals(SAMPLES, check_metadata=True)


def test_scores_that_are_missing_are_asked_for_again(store, inputs):
    first, _ = run(store, inputs, judge=CountingJudge(dies_after=20))
    outcomes = Counter(row["baseline_outcome"] for row in first.version.table("samples").to_pylist())
    assert outcomes["timeout"] > 0
    stands, asked = run(store, inputs)
    assert (stands.reused, asked.asked) == (True, [])
    retried, asked = run(store, inputs, retry_failed=True)
    assert asked.asked
    assert {row["baseline_outcome"] for row in retried.version.table("samples").to_pylist()} == {"scored"}
