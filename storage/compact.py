"""Fewer, fuller files: many nights leave many small ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from storage.manifest import DataFile, are_rows
from storage.store import Store, Version

ROWS_PER_FILE = 256


def compact(version: Version, rows_per_file: int = ROWS_PER_FILE) -> Version:
    """Rewrite a version's tables into full files, each of one partition, and make it the latest version.

    The rows and their order within a partition stay. The new version has the stage key of the old one, so that the next
    run of its stage goes on from it. Only for a version without parents, such as `cases`: files of edits and scores
    follow those of the cases, and are made anew from the rows that are known, without editing or rating anything.

    Raises: ValueError for a version that has parents.
    """
    if rows_per_file < 1:
        raise ValueError(f"files of {rows_per_file} rows: use 1 or more")
    store, manifest = version.store, version.manifest
    if manifest.parents:
        roles = ", ".join(f"{p.artifact}@v{p.version}" for p in manifest.parents.values())
        raise ValueError(f"the files of {version} follow those of {roles}: compact those, then run the stages")
    tables = {name: tuple(_packed(store, files, rows_per_file)) for name, files in manifest.tables.items()}
    if tables == dict(manifest.tables):
        return version
    return store.commit(manifest.model_copy(update={"tables": tables, "schema_version": 2}))


def _packed(store: Store, files: Sequence[DataFile], rows_per_file: int) -> Iterator[DataFile]:
    """Files of up to `rows_per_file` rows; those that are full already stay as they are."""
    if not are_rows(files):
        yield from files
        return
    for partition in dict.fromkeys(file.partition for file in files):
        waiting: list[pa.Table] = []
        for file in (file for file in files if file.partition == partition):
            if file.rows == rows_per_file and not waiting:
                yield file
                continue
            waiting.append(store.read_table(file))
            while sum(table.num_rows for table in waiting) >= rows_per_file:
                joined = pa.concat_tables(waiting)
                yield store.add_table(joined.slice(0, rows_per_file), partition)
                waiting = [joined.slice(rows_per_file)] if joined.num_rows > rows_per_file else []
        if waiting:
            yield store.add_table(pa.concat_tables(waiting), partition)
