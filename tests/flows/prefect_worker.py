"""A real worker of a real work pool, for as long as a test needs it."""

import signal
import subprocess
import sys
from contextlib import contextmanager

import psutil


@contextmanager
def worker(environment, pool, log, *options):
    """A worker, which is stopped at the end if it still runs."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, *options]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
