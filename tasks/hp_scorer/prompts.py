"""What a judge is sent: rubric, source, instruction, edited image, in this order.

All samples of one case share everything before the edited image, so a server that caches prefixes computes it once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from storage.records import identity
from tasks.hp_scorer.replies import reply_schema
from tasks.hp_scorer.rubric import Rubric
from tasks.hp_scorer.settings import Mode
from tasks.images import data_uri

CODE_VERSION = "prompt-1"
"""Declared by hand: part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a judge."""

    rubric: Rubric
    mode: Mode
    instruction: str
    source: bytes
    edited: bytes
    image_kind: str
    """"png" or "jpeg"."""
    repeat: int = 0
    """Which time the same is asked: a judge that draws at random draws anew."""

    @property
    def questions(self) -> tuple[str, ...]:
        """The names of the questions that the reply must answer."""
        return tuple(question.name for question in self.rubric.questions)

    def content(self) -> list[dict[str, Any]]:
        """The message's parts, in the form of the OpenAI protocol."""
        return [
            _text(self.rubric.text() + "\n\n" + _FORM[self.mode is Mode.LOGIT]),
            _text("The source image:"),
            self._image(self.source),
            # As a JSON string: wherever the instruction ends, it is what was quoted.
            _text(f"The instruction that was given, quoted: {json.dumps(self.instruction, ensure_ascii=False)}"),
            _text("The edited image:"),
            self._image(self.edited),
            _text("Your score, one digit:" if self.mode is Mode.LOGIT else "Your verdict, as one JSON object:"),
        ]

    def response_format(self) -> dict[str, Any] | None:
        """The schema that the reply must follow; None for a single digit."""
        if self.mode is Mode.LOGIT:
            return None
        schema = reply_schema(self.questions)
        return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}

    def _image(self, data: bytes) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": data_uri(data, self.image_kind), "detail": "high"}}


def form_fingerprint(mode: Mode) -> str:
    """The identity of everything in a prompt that is not the rubric, the images and the instruction."""
    return identity(CODE_VERSION, mode, _FORM[mode is Mode.LOGIT])


_FORM = {
    True: "Answer the questions for yourself. Then reply with one digit from 0 to 5 and nothing else.",
    False: (
        'Reply with one JSON object and nothing else: {"answers": {<question>: "yes" or "no", for every question}, '
        '"reason": <one or two sentences>, "score": <whole number from 0 to 5>}'
    ),
}
"""By whether only a digit is wanted."""


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
