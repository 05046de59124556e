"""Numbers that a pencil can check, and the laws of group-relative advantages."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.advantage import group_advantages, has_signal
from training.reward import rewards_of, scores_to_tensor

NAN = float("nan")


def test_the_papers_sigmoid():
    rewards = rewards_of(torch.tensor([0.0, 1, 2, 2.5, 3, 4, 5]))
    expected = [0.0067, 0.0474, 0.2689, 0.5, 0.7311, 0.9526, 0.9933]
    assert rewards.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_missing_score_stays_missing():
    rewards = rewards_of(scores_to_tensor([5.0, None]))
    assert rewards[0] == pytest.approx(0.9933, abs=1e-4)
    assert math.isnan(rewards[1])


@pytest.mark.parametrize("score", [-0.1, 5.1, float("inf")])
def test_a_score_outside_the_scale_is_refused(score):
    with pytest.raises(ValueError, match="sample 1"):
        scores_to_tensor([3.0, score])


def test_equal_rewards_give_no_advantage():
    rewards = torch.full((2, 4), 0.7)
    assert group_advantages(rewards).abs().max() == 0
    assert not has_signal(rewards).any()


def test_advantages_of_one_group():
    """0 and 1, twice each: mean .5, deviation .5."""
    advantages = group_advantages(torch.tensor([[0.0, 1, 0, 1]]))
    assert advantages.tolist()[0] == pytest.approx([-1, 1, -1, 1], abs=1e-3)


def test_a_missing_reward_counts_for_nothing():
    with_gap = group_advantages(torch.tensor([[0.0, NAN, 1, 0, 1]]))
    without = group_advantages(torch.tensor([[0.0, 1, 0, 1]]))
    assert with_gap[0, 1] == 0
    torch.testing.assert_close(with_gap[0, [0, 2, 3, 4]], without[0])


def test_a_group_with_one_score_says_nothing():
    assert group_advantages(torch.tensor([[NAN, 0.9, NAN]])).abs().max() == 0
    assert group_advantages(torch.full((1, 3), NAN)).abs().max() == 0


@settings(deadline=None, max_examples=50)
@given(
    rewards=st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=3, max_size=8),
    shift=st.floats(-1, 1),
)
def test_shifting_a_group_changes_nothing(rewards, shift):
    group = torch.tensor([rewards])
    torch.testing.assert_close(group_advantages(group), group_advantages(group + shift), atol=1e-3, rtol=1e-3)


def test_advantages_are_clamped():
    rewards = torch.zeros(1, 64)
    rewards[0, 0] = 1
    assert group_advantages(rewards, limit=5).max() == 5
