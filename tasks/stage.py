"""How every stage runs: look whether it was done, do what is missing shard by shard, check, commit, look at limits.

Nothing here knows Prefect; `tasks.prefect_stage` runs a stage inside a flow.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from storage.manifest import DataFile, Manifest
from storage.records import canonical_json, identity
from storage.store import LATEST, REJECTED, Store, Version, VersionNotFoundError
from storage.work import Finished, Journal, ShardResult
from tasks.limits import ROWS, Limit, broken_limits, only_missing
from tasks.settings import Settings, passing

logger = logging.getLogger(__name__)

LOOK_BACK = 20
"""Accepted versions among which one of the same configuration is looked for, to compare with."""
Show = Callable[[str, float, str], None]
"""Called with a page in Markdown, how far the work is, in percent, and what somebody should be told at once, if
anything."""
Progress = Callable[[int], None]
"""Called with the number of items that were just finished."""


class StageConfig(Settings):
    """What decides a stage's result, besides its inputs."""


class GatedConfig(StageConfig):
    """A configuration with limits. They decide whether a version becomes `latest`, not what is in it."""

    limits: dict[str, Limit] = passing({}, "Within which a version becomes `latest`.")


@dataclass(frozen=True)
class Shard:
    """One part of a stage's work."""

    name: str
    num_items: int
    basis: Any
    """JSON-able: the settings that decide its result, besides the stage's code and the files."""
    files: Mapping[str, DataFile] = field(default_factory=dict)
    """What it is made from, by role."""


@dataclass(frozen=True)
class Result:
    """A whole stage's outcome."""

    tables: Mapping[str, Sequence[DataFile]]
    statistics: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    """What limits can be set on, besides the number of rows."""


class RejectedError(RuntimeError):
    """A version was made and kept, but broke the limits of its stage: `latest` did not move."""

    def __init__(self, version: Version, reasons: Sequence[str]) -> None:
        """Of a version that was just rejected, or that was rejected before and would come out the same."""
        super().__init__(f"{version} is rejected, {LATEST} stays: " + "; ".join(reasons))
        self.version = version
        self.reasons = tuple(reasons)


class Stage(ABC):
    """One stage of the pipeline: reads versions, makes one version of one artifact."""

    name: ClassVar[str]
    artifact: ClassVar[str]
    code_version: ClassVar[int]
    """Raised whenever the code of the stage changes what it makes; `tests/tasks/test_code_versions.py` guards it."""
    refresh = False
    """Whether everything is to be made again, even what is known."""
    show: Show = staticmethod(lambda page, percent, alarm: None)
    """Shows how long work goes on, for stages that have something to show; a flow puts it on a page."""

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
        """Of models and judges whose identity the config does not tell. Quick: nothing is loaded for it."""
        return {}

    @abstractmethod
    def shards(self) -> list[Shard]:
        """The parts of the work, in order."""

    @abstractmethod
    def work(self, shard: Shard, progress: Progress) -> ShardResult:
        """Do one part. May be called again after a crash; writes only through `store.add_*`."""

    def compares_with(self, manifest: Manifest) -> bool:
        """Whether limits on changes hold against an earlier version: one made by the same configuration, by default."""
        return manifest.config == self.settings

    def forecast(self, shards: Sequence[Shard]) -> Iterator[str]:
        """What working on some shards would cost, told before it begins; nothing by default."""
        return iter(())

    def forget(self) -> None:  # noqa: B027 - most stages leave nothing
        """Drop what earlier work left outside of the store, since the work is to be done again; nothing by default."""

    def finish(self, results: Sequence[ShardResult]) -> Result:
        """Put the parts together and check them. The default joins tables and sums counts."""
        return Result(join_tables(results), {"counts": sum_counts(results)})

    def pictures(self, version: Version) -> list[tuple[str, bytes]]:
        """A few captioned PNG pictures of the result, for people; none by default."""
        return []

    @property
    def settings(self) -> dict[str, Any]:
        """The part of the configuration that decides the result."""
        return self.config.deciding()

    @cached_property
    def key(self) -> str:
        """The hash of everything that decides the result: the same key, the same work."""
        return identity(
            self.name,
            self.code_version,
            self.settings,
            self.fingerprints(),
            {role: version.ref.manifest for role, version in self.inputs.items()},
        )

    def key_of(self, shard: Shard) -> str:
        """The same of one shard: a shard that nothing changed for is not worked on again, whatever else changed."""
        files = {role: file.sha256 for role, file in shard.files.items()}
        return identity(self.name, self.code_version, shard.basis, files)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: models and judges are made there."""
        made = {name for base in type(self).__mro__ for name, v in vars(base).items() if isinstance(v, cached_property)}
        return {name: value for name, value in self.__dict__.items() if name not in made | {"show"}}


@dataclass(frozen=True)
class StageRun:
    """What running a stage came to."""

    version: Version
    reused: bool
    """Whether it was there already and nothing was done."""
    done: int = 0
    """How many items were really worked on."""


Each = Callable[[Stage, Sequence[Shard], Progress], Iterable[ShardResult]]
"""Works on shards, on whatever engine, and gives their results in order."""


def one_after_another(stage: Stage, shards: Sequence[Shard], progress: Progress) -> Iterable[ShardResult]:
    """The plain engine: this thread."""
    return (work_on(stage, shard, progress) for shard in shards)


def work_on(stage: Stage, shard: Shard, progress: Progress) -> ShardResult:
    """Work on one shard and remember it, so that a killed run keeps it."""
    key = stage.key_of(shard)
    result = stage.work(shard, progress)
    Finished(stage.store, stage.name).remember(key, result)
    Journal(stage.store, stage.name, key).forget()
    return result


def execute(
    stage: Stage,
    *,
    refresh: bool = False,
    retry_failed: bool = False,
    progress: Progress = lambda count: None,
    expect: Callable[[int], None] = lambda total: None,
    tell: Callable[[str], None] = lambda line: None,
    each: Each = one_after_another,
    flow_run_id: str | None = None,
) -> StageRun:
    """Run a stage, or return the version that the same work gave before.

    Shards that nothing changed for are taken over from earlier runs. A version that was rejected is not returned: the
    shards in which something failed are worked on once more.

    Args:
        refresh: do all of the work again.
        retry_failed: work once more on shards in which something failed.
        expect: told how many items there are, before the first.
        tell: told what the work will cost, before it begins.
        each: works on the shards.
        flow_run_id: recorded beside the version, outside of its content.

    Raises: RejectedError where the version breaks the limits of the stage's configuration; it is kept.
    """
    store = stage.store
    before = store.latest(stage.artifact)
    found = None if refresh else store.find(stage.artifact, stage.key)
    rejected = store.rejection(found) if found else None
    if found and rejected and not _broken_limits(stage, found, before):
        store.tag(found, LATEST, ["within limits that were changed since"])
        rejected = None
    if found and not rejected and not retry_failed:
        return _stands(stage, found, before)
    started = time.monotonic()
    stage.refresh = refresh
    if refresh:
        stage.forget()
    shards = stage.shards()
    expect(sum(shard.num_items for shard in shards))
    keys = [stage.key_of(shard) for shard in shards]
    known = _known(stage, keys, retry_failed or rejected is not None)
    todo = {key: shard for key, shard in zip(keys, shards, strict=True) if key not in known}
    if found and not rejected and not todo:
        return _stands(stage, found, before)  # nothing had failed
    progress(sum(shard.num_items for key, shard in zip(keys, shards, strict=True) if key in known))
    for line in stage.forecast(list(todo.values())) if todo else ():
        tell(line)
    made = dict(zip(todo, each(stage, list(todo.values()), progress), strict=True))
    there = {**known, **made}
    results, done = [there[key] for key in keys], sum(result.done for result in made.values())
    manifest = manifest_of(stage, stage.finish(results))
    if found and manifest.id == found.ref.manifest:
        if rejected:
            raise RejectedError(found, rejected.reasons)
        return StageRun(found, reused=True, done=done)
    seconds = time.monotonic() - started
    version = store.commit(manifest, latest=False, seconds=seconds, flow_run_id=flow_run_id, done=done)
    logger.info("%s: committed %s, %d items worked on", stage.name, version, done)
    try:
        _accept_or_reject(stage, version, before, new=True)
    except RejectedError as error:
        if not only_missing(error.reasons):
            # What was made in this run is in doubt: the next one makes it again.
            Finished(store, stage.name).forget(list(made))
        raise
    return StageRun(version, reused=False, done=done)


def _stands(stage: Stage, version: Version, before: Version | None) -> StageRun:
    """A version that was made before is what this run ends with."""
    logger.info("%s: nothing changed, %s stands", stage.name, version)
    _accept_or_reject(stage, version, before)
    return StageRun(version, reused=True)


def _known(stage: Stage, keys: Sequence[str], retry: bool) -> dict[str, ShardResult]:
    """The results of the shards that need not be worked on, by key.

    Args:
        retry: those in which something failed are worked on again.
    """
    if stage.refresh:
        return {}
    known = Finished(stage.store, stage.name).find(keys)
    return {key: result for key, result in known.items() if not (retry and result.failed)}


def manifest_of(stage: Stage, result: Result) -> Manifest:
    """What a stage's outcome is as a version, before it is one."""
    tables = {name: tuple(files) for name, files in result.tables.items()}
    rows = sum(file.rows or 0 for files in tables.values() for file in files)
    measures = {name: round(value, 6) if value == value else None for name, value in result.measures.items()}
    statistics = {**result.statistics, "measures": {**measures, ROWS: rows}} if result.measures else result.statistics
    return Manifest(
        artifact=stage.artifact,
        stage=stage.name,
        stage_version=stage.code_version,
        key=stage.key,
        config=stage.settings,
        fingerprints=stage.fingerprints(),
        parents={role: version.as_parent() for role, version in stage.inputs.items()},
        tables=tables,
        statistics=json.loads(canonical_json(statistics)),
    )


def _accept_or_reject(stage: Stage, version: Version, before: Version | None, new: bool = False) -> None:
    """Move `latest` to a version, or tag it as rejected. Raises: RejectedError."""
    if before and before.number == version.number:
        return
    history = () if new else stage.store.tag_history(version.artifact, LATEST)
    was_accepted = any(tag.version == version.number for tag in history)
    if not was_accepted and (reasons := _broken_limits(stage, version, before)):
        stage.store.tag(version, REJECTED, reasons)
        raise RejectedError(version, reasons)
    stage.store.tag(version, LATEST)


def _broken_limits(stage: Stage, version: Version, before: Version | None) -> list[str]:
    """Why a version is not good enough, compared with the newest accepted one of the same configuration."""
    limits: Mapping[str, Limit] = getattr(stage.config, "limits", {})
    if not limits:
        return []
    accepted = stage.store.tag_history(version.artifact, LATEST)[-LOOK_BACK:]
    numbers = [tag.version for tag in reversed(accepted)] or ([before.number] if before else [])
    for number in dict.fromkeys(numbers):
        try:
            earlier = stage.store.version(version.artifact, number)
        except VersionNotFoundError:  # retention removed it
            continue
        if number != version.number and stage.compares_with(earlier.manifest):
            return broken_limits(_measures(version), _measures(earlier), limits)
    return broken_limits(_measures(version), None, limits)


def _measures(version: Version) -> dict[str, float]:
    measures: Mapping[str, float | None] = version.manifest.statistics.get("measures", {})
    return {name: float("nan") if value is None else value for name, value in measures.items()}


def join_tables(results: Sequence[ShardResult]) -> dict[str, list[DataFile]]:
    """The files of all shards, table by table, in shard order."""
    joined: dict[str, list[DataFile]] = {}
    for result in results:
        for name, files in result.tables.items():
            joined.setdefault(name, []).extend(files)
    return joined


def sum_counts(results: Sequence[ShardResult]) -> dict[str, Any]:
    """The shards' counts, summed name by name."""
    total: dict[str, Any] = {}
    for result in results:
        total = _sum(total, result.counts)
    return total


def _sum(one: Any, two: Any) -> Any:
    if isinstance(two, Mapping):
        names = sorted({*one, *two})
        return {
            name: _sum(one[name], two[name]) if name in one and name in two else one.get(name, two.get(name))
            for name in names
        }
    if isinstance(two, list):
        return [_sum(a, b) for a, b in zip(one, two, strict=True)]
    return one + two


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


def check_rows(what: str, stage: Stage, results: Sequence[ShardResult], tables: Sequence[str]) -> None:
    """Every shard gave as many rows as it had items. Each checked its identifiers when it was worked on.

    Raises: ValueError that names the shard.
    """
    for shard, result in zip(stage.shards(), results, strict=True):
        rows = sum(file.rows or 0 for table in tables for file in result.tables.get(table, ()))
        if rows != shard.num_items:
            raise ValueError(f"{what}, shard {shard.name}: {rows} rows of {shard.num_items} items")
