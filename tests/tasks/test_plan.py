"""A look ahead: what would run, and why."""

from storage.records import EditType
from tasks.build_realpref import BuildConfig, BuildRealPref
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditConfig
from tasks.miniature.coco import write_coco
from tasks.plan import plan_lines
from tasks.rate_edits import RateConfig
from tasks.stage import execute
from tests.tasks.stand_ins import CountedEdits, CountedScores, CountingJudge


def stages(store, folder, build=None):
    collect = CollectConfig(train_per_edit_type=2, bench_per_edit_type=1, cases_per_image=8)
    return {
        "cases": lambda made: CollectCases(store, collect, folder),
        "edits": lambda made: CountedEdits(store, EditConfig(), made["cases"]),
        "scores": lambda made: CountedScores(store, RateConfig(limits={}), made["edits"]),
        "realpref": lambda made: BuildRealPref(store, build or BuildConfig(limits={}), made["scores"]),
    }


def carry_out(plan):
    made = {}
    for name, make in plan.items():
        made[name] = execute(make(made)).version
    return made


def test_what_would_run_is_told_with_the_reason(store, tmp_path):
    folder = write_coco(tmp_path, 0, 10)
    assert list(plan_lines(store, stages(store, folder))) == [
        "collect-cases: would run, 1 of 1 shards, at most 10 items",
        "  because there is no version of cases",
        "3 later stages: depend on what collect-cases makes",
    ]
    assert store.walk("versions") == {}, "nothing was done"
    carry_out(stages(store, folder))
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


def test_two_stages_that_make_artifacts_of_one_kind_are_told_apart(store, tmp_path):
    """Whatever depends on one of them alone is told although the other would run; each is compared with its own."""
    folder = write_coco(tmp_path, 0, 10)

    def plan(version):
        one, config = stages(store, folder), RateConfig(limits={})
        rubrics = dict.fromkeys(EditType, version)
        return {
            "cases": one["cases"],
            "edits": one["edits"],
            "others": lambda made: CountedScores(store, config, made["edits"], CountingJudge(rubrics)),
            "scores": one["scores"],
            "realpref": one["realpref"],
            "compared": lambda made: BuildRealPref(store, BuildConfig(limits={}, full_at=2), made["others"]),
        }

    made = carry_out(plan(2))
    assert list(plan_lines(store, plan(2))) == [
        "collect-cases: stands, cases@v1",
        "edit-baseline: stands, edits@v1",
        "rate-edits (others): stands, scores@v1",
        "rate-edits: stands, scores@v2",
        "build-realpref: stands, realpref@v1",
        "build-realpref (compared): stands, realpref@v2",
    ]
    assert {name: str(version) for name, version in made.items() if name in ("others", "scores")} == {
        "others": "scores@v1",
        "scores": "scores@v2",
    }
    lines = [line for line in plan_lines(store, plan(3)) if not line.startswith("  because fingerprint")]
    assert lines == [
        "collect-cases: stands, cases@v1",
        "edit-baseline: stands, edits@v1",
        "rate-edits (others): would run, 8 of 8 shards, at most 16 items",
        "rate-edits: stands, scores@v2",
        "build-realpref: stands, realpref@v1",
        "1 later stage: depends on what rate-edits (others) makes",
    ]


def test_of_two_alike_the_nearer_one_tells_the_reason(store, tmp_path):
    """The last one to be accepted is of the other setting: it would tell two reasons, one of them wrong."""
    folder = write_coco(tmp_path, 0, 10)
    for full_at in (3, 4):
        carry_out(stages(store, folder, BuildConfig(full_at=full_at, limits={})))
    lines = list(plan_lines(store, stages(store, folder, BuildConfig(full_at=3, drop_full=False, limits={}))))
    assert [line for line in lines if "because" in line] == [
        "  because config drop_full: True -> False (since realpref@v1)"
    ]
