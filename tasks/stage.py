"""How every stage runs: look whether it was done, do what is missing shard by shard, check, commit.

Nothing here knows Prefect; `tasks.prefect_stage` runs a stage inside a flow.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from storage.manifest import DataFile, Manifest
from storage.records import canonical_json, identity
from storage.store import Store, Version

logger = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Called with the number of items that were just finished."""


class StageConfig(BaseModel):
    """What decides a stage's result, besides its inputs. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardResult(BaseModel):
    """What working on one shard gave: files that are kept already, and numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tables: dict[str, tuple[DataFile, ...]] = {}
    counts: dict[str, int] = {}
    """Summed over the shards for the manifest's statistics."""


@dataclass(frozen=True)
class Result:
    """A whole stage's outcome."""

    tables: Mapping[str, Sequence[DataFile]]
    statistics: Mapping[str, Any] = field(default_factory=dict)


class Stage(ABC):
    """One stage of the pipeline: reads versions, makes one version of one artifact."""

    name: ClassVar[str]
    artifact: ClassVar[str]
    code_version: ClassVar[int]
    """Raised whenever the code of the stage changes what it makes; `tests/tasks/test_code_versions.py` guards it."""

    def __init__(self, store: Store, config: StageConfig, inputs: Mapping[str, Version]) -> None:
        """A stage ready to run.

        Args:
            store: where its inputs are and its output goes.
            inputs: the versions it reads, by role.
        """
        self.store = store
        self.config = config
        self.inputs = dict(inputs)

    def fingerprints(self) -> dict[str, str]:
        """Of models and judges whose identity the config does not tell."""
        return {}

    @abstractmethod
    def shards(self) -> list[str]:
        """Names of the parts of the work, in order."""

    @abstractmethod
    def num_items(self) -> int:
        """How many items there are in all, for the progress bar."""

    @abstractmethod
    def work(self, shard: str, progress: Progress) -> ShardResult:
        """Do one part. May be called again after a crash; writes only through `store.add_*`."""

    def forget(self) -> None:  # noqa: B027 - most stages leave nothing
        """Drop what earlier work left outside of the store, since the work is to be done again; nothing by default."""

    def finish(self, results: Sequence[ShardResult]) -> Result:
        """Put the parts together and check them. The default joins tables and sums counts."""
        return Result(join_tables(results), {"counts": sum_counts(results)})

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        """A few captioned PNG pictures of the result, for people; none by default."""
        return []

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides the result: the same key, the same work."""
        return identity(
            self.name,
            self.code_version,
            self.config.model_dump(mode="json"),
            self.fingerprints(),
            {role: version.ref.manifest for role, version in self.inputs.items()},
        )


@dataclass(frozen=True)
class StageRun:
    """What running a stage came to."""

    version: Version
    reused: bool
    """Whether it was there already and nothing was done."""


def execute(
    stage: Stage,
    *,
    refresh: bool = False,
    progress: Progress = lambda count: None,
    each: Callable[[Callable[[str], ShardResult], list[str]], Iterable[ShardResult]] = map,
    flow_run_id: str | None = None,
) -> StageRun:
    """Run a stage, or return the version that the same work gave before.

    Args:
        refresh: do the work again even if it was done.
        each: maps the work over the shards, in order; `map` one after the other.
        flow_run_id: recorded beside the version, outside of its content.
    """
    if not refresh and (version := stage.store.find(stage.artifact, stage.key)) is not None:
        logger.info("%s: nothing changed, %s stands", stage.name, version)
        return StageRun(version, reused=True)
    started = time.monotonic()
    if refresh:
        stage.forget()

    def work_or_recall(shard: str) -> ShardResult:
        path = f"work/{stage.key}/{shard}.json"
        if not refresh and f"{shard}.json" in stage.store.names(f"work/{stage.key}"):
            result = ShardResult.model_validate_json(stage.store.read(path))
            progress(sum(file.rows or 0 for files in result.tables.values() for file in files))
            return result
        result = stage.work(shard, progress)
        stage.store.create(path, result.model_dump_json().encode())
        return result

    result = stage.finish(list(each(work_or_recall, stage.shards())))
    manifest = Manifest(
        artifact=stage.artifact,
        stage=stage.name,
        stage_version=stage.code_version,
        key=stage.key,
        config=stage.config.model_dump(mode="json"),
        fingerprints=stage.fingerprints(),
        parents={role: version.as_parent() for role, version in stage.inputs.items()},
        tables={name: tuple(files) for name, files in result.tables.items()},
        statistics=json.loads(canonical_json(result.statistics)),
    )
    version = stage.store.commit(manifest, seconds=time.monotonic() - started, flow_run_id=flow_run_id)
    logger.info("%s: committed %s", stage.name, version)
    return StageRun(version, reused=False)


def join_tables(results: Sequence[ShardResult]) -> dict[str, list[DataFile]]:
    """The files of all shards, table by table, in shard order."""
    joined: dict[str, list[DataFile]] = {}
    for result in results:
        for name, files in result.tables.items():
            joined.setdefault(name, []).extend(files)
    return joined


def sum_counts(results: Sequence[ShardResult]) -> dict[str, int]:
    """The shards' counts, summed name by name."""
    total: Counter[str] = Counter()
    for result in results:
        total.update(result.counts)
    return dict(sorted(total.items()))


def check_coverage(what: str, expected: Iterable[str], found: Iterable[str]) -> None:
    """Every expected identifier exactly once and nothing else.

    Raises: ValueError that names what is missing, doubled or unexpected: rows must never get lost on the way.
    """
    wanted, seen = Counter(expected), Counter(found)
    if wanted != seen:
        missing = [key for key in wanted if key not in seen]
        extra = [key for key in seen if key not in wanted]
        doubled = [key for key, count in seen.items() if count > 1]
        raise ValueError(
            f"{what}: {len(missing)} rows missing {missing[:3]}, {len(extra)} unexpected {extra[:3]}, "
            f"{len(doubled)} doubled {doubled[:3]}"
        )
