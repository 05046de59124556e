"""An editor behind any server with OpenAI's protocol for edits of images: vLLM-Omni, SGLang, OpenAI's own models."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import random
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import openai
from openai import AsyncOpenAI

from storage.records import identity
from tasks.editing.interface import EditFailure, EditorError, EditTask, Picture, StreamingEditor
from tasks.editing.photographs import read_photograph
from tasks.editing.settings import RemoteEditorConfig
from tasks.images import Pixels, png
from tasks.serving.adaptive import AdaptiveLimit
from tasks.serving.asking import Cap, ask_all
from tasks.serving.faults import (
    NOT_TAKEN,
    PASSING,
    UNUSABLE,
    GarbledError,
    is_about_the_image,
    is_filtered,
    is_out_of_money,
    name_of,
    pause,
    said_by,
    told_to_wait,
)
from tasks.serving.streaming import iterate

LARGEST_ANSWER = 100_000_000
"""Bytes of an answer that are read; a picture of 2048 x 2048 pixels takes some 15 million."""


class Failure(StrEnum):
    """Why there is no picture. The reason of a row begins with it."""

    FILTERED = "filtered"
    """The server's content policy."""
    REFUSED = "refused"
    """The server will not take this request, for another reason."""
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    IMAGE_ERROR = "image_error"
    """What came is no picture, or not the one that was asked for."""
    SERVER_ERROR = "server_error"


class SpendingCapError(EditorError):
    """As much was spent as was allowed; everything that was paid for is there."""


class NoPictureError(ValueError):
    """An answer without the picture that was asked for."""


@dataclass
class Books:
    """What was asked so far."""

    requests: int = 0
    paid: int = 0
    """Answers with a picture, whether it could be read or not."""
    made: int = 0
    """Pictures that could be read."""
    failed: int = 0
    """Tasks without a picture, the filtered ones left out."""
    limit: float | None = None
    """How many requests at a time the server took last; None before the first."""


class RemoteEditor(StreamingEditor):
    """See `Editor`; `books` tells what it did."""

    def __init__(self, config: RemoteEditorConfig) -> None:
        """An editor; nothing is asked before there is something to edit."""
        self.config = config
        self.fingerprint = identity("remote", config.deciding())
        self.books = Books()
        self._random = random.Random(0)

    def edits(self, tasks: Iterable[EditTask]) -> Generator[tuple[int, Picture], None, None]:
        """See `StreamingEditor`.

        Raises: EditorError where the server cannot be used at all; SpendingCapError once everything under way
            has come.
        """
        return iterate(self._edits(tasks))

    async def _edits(self, tasks: Iterable[EditTask]) -> AsyncIterator[tuple[int, Picture]]:
        config = self.config
        try:
            client = AsyncOpenAI(base_url=config.base_url, timeout=config.timeout_seconds, max_retries=0)
        except openai.OpenAIError as error:
            raise EditorError(f"{config.model}: {error}") from error
        limit = AdaptiveLimit(config.concurrency, self.books.limit)
        try:
            edit = partial(self._edit, client, limit)
            async for answer in ask_all(tasks, edit, config.concurrency, Cap(self._beyond_cap, self._capped)):
                yield answer
        finally:
            self.books.limit = limit.limit
            await client.close()

    async def _edit(self, client: AsyncOpenAI, limit: AdaptiveLimit, task: EditTask) -> Picture:
        """One picture, or why there is none. Raises: EditorError."""
        try:
            return await self._tried(client, limit, task)
        except _FailedError as failed:
            kind, said = failed.kind, said_by(failed)
        self.books.failed += kind is not Failure.FILTERED
        most = self.config.give_up_after
        if most is not None and not self.books.made and self.books.failed >= most:
            raise EditorError(
                f"{name_of(client, self.config.model)} gave no picture for any of {self.books.failed} tasks, so it is "
                f"asked for no more (editor.give_up_after); the last failure: {kind}: {said}"
            )
        return EditFailure(f"{kind}: {said}")

    async def _tried(self, client: AsyncOpenAI, limit: AdaptiveLimit, task: EditTask) -> Pixels:
        config, source = self.config, await asyncio.to_thread(png, task.source)
        for number in range(config.tries):
            wait: float | None = None
            async with limit.slot() as moment:
                self.books.requests += 1
                try:
                    async with asyncio.timeout(config.timeout_seconds):  # of all of it: a drip of bytes counts too
                        answer = await self._request(client, task, source)
                    first = await asyncio.to_thread(_first_of, answer)
                    self.books.paid += 1
                    await limit.fine()
                    picture = await asyncio.to_thread(self._read, first, task)
                    self.books.made += 1
                    return picture
                except openai.RateLimitError as error:
                    if is_out_of_money(error):
                        raise EditorError(f"{config.model}: the account has no money left") from error
                    limit.too_many(moment)
                    failed, wait = _FailedError(Failure.RATE_LIMITED, said_by(error)), told_to_wait(error)
                except (TimeoutError, openai.APITimeoutError):
                    failed = _FailedError(Failure.TIMEOUT, f"no picture within {config.timeout_seconds:g} s")
                except NOT_TAKEN as error:
                    raise _FailedError(_kind_of(error), said_by(error)) from error
                except UNUSABLE as error:
                    wrong = "model or base_url" if isinstance(error, openai.NotFoundError) else "OPENAI_API_KEY"
                    raise EditorError(
                        f"{name_of(client, config.model)}: {said_by(error)} (is {wrong} right?)"
                    ) from error
                except NoPictureError as error:
                    raise _FailedError(Failure.IMAGE_ERROR, said_by(error)) from error
                except PASSING as error:
                    failed = _FailedError(Failure.SERVER_ERROR, said_by(error))
            if number + 1 < config.tries:
                await asyncio.sleep(pause(number, self._random) if wait is None else wait)
        raise failed

    async def _request(self, client: AsyncOpenAI, task: EditTask, source: bytes) -> bytes:
        """The body of an answer. Raises: GarbledError for one that is too long or breaks off, openai.APIError."""
        config = self.config
        options: dict[str, Any] = {"extra_body": {**config.extra_body}}
        if config.send_seed:
            options["extra_body"]["seed"] = task.seed
        if config.sends_format:
            options["response_format"] = "b64_json"
        if (size := self._size_of(task)) is not None:
            options["size"] = size
        async with client.images.with_streaming_response.edit(
            model=config.model, image=("source.png", source, "image/png"), prompt=task.instruction, n=1, **options
        ) as response:
            body = bytearray()
            parts = response.iter_bytes()
            while True:
                try:
                    part = await anext(parts, None)
                except Exception as error:  # of the transport, which the library translates only before the body
                    raise GarbledError(f"the answer broke off after {len(body)} bytes: {said_by(error)}") from error
                if part is None:
                    return bytes(body)
                body += part
                if len(body) > LARGEST_ANSWER:
                    raise NoPictureError(f"an answer of more than {LARGEST_ANSWER:,} bytes")

    def _read(self, first: Mapping[str, Any], task: EditTask) -> Pixels:
        """The picture in an answer. Raises: NoPictureError."""
        encoded = first.get("b64_json")
        if not isinstance(encoded, str):
            if first.get("url"):
                raise NoPictureError("the server gave an address, and addresses are not fetched: it must send b64_json")
            raise NoPictureError("an answer without b64_json")
        try:
            picture = read_photograph(base64.b64decode(encoded, validate=True)).pixels
        except (binascii.Error, ValueError) as error:
            raise NoPictureError(str(error)) from error
        size, found = self._size_of(task), f"{picture.shape[1]}x{picture.shape[0]}"
        if size is not None and size != found:
            raise NoPictureError(f"a picture of {found} instead of {size}; size auto takes what comes")
        return picture

    def _size_of(self, task: EditTask) -> str | None:
        """The size that is asked for; None: not told, which every server takes for auto."""
        if self.config.size == "source":
            return f"{task.source.shape[1]}x{task.source.shape[0]}"
        return None if self.config.size == "auto" else self.config.size

    def _beyond_cap(self, under_way: int) -> bool:
        """Whether one more picture, with those under way, may go beyond what is allowed."""
        config = self.config
        if config.spend_at_most is None or config.price is None:
            return False
        return (self.books.paid + under_way + 1) * config.price > config.spend_at_most

    def _capped(self) -> SpendingCapError:
        config, pictures = self.config, self.books.paid
        return SpendingCapError(
            f"{config.model}: ${pictures * (config.price or 0):.2f} spent on {pictures} pictures of this run, and "
            f"${config.spend_at_most:g} is allowed (editor.spend_at_most); they are kept, a run with a higher cap goes "
            "on from there"
        )


class _FailedError(Exception):
    """A task without a picture, on its way to its row."""

    def __init__(self, kind: Failure, said: str) -> None:
        super().__init__(said)
        self.kind = kind


def _first_of(body: bytes) -> Mapping[str, Any]:
    """The first picture's entry of an answer. Raises: GarbledError for an answer that is not of the protocol."""
    try:
        answer = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError) as error:  # numbers of many thousand digits, lists in lists in lists
        raise GarbledError(f"an answer that is no JSON: {error}") from error
    data = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(data, list) or not data or not isinstance(data[0], Mapping):
        raise GarbledError(f"an answer without a picture: {body[:200].decode(errors='replace')}")
    return data[0]


def _kind_of(error: openai.APIStatusError) -> Failure:
    """What a request was refused for."""
    if is_filtered(error):
        return Failure.FILTERED
    return Failure.IMAGE_ERROR if is_about_the_image(error) else Failure.REFUSED
