"""The process that trains: `python -m tasks.post_training.worker JOB.json`. Scorer and trainer, no Prefect.

It continues from its checkpoint, and stops after one where the process that started it is gone.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from storage.records import EditType, Request
from storage.store import Store
from tasks.build_realpref import training_rows
from tasks.collection.coco import decode_mask
from tasks.hp_scorer.catalogue import make_scorer
from tasks.hp_scorer.contract import EditTriplet
from tasks.images import decode
from tasks.miniature.editor import load_miniature
from tasks.post_training.checkpoints import FolderSink
from tasks.post_training.job import Job
from tasks.post_training.reward import ScorerReward
from training.gate import check
from training.lanes import default_lanes, one_thread_per_operation
from training.loop import Metrics, TrainingCase, train
from training.lora import adapter_bytes, add_adapter

logger = logging.getLogger(__name__)


class OrphanedError(RuntimeError):
    """The process that ordered the training is gone; the next one continues from the checkpoint."""


def run(job: Job) -> None:
    """Do a job."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits, finds the work done, and leaves
        if not job.adapter.exists():
            with one_thread_per_operation():
                _train(job)


def _train(job: Job) -> None:
    config = job.config
    triplets = {row["case_id"]: _triplet(row) for row in training_rows(Store(job.store).resolve(job.realpref))}
    cases = [
        TrainingCase(case_id=t.case_id, source=t.source, instruction=t.instruction, edit_type=t.edit_type)
        for t in triplets.values()
    ]
    scorer = make_scorer(config.scorer)
    grpo = replace(config.grpo, full_at=scorer.full_at)
    editor = load_miniature()
    add_adapter(editor.transformer, grpo, seed=grpo.seed)
    job.gate.write_text(json.dumps(check(editor, cases, grpo), indent=1))
    reward = ScorerReward(scorer, triplets, permute_seed=grpo.seed if config.permute_rewards else None)
    sink = FolderSink(job.folder)
    parent = os.getppid()

    def on_iteration(metrics: Metrics) -> None:
        with job.metrics.open("a") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")
        saved = (metrics.iteration + 1) % grpo.checkpoint_every == 0
        if saved and os.getppid() != parent:
            raise OrphanedError(f"the process that started this one is gone; stopped after {metrics.iteration + 1}")

    saved = sink.load()
    # Iterations after the checkpoint are done again: their lines go.
    _keep_lines(job.metrics, saved[0] if saved else 0)
    state, _ = train(editor, cases, reward, grpo, sink, on_iteration, lanes=default_lanes())
    unfinished = job.adapter.with_suffix(".unfinished")
    unfinished.write_bytes(adapter_bytes(editor.transformer, state))
    os.replace(unfinished, job.adapter)


def _keep_lines(path: Path, count: int) -> None:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    path.write_text("".join(lines[:count]))


def _triplet(row: dict[str, Any]) -> EditTriplet:
    return EditTriplet(
        case_id=row["case_id"],
        edit_type=EditType(row["edit_type"]),
        instruction=row["instruction"],
        request=Request.from_dict(row["request"]),
        category=row["category"],
        source=decode(row["source"]["bytes"]),
        mask=decode_mask(row["mask"]),
        edited=None,
    )


def main() -> None:
    """The command line."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    torch.manual_seed(0)
    run(Job.model_validate_json(Path(sys.argv[1]).read_text()))


if __name__ == "__main__":
    main()
