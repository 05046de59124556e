"""Where shards are worked on: in this process, in several, or on a Ray cluster. Nothing here changes what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from pydantic import BaseModel, ConfigDict, Field

from storage.work import ShardResult
from tasks.stage import Each, Progress, Shard, Stage, work_on


class Workers(BaseModel):
    """On what, and how many shards at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["sequential", "threads", "processes", "ray"] = Field(
        "sequential",
        description="threads: for waiting on servers; processes: for this machine's cores; ray: a cluster.",
    )
    count: int = Field(2, ge=1, description="Shards at a time: threads, processes, or CPUs of a Ray started here.")
    ray_address: str | None = Field(
        None, description="A Ray cluster, such as ray://head:10001; none: one started here."
    )
    num_cpus: float = Field(1, ge=0, description="ray: what a shard needs.")
    num_gpus: float = Field(0, ge=0, description="ray: what a shard needs.")


def each_of(workers: Workers) -> Each:
    """The engine for a stage: one Prefect task run per shard."""
    return _in_this_process if workers.engine == "sequential" else lambda *work: _elsewhere(workers, *work)


def _in_this_process(stage: Stage, shards: Sequence[Shard], progress: Progress) -> list[ShardResult]:
    run = _shard_task(lambda name, shard: work_on(stage, shard, progress), stage)
    return [run(shard.name, shard) for shard in shards]


def _elsewhere(workers: Workers, stage: Stage, shards: Sequence[Shard], progress: Progress) -> Iterator[ShardResult]:
    run = _shard_task(_work_in_thread if workers.engine == "threads" else _work_in_worker, stage)
    if not shards:
        return
    with _runner(workers) as runner:
        # The key travels along: working it out reads what the stage reads.
        futures = [
            runner.submit(run, {"name": shard.name, "shard": shard, "stage": stage, "stage_key": stage.key})
            for shard in shards
        ]
        failed = None
        for shard, future in zip(shards, futures, strict=True):
            try:
                result: ShardResult = future.result()
            except Exception as error:  # the other shards finish first, and are remembered
                failed = failed or error
                continue
            progress(shard.num_items)
            if failed is None:
                yield result
        if failed is not None:
            raise failed


def _shard_task(function: Callable[..., ShardResult], stage: Stage) -> Task[..., ShardResult]:
    return Task(
        fn=function,
        name=f"{stage.name}-shard",
        task_run_name="{name}",
        cache_policy=NO_CACHE,
        persist_result=False,
    )


_opened: dict[tuple[str, str, bool], Stage] = {}
"""The stage that this process works for, so that its model is loaded once and not per shard."""


def _work_in_worker(name: str, shard: Shard, stage: Stage, stage_key: str) -> ShardResult:
    # The same work on another store is another stage: its results belong there.
    wanted = (stage.store.url, stage_key, stage.refresh)
    if wanted not in _opened:
        _opened.clear()
        _opened[wanted] = stage
    return work_on(_opened[wanted], shard, lambda count: None)


def _work_in_thread(name: str, shard: Shard, stage: Stage, stage_key: str) -> ShardResult:
    return work_on(stage, shard, lambda count: None)


@contextmanager
def _runner(workers: Workers) -> Iterator[TaskRunner[Any]]:
    if workers.engine == "ray":
        with _ray_runner(workers) as ray:
            yield ray
    else:
        pools: dict[str, type[TaskRunner[Any]]] = {"threads": ThreadPoolTaskRunner, "processes": ProcessPoolTaskRunner}
        with pools[workers.engine](max_workers=workers.count) as pool:  # type: ignore[call-arg]
            yield pool


@contextmanager
def _ray_runner(workers: Workers) -> Iterator[TaskRunner[Any]]:
    """A Ray cluster, joined or started on this machine. Raises: ImportError that says what to install."""
    try:
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise ImportError("the engine ray needs prefect-ray: pip install --editable '.[ray]'") from error
    local = {"num_cpus": workers.count, "include_dashboard": False, "log_to_driver": False}
    settings = {} if workers.ray_address else local
    with (
        RayTaskRunner(address=workers.ray_address, init_kwargs=settings) as runner,
        remote_options(num_cpus=workers.num_cpus, num_gpus=workers.num_gpus),
    ):
        yield runner
