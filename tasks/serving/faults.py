"""What goes wrong between here and a server of OpenAI's protocol, and what it means."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Mapping

import openai

_FILTER_CODES = (
    "content_filter",
    "content_policy_violation",
    "moderation_blocked",
    "ResponsibleAIPolicyViolation",
    "invalid_prompt",
)
_IMAGE_CODES = ("invalid_image", "image_parse_error", "invalid_image_format", "image_too_large", "invalid_image_url")
_LONGEST = 500
"""Characters of an error that are kept: a proxy may answer with a whole page."""


class GarbledError(ValueError):
    """A response that is not of the protocol's form."""


PASSING = (openai.APIError, json.JSONDecodeError, GarbledError)
"""What may pass by itself: 5xx, cut connections, answers of no form. Errors of a request's own are caught before."""
UNUSABLE = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
"""The key, the account, the address or the model is wrong, for every request alike."""
NOT_TAKEN = (openai.BadRequestError, openai.UnprocessableEntityError)
"""This request will not be answered, however often it is sent."""


def is_filtered(error: openai.APIStatusError) -> bool:
    """Whether a request was blocked for what it holds, not for its form."""
    said = str(error.message)
    return code_of(error) in _FILTER_CODES or "content management policy" in said or "safety system" in said


def is_about_the_image(error: openai.APIStatusError) -> bool:
    """Whether the server could not read what it was sent."""
    return code_of(error) in _IMAGE_CODES or "could not process image" in str(error.message).lower()


def is_out_of_money(error: openai.APIStatusError) -> bool:
    """Whether a 429 is one that waiting does not help."""
    return code_of(error) == "insufficient_quota"


def code_of(error: openai.APIStatusError) -> str:
    """The protocol's name for an error; empty where the server gave none."""
    body = error.body if isinstance(error.body, Mapping) else {}
    return str(error.code or body.get("code") or "")


def told_to_wait(error: openai.APIStatusError) -> float | None:
    """What the server says in Retry-After, in seconds; None where it says nothing sensible."""
    try:
        seconds = float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and 0 <= seconds <= 120 else None


def said_by(error: Exception) -> str:
    """An error in one line, fit for rows and messages: some servers give the key back that they were sent."""
    said = str(getattr(error, "message", None) or error) or type(error).__name__
    if key := os.environ.get("OPENAI_API_KEY"):
        said = said.replace(key, "***")
    return " ".join(said.split())[:_LONGEST]


def name_of(client: openai.AsyncOpenAI, model: str) -> str:
    """Server and model for messages, without anything secret that the address may hold."""
    url = client.base_url
    return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}{url.path} {model}"


def pause(number: int, chance: random.Random) -> float:
    """Seconds until the next try: growing, and never the same for two, or all would come back together."""
    return float(min(30.0, 0.25 * 2**number) * chance.uniform(0.5, 1.5))
