"""Which cases are kept."""

from dataclasses import replace

import pytest

from storage.records import EditType, Score
from tasks.dataset.hard import Dropped, decide, difficulty

SCORE = Score(
    score_id="s",
    edit_id="e",
    case_id="c",
    edit_type=EditType.BOKEH,
    outcome="scored",
    score=4.0,
    full=False,
    answers={},
    raw_reply="",
    scorer="x",
    attempt=0,
)


@pytest.mark.parametrize(
    ("score", "failure", "dropped"),
    [
        (SCORE, "", None),
        (replace(SCORE, score=0.0), "", None),
        (replace(SCORE, score=5.0, full=True), "", Dropped.FULL_SCORE),
        (replace(SCORE, score=None, outcome="timeout"), "", Dropped.NO_SCORE),
        (replace(SCORE, score=None, outcome="image_error"), "no cut-out", Dropped.NO_EDIT),
    ],
)
def test_full_scores_are_dropped_and_failures_for_another_reason(score, failure, dropped):
    assert decide(score, failure).dropped == dropped


def test_without_the_filter_full_scores_stay():
    assert decide(replace(SCORE, score=5.0, full=True), "", drop_full=False).dropped is None


def test_the_reason_of_a_failure_is_kept():
    assert decide(replace(SCORE, score=None, outcome="timeout"), "").detail == "timeout"


def test_difficulty():
    assert [difficulty(s) for s in (5, 2.5, 0)] == [0, 0.5, 1]
