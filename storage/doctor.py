"""Can a store's filesystem be trusted with commits? A race of writers for the same names tells.

Some S3 gateways take a conditional write and ignore the condition: two writers then both believe that they won, and one
of them loses its version without a word. Nothing in a store's answers to ordinary use would show it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.files import Files

WRITERS = 8
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    ok: bool
    what: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.what}"


def examine(files: Files, writers: int = WRITERS, rounds: int = ROUNDS) -> Iterator[Finding]:
    """Try what commits rely on, in a folder of its own that is removed afterwards."""
    folder = f"doctor/{uuid.uuid4().hex}"
    try:
        yield from _examine(files, folder, writers, rounds)
    finally:
        files.remove(list(files.walk(folder)))


def _examine(files: Files, folder: str, writers: int, rounds: int) -> Iterator[Finding]:
    path = f"{folder}/once"
    yield Finding(files.create(path, b"first"), "a new file is created")
    yield Finding(files.read(path) == b"first", "what was written is read back at once")
    yield Finding(files.names(folder) == ["once"], "and listed at once")
    yield Finding(files.read(path, 1, 3) == b"ir", "a range of it is read")
    second = files.create(path, b"second")
    yield Finding(not second and files.read(path) == b"first", "creating it again with other content is refused")
    winners = [_race(files, f"{folder}/race-{number}", writers) for number in range(rounds)]
    told = f"{rounds} races of {writers} writers for one name: "
    if all(count == 1 for count in winners):
        yield Finding(True, told + "one winner each")
    else:
        why = "this endpoint does not honour conditional writes (If-None-Match), and would lose versions"
        yield Finding(False, told + f"{winners} winners; {why}")
    files.put(path, b"replaced")
    yield Finding(files.read(path) == b"replaced", "a file is replaced where that is asked for")
    files.remove([path])
    yield Finding(files.size(path) is None, "a removed file is gone")


def _race(files: Files, path: str, writers: int) -> int:
    """How many of several writers believe that they created a path, of which only one can."""
    start = threading.Barrier(writers)

    def write(number: int) -> bool:
        start.wait()
        return files.create(path, f"writer {number}".encode())

    with ThreadPoolExecutor(writers) as pool:
        return sum(pool.map(write, range(writers)))
