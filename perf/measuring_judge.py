"""A scripted judge that can be calibrated: it reads the questions out of the prompt and answers them by measuring.

It stands in for a vision-language model behind the real protocol. Like the stand-in judge it understands no language:
questions it knows by their wording, and what is asked of which image it was told beforehand. Asked by general criteria
alone it has a vague impression; every question that it is asked it goes into.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi.responses import JSONResponse, Response

from perf.judge_server import Digit
from storage.records import EditType
from tasks.hp_scorer.contract import EditTriplet
from tasks.hp_scorer.measured import MeasuredScorer
from tasks.hp_scorer.question_bank import answerable
from tasks.hp_scorer.rubric import RubricQuestion
from tasks.images import Pixels, decode
from tasks.miniature.recogniser import SpriteRecogniser

_QUESTIONS = re.compile(r"Questions, each to be answered yes or no:\n((?:- .*\n?)*)")
_QUESTION = re.compile(r"- ([a-z0-9_]+): (.+)")
_QUOTED = re.compile(r'quoted: (".*")$')


class MeasuringJudge:
    """The script of a judge server, see `perf.judge_server.Script`."""

    def __init__(self) -> None:
        """A judge that knows nothing yet."""
        self._known: dict[str, EditTriplet] = {}
        self._recogniser = SpriteRecogniser()
        self._lock = threading.Lock()
        self.asked: set[str] = set()
        """The wordings of all questions that it was asked."""

    def tell(self, triplets: Iterable[EditTriplet]) -> None:
        """Tell it the annotations of images: which object is where, and what an instruction means."""
        with self._lock:
            for triplet in triplets:
                self._known[_key(triplet.source, triplet.instruction)] = replace(triplet, edited=None)

    def __call__(self, body: Mapping[str, Any]) -> str | Digit | Response:
        """Answer a request."""
        parts = body["messages"][0]["content"]
        texts = [part["text"] for part in parts if part["type"] == "text"]
        source, edited = (_pixels(part["image_url"]["url"]) for part in parts if part["type"] == "image_url")
        instruction = next(json.loads(match[1]) for text in texts if (match := _QUOTED.search(text)))
        known = self._known.get(_key(source, instruction))
        if known is None:
            return JSONResponse({"error": {"message": "an image it was not told of", "code": "invalid_image"}}, 400)
        questions = _questions(texts[0])
        self.asked |= {question.text for question in questions}
        asked = dict.fromkeys(EditType, ()) | {known.edit_type: answerable(known.edit_type, questions)}
        scorer = MeasuredScorer(self._recogniser, asked, integer=False)
        (judgement,) = scorer.score([replace(known, edited=edited)])
        assert judgement.score is not None
        if body.get("logprobs") and "response_format" not in body:
            return Digit.of_score(judgement.score)
        answers = {q.name: "yes" if judgement.answers[q.text] >= 0.5 else "no" for q in questions}
        return json.dumps({"answers": answers, "reason": "measured", "score": int(judgement.score + 0.5)})


def _questions(rubric: str) -> Sequence[RubricQuestion]:
    """The questions that stand in a rubric's text."""
    found = _QUESTIONS.search(rubric)
    return [RubricQuestion(name=n, text=t) for n, t in _QUESTION.findall(found[1])] if found else []


def _pixels(address: str) -> Pixels:
    return decode(base64.b64decode(address.partition("base64,")[2]))


def _key(source: Pixels, instruction: str) -> str:
    return hashlib.sha256(source.tobytes() + instruction.encode()).hexdigest()
