"""HP-Scorer over a real server: scores from what it says, failures where it says nothing."""

import json

import numpy as np
import pytest

from perf.judge_server import judge_server
from storage.records import EditType, Request
from tasks.hp_scorer.catalogue import rubrics_of
from tasks.hp_scorer.contract import EditTriplet, Judgement, Outcome
from tasks.hp_scorer.judge import Answer
from tasks.hp_scorer.rubric import generic_rubric, rubric_of
from tasks.hp_scorer.settings import Mode, ServerSettings, VlmConfig
from tasks.hp_scorer.vlm_scorer import VlmScorer, joined


def triplet(edited=True, edit_type=EditType.REMOVAL, side=40):
    pixels = np.zeros((side, side, 3), np.uint8)
    return EditTriplet(
        case_id="c",
        edit_type=edit_type,
        instruction="remove the cup",
        request=Request(),
        category="cup",
        source=pixels,
        mask=np.ones((side, side), bool),
        edited=pixels + 9 if edited else None,
    )


def scorer(url="http://127.0.0.1:1/v1", **changes):
    fields = {"judge": ServerSettings(base_url=url, model="scripted", timeout_seconds=2, tries=2)} | changes
    config = VlmConfig(**fields)
    return VlmScorer(config, rubrics_of(config))


def verdict(score=4, edit_type=EditType.REMOVAL):
    answers = {question.name: "no" for question in rubric_of(edit_type).questions}
    return json.dumps({"answers": answers, "reason": 'a "score": 1 is written there', "score": score})


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


@pytest.mark.parametrize(
    ("mode", "said", "score"),
    [
        (Mode.COT, verdict(4), 4.0),
        (Mode.LOGIT, "4", 4 * 0.8 + 3 * 0.1 + 5 * 0.1),
        (Mode.LOGIT, "5", 5 * 0.8 + 4 * 0.2),
        (Mode.COT_LOGIT, verdict(2), 2 * 0.8 + 1 * 0.1 + 3 * 0.1),
    ],
)
def test_every_mode_gives_the_score_that_was_said(mode, said, score):
    with judge_server(lambda body: said) as (url, _):
        (judgement,) = scorer(url, mode=mode).score([triplet()])
    assert judgement.outcome == Outcome.SCORED
    assert judgement.score == pytest.approx(score)
    assert len(judgement.answers) == (0 if mode is Mode.LOGIT else 5)


@pytest.mark.parametrize(
    ("mode", "said", "outcome"),
    [
        (Mode.COT, "I'm sorry, I can't judge that.", Outcome.REFUSED),
        (Mode.COT, "a clear 5", Outcome.PARSE_ERROR),
        (Mode.COT, verdict(4, EditType.BOKEH), Outcome.PARSE_ERROR),
        (Mode.LOGIT, "The", Outcome.PARSE_ERROR),
        (Mode.LOGIT, "", Outcome.PARSE_ERROR),
    ],
)
def test_what_is_no_score_is_no_number(mode, said, outcome):
    with judge_server(lambda body: said) as (url, _):
        (judgement,) = scorer(url, mode=mode).score([triplet()])
    assert (judgement.outcome, judgement.score) == (outcome, None)


def test_an_edit_without_an_image_is_not_asked_about():
    with judge_server(lambda body: verdict()) as (url, server):
        judgements = scorer(url, mode=Mode.COT).score([triplet(), triplet(edited=False), triplet()])
    assert [j.outcome for j in judgements] == [Outcome.SCORED, Outcome.IMAGE_ERROR, Outcome.SCORED]
    assert server.books.requests == 2


def test_repeats_are_joined_by_their_median():
    scores = iter([1, 5, 4])
    with judge_server(lambda body: verdict(next(scores))) as (url, _):
        (judgement,) = scorer(url, mode=Mode.COT, repeats=3).score([triplet()])
    assert judgement.score == 4
    assert judgement.spread == pytest.approx(1.6997, abs=1e-4)
    assert judgement.raw_reply.count("is written there") == 3, "all replies are kept"


def test_too_many_failed_repeats_are_a_failure():
    good = Judgement(outcome=Outcome.SCORED, score=5.0)
    bad = Judgement(outcome=Outcome.TIMEOUT, score=None)
    assert joined([good, bad]).score == 5.0
    assert joined([good, bad, bad]).outcome == Outcome.TIMEOUT
    assert joined([bad]).outcome == Outcome.TIMEOUT


def test_little_probability_on_digits_is_refused():
    tops = {"5": np.log(0.3), "I": np.log(0.7)}
    answer = Answer(Outcome.SCORED, "5", [("5", tops)])
    one = scorer(mode=Mode.LOGIT)
    assert one.judge(answer, one.prompt(triplet())).outcome == Outcome.PARSE_ERROR
    tolerant = scorer(mode=Mode.LOGIT, least_mass=0.2)
    assert tolerant.judge(answer, tolerant.prompt(triplet())).score == pytest.approx(5.0)


def test_images_are_sent_in_the_size_and_form_that_is_told():
    large = triplet(side=100)
    prompt = scorer(image_side=50).prompt(large)
    assert prompt.source.startswith(b"\x89PNG")
    assert prompt.source != scorer(image_side=100).prompt(large).source
    assert scorer(image_quality=90).prompt(large).source.startswith(b"\xff\xd8")


def test_the_fingerprint_follows_what_changes_scores_and_nothing_else():
    def changed(**server):
        return scorer(judge=ServerSettings(**({"model": "scripted", "base_url": "http://a/v1"} | server)))

    base = changed()
    others = [
        changed(model="other"),
        changed(revision="2"),
        changed(temperature=0.5),
        changed(extra_body={"top_k": 3}),
        scorer(mode=Mode.COT),
        scorer(generic=True),
        scorer(image_side=256),
        scorer(image_quality=90),
        scorer(repeats=3),
        scorer(least_mass=0.3),
    ]
    assert len({one.fingerprint for one in [base, *others]}) == 11
    same = [changed(base_url="http://b/v1"), changed(concurrency=2), changed(timeout_seconds=5), scorer(full_at=4.2)]
    assert {one.fingerprint for one in same} == {base.fingerprint}


def test_another_rubric_changes_its_edit_type_alone():
    rubrics = {edit_type: rubric_of(edit_type) for edit_type in EditType}
    config = scorer().config
    one = VlmScorer(config, rubrics)
    two = VlmScorer(config, rubrics | {EditType.BOKEH: generic_rubric()})
    assert [t for t in EditType if one.fingerprint_of(t) != two.fingerprint_of(t)] == [EditType.BOKEH]
    assert one.fingerprint == scorer().fingerprint, "the same rubrics from elsewhere are the same judge"
