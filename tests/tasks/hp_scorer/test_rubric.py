"""The rubrics as files."""

import shutil

import pytest

from storage.records import EditType
from tasks.hp_scorer.rubric import FOLDER, RubricQuestion, generic_rubric, questions_of, rubric_of


@pytest.mark.parametrize("edit_type", EditType)
def test_every_edit_type_has_questions_of_its_own(edit_type):
    rubric = rubric_of(edit_type)
    assert len(rubric.questions) >= 4
    assert len({question.name for question in rubric.questions}) == len(rubric.questions)
    text = rubric.text()
    assert text.index("Criteria:") < text.index("Scores:") < text.index("Questions")
    assert all(f"- {question.name}: {question.text}" in text for question in rubric.questions)
    assert sorted(rubric.anchors) == [0, 3, 5]


def test_the_generic_rubric_has_none():
    rubric = generic_rubric()
    assert rubric.questions == ()
    assert "Questions" not in rubric.text()
    assert rubric.criteria == rubric_of(EditType.BOKEH).criteria


def test_a_rubric_is_known_by_its_content():
    rubrics = [rubric_of(edit_type) for edit_type in EditType]
    assert len({rubric.fingerprint for rubric in rubrics}) == 8
    more = rubrics[0].with_questions([*rubrics[0].questions, RubricQuestion(name="pretty", text="Is it pretty?")])
    assert more.fingerprint != rubrics[0].fingerprint
    assert more.with_questions(rubrics[0].questions).fingerprint == rubrics[0].fingerprint


def test_a_line_that_cannot_be_read_is_shown(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "rubrics")
    path = tmp_path / "rubrics" / "bokeh.md"
    path.write_text(path.read_text() + "Is it pretty?\n")
    with pytest.raises(ValueError, match=r"bokeh\.md: cannot read 'Is it pretty\?'"):
        questions_of(EditType.BOKEH, tmp_path / "rubrics")


@pytest.mark.parametrize("edit_type", EditType)
def test_the_bank_holds_the_rubric_and_more_to_try(edit_type):
    bank = questions_of(edit_type)
    own = rubric_of(edit_type).questions
    assert bank[: len(own)] == own
    assert len(bank) > len(own)
    assert len({question.name for question in bank}) == len({question.text for question in bank}) == len(bank)
