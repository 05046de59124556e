"""The loop that grows a rubric: synthetic questions, and a judge whose answers are known exactly."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from tasks.calibration.question_loop import People, choose_questions
from tasks.hp_scorer.rubric import Rubric, RubricQuestion

NUMBER = 60
CHANCE = np.random.default_rng(0)
CLUSTERS = [f"image {position // 2}" for position in range(NUMBER)]
FLAWS = {name: CHANCE.uniform(0, share, NUMBER) for name, share in (("big", 3.0), ("small", 1.2))}
"""Points that people take off. The general criteria see neither."""
HUMAN = list(5 - FLAWS["big"] - FLAWS["small"] + CHANCE.normal(0, 0.15, NUMBER))
HARM = CHANCE.uniform(0, 4, NUMBER)
GENERAL = CHANCE.normal(0, 0.4, NUMBER)
"""What the general criteria say, besides nothing."""


def question(name):
    return RubricQuestion(name=name, text=f"is it free of {name}?")


BIG, SMALL, USELESS, HARMFUL = map(question, ("big", "small", "useless", "harmful"))
START = Rubric(introduction="Judge.", criteria=("Instruction",), anchors={0: "failed", 5: "done"})


@dataclass
class Judge:
    """Each question that it is asked makes it see one thing more."""

    fails: dict = field(default_factory=dict)
    """Positions at which it gives no score while it is asked a question."""
    asked: list = field(default_factory=list)

    def __call__(self, rubric):
        names = [one.name for one in rubric.questions]
        self.asked.append(names)
        sees = FLAWS | {"harmful": HARM}
        scores = 5 + GENERAL - sum(sees.get(name, np.zeros(NUMBER)) for name in names)
        silent = {position for name in names for position in self.fails.get(name, ())}
        return [None if position in silent else float(score) for position, score in enumerate(scores)]


def choose(bank, judge=None, start=START, human=HUMAN, **options):
    options = {"least_better_share": 0.9, "most_questions": 8} | options
    return choose_questions(start, bank, judge or Judge(), People(human, CLUSTERS), **options)


def names_of(rubric):
    return [one.name for one in rubric.questions]


def test_what_helps_is_kept_best_first_and_the_rest_refused():
    rubric, steps = choose([HARMFUL, USELESS, SMALL, BIG])
    assert names_of(rubric) == ["big", "small"], "in the order of what they bring, not of the bank"
    assert [(s.question.name, s.kept) for s in steps] == [
        ("big", True), ("small", True), ("harmful", False), ("useless", False)
    ]  # fmt: skip
    assert [s.reason for s in steps[:2]] == ["agreement improved"] * 2
    harmful, useless = (s.improvement for s in steps[2:])
    assert harmful.difference < -0.1
    assert useless.difference == 0
    assert all("of the resamples, wanted 90%" in s.reason for s in steps[2:])
    assert not any(s.proposed for s in steps)


def test_each_step_is_measured_against_the_rubric_that_it_was_added_to():
    _, (first, second, *_) = choose([BIG, SMALL, USELESS])
    assert first.improvement.after == second.improvement.before
    assert 0 < second.improvement.difference < first.improvement.difference
    assert second.improvement.after == pytest.approx(0.892, abs=0.001)


def test_the_order_of_the_bank_does_not_matter():
    bank = [HARMFUL, USELESS, SMALL, BIG]
    assert choose(bank)[0] == choose(bank[::-1])[0]


def test_nothing_is_kept_when_nothing_helps():
    rubric, steps = choose([HARMFUL, USELESS])
    assert rubric == START
    assert [s.kept for s in steps] == [False, False]
    assert choose([]) == (START, [])


def test_a_question_on_which_the_judge_fails_is_refused_with_the_reason():
    """It would help where it is answered, and costs the scores of the others."""
    rubric, steps = choose([BIG], Judge(fails={"big": range(3)}))
    assert rubric == START
    (step,) = steps
    assert step.improvement.better_share > 0.9
    assert step.reason == "the judge fails on 3 triplets more"


def test_a_judge_that_failed_before_is_not_held_against_a_question():
    judge = Judge()
    assert names_of(choose([BIG], lambda rubric: [None, *judge(rubric)[1:]])[0]) == ["big"]


def test_a_judge_that_answers_nothing_keeps_nothing_and_says_why():
    rubric, steps = choose([BIG], lambda rubric: [None] * NUMBER)
    assert rubric == START
    assert [s.reason for s in steps] == ["no triplet with both scores"]


def test_people_of_one_opinion_give_a_reason_too():
    rubric, steps = choose([BIG, SMALL], human=[5.0] * NUMBER)
    assert rubric == START
    assert [s.reason for s in steps] == ["all human scores are 5"] * 2


def test_a_rubric_holds_so_many_questions_and_no_more():
    rubric, steps = choose([SMALL, BIG, USELESS], most_questions=1)
    assert names_of(rubric) == ["big"]
    reasons = {s.question.name: s.reason for s in steps}
    assert reasons["small"] == "no room left", "it would have helped"
    assert "resamples" in reasons["useless"]


def test_the_questions_of_the_start_stay_and_count():
    start = START.with_questions([USELESS])
    judge = Judge()
    rubric, steps = choose([USELESS, BIG, SMALL], judge, start, most_questions=2)
    assert names_of(rubric) == ["useless", "big"]
    assert judge.asked[0] == ["useless"]
    assert "useless" not in [s.question.name for s in steps], "it is in, and not tried again"
    full = Judge()
    assert choose([BIG], full, start, most_questions=1) == (start, [])
    assert full.asked == [["useless"]], "a full rubric asks nothing more"


def test_a_stricter_share_keeps_less():
    faint = question("faint")
    faintly = 0.1 * FLAWS["big"] + np.random.default_rng(3).normal(0, 0.3, NUMBER)

    def judge(rubric):
        return list(5 + GENERAL - faintly * len(rubric.questions))

    (step,) = choose([faint], judge, least_better_share=0.5)[1]
    share = step.improvement.better_share
    assert 0.5 < share < 1
    assert step.kept
    assert choose([faint], judge, least_better_share=share)[0] == START.with_questions([faint])
    (refused,) = choose([faint], judge, least_better_share=1.0)[1]
    assert not refused.kept
    assert refused.improvement == step.improvement


class Thinks:
    """Proposes one question after another, and remembers what it was told."""

    def __init__(self, *questions):
        self.left, self.told = list(questions), []

    def __call__(self, rubric, scores):
        self.told.append((names_of(rubric), list(scores)))
        return self.left.pop(0) if self.left else None


def test_proposals_are_tried_after_the_bank():
    judge, thinks = Judge(), Thinks(HARMFUL, SMALL)
    rubric, steps = choose([BIG], judge, propose=thinks, proposals=5)
    assert names_of(rubric) == ["big", "small"]
    assert [(s.question.name, s.kept, s.proposed) for s in steps] == [
        ("big", True, False), ("small", True, True), ("harmful", False, True)
    ]  # fmt: skip
    assert [names for names, _ in thinks.told] == [["big"], ["big"], ["big", "small"]]
    by_big, _, by_both = (scores for _, scores in thinks.told)
    assert by_big == Judge()(START.with_questions([BIG])), "it sees what the judge says by now"
    assert by_both == Judge()(rubric)


def test_so_many_proposals_and_no_more():
    thinks = Thinks(HARMFUL, SMALL)
    assert names_of(choose([BIG], propose=thinks, proposals=1)[0]) == ["big"]
    assert len(thinks.told) == 1
    nobody = Thinks(BIG)
    assert choose([], propose=nobody, proposals=0) == (START, [])
    assert nobody.told == []


def test_nobody_is_asked_for_a_question_that_would_find_no_room():
    thinks = Thinks(SMALL)
    assert names_of(choose([BIG], propose=thinks, proposals=3, most_questions=1)[0]) == ["big"]
    assert thinks.told == []


def test_questions_without_meaning_stay_out():
    """Answered by chance, which differs from edit to edit: of 48 at most one slips in, and the useful ones do."""
    kept = []
    for seed in range(100, 108):
        rng = np.random.default_rng(seed)
        noise = {f"noise_{number}": rng.uniform(0, 2, NUMBER) for number in range(6)}

        def judge(rubric, sees=FLAWS | noise):
            return list(5 + GENERAL - sum((sees[one.name] for one in rubric.questions), np.zeros(NUMBER)))

        kept += names_of(choose([*map(question, noise), BIG, SMALL], judge)[0])
    assert (kept.count("big"), kept.count("small")) == (8, 8)
    assert len(kept) <= 8 + 8 + 1
