"""The questions that a calibration may put into a rubric, by judge and edit type."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from storage.records import EditType
from tasks.hp_scorer.distractors import HARMFUL, USELESS
from tasks.hp_scorer.questions import QUESTIONS, Question
from tasks.hp_scorer.rubric import RubricQuestion, questions_of
from tasks.hp_scorer.settings import ScorerConfig

Bank = Mapping[EditType, Sequence[RubricQuestion]]


def bank_of(config: ScorerConfig) -> Bank:
    """The bank of a judge: of the rubric files for a vision-language model, what it can measure for the stand-in."""
    if config.kind == "vlm":
        return {edit_type: questions_of(edit_type) for edit_type in EditType}
    return stand_in_bank()


def stand_in_bank() -> Bank:
    """Everything that the stand-in can answer: what helps, what says nothing, and what misleads."""
    return {
        edit_type: tuple(
            RubricQuestion(name=_name_of(question.name), text=question.name)
            for question in (*HARMFUL[:2], *USELESS[:1], *QUESTIONS[edit_type], *HARMFUL[2:], *USELESS[1:])
        )
        for edit_type in EditType
    }


def answerable(edit_type: EditType, questions: Sequence[RubricQuestion]) -> tuple[Question, ...]:
    """The measurements behind a rubric's questions, by their wording.

    Raises: ValueError that names the question that the stand-in understands nothing of.
    """
    known = {question.name: question for question in (*QUESTIONS[edit_type], *USELESS, *HARMFUL)}
    for question in questions:
        if question.text not in known:
            raise ValueError(f"{edit_type}: the stand-in judge cannot answer {question.text!r}")
    return tuple(known[question.text] for question in questions)


def _name_of(text: str) -> str:
    """A question's text as a key of a reply; of a long one the last words, by which alike ones differ."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    while len(name) > 40:
        name = name.partition("_")[2]
    return name
