"""Removing what nothing needs any more: first a plan to look at, then the deed.

What a version needs is never removed: its manifest, its files, its ancestors. The files of unfinished or remembered
work stay until they are older than the grace period, which must be longer than the longest run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from storage.files import path_of
from storage.lineage import ancestors
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
    deadline = (time.time() if now is None else now) - 3600 * retention.grace_hours
    everything = {artifact: store.versions(artifact) for artifact in store.artifacts()}
    kept = _kept(store, everything, retention, deadline)
    gone = [v for versions in everything.values() for v in versions if (v.artifact, v.number) not in kept]
    needed = {f"manifests/{version.ref.manifest}.json" for version in kept.values()}
    for version in kept.values():
        needed |= {path_of(file) for files in version.manifest.tables.values() for file in files}
    gone_numbers = {(v.artifact, v.number) for v in gone}

    def old(infos: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        return (path for path, info in infos.items() if _written_at(info) <= deadline)

    refs = [f"versions/{v.artifact}/{v.number:06d}.json" for v in gone]
    keys = [path for path in store.walk("keys") if _key_of(path) in gone_numbers]
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
    return Plan(tuple(map(str, gone)), (*refs, *keys, *records, *manifests, *unneeded, *litter), size)


def collect_garbage(store: Store, plan: Plan) -> None:
    """Remove what a plan names, refs first and files last: killed half way, it leaves garbage and nothing broken."""
    store.remove(plan.paths)


def _kept(
    store: Store, everything: Mapping[str, list[Version]], retention: Retention, deadline: float
) -> dict[tuple[str, int], Version]:
    roots: list[Version] = []
    for artifact, versions in everything.items():
        tagged = {tag.version for name, tag in store.tags(artifact).items() if name != REJECTED}
        newest = versions if retention.keep_newest is None else versions[-retention.keep_newest :]
        young = [v for v in versions if datetime.fromisoformat(v.ref.created_at).timestamp() > deadline]
        roots += [*newest, *young, *(v for v in versions if v.number in tagged)]
    return {(v.artifact, v.number): v for root in roots for v in ancestors(root)}


def _key_of(path: str) -> tuple[str, int]:
    """Artifact and number of `keys/<artifact>/<key>/<number>.json`."""
    _, artifact, _, name = path.split("/")
    return artifact, int(name.split(".")[0])


def _written_at(info: Mapping[str, Any]) -> float:
    """When a file was written, in seconds since the epoch; filesystems name it differently."""
    written = next((info[name] for name in ("mtime", "LastModified", "last_modified", "created") if name in info), None)
    if isinstance(written, datetime):
        return written.timestamp()
    return float(written) if written is not None else time.time()
