"""Running a stage inside a Prefect flow: one task run per shard, and a page per version in the UI."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from prefect import Task, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from storage.store import Store, Version
from tasks.lineage import version_page
from tasks.stage import ShardResult, Stage, execute

RUN_PAGE = "/v2/runs/flow-run/{id}"


class RunOptions(BaseModel):
    """Where a stage runs; nothing here changes what it makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(
        default_factory=lambda: os.environ.get("HP_EDIT_STORE", "runs/store"),
        description="Where artifacts are: a folder, or any fsspec address.",
    )
    scratch: str = Field(
        default_factory=lambda: os.environ.get("HP_EDIT_SCRATCH", "runs/scratch"),
        description="A local folder for checkpoints of training in progress.",
    )
    refresh: bool = Field(False, description="Do the work again even if nothing changed.")

    def open_store(self) -> Store:
        """The store; a local folder is taken from where the flow runs."""
        return Store(str(Path(self.store).absolute()) if "://" not in self.store else self.store)


class ArtifactRef(BaseModel):
    """What a stage returns: a version by name, small enough to pass between flows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: str
    version: int
    reused: bool
    seconds: float
    """How long making it took; not counted again when it is reused."""
    rows: int

    def __str__(self) -> str:
        return f"{self.artifact}@v{self.version}"


def version_arguments(description: str | None, *artifacts: str) -> list[str]:
    """The versions that a flow reads, from the command line in this order; the latest where none is named."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in artifacts:
        parser.add_argument(name, nargs="?", default=f"{name}@latest", help="a version (%(default)s)")
    arguments = parser.parse_args()
    return [getattr(arguments, name) for name in artifacts]


def run_stage(stage: Stage, options: RunOptions) -> ArtifactRef:
    """Run a stage and show the version in the Prefect UI."""
    logger = get_run_logger()
    # Shards may finish in threads; the bar is not safe by itself.
    lock = threading.Lock()
    with tqdm(total=stage.num_items(), desc=f"{stage.name:16s}", unit="", mininterval=0.5, smoothing=0.05) as bar:

        def progress(count: int) -> None:
            with lock:
                bar.update(count)

        def each(work: Callable[[str], ShardResult], shards: list[str]) -> Iterable[ShardResult]:
            run_shard = Task(
                fn=work,
                name=f"{stage.name}-shard",
                task_run_name="{shard}",
                cache_policy=NO_CACHE,
                persist_result=False,
            )
            return [run_shard(shard) for shard in shards]

        run = execute(stage, refresh=options.refresh, progress=progress, each=each, flow_run_id=flow_run.id)
        if run.reused:
            bar.update(bar.total - bar.n)
    publish(stage, run.version, run.reused)
    logger.info("%s %s", run.version, "stands, nothing changed" if run.reused else "committed")
    manifest = run.version.manifest
    rows = max((manifest.rows(table) for table in manifest.tables), default=0)
    return ArtifactRef(
        artifact=run.version.artifact,
        version=run.version.number,
        reused=run.reused,
        seconds=run.version.ref.seconds,
        rows=rows,
    )


def publish(stage: Stage, version: Version, reused: bool) -> None:
    """Show a version in the Prefect UI; its key page there is the artifact's history."""
    url = get_current_settings().server.ui.api_url or get_current_settings().api.url or ""
    base = url.removesuffix("/api")
    page = version_page(
        version, [] if reused else stage.pictures(version), f"{base}{RUN_PAGE}" if base else None, reused
    )
    create_markdown_artifact(page, key=version.artifact, description=str(version))
