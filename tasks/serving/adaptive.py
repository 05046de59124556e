"""How many requests may be under way: up to a bound, and fewer when the server says that it is too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_FIRST = 8
"""Requests under way at the beginning."""
_BACK_OFF = 0.8
"""What is left of the limit after the server said that there were too many."""


class AdaptiveLimit:
    """A semaphore whose size follows the server: twice as many every round until the first 429, which halves it; then
    one more every round, and a fifth less after another 429. Requests that were under way when the limit was lowered do
    not lower it again.

    The rule is TCP's (slow start, additive increase, multiplicative decrease), with a gentle decrease: a model's server
    is one queue, and an idle slot costs more than a refused request.
    """

    def __init__(self, most: int, first: float | None = None) -> None:
        """A limit of up to `most`.

        Args:
            first: where it begins, such as where an earlier one ended.
        """
        if most < 1:
            raise ValueError(f"at most {most} requests at a time: at least one is needed")
        self.most = most
        self.limit = float(min(most, first or _FIRST))
        self._doubling = first is None
        self._under_way = 0
        self._lowered = 0
        self._free = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Wait for a free slot; gives the moment that `too_many` wants to know."""
        async with self._free:
            await self._free.wait_for(lambda: self._under_way < int(self.limit))
            self._under_way += 1
        try:
            yield self._lowered
        finally:
            async with self._free:
                self._under_way -= 1
                self._free.notify()

    async def fine(self) -> None:
        """A request was answered."""
        if self.limit < self.most:
            self.limit = min(self.most, self.limit + (1 if self._doubling else 1 / self.limit))
            async with self._free:
                self._free.notify()

    def too_many(self, moment: int) -> None:
        """A request was refused that began at `moment`."""
        if moment == self._lowered:
            self.limit = max(1.0, self.limit * (0.5 if self._doubling else _BACK_OFF))
            self._doubling = False
            self._lowered += 1
