"""A rerun pays only for what changed: counted in edits and ratings, on the real stages with stand-ins that count."""

import json
import shutil
from collections import Counter

import pytest

from storage.compact import compact
from storage.records import Case, EditType
from storage.schemas import from_table
from storage.store import REJECTED, Store
from storage.verify import verify
from tasks import rows
from tasks.build_realpref import BuildConfig, BuildRealPref
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditConfig
from tasks.limits import Limit
from tasks.miniature.coco import write_coco
from tasks.rate_edits import RateConfig
from tasks.stage import RejectedError, execute
from tests.tasks.stand_ins import CountedEdits, CountedScores, CountingEditor, CountingJudge

COLLECT = CollectConfig(train_per_edit_type=100, bench_per_edit_type=2, cases_per_image=8, bench_share=0.1)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The same world with 24 scenes, and later with four more."""
    parent = tmp_path_factory.mktemp("worlds")
    return {count: write_coco(parent, 5, count) for count in (24, 28)}


class Night:
    """One run of the data side, and what it cost."""

    def __init__(self, store, folder, judge=None, editor=None, build=None, collect=COLLECT, rate=None, **options):
        self.editor, self.judge = editor or CountingEditor(), judge or CountingJudge()
        self.cases = execute(CollectCases(store, collect, folder)).version
        edits = execute(CountedEdits(store, EditConfig(), self.cases, self.editor), **options)
        scores = execute(CountedScores(store, rate or RateConfig(), edits.version, self.judge), **options)
        self.edits, self.scores = edits.version, scores.version
        self.realpref = execute(BuildRealPref(store, build or BuildConfig(), self.scores), **options).version
        assert (edits.done, scores.done) == (len(self.editor.asked), len(self.judge.asked))

    def cost(self):
        return len(self.editor.asked), len(self.judge.asked)


def case_ids(night):
    return {case.case_id for part in night.cases.parts("train") for case in from_table(part, Case)}


def files(version):
    return {name: [file.sha256 for file in found] for name, found in version.manifest.tables.items()}


def test_an_unchanged_night_costs_nothing_and_reads_no_data(store, worlds):
    first = Night(store, worlds[24])
    shutil.move(f"{store.root}/files", f"{store.root}/gone")
    second = Night(Store(store.url), worlds[24])
    assert second.cost() == (0, 0)
    assert str(second.realpref) == str(first.realpref) == "realpref@v1"


def test_new_images_cost_what_they_bring_and_rewrite_nothing(store, worlds):
    first = Night(store, worlds[24])
    written = {path: info["mtime"] for path, info in store.walk("files").items()}
    second = Night(store, worlds[28])
    new = case_ids(second) - case_ids(first)
    assert case_ids(first) < case_ids(second)
    assert 0 < len(new) <= 4 * 8
    assert set(second.editor.asked) == set(second.judge.asked) == new
    assert second.cost() == (len(new), len(new))
    for before, after in ((first.cases, second.cases), (first.edits, second.edits), (first.scores, second.scores)):
        for table, names in files(before).items():
            if table != "rejected":
                assert set(names) <= set(files(after)[table]), f"{after} holds what {before} held, in the same files"
    now = store.walk("files")
    assert all(now[path]["mtime"] == mtime for path, mtime in written.items())
    assert not verify([second.cases, second.edits, second.scores, second.realpref])


def test_an_image_that_is_gone_takes_its_cases_along(store, worlds):
    """The source's licence may have been withdrawn: nothing of it stays in the next version."""
    first = Night(store, worlds[28])
    second = Night(store, worlds[24])
    gone = case_ids(first) - case_ids(second)
    assert gone
    assert case_ids(second) < case_ids(first)
    assert second.cost() == (0, 0), "the others are known by their identifiers, in whatever files they lie"
    assert second.realpref.manifest.num_rows() == len(case_ids(second))


def test_a_corrected_annotation_replaces_its_case(store, worlds, tmp_path):
    first = Night(store, worlds[24])
    folder = tmp_path / "corrected"
    shutil.copytree(worlds[24], folder)
    path = folder / "annotations" / "instances.json"
    content = json.loads(path.read_text())
    content["licenses"] = [{**one, "name": "another licence"} for one in content["licenses"]]
    path.write_text(json.dumps(content))
    second = Night(store, folder)
    assert case_ids(second) == case_ids(first)
    told = {c.licence for part in second.cases.parts("train") for c in from_table(part, Case)}
    assert told == {"another licence"}
    assert second.cost() == (0, 0)


def test_more_cases_are_added_to_those_that_there_are(store, worlds):
    first = Night(store, worlds[28], collect=COLLECT.model_copy(update={"train_per_edit_type": 8}))
    second = Night(store, worlds[28], collect=COLLECT.model_copy(update={"train_per_edit_type": 12}))
    assert case_ids(first) < case_ids(second)
    new = len(case_ids(second)) - len(case_ids(first))
    assert second.cost() == (new, new)


def test_a_changed_rubric_rates_its_edit_type_alone(store, worlds):
    first = Night(store, worlds[24])
    second = Night(store, worlds[24], judge=CountingJudge(rubrics={EditType.BOKEH: 2}))
    of_type = [c.case_id for p in first.cases.parts("train") for c in from_table(p, Case) if c.edit_type == "bokeh"]
    assert second.editor.asked == []
    assert sorted(second.judge.asked) == sorted(of_type)
    assert of_type
    back = Night(store, worlds[24])
    assert back.cost() == (0, 0), "the old rubric's version is still there"


def test_a_changed_threshold_rates_nothing(store, worlds):
    first = Night(store, worlds[24])
    second = Night(store, worlds[24], build=BuildConfig(full_at=3.0))
    assert second.cost() == (0, 0)
    kept = [night.realpref.table("train", ["score"])["score"].to_pylist() for night in (first, second)]
    assert max(kept[0]) == 4
    assert max(kept[1]) < 3
    assert len(kept[1]) < len(kept[0])
    dropped = second.realpref.table("dropped", ["case_id"]).num_rows
    assert len(kept[1]) + dropped == len(case_ids(first))


def test_compaction_changes_files_and_costs_nothing(store, worlds):
    Night(store, worlds[24])
    second = Night(store, worlds[28])
    compacted = compact(second.cases)
    assert len(compacted.files("train")) == 8 < len(second.cases.files("train"))
    third = Night(store, worlds[28])
    assert third.cases.number == compacted.number, "the next night goes on from the compacted version"
    assert third.cost() == (0, 0)
    assert case_ids(third) == case_ids(second)
    assert len(third.scores.files("scores")) == 8
    with pytest.raises(ValueError, match="compact those"):
        compact(third.scores)


def test_what_failed_is_tried_again_alone(store, worlds):
    failing = CountingJudge(dies_after=150)
    tolerant = RateConfig(limits={})
    first = Night(store, worlds[24], judge=failing, rate=tolerant, build=BuildConfig(limits={}))
    missing = first.scores.manifest.statistics["counts"]["timeout"]
    assert missing > 0
    again = Night(store, worlds[24], rate=tolerant, build=BuildConfig(limits={}))
    assert again.cost() == (0, 0), "nothing is asked again of its own accord"
    retried = Night(store, worlds[24], rate=tolerant, build=BuildConfig(limits={}), retry_failed=True)
    assert retried.cost() == (0, missing)
    assert retried.scores.manifest.statistics["counts"] == {"scored": len(case_ids(first))}
    assert retried.cases.number == first.cases.number, "where nothing had failed nothing is made anew"
    nothing_left = Night(store, worlds[24], rate=tolerant, build=BuildConfig(limits={}), retry_failed=True)
    assert (nothing_left.cost(), nothing_left.scores.number) == ((0, 0), retried.scores.number)


def test_a_killed_shard_keeps_the_ratings_that_it_has(store, worlds, monkeypatch):
    monkeypatch.setattr(rows, "JOURNAL_SECONDS", 0.0)
    cases = execute(CollectCases(store, COLLECT, worlds[24])).version
    edits = execute(CountedEdits(store, EditConfig(), cases)).version

    class Killed(CountingJudge):
        def _judge(self, triplet):
            if len(self.asked) == 12:
                raise KeyboardInterrupt
            return super()._judge(triplet)

    killed = Killed()
    with pytest.raises(KeyboardInterrupt):
        execute(CountedScores(store, RateConfig(), edits, killed))
    assert len(killed.asked) == 12
    resumed = CountingJudge()
    scores = execute(CountedScores(store, RateConfig(), edits, resumed)).version
    assert not set(killed.asked) & set(resumed.asked), "nothing is paid twice"
    assert Counter(killed.asked + resumed.asked) == Counter(scores.table("scores", ["case_id"])["case_id"].to_pylist())
    whole = execute(CountedScores(Store(f"{store.url}-other"), RateConfig(), _copied(store, edits), CountingJudge()))
    assert files(whole.version) == files(scores), "cut off and continued, the bytes are the same"


def _copied(store, version):
    """The same version in another store."""
    other = Store(f"{store.url}-other")
    shutil.copytree(store.url, other.url)
    shutil.rmtree(f"{other.url}/shards")
    shutil.rmtree(f"{other.url}/journal")
    shutil.rmtree(f"{other.url}/versions/scores")
    shutil.rmtree(f"{other.url}/keys/scores")
    return other.version(version.artifact, version.number)


def test_a_judge_that_dies_half_way_is_rejected_and_then_repaired(store, worlds):
    first = Night(store, worlds[24])
    with pytest.raises(
        RejectedError, match=r"scores@v2 is rejected, latest stays: coverage 0\.\d+ is below 0\.95"
    ) as told:
        Night(store, worlds[28], judge=CountingJudge(dies_after=2))
    assert store.resolve("scores@latest").number == first.scores.number
    assert store.resolve(f"scores@{REJECTED}").number == 2
    assert store.rejection(store.version("scores", 2)).reasons == told.value.reasons
    missing = store.version("scores", 2).manifest.statistics["counts"]["timeout"]
    still_dead = CountingJudge(dies_after=0)
    with pytest.raises(RejectedError, match="scores@v2 is rejected"):
        Night(store, worlds[28], judge=still_dead)
    assert len(still_dead.asked) == missing
    assert store.numbers("scores") == [1, 2], "the same failure is no new version"
    repaired = Night(store, worlds[28])
    assert repaired.cost() == (0, missing)
    assert store.resolve("scores@latest").number == repaired.scores.number == 3


def test_a_version_that_new_limits_allow_is_accepted(store, worlds):
    strict = RateConfig(limits={"mean_score": Limit(at_least=4.9)})
    with pytest.raises(RejectedError, match="mean_score"):
        Night(store, worlds[24], rate=strict)
    with pytest.raises(RejectedError, match="mean_score"):
        Night(store, worlds[24], rate=strict)
    night = Night(store, worlds[24], rate=RateConfig(limits={}))
    assert (night.cost(), night.scores.number) == ((0, 0), 1)
    assert store.rejection(night.scores) is None


def test_a_judge_that_suddenly_gives_only_fives_is_rejected(store, worlds):
    first = Night(store, worlds[24])
    with pytest.raises(RejectedError, match=r"full_share 1 is above 0\.98; full_share went from"):
        # The same settings and rubrics: only what the server answers has changed.
        Night(store, worlds[24], judge=CountingJudge(always=5.0), refresh=True)
    assert store.resolve("scores").number == first.scores.number
    store.tag(store.version("scores", 2), "latest", ["they are that good"])
    assert store.resolve("scores").number == 2, "a person can accept it"
    assert store.rejection(store.version("scores", 2)) is None


def test_latest_is_what_the_last_run_ended_with(store, worlds):
    """Otherwise a stage run alone with an older configuration would be followed by one that reads the newer result."""
    first = Night(store, worlds[24])
    second = Night(store, worlds[24], build=BuildConfig(full_at=3.0))
    assert store.resolve("realpref").number == second.realpref.number == 2
    Night(store, worlds[24])
    assert store.resolve("realpref").number == first.realpref.number == 1
