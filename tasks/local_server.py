"""A Prefect server for one command: `python -m tasks.local_server -- COMMAND`, or until Ctrl-C without a command.

It keeps its database in the project (`runs/prefect`), listens on loopback only, and stops with the command.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOME = Path("runs/prefect")
PORT = 4200
UI = f"http://127.0.0.1:{PORT}"
"""Where `make ui` shows the runs."""
_SERVED_BY = "HP_EDIT_SERVED_BY"
START_SECONDS = 120
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    # A single user and one process: what a team's server does every few seconds only takes time from the work.
    "PREFECT_CLIENT_METRICS_ENABLED": "false",
}


def server_environment(home: Path, port: int) -> dict[str, str]:
    """What makes a process use this server and its database."""
    home = home.absolute()
    return QUIET | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        _SERVED_BY: str(os.getpid()),
    }


def root_of_run() -> int:
    """The process that started the server and this command, whose children together are the run; else this process."""
    return int(os.environ.get(_SERVED_BY, os.getpid()))


@contextmanager
def local_server(home: Path = HOME, port: int | None = None) -> Iterator[dict[str, str]]:
    """Run a server while the block runs; gives the environment in which commands use it.

    Raises: RuntimeError with the server's last words where it does not start.
    """
    home.mkdir(parents=True, exist_ok=True)
    with held_port(port) as port:
        yield from _served(home, port)


def _served(home: Path, port: int) -> Iterator[dict[str, str]]:
    environment = os.environ | server_environment(home, port)
    log_path = home / "server.log"
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_healthy(server, environment["PREFECT_API_URL"], log_path)
            yield environment
        finally:
            _stop(server)


@contextmanager
def held_port(wanted: int | None = None) -> Iterator[int]:
    """The usual port if nobody has it, else any; ours as long as the block runs.

    A server takes seconds to listen. Until then the port looks free, and a second one, started meanwhile, would find
    the first in its place and work on its database: so the port is also held by a lock.

    Args:
        wanted: this port and no other.

    Raises: RuntimeError where it is taken.
    """
    for port in (wanted,) if wanted else (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            number = int(probe.getsockname()[1])
        with (Path(tempfile.gettempdir()) / f"hp-edit-{os.getuid()}-port-{number}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield number
            return
    raise RuntimeError(f"port {wanted} of 127.0.0.1 is taken" if wanted else "no free port on 127.0.0.1")


def _wait_until_healthy(server: subprocess.Popen[bytes], api: str, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    tail = log_path.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the Prefect server did not start within {START_SECONDS} s; the end of {log_path}:\n{tail}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    os.killpg(server.pid, signal.SIGTERM)
    try:
        server.wait(15)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def main() -> int:
    """The command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: the server stops too
    command = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    with local_server(port=None if command else PORT) as environment:
        if command:
            return subprocess.call(command, env=environment)
        print(f"Prefect UI: {UI}/v2/runs  artifacts: {UI}/v2/artifacts  (Ctrl-C stops)", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
