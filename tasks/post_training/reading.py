"""What readers of single cases share: the narrow columns of a version, a bounded memory, files that appear whole."""

from __future__ import annotations

import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa

from storage.manifest import DataFile
from storage.store import Version

AT_ONCE = 16
"""Requests to a store at a time: object storage is far away, but wide."""

Value = TypeVar("Value")


def narrow_parts(version: Version, table: str, columns: Sequence[str]) -> Iterator[tuple[DataFile, pa.Table]]:
    """Some columns of each file of a table, in order; the files are asked for together."""
    files = version.manifest.tables.get(table, ())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from zip(files, pool.map(lambda file: version.store.read_table(file, columns), files), strict=True)


def write_whole(path: Path, data: bytes | pa.Buffer) -> None:
    """Write a file all or nothing: of writers in several processes, each leaves the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class Recent(Generic[Value]):
    """The values that were used last, as many as fit. Threads may share it."""

    def __init__(self, limit: int) -> None:
        """Up to `limit` bytes; a value that is larger alone is not kept."""
        self.limit = limit
        self.held = 0
        """Bytes of what is kept."""
        self._values: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Value | None:
        """A value, if it is still there."""
        with self._lock:
            if name not in self._values:
                return None
            self._values.move_to_end(name)
            return self._values[name][0]

    def keep(self, name: str, value: Value, size: int) -> Value:
        """Keep a value of some bytes; returns it."""
        with self._lock:
            self.held += size - self._values.pop(name, (value, 0))[1]
            self._values[name] = (value, size)
            while self.held > self.limit:
                self.held -= self._values.popitem(last=False)[1][1]
        return value
