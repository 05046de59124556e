"""Rubrics: general criteria, anchors, and the questions of one edit type. Data in files, versions by content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.records import EditType, identity

FOLDER = Path(__file__).parent / "rubrics"
_QUESTION = re.compile(r"- (?P<name>[a-z][a-z0-9_]*): (?P<text>.+)")
_ANCHOR = re.compile(r"- (?P<points>[0-5]): (?P<text>.+)")


class RubricQuestion(BaseModel):
    """A question about an edit; a good edit is answered by yes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    text: str = Field(min_length=1)


class Rubric(BaseModel):
    """What a judge is told for one edit type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    introduction: str
    criteria: tuple[str, ...]
    anchors: dict[int, str]
    """What some points mean, by points."""
    edit_type: str = ""
    """What the edit type is about; empty in the generic rubric."""
    questions: tuple[RubricQuestion, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Rubric:
        names = [question.name for question in self.questions]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two questions are called {', '.join(sorted(twice))}: a reply could not tell them apart")
        return self

    @property
    def fingerprint(self) -> str:
        """The content hash: a rubric with another word is another rubric."""
        return identity(self.model_dump(mode="json"))

    def with_questions(self, questions: Sequence[RubricQuestion]) -> Rubric:
        """The same with other questions."""
        return Rubric(**{**dict(self), "questions": tuple(questions)})

    def text(self) -> str:
        """The rubric as the judge reads it, without images, instruction or form of the answer."""
        parts = [self.introduction, "", "Criteria:", *(f"- {line}" for line in self.criteria), "", "Scores:"]
        parts += [f"- {points}: {meaning}" for points, meaning in sorted(self.anchors.items())]
        if self.edit_type:
            parts += ["", self.edit_type]
        if self.questions:
            parts += ["", "Questions, each to be answered yes or no:"]
            parts += [f"- {question.name}: {question.text}" for question in self.questions]
        return "\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """For an artifact."""
        return self.model_dump(mode="json")


@cache
def generic_rubric(folder: Path = FOLDER) -> Rubric:
    """The general criteria alone, for all edit types: the paper's Base-Scorer."""
    sections = _sections(folder / "general.md")
    anchors = {int(m["points"]): m["text"] for m in _matches(_ANCHOR, sections["Anchors"], folder / "general.md")}
    return Rubric(
        introduction=sections[""],
        criteria=tuple(line.removeprefix("- ") for line in _items(sections["Criteria"])),
        anchors=anchors,
    )


@cache
def rubric_of(edit_type: EditType, folder: Path = FOLDER) -> Rubric:
    """The rubric of an edit type, as it stands in its file."""
    path = folder / f"{edit_type}.md"
    sections = _sections(path)
    questions = [
        RubricQuestion(name=m["name"], text=m["text"]) for m in _matches(_QUESTION, sections["Questions"], path)
    ]
    return generic_rubric(folder).model_copy(update={"edit_type": sections[""], "questions": tuple(questions)})


@cache
def questions_of(edit_type: EditType, folder: Path = FOLDER) -> tuple[RubricQuestion, ...]:
    """The question bank of an edit type: the questions of its rubric, and further ones that a calibration may try."""
    path = folder / f"{edit_type}.md"
    further = _matches(_QUESTION, _sections(path).get("Further questions", ""), path)
    return (
        *rubric_of(edit_type, folder).questions,
        *(RubricQuestion(name=match["name"], text=match["text"]) for match in further),
    )


def _sections(path: Path) -> dict[str, str]:
    """The parts of a rubric file by their heading; what stands before the first under ""."""
    title, *rest = path.read_text(encoding="utf-8").split("\n## ")
    if not title.startswith("# "):
        raise ValueError(f"{path}: a rubric begins with a title '# ...'")
    sections = {"": title.partition("\n")[2].strip()}
    for part in rest:
        heading, _, body = part.partition("\n")
        sections[heading.strip()] = body.strip()
    return sections


def _items(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _matches(pattern: re.Pattern[str], text: str, path: Path) -> list[re.Match[str]]:
    """Every line of a section taken apart. Raises: ValueError that shows the line that is of another form."""
    found = []
    for line in _items(text):
        match = pattern.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}: cannot read {line!r}")
        found.append(match)
    return found
