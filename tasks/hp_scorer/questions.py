"""The questions of the stand-in judge: per edit type, what is measured, and when the answer is a full yes or no.

A question's measure falls from good to bad: at most `good` is a full yes (1), at least `bad` a full no (0), linear
between. The numbers were fixed on the degradation ladder (`python -m tasks.miniature.ladder`); docs/miniature.md says
which were set on it again, and why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from storage.records import EditType
from tasks.hp_scorer import look_flaws, object_flaws, picture_flaws
from tasks.hp_scorer.case import Case


@dataclass(frozen=True)
class Question:
    """One question of a rubric, answered by a measurement."""

    name: str
    measure: Callable[[Case], float]
    good: float
    bad: float
    follows: bool = False
    """Whether the answer says that the instruction was followed, rather than how well."""
    distracts: bool = False
    """Whether it says nothing of the edit, see `distractors`: it stands for no question that does."""

    def answer(self, case: Case) -> float:
        """In [0, 1]; 1 is a full yes."""
        return float(np.clip((self.bad - self.measure(case)) / (self.bad - self.good), 0, 1))


_REST = Question("is the rest kept?", picture_flaws.change_outside, 0.02, 0.12)
_BLOTCH = Question("is it free of blotches elsewhere?", picture_flaws.worst_change_outside, 0.05, 0.25)

QUESTIONS: dict[EditType, tuple[Question, ...]] = {
    EditType.ADDITION: (
        Question("is the new object there?", object_flaws.object_absent, 0.2, 0.9, follows=True),
        Question("is it drawn properly?", object_flaws.object_unclear, 0.1, 0.6),
        Question("is it opaque?", object_flaws.object_pale, 0.08, 0.7),
        Question("are its edges free of halos?", object_flaws.halo_of_object, 0.03, 0.25),
        Question("is the rest kept?", object_flaws.beyond_object, 0.05, 0.25),
    ),
    EditType.REMOVAL: (
        Question("is the object gone?", object_flaws.left_of_subject, 0.15, 0.9, follows=True),
        Question("does the place match its surroundings in colour?", object_flaws.patch_colour, 0.07, 0.25),
        Question("does the place match its surroundings in texture?", object_flaws.patch_texture, 0.5, 1.6),
        _REST,
        _BLOTCH,
    ),
    EditType.SWAP: (
        Question("is the new object there?", object_flaws.object_absent, 0.2, 0.9, follows=True),
        Question("is it drawn properly?", object_flaws.object_unclear, 0.1, 0.6),
        Question("is it opaque?", object_flaws.object_pale, 0.08, 0.7),
        Question("is the original completely gone?", object_flaws.old_behind_new, 0.2, 0.9),
        Question("are its edges free of halos?", object_flaws.halo_of_object, 0.03, 0.25),
        Question("is the rest kept?", object_flaws.beyond_object, 0.05, 0.25),
    ),
    EditType.BACKGROUND: (
        Question("is it the background asked for?", look_flaws.wrong_backdrop, 0.03, 0.25, follows=True),
        Question("is the old background gone?", look_flaws.old_backdrop, 0.06, 0.6),
        Question("is the rim clean?", look_flaws.old_rim, 0.3, 1.6),
        Question("is the new background detailed?", look_flaws.backdrop_blurred, 0.15, 0.7),
        Question("is the subject kept?", picture_flaws.subject_changed, 0.03, 0.2),
    ),
    EditType.COLOUR: (
        Question("has it the colour asked for?", look_flaws.colour_missing, 0.2, 0.9, follows=True),
        Question("does the colour stay inside?", picture_flaws.ring_change, 0.03, 0.25),
        Question("are its details kept?", look_flaws.details_changed, 0.05, 0.3),
        _REST,
        _BLOTCH,
    ),
    EditType.BOKEH: (
        Question("is the background blurred, everywhere?", look_flaws.sharpness_left, 0.15, 0.95, follows=True),
        Question("is the subject sharp?", picture_flaws.subject_blurred, 0.25, 0.7),
        Question("is the subject kept?", picture_flaws.subject_changed, 0.015, 0.12),
        Question("does the background keep its colours?", look_flaws.colours_moved, 0.02, 0.12),
    ),
    EditType.RELIGHT: (
        Question("does the light come from there?", look_flaws.light_missing, 0.2, 1.0, follows=True),
        Question("has it the tint asked for?", look_flaws.tint_missing, 0.3, 1.2),
        Question("is the contrast kept?", look_flaws.contrast_lost, 0.12, 0.6),
        Question("is it the same scene?", look_flaws.redrawn, 0.03, 0.15),
    ),
    EditType.STYLE: (
        Question("is it in that style, everywhere?", look_flaws.style_missing, 0.2, 0.95, follows=True),
        Question("does it show the same things?", look_flaws.content_lost, 0.25, 0.9),
        Question("is it crisp?", look_flaws.not_crisp, 0.1, 0.9),
        Question("is it free of smudges?", look_flaws.smudged, 0.5, 1.0),
    ),
}

GENERIC: tuple[Question, ...] = (
    Question("has something changed?", picture_flaws.nothing_changed, 0.2, 1.0, follows=True),
    Question("is it free of grain?", picture_flaws.grainy, 0.004, 0.05),
    Question("does it show the same things?", picture_flaws.subject_changed, 0.25, 0.7),
)
"""One set for all edit types, from the same measurements: the stand-in for the paper's Base-Scorer."""
