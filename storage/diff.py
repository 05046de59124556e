"""What is different between two versions of an artifact: configuration, parents, statistics, rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.manifest import DataFile, Manifest, are_rows
from storage.store import Store, Version

_ID_COLUMNS = ("case_id", "edit_id", "score_id", "source_id", "iteration")
"""The first of these that a table has names its rows; what was made twice of a case has a number behind it."""
_ROWS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class TableDiff:
    """Rows by identifier; `examples` names a few of each kind."""

    added: int
    removed: int
    changed: int
    same: int
    examples: Mapping[str, tuple[str, ...]]

    def __str__(self) -> str:
        told = []
        for kind in ("added", "removed", "changed"):
            if count := getattr(self, kind):
                some = self.examples[kind]
                told.append(f"{count} {kind} ({', '.join(some)}{', ...' if count > len(some) else ''})")
        return "; ".join([*told, f"{self.same} the same"])


def diff_lines(one: Version, two: Version) -> list[str]:
    """The differences from `one` to `two`, for people."""
    a, b = one.manifest, two.manifest
    lines = [f"{one} -> {two}"]
    if one.ref.manifest == two.ref.manifest:
        return [*lines, "the same content"]
    for title, left, right in (
        ("code", {a.stage: a.stage_version}, {b.stage: b.stage_version}),
        ("config", a.config, b.config),
        ("fingerprints", a.fingerprints, b.fingerprints),
        ("parents", _parents(a), _parents(b)),
        ("statistics", a.statistics, b.statistics),
    ):
        changes = list(changed_values(left, right))
        lines += [f"{title}:", *(f"  {change}" for change in changes)] if changes else []
    lines.append("rows:")
    for name in sorted({*a.tables, *b.tables}):
        before, after = a.tables.get(name, ()), b.tables.get(name, ())
        told = diff_rows(one.store, before, after) if are_rows((*before, *after)) else None
        lines.append(f"  {name}: {told or ('the same file' if before == after else 'another file')}")
    return lines


def changed_values(left: Mapping[str, Any], right: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What differs between two nested dictionaries, one line per leaf."""
    for key in sorted({*left, *right}, key=str):
        here = f"{path}.{key}" if path else str(key)
        a, b = left.get(key), right.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from changed_values(a, b, here)
        elif key not in left:
            yield f"{here}: (none) -> {b}"
        elif key not in right:
            yield f"{here}: {a} -> (none)"
        elif a != b:
            yield f"{here}: {a} -> {b}"


def diff_rows(store: Store, left: tuple[DataFile, ...], right: tuple[DataFile, ...]) -> TableDiff:
    """Compare two tables row by row, by identifier. Files that both have are not read."""
    shared = {file.sha256 for file in left} & {file.sha256 for file in right}
    before = _digests(store, [file for file in left if file.sha256 not in shared])
    after = _digests(store, [file for file in right if file.sha256 not in shared])
    kinds = {
        "added": [key for key in after if key not in before],
        "removed": [key for key in before if key not in after],
        "changed": [key for key in after if key in before and before[key] != after[key]],
    }
    same = sum(file.rows or 0 for file in left if file.sha256 in shared)
    same += sum(key in before and before[key] == after[key] for key in after)
    examples = {kind: tuple(sorted(keys)[:3]) for kind, keys in kinds.items()}
    counts = {kind: len(keys) for kind, keys in kinds.items()}
    return TableDiff(**counts, same=same, examples=examples)


def _digests(store: Store, files: list[DataFile]) -> dict[str, bytes]:
    """A digest of every row by its identifier; a few rows are in memory at a time."""
    found: dict[str, bytes] = {}
    times: Counter[str] = Counter()
    for file in files:
        table = store.read_table(file)
        key = next((name for name in _ID_COLUMNS if name in table.column_names), None)
        for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                name = str(row[key]) if key else "row"
                times[name] += 1
                name += f" {times[name]}" if times[name] > 1 or not key else ""
                found[name] = hashlib.blake2b(repr(sorted(row.items())).encode(), digest_size=16).digest()
    return found


def _parents(manifest: Manifest) -> dict[str, str]:
    return {role: f"{p.artifact}@v{p.version} ({p.manifest[:12]})" for role, p in manifest.parents.items()}
