"""The expected digit."""

import math

import pytest

from tasks.hp_scorer.digits import expected_digit


def logs(**shares):
    return {token: math.log(share) for token, share in shares.items()}


def test_the_mean_is_over_the_digits():
    found = expected_digit({"5": math.log(0.5), "4": math.log(0.3), "3": math.log(0.2)})
    assert found.score == pytest.approx(5 * 0.5 + 4 * 0.3 + 3 * 0.2)
    assert found.mass == pytest.approx(1.0)
    assert found.spread == pytest.approx(math.sqrt(0.5 * 0.7**2 + 0.3 * 0.3**2 + 0.2 * 1.3**2))


def test_what_is_no_digit_counts_as_lost_mass():
    found = expected_digit({"5": math.log(0.3), "The": math.log(0.6), "4": math.log(0.1)})
    assert found.mass == pytest.approx(0.4)
    assert found.score == pytest.approx((5 * 0.3 + 4 * 0.1) / 0.4)


def test_variants_of_a_digit_count_together():
    found = expected_digit({"4": math.log(0.25), " 4": math.log(0.25), "▁4": math.log(0.25), "Ġ4": math.log(0.2)})
    assert found.score == pytest.approx(4)
    assert found.mass == pytest.approx(0.95)


@pytest.mark.parametrize("tokens", [{}, {"The": 0.0}, {"6": 0.0}, {"10": 0.0}, {"45": 0.0}, {"": 0.0}])
def test_without_a_digit_there_is_no_score(tokens):
    assert expected_digit(tokens) is None


def test_values_that_are_no_probabilities_do_no_harm():
    assert expected_digit({"5": float("nan")}) is None
    found = expected_digit({"5": 0.7, "4": -math.inf})
    assert (found.score, found.mass, found.spread) == (5.0, 1.0, 0.0)
