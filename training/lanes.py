"""Using the cores of a CPU: a batch is split into lanes, each worked by a thread of its own.

Small models gain little from threads inside an operation, and lose a lot where the machine is busy: every operation
then waits for its slowest part (2x to 20x slower, measured). A lane waits once per model call. PyTorch releases the
interpreter lock while it computes, so threads do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, reduce
from typing import TypeVar

import torch
from torch import Tensor

from training.editors.interface import Condition, TrainableEditor

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_lanes() -> int:
    """One lane per core, at most 8; one on a GPU, which parallelises by itself."""
    return 1 if torch.cuda.is_available() else min(8, len(os.sched_getaffinity(0)))


@contextmanager
def one_thread_per_operation() -> Iterator[None]:
    """Within this block an operation uses one thread, as lanes want it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_lanes(function: Callable[[Item], Result], items: Iterable[Item], lanes: int) -> list[Result]:
    """The results in order; with one lane, no threads are used."""
    items = list(items)
    if lanes <= 1 or len(items) <= 1:
        return [function(item) for item in items]
    gradients = torch.is_grad_enabled()  # a thread's own setting, on in a new thread

    def work(item: Item) -> Result:
        with torch.set_grad_enabled(gradients):
            return function(item)

    return list(_threads(lanes).map(work, items))


def velocity(editor: TrainableEditor, latents_BNC: Tensor, t_B: Tensor, condition: Condition, lanes: int) -> Tensor:
    """The editor's velocity, the batch split into lanes; without gradient."""
    if lanes <= 1:
        return editor.velocity(latents_BNC, t_B, condition)

    def part(rows_B: Tensor) -> Tensor:
        return editor.velocity(latents_BNC[rows_B], t_B[rows_B], condition.take(rows_B))

    return torch.cat(map_lanes(part, torch.arange(len(condition)).chunk(lanes), lanes))


def add_up(parts: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Lists of tensors, such as the lanes' gradients, added up position by position.

    In pairs: on a CPU, torch sums a stack of two along its first axis some fifty times slower.
    """
    return [reduce(torch.add, of_one) for of_one in zip(*parts, strict=True)]


@lru_cache(maxsize=4)
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="lane")
