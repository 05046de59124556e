"""When memory runs out: what to lower, how much fits, and what was used."""

from __future__ import annotations

import gc
import logging
import re
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

logger = logging.getLogger(__name__)

_MESSAGES = (
    "out of memory",  # CUDA's own, also from inside libraries
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # torch's allocator of a CPU
    "not enough memory",
)


class _Remedy(NamedTuple):
    setting: str
    helps: Callable[[Any], bool]
    """Whether it can still be turned, at this value."""
    advice: str


_REMEDIES = (
    _Remedy("micro_batch", lambda value: value > 1, "lower micro_batch, now {value}: changes nothing else"),
    _Remedy(
        "rollout_batch", lambda value: value > 1, "lower rollout_batch, now {value}, where it was sampling that failed"
    ),
    _Remedy(
        "activation_checkpointing",
        lambda value: not value,
        "switch activation_checkpointing on: a third more computing in updates, the same gradients",
    ),
    _Remedy(
        "shard_base", lambda value: not value, "switch shard_base on, with several GPUs: weights over their number"
    ),
    _Remedy("float8", lambda value: not value, "switch float8 on: half the weights, a base that is slightly another"),
    _Remedy("condition_area", lambda value: value > 256 * 256, "lower condition_area, now {value}: coarser sources"),
    _Remedy("target_area", lambda value: value > 256 * 256, "lower target_area, now {value}: smaller images"),
)
"""In the order in which to try them: first what only costs time, last what changes what is learnt."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in any of the ways in which it is said."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def explain(error: BaseException, *settings: Any) -> str:
    """What to do about memory that ran out, for the one who set the run up.

    Args:
        settings: records or mappings with the settings of the run by name, such as its `FlowGrpoConfig` and
            `DiffusersSettings`. Settings that none of them has are not named, nor those that are as low as they go.
    """
    wanted = re.search(r"Tried to allocate ([\d.]+ \w+)", str(error))
    lines = [f"out of memory{f' ({wanted[1]} were wanted)' if wanted else ''}; what helps, first what costs least:"]
    for remedy in _REMEDIES:
        found = [value for record in settings if (value := _get(record, remedy.setting)) is not None]
        if found and remedy.helps(found[0]):
            lines.append("- " + remedy.advice.format(value=found[0]))
    if len(lines) == 1:
        lines.append("- a device with more memory: every setting is as low as it goes")
    return "\n".join(lines)


def _get(record: Any, name: str) -> Any:
    return record.get(name) if hasattr(record, "get") else getattr(record, name, None)


def fit(try_size: Callable[[int], object], largest: int) -> int:
    """The largest power of two that runs without running out of memory, from the one up to `largest` downwards.

    Not for a sharded base: a process that fails in the middle of a pass leaves the others waiting. Find the size in
    one process, or take the smallest that each finds for itself.

    Args:
        try_size: does at a size what the run will do, backward pass included. What it returns is dropped.

    Raises: the error itself where size 1 does not run, and every other error at once.
    """
    if largest < 1:
        raise ValueError(f"largest {largest}: a size to try is at least 1")
    size = 1 << (largest.bit_length() - 1)
    while not _runs(try_size, size):
        size //= 2
    return size


def _runs(try_size: Callable[[int], object], size: int) -> bool:
    """Whether a size runs; after one that does not, nothing refers to what it made."""
    try:
        try_size(size)
    except (RuntimeError, MemoryError) as error:
        if size == 1 or not is_out_of_memory(error):
            raise
        # The frames that the error came through hold the tensors that filled the memory, and so would the errors
        # before it.
        seen: BaseException | None = error
        while seen is not None:
            traceback.clear_frames(seen.__traceback__)
            seen = seen.__cause__ or seen.__context__
        logger.info("size %d does not fit", size)
    else:
        return True
    # What nothing refers to is given back, so that the next try finds memory in one piece.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False


def peak_memory_mb(device: torch.device | str) -> float:
    """The most memory used so far: by tensors on a GPU; by the whole process on a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # On Linux, getrusage tells a new process the size of the one that started it.
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
