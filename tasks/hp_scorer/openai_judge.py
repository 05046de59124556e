"""A judge behind any OpenAI-compatible server: GPT models, or Qwen3-VL served by vLLM or SGLang."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict, Field

from tasks.hp_scorer.adaptive import AdaptiveLimit
from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.prompts import Mode, Prompt

_TOP = 20
"""Alternatives asked for per token: the most that the protocol allows."""
_FILTER_CODES = ("content_filter", "content_policy_violation", "moderation_blocked", "ResponsibleAIPolicyViolation")
_IMAGE_CODES = ("invalid_image", "image_parse_error", "invalid_image_format", "image_too_large", "invalid_image_url")


class JudgeError(RuntimeError):
    """The judge cannot be used as it is set up: nothing that asking again would help."""


class GarbledError(ValueError):
    """A response that is not of the protocol's form."""


_PASSING = (openai.APIError, json.JSONDecodeError, GarbledError)
"""What may pass by itself: 5xx, cut connections, answers of no form. Errors of a request's own are caught before."""


class ServerSettings(BaseModel):
    """Which server and model, and how it is asked. The key comes by the environment, `OPENAI_API_KEY`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_url: str | None = Field(None, description="None: OPENAI_BASE_URL, or OpenAI's own.")
    model: str
    revision: str = Field("", description="Of an open model's weights; recorded, since servers do not tell.")
    temperature: float = Field(0.0, ge=0)
    seed: int | None = 0
    max_tokens: int = Field(700, ge=1, description="For answers, reason and score; a digit takes one.")
    token_field: str = Field("max_completion_tokens", description="Or max_tokens, for older servers.")
    extra_body: dict[str, Any] = Field({}, description="Sent along, such as a model's own sampling parameters.")
    timeout_seconds: float = Field(120.0, gt=0, description="Of one request.")
    tries: int = Field(6, ge=1, description="Of one request, the first included.")
    concurrency: int = Field(32, ge=1, description="Requests under way at most; fewer where the server says 429.")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one prompt."""

    outcome: Outcome
    """SCORED: there is a reply to read, which may still turn out to be unreadable."""
    text: str = ""
    tokens: Sequence[tuple[str, Mapping[str, float]]] = ()
    """Each token of the reply with the log-probabilities of its alternatives; empty where the server gave none."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tries: int = 1


@dataclass
class Spent:
    """What a judge was asked so far."""

    requests: int = 0
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refused_for_rate: int = 0
    retries: int = 0
    models: set[str] = field(default_factory=set)
    """As the server calls itself: an alias may come to mean another model."""


class OpenAIJudge:
    """A client of one server; `ask_all` is the only way in, so that the bound holds over everything."""

    def __init__(self, settings: ServerSettings, client: AsyncOpenAI | None = None) -> None:
        """A judge.

        Args:
            client: made from the settings where None; its own retries must be off.
        """
        self.settings = settings
        self.spent = Spent()
        self._client = client or AsyncOpenAI(
            base_url=settings.base_url, timeout=settings.timeout_seconds, max_retries=0
        )
        self._limit = AdaptiveLimit(settings.concurrency)
        self._random = random.Random(0)

    async def ask_all(self, prompts: Sequence[Prompt]) -> AsyncIterator[tuple[int, Answer]]:
        """Ask all prompts; answers come with their number as they arrive, in any order.

        Every prompt gets exactly one answer. Raises: JudgeError, and cancels what is under way, where the judge cannot
        be used at all.
        """
        waiting = [asyncio.ensure_future(self._ask_numbered(number, prompt)) for number, prompt in enumerate(prompts)]
        try:
            for done in asyncio.as_completed(waiting):
                yield await done
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask_numbered(self, number: int, prompt: Prompt) -> tuple[int, Answer]:
        return number, await self._ask(prompt)

    async def _ask(self, prompt: Prompt) -> Answer:
        failure = Answer(Outcome.SERVER_ERROR)
        for number in range(self.settings.tries):
            if number:
                self.spent.retries += 1
            async with self._limit.slot() as moment:
                self.spent.requests += 1
                try:
                    answer = self._read(await self._request(prompt), prompt.mode, number + 1)
                    await self._limit.fine()
                    return answer
                except openai.RateLimitError as error:
                    if _code_of(error) == "insufficient_quota":
                        raise JudgeError(f"{self.settings.model}: the account has no money left") from error
                    self._limit.too_many(moment)
                    self.spent.refused_for_rate += 1
                    failure = Answer(Outcome.RATE_LIMITED, str(error), tries=number + 1)
                    pause = _told_to_wait(error)
                except openai.APITimeoutError:
                    told = f"no answer within {self.settings.timeout_seconds:g} s"
                    failure, pause = Answer(Outcome.TIMEOUT, told, tries=number + 1), None
                except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                    return self._refused(error, number + 1)
                except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                    raise JudgeError(f"{self._client.base_url} {self.settings.model}: {error.message}") from error
                except _PASSING as error:
                    failure, pause = Answer(Outcome.SERVER_ERROR, str(error), tries=number + 1), None
            if number + 1 < self.settings.tries:
                await asyncio.sleep(self._pause(number) if pause is None else pause)
        return failure

    async def _request(self, prompt: Prompt) -> Any:
        settings = self.settings
        options: dict[str, Any] = {settings.token_field: 1 if prompt.mode is Mode.LOGIT else settings.max_tokens}
        if prompt.mode is not Mode.COT:
            options |= {"logprobs": True, "top_logprobs": _TOP}
        if (form := prompt.response_format()) is not None:
            options["response_format"] = form
        if settings.seed is not None:
            options["seed"] = settings.seed
        messages: Any = [{"role": "user", "content": prompt.content()}]
        return await self._client.chat.completions.create(
            model=settings.model,
            messages=messages,
            temperature=settings.temperature,
            extra_body=settings.extra_body or None,
            **options,
        )

    def _read(self, response: Any, mode: Mode, tries: int) -> Answer:
        """Take a response apart. Raises: openai.APIError for one without a choice, JudgeError without probabilities."""
        choices = getattr(response, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise GarbledError("an answer without a choice")
        choice, usage = choices[0], response.usage
        self.spent.answers += 1
        self.spent.prompt_tokens += usage.prompt_tokens if usage else 0
        self.spent.completion_tokens += usage.completion_tokens if usage else 0
        self.spent.models.add(str(response.model))
        counts: dict[str, Any] = {
            "prompt_tokens": usage.prompt_tokens if usage else 0,
            "completion_tokens": usage.completion_tokens if usage else 0,
            "tries": tries,
        }
        text = choice.message.content or ""
        if getattr(choice.message, "refusal", None):
            return Answer(Outcome.REFUSED, choice.message.refusal, **counts)
        if choice.finish_reason == "content_filter":
            return Answer(Outcome.FILTERED, text, **counts)
        tokens = [
            (token.token, {top.token: top.logprob for top in token.top_logprobs})
            for token in (choice.logprobs.content if choice.logprobs and choice.logprobs.content else ())
        ]
        if mode is not Mode.COT and text and not any(tops for _, tops in tokens):
            raise JudgeError(
                f"{self._client.base_url} {self.settings.model} gave no log-probabilities, which mode {mode} needs: "
                "use mode cot, or another server"
            )
        if choice.finish_reason == "length" and mode is not Mode.LOGIT:
            return Answer(Outcome.PARSE_ERROR, f"cut off after {self.settings.max_tokens} tokens: {text}", **counts)
        return Answer(Outcome.SCORED, text, tokens, **counts)

    def _refused(self, error: openai.APIStatusError, tries: int) -> Answer:
        """A request that the server will not take. Raises: JudgeError where it would take none of this form."""
        code, said = _code_of(error), str(error.message)
        if code in _FILTER_CODES or "content management policy" in said or "safety system" in said:
            return Answer(Outcome.FILTERED, said, tries=tries)
        if code in _IMAGE_CODES or "could not process image" in said.lower():
            return Answer(Outcome.IMAGE_ERROR, said, tries=tries)
        raise JudgeError(f"{self._client.base_url} {self.settings.model} takes no such requests: {said}") from error

    def _pause(self, number: int) -> float:
        """Seconds until the next try: growing, and never the same for two, or all would come back together."""
        return float(min(30.0, 0.25 * 2**number) * self._random.uniform(0.5, 1.5))


def _code_of(error: openai.APIStatusError) -> str:
    body = error.body if isinstance(error.body, Mapping) else {}
    return str(error.code or body.get("code") or "")


def _told_to_wait(error: openai.APIStatusError) -> float | None:
    """What the server says in Retry-After, in seconds; None where it says nothing sensible."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= 120 else None
