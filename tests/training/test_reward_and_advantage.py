"""Numbers that a pencil can check, and the laws of group-relative advantages."""

import math

import numpy as np
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


def _by_hand(rewards, limit=5.0):
    """The definition, in numpy, on what was scored."""
    rewards = np.array(rewards, dtype=np.float64)
    if len(rewards) < 2 or np.ptp(rewards) < 1e-6:
        return np.zeros_like(rewards)
    return np.clip((rewards - rewards.mean()) / (rewards.std() + 1e-4), -limit, limit)


@settings(deadline=None, max_examples=50)
@given(group=st.lists(st.one_of(st.none(), st.integers(0, 100)), min_size=1, max_size=8))
def test_a_group_is_what_was_scored_of_it(group):
    """Failures stay in place with nothing, and the others are as if the group had no more."""
    rewards = torch.tensor([[NAN if n is None else n / 100 for n in group]])
    advantages = group_advantages(rewards)
    scored = ~rewards.isnan()
    assert advantages[~scored].abs().sum() == 0
    assert advantages[scored].tolist() == pytest.approx(_by_hand(rewards[scored].tolist()), abs=1e-5)
    assert bool(has_signal(rewards)) == bool(advantages.abs().sum() > 0)


@settings(deadline=None, max_examples=50)
@given(
    rewards=st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=3, max_size=8),
    shift=st.floats(-1, 1),
)
def test_shifting_a_group_changes_nothing(rewards, shift):
    group = torch.tensor([rewards])
    torch.testing.assert_close(group_advantages(group), group_advantages(group + shift), atol=1e-3, rtol=1e-3)


@settings(deadline=None, max_examples=50)
@given(
    rewards=st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=3, max_size=8),
    scale=st.floats(0.5, 20),
)
def test_scaling_a_group_changes_nothing_but_the_floors_part(rewards, scale):
    """Of groups with any signal the deviation is at least 0.0033 here, beside which the floor of 1e-4 is 3 %."""
    group = torch.tensor([rewards])
    torch.testing.assert_close(group_advantages(group), group_advantages(scale * group), atol=1e-3, rtol=0.035)


@settings(deadline=None, max_examples=50)
@given(rewards=st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_advantages_know_order_and_sign_but_not_places(rewards, seed):
    group = torch.tensor([rewards])
    advantages = group_advantages(group)
    order = torch.randperm(len(rewards), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(group_advantages(group[:, order]), advantages[:, order])
    torch.testing.assert_close(group_advantages(-group), -advantages, atol=1e-5, rtol=1e-5)
    assert advantages.sum().abs() < 1e-4
    assert (advantages[0].argsort(stable=True) == group[0].argsort(stable=True)).all()


def test_groups_do_not_know_of_each_other():
    rewards = torch.tensor([[0.0, 1, NAN, 0.5], [0.7, 0.7, 0.7, 0.7], [NAN, NAN, 0.2, NAN]])
    together = group_advantages(rewards)
    torch.testing.assert_close(together, torch.cat([group_advantages(row[None]) for row in rewards]))
    assert has_signal(rewards).tolist() == [True, False, False]


def test_advantages_are_clamped():
    rewards = torch.zeros(1, 64)
    rewards[0, 0] = 1
    assert group_advantages(rewards, limit=5).max() == 5


class TestTooManyFailures:
    @pytest.mark.parametrize(
        ("share", "size", "least"),
        [
            (0, 8, 2),
            (0.1, 8, 2),
            (0.25, 8, 2),
            (0.5, 8, 4),
            (0.5, 7, 4),
            (0.28, 25, 7),
            (0.6, 5, 3),
            (1, 8, 8),
            (1, 2, 2),
        ],
    )
    def test_a_share_of_the_group_must_be_scored_and_at_least_two(self, share, size, least):
        rewards = torch.linspace(0, 1, size).repeat(size + 1, 1)
        for scored in range(size + 1):
            rewards[scored, scored:] = NAN
        # Row n has n scores, and all of a row differ.
        enough = [scored >= least for scored in range(size + 1)]
        assert has_signal(rewards, min_scored_share=share).tolist() == enough
        used = group_advantages(rewards, min_scored_share=share).abs().sum(1) > 0
        assert used.tolist() == enough

    def test_the_count_holds_beside_the_share(self):
        rewards = torch.tensor([[0.0, 1, 0.5, NAN]])
        assert has_signal(rewards, min_scored=3, min_scored_share=0.5)
        assert not has_signal(rewards, min_scored=4, min_scored_share=0.5)
        assert not has_signal(torch.tensor([[0.3, NAN]]), min_scored=1, min_scored_share=0.5)

    @pytest.mark.parametrize("share", [-0.1, 1.1, 4, NAN])
    def test_a_count_is_no_share(self, share):
        with pytest.raises(ValueError, match="min_scored_share"):
            group_advantages(torch.zeros(1, 4), min_scored_share=share)
