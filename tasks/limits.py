"""The quality gate of a stage: a version becomes `latest` only if what is measured of it is within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

FEWEST_ROWS_TO_COMPARE = 100
"""Shares of fewer rows than this change by chance; they are not compared with those of the version before."""
ROWS = "rows"
"""The measure that every version has."""


class Limit(BaseModel):
    """What one measure may be. Bounds that are not set do not count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_least: float | None = None
    at_most: float | None = None
    may_change_by: float | None = Field(
        None, ge=0, description="Against the version before, if it was made with the same configuration."
    )


Limits = Mapping[str, Limit]
"""By the measure's name."""


MISSING = ("coverage", "unscored_share")
"""Measures of what is missing; all others are of what is there."""


def only_missing(reasons: Sequence[str]) -> bool:
    """Whether a version was rejected only because something is missing in it: what is there is good."""
    return all(reason.split()[0] in MISSING for reason in reasons)


def broken_limits(measures: Mapping[str, float], before: Mapping[str, float] | None, limits: Limits) -> list[str]:
    """Why a version is not good enough; empty where it is.

    Args:
        measures: of the version, by name. Every one that a limit names must be there: what cannot be measured, such as
            a mean of no scores, is not within limits.
        before: of the version before; None where there is none to compare with.

    Raises: ValueError for a limit of a measure that the stage does not know.
    """
    reasons = []
    for name, limit in limits.items():
        if name not in measures:
            raise ValueError(f"limit {name!r}: the stage measures {', '.join(sorted(measures))}")
        value = measures[name]
        if value != value:
            reasons.append(f"{name} could not be measured")
            continue
        if limit.at_least is not None and value < limit.at_least:
            reasons.append(f"{name} {value:.4g} is below {limit.at_least:.4g}")
        if limit.at_most is not None and value > limit.at_most:
            reasons.append(f"{name} {value:.4g} is above {limit.at_most:.4g}")
        if limit.may_change_by is None or before is None or before.get(name) is None:
            continue
        if min(measures.get(ROWS, 0), before.get(ROWS, 0)) < FEWEST_ROWS_TO_COMPARE:
            continue
        if abs(value - before[name]) > limit.may_change_by:
            reasons.append(
                f"{name} went from {before[name]:.4g} to {value:.4g}, by more than {limit.may_change_by:.4g}"
            )
    return reasons
