"""The stage post-train: a process of its own, killed and continued, refused by the gate."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from safetensors.torch import load

from storage.lineage import ancestors
from tasks.build_realpref import BuildConfig, BuildRealPref
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.miniature.coco import write_coco
from tasks.post_train import PostTrain, TrainingFailedError, run_worker
from tasks.post_training.job import Job, PostTrainConfig
from tasks.rate_edits import RateConfig, RateEdits
from tasks.run_benchmark import BenchmarkConfig, RunBenchmark
from tasks.stage import execute
from training import config as training


@pytest.fixture(scope="module")
def realpref(tmp_path_factory):
    """A data set of a few cases; full scores stay in, since so few edits may all be good."""
    from storage.store import Store

    folder = tmp_path_factory.mktemp("data")
    store = Store(str(folder / "store"))
    world = write_coco(folder / "world", 5, 24)
    cases = execute(CollectCases(store, CollectConfig(train_per_edit_type=1, bench_per_edit_type=1), world)).version
    edits = execute(EditBaseline(store, EditConfig(), cases)).version
    scores = execute(RateEdits(store, RateConfig(), edits)).version
    return execute(BuildRealPref(store, BuildConfig(drop_full=False), scores)).version


def job_of(realpref, folder, **changes):
    grpo = replace(training.tiny(), **changes)
    return Job(store=realpref.store.url, realpref=str(realpref), config=PostTrainConfig(grpo=grpo), folder=folder)


def test_a_killed_training_continues_to_the_bit(realpref, tmp_path):
    through = job_of(realpref, tmp_path / "through", iterations=4)
    run_worker(through, lambda count: None)

    killed = job_of(realpref, tmp_path / "killed", iterations=4)
    killed.folder.mkdir()
    order = killed.folder / "job.json"
    order.write_text(killed.model_dump_json())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen([sys.executable, "-m", "tasks.post_training.worker", str(order)], env=environment)
    deadline = time.monotonic() + 120
    while not (killed.metrics.exists() and killed.metrics.read_text().count("\n") >= 2):
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not killed.adapter.exists()

    counted = []
    run_worker(killed, counted.append)
    assert killed.adapter.read_bytes() == through.adapter.read_bytes()
    iterations = [json.loads(line)["iteration"] for line in killed.metrics.read_text().splitlines()]
    assert iterations == [0, 1, 2, 3]


def test_the_stage_commits_adapter_gate_and_curves(realpref, tmp_path):
    config = PostTrainConfig(grpo=training.tiny())
    version = execute(PostTrain(realpref.store, config, realpref, tmp_path)).version
    assert load(version.file("weights"))
    gate = json.loads(version.file("gate"))
    assert gate["ratio deviation"] < 1e-4
    assert version.table("curves").num_rows == 2
    assert version.manifest.statistics["iterations"] == 2
    assert str(tmp_path) not in version.manifest.model_dump_json(), "a manifest tells no path of a machine"
    again = execute(PostTrain(realpref.store, config, realpref, tmp_path / "elsewhere"))
    assert again.reused
    (log,) = tmp_path.glob("*/metrics.jsonl")
    first = log.stat().st_mtime_ns
    refreshed = execute(PostTrain(realpref.store, config, realpref, tmp_path), refresh=True)
    assert log.stat().st_mtime_ns > first, "refresh trains again"
    assert refreshed.version.file("weights") == version.file("weights")
    with pytest.raises(ValueError, match="trained on cases of cases@v1, which hold"):
        RunBenchmark(realpref.store, BenchmarkConfig(), swapped_splits(realpref), version)


def swapped_splits(realpref):
    """The cases of the fixture with train and bench the wrong way round."""
    (cases,) = (v for v in ancestors(realpref) if v.artifact == "cases")
    tables = cases.manifest.tables
    swapped = {**tables, "train": tables["bench"], "bench": tables["train"]}
    return realpref.store.commit(cases.manifest.model_copy(update={"tables": swapped, "key": "swapped"}))


def test_without_cases_it_says_so(realpref, tmp_path):
    job = job_of(empty(realpref), tmp_path)
    with pytest.raises(TrainingFailedError, match="no cases to train on: every case got the full score"):
        run_worker(job, lambda count: None)


def empty(realpref):
    file, *_ = realpref.manifest.tables["train"]
    nothing = realpref.store.add_table(realpref.store.read_table(file).slice(0, 0))
    changed = {"tables": {**realpref.manifest.tables, "train": (nothing,)}, "key": "empty"}
    return realpref.store.commit(realpref.manifest.model_copy(update=changed))


def test_a_training_that_fails_shows_its_last_words(realpref, tmp_path):
    job = job_of(realpref, tmp_path)
    with pytest.raises(TrainingFailedError, match="realpref@v99"):
        run_worker(job.model_copy(update={"realpref": "realpref@v99"}), lambda count: None)
