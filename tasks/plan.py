"""What a run would do, and why, without doing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from storage.diff import changed_values
from storage.store import Store, Version
from storage.work import Finished, ShardResult
from tasks.stage import Shard, Stage

MakeStage = Callable[[Mapping[str, Version]], Stage]
"""Makes a stage from the versions that the stages before it ended with, by artifact."""


def plan_lines(
    store: Store, stages: Sequence[MakeStage], refresh: bool = False, retry_failed: bool = False
) -> Iterator[str]:
    """One line per stage and per reason. Of stages behind one that would run nothing can be said yet."""
    versions: dict[str, Version] = {}
    waiting_for = ""
    for make in stages:
        if waiting_for:
            break
        stage = make(versions)
        found = store.find(stage.artifact, stage.key)
        stage.refresh = refresh
        failed = retry_failed and any(result.failed for result in _finished(stage).values())
        if found and not store.rejection(found) and not refresh and not failed:
            versions[stage.artifact] = found
            yield f"{stage.name}: stands, {found}"
            continue
        waiting_for = stage.name
        yield f"{stage.name}: would run, {_amount(stage, retry_failed)}"
        told = ["of --refresh"] if refresh else ["something failed in it"] if failed else _reasons(stage, found)
        yield from (f"  because {reason}" for reason in told)
        yield from (f"  {line}" for line in stage.forecast(_todo(stage, retry_failed)))
    if waiting_for and len(versions) + 1 < len(stages):
        yield f"{len(stages) - len(versions) - 1} later stages: depend on what {waiting_for} makes"


def _finished(stage: Stage) -> Mapping[str, ShardResult]:
    """The shards of a stage that were worked on before."""
    return Finished(stage.store, stage.name).find([stage.key_of(shard) for shard in stage.shards()])


def _amount(stage: Stage, retry_failed: bool) -> str:
    """How much there would be to do."""
    todo = _todo(stage, retry_failed)
    return f"{len(todo)} of {len(stage.shards())} shards, at most {sum(shard.num_items for shard in todo)} items"


def _todo(stage: Stage, retry_failed: bool) -> list[Shard]:
    """The shards that would be worked on."""
    known = {} if stage.refresh else _finished(stage)
    done = {key for key, result in known.items() if not (retry_failed and result.failed)}
    return [shard for shard in stage.shards() if stage.key_of(shard) not in done]


def _reasons(stage: Stage, rejected: Version | None) -> Iterator[str]:
    """What is different from the version that `latest` means."""
    if rejected:
        yield f"{rejected} was rejected"
        return
    latest = stage.store.latest(stage.artifact)
    if latest is None:
        yield f"there is no version of {stage.artifact}"
        return
    before, parents = latest.manifest, {role: str(version) for role, version in stage.inputs.items()}
    compared: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = (
        ("code", {before.stage: before.stage_version}, {stage.name: stage.code_version}),
        ("config", before.config, stage.settings),
        ("fingerprint", before.fingerprints, stage.fingerprints()),
        ("input", {role: f"{p.artifact}@v{p.version}" for role, p in before.parents.items()}, parents),
    )
    for what, old, new in compared:
        yield from (f"{what} {change} (since {latest})" for change in changed_values(old, new))
