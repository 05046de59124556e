"""The measured judge: a stand-in that answers rubric questions by measuring pixels.

It is not HP-Scorer: it understands no language and has never seen a person's score. It stands where HP-Scorer will
stand, speaks the same contract, and lets the whole pipeline run without a model, a key or a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from storage.records import EditType, identity
from tasks.hp_scorer.case import Case, Recogniser, Sighting
from tasks.hp_scorer.contract import BEST, EditTriplet, Judgement, Outcome
from tasks.hp_scorer.measurements import Measured
from tasks.hp_scorer.questions import GENERIC, QUESTIONS, Question

LARGEST_SIDE = 256
"""Larger pictures are measured at this size: it bounds the cost, and grain of single pixels is not what people see."""
NOISE = 0.05
"""Standard deviation of the judge's own inaccuracy, in points; drawn from the content, so a repeat says the same.

Small against a whole point, and against the differences within a training group (0.1 to 0.75 points): a group whose
samples differ by less than the noise would be trained on noise, since its advantages are scaled to unit spread.
"""


@dataclass(frozen=True)
class MeasuredScorer:
    """The stand-in judge, see `Scorer`.

    Attributes:
        recogniser: knows what objects look like; None for photographs, where additions and swaps are judged by the
            change alone.
        generic: one set of questions for all edit types (the paper's Base-Scorer) instead of one per type.
        integer: whole points, as in the paper; else continuous.
        full_at: the lowest full score in continuous mode.
    """

    recogniser: Recogniser | None = None
    generic: bool = False
    integer: bool = True
    full_at: float = 4.5
    noise: float = NOISE

    def __post_init__(self) -> None:
        if self.integer:
            object.__setattr__(self, "full_at", BEST)

    @property
    def name(self) -> str:
        """What reports call it."""
        return "stand-in judge (generic)" if self.generic else "stand-in judge"

    @property
    def fingerprint(self) -> str:
        return identity(*(self.fingerprint_of(edit_type) for edit_type in EditType))

    def fingerprint_of(self, edit_type: EditType) -> str:
        rubric = [[q.name, q.measure.__name__, q.good, q.bad, q.follows] for q in self._questions(edit_type)]
        recogniser = self.recogniser.fingerprint if self.recogniser else None
        settings = ["measured-2", recogniser, self.integer, self.full_at, self.noise, LARGEST_SIDE]
        return identity(settings, rubric)

    def score(self, triplets: Sequence[EditTriplet], attempt: int = 0) -> list[Judgement]:
        return [self._judge(triplet, attempt) for triplet in triplets]

    def _questions(self, edit_type: EditType) -> tuple[Question, ...]:
        return GENERIC if self.generic else QUESTIONS[edit_type]

    def _judge(self, triplet: EditTriplet, attempt: int) -> Judgement:
        if triplet.edited is None:
            return Judgement(outcome=Outcome.IMAGE_ERROR, score=None, raw_reply="the edited image could not be read")
        if not triplet.mask.any():
            return Judgement(outcome=Outcome.IMAGE_ERROR, score=None, raw_reply="the source's mask is empty")
        seen = _to_measure(triplet)
        case = Case(triplet, seen, self._look_for_object(triplet, seen))
        answers = {q.name: q.answer(case) for q in self._questions(triplet.edit_type)}
        score = combine(self._questions(triplet.edit_type), answers)
        key = identity(triplet.edited.tobytes(), triplet.case_id, attempt)
        score += self.noise * float(np.random.default_rng(int(key, 16)).standard_normal())
        score = min(max(score, 0.0), BEST)
        if self.integer:
            score = float(math.floor(score + 0.5))
        reply = "; ".join(f"{name} {answer:.2f}" for name, answer in answers.items())
        return Judgement(outcome=Outcome.SCORED, score=score, answers=answers, raw_reply=reply)

    def _look_for_object(self, triplet: EditTriplet, seen: Measured) -> Sighting | None:
        request = triplet.request
        if self.recogniser is None or request.new_category is None:
            return None
        return self.recogniser.look(seen, triplet.edit_type, request)


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
