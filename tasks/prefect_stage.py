"""Running a stage inside a Prefect flow: one task run per shard, and a page per version in the UI."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.assets import Asset, add_asset_metadata, materialize
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from tqdm import tqdm

from storage.store import Store, Version
from tasks.arguments import Config, add_config, config_of
from tasks.engines import Workers, each_of
from tasks.lineage import run_summary, version_page
from tasks.live_page import LivePage
from tasks.stage import RejectedError, Stage, execute
from tasks.stores import open_store

REJECTED_EVENT = "hp-edit.version.rejected"
"""Sent when a version breaks its limits."""


class RunOptions(BaseModel):
    """Where a stage runs; nothing here changes what it makes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str = Field(
        default_factory=lambda: os.environ.get("HP_EDIT_STORE", "runs/store"),
        description="Where artifacts are: a folder, an fsspec address, or a block remote-file-system/<name>.",
    )
    scratch: str = Field(
        default_factory=lambda: os.environ.get("HP_EDIT_SCRATCH", "runs/scratch"),
        description="A local folder for checkpoints of training in progress.",
    )
    refresh: bool = Field(False, description="Do the work again even if nothing changed.")
    retry_failed: bool = Field(False, description="Try again what failed before, such as scores that are missing.")
    workers: dict[str, Workers] = Field(
        {}, description="Where a stage's shards are worked on, by the stage's name; others: one after another, here."
    )

    def open_store(self) -> Store:
        """The store."""
        return open_store(self.store)


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


def version_arguments(
    description: str | None,
    config: Config,
    *artifacts: str,
    by_scorer: bool = False,
    parts: Mapping[str, TypeAdapter[Any]] = {},
) -> tuple[list[str], Config, RunOptions]:
    """What the command line of a stage's flow says.

    Args:
        config: where none is named.
        by_scorer: whether the flow may use a calibration of its judge.
        parts: fields of the configuration that have an option of their own.

    Returns: the versions that the flow reads, in this order, the latest where none is named; then the calibration's
        where there may be one, empty where none is named; the configuration; and how to run.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in artifacts:
        parser.add_argument(name, nargs="?", default=f"{name}@latest", help="a version (%(default)s)")
    if by_scorer:
        artifacts = (*artifacts, "scorer")
        parser.add_argument("--scorer", default="", help="a calibration of the judge, such as scorer@latest")
    add_config(parser, config, parts)
    add_run_options(parser)
    arguments = parser.parse_args()
    told = config_of(parser, arguments, config, parts)
    return [getattr(arguments, name) for name in artifacts], told, run_options(arguments)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of every flow's command line."""
    fields = RunOptions.model_fields
    parser.add_argument("--store", default=None, help=f"{fields['store'].description} (HP_EDIT_STORE, else runs/store)")
    for name in ("refresh", "retry_failed"):
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help=fields[name].description)


def run_options(arguments: argparse.Namespace) -> RunOptions:
    """What they say."""
    told = {name: getattr(arguments, name) for name in ("store", "refresh", "retry_failed")}
    return RunOptions(**{name: value for name, value in told.items() if value is not None})


def run_stage(stage: Stage, options: RunOptions) -> ArtifactRef:
    """Run a stage and show the version in the Prefect UI, also one that its limits rejected.

    Raises: RejectedError, after the page was published and an event sent.
    """
    logger = get_run_logger()
    # Shards may finish in threads; the bar is not safe by itself.
    lock = threading.Lock()
    with tqdm(desc=f"{stage.name:16s}", unit="", mininterval=0.5, smoothing=0.05) as bar:

        def progress(count: int) -> None:
            with lock:
                bar.update(count)

        def expect(total: int) -> None:
            bar.total = total

        stage.show = LivePage(f"{stage.artifact}-{stage.name}")
        try:
            run = execute(
                stage,
                refresh=options.refresh,
                retry_failed=options.retry_failed,
                progress=progress,
                expect=expect,
                tell=get_run_logger().info,
                each=each_of(options.workers.get(stage.name, Workers())),
                flow_run_id=flow_run.id,
            )
        except RejectedError as rejected:
            publish(stage, rejected.version, reused=False)
            emit_rejected(rejected)
            raise
    publish(stage, run.version, run.reused)
    said = "stands, nothing changed" if run.reused else f"committed, {run.done} items worked on"
    logger.info("%s %s", run.version, said)
    manifest = run.version.manifest
    rows = max((manifest.rows(table) for table in manifest.tables), default=0)
    return ArtifactRef(
        artifact=run.version.artifact,
        version=run.version.number,
        reused=run.reused,
        seconds=run.version.ref.seconds,
        rows=rows,
    )


def publish_run(name: str, refs: Iterable[ArtifactRef], options: RunOptions) -> None:
    """Show what the stages of this run came to, on the run's own page.

    Args:
        name: the flow's; the key under which its runs are listed.
        refs: what the stages returned, in order.
    """
    store = options.open_store()
    versions = [(store.version(ref.artifact, ref.version), ref.reused) for ref in refs]
    create_markdown_artifact(run_summary(versions, _ui()), key=name, description="What went in and came out, by stage")


def _ui() -> str | None:
    """The address of the Prefect UI, if there is one."""
    url = get_current_settings().server.ui.api_url or get_current_settings().api.url or ""
    return url.removesuffix("/api") or None


def publish(stage: Stage, version: Version, reused: bool) -> None:
    """Show a version in the Prefect UI; its key page there is the artifact's history."""
    page = version_page(version, [] if reused else stage.pictures(version), _ui(), reused)
    create_markdown_artifact(page, key=version.artifact, description=str(version))
    if not reused:
        emit_made(version)


def emit_made(version: Version) -> None:
    """Tell Prefect of a new version as of an asset, so that automations can start what depends on it."""

    def asset(name: str) -> Asset:
        return Asset(key=f"hpedit://{name}")

    manifest = version.manifest
    metadata = {"manifest": version.ref.manifest, "rows": manifest.num_rows(), "done": version.ref.done}
    parents: list[str | Asset] = [asset(f"{parent.artifact}@v{parent.version}") for parent in manifest.parents.values()]

    @materialize(asset(str(version)), asset_deps=parents, name=f"{version.artifact}-version", cache_policy=NO_CACHE)
    def made() -> None:
        add_asset_metadata(f"hpedit://{version}", metadata)

    made()


def emit_rejected(rejected: RejectedError) -> None:
    """Tell Prefect of a version that broke its limits; an automation can notify people of it."""
    emit_event(
        event=REJECTED_EVENT,
        resource={
            "prefect.resource.id": f"hp-edit.{rejected.version.artifact}",
            "prefect.resource.name": str(rejected.version),
        },
        payload={"version": str(rejected.version), "reasons": list(rejected.reasons)},
    )
