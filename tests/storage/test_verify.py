"""Damage of every kind is found, and named."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.files import DamagedFileError, path_of
from storage.store import Store
from storage.verify import verify
from tests.storage.samples import commit_child


@pytest.fixture
def store(any_store):
    return any_store


def damage(store, path, change):
    """Rewrite a file behind the store's back."""
    store.put(path, change(store.read(path)))


def flip(at):
    def change(data):
        changed = bytearray(data)
        changed[at] ^= 0x10
        return bytes(changed)

    return change


def cut(data):
    return data[:-3]


def two_versions(store):
    """Cases and edits of them; the edits' file."""
    cases = commit_child(store, "cases")
    edits = commit_child(store, "edits", cases, rows=(3, 4, 5))
    return cases, edits, edits.manifest.tables["t"][0]


def everything(store):
    return [version for artifact in store.artifacts() for version in store.versions(artifact)]


def test_what_is_whole_is_called_whole(store):
    two_versions(store)
    told = []
    assert verify(everything(store), progress=lambda done, of: told.append((done, of))) == []
    assert told[-1][0] == told[-1][1] == sum(info["size"] for info in store.walk("files").values())


@pytest.mark.parametrize(
    ("change", "what", "what_quick"),
    [
        (flip(50), "its SHA-256 is not its name", None),
        (cut, "its SHA-256 is not its name", "bytes, not"),
        (None, "missing", "missing"),
    ],
    ids=["flipped", "cut", "missing"],
)
def test_a_file_that_is_not_what_it_was_is_named(store, change, what, what_quick):
    _, _, file = two_versions(store)
    path = path_of(file)
    damage(store, path, change) if change else store.remove([path])
    (found,) = verify(everything(store))
    assert (found.version, found.path) == ("edits@v1", path)
    assert what in found.what
    quick = verify(everything(store), quick=True)
    assert [what_quick in one.what for one in quick] == ([True] if what_quick else [])


@pytest.mark.parametrize(
    "change", [flip(10), cut, lambda data: b"{}", None], ids=["flipped", "cut", "other", "missing"]
)
def test_a_damaged_manifest_is_named_and_the_others_are_still_looked_at(store, change):
    cases, _, file = two_versions(store)
    path = f"manifests/{cases.ref.manifest}.json"
    damage(store, path, change) if change else store.remove([path])
    store.remove([path_of(file)])
    versions = everything(store)
    found = verify(versions, quick=True)
    assert [(one.version, one.path) for one in found] == [("cases@v1", path), ("edits@v1", path_of(file))]
    with pytest.raises(OSError, match=cases.ref.manifest):
        _ = versions[0].manifest


def test_a_parent_that_was_replaced_or_removed_is_named(store):
    cases, edits, _ = two_versions(store)
    other = commit_child(store, "cases", rows=(9,))
    store.put("versions/cases/000001.json", store.read("versions/cases/000002.json"))
    assert other.ref.manifest == store.version("cases", 1).ref.manifest != cases.ref.manifest
    assert [str(one) for one in verify([edits])] == ["edits@v1: parent cases: cases@v1 is another"]
    store.remove(["versions/cases/000001.json"])
    (found,) = verify([edits])
    assert (found.version, found.path) == ("edits@v1", "parent cases")
    assert "cases@v1" in found.what


def test_a_file_of_two_versions_is_read_once(store):
    commit_child(store, "cases")
    commit_child(store, "cases", key="another")
    told = []
    verify(store.versions("cases"), progress=lambda done, of: told.append(of))
    assert len(told) == 1


def wide_table(rows=600):
    """With an image-like column that takes most of the room."""
    noise = np.random.default_rng(0)
    return pa.table({"id": list(range(rows)), "image": [noise.bytes(2000) for _ in range(rows)]})


def place_in(data, column):
    """Just before the end of a column's last page."""
    metadata = pq.ParquetFile(io.BytesIO(data)).metadata
    chunk = metadata.row_group(metadata.num_row_groups - 1).column(column)
    return (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 2


def test_a_reader_of_some_columns_notices_damage_in_them(store):
    """Page checksums tell, since the whole file is not read."""
    file = store.add_table(wide_table())
    path, whole = path_of(file), store.read(path_of(file))
    for column, name in enumerate(("id", "image")):
        damage(store, path, flip(place_in(whole, column)))
        with pytest.raises(DamagedFileError, match=f"{path}.* is damaged"):
            store.read_table(file, [name])
        with pytest.raises(DamagedFileError, match=f"{path}.*CRC-32"):
            store.read_table(file)
        store.put(path, whole)
    assert store.read_table(file, ["id"]).num_rows == 600


@pytest.mark.parametrize("change", [cut, lambda data: data[:100], lambda data: b"", flip(-6)])
def test_a_reader_of_some_columns_notices_a_file_that_was_cut(store, change):
    file = store.add_table(wide_table())
    damage(store, path_of(file), change)
    for attempt in (lambda: store.read_table(file, ["id"]), lambda: store.schema_of(file)):
        with pytest.raises(DamagedFileError, match=f"{path_of(file)}.* is damaged"):
            attempt()
    store.remove([path_of(file)])
    with pytest.raises(FileNotFoundError, match=f"{path_of(file)} is missing"):
        store.read_table(file, ["id"])


def test_a_reader_of_some_columns_reads_little(tmp_path):
    """Else a look at scores would download every image."""

    class Counting(Store):
        read_bytes = 0

        def read(self, path, start=None, end=None):
            data = super().read(path, start, end)
            self.read_bytes += len(data)
            return data

    store = Counting(str(tmp_path))
    file = store.add_table(wide_table())
    assert store.read_table(file, ["id"]).column("id").to_pylist() == list(range(600))
    assert store.read_bytes < file.size / 4


def test_a_version_with_a_damaged_file_is_not_committed_when_the_file_is_gone(store):
    _, edits, file = two_versions(store)
    store.remove([path_of(file)])
    with pytest.raises(FileNotFoundError, match=rf"1 of the 1 files .* of edits .* {path_of(file)} .* run the stage"):
        store.commit(edits.manifest)
    assert store.numbers("edits") == [1]
    assert json.loads(store.read("versions/edits/000001.json"))["manifest"] == edits.ref.manifest
