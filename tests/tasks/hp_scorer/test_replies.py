"""The torture set: replies that judges really give, each of which ends as the right score or the right failure."""

import json

import pytest

from tasks.hp_scorer.contract import Outcome
from tasks.hp_scorer.replies import read_reply, reply_schema

QUESTIONS = ("gone", "rest_kept")
GOOD = {"answers": {"gone": "yes", "rest_kept": "no"}, "reason": "a ghost is left", "score": 3}


def said(**changes):
    return json.dumps({**GOOD, **changes}, ensure_ascii=False)


SCORED = {
    "plain": (said(), 3),
    "zero": (said(score=0), 0),
    "five": (said(score=5), 5),
    "whole float": (said(score=4.0), 4),
    "with space around": (f"\n  {said()}\n", 3),
    "pretty printed": (json.dumps(GOOD, indent=2), 3),
    "other order of keys": (json.dumps(dict(reversed(GOOD.items()))), 3),
    "numbers in the reason": (said(reason="I would give 5/5 but 2 ghosts are left, 85/10"), 3),
    "braces in the reason": (said(reason='it says {"score": 5} on the wall'), 3),
    "an injected score in the reason": (said(reason="the image says: score 5"), 3),
    "a quote in the reason": (said(reason='the "cup" is gone'), 3),
    "a reason in another language": (said(reason="Tasse ist weg, 背景保持不变"), 3),
    "an empty reason": (said(reason=""), 3),
    "escapes": (said(reason="line\nbreak\ttab"), 3),
    "a refusal's words in the reason": (said(reason="I'm sorry to say that a ghost is left"), 3),
}
REFUSED = [
    "I'm sorry, but I can't help with judging people in images.",
    "I’m very sorry, I cannot assist with that.",
    "Sorry, I can't rate this image.",
    "I cannot evaluate images of real people.",
    "I can't determine who is in the picture.",
    "I am unable to view images.",
    "I apologize, but this content is against my guidelines.",
    "As an AI language model, I do not see images.",
    "Unfortunately, I cannot process this request. Score: 5",
    "对不起，我无法评价这张图片。",
    "Es tut mir leid, dabei kann ich nicht helfen.",
    "Lo siento, no puedo ayudar con eso.",
    "Je suis désolé, je ne peux pas évaluer cette image.",
]
UNREADABLE = {
    "empty": "",
    "blank": " \n\t ",
    "a number": "5",
    "a quoted number": '"5"',
    "a fraction": "4/5",
    "out of ten": "8/10 and 9/10",
    "out of range of anything": "85/10",
    "bold": "**Score: 5**",
    "prose": "The edit is very good. I would give it a 5.",
    "prose in another language": "编辑得很好，我给五分。",
    "prose before": f"Here is my verdict: {said()}",
    "prose after": f"{said()} I hope this helps!",
    "prose with braces": "The result {looks good} and deserves 5.",
    "fenced": f"```json\n{said()}\n```",
    "thinking first": f"<think>the cup is gone</think>{said()}",
    "truncated": said()[:-9],
    "truncated by reasoning": '{"answers": {"gone": "yes", "rest_kept": "no"}, "reason": "first I look at',
    "two objects": f"{said(score=1)}\n{said(score=5)}",
    "a list of one": f"[{said()}]",
    "null": "null",
    "true": "true",
    "NaN": said().replace("3}", "NaN}"),
    "infinity": said().replace("3}", "Infinity}"),
    "minus": said(score=-1),
    "six": said(score=6),
    "eighty-five": said(score=85),
    "half points": said(score=4.5),
    "a score as text": said(score="5"),
    "a score as a fraction in text": said(score="4/5"),
    "a score in words": said(score="five"),
    "true as a score": said(score=True),
    "null as a score": said(score=None),
    "a list as a score": said(score=[5]),
    "a huge number": said().replace("3}", "1e999}"),
    "no score": json.dumps({k: v for k, v in GOOD.items() if k != "score"}),
    "no answers": json.dumps({k: v for k, v in GOOD.items() if k != "answers"}),
    "no reason": json.dumps({k: v for k, v in GOOD.items() if k != "reason"}),
    "wrong key": said().replace('"score"', '"scores"'),
    "a key in capitals": said().replace('"score"', '"Score"'),
    "a key too many": said(confidence=0.9),
    "the score twice": said().replace('"score": 3', '"score": 1, "score": 5'),
    "an answer missing": said(answers={"gone": "yes"}),
    "an answer too many": said(answers={"gone": "yes", "rest_kept": "no", "pretty": "yes"}),
    "a maybe": said(answers={"gone": "maybe", "rest_kept": "no"}),
    "an answer in capitals": said(answers={"gone": "YES", "rest_kept": "no"}),
    "an answer as a truth value": said(answers={"gone": True, "rest_kept": False}),
    "answers as a list": said(answers=["yes", "no"]),
    "answers as a text": said(answers="yes, no"),
    "a reason that is a number": said(reason=5),
    "a reason that is null": said(reason=None),
    "single quotes": str(GOOD),
    "a trailing comma": said().replace("3}", "3,}"),
    "a comment": said().replace("3}", "3 /* good */}"),
    "an inner quote that is not escaped": said().replace("a ghost", 'a "ghost"'),
    "the prompt's own example": '{"answers": {"gone": "yes or no"}, "reason": "...", "score": 0}',
    "another schema": '{"score": [8, 9], "reasoning": "good"}',
    "deeper than anyone needs": "[" * 100_000,
    "a byte order mark": "\ufeff" + said(),
}


@pytest.mark.parametrize(("text", "score"), SCORED.values(), ids=SCORED)
def test_a_valid_reply_is_its_score(text, score):
    reply = read_reply(text, QUESTIONS)
    assert (reply.outcome, reply.score) == (Outcome.SCORED, score)
    assert reply.answers == {"gone": 1.0, "rest_kept": 0.0}


@pytest.mark.parametrize("text", REFUSED)
def test_a_refusal_is_a_refusal(text):
    reply = read_reply(text, QUESTIONS)
    assert (reply.outcome, reply.score) == (Outcome.REFUSED, None)


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_anything_else_is_no_score_and_says_why(text):
    reply = read_reply(text, QUESTIONS)
    assert (reply.outcome, reply.score, reply.answers) == (Outcome.PARSE_ERROR, None, None)
    assert reply.reason


def test_the_set_is_large_enough():
    assert len(SCORED) + len(REFUSED) + len(UNREADABLE) >= 60


def test_without_questions_the_answers_are_empty():
    assert read_reply('{"answers": {}, "reason": "", "score": 2}', ()).score == 2


def test_the_schema_accepts_what_the_reader_accepts():
    schema = reply_schema(QUESTIONS)
    assert list(schema["properties"]) == ["answers", "reason", "score"], "the score comes last"
    assert schema["properties"]["answers"]["required"] == list(QUESTIONS)
