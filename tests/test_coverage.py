"""Reported intervals hold what they promise: of 10,000 estimates each, 95% of the 95% intervals contain the truth.

A coordinate of the gradient has the interval ĝ_k ± t √variance_k, t the quantile of Student's distribution with
num_groups − 1 degrees of freedom; the objective has J ± 1.96 · objective_error, and where that is taken from the
groups, too, Student's quantile. The bounds are 94% and 96%; the share of 10,000 has a standard error of 0.22%.

The truth is the exact gradient and return of a small MDP of two steps, whose terms are bounded and not rare.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxpg
from jaxpg import baselines, sampling, weights

GAMMA = 0.9
REPEATS = 10_000
RTG = weights.reward_to_go(GAMMA)
TOTAL = weights.total_return(GAMMA)

# Groups hold 8 episodes or more: the mean of eight terms is near enough to normal. Self-normalised estimates have a
# bias of the order 1/N, which is a share 1/√N of their error and moves the coverage by about that share's square, 1/N;
# the delta method neglects terms of that order, too. N = 512 keeps both below the error of the 10,000 repeats.
CASES = {
    "reward-to-go": {"num_episodes": 256, "weight": RTG},
    "leave-one-out": {"num_episodes": 256, "weight": RTG, "baseline": baselines.leave_one_out(8)},
    "leave-one-out, total return": {"num_episodes": 256, "weight": TOTAL, "baseline": baselines.leave_one_out(4)},
    "antithetic": {"num_episodes": 256, "weight": RTG, "sampling": sampling.antithetic()},
    "quasi-Monte Carlo": {"num_episodes": 256, "weight": RTG, "sampling": sampling.quasi_monte_carlo(8)},
    "optimal": {"num_episodes": 256, "weight": RTG, "baseline": baselines.optimal()},
    "optimal per coordinate": {"num_episodes": 256, "weight": TOTAL, "baseline": baselines.optimal(True)},
    "per decision": {"num_episodes": 512, "weight": RTG, "importance_sampling": "per_decision"},
    "per decision, optimal": {
        "num_episodes": 512, "weight": RTG, "importance_sampling": "per_decision", "baseline": baselines.optimal()},
    "self-normalised": {"num_episodes": 512, "weight": RTG, "importance_sampling": "self_normalized"},
}  # fmt: skip


def problem():
    """Two states that differ in what they pay, two actions, two steps."""
    transition = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.4, 0.6], [0.7, 0.3]]])
    reward = np.array([[1.0, -0.5], [-1.0, 1.5]])
    mdp = jaxpg.exact.FiniteMDP(transition, reward, np.array([0.5, 0.5]), discount=GAMMA, horizon=2)
    logits = jnp.array([[0.2, -0.1], [-0.2, 0.3]])
    return mdp, mdp.environment(), logits, logits + 0.3 * jnp.array([[1.0, -1.0], [-0.5, 0.5]])


def estimates(options):
    """The gradient's two free coordinates and the objective [R, 3], and their reported errors."""
    mdp, env, logits, other = problem()
    policy = jaxpg.policies.tabular(env)
    if "importance_sampling" in options:
        options = options | {"behavior": (policy, other)}
    gradient = jaxpg.policy_gradient(env, policy, **options)

    def one(key):
        found = gradient(key, logits)
        values = jnp.append(found.gradient[:, 0], found.objective)
        return values, jnp.append(jnp.sqrt(found.variance[:, 0]), found.objective_error), found.num_groups

    keys = jax.random.split(jax.random.key(1), REPEATS)
    values, errors, groups = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=250))(keys)
    truth = np.append(mdp.policy_gradient(policy, logits)[:, 0], mdp.objective(policy, logits))
    return np.asarray(values, np.float64), np.asarray(errors, np.float64), int(groups[0]), truth


def coverage(options):
    """Shares of the intervals that hold the truth, [3]."""
    values, errors, groups, truth = estimates(options)
    student = stats.t.ppf(0.975, groups - 1)
    grouped = "sampling" in options or options.get("importance_sampling") == "self_normalized"
    quantiles = np.array([student, student, student if grouped else stats.norm.ppf(0.975)])
    return np.mean(np.abs(values - truth) <= quantiles * errors, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_intervals_hold_the_truth_as_often_as_they_say(name):
    shares = coverage(CASES[name])
    print(f"{name}: {shares}")
    assert np.all((shares > 0.94) & (shares < 0.96)), shares


@pytest.mark.slow
def test_intervals_that_ignore_the_groups_are_caught():
    """Pairs taken for single episodes, as a variance from all N episodes does: the intervals are too short or long."""
    options = dict(CASES["antithetic"])
    values, _, _, truth = estimates(options)
    _, errors, _, _ = estimates({key: value for key, value in options.items() if key != "sampling"})
    shares = np.mean(np.abs(values - truth) <= 1.96 * errors, axis=0)
    assert np.any((shares < 0.94) | (shares > 0.96)), shares
