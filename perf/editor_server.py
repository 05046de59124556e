"""A scripted editor behind OpenAI's protocol for edits of images, for tests and measurements: it darkens what it gets.

What it answers comes from a function of the request. How it serves is told: a capacity, a latency, and a share of
requests that it spoils in every way that real servers do.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image, ImageEnhance

from perf.loopback import FAULTS, error, fault, loopback


@dataclass(frozen=True)
class Asked:
    """One request."""

    fields: dict[str, str]
    """As they came: prompt, model, size, seed and whatever else was sent along."""
    image: bytes
    headers: dict[str, str]

    @property
    def name(self) -> str:
        """A hash of what was asked."""
        return hashlib.sha256(json.dumps(sorted(self.fields.items())).encode() + self.image).hexdigest()


Script = Callable[[Asked], bytes | Response]
"""From a request to the picture's bytes, or to a whole response."""


def darken(asked: Asked) -> bytes:
    """Half as bright, in the size that was asked for; the seed moves the first pixel."""
    with Image.open(io.BytesIO(asked.image)) as image:
        size = asked.fields.get("size", "auto")
        wanted = image.size if size == "auto" else tuple(map(int, size.split("x")))
        picture = ImageEnhance.Brightness(image.convert("RGB").resize((wanted[0], wanted[1]))).enhance(0.5)
    seed = int(asked.fields.get("seed", 0))
    picture.putpixel((0, 0), (seed % 256, seed // 256 % 256, 0))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


@dataclass
class Books:
    """What happened so far."""

    requests: int = 0
    under_way: int = 0
    most_under_way: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    """Pictures by what was asked: more than one is one paid twice."""


class EditorServer:
    """The server; `books` tells what it did."""

    def __init__(
        self,
        script: Script = darken,
        *,
        at_once: int | None = None,
        latency_seconds: float = 0.0,
        faults: float = 0.0,
        seed: int = 0,
    ) -> None:
        """A server.

        Args:
            at_once: requests under way at most; the next is refused with 429.
            latency_seconds: of each answer.
            faults: share of requests that are spoilt.
        """
        self.books = Books()
        self._script, self._at_once, self._latency, self._faults = script, at_once, latency_seconds, faults
        self._random = random.Random(seed)
        self.app = FastAPI()
        self.app.post("/v1/images/edits")(self._answer)

    async def _answer(self, request: Request) -> Response:
        asked = _asked(request.headers, await request.body())
        books = self.books
        books.requests += 1
        if self._random.random() < self._faults:
            kind = self._random.choice(FAULTS)
            books.faults[kind] += 1
            return await fault(kind)
        if self._at_once is not None and books.under_way >= self._at_once:
            books.faults["too many"] += 1
            return error(429, "rate_limit_exceeded", {"retry-after": "0.02"})
        books.under_way += 1
        books.most_under_way = max(books.most_under_way, books.under_way)
        try:
            await asyncio.sleep(self._latency)
            said = self._script(asked)
        finally:
            books.under_way -= 1
        if isinstance(said, Response):
            return said
        books.delivered[asked.name] += 1
        return answer(said)


def answer(picture: bytes) -> Response:
    """A picture as the protocol gives it."""
    data = [{"b64_json": base64.b64encode(picture).decode(), "url": None, "revised_prompt": None}]
    return JSONResponse({"created": int(time.time()), "data": data})


def _asked(headers: Any, body: bytes) -> Asked:
    """A form taken apart by Python's own parser of MIME: FastAPI's would be one more library."""
    whole = b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
    form, image = {}, b""
    for part in BytesParser(policy=HTTP).parsebytes(whole).iter_parts():
        name, data = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
        assert isinstance(data, bytes)
        if part.get_filename():
            image = data
        else:
            form[str(name)] = data.decode()
    return Asked(form, image, dict(headers))


@contextmanager
def editor_server(script: Script = darken, **options: Any) -> Iterator[tuple[str, EditorServer]]:
    """Run a server on loopback while the block runs; gives its base URL and the server."""
    editor = EditorServer(script, **options)
    with loopback(editor.app) as url:
        yield url, editor
