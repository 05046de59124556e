"""The clipped objective, and what GRPO-Guard changes: on paper, by differences, and over many drawn steps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from training import sde
from training.objective import Guard, policy_loss
from training.sde import Sde, StepDistribution


class TestClip:
    def test_on_policy_the_ratio_is_one_and_the_loss_the_mean_advantage(self):
        log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
        result = policy_loss(log_prob, log_prob.detach(), torch.tensor([1.0, -0.5]), ratio_clip=1e-3)
        assert result.ratio.tolist() == [1, 1]
        assert result.loss.item() == pytest.approx(-0.25)
        assert result.clipped_share.item() == 0
        result.loss.backward()
        # The policy gradient: -A / n.
        assert log_prob.grad.tolist() == pytest.approx([-0.5, 0.25])

    @pytest.mark.parametrize(
        ("change", "advantage", "held_back"),
        [(0.01, 1.0, True), (0.01, -1.0, False), (-0.01, 1.0, False), (-0.01, -1.0, True), (0.0005, 1.0, False)],
    )
    def test_it_holds_back_only_what_went_too_far_in_the_wanted_direction(self, change, advantage, held_back):
        old = torch.tensor([-1.0])
        log_prob = (old + change).requires_grad_()
        result = policy_loss(log_prob, old, torch.tensor([advantage]), ratio_clip=1e-3)
        result.loss.backward()
        assert result.clipped_share.item() == float(held_back)
        assert (log_prob.grad.item() == 0) is held_back

    @pytest.mark.parametrize(
        ("change", "advantage", "held_back"),
        [(3e-4, 1.0, False), (6e-4, 1.0, True), (-3e-4, -1.0, True), (-0.5e-4, -1.0, False), (-3e-4, 1.0, False)],
    )
    def test_it_may_reach_further_up_than_down(self, change, advantage, held_back):
        """EditScore's range, [1 - 1e-4, 1 + 5e-4]."""
        old = torch.tensor([-1.0], dtype=torch.float64)
        result = policy_loss(old + change, old, torch.tensor([advantage]), 1e-4, ratio_clip_high=5e-4)
        assert result.clipped_share.item() == float(held_back)
        bound = {(6e-4, 1.0): -1.0005, (-3e-4, -1.0): 0.9999}.get((change, advantage), -advantage * math.exp(change))
        assert result.loss.item() == pytest.approx(bound, abs=1e-12)

    @settings(deadline=None, max_examples=50)
    @given(
        log_ratios=st.lists(st.floats(-0.1, 0.1), min_size=4, max_size=4),
        advantages=st.lists(st.floats(-5, 5), min_size=4, max_size=4),
        low=st.floats(1e-5, 0.05),
        high=st.floats(1e-5, 0.05),
    )
    def test_it_is_a_pessimist(self, log_ratios, advantages, low, high):
        """The loss is never below the plain one, rises as the range narrows, and is linear in the advantages' scale."""
        old = torch.zeros(4, dtype=torch.float64)
        new, advantage = (torch.tensor(values, dtype=torch.float64) for values in (log_ratios, advantages))
        loss = policy_loss(new, old, advantage, low, high).loss
        plain = -np.mean(np.array(advantages) * np.exp(log_ratios))
        assert loss >= plain - 1e-12
        assert policy_loss(new, old, advantage, low / 2, high / 2).loss >= loss - 1e-12
        torch.testing.assert_close(policy_loss(new, old, 3 * advantage, low, high).loss, 3 * loss)


SAMPLES, TOKENS, CHANNELS = 4000, 16, 16
NUMBERS = TOKENS * CHANNELS
APART = 0.05
"""Root mean square of what the policy's means have moved since the samples were drawn."""


@pytest.fixture(scope="module")
def displaced():
    """Steps of two widths, drawn under one policy and looked at under another whose means are `APART` from it."""
    generator = torch.Generator().manual_seed(1)
    shape = (SAMPLES, TOKENS, CHANNELS)
    moved = torch.randn(shape, generator=generator)
    moved *= APART / moved.pow(2).mean((1, 2), keepdim=True).sqrt()
    std = torch.full((SAMPLES,), 0.2)
    std[SAMPLES // 2 :] = 0.6
    old = StepDistribution(torch.randn(shape, generator=generator), std)
    drawn = sde.sample(old, torch.randn(shape, generator=generator))
    policy = StepDistribution(old.mean_BNC + moved, std)
    return old, policy, sde.log_probability(policy, drawn), sde.log_probability(old, drawn)


def _ratios(displaced, guarded):
    old, policy, log_prob, old_log_prob = displaced
    guard = Guard(sde.kl_divergence(policy, old), policy.std_B, torch.ones(SAMPLES)) if guarded else None
    return policy_loss(log_prob, old_log_prob, torch.ones(SAMPLES), 1e-3, guard=guard).ratio.view(2, -1)


class TestGuard:
    def test_without_it_ratios_are_low_by_the_divergence(self, displaced):
        """Below 1, and by another amount at every step.

        With D numbers per step the mean log-ratio is N(-b, 2 b / D), b = apart^2 / (2 std^2), so the ratio has the mean
        exp(-b (1 - 1 / D)), where a sum over the D numbers would have N(-D b, 2 D b) and the mean 1.
        """
        for ratio, std in zip(_ratios(displaced, False), (0.2, 0.6), strict=True):
            b = APART**2 / (2 * std**2)
            error = math.sqrt(2 * b / NUMBERS / len(ratio))
            assert ratio.mean().item() == pytest.approx(math.exp(-b * (1 - 1 / NUMBERS)), abs=4 * error)
            # 0.031 and 0.0035: tens of standard errors, and the clip ranges of published runs many times over.
            assert 1 - ratio.mean().item() > 25 * error

    def test_with_it_ratios_are_around_one_and_equally_wide_at_every_step(self, displaced):
        """What remains is mean(noise * moved): N(0, apart^2 / D), whatever the step's std."""
        spread = APART / math.sqrt(NUMBERS)
        for ratio in _ratios(displaced, True):
            error = spread / math.sqrt(len(ratio))
            assert ratio.mean().item() == pytest.approx(1, abs=3 * error)
            # A deviation is known to 1 in sqrt(2 n).
            assert ratio.std().item() == pytest.approx(spread, rel=4 / math.sqrt(2 * len(ratio)))

    def test_with_it_the_clip_holds_back_as_much_above_as_below(self, displaced):
        """All advantages 1 count what is too far up, all -1 what is too far down."""
        old, policy, log_prob, old_log_prob = displaced
        clip = APART / math.sqrt(NUMBERS)  # one deviation of guarded ratios: 16 % beyond on either side
        guard = Guard(sde.kl_divergence(policy, old), policy.std_B, torch.ones(SAMPLES))
        sides = torch.tensor([[1.0], [-1.0]]).expand(2, SAMPLES)
        above, below = (policy_loss(log_prob, old_log_prob, side, clip, guard=guard).clipped_share for side in sides)
        expected = float(stats.norm.sf(1))
        # The two shares exclude each other, so their difference has the variance 2 p / n.
        assert (above - below).abs().item() < 4 * math.sqrt(2 * expected / SAMPLES)
        assert [above.item(), below.item()] == pytest.approx([expected] * 2, abs=4 * math.sqrt(expected / SAMPLES))
        # Without it, about everything of the narrow half is too low, and nearly nothing too high.
        above, below = (policy_loss(log_prob, old_log_prob, side, clip).clipped_share for side in sides)
        assert above.item() < 0.1
        assert below.item() > 0.5

    def test_the_published_formula(self):
        """By hand in numpy, each step's loss over -dt.

        r = exp((log p - log p_old + b) sqrt(-dt) sigma), b = mean |apart|^2 / (2 (sqrt(-dt) sigma)^2).
        """
        rng = np.random.default_rng(0)
        t, t_next, level = np.array([0.9, 0.5, 0.3]), np.array([0.8, 0.45, 0.1]), 0.7
        x, v, noise = rng.normal(size=(3, 3, 4, 2))
        v_new = v + 0.03 * rng.normal(size=v.shape)
        sigma, root = level * np.sqrt(t / (1 - t)), np.sqrt(t - t_next)

        def mean_of(velocity):
            wide = (slice(None), None, None)
            drift = velocity + (sigma**2 / (2 * t))[wide] * (x + (1 - t)[wide] * velocity)
            return x + drift * (t_next - t)[wide]

        drawn = mean_of(v) + (sigma * root)[:, None, None] * noise
        logs = [stats.norm.logpdf(drawn, mean_of(u), (sigma * root)[:, None, None]).mean((1, 2)) for u in (v_new, v)]
        b = ((mean_of(v_new) - mean_of(v)) ** 2).mean((1, 2)) / (2 * (root * sigma) ** 2)
        ratio = np.exp((logs[0] - logs[1] + b) * root * sigma)
        advantage = np.array([1.0, -1.0, 0.5])
        clipped = advantage * np.clip(ratio, 1 - 1e-3, 1 + 1e-3)
        loss = (-np.minimum(advantage * ratio, clipped) / (t - t_next)).mean()

        old, policy = (
            sde.step_distribution(*(torch.tensor(part) for part in (x, u, t, t_next)), level, 0.95) for u in (v, v_new)
        )
        result = policy_loss(
            sde.log_probability(policy, torch.tensor(drawn)),
            sde.log_probability(old, torch.tensor(drawn)),
            torch.tensor(advantage),
            1e-3,
            guard=Guard(sde.kl_divergence(policy, old), policy.std_B, torch.tensor(t - t_next)),
        )
        assert result.ratio.numpy() == pytest.approx(ratio, rel=1e-12)
        assert result.loss.item() == pytest.approx(loss, rel=1e-12)
        # And the log-ratio is the noise along the displacement.
        along = (noise * (mean_of(v_new) - mean_of(v))).mean((1, 2))
        assert np.log(result.ratio.numpy()) == pytest.approx(along, abs=1e-14)

    def test_every_step_of_the_flow_sde_has_the_same_gradient(self):
        """With respect to its velocity, on policy: A noise (1 + a^2 / 2) / (D B), with neither time nor width in it.

        For the mean moves by -(1 + a^2 / 2) (t - t_next) per velocity. Unguarded, steps differ in steepness.
        """
        generator = torch.Generator().manual_seed(2)
        latents, velocity, noise = (torch.randn(4, 3, 2, generator=generator, dtype=torch.float64) for _ in range(3))
        t = torch.tensor([0.95, 0.8, 0.5, 0.2], dtype=torch.float64)
        t_next = torch.tensor([0.9, 0.6, 0.35, 0.1], dtype=torch.float64)

        def gradient(guarded):
            moving = velocity.clone().requires_grad_()
            policy = sde.step_distribution(latents, moving, t, t_next, 0.9, 0.95)
            old = StepDistribution(policy.mean_BNC.detach(), policy.std_B)
            drawn = sde.sample(old, noise)
            guard = Guard(sde.kl_divergence(policy, old), policy.std_B, t - t_next) if guarded else None
            log_probs = sde.log_probability(policy, drawn), sde.log_probability(old, drawn)
            loss = policy_loss(*log_probs, torch.full((4,), 0.7, dtype=torch.float64), 1e-4, guard=guard).loss
            return torch.autograd.grad(loss, moving)[0]

        torch.testing.assert_close(gradient(True), 0.7 * noise * (1 + 0.9**2 / 2) / (6 * 4))
        steepness = (t - t_next) / policy_std(t, t_next, 0.9)
        torch.testing.assert_close(gradient(False), gradient(True) * steepness[:, None, None])

    @pytest.mark.parametrize("kind", Sde)
    def test_its_gradient_is_that_of_finite_differences(self, kind):
        """Off policy too, where the divergence has a gradient of its own."""
        generator = torch.Generator().manual_seed(3)
        latents, velocity, noise, moved, tangent = (
            torch.randn(4, 3, 2, generator=generator, dtype=torch.float64) for _ in range(5)
        )
        t = torch.tensor([0.95, 0.8, 0.5, 0.2], dtype=torch.float64)
        advantage = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
        old = sde.step_distribution(latents, velocity, t, t / 2, 0.7, 0.95, kind)
        drawn = sde.sample(old, noise)

        def loss(velocity):
            policy = sde.step_distribution(latents, velocity, t, t / 2, 0.7, 0.95, kind)
            guard = Guard(sde.kl_divergence(policy, old), policy.std_B, t / 2)
            log_probs = sde.log_probability(policy, drawn), sde.log_probability(old, drawn)
            return policy_loss(*log_probs, advantage, ratio_clip=0.5, guard=guard).loss

        at, h = velocity + 0.1 * moved, 1e-5
        (gradient,) = torch.autograd.grad(loss(at.requires_grad_()), at)
        with torch.no_grad():
            slope = (loss(at + h * tangent) - loss(at - h * tangent)) / (2 * h)
        assert (gradient * tangent).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def policy_std(t, t_next, level):
    return level * torch.sqrt(t / (1 - t)) * torch.sqrt(t - t_next)
