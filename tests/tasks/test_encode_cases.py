"""Encoding cases: once each, to the same bytes wherever it happens, and what cannot be encoded stays as a reason."""

import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from storage.export import export
from storage.records import Encoding
from storage.schemas import from_table
from storage.store import REJECTED, Store
from storage.verify import verify
from tasks.encode_cases import EncodeCases, EncodeConfig
from tasks.images import png
from tasks.miniature.editor import load_miniature, weights_fingerprint
from tasks.post_training.encoding import encoded, pack
from tasks.stage import RejectedError, execute, work_on
from tests.tasks.post_training.made import CountedEncodings, CountingModel, commit_realpref, row
from training.editors.interface import condition_of, join

ROWS = [row(n) for n in range(5)]
MIXED = [row(0), row(1, 32, 64), row(2), row(3, 32, 64), row(4), row(5)]
"""Of two sizes."""


@pytest.fixture(scope="module")
def miniature():
    return load_miniature()


@pytest.fixture
def model(miniature):
    return CountingModel(miniature)


def rows_of(version):
    return list(from_table(version.table("encodings"), Encoding))


def test_every_case_is_encoded_in_its_place(store, model):
    realpref = commit_realpref(store, MIXED[:4], MIXED[4:])
    version = execute(CountedEncodings(realpref, model)).version
    assert [e.case_id for e in rows_of(version)] == [r["case_id"] for r in MIXED]
    assert [e.edit_type for e in rows_of(version)] == [r["edit_type"] for r in MIXED]
    assert [f.rows for f in version.files("encodings")] == [f.rows for f in version.files("index")] == [4, 2]
    statistics = version.manifest.statistics
    assert statistics["counts"] == {"encoded": 6}
    assert statistics["shapes"] == {"4x4 from 4x4": 4, "2x4 from 2x4": 2}
    sizes = [len(e.tensors) for e in rows_of(version)]
    assert statistics["bytes"] == {"total": sum(sizes), "mean": round(sum(sizes) / 6, 1)}
    assert not verify([version])


def test_the_real_model_under_its_own_fingerprint(store):
    version = execute(EncodeCases(store, EncodeConfig(), commit_realpref(store, ROWS[:1]))).version
    (made,) = rows_of(version)
    assert made.editor == version.manifest.fingerprints["editor"] == weights_fingerprint()
    assert made.encoding_id == Encoding.id_of(made.case_id, weights_fingerprint())


def test_a_rerun_needs_no_model(store, model):
    realpref = commit_realpref(store, ROWS)
    first = execute(CountedEncodings(realpref, model))
    assert first.done == len(model.asked) == 5
    again = execute(CountedEncodings(realpref))
    assert again.reused
    assert again.version.number == first.version.number


def test_a_new_case_is_encoded_alone(store, model):
    execute(CountedEncodings(commit_realpref(store, ROWS[:4]), model))
    grown, packed = commit_realpref(store, ROWS[:4], ROWS[4:], key="grown"), commit_realpref(store, ROWS, key="packed")
    model.asked.clear()
    execute(CountedEncodings(grown, model))
    assert model.asked == [ROWS[4]["instruction"]]
    version = execute(CountedEncodings(packed)).version
    assert [e.case_id for e in rows_of(version)] == [r["case_id"] for r in ROWS], "known, in whatever file they lie"


def test_another_model_encodes_anew(store, model):
    realpref = commit_realpref(store, ROWS)
    for fingerprint, asked in (("one", 5), ("two", 10), ("one", 10)):
        version = execute(CountedEncodings(realpref, model, fingerprint)).version
        assert len(model.asked) == asked
        assert {e.editor for e in rows_of(version)} == {fingerprint}
    execute(CountedEncodings(realpref, model, "one"), refresh=True)
    assert len(model.asked) == 15


def test_what_cannot_be_encoded_is_a_row_with_its_reason(store, miniature):
    unreadable = row(7, source={"bytes": b"GIF89a", "path": None})
    odd = row(8, source={"bytes": png(torch.zeros(40, 64, 3, dtype=torch.uint8).numpy()), "path": None})
    realpref = commit_realpref(store, [ROWS[0], unreadable, odd, ROWS[3], ROWS[1]])
    model = CountingModel(miniature, fails=[ROWS[3]["instruction"]])
    with pytest.raises(RejectedError, match=r"encodings@v1 is rejected.* coverage 0.4 is below 0.95"):
        execute(CountedEncodings(realpref, model, batch_size=3))
    assert model.batches == [1, 1], "the case that fails spoils it for no other"
    version = store.version("encodings", 1)
    told = [e.failure for e in rows_of(version)]
    assert told[0] == told[4] == ""
    assert told[1].startswith("unreadable image: not a readable image")
    assert told[2] == "unfit size: image of 64 x 40 pixels: both must be multiples of 16"
    assert told[3] == "not encoded: no words for it"
    assert [e.tensors is None for e in rows_of(version)] == [False, True, True, True, False]
    counts = {"encoded": 2, "failed: unreadable image": 1, "failed: unfit size": 1, "failed: not encoded": 1}
    assert version.manifest.statistics["counts"] == counts
    assert store.tags("encodings").keys() == {REJECTED}

    model.fails = ()
    model.asked.clear()
    tolerant = CountedEncodings(realpref, model, limits={})
    again = execute(tolerant, retry_failed=True)
    assert model.asked == [ROWS[3]["instruction"]], "only what failed is tried again"
    assert again.version.manifest.statistics["counts"]["encoded"] == 3


def test_a_data_set_without_cases_is_no_failure(store):
    version = execute(CountedEncodings(commit_realpref(store, []))).version
    assert rows_of(version) == []


def test_an_error_of_the_machine_stops_the_stage_and_loses_nothing(store, miniature):
    realpref = commit_realpref(store, MIXED)
    dying = CountingModel(miniature, dies_after=4)
    with pytest.raises(RuntimeError, match="out of memory"):
        execute(CountedEncodings(realpref, dying))
    model = CountingModel(miniature)
    continued = execute(CountedEncodings(realpref, model)).version
    assert len(model.asked) == 2
    other = Store(f"{store.url}-other")
    through = execute(CountedEncodings(commit_realpref(other, MIXED), CountingModel(miniature))).version
    assert files(continued) == files(through)


def files(version):
    return {table: [file.sha256 for file in found] for table, found in version.manifest.tables.items()}


@pytest.mark.parametrize("batch_size", [2, 64])
def test_company_and_order_change_no_byte(store, miniature, batch_size):
    alone = execute(CountedEncodings(commit_realpref(store, MIXED), CountingModel(miniature))).version
    model = CountingModel(miniature)
    other = Store(f"{store.url}-other")
    stage = CountedEncodings(commit_realpref(other, MIXED), model, batch_size=batch_size)
    together = execute(stage).version
    assert model.batches == ([2, 2, 2] if batch_size == 2 else [4, 2])
    assert together.ref.manifest == alone.ref.manifest
    backwards = execute(CountedEncodings(commit_realpref(store, MIXED[::-1], key="back"), model), refresh=True).version
    assert {e.case_id: e.tensors for e in rows_of(backwards)} == {e.case_id: e.tensors for e in rows_of(alone)}


def in_threads(stage, shards, progress):
    with ThreadPoolExecutor(4) as pool:
        yield from pool.map(lambda shard: work_on(stage, shard, progress), shards)


def in_processes(stage, shards, progress):
    with ProcessPoolExecutor(1) as pool:
        yield from pool.map(work_alone, [stage] * len(shards), shards)


def work_alone(stage, shard):
    return work_on(stage, shard, lambda count: None)


def test_every_engine_and_store_makes_the_same_manifest(any_store, store, tmp_path):
    parts = [MIXED[:2], MIXED[2:3], MIXED[3:]]
    plain = Store(str(tmp_path / "plain"))
    expected = execute(EncodeCases(plain, EncodeConfig(), commit_realpref(plain, *parts))).version.ref.manifest
    # Another process cannot see this one's memory, nor its credentials.
    each = in_processes if any_store.url == store.url else in_threads
    stage = EncodeCases(any_store, EncodeConfig(), commit_realpref(any_store, *parts))
    assert execute(stage, each=each).version.ref.manifest == expected


def test_the_cost_is_told_before(store, model):
    realpref = commit_realpref(store, ROWS[:3])
    lines = []
    execute(CountedEncodings(realpref, model), tell=lines.append)
    assert lines == [
        "3 cases to encode, 0 are known already; size unknown before the first run; hours unknown before the first run"
    ]
    lines.clear()
    execute(CountedEncodings(commit_realpref(store, ROWS, key="more"), model), tell=lines.append)
    assert lines == ["2 cases to encode, 3 are known already; 0.000 GB to write; about 0.00 hours"]


def test_the_tensors_are_what_the_model_gives_without_padding(miniature):
    pixels = [torch.full((64, 64, 3), 40 * n, dtype=torch.uint8).numpy() for n in range(3)]
    texts = ["make the cup red", "cup", "red cup"]
    some = encoded(miniature, pixels, texts)
    assert [c.text.tokens_BLD.shape[1] for c in some] == [4, 1, 2]
    joined, together = join(some), miniature.encode(pixels, texts)
    assert torch.equal(joined.source_BMC, together.source_BMC)
    real_BL = together.text.mask_BL
    assert torch.equal(joined.text.mask_BL, real_BL)
    assert torch.equal(joined.text.tokens_BLD[real_BL], together.text.tokens_BLD[real_BL])
    half = {name: t.bfloat16() if t.is_floating_point() else t for name, t in some[0].tensors().items()}
    assert len(pack(condition_of(some[0].shape, half))) < 0.6 * len(pack(some[0])), "in the precision that they have"


def test_a_data_set_of_older_code_is_encoded(tmp_path):
    old = Store(shutil.copytree(Path(__file__).parents[1] / "storage" / "schema_1", str(tmp_path / "old")))
    version = execute(EncodeCases(old, EncodeConfig(), old.resolve("realpref"))).version
    assert version.manifest.statistics["counts"] == {"encoded": version.manifest.rows("encodings")}
    card = export(version, tmp_path / "exported")
    assert "data/encodings/*.parquet" in card.read_text()
