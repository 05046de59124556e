"""Stage post-train: Flow-GRPO in a process of its own, watched from here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.records import EditType
from storage.store import Store, Version
from storage.work import ShardResult
from tasks.hp_scorer.calibration import calibration_of
from tasks.hp_scorer.catalogue import fingerprints_of, make_scorer, rubrics_of
from tasks.hp_scorer.prices import forecast
from tasks.miniature.editor import weights_fingerprint
from tasks.post_training.job import Job, PostTrainConfig
from tasks.stage import Progress, Result, Shard, Stage

METRICS = pa.schema(
    [("iteration", pa.int32())]
    + [
        (name, pa.float64())
        for name in (
            "score",
            "reward",
            "full_share",
            "no_signal_share",
            "missing",
            "clipped_share",
            "kl",
            "ratio_deviation",
            "gradient_norm",
            "seconds_rollout",
            "seconds_reward",
            "seconds_update",
        )
    ]
)


class TrainingFailedError(RuntimeError):
    """The training process ended without an adapter."""


class PostTrain(Stage):
    """An adapter from the hard cases."""

    name = "post-train"
    artifact = "adapter"
    code_version = 3

    def __init__(
        self, store: Store, config: PostTrainConfig, realpref: Version, scratch: Path, scorer: Version | None = None
    ) -> None:
        """Training on `realpref`.

        Args:
            scratch: a folder on the local disk for checkpoints; what is committed goes to the store.
            scorer: a calibration of the configured judge.
        """
        super().__init__(store, config, {"realpref": realpref} | ({"scorer": scorer} if scorer else {}))
        self.config: PostTrainConfig = config
        self.scratch = scratch

    def fingerprints(self) -> dict[str, str]:
        scorer = make_scorer(self.config.scorer, calibration_of(self.inputs.get("scorer")))
        return {"editor": weights_fingerprint(), **fingerprints_of(scorer)}

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        config, grpo = self.config.scorer, self.config.grpo
        if config.kind == "vlm":
            # Of whatever edit types the cases are: their rubrics differ little in length.
            each = grpo.iterations * grpo.groups * grpo.group_size // len(EditType)
            rubrics = rubrics_of(config, calibration_of(self.inputs.get("scorer")))
            yield from forecast(config, rubrics, dict.fromkeys(EditType, each)).lines()

    def shards(self) -> list[Shard]:
        return [Shard("training", self.config.grpo.iterations, self.key)]

    @property
    def job(self) -> Job:
        """The order to the training process."""
        return Job(
            store=self.store.url,
            realpref=str(self.inputs["realpref"]),
            scorer=str(self.inputs["scorer"]) if "scorer" in self.inputs else None,
            config=self.config,
            folder=(self.scratch / self.key).absolute(),
        )

    def forget(self) -> None:
        self.job.forget()

    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        job = self.job
        run_worker(job, progress, self.store.environment())
        rows = [{n: row[n] for n in METRICS.names} for row in map(json.loads, job.metrics.read_text().splitlines())]
        weights = self.store.add_file(job.adapter.read_bytes(), ".safetensors")
        gate = self.store.add_file(job.gate.read_bytes(), ".json")
        curves = self.store.add_table(pa.Table.from_pylist(rows, schema=METRICS))
        tables = {"weights": (weights,), "gate": (gate,), "curves": (curves,)}
        return ShardResult(tables=tables, done=len(rows))

    def finish(self, results: Sequence[ShardResult]) -> Result:
        (result,) = results
        curves = self.store.read_table(result.tables["curves"][0]).to_pylist()
        return Result(result.tables, summarise(curves))


def run_worker(job: Job, progress: Progress, environment: Mapping[str, str] = {}) -> None:
    """Start the training process and follow its metrics until it ends.

    Args:
        environment: added to this process's, such as what opens the store.

    Raises: TrainingFailedError with the end of what it said.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    order = job.folder / "job.json"
    order.write_text(job.model_dump_json(indent=1))
    log = job.folder / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasks.post_training.worker", str(order)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment) | {"OMP_NUM_THREADS": "1"},
        )
    seen = 0
    try:
        while True:
            done = process.poll() is not None
            count = len(job.metrics.read_text().splitlines()) if job.metrics.exists() else 0
            if count > seen:
                progress(count - seen)
                seen = count
            if done:
                break
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if not job.adapter.exists():
        tail = log.read_text(errors="replace")[-2000:]
        raise TrainingFailedError(f"training ended with status {process.returncode}; the end of {log}:\n{tail}")


def summarise(curves: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first and the last tenth of a run, side by side."""
    tenth = max(1, len(curves) // 10)

    def mean(name: str, rows: Sequence[dict[str, Any]]) -> float | None:
        values = [row[name] for row in rows if row[name] == row[name]]
        return round(sum(values) / len(values), 6) if values else None

    names = ("score", "reward", "full_share", "no_signal_share")
    return {
        "iterations": len(curves),
        "first_tenth": {name: mean(name, curves[:tenth]) for name in names},
        "last_tenth": {name: mean(name, curves[-tenth:]) for name in names},
        "clipped_share": mean("clipped_share", curves),
        "kl": mean("kl", curves[-tenth:]),
        "largest_ratio_deviation": max(row["ratio_deviation"] for row in curves),
        "missing_scores": int(sum(row["missing"] for row in curves)),
        "seconds_per_iteration": {part: mean(f"seconds_{part}", curves) for part in ("rollout", "reward", "update")},
    }
