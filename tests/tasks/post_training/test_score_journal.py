"""Answers are kept as they come: done again, a run gets the same ones and pays for none."""

import threading

import numpy as np
import pytest

from storage.records import EditType, Request
from tasks.hp_scorer.contract import EditTriplet, Judgement, Outcome
from tasks.post_training.reward import PermutedReward, ScorerReward
from tasks.post_training.score_journal import ScoreJournal, read_scores


class Counting:
    """Scores by brightness; fails on the cases that it is told to, and dies after so many answers."""

    def __init__(self, failing=(), dies_after=None):
        self.failing, self.dies_after = failing, dies_after
        self.asked = []

    def judgements(self, triplets, attempt=0):
        for position, triplet in enumerate(triplets):
            if self.dies_after is not None and position == self.dies_after:
                raise KeyboardInterrupt
            self.asked.append(triplet.case_id)
            if triplet.case_id in self.failing:
                yield position, Judgement(outcome=Outcome.TIMEOUT, score=None, raw_reply="no answer in 120 s")
            else:
                yield position, Judgement(outcome=Outcome.SCORED, score=float(triplet.edited.mean()) / 51)


def pictures(count):
    return [np.full((4, 4, 3), 20 * i, dtype=np.uint8) for i in range(count)]


def noise(seed):
    return list(np.random.default_rng(seed).integers(0, 256, (100, 4, 4, 3), dtype=np.uint8))


def triplet(case_id):
    return EditTriplet(
        case_id=case_id,
        edit_type=EditType.BOKEH,
        instruction="blur it",
        request=Request(),
        category="cup",
        source=np.zeros((4, 4, 3), dtype=np.uint8),
        mask=np.zeros((4, 4), dtype=bool),
        edited=None,
    )


TRIPLETS = {case_id: triplet(case_id) for case_id in "abcd"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.jsonl"


def reward(scorer, path, judge="judge", others=()):
    return ScorerReward(scorer, TRIPLETS, ScoreJournal(path, judge, others))


def test_what_was_scored_is_not_asked_for_again(path):
    scores = reward(Counting(), path)(["a", "a", "b"], pictures(3))
    second = Counting()
    again = reward(second, path)(["a", "a", "b", "c"], pictures(4))
    assert again[:3] == scores
    assert second.asked == ["c"]


def test_a_judge_that_is_cut_off_half_way_loses_nothing_that_it_said(path):
    with pytest.raises(KeyboardInterrupt):
        reward(Counting(dies_after=2), path)(["a", "b", "c"], pictures(3))
    later = Counting()
    assert None not in reward(later, path)(["a", "b", "c"], pictures(3))
    assert later.asked == ["c"]


def test_the_same_picture_of_another_case_is_another_question(path):
    scorer = Counting()
    both = reward(scorer, path)
    both(["a"], pictures(1))
    both(["b"], pictures(1))
    assert scorer.asked == ["a", "b"]


def test_another_judge_is_asked_anew(path):
    reward(Counting(), path, "one")(["a"], pictures(1))
    other = Counting()
    reward(other, path, "other")(["a"], pictures(1))
    assert other.asked == ["a"]


def test_a_failure_stays_one_until_somebody_has_seen_to_the_judge(path):
    """Done again, an iteration must learn from what it learnt from; after a dead judge, all is asked for again."""
    assert reward(Counting(failing=["b"]), path)(["a", "b"], pictures(2))[1] is None
    later = Counting()
    again = reward(later, path)
    assert again(["a", "b"], pictures(2))[1] is None
    assert later.asked == []
    again.journal.forget_failures()
    assert None not in reward(later, path)(["a", "b"], pictures(2))
    assert later.asked == ["b"]


def test_failures_are_counted_by_their_kind_and_keep_what_was_said(path):
    given = reward(Counting(failing=["b", "c"]), path)
    given(["a", "b", "c"], pictures(3))
    assert given.journal.take_outcomes() == {"scored": 1, "timeout": 2}
    assert given.journal.take_outcomes() == {}
    assert [line.get("reply") for line in read_scores(path)] == [None, "no answer in 120 s", "no answer in 120 s"]


def test_journals_of_other_processes_are_read(path, tmp_path):
    other = tmp_path / "scores-1.jsonl"
    reward(Counting(), other)(["a"], pictures(1))
    scorer = Counting()
    reward(scorer, path, others=[other])(["a", "b"], pictures(2))
    assert scorer.asked == ["b"]


def test_a_line_that_was_cut_off_costs_that_line_alone(path):
    reward(Counting(), path)(["a", "b"], pictures(2))
    path.write_bytes(path.read_bytes()[:-10])
    assert [line["case_id"] for line in read_scores(path)] == ["a"]
    later = Counting()
    reward(later, path)(["a", "b"], pictures(2))
    assert later.asked == ["b"]
    assert {line["case_id"] for line in read_scores(path)} == {"a", "b"}


def test_threads_may_write_at_once(path):
    journal = ScoreJournal(path, "judge")
    threads = [
        threading.Thread(target=lambda n=n: [journal.keep(f"{n}", p, "scored", 1.0) for p in noise(n)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(1 for _ in read_scores(path)) == len(path.read_text().splitlines()) == 400


def test_permuted_scores_are_those_of_the_same_case(path):
    given = PermutedReward(reward(Counting(), path), seed=1)
    case_ids, images = ["a"] * 4 + ["b"] * 4, pictures(8)
    permuted = given(case_ids, images)
    plain = reward(Counting(), path)(case_ids, images)
    assert sorted(permuted[:4]) == sorted(plain[:4])
    assert sorted(permuted[4:]) == sorted(plain[4:])
    assert permuted != plain
    assert given(case_ids, images) == permuted
