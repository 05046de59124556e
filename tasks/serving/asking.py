"""Asking a server about many things at once, answers coming as they arrive, within what may be spent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Cap:
    """What may be spent."""

    passed_with: Callable[[int], bool]
    """Whether one more request, beside this many under way, may go beyond it."""
    error: Callable[[], Exception]
    """What ends the asking then."""


async def ask_all(
    questions: Iterable[Question],
    ask: Callable[[Question], Awaitable[Answer]],
    concurrency: int,
    cap: Cap | None = None,
) -> AsyncIterator[tuple[int, Answer]]:
    """Ask all questions; answers come with their number as they arrive, in any order.

    Questions are taken as they are needed, in a thread. Every question gets exactly one answer. An error of `ask` ends
    it all, cancelling what is under way; the cap's error comes once everything under way has been answered.
    """
    numbered = enumerate(questions)
    taking = asyncio.Lock()
    answers: asyncio.Queue[tuple[int, Answer] | None] = asyncio.Queue()
    answered = asyncio.Event()  # set whenever a request is under way no more
    under_way = 0

    async def work() -> None:
        nonlocal under_way
        while True:
            async with taking:
                if (one := await asyncio.to_thread(next, numbered, None)) is None:
                    return
                while cap and under_way and cap.passed_with(under_way):
                    # What is under way may turn out cheaper than it was taken for.
                    answered.clear()
                    await answered.wait()
                if cap and cap.passed_with(under_way):  # and everything asked is answered
                    raise cap.error()
                under_way += 1
            answers.put_nowait((one[0], await ask(one[1])))
            under_way -= 1
            answered.set()

    async def work_all() -> None:
        try:
            await _finish([asyncio.ensure_future(work()) for _ in range(concurrency)])
        finally:
            answers.put_nowait(None)

    working = asyncio.ensure_future(work_all())
    try:
        while (answer := await answers.get()) is not None:
            yield answer
        await working
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _finish(workers: list[asyncio.Future[None]]) -> None:
    """Wait for workers; an error of one ends them all."""
    try:
        for worker in asyncio.as_completed(workers):
            await worker
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
