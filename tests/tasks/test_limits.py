"""The quality gate."""

import pytest

from tasks.limits import Limit, broken_limits

MANY = {"rows": 1000.0}


def test_bounds_are_told_with_value_and_limit():
    limits = {"coverage": Limit(at_least=0.95), "full_share": Limit(at_most=0.9)}
    assert broken_limits({"coverage": 0.95, "full_share": 0.9}, None, limits) == []
    assert broken_limits({"coverage": 0.94, "full_share": 0.91}, None, limits) == [
        "coverage 0.94 is below 0.95",
        "full_share 0.91 is above 0.9",
    ]


def test_a_change_is_seen_in_both_directions_and_only_against_a_version_before():
    limits = {"mean": Limit(may_change_by=0.5)}
    for value in (3.4, 4.6):
        (reason,) = broken_limits({"mean": value, **MANY}, {"mean": 4.0, **MANY}, limits)
        assert reason == f"mean went from 4 to {value}, by more than 0.5"
    assert broken_limits({"mean": 1.0, **MANY}, None, limits) == []
    assert broken_limits({"mean": 1.0, **MANY}, {**MANY}, limits) == []


def test_shares_of_a_few_rows_are_not_compared():
    limits = {"mean": Limit(may_change_by=0.5)}
    assert broken_limits({"mean": 1.0, "rows": 20.0}, {"mean": 4.0, **MANY}, limits) == []


def test_what_cannot_be_measured_is_not_within_limits():
    assert broken_limits({"mean": float("nan")}, None, {"mean": Limit(at_least=0.0)}) == ["mean could not be measured"]


def test_a_limit_of_an_unknown_measure_is_a_mistake():
    with pytest.raises(ValueError, match="'covrage': the stage measures coverage, rows"):
        broken_limits({"coverage": 1.0, **MANY}, None, {"covrage": Limit(at_least=0.9)})
