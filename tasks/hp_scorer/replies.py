"""What a judge said, taken at its word or not at all: exactly one valid object, everything in range, nothing beside."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.hp_scorer.contract import BEST, Outcome

_REFUSAL = re.compile(
    r"^\W*(i['’]?m (very |so )?sorry|sorry|i apologi[sz]e|unfortunately,? i"
    r"|i (can['’]?t|cannot|can not|am unable|won['’]?t)"
    r"|as an ai|es tut mir leid|lo siento|je suis désolé|desculpe|对不起|抱歉|申し訳|죄송)",
    re.IGNORECASE,
)
"""How refusals begin where the server does not say so itself."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply taken apart."""

    outcome: Outcome
    score: float | None = None
    answers: Mapping[str, float] | None = None
    """1 for yes, 0 for no, by question."""
    reason: str = ""
    """The judge's, or why there is no score."""


def reply_schema(questions: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a reply. The score comes last, so that it follows from what was said before it."""
    answer = {"type": "string", "enum": ["yes", "no"]}
    return {
        "type": "object",
        "properties": {
            "answers": {
                "type": "object",
                "properties": dict.fromkeys(questions, answer),
                "required": list(questions),
                "additionalProperties": False,
            },
            "reason": {"type": "string"},
            "score": {"type": "integer", "minimum": 0, "maximum": int(BEST)},
        },
        "required": ["answers", "reason", "score"],
        "additionalProperties": False,
    }


def read_reply(text: str, questions: Sequence[str]) -> Reply:
    """Read the reply of a judge that was asked for `reply_schema`.

    Anything but one object of that form is a failure with its reason; a number is never guessed.

    Args:
        questions: the names of the questions that were asked; each must be answered, and no other.
    """
    stripped = text.strip()
    if not stripped:
        return Reply(Outcome.PARSE_ERROR, reason="empty reply")
    if "{" not in stripped and _REFUSAL.match(stripped):
        return Reply(Outcome.REFUSED, reason=stripped)
    try:
        value = json.loads(stripped, object_pairs_hook=_without_doubles, parse_constant=_no_constant)
        return _checked(value, questions)
    except (ValueError, RecursionError) as error:
        return Reply(Outcome.PARSE_ERROR, reason=str(error))


def _checked(value: Any, questions: Sequence[str]) -> Reply:
    """Raises: ValueError that says what is wrong."""
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object")
    _check_keys("the object", value, ("answers", "reason", "score"))
    answers, reason, score = value["answers"], value["reason"], value["score"]
    if not isinstance(answers, dict):
        raise ValueError("answers is not an object")
    _check_keys("answers", answers, questions)
    for name, answer in answers.items():
        if answer not in ("yes", "no"):
            raise ValueError(f"answer {name!r} is {answer!r}, not yes or no")
    if not isinstance(reason, str):
        raise ValueError("reason is not a text")
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise ValueError(f"score {score!r} is not a number")
    if not math.isfinite(score) or score != int(score) or not 0 <= score <= BEST:
        raise ValueError(f"score {score!r} is not one of 0 to {int(BEST)}")
    return Reply(
        Outcome.SCORED, float(score), {name: float(answer == "yes") for name, answer in answers.items()}, reason
    )


def _check_keys(what: str, value: Mapping[str, Any], wanted: Sequence[str]) -> None:
    if set(value) != set(wanted):
        missing, extra = sorted(set(wanted) - set(value)), sorted(set(value) - set(wanted))
        raise ValueError(f"{what}: missing {missing}, unexpected {extra}")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError(f"a key stands twice: {sorted(name for name in names if names.count(name) > 1)[0]!r}")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")
