"""What a run would do, and why, without doing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from storage.diff import changed_values
from storage.store import LATEST, Store, Version, VersionNotFoundError
from storage.work import Finished, ShardResult
from tasks.stage import Shard, Stage

MakeStage = Callable[[Mapping[str, Version]], Stage]
"""Makes a stage from the versions that the stages before it ended with, by their names in the plan."""
Plan = Mapping[str, MakeStage]
"""Stages in their order, each named after the artifact that it makes, or after what that is for where several stages
make one of a kind."""
LOOK_BACK = 4
"""Versions that a stage is compared with, to tell why it would run."""


class _NotMadeError(LookupError):
    """A version that a stage would work on has still to be made."""


class _Made(dict[str, Version]):
    """The versions that stand, by their names in the plan."""

    def __missing__(self, name: str) -> Version:
        raise _NotMadeError(name)


def plan_lines(store: Store, plan: Plan, refresh: bool = False, retry_failed: bool = False) -> Iterator[str]:
    """One line per stage and per reason. Of stages behind one that would run nothing can be said yet."""
    made, waiting_for, later = _Made(), dict[str, str](), list[str]()
    for name, make in plan.items():
        try:
            stage = make(made)
        except _NotMadeError as missing:
            waiting_for[name] = waiting_for[str(missing)]
            later.append(waiting_for[name])
            continue
        title = stage.name if name == stage.artifact else f"{stage.name} ({name})"
        found = store.find(stage.artifact, stage.key)
        stage.refresh = refresh
        failed = retry_failed and any(result.failed for result in _finished(stage).values())
        if found and not store.rejection(found) and not refresh and not failed:
            made[name] = found
            yield f"{title}: stands, {found}"
            continue
        waiting_for[name] = title
        yield f"{title}: would run, {_amount(stage, retry_failed)}"
        told = ["of --refresh"] if refresh else ["something failed in it"] if failed else _reasons(stage, found)
        yield from (f"  because {reason}" for reason in told)
        yield from (f"  {line}" for line in stage.forecast(_todo(stage, retry_failed)))
    if later:
        makers = list(dict.fromkeys(later))
        stages = "later stage: depends" if len(later) == 1 else "later stages: depend"
        yield f"{len(later)} {stages} on what {' and '.join(makers)} {'make' if len(makers) > 1 else 'makes'}"


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
    """What is different from an earlier version."""
    if rejected:
        yield f"{rejected} was rejected"
        return
    # Two stages of a plan may make artifacts of one kind, such as the calibrations of two judges: the last one may be
    # the other's, so the one that is most alike is taken.
    told = [list(_changes(stage, version)) for version in _accepted(stage)]
    yield from min(told, key=len, default=[f"there is no version of {stage.artifact}"])


def _accepted(stage: Stage) -> Iterator[Version]:
    """The last few versions that `latest` meant, from the newest on."""
    if latest := stage.store.latest(stage.artifact):
        history = (tag.version for tag in reversed(stage.store.tag_history(stage.artifact, LATEST)))
        for number in list(dict.fromkeys([latest.number, *history]))[:LOOK_BACK]:
            with suppress(VersionNotFoundError):  # retention removed it
                yield stage.store.version(stage.artifact, number)


def _changes(stage: Stage, earlier: Version) -> Iterator[str]:
    """What is different from a version."""
    before, parents = earlier.manifest, {role: str(version) for role, version in stage.inputs.items()}
    compared: Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = (
        ("code", {before.stage: before.stage_version}, {stage.name: stage.code_version}),
        ("config", before.config, stage.settings),
        ("fingerprint", before.fingerprints, stage.fingerprints()),
        ("input", {role: f"{p.artifact}@v{p.version}" for role, p in before.parents.items()}, parents),
    )
    for what, old, new in compared:
        yield from (f"{what} {change} (since {earlier})" for change in changed_values(old, new))
