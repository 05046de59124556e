"""Picking triplets from a small miniature world, with the real stage: what people will see, and what it costs."""

import shutil
from collections import Counter

import datasets
import numpy as np
import pytest

from storage.records import EditType
from storage.store import Store
from tasks import rows
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditConfig
from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.settings import MeasuredConfig
from tasks.images import decode
from tasks.miniature.coco import write_coco
from tasks.pick_triplets import PickConfig, PickTriplets
from tasks.stage import execute
from tests.tasks.sloppy_edits import SloppyEditor
from tests.tasks.stand_ins import CountedEdits, CountingEditor, CountingJudge

WORLD, SCENES = 5, 40
TYPES = (EditType.ADDITION, EditType.COLOUR, EditType.STYLE)
COLLECT = CollectConfig(train_per_edit_type=30, bench_per_edit_type=4, cases_per_image=8, bench_share=0.2)


class CountedPicks(PickTriplets):
    """The real stage with a stand-in for its first judge."""

    def __init__(self, store, config, edits, judge):
        super().__init__(store, config, edits)
        self.scorer = judge


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with sloppy edits of three edit types; of the others every edit failed."""
    folder = tmp_path_factory.mktemp("made")
    store = Store(str(folder / "store"))
    cases = execute(CollectCases(store, COLLECT, write_coco(folder, WORLD, SCENES))).version
    editor = SloppyEditor(WORLD, SCENES, TYPES)
    return execute(CountedEdits(store, EditConfig(limits={}), cases, editor)).version


@pytest.fixture
def edits(made, tmp_path):
    """The same in a store of the test's own."""
    shutil.copytree(made.store.url, tmp_path / "store")
    return Store(str(tmp_path / "store")).version("edits", made.number)


def pick(edits, **changes):
    config = PickConfig(**({"per_edit_type": 12} | changes))
    return execute(PickTriplets(Store(edits.store.url), config, edits)).version


def column(version, name, table="triplets"):
    return version.table(table, [name])[name].to_pylist()


def files(version):
    return {name: [file.sha256 for file in found] for name, found in version.manifest.tables.items()}


def test_picks_are_spread_over_the_first_judges_scores(edits):
    judge = MeasuredConfig()
    picked = pick(edits, scorer=judge, pool_per_edit_type=30)
    counts = picked.manifest.statistics["counts"]
    pool = {(row["edit_type"], row["edit_id"]): row["score"] for row in picked.table("pool").to_pylist()}
    for edit_type in TYPES:
        there = Counter(int(score + 0.5) for (of_type, _), score in pool.items() if of_type == edit_type)
        taken = counts["first"][edit_type]
        assert sum(taken) == counts["picked"][edit_type] == 12
        assert counts["pool"][edit_type] == sum(there.values()) > 12
        # Score by score as many as of the others, as far as there are so many.
        plenty = [points for points in range(6) if taken[points] < there[points]]
        assert plenty, "there was a choice"
        assert max(taken[p] for p in plenty) - min(taken[p] for p in plenty) <= 1
        assert all(taken[p] <= max(taken[q] for q in plenty) for p in range(6))
    of_row = zip(column(picked, "edit_type"), column(picked, "edit_id"), column(picked, "first_score"), strict=True)
    assert all(pool[edit_type, edit_id] == score for edit_type, edit_id, score in of_row)


def test_at_most_the_pool_is_rated_and_nothing_that_failed(edits):
    judge = CountingJudge()
    run = execute(CountedPicks(edits.store, PickConfig(per_edit_type=4, pool_per_edit_type=9), edits, judge))
    assert run.done == len(judge.asked) == 9 * len(TYPES)
    assert run.version.manifest.statistics["counts"]["pool"] == {t: 9 if t in TYPES else 0 for t in EditType}
    assert Counter(column(run.version, "edit_type")) == dict.fromkeys(TYPES, 4)
    failed = {row["edit_id"] for row in edits.table("edits", ["edit_id", "failure"]).to_pylist() if row["failure"]}
    assert failed
    assert not failed & {*column(run.version, "edit_id"), *column(run.version, "edit_id", "pool")}


def test_a_triplet_holds_the_case_and_its_edit(edits):
    picked = pick(edits).table("triplets").to_pylist()
    of_edit = {row["edit_id"]: row for row in edits.table("edits").to_pylist()}
    cases = edits.store.version("cases", edits.manifest.parents["cases"].version)
    of_case = {row["case_id"]: row for row in cases.table("train").to_pylist()}
    assert len(picked) == len({row["edit_id"] for row in picked}) == 12 * len(TYPES)
    for row in picked:
        edit = of_edit[row["edit_id"]]
        case = of_case[edit["case_id"]]
        assert {name: row[name] for name in case if name != "split"} == {n: v for n, v in case.items() if n != "split"}
        assert (row["edited"], row["editor"], row["seed"]) == (edit["edited"], edit["editor"], edit["seed"])


def test_the_same_gives_the_same_bytes_and_another_seed_others(edits, made, tmp_path):
    first = pick(edits)
    shutil.copytree(made.store.url, tmp_path / "other")
    again = pick(Store(str(tmp_path / "other")).version("edits", made.number))
    assert files(first) == files(again)
    assert first.ref.manifest == again.ref.manifest
    other = pick(edits, seed=1, pool_per_edit_type=20)
    assert set(column(other, "edit_id")) != set(column(pick(edits, pool_per_edit_type=20), "edit_id"))


def test_more_is_asked_only_for_what_is_new_in_the_pool(edits):
    small, large = CountingJudge(), CountingJudge()
    execute(CountedPicks(edits.store, PickConfig(per_edit_type=4, pool_per_edit_type=9), edits, small))
    execute(CountedPicks(edits.store, PickConfig(per_edit_type=6, pool_per_edit_type=14), edits, large))
    assert len(small.asked) == 9 * len(TYPES)
    assert len(large.asked) == (14 - 9) * len(TYPES), "a larger pool holds the smaller one"
    assert not set(small.asked) & set(large.asked)


def test_a_killed_run_pays_nothing_twice(edits, made, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "JOURNAL_SECONDS", 0.0)
    config = PickConfig(per_edit_type=4, pool_per_edit_type=9)

    class Killed(CountingJudge):
        def _judge(self, triplet):
            if len(self.asked) == 13:
                raise KeyboardInterrupt
            return super()._judge(triplet)

    killed, resumed = Killed(), CountingJudge()
    with pytest.raises(KeyboardInterrupt):
        execute(CountedPicks(edits.store, config, edits, killed))
    picked = execute(CountedPicks(edits.store, config, edits, resumed)).version
    assert (len(killed.asked), len(resumed.asked)) == (13, 9 * len(TYPES) - 13)
    assert not set(killed.asked) & set(resumed.asked)
    shutil.copytree(made.store.url, tmp_path / "other")
    whole = Store(str(tmp_path / "other"))
    at_once = execute(CountedPicks(whole, config, whole.version("edits", made.number), CountingJudge())).version
    assert files(at_once) == files(picked), "cut off and continued, the bytes are the same"


def test_what_the_first_judge_has_no_score_for_comes_last(edits):
    judge = CountingJudge(dies_after=9 + 3)
    config = PickConfig(per_edit_type=5, pool_per_edit_type=9)
    picked = execute(CountedPicks(edits.store, config, edits, judge)).version
    scores = dict.fromkeys(TYPES, ())
    for edit_type, score in zip(column(picked, "edit_type"), column(picked, "first_score"), strict=True):
        scores[edit_type] += (score,)
    # Edit types are rated in their order: all of the first, three of the second.
    assert [sum(score is None for score in scores[t]) for t in TYPES] == [0, 2, 5]
    assert Counter(column(picked, "outcome", "pool")) == {Outcome.SCORED: 12, Outcome.TIMEOUT: 15}


def test_equal_pictures_of_another_editor_are_named_after_their_own_edits(edits):
    """A score is of a picture, so those of equal ones are taken over. They kept the name of the edit that they were
    first given for, which the new version's parents do not hold.
    """

    class Namesake(CountingEditor):
        fingerprint = "turns-colours-too"

    cases = edits.store.version("cases", edits.manifest.parents["cases"].version)
    config = PickConfig(per_edit_type=4, pool_per_edit_type=9)
    picked, asked = [], []
    for editor in (CountingEditor(), Namesake()):
        made = execute(CountedEdits(edits.store, EditConfig(limits={}), cases, editor)).version
        judge = CountingJudge()
        version = execute(CountedPicks(edits.store, config.model_copy(), made, judge)).version
        assert set(column(version, "edit_id", "pool")) <= set(column(made, "edit_id", "edits"))
        assert set(column(version, "edit_id")) <= set(column(version, "edit_id", "pool"))
        picked.append(version)
        asked.append(set(judge.asked))
    assert not asked[0] & asked[1], "the pools differ, and what they share is not asked about again"


def test_edits_of_another_split_are_refused(edits):
    with pytest.raises(ValueError, match=r"edits@v1 are of the split 'train', not of 'bench'"):
        PickTriplets(edits.store, PickConfig(split="bench"), edits)
    cases = edits.store.version("cases", edits.manifest.parents["cases"].version)
    bench = execute(CountedEdits(edits.store, EditConfig(split="bench"), cases, CountingEditor())).version
    with pytest.raises(ValueError, match="of the split 'bench', not of 'train'"):
        PickTriplets(edits.store, PickConfig(), bench)
    picked = pick(bench, split="bench", per_edit_type=2)
    assert set(column(picked, "case_id")) <= set(column(cases, "case_id", "bench"))
    assert Counter(column(picked, "edit_type")) == dict.fromkeys(EditType, 2)


def test_the_table_opens_in_datasets_with_its_images(edits):
    picked = pick(edits)
    loaded = datasets.load_dataset("parquet", data_files=picked.paths("triplets"), split="train")
    assert len(loaded) == 12 * len(TYPES)
    assert set(loaded.features) == set(picked.table("triplets").column_names)
    told = picked.table("triplets", ["edit_id", "edited", "source"]).to_pylist()
    for row, wanted in zip(loaded, told, strict=True):
        assert row["edit_id"] == wanted["edit_id"]
        for name in ("source", "edited"):
            assert np.array_equal(np.asarray(row[name]), decode(wanted[name]["bytes"]))


def test_people_get_a_picture_of_what_was_picked(edits):
    picked = pick(edits)
    ((title, sheet),) = PickTriplets(edits.store, PickConfig(), edits).pictures(picked)
    assert title == "source and edit"
    height, width = decode(sheet).shape[:2]
    assert width > height / 2 > 100
