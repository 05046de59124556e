"""Scores are kept as they come, and a failure is asked for again."""

import json

import numpy as np

from tasks.post_training.score_journal import JournaledReward, read_scores


class Counting:
    """Scores by brightness; None for the cases that it is told to fail on."""

    def __init__(self, failing=()):
        self.failing = failing
        self.asked = []

    def __call__(self, case_ids, images):
        self.asked += case_ids
        return [None if c in self.failing else float(i.mean()) / 51 for c, i in zip(case_ids, images, strict=True)]


def pictures(count):
    return [np.full((4, 4, 3), 20 * i, dtype=np.uint8) for i in range(count)]


def test_what_was_scored_is_not_asked_for_again(tmp_path):
    path = tmp_path / "scores.jsonl"
    first = Counting()
    scores = JournaledReward(first, path, "judge")(["a", "a", "b"], pictures(3))
    second = Counting()
    again = JournaledReward(second, path, "judge")(["a", "a", "b", "c"], pictures(4))
    assert again[:3] == scores
    assert second.asked == ["c"]


def test_the_same_picture_of_another_case_is_another_question(tmp_path):
    reward = Counting()
    journaled = JournaledReward(reward, tmp_path / "scores.jsonl", "judge")
    journaled(["a"], pictures(1))
    journaled(["b"], pictures(1))
    assert reward.asked == ["a", "b"]


def test_another_judge_is_asked_anew(tmp_path):
    path = tmp_path / "scores.jsonl"
    JournaledReward(Counting(), path, "one")(["a"], pictures(1))
    other = Counting()
    JournaledReward(other, path, "other")(["a"], pictures(1))
    assert other.asked == ["a"]


def test_failures_are_missing_and_tried_again(tmp_path):
    path = tmp_path / "scores.jsonl"
    assert JournaledReward(Counting(failing=["b"]), path, "judge")(["a", "b"], pictures(2))[1] is None
    later = Counting()
    assert None not in JournaledReward(later, path, "judge")(["a", "b"], pictures(2))
    assert later.asked == ["b"]


def test_a_line_that_was_cut_off_costs_that_line_alone(tmp_path):
    path = tmp_path / "scores.jsonl"
    JournaledReward(Counting(), path, "judge")(["a", "b"], pictures(2))
    path.write_bytes(path.read_bytes()[:-10])
    assert [line["case_id"] for line in read_scores(path)] == ["a"]
    later = Counting()
    JournaledReward(later, path, "judge")(["a", "b"], pictures(2))
    assert later.asked == ["b"]
    assert [json.loads(line)["case_id"] for line in path.read_text().splitlines()[:1]] == ["a"]
    assert {line["case_id"] for line in read_scores(path)} == {"a", "b"}
