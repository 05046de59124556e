"""The process that trains: `python -m tasks.post_training.worker JOB.json`. Scorer and trainer, no Prefect.

It continues from its checkpoint, and stops after one where the process that started it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from storage.records import EditType, Request
from storage.store import Store
from tasks.build_realpref import training_rows
from tasks.collection.coco import decode_mask
from tasks.hp_scorer.calibration import calibration_of
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


def run(job: Job, parent: int) -> None:
    """Do a job.

    Args:
        parent: the process that ordered it.
    """
    with job.lock():  # a second process waits, finds the work done, and leaves
        if not job.adapter.exists():
            with one_thread_per_operation():
                _train(job, parent)


def _train(job: Job, parent: int) -> None:
    config = job.config
    store = Store(job.store)
    triplets = {row["case_id"]: _triplet(row) for row in training_rows(store.resolve(job.realpref))}
    scorer = make_scorer(config.scorer, calibration_of(store.resolve(job.scorer) if job.scorer else None))
    full_at = {edit_type: scorer.map_of(edit_type)(scorer.full_at) for edit_type in EditType}
    cases = [
        TrainingCase(
            case_id=t.case_id,
            source=t.source,
            instruction=t.instruction,
            edit_type=t.edit_type,
            full_at=full_at[t.edit_type],
        )
        for t in triplets.values()
    ]
    if not cases:
        raise ValueError(f"{job.realpref} has no cases to train on: every case got the full score, or none was scored")
    grpo = config.grpo
    editor = load_miniature()
    add_adapter(editor.transformer, grpo, seed=grpo.seed)
    job.gate.write_text(json.dumps(check(editor, cases, grpo), indent=1))
    reward = ScorerReward(scorer, triplets, permute_seed=grpo.seed if config.permute_rewards else None)
    sink = FolderSink(job.folder)

    def on_iteration(metrics: Metrics) -> None:
        with job.metrics.open("a") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")
        just_saved = (metrics.iteration + 1) % grpo.checkpoint_every == 0
        if just_saved and os.getppid() != parent:
            raise OrphanedError(f"the process that started this one is gone; stopped after {metrics.iteration + 1}")

    saved = sink.load()
    # Iterations after the checkpoint are done again, so the lines are those of the checkpoint.
    job.metrics.write_text("".join(json.dumps(line) + "\n" for line in (saved[2] if saved else [])))
    state, _ = train(editor, cases, reward, grpo, sink, on_iteration, lanes=default_lanes())
    unfinished = job.adapter.with_suffix(".unfinished")
    unfinished.write_bytes(adapter_bytes(editor.transformer, state))
    os.replace(unfinished, job.adapter)


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
    parent = os.getppid()  # before anything that takes time
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    torch.manual_seed(0)
    run(Job.model_validate_json(Path(sys.argv[1]).read_text()), parent)


if __name__ == "__main__":
    main()
