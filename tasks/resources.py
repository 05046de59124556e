"""How much memory a run takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass
class Peak:
    """The highest sum of resident memory seen, over a process and all that it started."""

    megabytes: float = 0.0


@contextmanager
def watch_memory(process: psutil.Process | None = None, every_seconds: float = 0.5) -> Iterator[Peak]:
    """Watch a process tree while the block runs; pages that processes share count once for each.

    Args:
        process: its root; this process by default.
    """
    root = process or psutil.Process()
    peak = Peak()
    stop = threading.Event()

    def look() -> None:
        total = 0
        for member in [root, *root.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.Error:
                continue  # it has just ended
        peak.megabytes = max(peak.megabytes, total / 1e6)

    def watch() -> None:
        while not stop.wait(every_seconds):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        look()
