"""The noisy steps against PyTorch's normal distribution, textbook derivations, and problems with known marginals."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from training import sde
from training.sde import Sde

LEVELS = {Sde.FLOW: [0.4, 0.9, 1.5], Sde.CPS: [0.3, 0.8, 1.0]}
BOTH = [(kind, level) for kind, levels in LEVELS.items() for level in levels]


def _random_step(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    latents, velocity, noise = (torch.randn(5, 3, 4, generator=generator, dtype=dtype) for _ in range(3))
    t = torch.tensor([1.0, 0.9, 0.7, 0.4, 0.2], dtype=dtype)
    return latents, velocity, noise, t, t - torch.tensor([0.1, 0.05, 0.2, 0.1, 0.15], dtype=dtype)


class TestDensity:
    @pytest.mark.parametrize(("kind", "level"), BOTH)
    def test_log_probability_is_that_of_a_normal_distribution(self, kind, level):
        latents, velocity, noise, t, t_next = _random_step()
        step = sde.step_distribution(latents, velocity, t, t_next, level, 0.95, kind)
        drawn = sde.sample(step, noise)
        expected = torch.distributions.Normal(step.mean_BNC, step.std_B[:, None, None]).log_prob(drawn).mean((1, 2))
        torch.testing.assert_close(sde.log_probability(step, drawn), expected, check_dtype=False)

    @pytest.mark.parametrize(("kind", "level"), BOTH)
    def test_kl_is_that_of_two_normal_distributions(self, kind, level):
        latents, velocity, noise, t, t_next = _random_step()
        policy = sde.step_distribution(latents, velocity, t, t_next, level, 0.95, kind)
        reference = sde.step_distribution(latents, velocity + 0.1 * noise, t, t_next, level, 0.95, kind)
        expected = torch.distributions.kl_divergence(
            torch.distributions.Normal(policy.mean_BNC, policy.std_B[:, None, None]),
            torch.distributions.Normal(reference.mean_BNC, reference.std_B[:, None, None]),
        ).mean((1, 2))
        torch.testing.assert_close(sde.kl_divergence(policy, reference), expected)

    @pytest.mark.parametrize("kind", Sde)
    def test_the_gradient_is_that_of_finite_differences(self, kind):
        """Through the mean alone: what was drawn counts as given."""
        latents, velocity, noise, t, t_next = _random_step(dtype=torch.float64)
        drawn = sde.sample(sde.step_distribution(latents, velocity, t, t_next, 0.7, 0.95, kind), noise)

        def log_probability(velocity):
            step = sde.step_distribution(latents, velocity, t, t_next, 0.7, 0.95, kind)
            return sde.log_probability(step, drawn).sum()

        (gradient,) = torch.autograd.grad(log_probability(velocity.requires_grad_()), velocity)
        tangent, h = torch.randn_like(velocity), 1e-5
        with torch.no_grad():
            slope = (log_probability(velocity + h * tangent) - log_probability(velocity - h * tangent)) / (2 * h)
        assert (gradient * tangent).sum().item() == pytest.approx(slope.item(), rel=1e-7)
        # Drawn anew with the same noise it would not depend on the velocity, so this gradient must come out as well.
        step = sde.step_distribution(latents, velocity, t, t_next, 0.7, 0.95, kind)
        (again,) = torch.autograd.grad(sde.log_probability(step, sde.sample(step, noise)).sum(), velocity)
        torch.testing.assert_close(again, gradient)

    def test_a_published_clip_range_for_cps_is_one_over_two_variances_here(self):
        """Published: -(drawn - mean)^2, averaged. The log-ratio of two policies differs by 2 std^2 and nothing else."""
        latents, velocity, noise, t, t_next = _random_step(dtype=torch.float64)
        old = sde.step_distribution(latents, velocity, t, t_next, 0.8, 0.95, Sde.CPS)
        new = sde.step_distribution(latents, velocity + 0.01 * noise.flip(0), t, t_next, 0.8, 0.95, Sde.CPS)
        drawn = sde.sample(old, noise)
        published = [-((drawn - step.mean_BNC) ** 2).mean((1, 2)) for step in (new, old)]
        ours = sde.log_probability(new, drawn) - sde.log_probability(old, drawn)
        std = t_next * math.sin(0.4 * math.pi)
        torch.testing.assert_close(ours, (published[0] - published[1]) / (2 * std**2))
        # The docstring's example.
        assert [1 / (2 * (t * math.sin(0.4 * math.pi)) ** 2) for t in (0.9, 0.5)] == pytest.approx(
            [0.68, 2.21], abs=0.01
        )


class TestOneStep:
    @pytest.mark.parametrize("kind", Sde)
    def test_with_hardly_any_noise_the_step_is_the_eulers(self, kind):
        latents, velocity, noise, t, t_next = _random_step()
        step = sde.step_distribution(latents, velocity, t, t_next, 1e-5, 0.95, kind)
        euler = sde.ode_step(latents, velocity, t, t_next)
        torch.testing.assert_close(sde.sample(step, noise), euler, atol=1e-4, rtol=0)

    def test_a_pencil_example_of_flow(self):
        """t = .5, t' = .4, a = 1: sigma = 1, mean = x (1 - .1) + v (1 + .5) (-.1), std = sqrt(.1)."""
        step = sde.step_distribution(
            torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 3.0), torch.tensor([0.5]), torch.tensor([0.4]), 1.0, 0.9
        )
        assert step.mean_BNC.item() == pytest.approx(2 * 0.9 + 3 * 1.5 * -0.1)
        assert step.std_B.item() == pytest.approx(math.sqrt(0.1))

    def test_a_pencil_example_of_cps(self):
        """t = .5, t' = .4, a third of a right angle: x_0 = .5, x_1 = 3.5, std = .2, sqrt(.16 - .04) = .3464."""
        step = sde.step_distribution(
            *(torch.full((1, 1, 1), value) for value in (2.0, 3.0)),
            torch.tensor([0.5]),
            torch.tensor([0.4]),
            noise_level=1 / 3,
            t_limit=0.9,
            sde=Sde.CPS,
        )
        assert step.mean_BNC.item() == pytest.approx(0.6 * 0.5 + math.sqrt(0.12) * 3.5)
        assert step.std_B.item() == pytest.approx(0.2)

    def test_flow_follows_the_score(self):
        """The reverse SDE is dx = (v - sigma^2 / 2 * score) dt + sigma dw.

        Here the score comes from differentiating a mixture's density, and v from its own closed form.
        """
        problem = Mixture([0.3, 0.7], [[-1.0], [2.0]], [[[0.2]], [[0.5]]])
        x = torch.linspace(-3, 3, 50, dtype=torch.float64)[:, None, None]
        t, t_next, level = 0.6, 0.55, 0.8
        at = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(problem.log_density(at, t).sum(), at)
        sigma = level * math.sqrt(t / (1 - t))
        expected = x + (problem.velocity(x, t) - sigma**2 / 2 * score) * (t_next - t)
        step = _step(x, problem.velocity(x, t), t, t_next, Sde.FLOW, level, 0.95)
        torch.testing.assert_close(step.mean_BNC, expected)
        torch.testing.assert_close(step.std_B, torch.full((50,), sigma * math.sqrt(t - t_next), dtype=torch.float64))

    @pytest.mark.parametrize("kind", Sde)
    def test_pure_noise_is_a_place_to_start(self, kind):
        latents, velocity, _, _, _ = _random_step()
        step = sde.step_distribution(latents, velocity, torch.ones(5), torch.full((5,), 0.95), 0.7, 0.95, kind)
        # FLOW: 0.7 sqrt(1 / .05) sqrt(.05). CPS has no use for the limit.
        expected = 0.7 if kind is Sde.FLOW else 0.95 * math.sin(0.35 * math.pi)
        assert step.std_B.tolist() == pytest.approx([expected] * 5)
        assert step.mean_BNC.isfinite().all()

    @pytest.mark.parametrize("kind", Sde)
    @pytest.mark.parametrize("level", [0, -0.1, float("nan")])
    def test_no_noise_is_refused(self, kind, level):
        latents, velocity, _, t, t_next = _random_step()
        with pytest.raises(ValueError, match=f"noise_level {level}: .* ode_step"):
            sde.step_distribution(latents, velocity, t, t_next, level, 0.95, kind)

    @pytest.mark.parametrize("kind", Sde)
    @pytest.mark.parametrize("t_next", [0.0, 0.5, 0.6])
    def test_the_last_step_and_steps_backwards_are_refused(self, kind, t_next):
        latents, velocity, _, _, _ = _random_step()
        with pytest.raises(ValueError, match="0 < t_next < t; take the last step with ode_step"):
            sde.step_distribution(latents, velocity, torch.full((5,), 0.5), torch.full((5,), t_next), 0.7, 0.95, kind)

    def test_what_has_no_meaning_is_refused(self):
        latents, velocity, _, t, t_next = _random_step()
        with pytest.raises(ValueError, match=r"noise_level 1\.1: CPS takes \(0, 1\]"):
            sde.step_distribution(latents, velocity, t, t_next, 1.1, 0.95, Sde.CPS)
        with pytest.raises(ValueError, match=r"t_limit 1\.0"):
            sde.step_distribution(latents, velocity, t, t_next, 0.7, 1.0)
        with pytest.raises(ValueError, match="dance"):
            sde.step_distribution(latents, velocity, t, t_next, 0.7, 0.95, "dance")


# Marginals. Data whose velocity field E[noise - x_0 | x_t] is known in closed form, so that x_t must have a known
# distribution at every t, whatever the noise. Axes: K components, D dimensions, which are the channels of one token.


class Mixture:
    """Data from sum_k weight_k N(mean_k, cov_k), so x_t from sum_k weight_k N((1-t) mean_k, (1-t)^2 cov_k + t^2 I)."""

    def __init__(self, weights, means, covs):
        self.weights_K, self.means_KD, self.covs_KDD = (
            torch.tensor(part, dtype=torch.float64) for part in (weights, means, covs)
        )

    def at(self, t):
        eye = torch.eye(self.means_KD.shape[1], dtype=torch.float64)
        return (1 - t) * self.means_KD, (1 - t) ** 2 * self.covs_KDD + t**2 * eye

    def moments(self, t):
        means_KD, covs_KDD = self.at(t)
        mean_D = self.weights_K @ means_KD
        apart_KD = means_KD - mean_D
        spread_KDD = covs_KDD + apart_KD[:, :, None] * apart_KD[:, None, :]
        return mean_D, (self.weights_K[:, None, None] * spread_KDD).sum(0)

    def cdf(self, t):
        means_KD, covs_KDD = self.at(t)
        parts = list(zip(self.weights_K, means_KD[:, 0], covs_KDD[:, 0, 0].sqrt(), strict=True))
        return lambda x: sum(float(w) * stats.norm.cdf(x, float(m), float(s)) for w, m, s in parts)

    def log_density(self, x_BND, t):
        means_KD, covs_KDD = self.at(t)
        return torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(self.weights_K),
            torch.distributions.MultivariateNormal(means_KD, covs_KDD),
        ).log_prob(x_BND[:, 0])

    def velocity(self, x_BND, t):
        """Within a component x_0, noise and x_t are jointly normal, so that E[noise - x_0 | x_t] is linear in x_t.

        It is -mean_k + (t I - (1 - t) cov_k) cov_t^-1 (x - (1 - t) mean_k); posteriors weigh the components.
        """
        means_KD, covs_KDD = self.at(t)
        eye = torch.eye(means_KD.shape[1], dtype=torch.float64)
        gains_KDD = (t * eye - (1 - t) * self.covs_KDD) @ torch.linalg.inv(covs_KDD)
        means_KD, gains_KDD, inverses_KDD = (
            part.to(x_BND.dtype) for part in (means_KD, gains_KDD, torch.linalg.inv(covs_KDD))
        )
        apart_KBD = x_BND[:, 0] - means_KD[:, None]
        velocities_KBD = apart_KBD @ gains_KDD.mT - self.means_KD[:, None].to(x_BND.dtype)
        if len(self.weights_K) == 1:
            return velocities_KBD[0, :, None]
        heights_K = (self.weights_K.log() - 0.5 * torch.logdet(covs_KDD)).to(x_BND.dtype)
        exponents_KB = heights_K[:, None] - 0.5 * ((apart_KBD @ inverses_KDD) * apart_KBD).sum(-1)
        return (torch.softmax(exponents_KB, 0)[:, :, None] * velocities_KBD).sum(0)[:, None]


def _step(x, velocity, t, t_next, kind, level, t_limit):
    t_B, t_next_B = (x.new_full((len(x),), float(time)) for time in (t, t_next))
    return sde.step_distribution(x, velocity, t_B, t_next_B, level, t_limit, kind)


def _without_correction(x, velocity, t, t_next, kind, level, t_limit):
    """The control: noise is added, and the drift stays the ODE's."""
    step = _step(x, velocity, t, t_next, kind, level, t_limit)
    return step._replace(mean_BNC=x + velocity * float(t_next - t))


def _times(steps):
    return np.linspace(1, 0, steps + 1)


LOOKED_AT = (0.75, 0.5, 0.25, 0.0)


def _discrete_moments(problem, kind, level, steps, step=_step):
    """Mean and covariance at the times looked at, **without sampling**.

    On one normal component steps are affine, so what one does to both can be read off where it sends D + 1 points.
    """
    mean_D, cov_DD = problem.moments(1.0)
    dims, found = len(mean_D), {}
    times = _times(steps)
    for t, t_next in pairwise(times):
        points = torch.cat([mean_D[None], mean_D + torch.eye(dims, dtype=torch.float64)])[:, None]
        velocity = problem.velocity(points, t)
        if t_next == 0:
            moved, std = points + velocity * (t_next - t), 0.0
        else:
            distribution = step(points, velocity, t, t_next, kind, level, times[1])
            moved, std = distribution.mean_BNC, float(distribution.std_B[0])
        mean_D = moved[0, 0]
        slope_DD = (moved[1:, 0] - mean_D).T
        cov_DD = slope_DD @ cov_DD @ slope_DD.T + std**2 * torch.eye(dims, dtype=torch.float64)
        if t_next in LOOKED_AT:
            found[t_next] = mean_D, cov_DD
    return found


def _particles(problem, kind, level, steps, samples, seed=0, step=_step):
    """Samples at the times looked at, (B, 1, D) float32."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 1, problem.means_KD.shape[1], generator=generator)
    times, found = _times(steps), {}
    for t, t_next in pairwise(times):
        velocity = problem.velocity(x, t)
        if t_next == 0:
            x = x + velocity * float(t_next - t)
        else:
            distribution = step(x, velocity, t, t_next, kind, level, times[1])
            x = sde.sample(distribution, torch.randn(x.shape, generator=generator))
        if t_next in LOOKED_AT:
            found[t_next] = x
    return found


def _variance_error(problem, kind, level, steps, step=_step):
    """Relative error of the variance at the times looked at, of one-dimensional normal data."""
    found = _discrete_moments(problem, kind, level, steps, step)
    return np.array([float(found[t][1] / problem.moments(t)[1]) - 1 for t in LOOKED_AT])


NORMAL = Mixture([1.0], [[1.5]], [[[1.0]]])
TILTED = Mixture([1.0], [[1.5, -0.5]], [[[1.0, 0.6], [0.6, 0.5]]])
TWO_HUMPS = Mixture([0.3, 0.7], [[-1.5], [1.0]], [[[0.09]], [[0.25]]])


class TestMarginals:
    @pytest.mark.parametrize(("level", "bound"), [(0.7, 0.03), (0.9, 0.025), (1.5, 0.02)])
    def test_flow_has_the_odes_marginals_as_steps_get_small(self, level, bound):
        """No sampling here, so the order of convergence itself can be checked: steps^-min(1, level^2).

        Near t = 1 the noise is singular; what the first steps do wrong there is forgotten like (1 - t)^-level^2.
        """
        errors = np.array([_variance_error(NORMAL, Sde.FLOW, level, steps) for steps in (40, 80, 160, 320)])
        worst = np.abs(errors).max(1)
        assert (worst[1:] < 0.8 * worst[:-1]).all()
        assert worst[-1] < bound
        # At t = 0.75, where that part of the error stands out most from the Euler steps' own.
        assert errors[-1, 0] / errors[-2, 0] == pytest.approx(2 ** -min(1, level**2), abs=0.06)

    def test_noise_without_its_correction_does_not(self):
        """The control: the same check must see a drift that is the ODE's."""
        errors = _variance_error(NORMAL, Sde.FLOW, 0.7, 320, _without_correction)
        assert (errors > 2).all()

    @pytest.mark.parametrize("level", [0.3, 0.8, 1.0])
    @pytest.mark.parametrize("steps", [4, 40])
    def test_cps_is_exact_where_the_image_is_known(self, level, steps):
        """All data in one point: the velocity tells x_0 and noise, and any step of any size is exact."""
        point = Mixture([1.0], [[1.5]], [[[1e-12]]])  # not 0, which the last step would divide by
        found = _discrete_moments(point, Sde.CPS, level, steps)
        for t in LOOKED_AT[:-1]:
            mean, cov = point.moments(t)
            torch.testing.assert_close(found[t], (mean, cov), rtol=1e-6, atol=1e-9)

    @pytest.mark.parametrize("level", [0.3, 0.8])
    def test_cps_has_the_odes_marginals_as_noise_and_steps_get_small(self, level):
        """Noise of a step that shrinks with its root, as an SDE's does; `level` is meant for ten steps."""
        worst = [
            np.abs(_variance_error(NORMAL, Sde.CPS, level * math.sqrt(10 / steps), steps)).max()
            for steps in (160, 320, 640)
        ]
        assert np.array(worst[1:]) / worst[:-1] == pytest.approx([0.5, 0.5], abs=0.02)
        assert worst[-1] < 0.011

    @pytest.mark.parametrize("level", [0.3, 0.8, 1.0])
    def test_cps_at_one_noise_level_narrows_the_marginals_however_small_the_steps(self, level):
        """What `Sde.CPS` warns of.

        At a fixed level many small steps are a Langevin sampler of the marginal, of variance V, in strides of
        (1 - c) t^2 with c = cos(level pi / 2), which do not shrink. On normal data its variance W settles where
        W = (1 - (1 - c) t^2 / V)^2 W + t^2 (1 - c^2), hence W / V = (1 + c) / (2 - (1 - c) t^2 / V).
        """
        c = math.cos(level * math.pi / 2)
        settled = np.array([(1 + c) / (2 - (1 - c) * t**2 / float(NORMAL.moments(t)[1])) - 1 for t in LOOKED_AT])
        found = _variance_error(NORMAL, Sde.CPS, level, 1280)
        # At t = 0 there is one more step, the ODE's.
        assert found[:-1] == pytest.approx(settled[:-1], abs=0.003)
        assert found[2] < -0.02

    @pytest.mark.parametrize(("kind", "level"), BOTH)
    def test_particles_have_the_moments_of_the_discrete_chain(self, kind, level):
        """40,000 particles of a tilted normal in two dimensions, within four standard errors of what steps must give.

        The standard error of a mean is s / sqrt(n), that of a covariance sqrt((s_ii s_jj + s_ij^2) / n).
        """
        samples, steps = 40_000, 40
        drawn = _particles(TILTED, kind, level, steps, samples)
        for t, (mean_D, cov_DD) in _discrete_moments(TILTED, kind, level, steps).items():
            x_BD = drawn[t][:, 0].double()
            assert ((x_BD.mean(0) - mean_D).abs() < 4 * (cov_DD.diagonal() / samples).sqrt()).all()
            variances_D = cov_DD.diagonal()
            errors_DD = ((variances_D[:, None] * variances_D + cov_DD**2) / samples).sqrt()
            assert ((torch.cov(x_BD.T) - cov_DD).abs() < 4 * errors_DD).all()

    @pytest.mark.parametrize(
        ("kind", "level_at"),
        [
            (Sde.FLOW, lambda steps: 0.4),
            (Sde.FLOW, lambda steps: 0.7),
            (Sde.FLOW, lambda steps: 0.9),
            (Sde.CPS, lambda steps: 0.5 * math.sqrt(10 / steps)),
        ],
        ids=["flow 0.4", "flow 0.7", "flow 0.9", "cps shrinking"],
    )
    def test_particles_of_two_humps_have_their_distribution(self, kind, level_at):
        """The Kolmogorov-Smirnov distance of 40,000 particles to the true distribution, at each time looked at.

        By chance alone it is below 1.95 / sqrt(n) = 0.0098 in 999 of 1000 cases. The step size adds max |x pdf(x)| / 2
        = 0.12 times the relative error of the variance: 0.003 at 320 steps, many times that at 20.
        """
        chance, by_steps = 1.95 / math.sqrt(40_000), []
        for steps in (20, 320):
            drawn = _particles(TWO_HUMPS, kind, level_at(steps), steps, 40_000)
            by_steps.append([stats.kstest(drawn[t].flatten(), TWO_HUMPS.cdf(t)).statistic for t in LOOKED_AT])
        assert max(by_steps[1]) < chance + 0.003
        assert max(by_steps[0]) > 2 * max(by_steps[1])

    def test_particles_without_the_correction_do_not(self):
        """The control of the same distance."""
        drawn = _particles(TWO_HUMPS, Sde.FLOW, 0.7, 320, 40_000, step=_without_correction)
        assert min(stats.kstest(drawn[t].flatten(), TWO_HUMPS.cdf(t)).statistic for t in LOOKED_AT) > 0.1
