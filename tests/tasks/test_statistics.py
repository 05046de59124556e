"""Means and paired differences."""

import numpy as np
import pytest

from tasks.statistics import bootstrap_mean, paired_gain


def test_the_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(0).normal(2, 1, 400)
    interval = bootstrap_mean(list(values), [str(i) for i in range(400)])
    half = 1.96 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.01)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.01)


def test_cases_of_one_image_are_not_independent():
    """Four copies of every value are no more evidence than one."""
    values = np.random.default_rng(0).normal(2, 1, 100)
    alone = bootstrap_mean(list(values), [str(i) for i in range(100)])
    copies = bootstrap_mean(list(values) * 4, [str(i) for i in range(100)] * 4)
    assert copies.high - copies.low == pytest.approx(alone.high - alone.low, rel=0.05)


def test_a_gain_is_paired():
    baseline = list(np.random.default_rng(1).uniform(0, 5, 200))
    gain = paired_gain(baseline, [b + 0.1 for b in baseline], [str(i) for i in range(200)])
    assert gain.gain == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1)
    assert gain.significantly_better
    assert not gain.significantly_worse


def test_a_missing_score_is_left_out_and_counted():
    gain = paired_gain([1.0, None, 2.0], [2.0, 5.0, None], ["a", "b", "c"])
    assert (gain.n, gain.total, gain.gain) == (1, 3, 1.0)


def test_nothing_to_compare_is_no_number():
    assert paired_gain([None], [1.0], ["a"]) is None
    with pytest.raises(ValueError, match="no values"):
        bootstrap_mean([], [])
