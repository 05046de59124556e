"""Stage post-train: Flow-GRPO in a process of its own, or in many, watched from here."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.records import EditType, identity
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.editing.models import fingerprint_of_model
from tasks.hp_scorer.calibration import Calibration, calibration_of
from tasks.hp_scorer.catalogue import fingerprints_of, make_scorer, rubrics_of
from tasks.hp_scorer.prices import forecast
from tasks.hp_scorer.settings import ScorerConfig
from tasks.post_training.curves import curves_table, saturation_table, summarise
from tasks.post_training.job import Job, PostTrainConfig
from tasks.post_training.live import live_page
from tasks.post_training.publishing import ToPublish, history_of, to_publish
from tasks.post_training.reading import write_whole
from tasks.post_training.score_journal import read_scores
from tasks.stage import Progress, Result, Shard, Stage, manifest_of

logger = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 0.5
SHOW_EVERY_SECONDS = 20.0
SCORES = pa.schema([(name, pa.string()) for name in ("case_id", "key", "judge", "outcome")] + [("score", pa.float64())])
"""Every answer of the reward, see `ScoreJournal`."""


class TrainingFailedError(RuntimeError):
    """The training process ended without an adapter."""


class PostTrain(Stage):
    """An adapter from the hard cases."""

    name = "post-train"
    artifact = "adapter"
    code_version = 4

    def __init__(
        self,
        store: Store,
        config: PostTrainConfig,
        encodings: Version,
        scratch: Path,
        scorer: Version | None = None,
    ) -> None:
        """Training on the data set that `encodings` are of.

        Args:
            encodings: its cases, encoded by the configured model.
            scratch: a folder on the local disk for checkpoints; what is committed goes to the store.
            scorer: a calibration of the configured judge.
        """
        of = encodings.manifest.parents["realpref"]
        inputs = {"realpref": store.version(of.artifact, of.version), "encodings": encodings}
        super().__init__(store, config, inputs | ({"scorer": scorer} if scorer else {}))
        self.config: PostTrainConfig = config
        self.scratch = scratch
        self._check_encodings(encodings)

    def _check_encodings(self, encodings: Version) -> None:
        """Raises: ValueError where they are by another model."""
        by = encodings.manifest.fingerprints["editor"]
        if by != fingerprint_of_model(self.config.model):
            raise ValueError(
                f"{encodings} are by another model ({encodings.manifest.statistics['model']}) than the one to train "
                f"({self.config.model.deciding()}): run encode-cases with this one"
            )

    def fingerprints(self) -> dict[str, str]:
        scorer = make_scorer(self.config.scorer, calibration_of(self.inputs.get("scorer")))
        second = make_scorer(self.config.second_judge).fingerprint if self.config.second_judge else None
        return {
            "editor": fingerprint_of_model(self.config.model),
            **fingerprints_of(scorer),
            **({"second judge": second} if second else {}),
        }

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        grpo = self.config.grpo
        calibration = calibration_of(self.inputs.get("scorer"))
        yield from _calls(self.config.scorer, calibration, grpo.iterations * grpo.groups * grpo.group_size)
        if (second := self.config.second_judge) is not None:
            yield from _calls(second, None, -(-grpo.iterations // grpo.second_judge_every) * grpo.groups)

    def shards(self) -> list[Shard]:
        return [Shard("training", self.config.grpo.iterations, self.key)]

    @property
    def job(self) -> Job:
        """The order to the training process."""
        return Job(
            store=self.store.url,
            realpref=str(self.inputs["realpref"]),
            encodings=str(self.inputs["encodings"]),
            scorer=str(self.inputs["scorer"]) if "scorer" in self.inputs else None,
            config=self.config,
            folder=(self.scratch / self._training_key).absolute(),
        )

    def forget(self) -> None:
        self.job.forget()

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        job = self.job
        if not self.refresh:
            self._fetch_checkpoint(job)
        run_worker(job, progress, self.store.environment(), lambda: self._look_or_warn(job))
        self._look(job)
        rows = [json.loads(line) for line in job.metrics.read_text().splitlines()]
        tables = self._tables(rows, job) | {"weights": (self.store.add_file(job.adapter.read_bytes(), ".safetensors"),)}
        return ShardResult(tables=tables, done=len(rows))

    def finish(self, results: Sequence[ShardResult]) -> Result:
        (result,) = results
        tables = {name: self.store.read_table(result.tables[name][0]).to_pylist() for name in ("curves", "saturation")}
        return Result(result.tables, summarise(tables["curves"], tables["saturation"]))

    def _tables(self, rows: Sequence[Mapping[str, Any]], job: Job) -> dict[str, tuple[Any, ...]]:
        scores = {line["key"]: line for path in job.scores() for line in read_scores(path)}
        # They came in whatever order the judge answered.
        ordered = [scores[key] for key in sorted(scores)]
        return {
            "gate": (self.store.add_file(job.gate.read_bytes(), ".json"),),
            "curves": (self.store.add_table(curves_table(rows)),),
            "saturation": (self.store.add_table(saturation_table(rows)),),
            "scores": (self.store.add_table(pa.Table.from_pylist(ordered, schema=SCORES)),),
        }

    # --- while it runs -------------------------------------------------------------------------------------------

    def _look_or_warn(self, job: Job) -> None:
        """While training goes on, nothing that happens to those who look may end it; there is a next look."""
        try:
            self._look(job)
        except Exception as error:  # whatever a store or a half-written file has to say
            logger.warning("could not publish or show how training goes, and will try again: %r", error)

    def _look(self, job: Job) -> None:
        """Publish what is laid aside, and show how it goes."""
        with job.publishing() as is_mine:
            for checkpoint in to_publish(job) if is_mine else ():
                self._publish(checkpoint, job)
        if job.metrics.exists():
            self.show(*live_page(job))

    @cached_property
    def _training_key(self) -> str:
        """What a run in progress is found by: without what may change and the run still go on."""
        settings = self.settings
        settings = settings | {"second_judge": None, "grpo": dict(settings["grpo"])}
        if not self.config.grpo.curriculum_share:
            del settings["grpo"]["iterations"]
        fingerprints = {name: value for name, value in self.fingerprints().items() if name != "second judge"}
        inputs = {role: version.ref.manifest for role, version in self.inputs.items()}
        return identity(self.name, self.code_version, settings, fingerprints, inputs)

    @property
    def _checkpoint_key(self) -> str:
        return identity(self._training_key, "checkpoint")

    def _publish(self, checkpoint: ToPublish, job: Job) -> None:
        """Make a checkpoint a version. It never becomes `latest`: a benchmark tonight wants what is finished."""
        newest = self.store.find(self.artifact, self._checkpoint_key)
        if newest is None or newest.manifest.statistics["checkpoint"]["iterations"] < checkpoint.step:
            files = {"weights": checkpoint.weights, "state": checkpoint.state}
            tables = self._tables(history_of(checkpoint.state), job) | {
                name: (self.store.add_file(path.read_bytes(), ".safetensors"),) for name, path in files.items()
            }
            progress = {"iterations": checkpoint.step, "of": self.config.grpo.iterations}
            manifest = manifest_of(self, Result(tables, {"checkpoint": progress}))
            self.store.commit(manifest.model_copy(update={"key": self._checkpoint_key}), checkpoint=True)
        checkpoint.forget()

    def _fetch_checkpoint(self, job: Job) -> None:
        """Where this machine has none, go on from the newest checkpoint that was published, and its scores."""
        if job.checkpoint.exists() or job.adapter.exists():
            return
        published = self.store.find(self.artifact, self._checkpoint_key)
        if published is None or published.manifest.statistics["checkpoint"]["iterations"] > self.config.grpo.iterations:
            return
        lines = published.table("scores").to_pylist()
        write_whole(job.published_scores, "".join(json.dumps(line) + "\n" for line in lines).encode())
        write_whole(job.checkpoint, published.file("state"))


def _calls(config: ScorerConfig, calibration: Calibration | None, count: int) -> Iterator[str]:
    """What so many judgements cost, of whatever edit types: their rubrics differ little in length."""
    if config.kind == "vlm":
        each = dict.fromkeys(EditType, count // len(EditType))
        yield from forecast(config, rubrics_of(config, calibration), each).lines()


def run_worker(
    job: Job, progress: Progress, environment: Mapping[str, str] = {}, look: Callable[[], None] = lambda: None
) -> None:
    """Start the training process, or processes, and follow the metrics until they end.

    Args:
        environment: added to this process's, such as what opens the store.
        look: called now and then.

    Raises: TrainingFailedError with the end of what it said.
    """
    order = _write_order(job)
    log = job.folder / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*_launcher(job), "-m", "tasks.post_training.worker", str(order), "--ordered-by", _this_process()],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment) | {"OMP_NUM_THREADS": "1"},
        )
    seen, shown = 0, 0.0
    try:
        while True:
            done = process.poll() is not None
            count = len(job.metrics.read_text().splitlines()) if job.metrics.exists() else 0
            if count > seen:
                progress(count - seen)
                seen = count
            if done:
                break
            if time.monotonic() - shown > SHOW_EVERY_SECONDS:
                shown = time.monotonic()
                look()
            time.sleep(LOOK_EVERY_SECONDS)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if not job.adapter.exists():
        told = job.error.read_text() if job.error.exists() else log.read_text(errors="replace")[-2000:]
        raise TrainingFailedError(f"training ended with status {process.returncode}, see {log}: {told}")


def _this_process() -> str:
    return f"{os.getpid()}@{socket.gethostname()}"


def fitting_sizes(job: Job) -> dict[str, int]:
    """The largest `rollout_batch` and `micro_batch` that the memory of this machine takes; nothing is trained.

    Raises: TrainingFailedError with the end of what the process said.
    """
    order = _write_order(job)
    command = [sys.executable, "-m", "tasks.post_training.worker", str(order), "--fit"]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if ran.returncode:
        raise TrainingFailedError(f"trying sizes ended with status {ran.returncode}:\n{ran.stderr[-2000:]}")
    return json.loads(ran.stdout.splitlines()[-1])


def _write_order(job: Job) -> Path:
    job.folder.mkdir(parents=True, exist_ok=True)
    order = job.folder / "job.json"
    order.write_text(job.model_dump_json(indent=1))
    return order


def _launcher(job: Job) -> list[str]:
    """What starts the training module."""
    running = job.config.running
    if running.launcher:
        return list(running.launcher)
    if running.processes == 1:
        return [sys.executable]
    many = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={running.processes}"]
    return [sys.executable, *many]
