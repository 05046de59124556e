"""What can be wrong with the picture as a whole, whatever was asked: badnesses, 0 for a perfect edit."""

from __future__ import annotations

import numpy as np

from tasks.hp_scorer import measurements as m
from tasks.hp_scorer.case import Case
from tasks.hp_scorer.measurements import Measured


def change_outside(case: Case) -> float:
    """Change beyond the subject's surroundings."""
    return m.mean_over(case.seen.change, ~case.seen.grown(2.5))


def worst_change_outside(case: Case) -> float:
    """The largest local change beyond the subject's surroundings: blotches count that a mean would forgive."""
    where = ~case.seen.grown(2.5)
    return local_peak(case.seen, where)


def local_peak(seen: Measured, where: m.Mask) -> float:
    """The largest change of a region once it is smoothed over some units."""
    values = m.soften(np.where(where, seen.change, 0.0), 2.5 * seen.unit)
    return float(np.quantile(values[where], 0.99)) if where.any() else 0.0


def ring_change(case: Case) -> float:
    """Change in the ring around the subject, which only a spilling edit touches."""
    return m.mean_over(case.seen.change, case.seen.grown(4) & ~case.seen.grown(1.2))


def subject_changed(case: Case) -> float:
    """Change within the subject, its rim left out."""
    return m.mean_over(np.abs(case.seen.edited - case.seen.source).mean(2), case.seen.shrunk(1.0))


def subject_blurred(case: Case) -> float:
    """Contrast that the subject has lost."""
    seen = case.seen
    where = seen.shrunk(0.5)
    before, after = m.mean_over(m.detail(seen.source), where), m.mean_over(m.detail(seen.edited), where)
    return 1 - after / (before + 1e-3)


def nothing_changed(case: Case) -> float:
    """Whether it is the same picture: the generic judge's first question."""
    return 1 - float(np.clip(np.abs(case.seen.edited - case.seen.source).mean() / 0.04, 0, 1))


def grainy(case: Case) -> float:
    """Fine grain that the source does not have."""
    return max(_grain(case.seen.edited) - _grain(case.seen.source), 0.0)


def _grain(image: m.Image) -> float:
    luma = image @ m.LUMA
    return float(
        np.abs(luma - np.median(np.stack([np.roll(luma, s, a) for a in (0, 1) for s in (-1, 0, 1)]), 0)).mean()
    )
