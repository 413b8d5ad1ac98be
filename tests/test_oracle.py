"""The enumeration oracle: every trajectory of a small MDP with its probability, through an estimator's own code.

There is no sampling noise left: the mean must be the exact gradient, or the bias that is known exactly, to 1e-12.
"""

import dataclasses
import itertools

import estimators
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimators import ESTIMATORS

import jaxpg
from jaxpg import weights
from jaxpg.policies.distributions import Categorical

TOLERANCE = 1e-12


def problem(horizon=3, num_states=3, seed=4):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(num_states), (num_states, 2))
    initial = np.append(rng.dirichlet(np.ones(num_states - 1)), 0.0)
    mdp = jaxpg.exact.FiniteMDP(
        transition,
        rng.normal(size=(num_states, 2, num_states)) + 0.5,
        initial,
        discount=0.8,
        horizon=horizon,
        terminal=np.arange(num_states) == num_states - 1,
    )
    policy = jaxpg.policies.tabular(mdp.environment())
    params, acting = (jnp.asarray(rng.normal(size=(num_states, 2))) for _ in range(2))
    return mdp, policy, params, acting


def every_episode(mdp, policy, params, row, acting):
    return jaxpg.exact.every_episode(mdp, policy, params, acting, temperature=row.terms.get("temperature"))


def mean_over_trajectories(mdp, policy, params, row, options, acting):
    """Σ_τ P(τ) ĝ(τ), by one call with the probabilities."""
    trajectory, probabilities = every_episode(mdp, policy, params, row, acting)
    return jaxpg.gradient_from(trajectory, policy, params, probabilities=probabilities, **options).gradient


def mean_over_tuples(mdp, policy, params, row, options, acting):
    """Σ over all tuples of `row.group` trajectories of P(τ_1) P(τ_2) … ĝ(τ_1, τ_2, …)."""
    trajectory, probabilities = every_episode(mdp, policy, params, row, acting)
    tuples = np.array(list(itertools.product(range(probabilities.shape[0]), repeat=row.group)))

    def one(lanes):
        chosen = jax.tree.map(lambda x: x[:, lanes], trajectory)
        chosen = chosen._replace(episode=jnp.broadcast_to(jnp.arange(row.group), chosen.episode.shape))
        return jaxpg.gradient_from(chosen, policy, params, num_episodes=row.group, **options).gradient

    estimates = jax.jit(lambda tuples: jax.lax.map(one, tuples, batch_size=512))(tuples)
    return jnp.prod(probabilities[tuples], axis=1) @ estimates.reshape(len(tuples), -1)


def estimated_mean(name):
    """The mean by enumeration, the gradient, and what the MDP says of the mean (None where it does not know)."""
    row = ESTIMATORS[name]
    size = {} if row.group == 1 else {"horizon": 2, "num_states": 2 if row.group > 2 else 3}
    mdp, policy, params, other = problem(**size)
    acting = None if row.importance is None else other
    info = estimators.given(mdp, policy, params, temperature=row.terms.get("temperature"))
    behavior = (policy, acting)
    options = estimators.options(row, info, behavior)
    options.pop("behavior", None)
    options.pop("temperature", None)
    mean_of = mean_over_trajectories if row.group == 1 else mean_over_tuples
    mean = mean_of(mdp, policy, params, row, options, acting)
    truth = mdp.policy_gradient(policy, params, temperature=row.terms.get("temperature"))
    known = None
    if row.known:
        known = mdp.mean(policy, params, num_episodes=row.group, **estimators.exact_options(row, info, behavior))
    return np.ravel(mean), np.ravel(truth), None if known is None else np.ravel(known)


QUICK_GROUPS = ("total return, leave-one-out", "reward-to-go, optimal constant", "reward-to-go, linear fit")


def rows():
    """All rows; of those that take every tuple of trajectories most are slow."""
    for name, row in ESTIMATORS.items():
        slow = row.group > 1 and name not in QUICK_GROUPS
        yield pytest.param(name, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("name", list(rows()))
def test_mean_over_every_trajectory_is_exact(name, x64):
    mean, truth, known = estimated_mean(name)
    assert np.abs(truth).max() > 0.01  # Else nothing could be wrong.
    if known is not None:
        np.testing.assert_allclose(mean, known, rtol=0, atol=TOLERANCE)
    if ESTIMATORS[name].unbiased:
        np.testing.assert_allclose(mean, truth, rtol=0, atol=TOLERANCE)
    else:  # The table says what is biased, too.
        assert np.abs(mean - truth).max() > 1e-4


def test_self_normalised_mean_by_its_definition(x64):
    """Σ P(τ_1) P(τ_2) (w_1 g_1 + w_2 g_2) / (w_1 + w_2), from single episodes' terms."""
    name = "off-policy, self-normalised"
    row = ESTIMATORS[name]
    mdp, policy, params, acting = problem(horizon=2)
    info = estimators.given(mdp, policy, params)
    trajectory, p = jaxpg.exact.every_episode(mdp, policy, params, acting)
    target = jaxpg.exact.every_episode(mdp, policy, params)[1]
    w = np.asarray(target / p)
    out = jaxpg.gradient_from(trajectory, policy, params, row.weight(info), row.baseline(info), per_episode=True)
    g = np.asarray(out.episodes.gradient).reshape(len(w), -1)
    ratio = (w[:, None, None] * g[:, None] + w[None, :, None] * g[None]) / (w[:, None] + w[None])[..., None]
    want = np.einsum("i,j,ijp->p", p, p, ratio)
    np.testing.assert_allclose(estimated_mean(name)[0], want, rtol=0, atol=TOLERANCE)


def test_episodes_that_the_policy_never_plays(x64):
    """An action of probability 0: its episodes are there, count nothing, and make no NaN."""
    mdp = jaxpg.exact.random_mdp(jax.random.key(0), num_states=3, num_actions=2, discount=0.9, horizon=3)

    def masked(params, state):
        return Categorical(params[state], mask=jnp.array([True, False]) | (state > 0))

    policy = dataclasses.replace(jaxpg.policies.tabular(mdp.environment()), apply=masked)
    params, acting = jax.random.normal(jax.random.key(1), (2, 3, 2))
    for options in ({}, {"temperature": 0.3}):
        episodes, probabilities = jaxpg.exact.every_episode(mdp, policy, params, **options)
        assert (probabilities == 0).any() and np.isclose(probabilities.sum(), 1)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(episodes))
        found = jaxpg.gradient_from(episodes, policy, params, weights.reward_to_go(0.9), probabilities=probabilities)
        np.testing.assert_allclose(found.gradient, mdp.policy_gradient(policy, params, **options), atol=TOLERANCE)
    episodes, probabilities = jaxpg.exact.every_episode(mdp, policy, params, acting)
    found = jaxpg.gradient_from(
        episodes, policy, params, weights.reward_to_go(0.9), probabilities=probabilities,
        importance_sampling="trajectory",
    )  # fmt: skip
    np.testing.assert_allclose(found.gradient, mdp.policy_gradient(policy, params), atol=TOLERANCE)
