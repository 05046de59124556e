"""What a calibration makes of a judge: other questions, and another scale; and the stand-in that is asked by it."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from storage.manifest import Manifest
from storage.records import EditType, Request
from tasks.calibration.probes import PROBES
from tasks.calibration.score_map import IDENTITY, ScoreMap
from tasks.hp_scorer import measured
from tasks.hp_scorer.calibration import CalibratedScorer, Calibration, calibration_of
from tasks.hp_scorer.catalogue import fingerprints_of, make_scorer, rubrics_of
from tasks.hp_scorer.contract import EditTriplet, Judgement, Outcome
from tasks.hp_scorer.distractors import HARMFUL
from tasks.hp_scorer.measured import MeasuredScorer
from tasks.hp_scorer.question_bank import answerable, bank_of, stand_in_bank
from tasks.hp_scorer.questions import GENERIC, QUESTIONS
from tasks.hp_scorer.rubric import RubricQuestion, generic_rubric, rubric_of
from tasks.hp_scorer.settings import MeasuredConfig, ServerSettings, VlmConfig
from tests.tasks.stand_ins import CountingJudge

HALVED = ScoreMap(((0.0, 0.0), (5.0, 2.5)))
LIFTED = ScoreMap(((0.0, 1.0), (3.0, 4.0), (5.0, 5.0)))
CONTINUOUS = MeasuredConfig(mode="continuous", noise=0)
WHOLE = (CHANGED, GRAIN, SAME_THINGS) = tuple(question.name for question in GENERIC)


def triplet(edit_type=EditType.REMOVAL, seed=0, **changes):
    """A picture with a square in it, and another one in which the square is half gone."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((64, 64), bool)
    mask[20:44, 20:44] = True
    source = rng.integers(90, 120, (64, 64, 3), dtype=np.uint8)
    edited = source.copy()
    source[mask] = (200, 40, 40)
    edited[mask & (rng.random((64, 64)) < 0.4)] = (200, 40, 40)
    fields = {"case_id": f"case {seed}", "request": Request(colour="blue"), "source": source, "mask": mask}
    fields |= {"edit_type": edit_type, "instruction": "remove it", "category": "cup", "edited": edited}
    return EditTriplet(**(fields | changes))


def judge_with(maps, config=CONTINUOUS, rubrics=None):
    rubrics = rubrics or {edit_type: asking(edit_type) for edit_type in EditType}
    return make_scorer(config, Calibration(config.deciding(), rubrics, dict.fromkeys(EditType, IDENTITY) | maps))


def asking(edit_type, *texts):
    """The rubric of an edit type with these questions; without any, with all that the stand-in has of its own."""
    texts = texts or [question.name for question in QUESTIONS[edit_type]]
    return generic_rubric().with_questions([RubricQuestion(name=f"q{i}", text=t) for i, t in enumerate(texts)])


class Scripted(CountingJudge):
    """Gives the judgements that it was told, last one first, as a judge may that answers in any order."""

    full_at = 4.5

    def __init__(self, *judgements):
        super().__init__()
        self.told = judgements

    def judgements(self, triplets, attempt=0):
        assert len(list(triplets)) == len(self.told)
        yield from reversed(list(enumerate(self.told)))


def said(score):
    return Judgement(outcome=Outcome.SCORED, score=score)


# --- scale -------------------------------------------------------------------------------------------------------


def test_scores_are_mapped_by_their_edit_type_and_the_raw_ones_kept():
    maps = dict.fromkeys(EditType, IDENTITY) | {EditType.REMOVAL: HALVED, EditType.BOKEH: LIFTED}
    judge = CalibratedScorer(Scripted(said(4.0), said(3.0), said(1.5), said(4.0)), maps)
    types = (EditType.REMOVAL, EditType.BOKEH, EditType.BOKEH, EditType.STYLE)
    found = judge.score([triplet(edit_type) for edit_type in types])
    assert [one.score for one in found] == [2.0, 4.0, 2.5, 4.0]
    assert [one.raw_score for one in found] == [one.raw for one in found] == [4.0, 3.0, 1.5, 4.0]


def test_what_has_no_score_passes_through_a_calibration_as_it_is():
    failed = Judgement(outcome=Outcome.REFUSED, score=None, raw_reply="I cannot judge that")
    judge = CalibratedScorer(Scripted(failed, said(2.0)), dict.fromkeys(EditType, HALVED))
    assert judge.score([triplet(), triplet()])[0] == failed


def test_everything_else_that_the_judge_said_is_kept():
    whole = Judgement(
        outcome=Outcome.SCORED, score=4.0, answers={"q": 1.0}, raw_reply="4", digit_mass=0.9, spread=0.3, model="m-1"
    )
    (found,) = CalibratedScorer(Scripted(whole), dict.fromkeys(EditType, HALVED)).score([triplet()])
    assert found == replace(whole, score=2.0, raw_score=4.0)


def test_fingerprints_do_not_depend_on_maps_and_maps_are_told_apart():
    plain, halved, lifted = judge_with({}), judge_with({EditType.STYLE: HALVED}), judge_with({EditType.STYLE: LIFTED})
    assert plain.fingerprint == halved.fingerprint == lifted.fingerprint
    for edit_type in EditType:
        assert plain.fingerprint_of(edit_type) == halved.fingerprint_of(edit_type)
    assert (halved.who, halved.full_at) == (plain.who, plain.full_at)
    names = fingerprints_of(halved).keys() - fingerprints_of(plain).keys()
    assert names == {"map of style_transfer"}
    different = {n for n in fingerprints_of(halved) if fingerprints_of(halved)[n] != fingerprints_of(lifted)[n]}
    assert different == names
    uncalibrated = make_scorer(CONTINUOUS)
    assert fingerprints_of(uncalibrated) == fingerprints_of(plain), "asked the same, it is the same judge"


# --- whose calibration -------------------------------------------------------------------------------------------


def calibration(config, name="scorer@v7"):
    rubrics = {edit_type: rubric_of(edit_type) for edit_type in EditType}
    return Calibration(config.deciding(), rubrics, dict.fromkeys(EditType, HALVED), name)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (MeasuredConfig(noise=0.3), "noise was 0.05, is 0.3"),
        (
            MeasuredConfig(knows="nothing", mode="continuous"),
            "knows was 'sprites', is 'nothing'; mode was 'integer', is",
        ),
        (VlmConfig(judge=ServerSettings(model="gpt-4.1")), "kind was 'measured', is 'vlm'"),
    ],
)
def test_another_judge_than_the_calibrated_one_is_refused_naming_what_differs(other, named):
    of = calibration(MeasuredConfig())
    of.check(MeasuredConfig())
    with pytest.raises(ValueError, match="another judge") as told:
        of.check(other)
    assert str(told.value).startswith("scorer@v7 was calibrated for another judge: ")
    assert named in str(told.value)
    with pytest.raises(ValueError, match="another judge"):
        make_scorer(other, of)


def test_another_model_is_refused_and_both_are_named():
    with pytest.raises(ValueError, match="another judge") as told:
        calibration(VlmConfig(judge=ServerSettings(model="gpt-4.1"))).check(
            VlmConfig(judge=ServerSettings(model="gpt-4o"))
        )
    assert "'gpt-4.1'" in str(told.value)
    assert "'gpt-4o'" in str(told.value)


@pytest.mark.parametrize(
    ("calibrated", "used"),
    [
        (MeasuredConfig(), MeasuredConfig(generic=True)),
        (
            VlmConfig(judge=ServerSettings(model="m")),
            VlmConfig(judge=ServerSettings(model="m", base_url="http://elsewhere/v1", concurrency=2, spend_at_most=3)),
        ),
    ],
    ids=["rubrics are the calibration's own", "how it is reached says nothing of the judge"],
)
def test_what_does_not_change_the_judge_is_no_hindrance(calibrated, used):
    calibration(calibrated).check(used)


def test_a_calibration_is_read_from_its_version(store):
    texts = {edit_type: [question.name for question in QUESTIONS[edit_type]][:2] for edit_type in EditType}
    maps = dict.fromkeys(EditType, HALVED) | {EditType.STYLE: IDENTITY}
    rows = [
        {
            "edit_type": str(edit_type),
            "rubric": asking(edit_type, *texts[edit_type]).model_dump_json(),
            "score_map": json.dumps(maps[edit_type].to_json()),
            "note": "by hand",
        }
        for edit_type in reversed(EditType)
    ]
    version = store.commit(
        Manifest(
            artifact="scorer",
            stage="calibrate-scorer",
            stage_version=1,
            key="by-hand",
            config={"scorer": CONTINUOUS.deciding()},
            tables={"scorer": (store.add_table(pa.Table.from_pylist(rows)),)},
        )
    )
    of = calibration_of(version)
    assert of is not None
    assert (of.name, of.judge, of.maps) == ("scorer@v1", CONTINUOUS.deciding(), maps)
    assert of.rubrics == {edit_type: asking(edit_type, *texts[edit_type]) for edit_type in EditType}
    (found,) = make_scorer(CONTINUOUS, of).score([triplet()])
    assert {*texts[EditType.REMOVAL]} <= set(found.answers)
    assert found.score == found.raw_score / 2
    assert calibration_of(None) is None


def test_the_rubrics_of_a_calibration_are_those_that_the_judge_is_told():
    config = VlmConfig(judge=ServerSettings(model="m"), generic=True)
    assert rubrics_of(config) == dict.fromkeys(EditType, generic_rubric())
    of = calibration(config)
    assert rubrics_of(config, of) == of.rubrics
    plain = make_scorer(config.model_copy(update={"generic": False}))
    assert make_scorer(config, of).fingerprint == plain.fingerprint, "the same rubrics from elsewhere: the same judge"


# --- the questions of the stand-in -------------------------------------------------------------------------------

GONE, COLOUR, KEPT = (QUESTIONS[EditType.REMOVAL][i].name for i in (0, 1, 3))


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ((GONE, COLOUR), (GONE, COLOUR)),
        ((COLOUR, GONE, KEPT, HARMFUL[0].name), (COLOUR, GONE, KEPT, HARMFUL[0].name)),
        ((GONE,), (GONE, GRAIN, SAME_THINGS)),
        ((COLOUR, KEPT), (COLOUR, KEPT, CHANGED)),
        ((), WHOLE),
    ],
    ids=["both kinds", "many, in their order", "not how well", "not whether", "nothing"],
)
def test_a_stand_in_answers_what_the_rubric_asks_and_the_general_questions_where_it_asks_nothing(asked, answered):
    rubrics = dict.fromkeys(EditType, generic_rubric())
    rubrics[EditType.REMOVAL] = generic_rubric().with_questions(
        [RubricQuestion(name=f"q{i}", text=text) for i, text in enumerate(asked)]
    )
    (found,) = judge_with({}, rubrics=rubrics).score([triplet()])
    assert tuple(found.answers) == answered


def test_what_is_not_asked_does_not_count():
    """The square is half gone, and nothing else is wrong with the picture but what the source was like."""
    whole, narrow, misled = (
        judge_with({}, rubrics=dict.fromkeys(EditType, generic_rubric()) | {EditType.REMOVAL: asking(None, *texts)})
        for texts in ((GONE, COLOUR, KEPT), (GONE, KEPT), (GONE, KEPT, HARMFUL[1].name))
    )
    scores = [judge.score([triplet()])[0].raw for judge in (whole, narrow, misled)]
    assert 0 < scores[0] < scores[1]
    assert scores[2] < scores[1], "a misleading question costs points"


def test_a_question_changes_the_fingerprint_of_its_edit_type_alone():
    one, two = (
        judge_with({}),
        judge_with({}, rubrics={t: asking(t) for t in EditType} | {EditType.REMOVAL: asking(None, GONE)}),
    )
    assert [t for t in EditType if one.fingerprint_of(t) != two.fingerprint_of(t)] == [EditType.REMOVAL]


@pytest.mark.parametrize("edit_type", EditType)
def test_everything_in_the_bank_can_be_answered(edit_type):
    bank = stand_in_bank()[edit_type]
    assert [question.name for question in answerable(edit_type, bank)] == [question.text for question in bank]
    assert {question.name for question in QUESTIONS[edit_type]} < {question.text for question in bank}
    judge = judge_with({}, rubrics=dict.fromkeys(EditType, generic_rubric().with_questions(())) | {
        edit_type: generic_rubric().with_questions(bank)
    })  # fmt: skip
    request = Request(new_category="dog", colour="blue", place="left", background="beach", light="left", tint="warm",
                      style="mosaic")  # fmt: skip
    (found,) = judge.score([triplet(edit_type, request=request)])
    assert tuple(found.answers) == tuple(question.text for question in bank)
    assert all(0 <= answer <= 1 for answer in found.answers.values())


def test_a_wording_that_the_stand_in_does_not_know_is_refused_by_name():
    asked = asking(None, GONE, "is it beautiful?")
    with pytest.raises(ValueError, match=r"object_removal: the stand-in judge cannot answer 'is it beautiful\?'"):
        judge_with({}, rubrics={t: asking(t) for t in EditType} | {EditType.REMOVAL: asked})
    with pytest.raises(ValueError, match=f"bokeh: .*{GONE[:-1]}"):
        answerable(EditType.BOKEH, asking(None, GONE).questions)  # it is of another edit type


def test_the_bank_of_a_vision_language_model_is_that_of_the_rubric_files():
    bank = bank_of(VlmConfig(judge=ServerSettings(model="m")))
    for edit_type in EditType:
        own = rubric_of(edit_type).questions
        assert tuple(bank[edit_type][: len(own)]) == own
        names = [question.name for question in bank[edit_type]]
        assert len(names) == len(set(names)), "they are the keys of a reply"
    assert bank_of(MeasuredConfig()) == stand_in_bank()


# --- the stand-in's memory ---------------------------------------------------------------------------------------


@pytest.fixture
def forgetful():
    """Asks a judge that has seen nothing before."""

    def ask(judge, one):
        measured._case_of.cache_clear()
        return judge.score([one])[0]

    yield ask
    measured._case_of.cache_clear()


def test_a_triplet_that_was_seen_before_gets_what_it_would_have_got(forgetful):
    rubrics = [asking(EditType.REMOVAL), asking(None, GONE, COLOUR), asking(None, KEPT), generic_rubric()]
    judges = [
        judge_with({}, rubrics=dict.fromkeys(EditType, generic_rubric()) | {EditType.REMOVAL: r}) for r in rubrics
    ]
    cold = [forgetful(judge, triplet()) for judge in judges]
    assert len({tuple(one.answers) for one in cold}) == 4, "they ask other things"
    forgetful(judges[0], triplet())
    warm = [judge.score([triplet()])[0] for judge in judges]
    assert measured._case_of.cache_info().misses == 1, "it was looked at once"
    assert warm == cold


def pairs():
    """Triplets of one name of which one thing differs, as probes have them."""
    red = triplet(EditType.COLOUR, request=Request(colour="red"))
    moved = np.zeros_like(red.mask)
    moved[4:30, 30:60] = True
    dog = triplet(EditType.SWAP, request=Request(new_category="dog", place="left"))
    return {
        "source": (red, replace(red, source=red.source[::-1].copy())),
        "mask": (red, replace(red, mask=moved)),
        "edited": (red, replace(red, edited=red.source)),
        "request": (red, replace(red, request=Request(colour="blue"))),
        "edit type": (dog, replace(dog, edit_type=EditType.ADDITION)),
    }


@pytest.mark.parametrize("different", pairs())
def test_a_triplet_of_which_one_thing_differs_is_not_taken_for_the_other(forgetful, different):
    one, other = pairs()[different]
    judge = judge_with({})
    cold = forgetful(judge, other)
    before = forgetful(judge, one)
    assert judge.score([other])[0] == cold
    assert cold.answers != before.answers, "the difference is one that is seen"


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_probes_are_judged_by_what_they_changed(forgetful, probe):
    one = triplet(EditType.COLOUR)
    other = triplet(EditType.COLOUR, seed=1, request=Request(colour="red"), instruction="make it red")
    changed = probe.change(one, other)
    judge = judge_with({})
    cold = forgetful(judge, changed)
    forgetful(judge, one)
    judge.score([other])
    assert judge.score([changed])[0] == cold


def test_who_looks_is_remembered_too(forgetful):
    """With a recogniser an addition is judged by its object, without one by the change alone."""
    one = triplet(EditType.ADDITION, request=Request(new_category="dog", place="left"))
    knows, knows_not = (make_scorer(CONTINUOUS.model_copy(update={"knows": k})) for k in ("sprites", "nothing"))
    cold = forgetful(knows, one)
    forgetful(knows_not, one)
    assert knows.score([one])[0] == cold
    assert cold.answers != knows_not.score([one])[0].answers


def test_another_attempt_differs_by_the_stand_ins_own_noise_alone(forgetful):
    judge = MeasuredScorer(integer=False, noise=0.2)
    first, second = (judge.score([triplet()], attempt)[0] for attempt in (0, 1))
    assert first.answers == second.answers
    assert first.score != second.score
    assert abs(first.score - second.score) < 1.5
