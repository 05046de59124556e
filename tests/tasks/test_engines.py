"""Shards on threads, processes and Ray: the same files to the byte, on another store too."""

from pathlib import Path

import pytest
from prefect import flow

from storage.store import Store
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.editing.settings import ClassicalEditorConfig
from tasks.engines import Workers
from tasks.hp_scorer.settings import MeasuredConfig
from tasks.miniature.coco import write_coco
from tasks.prefect_stage import RunOptions, run_stage
from tasks.rate_edits import RateConfig, RateEdits
from tasks.stage import execute

pytestmark = pytest.mark.prefect
COLLECT = CollectConfig(train_per_edit_type=3, bench_per_edit_type=1, cases_per_image=8)
EDIT = EditConfig(editor=ClassicalEditorConfig())
RATE = RateConfig(scorer=MeasuredConfig(knows="nothing"), limits={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("world"), 3, 12)


@flow(name="data-side")
def data_side(folder, options):
    store = options.open_store()
    cases = run_stage(CollectCases(store, COLLECT, folder), options)
    edits = run_stage(EditBaseline(store, EDIT, store.resolve(str(cases))), options)
    return str(run_stage(RateEdits(store, RATE, store.resolve(str(edits))), options))


@pytest.fixture(scope="module")
def expected(tmp_path_factory, folder):
    """What comes out without Prefect, one shard after the other."""
    store = Store(str(tmp_path_factory.mktemp("plain")))
    cases = execute(CollectCases(store, COLLECT, folder)).version
    edits = execute(EditBaseline(store, EDIT, cases)).version
    scores = execute(RateEdits(store, RATE, edits)).version
    return [version.ref.manifest for version in (cases, edits, scores)]


@pytest.mark.parametrize("engine", ["sequential", "threads", "processes", "ray"])
def test_every_engine_makes_the_same_manifests(engine, folder, expected, prefect_server, tmp_path):
    """Manifests name every file by its hash: the same manifest is the same bytes."""
    if engine == "ray":
        pytest.importorskip("prefect_ray", reason="the extra dev installs it")
    workers = Workers(engine=engine, count=2)
    stages = ("edit-baseline", "rate-edits") if engine == "ray" else ("collect-cases", "edit-baseline", "rate-edits")
    options = RunOptions(store=str(tmp_path / "store"), workers=dict.fromkeys(stages, workers))
    data_side(folder, options)
    store = Store(options.store)
    assert [store.resolve(name).ref.manifest for name in ("cases", "edits", "scores")] == expected


def test_another_store_holds_the_same(folder, expected, prefect_server, s3, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    options = RunOptions(store="s3://lake/engines", workers={"edit-baseline": Workers(engine="processes")})
    data_side(folder, options)
    store = options.open_store()
    assert [store.resolve(name).ref.manifest for name in ("cases", "edits", "scores")] == expected


def test_a_failing_shard_fails_the_stage_and_the_others_are_kept(folder, prefect_server, tmp_path):
    options = RunOptions(store=str(tmp_path / "store"), workers={"rate-edits": Workers(engine="threads")})
    store = options.open_store()
    edits = execute(EditBaseline(store, EDIT, execute(CollectCases(store, COLLECT, folder)).version)).version

    @flow(name="rate")
    def rate():
        return run_stage(RateEdits(store, RATE, edits), options)

    damaged = Path(next(file for file in edits.paths("edits")).removeprefix("file://"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    with pytest.raises(OSError, match=f"{damaged.name}.*damaged"):
        rate()
    assert len(store.names("shards/rate-edits")) == len(edits.files("edits")) - 1
    damaged.write_bytes(whole)
    assert rate().rows == edits.manifest.rows("edits")
