"""Judgements: a score or a reason, never both, never neither."""

from dataclasses import replace

import numpy as np
import pytest

from storage.records import EditType, Request
from tasks.hp_scorer.contract import EditTriplet, Judgement, Outcome
from tasks.hp_scorer.measured import MeasuredScorer, combine
from tasks.hp_scorer.questions import GENERIC, QUESTIONS


@pytest.fixture
def triplet():
    rng = np.random.default_rng(0)
    mask = np.zeros((64, 64), bool)
    mask[20:44, 20:44] = True
    source = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return EditTriplet(
        case_id="c",
        edit_type=EditType.BOKEH,
        instruction="blur the background",
        request=Request(),
        category="cat",
        source=source,
        mask=mask,
        edited=source,
    )


@pytest.mark.parametrize(
    ("outcome", "score"),
    [
        (Outcome.SCORED, None),
        (Outcome.TIMEOUT, 3.0),
        (Outcome.SCORED, -0.1),
        (Outcome.SCORED, 5.01),
        (Outcome.SCORED, float("nan")),
    ],
)
def test_a_judgement_that_contradicts_itself_is_refused(outcome, score):
    with pytest.raises(ValueError, match="score"):
        Judgement(outcome=outcome, score=score)


def test_an_unreadable_edit_is_a_typed_failure(triplet):
    (judgement,) = MeasuredScorer().score([replace(triplet, edited=None)])
    assert (judgement.outcome, judgement.score) == (Outcome.IMAGE_ERROR, None)


def test_an_empty_mask_is_a_typed_failure(triplet):
    (judgement,) = MeasuredScorer().score([replace(triplet, mask=np.zeros((64, 64), bool))])
    assert judgement.outcome == Outcome.IMAGE_ERROR


@pytest.mark.parametrize("edit_type", [EditType.REMOVAL, EditType.COLOUR])
def test_a_mask_of_thin_lines_survives_being_made_smaller(edit_type):
    """A wheel's spokes in a large photograph: no pixel of the small picture is covered by half."""
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    mask = np.zeros((1024, 1024), bool)
    mask[::64] = True
    thin = EditTriplet(
        case_id="c", edit_type=edit_type, instruction="", request=Request(colour="red"), category="bicycle",
        source=pixels, mask=mask, edited=pixels[::-1].copy(),
    )  # fmt: skip
    (judgement,) = MeasuredScorer().score([thin])
    assert judgement.outcome == Outcome.SCORED


def test_nothing_done_is_zero_and_every_question_is_answered(triplet):
    (judgement,) = MeasuredScorer(noise=0).score([triplet])
    assert judgement.score == 0
    assert set(judgement.answers) == {q.name for q in QUESTIONS[EditType.BOKEH]}


def test_integer_mode_gives_whole_points_and_its_own_noise_is_reproducible(triplet):
    scorer = MeasuredScorer(noise=2.0)
    scores = [scorer.score([triplet], attempt)[0].score for attempt in range(12)]
    assert all(score == int(score) for score in scores)
    assert len(set(scores)) > 1
    assert scores == [scorer.score([triplet], attempt)[0].score for attempt in range(12)]


@pytest.mark.parametrize("edit_type", EditType)
def test_it_measures_pictures_of_any_size(triplet, edit_type):
    request = Request(
        new_category="dog", colour="red", place="left", background="beach", light="left", tint="warm", style="mosaic"
    )
    for height, width in ((64, 64), (480, 640), (97, 41)):
        rng = np.random.default_rng(1)
        mask = np.zeros((height, width), bool)
        mask[height // 4 : height // 2, width // 4 : width // 2] = True
        source, edited = (rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2))
        asked = replace(triplet, edit_type=edit_type, request=request, source=source, edited=edited, mask=mask)
        (judgement,) = MeasuredScorer().score([asked])
        assert judgement.outcome == Outcome.SCORED


def test_an_edited_image_of_another_size_is_measured_all_the_same(triplet):
    (judgement,) = MeasuredScorer(noise=0).score([replace(triplet, edited=triplet.edited.repeat(2, 0).repeat(2, 1))])
    assert judgement.score < 1


def test_the_fingerprint_names_what_matters():
    base = MeasuredScorer()
    assert base.fingerprint == MeasuredScorer().fingerprint
    others = [
        MeasuredScorer(asked=dict.fromkeys(EditType, ())),
        MeasuredScorer(integer=False),
        MeasuredScorer(noise=0.3),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert base.fingerprint_of(EditType.BOKEH) != base.fingerprint_of(EditType.STYLE)


def test_how_answers_make_a_score():
    names = {q.name: 1.0 for q in QUESTIONS[EditType.REMOVAL]}
    assert combine(QUESTIONS[EditType.REMOVAL], names) == 5
    assert combine(QUESTIONS[EditType.REMOVAL], names | {"is the object gone?": 0.0}) == 0
    assert combine(QUESTIONS[EditType.REMOVAL], names | {"is the rest kept?": 0.0}) == 2


def test_generic_questions_are_the_same_for_all():
    assert MeasuredScorer(asked=dict.fromkeys(EditType, ()))._questions(EditType.BOKEH) == GENERIC
