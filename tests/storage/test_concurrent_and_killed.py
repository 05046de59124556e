"""Many writers at once, and writers that are killed: no version is lost, torn or made twice, and no garbage stays."""

import random
import time

import pytest

from storage.gc import Retention, collect_garbage, plan_gc
from storage.store import Store
from storage.verify import verify
from tests.storage import writers
from tests.storage.samples import files_in, files_needed, nightly_work, place_on_s3


def place_on(kind, request, tmp_path):
    """An address and options for a store that several processes can open."""
    if kind == "s3":
        return place_on_s3(), request.getfixturevalue("s3").options
    return str(tmp_path / "store"), {}


def start(function, *arguments):
    process = writers.processes.Process(target=function, args=arguments)
    process.start()
    return process


def was_killed(process):
    process.join(60)
    assert process.exitcode in (0, -9)
    return process.exitcode == -9


def assert_only_whole_versions(store, newest=None):
    versions = store.versions("cases")
    assert [v.number for v in versions] == list(range(1, len(versions) + 1))
    assert verify(versions[-newest:] if newest else versions) == []


def assert_done_once(store, works, padding=0):
    """Each piece of work, done again where it was not finished, has exactly one version."""
    for work in works:
        assert nightly_work(store, work, padding).table("t").column("id").to_pylist() == [work, 0, work, 1]
    assert sorted(v.manifest.key for v in store.versions("cases")) == sorted(f"work-{work}" for work in works)


def assert_no_garbage(store):
    """After collecting it; only what versions, tags, keys and remembered shards need is left."""
    collect_garbage(store, plan_gc(store, Retention(grace_hours=0)))
    assert files_in(store) == files_needed(store)
    assert_only_whole_versions(store)


@pytest.mark.parametrize(("kind", "count"), [("file", 5), ("s3", 1)])
def test_processes_that_commit_at_once_lose_nothing(kind, count, request, tmp_path):
    url, options = place_on(kind, request, tmp_path)
    store = Store(url, **options)
    alive = [start(writers.commit_some, url, options, writer, count) for writer in range(8)]
    while alive:
        if meanwhile := store.numbers("cases"):
            assert store.version("cases", meanwhile[-1]).table("t").num_rows == 2, "a reader sees whole versions"
        alive = [process for process in alive if process.is_alive() or was_killed(process)]
        time.sleep(0.1)
    versions = store.versions("cases")
    assert [v.number for v in versions] == list(range(1, 8 * count + 1))
    written = sorted(tuple(v.table("t").to_pydict()["id"]) for v in versions)
    assert written == [(writer, number) for writer in range(8) for number in range(count)]
    assert verify(versions) == []
    assert store.find("cases", "writer-3-0").table("t").to_pydict() == {"id": [3, 0]}


@pytest.mark.parametrize("padding", [0, 1_100_000], ids=["small", "large"])
def test_a_process_that_dies_before_any_change_on_the_disk_leaves_whole_versions(padding, tmp_path):
    store = Store(str(tmp_path / "store"))
    died = 0
    while was_killed(start(writers.die_before_changing, store.root, died, padding, died + 1)):
        assert_only_whole_versions(store, newest=2)
        died += 1
        if died % 2:  # what the others left half done stays so for now
            nightly_work(store, died - 1, padding)
    assert died > 30
    assert store.resolve("cases").manifest.tables["t"][1].size >= padding
    assert any(".unfinished-" in path for path in files_in(store)), "some died half way through a file"
    assert_done_once(store, range(died + 1), padding)
    assert_no_garbage(store)


def test_a_process_that_dies_before_any_write_to_s3_leaves_whole_versions(s3):
    store = Store(place_on_s3(), **s3.options)
    died = 0
    while was_killed(start(writers.die_before_writing, store.url, s3.options, died, died + 1)):
        assert_only_whole_versions(store)
        died += 1
    assert died == 9, "3 files, the journal, the shard, the manifest, the ref, the key and the tag"
    assert_done_once(store, range(died + 1))
    assert_no_garbage(store)


@pytest.mark.parametrize(("kind", "kills"), [("file", 50), ("s3", 8)])
def test_processes_killed_at_any_moment_leave_whole_versions(kind, kills, request, tmp_path):
    url, options = place_on(kind, request, tmp_path)
    store = Store(url, **options)
    nightly_work(store, 0)
    moments, seconds = random.Random(0), 0.0
    for kill in range(kills):
        here, there = writers.processes.Pipe(duplex=False)
        process = start(writers.work_until_killed, url, options, len(store.numbers("cases")), there)
        for work in range(1 + kill % 3):
            before = time.monotonic()
            assert here.recv_bytes() == b"go"
            seconds = time.monotonic() - before if work else seconds
        time.sleep(seconds * moments.random())
        process.kill()
        assert was_killed(process)
        if kind == "file" or kill % 4 == 3:
            assert_only_whole_versions(store, newest=3)
    assert len(store.numbers("cases")) >= kills // 3 * 3
    assert_done_once(store, range(len(store.numbers("cases")) + 1))
    assert_no_garbage(store)
