"""An asynchronous stream as an ordinary iterator, for scripts, notebooks and flows in an event loop alike."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _End:
    """What the stream ended with."""

    error: BaseException | None


def iterate(stream: AsyncIterator[Item]) -> Generator[Item, None, None]:
    """The items of a stream, which goes on by itself in a thread while the caller works on those that came.

    Closing the iterator, or an error in the caller, cancels the stream and waits until it has ended.
    """
    found: queue.Queue[Item | _End] = queue.Queue()
    loop = asyncio.new_event_loop()

    async def pump() -> None:
        async for item in stream:
            found.put(item)

    task = loop.create_task(pump())

    def work() -> None:
        error: BaseException | None = None
        try:
            loop.run_until_complete(task)
        except BaseException as caught:  # handed over to the caller's thread
            error = caught
        try:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()
            found.put(_End(error))

    thread = threading.Thread(target=work, name="stream", daemon=True)
    thread.start()
    try:
        while not isinstance(item := found.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        if thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it ended just now
                loop.call_soon_threadsafe(task.cancel)
        thread.join()
