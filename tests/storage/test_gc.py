"""What nothing needs goes, and nothing else: neither what is named, nor what a run that still works will name."""

import os
import shutil
import time
from pathlib import Path

import pytest

from storage.gc import Retention, collect_garbage, plan_gc
from storage.store import Store, VersionNotFoundError
from storage.verify import verify
from storage.work import Finished, Journal, ShardResult
from tests.storage.samples import commit_child, files_in, files_needed, manifest_of

NEWEST = Retention(keep_newest=1)
LATER = 49 * 3600
"""Longer than the grace period."""


@pytest.fixture
def many_stores(any_store):
    return any_store


def plan_later(store, retention=NEWEST):
    return plan_gc(store, retention, now=time.time() + LATER)


def collect_later(store, retention=NEWEST):
    plan = plan_later(store, retention)
    collect_garbage(store, plan)
    return plan


def nights(store, count=3):
    """As many nights of cases, edits of them and what was chosen; of the last night only cases."""
    for night in range(count):
        cases = commit_child(store, "cases", rows=(night,), key=f"c{night}")
        if night < count - 1:
            edits = commit_child(store, "edits", cases, rows=(night, 1), key=f"e{night}")
            commit_child(store, "realpref", cases, edits, rows=(night, 2), key=f"r{night}")


def numbers(store):
    return {artifact: store.numbers(artifact) for artifact in store.artifacts()}


def everything(store):
    return [version for artifact in store.artifacts() for version in store.versions(artifact)]


def unfinished_work(store, stage="edit"):
    """A shard and part of one, of a run that has not committed yet; the files they name."""
    one, two = store.add_file(b"one" + stage.encode(), ".bin"), store.add_file(b"two" + stage.encode(), ".bin")
    Finished(store, stage).remember("shard", ShardResult(tables={"t": (one,)}))
    Journal(store, stage, "other").add(two)
    return [one, two]


def make_old(store, *folders):
    """As if the files in these folders had been there for ever; on a disk only."""
    for folder in folders:
        for path in Path(store.root, folder).rglob("*"):
            os.utime(path, (0, 0))


def test_nothing_goes_without_being_asked_to(many_stores):
    nights(many_stores)
    assert plan_later(many_stores, Retention()).paths == (), "every version stays"
    assert plan_gc(many_stores, NEWEST).paths == (), "all are young"


def test_a_plan_changes_nothing_and_tells_what_would_go(many_stores):
    nights(many_stores)
    before = files_in(many_stores)
    plan = plan_later(many_stores)
    assert files_in(many_stores) == before
    assert set(plan.paths) < before
    assert plan.versions == ("realpref@v1", "edits@v1", "cases@v1"), "children first"
    gone = [path for path in plan.paths if path.startswith("files/")]
    assert plan.num_bytes == sum(many_stores.size(path) for path in gone) > 0
    assert plan.lines()[-1].endswith("3 versions, 3 keys, 3 manifests, 3 files")
    assert [line for line in plan.lines() if line.startswith("version ")] == [f"version {v}" for v in plan.versions]


def test_old_versions_go_and_what_the_kept_ones_were_made_from_stays(many_stores):
    nights(many_stores)
    collect_later(many_stores)
    assert numbers(many_stores) == {"cases": [2, 3], "edits": [2], "realpref": [2]}, "cases@v2 has children"
    assert verify(everything(many_stores)) == []
    assert files_in(many_stores) == files_needed(many_stores)
    assert plan_later(many_stores).paths == (), "one run is enough"


def test_tagged_versions_and_latest_stay(many_stores):
    nights(many_stores)
    many_stores.tag(many_stores.resolve("realpref@v1"), "published")
    many_stores.tag(many_stores.resolve("edits@v1"), "latest")
    collect_later(many_stores)
    assert numbers(many_stores) == {"cases": [1, 2, 3], "edits": [1, 2], "realpref": [1, 2]}


def test_what_a_tag_meant_before_goes(store):
    nights(store)
    for name in ("published", "latest"):
        store.tag(store.resolve("realpref@v1"), name)
        store.tag(store.resolve("realpref@v2"), name)
    collect_later(store)
    assert numbers(store)["realpref"] == [2]
    assert store.resolve("realpref@published").number == 2


def test_rejected_versions_go_like_others(store):
    """The tag `rejected` says why they were not accepted, and keeps nothing."""
    for number in range(4):
        version = store.commit(manifest_of(store, f"k{number}", (number,)), latest=number == 1)
        if number != 1:
            store.tag(version, "rejected", ["too few rows"])
    assert plan_later(store, Retention()).versions == (), "but only as far as the newest to keep are counted"
    collect_later(store)
    assert store.numbers("cases") == [2, 4], "the latest accepted one, and the newest"
    assert store.resolve("cases").number == 2


def test_the_latest_of_an_old_store_stays(store):
    """Before latest was a tag, it was the newest version that was not rejected; no tag protects that one."""
    for number in range(3):
        version = store.commit(manifest_of(store, f"k{number}", (number,)), latest=False)
    store.tag(version, "rejected")
    assert store.resolve("cases").number == 2
    collect_later(store)
    assert store.numbers("cases") == [2, 3]
    assert store.resolve("cases").number == 2


def test_numbers_are_never_used_again(many_stores):
    nights(many_stores)
    collect_later(many_stores)
    assert commit_child(many_stores, "cases", key="new").number == 4
    assert commit_child(many_stores, "edits", key="new").number == 3
    with pytest.raises(VersionNotFoundError, match=r"cases@v1: .*has v2 to v4"):
        many_stores.resolve("cases@v1")


def test_what_a_removed_version_was_found_by_finds_nothing(store):
    nights(store)
    assert store.find("cases", "c0").number == 1
    collect_later(store)
    assert store.find("cases", "c0") is None
    assert store.find("cases", "c1").number == 2


def test_files_of_a_run_that_still_works_stay_however_old_they_are(store):
    """A shard that was just remembered may name files of a version that has long been removed."""
    nights(store)
    files = unfinished_work(store)
    make_old(store, "files", "manifests", "keys")
    plan = plan_gc(store, Retention(keep_newest=1, grace_hours=1))
    assert plan.paths == ()
    collect_garbage(store, plan)
    assert [store.read_file(file) for file in files] == [b"oneedit", b"twoedit"]


def test_work_that_nobody_finished_goes_when_it_is_old(many_stores):
    nights(many_stores)
    unfinished_work(many_stores)
    many_stores.create(f"manifests/{'0' * 64}.json", b"{}")
    before = files_in(many_stores)
    plan = collect_later(many_stores, Retention())
    assert sorted(path.split("/")[0] for path in plan.paths) == ["files", "files", "journal", "manifests", "shards"]
    assert files_in(many_stores) == before - set(plan.paths) == files_needed(many_stores)


def test_remembered_shards_whose_files_are_kept_anyway_stay(store):
    """A run over mostly unchanged inputs takes them over, however old they are."""
    nights(store)
    for night in range(3):
        files = store.resolve(f"cases@v{night + 1}").manifest.tables
        Finished(store, "collect").remember(f"shard-{night}", ShardResult(tables=files))
    collect_later(store)
    assert Finished(store, "collect").find([f"shard-{n}" for n in range(3)]).keys() == {"shard-1", "shard-2"}
    assert files_in(store) == files_needed(store)


def test_litter_of_killed_writers_goes_when_it_is_old(store):
    nights(store)
    litter = {f"{folder}/.unfinished-x" for folder in ("files/ab", "versions/cases", "shards/edit")}
    for path in litter:
        store.create(path, b"{")
    assert plan_gc(store, Retention()).paths == ()
    collect_later(store, Retention())
    assert not litter & files_in(store)


def test_killed_after_any_file_it_leaves_whole_versions_and_ends_the_same_next_time(store, tmp_path):
    nights(store, 4)
    unfinished_work(store)
    plan = plan_later(store)
    assert len(plan.paths) > 15
    collect_garbage(done := Store(shutil.copytree(store.root, str(tmp_path / "done"))), plan)
    for count in range(len(plan.paths)):
        killed = Store(shutil.copytree(store.root, str(tmp_path / f"killed-{count}")))
        killed.remove(plan.paths[:count])
        assert verify(everything(killed)) == []
        assert [killed.find("cases", f"c{night}") is None for night in (2, 3)] == [False, False]
        assert (killed.find("cases", "c0") is None) == (1 not in killed.numbers("cases")), "a key alone finds nothing"
        collect_later(killed)
        assert files_in(killed) == files_in(done)


class Killed(Exception):
    """As good as SIGKILL for whoever looks at the store afterwards."""


class Dying(Store):
    """Dies in one of its removals. Object stores remove the files of one request in no particular order."""

    removals_left = 0

    def remove(self, paths):
        self.removals_left -= 1
        if self.removals_left < 0:
            super().remove(paths[1:])
            raise Killed
        super().remove(paths)


def test_killed_in_any_request_it_leaves_whole_versions(many_stores):
    nights(many_stores)
    unfinished_work(many_stores)
    store = Dying(many_stores.url, **many_stores._options)
    plan = plan_later(store)
    for times in range(100):
        store.removals_left = min(times, 1)  # one further each time
        try:
            collect_garbage(store, plan)
            break
        except Killed:
            assert verify(everything(store)) == []
    assert times > 6
    assert numbers(store) == {"cases": [2, 3], "edits": [2], "realpref": [2]}
    assert plan_later(store).paths == ()


def test_what_came_to_be_needed_after_the_plan_stays(many_stores):
    """A plan is for looking at, and meanwhile a run may take up an old file again, or somebody a version."""
    nights(many_stores)
    old = many_stores.resolve("realpref@v1").manifest
    plan = plan_later(many_stores)
    assert "realpref@v1" in plan.versions
    many_stores.tag(many_stores.resolve("edits@v1"), "published")
    again = commit_child(many_stores, "again", key="again", tables=old.tables)
    collect_garbage(many_stores, plan)
    assert verify(everything(many_stores)) == []
    assert again.table("t").num_rows == 2
    assert numbers(many_stores) == {"again": [1], "cases": [1, 2, 3], "edits": [1, 2], "realpref": [2]}


def test_a_store_that_lacks_a_parent_is_left_alone(store):
    """What else would be needed cannot be known."""
    nights(store)
    store.remove(["versions/cases/000002.json"])
    before = files_in(store)
    with pytest.raises(VersionNotFoundError, match="cases@v2"):
        plan_later(store)
    assert files_in(store) == before


@pytest.mark.parametrize("wrong", [{"keep_newest": 0}, {"grace_hours": -1}, {"keep_neweest": 1}])
def test_retention_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Retention(**wrong)
