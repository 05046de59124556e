"""Processes that commit versions and tell of each that was acknowledged; they start from a server that has all this."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any

# What pyarrow and fsspec would import late, in every process.
import pandas  # noqa: F401
import pyarrow as pa
import pyarrow.dataset
import s3fs  # noqa: F401

from storage.manifest import Manifest
from storage.store import Store, Version

ARTIFACT = "cases"
Acknowledged = tuple[int, str]
"""A version's number, and the key that it was committed under."""
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Place:
    """Where a store is, and what opens it."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Store:
        """The store."""
        return Store(self.url, **self.options)


def commit_one(store: Store, key: str, num_bytes: int = 0) -> Version:
    """Commit a version of one table that nobody else makes, with so many bytes that nothing compresses."""
    table = pa.table({"key": [key], "bytes": pa.array([os.urandom(num_bytes)], pa.binary())})
    return store.commit(
        Manifest(
            artifact=ARTIFACT,
            stage="perf",
            stage_version=1,
            key=key,
            config={},
            tables={"rows": (store.add_table(table),)},
        )
    )


def commit_many(place: Place, writer: int, count: int | None, num_bytes: int, start: Event, told: Connection) -> None:
    """Commit `count` versions, or until killed, and tell of each once it is acknowledged."""
    store = place.open()
    store.numbers(ARTIFACT)  # the connection is there
    told.send(None)
    start.wait()
    for number in itertools.count() if count is None else range(count):
        key = f"writer-{writer}-{number}"
        told.send((commit_one(store, key, num_bytes).number, key))


@dataclass(frozen=True)
class Writer:
    """A process that commits."""

    process: BaseProcess
    start: Event
    told: Connection

    def acknowledged(self) -> Iterator[Acknowledged]:
        """Wait for what it tells, until it ends."""
        while True:
            try:
                yield self.told.recv()
            except (EOFError, OSError):  # an end, or a message cut off by a kill
                self.process.join()
                return


def start_writer(
    place: Place, writer: int, count: int | None, num_bytes: int = 0, start: Event | None = None
) -> Writer:
    """Start a process; it commits once it is ready and `start` is set, which is at once by default."""
    here, there = processes.Pipe(duplex=False)
    event = start or processes.Event()
    process = processes.Process(target=commit_many, args=(place, writer, count, num_bytes, event, there), daemon=True)
    process.start()
    there.close()
    here.recv()
    if start is None:
        event.set()
    return Writer(process, event, here)
