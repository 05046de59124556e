"""Single cases of a version that is larger than memory: what the model gave, to the bit, and only what is asked for."""

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

from storage.files import DamagedFileError, path_of
from storage.records import EditType
from storage.store import Store
from tasks.collection.coco import decode_mask
from tasks.images import decode
from tasks.miniature.editor import load_miniature
from tasks.post_training.encoded import EncodedConditions
from tasks.post_training.reading import Recent
from tasks.post_training.sources import TrainingSources
from tasks.stage import execute
from tests.tasks.post_training.made import CountedEncodings, commit_realpref, row

ROWS = [row(n) if n % 3 else row(n, 32, 64) for n in range(12)]
IDS = [r["case_id"] for r in ROWS]
WRONG = row(99, source={"bytes": b"no image", "path": None})


@pytest.fixture(scope="module")
def editor():
    return load_miniature()


def encodings(store, editor, *files, **config):
    return execute(CountedEncodings(commit_realpref(store, *files), editor, **config)).version


def reader(version, folder, **options):
    return EncodedConditions(version, folder / "kept", "miniature", **options)


def assert_equal(one, two):
    assert one.shape == two.shape
    assert one.tensors().keys() == two.tensors().keys()
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, two.tensors()[name])


def test_a_condition_is_what_the_editor_encodes(any_store, editor, tmp_path):
    conditions = reader(encodings(any_store, editor, ROWS[:5], [], ROWS[5:]), tmp_path)
    assert list(conditions) == IDS
    assert len(conditions) == 12
    wanted = [IDS[n] for n in (7, 0, 7, 11, 4)]
    found = conditions(wanted)
    assert [len(c) for c in found] == [1] * 5
    with torch.no_grad():
        for n, condition in zip((7, 0, 7, 11, 4), found, strict=True):
            alone = editor.encode([decode(ROWS[n]["source"]["bytes"])], [ROWS[n]["instruction"]])
            assert_equal(condition, alone)
            assert conditions.shape_of(IDS[n]) == alone.shape


def test_only_what_is_asked_for_is_read(store, editor, tmp_path, monkeypatch):
    version = encodings(store, editor, ROWS[:6], ROWS[6:])
    whole, read = {path_of(f): f.size for f in version.files("encodings")}, []
    read_before = Store.read

    def counted(self, path, start=None, end=None):
        data = read_before(self, path, start, end)
        if path in whole:
            read.append(len(data))
        return data

    monkeypatch.setattr(Store, "read", counted)
    conditions = reader(version, tmp_path)
    assert read == [], "the index is enough"
    conditions([IDS[8], IDS[8], IDS[1]])
    assert len(read) == 2
    assert sum(read) < sum(whole.values()) / 5
    conditions([IDS[8]])
    assert len(read) == 2, "it is kept"
    assert not (tmp_path / "kept").exists(), "files on this disk are not copied"


def test_memory_is_bounded(store, editor, tmp_path):
    version = encodings(store, editor, ROWS)
    size = version.manifest.statistics["bytes"]["mean"]
    conditions = reader(version, tmp_path, memory=int(4 * size))
    for case_id in IDS:
        conditions([case_id])
        assert conditions.recent.held <= 4 * size
    assert conditions.recent.get(IDS[-1]) is not None
    assert conditions.recent.get(IDS[0]) is None


def test_what_was_used_last_is_kept():
    recent = Recent(10)
    recent.keep("a", 1, 4)
    recent.keep("b", 2, 4)
    assert recent.get("a") == 1
    recent.keep("c", 3, 4)
    assert [recent.get(name) for name in "abc"] == [1, None, 3]
    recent.keep("a", 5, 2)
    assert (recent.get("a"), recent.held) == (5, 6)
    assert recent.keep("d", 4, 11) == 4
    assert (recent.get("d"), recent.held) == (None, 0)


@pytest.fixture
def remote(tmp_path):
    return Store(f"memory://{tmp_path.name}-{os.getpid()}/store")


def test_what_lies_elsewhere_is_fetched_once(remote, editor, tmp_path):
    version = encodings(remote, editor, ROWS)
    assert not isinstance(remote.fs, LocalFileSystem)
    found = reader(version, tmp_path)(IDS[:3])
    kept = sorted((tmp_path / "kept").iterdir())
    assert len(kept) == 3
    assert sum(path.stat().st_size for path in kept) < remote.size(path_of(version.files("encodings")[0])) / 3
    kept[0].write_bytes(b"cut off")
    for one, two in zip(reader(version, tmp_path)(IDS[:3]), found, strict=True):
        assert_equal(one, two)
    remote.remove([path_of(version.files("encodings")[0])])
    for one, two in zip(reader(version, tmp_path)(IDS[:3]), found, strict=True):
        assert_equal(one, two)
    with pytest.raises(FileNotFoundError):
        reader(version, tmp_path)(IDS[3:4])


def test_threads_share_a_reader(remote, editor, tmp_path):
    version = encodings(remote, editor, ROWS)
    size = version.manifest.statistics["bytes"]["mean"]
    conditions, expected = reader(version, tmp_path, memory=int(3 * size)), reader(version, tmp_path)(IDS)
    orders = [np.random.default_rng(n).permutation(12) for n in range(8)]
    started = threading.Barrier(8)

    def read(order):
        started.wait()
        return conditions([IDS[n] for n in order])

    with ThreadPoolExecutor(8) as pool:
        for order, found in zip(orders, pool.map(read, orders), strict=True):
            for n, condition in zip(order, found, strict=True):
                assert_equal(condition, expected[n])


def test_a_case_without_a_condition_says_why(store, editor, tmp_path):
    conditions = reader(encodings(store, editor, [ROWS[0], WRONG], limits={}), tmp_path)
    assert IDS[0] in conditions
    assert IDS[1] not in conditions
    assert conditions.failures.keys() == {WRONG["case_id"]}
    with pytest.raises(KeyError, match=rf"{WRONG['case_id']} could not be encoded in encodings@v1: unreadable image"):
        conditions([WRONG["case_id"]])
    remedy = rf"{IDS[1]} is not in encodings@v1: encode the cases of realpref@v1 with the model that is trained"
    with pytest.raises(KeyError, match=remedy):
        conditions(IDS[:2])


def test_encodings_of_another_model_are_refused(store, editor, tmp_path):
    version = encodings(store, editor, ROWS[:1])
    said = "encodings@v1 was encoded by the editing model miniature, not by qwen: encode the cases of realpref@v1"
    with pytest.raises(ValueError, match=said):
        EncodedConditions(version, tmp_path, "qwen")


def test_damage_is_noticed(store, editor, tmp_path):
    version = encodings(store, editor, ROWS)
    path = Path(store.root, path_of(version.files("encodings")[0]))
    data = bytearray(path.read_bytes())
    place = reader(version, tmp_path)._places[IDS[5]]
    data[place.start + place.size // 2] ^= 1
    path.write_bytes(data)
    assert len(reader(version, tmp_path)(IDS[6:])) == 6
    with pytest.raises(DamagedFileError, match=f"{path.name}.*the encoding of case {IDS[5]} is not what was written"):
        reader(version, tmp_path)([IDS[5]])


def test_a_source_is_the_case_as_a_judge_sees_it(any_store, tmp_path):
    sources = TrainingSources(commit_realpref(any_store, ROWS[:5], [], ROWS[5:]), tmp_path / "sources")
    assert list(sources) == IDS
    for n in (11, 0, 4, 5):
        triplet, given = sources[IDS[n]], ROWS[n]
        assert (triplet.case_id, triplet.instruction) == (given["case_id"], given["instruction"])
        assert (triplet.edit_type, triplet.request.colour, triplet.category) == (
            EditType(given["edit_type"]),
            "red",
            "cup",
        )
        assert np.array_equal(triplet.source, decode(given["source"]["bytes"]))
        assert np.array_equal(triplet.mask, decode_mask(json.loads(given["mask"])))
        assert triplet.edited is None
    assert sources.rows[IDS[3]].difficulty == ROWS[3]["difficulty"]
    with pytest.raises(KeyError, match="case nobody is not among the 12 of realpref@v1"):
        sources["nobody"]


def test_sources_are_laid_out_file_by_file_and_once(store, tmp_path):
    version = commit_realpref(store, ROWS[:6], ROWS[6:])
    folder = tmp_path / "sources"
    sources = TrainingSources(version, folder)
    assert not folder.exists(), "nothing is read before it is asked for"
    assert sources[IDS[7]] is sources[IDS[7]]
    assert [path.name for path in folder.iterdir()] == [f"{version.files('train')[1].sha256}.arrow"]
    other = TrainingSources(version, folder)
    shutil.rmtree(Path(store.root, "files"))
    assert np.array_equal(other[IDS[8]].source, decode(ROWS[8]["source"]["bytes"]))


def test_memory_of_sources_is_bounded(store, tmp_path):
    each = 64 * 64 * 4
    sources = TrainingSources(commit_realpref(store, ROWS), tmp_path, memory=3 * each)
    for case_id in IDS:
        assert sources[case_id].case_id == case_id
        assert sources.recent.held <= 3 * each
