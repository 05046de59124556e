"""Serving an application on loopback while something is tried, and the faults that real servers have."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

FAULTS = ("rate limited", "internal error", "hang", "reset", "garbage")


async def fault(kind: str) -> Response:
    """A response that is spoilt in one of the ways of `FAULTS`."""
    if kind == "rate limited":
        return error(429, "rate_limit_exceeded", {"retry-after": "0.05"})
    if kind == "internal error":
        return error(500, "internal_error")
    if kind == "hang":
        await asyncio.sleep(30)
        return error(504, "timeout")
    if kind == "reset":
        return Cut()
    return Response("<html>not JSON at all", media_type="application/json")


def error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as OpenAI's protocol tells it."""
    return JSONResponse({"error": {"message": code, "type": code, "code": code}}, status, dict(headers or {}))


class Cut(Response):
    """An answer that ends before it began."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError("cut on purpose")


@contextmanager
def loopback(app: FastAPI) -> Iterator[str]:
    """Serve an application while the block runs; gives its base URL, with /v1."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(10)
        with contextlib.suppress(OSError):
            listener.close()
