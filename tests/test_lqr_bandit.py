"""Continuous actions: estimates on linear-quadratic regulators and on a Gaussian bandit against exact moments.

Numbers are judged together: each deviation is put in units of its standard error, and the largest of n must stay below
the normal's two-sided quantile at 1e-3/n (`within_chance`).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import audit
from jax.flatten_util import ravel_pytree
from scipy import stats

import jaxpg
from jaxpg import baselines, sampling, weights
from jaxpg.envs import Box, Environment, Timestep
from jaxpg.policies import Policy
from jaxpg.policies.distributions import DiagonalNormal


def within_chance(deviations, level=1e-3):
    """Whether the largest of these standardised deviations is one that chance gives with probability above `level`."""
    largest = np.abs(np.ravel(deviations))
    return bool(largest.max() < stats.norm.isf(level / (2 * largest.size)))


def flat(trees):
    """Pytrees with a leading axis as rows, in the order of `ravel_pytree`."""
    return jax.vmap(lambda tree: ravel_pytree(tree)[0])(trees)


def mean_error(samples, mean):
    """The mean over the last axis relative to the exact one, less 1, and its relative standard error."""
    found = samples.mean(-1)
    return found / mean - 1, samples.std(-1) / np.abs(found) / np.sqrt(samples.shape[-1])


def variance_error(samples, variance):
    """The same for the variance over the last axis; its relative standard error is √((kurtosis − 1) / R)."""
    return mean_error((samples - samples.mean(-1, keepdims=True)) ** 2, variance)


# Linear-quadratic regulators.

NUM_REGULATORS, NUM_REPLICATES, NUM_EPISODES, HORIZON, DISCOUNT = 16, 192, 256, 3, 0.8


def random_regulators(n, m, seed=0):
    """Random LQRs with process noise, gains and log standard deviations, with a leading axis."""
    rng = np.random.default_rng(seed)
    number = (NUM_REGULATORS,)
    half_q, half_r = rng.normal(size=(*number, n, n)), rng.normal(size=(*number, m, m))
    regulators = jax.vmap(functools.partial(jaxpg.exact.LQR, discount=DISCOUNT, horizon=HORIZON))(
        jnp.asarray(0.5 / np.sqrt(n) * rng.normal(size=(*number, n, n))),
        jnp.asarray(rng.normal(size=(*number, n, m)) / np.sqrt(n * m)),
        jnp.asarray(half_q @ half_q.swapaxes(1, 2) / n),
        jnp.asarray(half_r @ half_r.swapaxes(1, 2) / m + 0.3 * np.eye(m)),
        noise=jnp.asarray(0.4 * rng.normal(size=(*number, n, 1))),
    )
    gain = jnp.asarray(0.3 * rng.normal(size=(*number, m, n)))
    return regulators, {"gain": gain, "log_std": jnp.asarray(rng.uniform(-0.7, 0.2, (*number, m)))}


def lqr_baseline(kind, lqr, policy, params):
    """J of the policy, a constant; or its V_t(x)."""
    if kind == "constant":
        return baselines.constant(lqr.objective(policy, params))
    values = lqr.values(policy, params)
    return baselines.value(lambda x, t: values(x, t))


@functools.cache
def regulator_sampler(kind):
    """(LQRs, params, w) -> estimates and reported variances [K, P, R], exact gradients [K, P], covariances [K, P, P].

    w is the factor in w^t ∇ log π(a_t | s_t): γ, or a mistake.
    """

    def of_regulator(lqr, params, factor, key):
        env = lqr.environment()
        policy = jaxpg.policies.linear_gaussian(env)
        baseline = lqr_baseline(kind, lqr, policy, params)
        weight = dataclasses.replace(weights.reward_to_go(lqr.discount), state_discount=factor)
        gradient = jaxpg.policy_gradient(env, policy, num_episodes=NUM_EPISODES, weight=weight, baseline=baseline)
        estimates = jax.vmap(lambda k: gradient(k, params))(jax.random.split(key, NUM_REPLICATES))
        mean = ravel_pytree(lqr.policy_gradient(policy, params))[0]
        covariance = lqr.covariance(policy, params, baseline=baseline, num_episodes=NUM_EPISODES)
        return flat(estimates.gradient).T, flat(estimates.variance).T, mean, covariance

    sample = jax.jit(jax.vmap(of_regulator, (0, 0, None, 0)))

    def run(regulators, params, factor=DISCOUNT):
        keys = jax.random.split(jax.random.key(2), NUM_REGULATORS)
        return [np.asarray(x, np.float64) for x in sample(regulators, params, factor, keys)]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes, kind",
    [
        ((1, 1), "constant"),
        ((2, 2), "value"),
        pytest.param((1, 1), "value", marks=pytest.mark.slow),
        pytest.param((2, 2), "constant", marks=pytest.mark.slow),
        pytest.param((3, 1), "constant", marks=pytest.mark.slow),
        pytest.param((3, 1), "value", marks=pytest.mark.slow),
    ],
)
def test_estimates_on_regulators_have_the_exact_mean_and_variance(sizes, kind, record_property):
    """The means by a χ² audit; the variances over replicates, and the means of the reported ones, by their kurtosis.

    With one action an estimate is a polynomial of degree 4 in normals, of kurtosis 100 and more: a sample that holds
    no extreme episode gives too small a standard error, so the largest over all regulators is taken for each. The
    regulators are independent, so their averages are judged by Student's t, too.
    """
    found, reported, mean, covariance = regulator_sampler(kind)(*random_regulators(*sizes))
    verdict = audit(found.swapaxes(1, 2), mean, covariance)
    record_property("smallest bias that would be seen, relative to the gradient", verdict.detectable)
    assert verdict.passed, verdict
    assert verdict.detectable < 0.05
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    for relative, error in (variance_error(found, variance), mean_error(reported, variance)):
        assert within_chance(relative / error.max())
        assert stats.ttest_1samp(relative.mean(1), 0.0).pvalue > 1e-3
        assert relative.mean(1).std() / np.sqrt(NUM_REGULATORS) < 0.03  # An error of 10% in all would be seen.


def test_the_audit_on_regulators_rejects_a_missing_state_discount():
    found, _, mean, covariance = regulator_sampler("constant")(*random_regulators(1, 1), 1.0)
    assert not audit(found.swapaxes(1, 2), mean, covariance).passed


# A Gaussian bandit: one step, the action a = μ + σ z, z ~ N(0, I), and the reward
#
#     r(a) = Σ_i l_i a_i − q_i (a_i − c_i)²  =  m + Σ_i α_i z_i + β_i h_i,     h_i = z_i² − 1,
#
# with α_i = (l_i − 2 q_i (μ_i − c_i)) σ_i, β_i = −q_i σ_i² and m = E[r] = Σ_i l_i μ_i − q_i ((μ_i − c_i)² + σ_i²). The
# scores are z_i/σ_i by μ_i and h_i by log σ_i. E[z²] = 1, E[z⁴] = 3, E[z⁶] = 15, E[z⁸] = 105 give
#
#     E[h] = 0, E[h²] = 2, E[h³] = 8, E[h⁴] = 60, E[z²h] = 2, E[z²h²] = 10.
#
# The gradient is E[score · r] = (α_i/σ_i, 2β_i). With x = m − b for a baseline b, and S_i = Σ_{j≠i} α_j² + 2β_j² for
# the other actions' part of Var(r),
#
#     E[(z_i (r − b))²]  =   x² +  4 x β_i +  3 α_i² + 10 β_i² +   S_i,      divided by σ_i² for μ_i,
#     E[(h_i (r − b))²]  =  2x² + 16 x β_i + 10 α_i² + 60 β_i² + 2 S_i.
#
# Both are curvature · (x² + 2 slope x) + rest with (curvature, slope) = (1/σ_i², 2β_i) and (2, 4β_i).

NUM_ACTIONS = 2


@dataclasses.dataclass(frozen=True)
class Closed:
    """The closed forms, for K bandits: arrays [K, P], in the order (log σ, μ) of the params' dict."""

    linear: np.ndarray
    quadratic: np.ndarray
    centre: np.ndarray
    mean: np.ndarray
    log_std: np.ndarray

    @property
    def std(self):
        return np.exp(self.log_std)

    @property
    def alpha(self):
        return (self.linear - 2 * self.quadratic * (self.mean - self.centre)) * self.std

    @property
    def beta(self):
        return -self.quadratic * self.std**2

    @property
    def expected_reward(self):
        """m, [K, 1]."""
        squares = (self.mean - self.centre) ** 2 + self.std**2
        return np.sum(self.linear * self.mean - self.quadratic * squares, 1, keepdims=True)

    @property
    def gradient(self):
        return np.concatenate([2 * self.beta, self.alpha / self.std], 1)

    @property
    def curvature(self):
        return np.concatenate([np.full_like(self.beta, 2.0), self.std**-2], 1)

    @property
    def slope(self):
        return np.concatenate([4 * self.beta, 2 * self.beta], 1)

    @property
    def others(self):
        """S_i."""
        own = self.alpha**2 + 2 * self.beta**2
        return own.sum(1, keepdims=True) - own

    def second_moment(self, b):
        """E[(score · (r − b))²], b one number for each bandit or for each coordinate."""
        x = self.expected_reward - b
        by_std = 10 * self.alpha**2 + 60 * self.beta**2 + 2 * self.others
        by_mean = (3 * self.alpha**2 + 10 * self.beta**2 + self.others) / self.std**2
        return self.curvature * (x**2 + 2 * self.slope * x) + np.concatenate([by_std, by_mean], 1)

    def score_variance(self, b=0.0):
        """The variance of an episode's term, score · (r − b)."""
        return self.second_moment(b) - self.gradient**2

    def optimal_baseline(self, per_coordinate):
        """Where the derivative in x, curvature (2x + 2 slope), is zero; summed over coordinates for one number."""
        if per_coordinate:
            return self.expected_reward + self.slope
        weighted = np.sum(self.curvature * self.slope, 1, keepdims=True)
        return self.expected_reward + weighted / np.sum(self.curvature, 1, keepdims=True)

    def leave_one_out_variance(self, n):
        """N times the variance with the mean of the n − 1 others of a group.

        An episode's baseline is m + e with Var(e) = Var(r)/(n − 1), independent of it: E[score² (r − b)²] is the second
        moment at m plus E[score²] Var(r)/(n − 1). Two episodes' terms, i's with r_j in its baseline and j's with r_i:
        E[score_i (r_i − b_i) score_j (r_j − b_j)] = E[score r]² (1 + 1/(n − 1)²), the second from the product of the
        two cross terms −score_i r_j/(n − 1). With the n − 1 others of the group each, and the squared mean taken off,
        (n − 1) (1 + 1/(n − 1)²) − n = −1 + 1/(n − 1) = −(n − 2)/(n − 1) times the squared gradient.
        """
        reward_variance = np.sum(self.alpha**2 + 2 * self.beta**2, 1, keepdims=True)
        squared = self.second_moment(self.expected_reward) + self.curvature * reward_variance / (n - 1)
        return squared - (n - 2) / (n - 1) * self.gradient**2

    @property
    def antithetic_variance(self):
        """N times the variance of the average over N/2 pairs with noise z and −z.

        A pair's mean keeps the part of score · r that is even in z: z_i/σ_i times Σ_j α_j z_j, and h_i times
        m + Σ_j β_j h_j. Their variances are (2α_i² + Σ_{j≠i} α_j²)/σ_i² and 2m² + 16 m β_i + 60 β_i² + 2 Σ_{j≠i} 2β_j²
        − (2β_i)²; N/2 pairs make it twice that.
        """
        m, alpha2, beta2 = self.expected_reward, self.alpha**2, self.beta**2
        by_mean = (alpha2 + alpha2.sum(1, keepdims=True)) / self.std**2
        by_std = 2 * m**2 + 16 * m * self.beta + 52 * beta2 + 4 * beta2.sum(1, keepdims=True)
        return 2 * np.concatenate([by_std, by_mean], 1)

    @property
    def pathwise_variance(self):
        """The variance of ∂r(μ + σz)/∂θ: by μ_i (α_i + 2β_i z_i)/σ_i, by log σ_i (α_i + 2β_i z_i) z_i.

        4β_i²/σ_i², and α_i² + 4β_i² E[z⁴] − (2β_i)² = α_i² + 8β_i².
        """
        by_mean = 4 * self.beta**2 / self.std**2
        return np.concatenate([self.alpha**2 + 8 * self.beta**2, by_mean], 1)


def bandits(seed=0, num_random=4):
    """A linear reward, a quadratic one, the same kind at its optimum by μ, and random mixtures of both."""
    rng = np.random.default_rng(seed)
    shape = (num_random, NUM_ACTIONS)
    random = [rng.normal(size=shape) for _ in range(4)] + [rng.uniform(-0.6, 0.3, shape)]
    linear = [[1.0, -0.5], [0.0, 0.0], [3.0, 1.0], [1.0, 0.8], [0.2, -0.4]]  # l, q, c, μ, log σ
    quadratic = [[0.0, 0.0], [1.0, 1.0], [0.5, -1.0], [1.5, 0.3], [-0.3, 0.1]]
    optimum = [[0.0, 0.0], [1.0, 0.5], [2.0, -1.0], [2.0, -1.0], [0.0, -0.5]]
    by_hand = np.array([linear, quadratic, optimum]).swapaxes(0, 1)
    return Closed(*(np.concatenate(pair) for pair in zip(by_hand, random)))


def reward(problem, action):
    linear, quadratic, centre = problem
    return jnp.sum(linear * action - quadratic * (action - centre) ** 2)


def bandit(problem):
    """One step in the one state there is, worth r(a)."""
    nothing = jnp.zeros(1)

    def step(key, state, action):
        return state, Timestep(nothing, reward(problem, action), jnp.bool_(True), jnp.bool_(False))

    space = Box(-np.inf, np.inf, (NUM_ACTIONS,))
    return Environment(
        reset=lambda key: (nothing, nothing),
        step=step,
        observation_space=Box(-1, 1, (1,)),
        action_space=space,
        max_steps=1,
        name="Gaussian bandit",
    )


def normal_policy():
    return Policy(
        init=lambda key: {"log_std": jnp.zeros(NUM_ACTIONS), "mean": jnp.zeros(NUM_ACTIONS)},
        apply=lambda params, observation: DiagonalNormal(params["mean"], params["log_std"]),
    )


def arrays(closed):
    """The problems (l, q, c) and the params, as JAX arrays with a leading axis."""
    problem = tuple(jnp.asarray(x) for x in (closed.linear, closed.quadratic, closed.centre))
    return problem, {"log_std": jnp.asarray(closed.log_std), "mean": jnp.asarray(closed.mean)}


def sampled_bandits(num_episodes, num_replicates, baseline, extra=None, seed=3, **options):
    """Estimates and their reported variances, [K, P, R]; `baseline` is a function of the bandit's row of `extra`."""
    problems, params = arrays(bandits())
    extra = jnp.zeros(len(problems[0])) if extra is None else jnp.asarray(extra)

    def of_bandit(problem, params, extra, key):
        gradient = jaxpg.policy_gradient(
            bandit(problem),
            normal_policy(),
            num_episodes=num_episodes,
            weight=weights.reward_to_go(1.0),
            baseline=baseline(extra),
            **options,
        )
        estimates = jax.vmap(lambda k: gradient(k, params))(jax.random.split(key, num_replicates))
        return flat(estimates.gradient).T, flat(estimates.variance).T

    keys = jax.random.split(jax.random.key(seed), len(extra))
    return [np.asarray(x, np.float64) for x in jax.jit(jax.vmap(of_bandit))(problems, params, extra, keys)]


GAUSS, GAUSS_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)  # Exact up to degree 9; squared terms have 8.


def quadrature(closed, k, episodes):
    """Probabilities [M], scores [M, episode, P], rewards [M, episode] and z [M, episode, action] of bandit k."""
    shape = (episodes, NUM_ACTIONS)
    grid = np.stack(np.meshgrid(*[np.arange(5)] * (episodes * NUM_ACTIONS), indexing="ij"), -1).reshape(-1, *shape)
    z, p = GAUSS[grid], np.prod(GAUSS_WEIGHTS[grid] / GAUSS_WEIGHTS.sum(), (1, 2))
    action = closed.mean[k] + closed.std[k] * z
    rewards = np.sum(closed.linear[k] * action - closed.quadratic[k] * (action - closed.centre[k]) ** 2, -1)
    return p, np.concatenate([z**2 - 1, z / closed.std[k]], -1), rewards, z


def test_the_closed_forms_are_the_quadrature():
    """Every closed form of the bandit against Gauss–Hermite quadrature, which is exact for polynomials."""
    closed = bandits()
    best, best_of_each = closed.optimal_baseline(False), closed.optimal_baseline(True)

    def variance(p, terms):
        return p @ terms**2 - (p @ terms) ** 2

    for k in range(len(closed.mean)):
        p, scores, rewards, z = quadrature(closed, k, 1)
        scores, rewards, z = scores[:, 0], rewards[:, :1], z[:, 0]
        close = functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
        close(p @ (scores * rewards), closed.gradient[k])
        for b in (0.0, 0.7, best[k], best_of_each[k]):
            close(variance(p, scores * (rewards - b)), closed.score_variance(b)[k])
        least = closed.score_variance(best_of_each)[k]
        for shift in (-0.1, 0.1):
            assert np.all(closed.score_variance(best_of_each + shift)[k] > least)
            assert closed.score_variance(best + shift)[k].sum() > closed.score_variance(best)[k].sum()
        slopes = (closed.alpha[k] + 2 * closed.beta[k] * z) * np.ones_like(z)
        close(variance(p, np.concatenate([slopes * z, slopes / closed.std[k]], 1)), closed.pathwise_variance[k])
        mirrored = closed.mean[k] - closed.std[k] * z
        other = np.sum(closed.linear[k] * mirrored - closed.quadratic[k] * (mirrored - closed.centre[k]) ** 2, -1)
        other_scores = np.concatenate([z**2 - 1, -z / closed.std[k]], 1)
        pairs = 0.5 * (scores * rewards + other_scores * other[:, None])
        close(2 * variance(p, pairs), closed.antithetic_variance[k])
        p, scores, rewards, _ = quadrature(closed, k, 3)
        others = (rewards.sum(1, keepdims=True) - rewards) / 2
        terms = np.mean(scores * (rewards - others)[..., None], 1)
        close(3 * variance(p, terms), closed.leave_one_out_variance(3)[k])


def agree(found, reported, variance):
    """Whether the estimates' means, variances over replicates and reported variances are the closed forms, jointly."""
    mean, noisy = bandits().gradient, variance > 0
    # Without variance every estimate is the gradient, but for rounding.
    assert np.abs(found[~noisy] - mean[~noisy][:, None]).max(initial=0.0) < 1e-5
    assert reported[~noisy].max(initial=0.0) < 1e-10
    found, reported, mean, variance = (x[noisy] for x in (found, reported, mean, variance))
    shift = np.sqrt(found.shape[-1]) * (found.mean(-1) - mean) / np.sqrt(variance)
    spread, spread_error = variance_error(found, variance)
    claimed, claimed_error = mean_error(reported, variance)
    assert max(spread_error.max(), claimed_error.max()) < 0.15  # A factor of two in one number would be seen.
    return within_chance([shift, spread / spread_error, claimed / claimed_error])


ROWS = {
    "no baseline": (lambda b: baselines.none(), {}, lambda c: c.score_variance()),
    "a constant": (baselines.constant, {}, lambda c: c.score_variance(c.expected_reward)),
    "leave-one-out": (lambda b: baselines.leave_one_out(4), {}, lambda c: c.leave_one_out_variance(4)),
    "antithetic": (
        lambda b: baselines.none(),
        {"sampling": sampling.antithetic()},
        lambda c: c.antithetic_variance,
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "a constant")) for name in ROWS]
)
def test_the_variance_of_score_estimates_is_the_closed_form(name):
    closed = bandits()
    baseline, options, variance = ROWS[name]
    found, reported = sampled_bandits(256, 512, baseline, extra=closed.expected_reward[:, 0], **options)
    assert agree(found, reported, variance(closed) / 256)


@pytest.mark.parametrize("per_coordinate", [pytest.param(False, marks=pytest.mark.slow), True])
def test_optimal_baselines_attain_the_least_variance_of_a_constant(per_coordinate):
    """With N = 1,024 the fitted constants' own error adds a percent or two, less than the test resolves."""
    closed = bandits()
    variance = closed.score_variance(closed.optimal_baseline(per_coordinate))
    found, reported = sampled_bandits(1024, 256, lambda _: baselines.optimal(per_coordinate))
    assert agree(found, reported, variance / 1024)
    # The expected reward, the next best guess, is told from the best.
    assert not agree(found, reported, closed.score_variance(closed.expected_reward) / 1024)


def test_the_variance_of_pathwise_derivatives_is_the_closed_form_and_their_ratio_to_scores():
    """∂r(μ + σz)/∂θ by automatic differentiation of the reparametrised sample has the same mean."""
    closed = bandits()
    problems, params = arrays(closed)
    number = 2**16

    def derivatives(problem, params, key):
        def sampled_reward(params, key):
            return reward(problem, normal_policy().apply(params, None).sample(key))

        keys = jax.random.split(key, number)
        pathwise = jax.vmap(jax.grad(sampled_reward), (None, 0))(params, keys)
        scored = jaxpg.policy_gradient(
            bandit(problem), normal_policy(), num_episodes=number, weight=weights.total_return(1.0), per_episode=True
        )(key, params)
        return flat(pathwise).T, flat(scored.episodes.gradient).T

    keys = jax.random.split(jax.random.key(4), len(closed.mean))
    pathwise, scored = (np.asarray(x, np.float64) for x in jax.jit(jax.vmap(derivatives))(problems, params, keys))
    noisy = closed.pathwise_variance > 0  # A linear reward has the same slope everywhere.
    assert np.abs(pathwise[~noisy] - closed.gradient[~noisy][:, None]).max() < 1e-5
    pathwise, scored, mean = pathwise[noisy], scored[noisy], closed.gradient[noisy]
    least, score = closed.pathwise_variance[noisy], closed.score_variance()[noisy]
    shift = np.sqrt(number) * (pathwise.mean(-1) - mean) / np.sqrt(least)
    spread, error = variance_error(pathwise, least)
    assert within_chance([shift, spread / error])
    ratio = scored.var(-1) / pathwise.var(-1)
    assert within_chance(np.log(ratio * least / score) / np.hypot(error, variance_error(scored, score)[1]))
    assert np.min(score / least) > 1 and np.max(score / least) > 20  # On these bandits the score's is the larger.
