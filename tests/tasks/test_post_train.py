"""The stage post-train: a process of its own, killed and continued, refused by the gate."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load

from storage.lineage import ancestors
from tasks.build_realpref import BuildConfig, BuildRealPref
from tasks.collect_cases import CollectCases, CollectConfig
from tasks.edit_baseline import EditBaseline, EditConfig
from tasks.encode_cases import EncodeCases, EncodeConfig
from tasks.miniature.coco import write_coco
from tasks.post_train import PostTrain, TrainingFailedError, fitting_sizes, run_worker
from tasks.post_training.checkpoints import FolderSink
from tasks.post_training.job import Job, PostTrainConfig, Running
from tasks.post_training.publishing import history_of, to_publish
from tasks.post_training.score_journal import read_scores
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


@pytest.fixture(scope="module")
def encodings(realpref):
    return execute(EncodeCases(realpref.store, EncodeConfig(), realpref)).version


def job_of(encodings, folder, running=None, **changes):
    config = PostTrainConfig(grpo=replace(training.tiny(), **changes), running=running or Running())
    parent = encodings.manifest.parents["realpref"]
    realpref = encodings.store.version(parent.artifact, parent.version)
    return Job(
        store=encodings.store.url, realpref=str(realpref), encodings=str(encodings), config=config, folder=folder
    )


def test_a_killed_training_continues_to_the_bit(encodings, tmp_path):
    through = job_of(encodings, tmp_path / "through", iterations=4)
    run_worker(through, lambda count: None)

    killed = job_of(encodings, tmp_path / "killed", iterations=4)
    killed.folder.mkdir()
    order = killed.folder / "job.json"
    order.write_text(killed.model_dump_json())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen([sys.executable, "-m", "tasks.post_training.worker", str(order)], env=environment)
    wait_until(lambda: killed.metrics.exists() and killed.metrics.read_text().count("\n") >= 2)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert not killed.adapter.exists()

    counted = []
    run_worker(killed, counted.append)
    assert killed.adapter.read_bytes() == through.adapter.read_bytes()
    iterations = [json.loads(line)["iteration"] for line in killed.metrics.read_text().splitlines()]
    assert iterations == [0, 1, 2, 3]


def test_the_stage_commits_adapter_gate_and_curves(realpref, encodings, tmp_path):
    config = PostTrainConfig(grpo=training.tiny())
    version = execute(PostTrain(realpref.store, config, encodings, tmp_path)).version
    assert load(version.file("weights"))
    gate = json.loads(version.file("gate"))
    assert gate["ratio deviation"] < 1e-4
    assert version.table("curves").num_rows == 2
    assert version.manifest.statistics["iterations"] == 2
    assert str(tmp_path) not in version.manifest.model_dump_json(), "a manifest tells no path of a machine"
    again = execute(PostTrain(realpref.store, config, encodings, tmp_path / "elsewhere"))
    assert again.reused
    (log,) = tmp_path.glob("*/metrics.jsonl")
    assert not list(tmp_path.glob("*/error.txt"))
    first = log.stat().st_mtime_ns
    refreshed = execute(PostTrain(realpref.store, config, encodings, tmp_path), refresh=True)
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
    nothing = empty(realpref)
    job = job_of(execute(EncodeCases(realpref.store, EncodeConfig(), nothing)).version, tmp_path)
    with pytest.raises(TrainingFailedError, match="no cases to train on: every case got the full score"):
        run_worker(job, lambda count: None)


def empty(realpref):
    file, *_ = realpref.manifest.tables["train"]
    nothing = realpref.store.add_table(realpref.store.read_table(file).slice(0, 0))
    changed = {"tables": {**realpref.manifest.tables, "train": (nothing,)}, "key": "empty"}
    return realpref.store.commit(realpref.manifest.model_copy(update=changed))


def test_a_training_that_fails_shows_its_last_words(encodings, tmp_path):
    job = job_of(encodings, tmp_path)
    with pytest.raises(TrainingFailedError, match="realpref@v99"):
        run_worker(job.model_copy(update={"realpref": "realpref@v99"}), lambda count: None)


def test_checkpoints_become_versions_and_another_machine_goes_on_from_them(realpref, encodings, tmp_path):
    """The first machine is lost after the second iteration; the run ends as if nothing had happened."""
    store = realpref.store
    running = Running(publish_every=2)
    config = PostTrainConfig(grpo=replace(training.tiny(), iterations=4, seed=7), running=running)
    before = store.latest("adapter")
    through = execute(PostTrain(store, config, encodings, tmp_path / "one")).version
    checkpoint = store.version("adapter", through.number - 1)
    assert checkpoint.manifest.statistics["checkpoint"] == {"iterations": 2, "of": 4}
    assert checkpoint.manifest.parents == through.manifest.parents
    assert checkpoint.table("curves").num_rows == 2
    assert load(checkpoint.file("weights")).keys() == load(through.file("weights")).keys()
    assert store.latest("adapter") == through != before
    assert {row["case_id"] for row in through.table("scores").to_pylist()} <= ids_of(realpref)

    elsewhere = PostTrain(store, config, encodings, tmp_path / "two")
    elsewhere._fetch_checkpoint(elsewhere.job)
    run_worker(elsewhere.job, lambda count: None)
    assert elsewhere.job.adapter.read_bytes() == through.file("weights")
    lines = [json.loads(line) for line in elsewhere.job.metrics.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    first, here = read_scores(elsewhere.job.published_scores), read_scores(elsewhere.job.folder / "scores.jsonl")
    known, asked = {line["key"] for line in first}, {line["key"] for line in here}
    assert not known & asked, "what the other machine had paid for is not asked for again"
    assert len(known | asked) == 4 * config.grpo.groups * config.grpo.group_size


def ids_of(realpref):
    return set(realpref.table("train", ["case_id"])["case_id"].to_pylist())


@pytest.mark.slow
def test_two_processes_come_to_what_one_comes_to(encodings, tmp_path):
    """Other sums, so not to the bit: the groups are the same, drawn from the same noise."""
    changes = {"iterations": 2, "groups": 4}
    one = job_of(encodings, tmp_path / "one", **changes)
    two = job_of(encodings, tmp_path / "two", Running(processes=2, lanes=1), **changes)
    sharded = job_of(encodings, tmp_path / "sharded", Running(processes=2, lanes=1, shard_base=True), **changes)
    for job in (one, two, sharded):
        run_worker(job, lambda count: None)
    rows = [[json.loads(line) for line in job.metrics.read_text().splitlines()] for job in (one, two, sharded)]
    for others in rows[1:]:
        for line, other in zip(rows[0], others, strict=True):
            assert other["score"] == pytest.approx(line["score"], abs=0.02)
            assert other["by_edit_type"].keys() == line["by_edit_type"].keys()
            assert other["gradient_norm"] == pytest.approx(line["gradient_norm"], rel=0.02)
    weights = [load(job.adapter.read_bytes()) for job in (one, two, sharded)]
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, atol=2e-3, rtol=0.05)


@pytest.mark.slow
def test_a_killed_flow_loses_nothing(realpref, encodings, tmp_path):
    """The process that watches is gone: training ends its iteration, saves and stops; the next one continues."""
    config = PostTrainConfig(grpo=replace(training.tiny(), iterations=40, checkpoint_every=4, seed=9))
    stage = PostTrain(realpref.store, config, encodings, tmp_path)
    flow = (
        "import sys; from pathlib import Path; from storage.store import Store; from tasks.stage import execute\n"
        "from tasks.post_train import PostTrain; from tasks.post_training.job import PostTrainConfig\n"
        "store = Store(sys.argv[1]); config = PostTrainConfig.model_validate_json(sys.argv[2])\n"
        "execute(PostTrain(store, config, store.resolve(sys.argv[3]), Path(sys.argv[4])))"
    )
    arguments = [realpref.store.url, config.model_dump_json(), str(encodings), str(tmp_path)]
    watching = subprocess.Popen([sys.executable, "-c", flow, *arguments], env=os.environ | {"OMP_NUM_THREADS": "1"})
    job = stage.job
    wait_until(lambda: job.metrics.exists() and job.metrics.read_text().count("\n") >= 2)
    watching.send_signal(signal.SIGKILL)
    watching.wait()
    wait_until(lambda: job.error.exists() and "as was asked; they are saved" in job.error.read_text())
    with job.lock():  # the orphan has let go
        assert not job.adapter.exists()
        assert 2 <= len(job.metrics.read_text().splitlines()) < 40
    version = execute(stage).version
    assert [row["iteration"] for row in version.table("curves").to_pylist()] == list(range(40))
    through = PostTrain(realpref.store, config, encodings, tmp_path / "through").job
    run_worker(through, lambda count: None)
    assert through.adapter.read_bytes() == version.file("weights")


def wait_until(happened, seconds=120):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_fit_finds_batches_and_trains_nothing(encodings, tmp_path):
    job = job_of(encodings, tmp_path)
    sizes = fitting_sizes(job)
    assert sizes == {"rollout_batch": 256, "micro_batch": 256 * job.config.grpo.window_length}
    assert not job.adapter.exists()


def test_encodings_by_another_model_are_refused(realpref, encodings, tmp_path):
    changed = {"fingerprints": {"editor": "another"}, "key": "another"}
    by_another = realpref.store.commit(encodings.manifest.model_copy(update=changed), latest=False)
    with pytest.raises(ValueError, match="are by another model"):
        PostTrain(realpref.store, PostTrainConfig(), by_another, tmp_path)


def test_a_longer_run_goes_on_from_the_shorter_one(realpref, encodings, tmp_path):
    short = PostTrain(realpref.store, config_of(iterations=2, seed=21), encodings, tmp_path)
    longer = PostTrain(realpref.store, config_of(iterations=3, seed=21), encodings, tmp_path)
    assert short.key != longer.key
    assert short.job.folder == longer.job.folder
    execute(short)
    done = []
    run_worker(longer.job, done.append)
    asked = {line["key"] for line in read_scores(longer.job.scores()[0])}
    assert len(asked) == 3 * 6, "every sample of three iterations, asked once"
    through = PostTrain(realpref.store, config_of(iterations=3, seed=21), encodings, tmp_path / "through").job
    run_worker(through, lambda count: None)
    assert through.adapter.read_bytes() == longer.job.adapter.read_bytes()


def config_of(running=None, **changes):
    return PostTrainConfig(grpo=replace(training.tiny(), **changes), running=running or Running())


def test_a_look_that_fails_does_not_end_the_training(realpref, encodings, tmp_path, monkeypatch, caplog):
    """The store hiccups while a checkpoint is published; it is published at a later look."""
    stage = PostTrain(realpref.store, config_of(Running(publish_every=1), iterations=2, seed=31), encodings, tmp_path)
    publish, failed = PostTrain._publish, []

    def hiccup(self, checkpoint, job):
        if not failed:
            failed.append(checkpoint.step)
            raise OSError("503 Slow Down")
        publish(self, checkpoint, job)

    monkeypatch.setattr(PostTrain, "_publish", hiccup)
    monkeypatch.setattr("tasks.post_train.SHOW_EVERY_SECONDS", 0.0)
    version = execute(stage).version
    assert "could not publish" in caplog.text
    assert failed == [1]
    assert realpref.store.version("adapter", version.number - 1).ref.checkpoint


def test_publishing_again_makes_no_second_version(realpref, encodings, tmp_path):
    """Killed between the commit and the tidying up: the checkpoint is found to be published."""
    stage = PostTrain(realpref.store, config_of(Running(publish_every=2), iterations=3, seed=41), encodings, tmp_path)
    job = stage.job
    run_worker(job, lambda count: None)
    (checkpoint,) = to_publish(job)
    copies = {path: path.read_bytes() for path in (checkpoint.state, checkpoint.weights)}
    stage._look(job)
    numbers = realpref.store.numbers("adapter")
    for path, data in copies.items():
        path.write_bytes(data)
    stage._look(job)
    assert realpref.store.numbers("adapter") == numbers
    assert not list(to_publish(job))


def test_an_unfinished_checkpoint_is_never_latest(realpref, encodings, tmp_path):
    """Also where it is the first adapter of its store."""
    from storage.store import VersionNotFoundError

    version = realpref.store.latest("adapter")
    assert version is None or not version.ref.checkpoint
    changed = {"artifact": "adapter", "statistics": {"checkpoint": {"iterations": 1, "of": 2}}, "key": "unfinished"}
    store = type(realpref.store)(str(tmp_path / "empty"))
    manifest = encodings.manifest.model_copy(update=changed | {"tables": {}})
    store.commit(manifest, checkpoint=True)
    with pytest.raises(VersionNotFoundError):
        store.resolve("adapter@latest")


@pytest.mark.parametrize(
    ("every", "publish", "iterations", "due"),
    [(10, 25, 100, [30, 50, 80]), (20, 50, 100, [60]), (7, 10, 70, [14, 21, 35, 42, 56, 63]), (1, 2, 5, [2, 4])],
)
def test_the_first_checkpoint_at_or_after_each_multiple_is_published(every, publish, iterations, due):
    config = config_of(Running(publish_every=publish), iterations=iterations, checkpoint_every=every)
    assert [step for step in range(every, iterations + 1, every) if config.publishes_at(step)] == due


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged .*: delete it"):
        FolderSink(tmp_path).load()
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is damaged .*: delete it"):
        history_of(tmp_path / "checkpoint.safetensors")


@pytest.mark.parametrize(
    ("running", "said"),
    [
        ({"processes": 3}, "must be a multiple of updates_per_rollout x processes = 6"),
        ({"processes": 2, "launcher": ["a"]}, "leave processes out"),
    ],
)
def test_processes_that_cannot_share_the_groups_are_refused(running, said):
    with pytest.raises(ValueError, match=said):
        config_of(Running(**running), groups=4)
