"""A judge behind any OpenAI-compatible server: GPT models, or Qwen3-VL served by vLLM or SGLang."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import openai
from openai import AsyncOpenAI

from tasks.hp_scorer.adaptive import AdaptiveLimit
from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.judge import Answer, JudgeError, SpendingCapError, Spent
from tasks.hp_scorer.prices import CallTokens, price_of
from tasks.hp_scorer.prompts import Prompt
from tasks.hp_scorer.settings import Mode, ServerSettings

_TOP = 20
"""Alternatives asked for per token: the most that the protocol allows."""
_FILTER_CODES = (
    "content_filter",
    "content_policy_violation",
    "moderation_blocked",
    "ResponsibleAIPolicyViolation",
    "invalid_prompt",
)
_IMAGE_CODES = ("invalid_image", "image_parse_error", "invalid_image_format", "image_too_large", "invalid_image_url")


class GarbledError(ValueError):
    """A response that is not of the protocol's form."""


_UNKNOWN_CALL = CallTokens(prompt=4000, completion=700)
"""What a call is taken to cost before the first answer: rather too much."""
_PASSING = (openai.APIError, json.JSONDecodeError, GarbledError)
"""What may pass by itself: 5xx, cut connections, answers of no form. Errors of a request's own are caught before."""


class OpenAIJudge:
    """A client of one server; `ask_all` is the only way in, so that the bound holds over everything."""

    def __init__(self, settings: ServerSettings, spent: Spent | None = None, client: AsyncOpenAI | None = None) -> None:
        """A judge.

        Args:
            spent: what was spent before and counts towards the cap; goes on from there.
            client: made from the settings where None; its own retries must be off.

        Raises: JudgeError for a spending cap on a model whose price nobody knows.
        """
        self.settings = settings
        self.spent = spent or Spent()
        self._price = price_of(settings)
        if settings.spend_at_most is not None and self._price is None:
            raise JudgeError(f"{settings.model}: spend_at_most is set, but no price is known: set judge.price")
        self._under_way = 0
        self._answered = asyncio.Event()
        """Set whenever a request is under way no more."""
        try:
            self._client = client or AsyncOpenAI(
                base_url=settings.base_url, timeout=settings.timeout_seconds, max_retries=0
            )
        except openai.OpenAIError as error:
            raise JudgeError(f"{settings.model}: {error}") from error
        self._limit = AdaptiveLimit(settings.concurrency, self.spent.limit)
        self._random = random.Random(0)

    async def ask_all(self, prompts: Iterable[Prompt]) -> AsyncIterator[tuple[int, Answer]]:
        """Ask all prompts; answers come with their number as they arrive, in any order.

        Prompts are taken as they are needed, in a thread. Every prompt gets exactly one answer. Raises: JudgeError
        where the judge cannot be used at all, cancelling what is under way; SpendingCapError once everything under way
        has been answered.
        """
        numbered = enumerate(prompts)
        taking = asyncio.Lock()
        answers: asyncio.Queue[tuple[int, Answer] | None] = asyncio.Queue()

        async def work() -> None:
            while True:
                async with taking:
                    if (one := await asyncio.to_thread(next, numbered, None)) is None:
                        return
                    while self._under_way and self._beyond_cap():
                        # What is under way may turn out cheaper than it was taken for.
                        self._answered.clear()
                        await self._answered.wait()
                    if self._beyond_cap():  # and everything asked is answered
                        raise self._capped()
                    self._under_way += 1
                answers.put_nowait((one[0], await self._ask(one[1])))
                self._under_way -= 1
                self._answered.set()

        async def work_all() -> None:
            try:
                await _finish([asyncio.ensure_future(work()) for _ in range(self.settings.concurrency)])
            finally:
                answers.put_nowait(None)

        working = asyncio.ensure_future(work_all())
        try:
            while (answer := await answers.get()) is not None:
                yield answer
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def close(self) -> None:
        """Close the connections."""
        self.spent.limit = self._limit.limit
        await self._client.close()

    @property
    def _name(self) -> str:
        """For messages: server and model, without anything secret that the address may hold."""
        url = self._client.base_url
        return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path} {self.settings.model}"

    def _beyond_cap(self) -> bool:
        """Whether one more request, with those under way, may go beyond what is allowed."""
        if self.settings.spend_at_most is None:
            return False
        assert self._price is not None
        spent, so_far = self.spent, self._dollars()
        each = so_far / spent.answers if spent.answers else _UNKNOWN_CALL.dollars(self._price)
        return so_far + (self._under_way + 1) * each > self.settings.spend_at_most

    def _capped(self) -> SpendingCapError:
        return SpendingCapError(
            f"{self.settings.model}: ${self._dollars():.2f} spent in {self.spent.answers} answers of this run, and "
            f"${self.settings.spend_at_most:g} is allowed (judge.spend_at_most); what was answered is kept, a run with "
            "a higher cap goes on from there"
        )

    def _dollars(self) -> float:
        """Spent so far."""
        assert self._price is not None
        return CallTokens(self.spent.prompt_tokens, self.spent.completion_tokens).dollars(self._price)

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
                    raise JudgeError(f"{self._name}: {error.message}") from error
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
            options["seed"] = settings.seed + prompt.repeat
        if settings.temperature is not None:
            options["temperature"] = settings.temperature
        messages: Any = [{"role": "user", "content": prompt.content()}]
        return await self._client.chat.completions.create(
            model=settings.model,
            messages=messages,
            extra_body=settings.extra_body or None,
            **options,
        )

    def _read(self, response: Any, mode: Mode, tries: int) -> Answer:
        """Take a response apart. Raises: openai.APIError for one without a choice, JudgeError without probabilities."""
        choices = getattr(response, "choices", None)
        if not choices or getattr(choices[0], "message", None) is None:
            raise GarbledError("an answer without a choice")
        choice, usage = choices[0], response.usage
        if usage is None and self.settings.spend_at_most is not None:
            raise JudgeError(f"{self._name} does not tell what it used, so spend_at_most cannot be kept: unset it")
        self.spent.answers += 1
        self.spent.prompt_tokens += usage.prompt_tokens if usage else 0
        self.spent.completion_tokens += usage.completion_tokens if usage else 0
        self.spent.models.add(str(response.model))
        counts: dict[str, Any] = {
            "model": str(response.model or ""),
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
            (token.token, {top.token: top.logprob for top in token.top_logprobs or ()})
            for token in (choice.logprobs.content if choice.logprobs and choice.logprobs.content else ())
        ]
        if mode is not Mode.COT and text and not any(tops for _, tops in tokens):
            raise JudgeError(
                f"{self._name} gave no log-probabilities, which mode {mode} needs: use mode cot, or another server"
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
        if self.spent.answers:  # others of the same form were answered: it is this one
            return Answer(Outcome.SERVER_ERROR, said, tries=tries)
        raise JudgeError(f"{self._name} takes no such requests: {said}") from error

    def _pause(self, number: int) -> float:
        """Seconds until the next try: growing, and never the same for two, or all would come back together."""
        return float(min(30.0, 0.25 * 2**number) * self._random.uniform(0.5, 1.5))


async def _finish(workers: list[asyncio.Future[None]]) -> None:
    """Wait for workers; an error of one ends them all."""
    try:
        for worker in asyncio.as_completed(workers):
            await worker
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


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
