"""A judge behind any OpenAI-compatible server: GPT models, or Qwen3-VL served by vLLM or SGLang."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from typing import Any

import openai
from openai import AsyncOpenAI

from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.judge import Answer, JudgeError, SpendingCapError, Spent
from tasks.hp_scorer.prices import CallTokens, price_of
from tasks.hp_scorer.prompts import Prompt
from tasks.hp_scorer.settings import Mode, ServerSettings
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
    told_to_wait,
)

_TOP = 20
"""Alternatives asked for per token: the most that the protocol allows."""
_UNKNOWN_CALL = CallTokens(prompt=4000, completion=700)
"""What a call is taken to cost before the first answer: rather too much."""


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
        try:
            self._client = client or AsyncOpenAI(
                base_url=settings.base_url, timeout=settings.timeout_seconds, max_retries=0
            )
        except openai.OpenAIError as error:
            raise JudgeError(f"{settings.model}: {error}") from error
        self._limit = AdaptiveLimit(settings.concurrency, self.spent.limit)
        self._random = random.Random(0)

    def ask_all(self, prompts: Iterable[Prompt]) -> AsyncIterator[tuple[int, Answer]]:
        """Ask all prompts, see `tasks.serving.asking`.

        Raises: JudgeError where the judge cannot be used at all; SpendingCapError once everything under way has been
        answered.
        """
        return ask_all(prompts, self._ask, self.settings.concurrency, Cap(self._beyond_cap, self._capped))

    async def close(self) -> None:
        """Close the connections."""
        self.spent.limit = self._limit.limit
        await self._client.close()

    @property
    def _name(self) -> str:
        return name_of(self._client, self.settings.model)

    def _beyond_cap(self, under_way: int) -> bool:
        """Whether one more request, with those under way, may go beyond what is allowed."""
        if self.settings.spend_at_most is None:
            return False
        assert self._price is not None
        spent, so_far = self.spent, self._dollars()
        each = so_far / spent.answers if spent.answers else _UNKNOWN_CALL.dollars(self._price)
        return so_far + (under_way + 1) * each > self.settings.spend_at_most

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
                    if is_out_of_money(error):
                        raise JudgeError(f"{self.settings.model}: the account has no money left") from error
                    self._limit.too_many(moment)
                    self.spent.refused_for_rate += 1
                    failure = Answer(Outcome.RATE_LIMITED, str(error), tries=number + 1)
                    wait = told_to_wait(error)
                except openai.APITimeoutError:
                    told = f"no answer within {self.settings.timeout_seconds:g} s"
                    failure, wait = Answer(Outcome.TIMEOUT, told, tries=number + 1), None
                except NOT_TAKEN as error:
                    return self._refused(error, number + 1)
                except UNUSABLE as error:
                    raise JudgeError(f"{self._name}: {error.message}") from error
                except PASSING as error:
                    failure, wait = Answer(Outcome.SERVER_ERROR, str(error), tries=number + 1), None
            if number + 1 < self.settings.tries:
                await asyncio.sleep(pause(number, self._random) if wait is None else wait)
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
        said = str(error.message)
        if is_filtered(error):
            return Answer(Outcome.FILTERED, said, tries=tries)
        if is_about_the_image(error):
            return Answer(Outcome.IMAGE_ERROR, said, tries=tries)
        if self.spent.answers:  # others of the same form were answered: it is this one
            return Answer(Outcome.SERVER_ERROR, said, tries=tries)
        raise JudgeError(f"{self._name} takes no such requests: {said}") from error
