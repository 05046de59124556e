"""What runs in processes that are killed. They start from a server that has imported this, which takes 20 ms each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

# So that no process has to import what pyarrow and fsspec import late.
import pandas  # noqa: F401
import pyarrow.dataset  # noqa: F401
import s3fs  # noqa: F401

from storage.store import Store
from tests.storage.samples import manifest_of, nightly_work

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


_CHANGES = ("os.mkdir", "os.link", "os.rename", "os.remove")
"""What Python itself says that it does, beside opening files."""


def die() -> None:
    """As if the machine were gone: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def commit_some(url: str, options: dict[str, Any], writer: int, count: int) -> None:
    """Commit versions whose table says who wrote them."""
    store = Store(url, **options)
    for number in range(count):
        rows = (writer, number)
        store.commit(manifest_of(store, f"writer-{writer}-{number}", rows))


def die_before_changing(url: str, number: int, padding: int, count: int) -> None:
    """Work on the local disk, and die before the given time that something below the store is changed."""
    left = count

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        changes = event in _CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and str(arguments[0]).startswith(url):
            left -= 1
            if left == 0:
                die()

    store = Store(url)
    sys.addaudithook(hook)
    nightly_work(store, number, padding)


def die_before_writing(url: str, options: dict[str, Any], number: int, count: int) -> None:
    """Work on an object store, and die before the given write: between writes, nobody sees where one died."""
    store = Store(url, **options)
    pipe_file, left = store.fs.pipe_file, count

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            die()
        return pipe_file(*arguments, **keywords)

    store.fs.pipe_file = counted
    nightly_work(store, number)


def work_until_killed(url: str, options: dict[str, Any], first: int, started: Connection) -> None:
    """One piece of work after the other; tells before each."""
    store = Store(url, **options)
    for number in range(first, first + 1000):
        started.send_bytes(b"go")
        nightly_work(store, number)
