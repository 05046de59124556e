"""Questions that say nothing about whether an edit is good: a calibration must leave them out of a rubric.

They stand in the stand-in judge's question bank beside the useful ones. Useless ones are answered alike for every
edit; harmful ones are answered by something that really varies from picture to picture, and has nothing to do with the
edit's quality.
"""

from __future__ import annotations

import hashlib

import numpy as np

from tasks.hp_scorer.case import Case
from tasks.hp_scorer.questions import Question


def _no_picture(case: Case) -> float:
    return 0.0 if case.seen.edited.size else 1.0


def _out_of_range(case: Case) -> float:
    return float(np.mean((case.seen.edited < 0) | (case.seen.edited > 1)))


def _dark(case: Case) -> float:
    return 1 - float(case.seen.source.mean())


def _dull(case: Case) -> float:
    return 1 - float(np.ptp(case.seen.source, axis=-1).mean())


def _small_subject(case: Case) -> float:
    return 1 - float(case.seen.mask.mean())


def _unlucky(case: Case) -> float:
    """A coin, of the picture's bytes."""
    return hashlib.sha256(case.seen.edited.tobytes()).digest()[0] / 255


USELESS = (
    Question("is the edited image a picture?", _no_picture, 0.5, 1.0, distracts=True),
    Question("are all its colours possible?", _out_of_range, 0.5, 1.0, distracts=True),
)
HARMFUL = (
    Question("was the source bright?", _dark, 0.35, 0.75, distracts=True),
    Question("were the colours of the source strong?", _dull, 0.6, 0.95, distracts=True),
    Question("is the subject large?", _small_subject, 0.75, 0.97, distracts=True),
    Question("is it a lucky picture?", _unlucky, 0.2, 0.8, distracts=True),
)
