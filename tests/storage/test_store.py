"""The store on the local disk, in memory and on a real S3 server: nothing torn, nothing lost, nothing outside."""

import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from storage.lineage import ancestors
from storage.manifest import Manifest
from storage.store import Store, VersionNotFoundError


@pytest.fixture
def store(any_store):
    return any_store


def manifest_of(store, key="k", rows=(1, 2), **changes):
    table = store.add_table(pa.table({"id": list(rows)}))
    fields = {
        "artifact": "cases",
        "stage": "s",
        "stage_version": 1,
        "key": key,
        "config": {},
        "tables": {"t": (table,)},
    }
    return Manifest(**fields | changes)


def test_what_is_committed_is_read_back(store):
    version = store.commit(manifest_of(store), seconds=1.5, flow_run_id="run")
    found = store.resolve("cases@v1")
    assert str(version) == str(found) == "cases@v1"
    assert found.table("t").to_pydict() == {"id": [1, 2]}
    assert found.manifest == version.manifest
    assert found.ref.flow_run_id == "run"
    assert found.manifest.rows("t") == 2


def test_names_lead_to_versions(store):
    first, second = store.commit(manifest_of(store)), store.commit(manifest_of(store, "other", rows=(3,)))
    store.tag(first, "good")
    assert store.resolve("cases").number == store.resolve("cases@latest").number == second.number == 2
    assert store.resolve("cases@good").number == 1
    store.tag(second, "good")
    assert store.resolve("cases@good").number == 2
    assert store.find("cases", "k").number == 1
    assert store.find("cases", "unheard-of") is None


def test_a_key_means_its_newest_version(store):
    for _ in range(2):
        store.commit(manifest_of(store))
    assert store.find("cases", "k").number == 2


@pytest.mark.parametrize("spec", ["cases@v7", "cases@latest", "cases@nobody"])
def test_a_version_that_does_not_exist_is_named(store, spec):
    with pytest.raises(VersionNotFoundError, match=f"{spec}.*no version of it; run the stage"):
        store.resolve(spec)
    store.commit(manifest_of(store))
    if spec != "cases@latest":
        with pytest.raises(VersionNotFoundError, match="has v1 to v1"):
            store.resolve(spec)


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "..", "", "%2e%2e", "A", "a\n", "a@b@c/../d"])
def test_names_cannot_leave_the_store(store, name):
    with pytest.raises(ValueError, match=r"name|form"):
        store.resolve(name)
    with pytest.raises(ValueError, match="name"):
        store.commit(manifest_of(store, artifact=name))


def test_the_same_content_is_one_file_and_one_manifest(store):
    one, two = manifest_of(store), manifest_of(store)
    assert one.id == two.id
    assert one.tables["t"][0].sha256 == store.add_table(pa.table({"id": [1, 2]})).sha256
    assert one.id != manifest_of(store, rows=(2, 1)).id


def test_many_writers_get_many_versions(store):
    manifests = [manifest_of(store, key=f"k{i}", rows=(i,)) for i in range(8)]
    threads = [threading.Thread(target=store.commit, args=(m,)) for m in manifests]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert store.numbers("cases") == list(range(1, 9))
    assert {store.version("cases", n).manifest.key for n in range(1, 9)} == {m.key for m in manifests}


def test_a_damaged_file_is_found_and_named(tmp_path):
    store = Store(str(tmp_path))
    version = store.commit(manifest_of(store))
    file = version.manifest.tables["t"][0]
    path = next(tmp_path.glob(f"files/*/{file.sha256}.parquet"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    with pytest.raises(OSError, match=f"{file.sha256}.*damaged"):
        version.table("t")
    path.write_bytes(whole[:-1])
    assert store.add_file(whole, ".parquet").sha256 == file.sha256
    assert path.read_bytes() == whole, "what was cut short is whole again once it is made again"
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{file.sha256}.*missing"):
        version.table("t")


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    store = Store(str(tmp_path))
    file = store.add_file(b"shared", ".bin")
    reference = tmp_path / "ordinary"
    reference.write_bytes(b"")
    path = next(tmp_path.glob(f"files/*/{file.sha256}.bin"))
    assert path.stat().st_mode == reference.stat().st_mode


def test_ancestors_come_behind_their_children(store):
    cases = store.commit(manifest_of(store))
    edits = store.commit(manifest_of(store, "e", artifact="edits", parents={"cases": cases.as_parent()}))
    scores = store.commit(
        manifest_of(store, "s", artifact="scores", parents={"cases": cases.as_parent(), "edits": edits.as_parent()})
    )
    assert [v.artifact for v in ancestors(scores)] == ["scores", "edits", "cases"]


def test_an_unwritable_store_says_so(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="file"):
        Store(str(tmp_path / "file")).add_file(b"data", ".bin")


def test_a_store_without_room_says_so_and_keeps_what_it_has(tmp_path):
    """Real failing writes: a process that may write no file of more than 4 kB."""
    code = (
        "import resource, sys\n"
        "from storage.store import Store\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "store = Store(sys.argv[1])\n"
        "store.add_file(b'small', '.bin')\n"
        "store.add_file(bytes(100_000), '.bin')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    failed = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert failed.returncode == 1
    assert "writing 100000 bytes" in failed.stderr
    assert str(tmp_path) in failed.stderr
    assert [path.read_bytes() for path in (tmp_path / "files").rglob("*") if path.is_file()] == [b"small"]
    store = Store(str(tmp_path))
    assert store.read_file(store.add_file(bytes(100_000), ".bin")) == bytes(100_000)


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path):
    store = Store(str(tmp_path))
    store.commit(manifest_of(store))
    (tmp_path / "versions/cases/.unfinished-x").write_bytes(b"{")
    assert store.numbers("cases") == [1]


def test_a_table_that_is_not_there_is_named(store):
    with pytest.raises(KeyError, match="has no 'x'; it has t"):
        store.commit(manifest_of(store)).table("x")
