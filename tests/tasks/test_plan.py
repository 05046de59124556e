"""A look ahead: what would run, and why."""

from tasks.build_realpref import BuildConfig, BuildRealPref
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditConfig
from tasks.miniature.coco import write_coco
from tasks.plan import plan_lines
from tasks.rate_edits import RateConfig
from tasks.stage import execute
from tests.tasks.stand_ins import CountedEdits, CountedScores


def stages(store, folder, build=None):
    collect = CollectConfig(train_per_edit_type=2, bench_per_edit_type=1, cases_per_image=8)
    return [
        lambda versions: CollectCases(store, collect, folder),
        lambda versions: CountedEdits(store, EditConfig(), versions["cases"]),
        lambda versions: CountedScores(store, RateConfig(limits={}), versions["edits"]),
        lambda versions: BuildRealPref(store, build or BuildConfig(limits={}), versions["scores"]),
    ]


def test_what_would_run_is_told_with_the_reason(store, tmp_path):
    folder = write_coco(tmp_path, 0, 10)
    assert list(plan_lines(store, stages(store, folder))) == [
        "collect-cases: would run, 1 of 1 shards, at most 10 items",
        "  because there is no version of cases",
        "3 later stages: depend on what collect-cases makes",
    ]
    assert store.walk("versions") == {}, "nothing was done"
    versions = {}
    for make in stages(store, folder):
        stage = make(versions)
        versions[stage.artifact] = execute(stage).version
    assert list(plan_lines(store, stages(store, folder))) == [
        "collect-cases: stands, cases@v1",
        "edit-baseline: stands, edits@v1",
        "rate-edits: stands, scores@v1",
        "build-realpref: stands, realpref@v1",
    ]
    lines = list(plan_lines(store, stages(store, folder, BuildConfig(full_at=3, limits={}))))
    assert lines[3:] == [
        "build-realpref: would run, 8 of 8 shards, at most 16 items",
        "  because config full_at: None -> 3.0 (since realpref@v1)",
    ]
