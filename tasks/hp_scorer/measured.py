"""The measured judge: a stand-in that answers rubric questions by measuring pixels.

It is not HP-Scorer: it understands no language and has never seen a person's score. It stands where HP-Scorer will
stand, speaks the same contract, and lets the whole pipeline run without a model, a key or a network.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image

from storage.records import EditType, identity
from tasks.hp_scorer.case import Case, Recogniser
from tasks.hp_scorer.contract import BEST, EditTriplet, Judgement, Outcome, Scorer, WhoJudges
from tasks.hp_scorer.measurements import Measured
from tasks.hp_scorer.questions import GENERIC, QUESTIONS, Question
from tasks.hp_scorer.settings import NOISE

LARGEST_SIDE = 256
"""Larger pictures are measured at this size: it bounds the cost, and grain of single pixels is not what people see."""
REVISION = "measured-2"
KEPT_PIXELS = 128 * 128
"""Measurements of larger pictures are not kept: of photographs they would take up to a gigabyte."""


@dataclass(frozen=True)
class MeasuredScorer(Scorer):
    """The stand-in judge, see `Scorer`.

    Attributes:
        recogniser: knows what objects look like; None for photographs, where additions and swaps are judged by the
            change alone.
        asked: the questions of each edit type; none: what it would be asked if nothing were calibrated, all that it
            knows. It answers the general ones (the paper's Base-Scorer) where it is not asked about whether the
            instruction was followed, or not about how well.
        integer: whole points, as in the paper; else continuous.
        full_at: the lowest full score in continuous mode.
    """

    recogniser: Recogniser | None = None
    asked: Mapping[EditType, Sequence[Question]] | None = None
    integer: bool = True
    full_at: float = 4.5
    noise: float = NOISE

    def __post_init__(self) -> None:
        if self.integer:
            object.__setattr__(self, "full_at", BEST)

    @property
    def who(self) -> WhoJudges:
        parameters = {"integer": self.integer, "full_at": self.full_at, "noise": self.noise}
        return WhoJudges("stand-in judge", REVISION, parameters)

    @property
    def fingerprint(self) -> str:
        return identity(*(self.fingerprint_of(edit_type) for edit_type in EditType))

    def fingerprint_of(self, edit_type: EditType) -> str:
        rubric = [[q.name, q.measure.__name__, q.good, q.bad, q.follows] for q in self._questions(edit_type)]
        recogniser = self.recogniser.fingerprint if self.recogniser else None
        settings = [REVISION, recogniser, self.integer, self.full_at, self.noise, LARGEST_SIDE]
        return identity(settings, rubric)

    def judgements(
        self, triplets: Iterable[EditTriplet], attempt: int = 0
    ) -> Generator[tuple[int, Judgement], None, None]:
        return ((position, self._judge(triplet, attempt)) for position, triplet in enumerate(triplets))

    def _questions(self, edit_type: EditType) -> tuple[Question, ...]:
        asked = tuple((QUESTIONS if self.asked is None else self.asked)[edit_type])
        lacking = {True, False} - {question.follows for question in asked if not question.distracts}
        return asked + tuple(question for question in GENERIC if question.follows in lacking)

    def _judge(self, triplet: EditTriplet, attempt: int) -> Judgement:
        if triplet.edited is None:
            return Judgement(outcome=Outcome.IMAGE_ERROR, score=None, raw_reply="the edited image could not be read")
        if not triplet.mask.any():
            return Judgement(outcome=Outcome.IMAGE_ERROR, score=None, raw_reply="the source's mask is empty")
        key = identity(triplet.edited.tobytes(), triplet.case_id, attempt)
        # All that is measured: probes change the source or the request under the case's name.
        asked = [triplet.edit_type, triplet.request.to_dict()]
        look = identity(key, triplet.source.tobytes(), triplet.mask.tobytes(), asked)
        shown = _Shown(look, self.recogniser.fingerprint if self.recogniser else "", triplet, self.recogniser)
        case = _case_of(shown) if triplet.mask.size <= KEPT_PIXELS else _new_case(shown)
        answers = {q.name: q.answer(case) for q in self._questions(triplet.edit_type)}
        score = combine(self._questions(triplet.edit_type), answers)
        score += self.noise * float(np.random.default_rng(int(key, 16)).standard_normal())
        score = min(max(score, 0.0), BEST)
        if self.integer:
            score = float(math.floor(score + 0.5))
        reply = "; ".join(f"{name} {answer:.2f}" for name, answer in answers.items())
        return Judgement(outcome=Outcome.SCORED, score=score, answers=answers, raw_reply=reply)


@dataclass(frozen=True)
class _Shown:
    """A triplet and who looks at it, known by their names."""

    key: str
    by: str
    triplet: EditTriplet = field(compare=False)
    recogniser: Recogniser | None = field(compare=False)


def _new_case(shown: _Shown) -> Case:
    """The measurements of a triplet."""
    triplet, recogniser = shown.triplet, shown.recogniser
    seen, request = _to_measure(triplet), triplet.request
    if recogniser is None or request.new_category is None:
        return Case(triplet, seen, None)
    return Case(triplet, seen, recogniser.look(seen, triplet.edit_type, request))


_case_of = lru_cache(maxsize=128)(_new_case)
"""The same, kept: a calibration asks about the same triplets again and again."""


def combine(questions: Sequence[Question], answers: dict[str, float]) -> float:
    """One score from the answers: 0 if the instruction is not followed, 2 if badly, 5 if all is well.

    The answers about quality multiply: one plain flaw is enough to spoil a picture.
    """
    follows = min(answers[q.name] for q in questions if q.follows)
    quality = math.prod(answers[q.name] for q in questions if not q.follows)
    return follows * (2.0 + 3.0 * quality)


def _to_measure(triplet: EditTriplet) -> Measured:
    """Source, edited and mask as floats of one size."""
    assert triplet.edited is not None
    height, width = triplet.mask.shape
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))

    def fit(pixels: np.ndarray) -> np.ndarray:
        if pixels.shape[1::-1] != size:
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
        return pixels.astype(np.float64) / 255

    mask = triplet.mask
    if scale < 1:
        covered = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX))
        # Of a fine structure, a wheel's spokes say, no pixel may be covered by half.
        mask = covered > min(127, int(covered.max()) // 2)
    return Measured(source=fit(triplet.source), edited=fit(triplet.edited), mask=mask)
