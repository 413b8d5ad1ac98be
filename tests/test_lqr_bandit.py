"""Continuous actions: estimates on linear-quadratic regulators and on a Gaussian bandit against exact moments.

Many numbers are judged together: each deviation is put in units of its standard error, and the largest of a test's n
deviations must stay below the normal's two-sided quantile at 1e-3/n (`within_chance`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import audit
from jax.flatten_util import ravel_pytree
from scipy import stats

import jaxpg
from jaxpg import baselines, weights
from jaxpg.policies.distributions import DiagonalNormal


def within_chance(deviations, level=1e-3):
    """Whether the largest of these standardised deviations is one that chance gives with probability above `level`."""
    largest = np.abs(np.concatenate([np.ravel(d) for d in deviations]))
    return bool(largest.max() < stats.norm.isf(level / (2 * largest.size)))


def deviations_of_mean(samples, mean):
    """The mean over the second axis less the exact one, in standard errors: [K, N, P] and [K, P] -> [K, P]."""
    samples = np.asarray(samples, np.float64)
    return np.sqrt(samples.shape[1]) * (samples.mean(1) - mean) / samples.std(1)


def deviations_of_variance(samples, variance):
    """The variance over the second axis less the exact one, in standard errors √((kurtosis − 1) / N) σ²: [K, P]."""
    centred = np.asarray(samples, np.float64)
    centred = centred - centred.mean(1, keepdims=True)
    second, fourth = np.mean(centred**2, 1), np.mean(centred**4, 1)
    return np.sqrt(samples.shape[1]) * (second - variance) / np.sqrt(fourth - second**2)


# Linear-quadratic regulators.

HORIZON = 3
NUM_REGULATORS, NUM_REPLICATES, NUM_EPISODES = 16, 256, 256


def random_regulators(n, m, seed=0):
    """Random LQRs with process noise, gains and log standard deviations, with a leading axis."""
    rng = np.random.default_rng(seed)
    number = (NUM_REGULATORS,)
    half_q, half_r = rng.normal(size=(*number, n, n)), rng.normal(size=(*number, m, m))
    regulators = jax.vmap(functools.partial(jaxpg.exact.LQR, discount=0.8, horizon=HORIZON))(
        jnp.asarray(0.5 / np.sqrt(n) * rng.normal(size=(*number, n, n))),
        jnp.asarray(rng.normal(size=(*number, n, m)) / np.sqrt(n * m)),
        jnp.asarray(half_q @ half_q.swapaxes(1, 2) / n),
        jnp.asarray(half_r @ half_r.swapaxes(1, 2) / m + 0.3 * np.eye(m)),
        noise=jnp.asarray(0.4 * rng.normal(size=(*number, n, 1))),
    )
    gain = jnp.asarray(0.3 * rng.normal(size=(*number, m, n)))
    return regulators, {"gain": gain, "log_std": jnp.asarray(rng.uniform(-0.7, 0.2, (*number, m)))}


def lqr_baseline(kind, lqr, policy, params):
    """A constant, J of the current policy; or V_t(x)."""
    values = lqr.values(policy, params)
    return {
        "constant": lambda: baselines.constant(lqr.objective(policy, params)),
        "value": lambda: baselines.value(lambda x, t: values(x, t)),
    }[kind]()


@functools.cache
def sampled_regulators(dimensions, kind, discount_states=True):
    """Estimates and their reported variances, [K, R, P], with exact gradients [K, P] and covariances [K, P, P]."""
    regulators, params = random_regulators(*dimensions)

    def of_regulator(lqr, params, key):
        env = lqr.environment()
        policy = jaxpg.policies.linear_gaussian(env)
        baseline = lqr_baseline(kind, lqr, policy, params)
        gradient = jaxpg.policy_gradient(
            env,
            policy,
            num_episodes=NUM_EPISODES,
            weight=weights.reward_to_go(lqr.discount, discount_states=discount_states),
            baseline=baseline,
        )
        estimates = jax.vmap(lambda k: gradient(k, params))(jax.random.split(key, NUM_REPLICATES))
        flat = jax.vmap(lambda tree: ravel_pytree(tree)[0])
        covariance = lqr.covariance(policy, params, baseline=baseline, num_episodes=NUM_EPISODES)
        mean = ravel_pytree(lqr.policy_gradient(policy, params))[0]
        return flat(estimates.gradient), flat(estimates.variance), mean, covariance

    keys = jax.random.split(jax.random.key(2), NUM_REGULATORS)
    return [np.asarray(x, np.float64) for x in jax.jit(jax.vmap(of_regulator))(regulators, params, keys)]


@pytest.mark.parametrize(
    "dimensions, kind", [((1, 1), "value"), ((2, 2), "constant"), ((2, 2), "value"), ((3, 1), "constant")]
)
def test_estimates_on_regulators_have_the_exact_mean_and_covariance(dimensions, kind, record_property):
    """A χ² audit of the mean; the variance over replicates, and the mean of the reported one, within their kurtosis."""
    found, reported, mean, covariance = sampled_regulators(dimensions, kind)
    verdict = audit(found, mean, covariance)
    record_property("smallest bias that would be seen, relative to the gradient", verdict.detectable)
    assert verdict.passed, verdict
    assert verdict.detectable < 0.05
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    print(verdict)
    d= deviations_of_mean(reported, variance), deviations_of_variance(found, variance)
    print([np.abs(x).max() for x in d], [x.mean() for x in d], [x.std() for x in d])
    assert within_chance((deviations_of_mean(reported, variance), deviations_of_variance(found, variance)))
