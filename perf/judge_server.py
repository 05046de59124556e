"""A scripted judge behind the real OpenAI protocol, for tests and measurements: a stand-in, never a judge of anything.

What it says comes from a function of the request. How it serves is told: a capacity, a latency, and a share of requests
that it spoils in every way that real servers do.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from perf.loopback import FAULTS, error, fault, loopback


@dataclass(frozen=True)
class Digit:
    """A reply of one digit, with the probabilities of all of them."""

    shares: Mapping[str, float]

    @classmethod
    def of_score(cls, score: float) -> Digit:
        """A digit whose expected value is a score from 0 to 5: the two nearest ones share it."""
        low = min(int(score), 4)
        return cls({str(low): 1 - (score - low), str(low + 1): score - low})


Script = Callable[[Mapping[str, Any]], str | Digit | Response]
"""From a request's body to what is replied: a text, a digit, or a whole response."""


@dataclass
class Books:
    """What happened so far."""

    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    """Good answers by what was asked, a hash of the messages: more than one is one paid twice."""
    first: float = 0.0
    last: float = 0.0


class JudgeServer:
    """The server; `books` tells what it did."""

    def __init__(
        self,
        script: Script,
        *,
        per_second: float = math.inf,
        latency_seconds: float = 0.0,
        queue: int = 64,
        faults: float = 0.0,
        logprobs: bool = True,
        seed: int = 0,
    ) -> None:
        """A server.

        Args:
            per_second: requests that it can answer; one after the other, as a full accelerator does.
            latency_seconds: from a request's turn to its answer.
            queue: requests that wait for their turn at most; the next is refused with 429.
            faults: share of requests that are spoilt.
            logprobs: off, it ignores that they are asked for and says nothing, as some servers do.
        """
        self.books = Books()
        self._script, self._logprobs = script, logprobs
        self._gap, self._latency = 1 / per_second, latency_seconds
        self._queue, self._faults = queue, faults
        self._random = random.Random(seed)
        self._turn = 0.0
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self._answer)

    async def _answer(self, request: Request) -> Response:
        body = await request.json()
        books = self.books
        books.requests += 1
        books.first = books.first or time.monotonic()
        if self._random.random() < self._faults:
            return await self._spoil(self._random.choice(FAULTS))
        now = time.monotonic()
        if math.isfinite(1 / self._gap if self._gap else math.inf):
            if self._turn - now > self._queue * self._gap:
                return error(429, "rate_limit_exceeded", {"retry-after": f"{self._queue * self._gap / 2:.3f}"})
            self._turn = max(self._turn, now) + self._gap
            await asyncio.sleep(self._turn - now + self._latency)
        elif self._latency:
            await asyncio.sleep(self._latency)
        said = self._script(body)
        if isinstance(said, Response):
            return said
        books.delivered[hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()] += 1
        books.last = time.monotonic()
        return JSONResponse(self._completion(body, said))

    async def _spoil(self, kind: str) -> Response:
        self.books.faults[kind] += 1
        return await fault(kind)

    def _completion(self, body: Mapping[str, Any], said: str | Digit) -> dict[str, Any]:
        if isinstance(said, Digit):
            text = max(said.shares, key=lambda digit: said.shares[digit])
            tokens = [_token(text, said.shares)]
        else:
            text = said
            tokens = [_token(part, _shares(part)) for part in re.findall(r"\d|[^\d]+", text)]
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": {"content": tokens} if self._logprobs and body.get("logprobs") else None,
        }
        return {
            "id": "scripted",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 900, "completion_tokens": len(text) // 4 + 1, "total_tokens": 0},
        }


def _shares(text: str) -> dict[str, float]:
    """How probable a token and its alternatives are: of a digit .8, the rest with its neighbours."""
    if len(text) != 1 or text not in "012345":
        return {text: 1.0}
    neighbours = [n for n in (int(text) - 1, int(text) + 1) if 0 <= n <= 5]
    return {text: 0.8} | {str(n): 0.2 / len(neighbours) for n in neighbours}


def _token(text: str, shares: Mapping[str, float]) -> dict[str, Any]:
    """A token with its alternatives."""
    tops = [{"token": t, "logprob": math.log(share), "bytes": None} for t, share in shares.items() if share > 0]
    return {"token": text, "logprob": math.log(shares[text]), "bytes": None, "top_logprobs": tops}


@contextmanager
def judge_server(script: Script, **options: Any) -> Iterator[tuple[str, JudgeServer]]:
    """Run a server on loopback while the block runs; gives its base URL and the server."""
    judge = JudgeServer(script, **options)
    with loopback(judge.app) as url:
        yield url, judge
