"""What rating costs: tokens, US dollars and hours, told before anything is asked."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from storage.records import EditType
from tasks.hp_scorer.rubric import Rubric
from tasks.hp_scorer.settings import LocalSettings, Mode, Price, ServerSettings, VlmConfig

_CHARACTERS_PER_TOKEN = 4
_FORM_TOKENS = 120
"""The form of the answer, the captions of the images and the instruction."""
_REASON_TOKENS = 70
_ANSWER_TOKENS = 8
_PATCH = 32
"""Qwen3-VL: a token is a square of so many pixels."""


@dataclass(frozen=True, slots=True)
class CallTokens:
    """What one call is expected to take."""

    prompt: int
    completion: int

    def dollars(self, price: Price) -> float:
        """At a price."""
        return (self.prompt * price.prompt + self.completion * price.completion) / 1e6


def tokens_of_call(config: VlmConfig, rubric: Rubric) -> CallTokens:
    """The tokens of a call, roughly: text by its length, two square images by the model's rule."""
    prompt = len(rubric.text()) // _CHARACTERS_PER_TOKEN + _FORM_TOKENS
    prompt += 2 * tokens_of_image(config.judge.model, config.image_side)
    completion = 1 if config.mode is Mode.LOGIT else _REASON_TOKENS + _ANSWER_TOKENS * (len(rubric.questions) + 1)
    return CallTokens(prompt, completion)


def tokens_of_image(model: str, side: int) -> int:
    """Of a square image.

    Source: OpenAI's rules at high detail. GPT-4o and GPT-4.1: 85, and 170 per 512 x 512 tile once the shorter side is
    at most 768; GPT-4.1 mini and nano: patches, counted 1.62 and 2.46 times. Everything else: Qwen3-VL's patches.
    """
    for small, factor in (("gpt-4.1-mini", 1.62), ("gpt-4.1-nano", 2.46)):
        if model.startswith(small):
            return math.ceil(factor * math.ceil(side / _PATCH) ** 2)
    if model.startswith(("gpt-4o", "gpt-4.1")):
        return 85 + 170 * math.ceil(min(side, 768) / 512) ** 2
    return math.ceil(side / _PATCH) ** 2


def price_of(settings: ServerSettings | LocalSettings) -> Price | None:
    """What a model's tokens cost: as set; as genai-prices lists it, for a server elsewhere; None where nobody knows."""
    if settings.where == "in_process":
        return Price(prompt=0, completion=0)
    if settings.price is not None:
        return settings.price
    base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.startswith("127."):
        return None
    from genai_prices import Usage, calc_price

    def per_million(usage: Usage) -> float:
        return float(calc_price(usage, settings.model, provider_api_url=base_url).total_price)

    try:
        return Price(prompt=per_million(Usage(input_tokens=10**6)), completion=per_million(Usage(output_tokens=10**6)))
    except LookupError:
        return None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would take."""

    calls: int
    known: int
    """Judgements that are there already and are not asked for again."""
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None
    """None where nobody knows the price."""
    hours: float | None
    """By the pace of the last run with this judge; None before the first."""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.calls:,} calls to the judge; {self.known:,} judgements are known already"
        tokens = f"about {self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        price = "price unknown (set judge.price)" if self.dollars is None else f"about ${self.dollars:,.2f}"
        pace = "hours unknown before the first run" if self.hours is None else f"about {self.hours:.2f} hours"
        yield f"{tokens}; {price}; {pace}"


def forecast(
    config: VlmConfig,
    rubrics: Mapping[EditType, Rubric],
    wanted: Mapping[EditType, int],
    known: int = 0,
    seconds_each: float | None = None,
) -> Forecast:
    """What asking costs.

    Args:
        wanted: judgements to be made, by edit type.
        known: judgements that are there already.
        seconds_each: of one judgement in an earlier run.
    """
    price = price_of(config.judge)
    calls = [(tokens_of_call(config, rubrics[edit_type]), n * config.repeats) for edit_type, n in wanted.items()]
    return Forecast(
        calls=sum(n for _, n in calls),
        known=known,
        prompt_tokens=sum(each.prompt * n for each, n in calls),
        completion_tokens=sum(each.completion * n for each, n in calls),
        dollars=None if price is None else sum(each.dollars(price) * n for each, n in calls),
        hours=None if seconds_each is None else seconds_each * sum(wanted.values()) / 3600,
    )
