"""A proxy on loopback that spoils a share of the requests to an S3 server, in every way that networks know."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("internal error", "slow down", "reset", "answer lost", "hang")
"""internal error: 500; slow down: 503; reset: cut off before the server hears of it; answer lost: cut off after the
server did it, so that a repeated conditional write finds its own object; hang: no answer."""
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-authorization"}
_ERRORS = {"internal error": (500, "InternalError"), "slow down": (503, "SlowDown")}


class FaultyProxy:
    """The proxy; `share` may be changed while it runs."""

    def __init__(self, target: str, share: float, seed: int = 0, hang_seconds: float = 4.0) -> None:
        """A proxy before the server at `target` that spoils a `share` of the requests."""
        self.target = urlsplit(target)
        self.share = share
        self.hang_seconds = hang_seconds
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def draw(self) -> str | None:
        """The fault of the next request, if any."""
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return None
            fault = self._random.choice(FAULTS)
            self.faults[fault] += 1
            return fault


@contextmanager
def faulty_proxy(
    target: str, share: float, seed: int = 0, hang_seconds: float = 4.0
) -> Iterator[tuple[str, FaultyProxy]]:
    """Run a proxy while the block runs; gives its address and the proxy."""
    proxy = FaultyProxy(target, share, seed, hang_seconds)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: faults are counted."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.draw()
        if fault in _ERRORS:
            self._fail(*_ERRORS[fault])
        elif fault == "reset":
            self._cut()
        elif fault == "hang":
            time.sleep(self.proxy.hang_seconds)
            self._cut()
        else:
            status, headers, answer = self._forward(body)
            if fault == "answer lost":
                self._cut()
            else:
                self._answer(status, headers, answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.target.hostname or "", self.proxy.target.port, timeout=60)
        try:
            # The signature covers the host that the client named, so that header goes on as it came.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        told_length = False
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                told_length |= name.lower() == "content-length"
                self.send_header(name, value)
        if not told_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body)

    def _cut(self) -> None:
        """Reset the connection, as a dying machine does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        # The base class flushes and closes these; on a closed socket that would only print an error.
        self.wfile = self.rfile = _Closed()  # type: ignore[assignment]


class _Closed:
    closed = True

    def flush(self) -> None: ...
    def close(self) -> None: ...
