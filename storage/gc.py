"""Removing what nothing needs any more: first a plan to look at, then the deed.

What a version needs is never removed: its manifest, its files, its ancestors. The files of unfinished or remembered
work stay until they are older than the grace period, which must be longer than the longest run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from storage.files import path_of
from storage.lineage import children_first
from storage.store import FOLDERS, REJECTED, Store, Version
from storage.work import files_of_record

GRACE_HOURS = 48.0


class Retention(BaseModel):
    """Which versions stay. Tagged ones do, and whatever a version that stays was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_newest: int | None = Field(None, ge=1, description="Of each artifact; none: every version stays.")
    grace_hours: float = Field(
        GRACE_HOURS, ge=0, description="Nothing younger is removed; longer than the longest run that writes here."
    )


@dataclass(frozen=True)
class Plan:
    """What would be removed. Paths are in the order of removal: at no moment does anything name what is gone."""

    versions: tuple[str, ...]
    paths: tuple[str, ...]
    num_bytes: int
    keep_newest: int | None
    deadline: float
    """Nothing younger is removed; seconds since the epoch."""

    def lines(self) -> list[str]:
        """For people."""
        kinds: dict[str, int] = {}
        for path in self.paths:
            kinds[path.split("/")[0]] = kinds.get(path.split("/")[0], 0) + 1
        what = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return [
            *(f"version {name}" for name in self.versions),
            f"{len(self.paths)} files, {self.num_bytes / 1e6:.1f} MB" + (f": {what}" if what else ""),
        ]


def plan_gc(store: Store, retention: Retention = Retention(), now: float | None = None) -> Plan:  # noqa: B008
    """Decide what no version, tag or child needs.

    Args:
        now: seconds since the epoch, for tests.
    """
    now = time.time() if now is None else now
    return _plan(store, retention.keep_newest, now - 3600 * retention.grace_hours)


def collect_garbage(store: Store, plan: Plan) -> None:
    """Remove what a plan names and nothing has come to need since; killed half way, it leaves garbage, nothing broken.

    A run that was young when the plan was made may have taken up an old file again.
    """
    still = set(_plan(store, plan.keep_newest, plan.deadline).paths)
    for folder, paths in groupby((path for path in plan.paths if path in still), lambda path: path.split("/")[0]):
        # Versions one by one, children first: the files of one request go in whatever order the filesystem likes.
        for some in ([path] for path in paths) if folder == "versions" else [list(paths)]:
            store.remove(some)


def _plan(store: Store, keep_newest: int | None, deadline: float) -> Plan:
    everything = {artifact: store.versions(artifact) for artifact in store.artifacts()}
    kept = _kept(store, everything, keep_newest, deadline)
    gone = children_first(v for vs in everything.values() for v in vs if (v.artifact, v.number) not in kept)
    needed = {f"manifests/{version.ref.manifest}.json" for version in kept.values()}
    for version in kept.values():
        needed |= {path_of(file) for file in version.manifest.files()}

    def old(infos: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        return (path for path, info in infos.items() if _written_at(info) <= deadline)

    refs = [f"versions/{v.artifact}/{v.number:06d}.json" for v in gone]
    # Also keys of versions that a killed run of this removed.
    keys = [path for path in old(store.walk("keys")) if _key_of(path) not in kept]
    records: list[str] = []
    remembered: set[str] = set()
    found = store.walk("shards") | store.walk("journal")
    too_old = set(old(found))
    for path, data in zip(found, store.read_all(list(found)), strict=True):
        named = files_of_record(data)
        # What a kept version holds anyway may be taken over again; the rest only while it is young.
        if path in too_old and (path.startswith("journal/") or not named <= needed):
            records.append(path)
        else:
            remembered |= named
    manifests = [path for path in old(store.walk("manifests")) if path not in needed]
    files = store.walk("files")
    unneeded = [path for path in old(files) if path not in needed and path not in remembered]
    litter = [path for folder in FOLDERS for path in old(store.walk(folder, unfinished=True))]
    size = sum(int(files[path].get("size") or 0) for path in unneeded)
    paths = (*refs, *keys, *records, *manifests, *unneeded, *litter)
    return Plan(tuple(map(str, gone)), paths, size, keep_newest, deadline)


def _kept(
    store: Store, everything: Mapping[str, list[Version]], keep_newest: int | None, deadline: float
) -> dict[tuple[str, int], Version]:
    known = {(v.artifact, v.number): v for versions in everything.values() for v in versions}
    waiting: list[tuple[str, int]] = []
    for artifact, versions in everything.items():
        numbers = [v.number for v in versions]
        waiting += ((artifact, number) for number in (numbers if keep_newest is None else numbers[-keep_newest:]))
        waiting += ((artifact, v.number) for v in versions if _seconds(v.ref.created_at) > deadline)
        tagged = {tag.version for name, tag in store.tags(artifact).items() if name != REJECTED}
        waiting += ((artifact, number) for number in tagged.intersection(numbers))
        if latest := store.latest(artifact):  # in an old store, no tag says which one that is
            waiting.append((artifact, latest.number))
    kept: dict[tuple[str, int], Version] = {}
    while waiting:
        key = waiting.pop()
        if key not in kept:
            kept[key] = known.get(key) or store.version(*key)
            waiting += ((p.artifact, p.version) for p in kept[key].manifest.parents.values())
    return kept


def _key_of(path: str) -> tuple[str, int]:
    """Artifact and number of `keys/<artifact>/<key>/<number>.json`."""
    _, artifact, _, name = path.split("/")
    return artifact, int(name.split(".")[0])


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _written_at(info: Mapping[str, Any]) -> float:
    """When a file was written, in seconds since the epoch; filesystems name it differently."""
    written = next((info[name] for name in ("mtime", "LastModified", "last_modified", "created") if name in info), None)
    if isinstance(written, datetime):
        return written.timestamp()
    return float(written) if written is not None else time.time()
