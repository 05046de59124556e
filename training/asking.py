"""Asking a judge while other work goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Asker:
    """One thread that makes calls in order, one at a time.

    Not an executor: one of those is waited for where an error ends the run, and a judge that is dead, with all its
    retries, takes minutes to say so. This thread does not keep the process alive.
    """

    def __init__(self, name: str) -> None:
        """Begin to wait for calls."""
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, call: Callable[[], Result]) -> Future[Result]:
        """What the call will give, or raise."""
        future: Future[Result] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """No more calls; those that are waiting are still made, unless the process ends first."""
        self._calls.put(None)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            try:
                future.set_result(call())
            except BaseException as error:  # whoever waits for the result has to see it
                future.set_exception(error)
