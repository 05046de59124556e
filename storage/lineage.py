"""Where a version came from and what became of it, from manifests alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter

from storage.store import Store, Version


def parents_of(version: Version) -> dict[str, Version]:
    """The versions that a version was made from, by role."""
    return {role: version.store.version(p.artifact, p.version) for role, p in version.manifest.parents.items()}


def ancestors(version: Version) -> list[Version]:
    """The version and all that it was made from, children before parents, each once."""
    found = {(version.artifact, version.number): version}
    waiting = [version]
    while waiting:
        for parent in waiting.pop().manifest.parents.values():
            key = (parent.artifact, parent.version)
            if key not in found:
                found[key] = version.store.version(*key)
                waiting.append(found[key])
    return children_first(found.values())


def children_first(versions: Iterable[Version]) -> list[Version]:
    """The versions in an order in which each stands before those it was made from."""
    by_key = {(v.artifact, v.number): v for v in versions}
    graph = {
        key: [(p.artifact, p.version) for p in v.manifest.parents.values() if (p.artifact, p.version) in by_key]
        for key, v in by_key.items()
    }
    return [by_key[key] for key in reversed(list(TopologicalSorter(graph).static_order()))]


def children_of(store: Store) -> Mapping[tuple[str, int], list[Version]]:
    """The versions that name a version as their parent, by artifact and number. Reads every manifest."""
    children: dict[tuple[str, int], list[Version]] = defaultdict(list)
    for artifact in store.artifacts():
        for version in store.versions(artifact):
            for parent in {(p.artifact, p.version) for p in version.manifest.parents.values()}:
                children[parent].append(version)
    return children


def tree_lines(version: Version, up: bool = True) -> list[str]:
    """A tree of ancestors, or of descendants, as text; a version that was shown already is not unfolded again."""
    children = {} if up else children_of(version.store)
    shown: set[str] = set()
    lines: list[str] = []

    def add(current: Version, role: str, lead: str, last: bool | None) -> None:
        branch = "" if last is None else ("└─ " if last else "├─ ")
        name = f"{role}: {current}" if role else str(current)
        if str(current) in shown:
            lines.append(f"{lead}{branch}{name}  (above)")
            return
        shown.add(str(current))
        manifest = current.manifest
        told = f"{manifest.stage}, {manifest.num_rows()} rows, {current.ref.created_at}"
        lines.append(f"{lead}{branch}{name}  {told}")
        below = (
            _named(parents_of(current))
            if up
            else [("", c) for c in children.get((current.artifact, current.number), [])]
        )
        lead += "" if last is None else ("   " if last else "│  ")
        for i, (below_role, one) in enumerate(below):
            add(one, below_role, lead, i == len(below) - 1)

    add(version, "", "", None)
    return lines


def _named(parents: Mapping[str, Version]) -> list[tuple[str, Version]]:
    """Parents with their role where it says more than the artifact's name."""
    return [("" if role == version.artifact else role, version) for role, version in parents.items()]
