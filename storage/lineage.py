"""Where a version came from and what became of it, from manifests alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from storage.store import Store, Version


def parents_of(version: Version) -> dict[str, Version]:
    """The versions that a version was made from, by role."""
    return {role: version.store.version(p.artifact, p.version) for role, p in version.manifest.parents.items()}


def ancestors(version: Version) -> list[Version]:
    """The version and all that it was made from, children before parents, each once."""
    found: dict[tuple[str, int], Version] = {}
    waiting = [version]
    while waiting:
        current = waiting.pop(0)
        known = found.pop((current.artifact, current.number), None)
        # Seen again, it moves to the end: behind every child of its own. Its manifest is read once.
        found[(current.artifact, current.number)] = known or current
        waiting += parents_of(known or current).values()
    return list(found.values())


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
        manifest = current.manifest
        name = f"{role}: {current}" if role else str(current)
        again = str(current) in shown
        told = "(above)" if again else f"{manifest.stage}, {manifest.num_rows()} rows, {current.ref.created_at}"
        lines.append(f"{lead}{branch}{name}  {told}")
        if again:
            return
        shown.add(str(current))
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
