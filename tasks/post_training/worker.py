"""The process that trains: `python -m tasks.post_training.worker JOB.json`. Scorer and trainer, no Prefect.

One process or, started by torchrun, many. It continues from its checkpoint; it saves and stops after the running
iteration where the process that ordered it is gone, or on SIGTERM. With `--fit` it trains nothing and finds the largest
batches that the memory takes.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
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
from tasks.post_training.publishing import history_of
from tasks.post_training.reading import write_whole
from tasks.post_training.reward import PermutedReward, ScorerReward
from tasks.post_training.score_journal import SCORED, ScoreJournal
from tasks.post_training.sources import TrainingSources
from tasks.post_training.trackers import check_installed
from tasks.post_training.watcher import Watcher
from training.cases import TrainingCase
from training.config import FlowGrpoConfig
from training.editors.interface import TrainableEditor
from training.float8 import convert_base, convert_measured
from training.gate import check
from training.lanes import default_lanes, one_thread_per_operation
from training.loop import DeadJudgeError, train
from training.lora import adapter_bytes, adapter_parameters, add_adapter
from training.memory import explain, is_out_of_memory
from training.parallel import World, prepare, shard_base
from training.reward import Reward

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
    """Do a job, unless it is done already.

    Args:
        ordered_by: the process that ordered it; None: nobody has to wait for it.
    """
    # The main process decides: not every machine may see the same file at once.
    if not world.gather_objects(job.adapter.exists())[0]:
        with one_thread_per_operation(), _explained(job):
            _train(job, _prepare(job, world), world, ordered_by)


@contextmanager
def _explained(job: Job) -> Iterator[None]:
    """Tells what to do where the memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        told = job.config.running.model_dump() | {"float8": job.config.float8}
        model = getattr(job.config.model, "settings", None)
        raise RuntimeError(explain(error, job.config.grpo, told, *([model] if model else []))) from error


def _prepare(job: Job, world: World) -> Ready:
    config, grpo, running = job.config, job.config.grpo, job.config.running
    for kind in running.trackers:
        check_installed(kind)
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
    if running.shard_base and editor.passes_vary:
        raise ValueError(
            f"shard_base: {type(editor).__name__} makes a pass per length of text, and the processes would wait for "
            "one another for ever; train it unsharded"
        )
    add_adapter(editor.transformer, grpo, grpo.seed, editor.lora_targets)
    measured = _in_float8(editor, conditions, cases[0], grpo, running.shard_base) if config.float8 else {}
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


def _in_float8(
    editor: TrainableEditor, conditions: EncodedConditions, case: TrainingCase, grpo: FlowGrpoConfig, unmeasured: bool
) -> dict[str, float]:
    """Convert the base; what that saved and changed.

    Args:
        unmeasured: of a base that lies on the CPU, since it is to be sharded: looking at it would take hours.
    """
    if unmeasured:
        return {"float8 saved MB": convert_base(editor.transformer).saved_mb}
    (condition,) = conditions([case.case_id])
    pair = condition.to(editor.device).take([0, 0])
    converted, error = convert_measured(editor, pair, replace(grpo, group_size=2))
    return {"float8 saved MB": converted.saved_mb, "float8 velocity error": error.velocity}


def _train(job: Job, ready: Ready, world: World, ordered_by: psutil.Process | None) -> None:
    config, grpo, running, editor = job.config, job.config.grpo, job.config.running, ready.editor
    measured = ready.measured | check(editor, ready.cases, ready.conditions, grpo)
    journals = {"scores": _journal(job, world, ready.scorer, "scores")}
    reward: Reward = ScorerReward(ready.scorer, ready.sources, journals["scores"])
    if config.permute_rewards:
        reward = PermutedReward(reward, grpo.seed)
    second_judge = None
    if config.second_judge is not None:
        scorer = make_scorer(config.second_judge)
        journals["second"] = _journal(job, world, scorer, "second-scores")
        second_judge = ScorerReward(scorer, ready.sources, journals["second"])
    sink = PublishingSink(FolderSink(job.folder), job, editor.transformer)
    watch = None
    if world.is_main:
        job.gate.write_text(json.dumps(measured, indent=1))
        watch = Watcher(job, ready.sources, journals["scores"], history_of(job.checkpoint), ordered_by)
    try:
        state, _ = train(
            editor,
            ready.cases,
            ready.conditions,
            reward,
            grpo,
            sink,
            second_judge=second_judge,
            watch=watch,
            # FSDP takes no threads.
            lanes=1 if running.shard_base else running.lanes or max(1, default_lanes() // world.size),
            world=world,
            in_step=running.shard_base and world.size > 1,
            base=fingerprint_of_model(config.model),
        )
    except DeadJudgeError as error:
        said = {name: count for name, count in journals["scores"].take_outcomes().items() if name != SCORED}
        for journal in journals.values():
            journal.forget_failures()
        raise DeadJudgeError(f"{error}. Here the judge gave: {said}") from error
    if watch is not None:
        watch.close()
        write_whole(job.adapter, adapter_bytes(editor.transformer, state))


def _journal(job: Job, world: World, scorer: Scorer, name: str) -> ScoreJournal:
    """The journal of this process; it knows what others wrote before, on this machine or elsewhere."""
    path = job.folder / f"{name}{f'-{world.rank}' if world.rank else ''}.jsonl"
    others = [other for other in sorted(job.folder.glob(f"{name}*.jsonl")) if other != path]
    return ScoreJournal(path, " ".join(fingerprints_of(scorer).values()), others)


def find_sizes(job: Job, world: World) -> dict[str, int]:
    """What fits into the memory of this machine; nothing is trained."""
    if job.config.running.shard_base:
        raise ValueError("shard_base: sizes are tried in one process, which would hold all of the base; try without")
    with one_thread_per_operation(), _explained(job):
        ready = _prepare(job, world)
        return fitting_sizes(ready.editor, ready.cases, ready.conditions, job.config.grpo)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="the order, JSON")
    parser.add_argument("--ordered-by", default=None, metavar="PID@HOST", help="stop where this process is gone")
    parser.add_argument("--fit", action="store_true", help="train nothing; print the largest batches that fit, JSON")
    told = parser.parse_args(arguments)
    ordered_by = _process(told.ordered_by)  # before anything that takes time
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    torch.manual_seed(0)
    job = Job.model_validate_json(told.job.read_text())
    rank = int(os.environ.get("RANK", 0))
    if rank:
        # The main process alone stops in an orderly way; the others end with it.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        if told.fit:
            print(json.dumps(find_sizes(job, World.from_environment())))
            return
        # Held before the others are met: of two orders, the later one waits here, and they wait in `World`.
        with job.lock() if rank == 0 else nullcontext():
            if rank == 0:
                job.error.unlink(missing_ok=True)
            world = World.from_environment()
            try:
                run(job, world, ordered_by)
            finally:
                world.close()
    except Exception as error:
        job.tell(error)
        raise


def _process(told: str | None) -> psutil.Process | None:
    """The process of that number, if it is one of this machine; it is told from a later one of the same number."""
    number, _, host = (told or "").partition("@")
    return psutil.Process(int(number)) if number and host == socket.gethostname() else None


if __name__ == "__main__":
    main()
