"""The paper's loop: general criteria first, then one question after another, each kept only if people agree more.

HP-Edit, stage 1: a prompt starts as general criteria, and task-specific questions are added until the judge agrees with
people. What "agrees more" means is not stated there: here it is a paired bootstrap on the ratings set aside for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tasks.calibration.agreement import Improvement, paired_improvement
from tasks.hp_scorer.rubric import Rubric, RubricQuestion

MEASURE: Literal["pearson"] = "pearson"
"""What the paper reports of its scorer. It finds more of the useful questions than Spearman where scores are few or
whole; see `paired_improvement`."""
Ask = Callable[[Rubric], Sequence[float | None]]
"""A judge's raw score of every calibration triplet, asked by a rubric; None where it failed."""


@dataclass(frozen=True, slots=True)
class Step:
    """One question that was tried."""

    question: RubricQuestion
    improvement: Improvement
    kept: bool
    reason: str
    proposed: bool = False
    """Whether a language model thought of it, rather than the bank."""


@dataclass(frozen=True, slots=True)
class People:
    """What people said of the calibration triplets, in the order in which a judge is asked."""

    scores: Sequence[float]
    """Means over raters."""
    clusters: Sequence[str]
    """Source images."""


def choose_questions(
    start: Rubric,
    bank: Iterable[RubricQuestion],
    ask: Ask,
    people: People,
    *,
    least_better_share: float,
    most_questions: int,
    propose: Callable[[Rubric, Sequence[float | None]], RubricQuestion | None] = lambda rubric, scores: None,
    proposals: int = 0,
    seed: int = 0,
) -> tuple[Rubric, list[Step]]:
    """Add questions one after another, in each round the one that brings most.

    Taken in the bank's own order instead, the first question to come would be kept wherever the general criteria say
    next to nothing, since then almost anything is an improvement: on the miniature that let 5 of 32 harmful questions
    in where this let none in.

    Args:
        start: the criteria to begin with; its own questions stay.
        bank: what there is to choose from.
        ask: rates the calibration triplets.
        least_better_share: a question stays if agreement is better in this share of the resamples.
        most_questions: a rubric holds.
        propose: thinks of a question, from what the judge says by now; None where it cannot.
        proposals: how often it is asked, after the bank.

    Returns: the rubric, and what was tried in the last round in which it was tried, the kept ones first.
    """
    rubric, scores = start, ask(start)
    kept: list[Step] = []
    refused: list[Step] = []

    def try_one(question: RubricQuestion, proposed: bool = False) -> tuple[Step, Sequence[float | None]]:
        answers = ask(rubric.with_questions([*rubric.questions, question]))
        improvement = paired_improvement(scores, answers, people.scores, people.clusters, MEASURE, seed=seed)
        reason = _why_not(improvement, scores, answers, least_better_share)
        return Step(question, improvement, not reason, reason or "agreement improved", proposed), answers

    def keep(step: Step, answers: Sequence[float | None]) -> None:
        nonlocal rubric, scores
        rubric, scores = rubric.with_questions([*rubric.questions, step.question]), answers
        kept.append(step)

    left = [question for question in bank if question not in start.questions]
    while left and len(rubric.questions) < most_questions:
        tried = [try_one(question) for question in left]
        refused = [step for step, _ in tried if not step.kept]
        good = [(step, answers) for step, answers in tried if step.kept]
        if not good:
            break
        keep(*max(good, key=lambda one: one[0].improvement.difference or 0.0))
        left = [question for question in left if question != kept[-1].question]
        refused += [replace(s, kept=False, reason="no room left") for s, _ in good if s is not kept[-1]]
    for _ in range(proposals):
        proposed = propose(rubric, scores) if len(rubric.questions) < most_questions else None
        if proposed is None:
            break
        step, answers = try_one(proposed, proposed=True)
        if step.kept:
            keep(step, answers)
        else:
            refused.append(step)
    return rubric, [*kept, *refused]


def _why_not(
    improvement: Improvement,
    before: Sequence[float | None],
    after: Sequence[float | None],
    least_better_share: float,
) -> str:
    """Why a question is not kept; empty where it is."""
    if improvement.better_share is None:
        return improvement.note
    lost = sum(b is not None and a is None for b, a in zip(before, after, strict=True))
    gained = sum(b is None and a is not None for b, a in zip(before, after, strict=True))
    if lost > gained:
        return f"the judge fails on {lost - gained} triplets more"
    if improvement.better_share < least_better_share:
        return f"better in {improvement.better_share:.0%} of the resamples, wanted {least_better_share:.0%}"
    return ""
