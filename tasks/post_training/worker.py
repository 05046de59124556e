"""The process that trains: `python -m tasks.post_training.worker JOB.json`. Scorer and trainer, no Prefect.

One process or, started by torchrun, many. It continues from its checkpoint, and stops after one where the process that
ordered it is gone. With `--fit` it trains nothing and finds the largest batches that the memory takes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from storage.store import Store
from tasks.editing.models import fingerprint_of_model, load_model
from tasks.hp_scorer.calibration import calibration_of
from tasks.hp_scorer.catalogue import fingerprints_of, make_scorer
from tasks.hp_scorer.contract import Scorer
from tasks.post_training.checkpoints import FolderSink, PublishingSink
from tasks.post_training.encoded import EncodedConditions
from tasks.post_training.fitting import fitting_sizes
from tasks.post_training.job import Job
from tasks.post_training.reward import PermutedReward, ScorerReward
from tasks.post_training.score_journal import JournaledReward
from tasks.post_training.sources import TrainingSources
from tasks.post_training.watcher import Watcher
from training.cases import TrainingCase
from training.editors.interface import TrainableEditor
from training.float8 import convert_measured
from training.gate import check
from training.lanes import default_lanes, one_thread_per_operation
from training.loop import train
from training.lora import adapter_bytes, adapter_parameters, add_adapter
from training.memory import explain, is_out_of_memory
from training.parallel import World, prepare, shard_base
from training.reward import Reward
from training.rollout import repeat_groups

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """What a training works with, loaded and set up."""

    editor: TrainableEditor
    sources: TrainingSources
    conditions: EncodedConditions
    cases: Sequence[TrainingCase]
    scorer: Scorer
    measured: dict[str, float]
    """Of what was done to the model."""


def run(job: Job, world: World, ordered_by: psutil.Process | None) -> None:
    """Do a job.

    Args:
        ordered_by: the process that ordered it; None: nobody has to wait for it.
    """
    # A second order waits, finds the work done, and leaves.
    with job.lock() if world.is_main else nullcontext():
        world.barrier()
        if not job.adapter.exists():
            with one_thread_per_operation(), _explained(job):
                _train(job, _prepare(job, world), world, ordered_by)
        world.barrier()


@contextmanager
def _explained(job: Job) -> Iterator[None]:
    """Tells what to do where the memory runs out."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        running = job.config.running
        told = {"activation_checkpointing": running.activation_checkpointing, "shard": running.shard_base}
        model = getattr(job.config.model, "settings", None)
        settings = [job.config.grpo, told | {"float8": job.config.float8}, *([model] if model else [])]
        raise RuntimeError(explain(error, *settings)) from error


def _prepare(job: Job, world: World) -> Ready:
    config, grpo, running = job.config, job.config.grpo, job.config.running
    store = Store(job.store)
    sources = TrainingSources(store.resolve(job.realpref), job.folder / "cache")
    conditions = EncodedConditions(
        store.resolve(job.encodings), job.folder / "cache", fingerprint_of_model(config.model)
    )
    scorer = make_scorer(config.scorer, calibration_of(store.resolve(job.scorer) if job.scorer else None))
    cases = [
        TrainingCase(
            case_id=case.case_id,
            edit_type=case.edit_type,
            difficulty=case.difficulty,
            full_at=scorer.map_of(case.edit_type)(scorer.full_at),
        )
        for case in sources.rows.values()
        if case.case_id in conditions
    ]
    if not sources:
        raise ValueError(f"{job.realpref} has no cases to train on: every case got the full score, or none was scored")
    if len(cases) < len(sources):
        logger.warning("%d of %d cases could not be encoded and are left out", len(sources) - len(cases), len(sources))
    # A base that is to be shared may be larger than a device.
    editor = load_model(config.model, encoders=False, device="cpu" if running.shard_base else world.device.type)
    add_adapter(editor.transformer, grpo, grpo.seed, editor.lora_targets)
    measured: dict[str, float] = {}
    if config.float8:
        (condition,) = conditions([cases[0].case_id])
        group = condition.to(editor.device).take(repeat_groups([0], grpo.group_size))
        converted, error = convert_measured(editor, group, grpo)
        measured = {"float8 saved MB": converted.saved_mb, "float8 velocity error": error.velocity}
    prepare(
        editor.transformer,
        compile_blocks=running.compile_blocks,
        activation_checkpointing=running.activation_checkpointing,
        attention_backend=running.attention_backend,
    )
    if running.shard_base:
        shard_base(editor.transformer, world)
        editor.to(world.device)
    world.broadcast_parameters(adapter_parameters(editor.transformer))
    return Ready(editor, sources, conditions, cases, scorer, measured)


def _train(job: Job, ready: Ready, world: World, ordered_by: psutil.Process | None) -> None:
    config, grpo, running, editor = job.config, job.config.grpo, job.config.running, ready.editor
    measured = ready.measured | check(editor, ready.cases, ready.conditions, grpo)
    reward: Reward = _journaled(job, world, ready.scorer, ready.sources, "scores")
    if config.permute_rewards:
        reward = PermutedReward(reward, grpo.seed)
    second_judge = None
    if config.second_judge is not None:
        second_judge = _journaled(job, world, make_scorer(config.second_judge), ready.sources, "second-scores")
    sink = PublishingSink(FolderSink(job.folder), job, editor.transformer)
    watch = None
    if world.is_main:
        job.gate.write_text(json.dumps(measured, indent=1))
        saved = sink.load()
        watch = Watcher(job, ready.sources, saved.history if saved else [], ordered_by)
    state, _ = train(
        editor,
        ready.cases,
        ready.conditions,
        reward,
        grpo,
        sink,
        second_judge=second_judge,
        watch=watch,
        lanes=1 if running.shard_base else running.lanes or default_lanes(),  # FSDP takes no threads
        world=world,
        in_step=running.shard_base and world.size > 1,
        base=fingerprint_of_model(config.model),
    )
    if watch is not None:
        watch.close()
        unfinished = job.adapter.with_suffix(".unfinished")
        unfinished.write_bytes(adapter_bytes(editor.transformer, state))
        os.replace(unfinished, job.adapter)


def _journaled(job: Job, world: World, scorer: Scorer, sources: TrainingSources, name: str) -> JournaledReward:
    """The scorer, with a journal of its own in each process."""
    path = job.folder / f"{name}{f'-{world.rank}' if world.rank else ''}.jsonl"
    return JournaledReward(ScorerReward(scorer, sources), path, " ".join(fingerprints_of(scorer).values()))


def find_sizes(job: Job, world: World) -> dict[str, int]:
    """What fits into the memory of this machine; nothing is trained."""
    with one_thread_per_operation():
        ready = _prepare(job, world)
        return fitting_sizes(ready.editor, ready.cases, ready.conditions, job.config.grpo)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="the order, JSON")
    parser.add_argument("--ordered-by", type=int, default=None, metavar="PID", help="stop where this process is gone")
    parser.add_argument("--fit", action="store_true", help="train nothing; print the largest batches that fit, JSON")
    told = parser.parse_args(arguments)
    # Before anything that takes time; it also knows the process from a later one of the same number.
    ordered_by = psutil.Process(told.ordered_by) if told.ordered_by else None
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    torch.manual_seed(0)
    world = World.from_environment()
    job = Job.model_validate_json(told.job.read_text())
    try:
        if told.fit:
            print(json.dumps(find_sizes(job, world)))
        else:
            run(job, world, ordered_by)
    finally:
        world.close()


if __name__ == "__main__":
    main()
