"""Value functions fitted to returns, as baselines."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import baselines, fitting, weights


def problem():
    rng = np.random.default_rng(2)
    mdp = jaxpg.exact.FiniteMDP(
        rng.dirichlet(np.ones(4), (4, 2)), rng.normal(size=(4, 2)), np.ones(4) / 4, discount=0.8, horizon=6
    )
    env = mdp.environment()
    critic = jaxpg.Critic(init=lambda key: jnp.zeros(4), apply=lambda params, s: params[s])
    policy = jaxpg.policies.tabular(env)
    return mdp, env, policy, jnp.asarray(rng.normal(size=(4, 2)), jnp.float32), critic


@pytest.mark.slow
def test_a_table_is_fitted_to_the_mean_value_of_each_state(key):
    """The regression's solution is Σ_t d_t(s) V_t(s) / Σ_t d_t(s); the samples' own noise is left."""
    mdp, env, policy, params, critic = problem()
    visits, values = mdp.state_distribution(policy, params), mdp.values(policy, params)
    want = np.asarray((visits * values).sum(0) / visits.sum(0))
    found = fitting.fit_value(key, env, policy, params, critic, num_episodes=4000, discount=0.8, num_steps=3000)
    np.testing.assert_allclose(found, want, atol=0.1)
    assert np.ptp(want) > 0.3
    undiscounted = fitting.fit_value(key, env, policy, params, critic, num_episodes=4000, discount=1.0, num_steps=3000)
    assert np.abs(np.asarray(undiscounted) - want).max() > 0.2


@pytest.mark.slow
def test_as_a_baseline_it_cuts_the_exact_variance(key):
    mdp, env, policy, params, critic = problem()
    weight = weights.reward_to_go(0.8)
    table = jaxpg.fit_value(key, env, policy, params, critic, discount=0.8)
    fitted = mdp.covariance(policy, params, weight=weight, baseline=fitting.fitted(critic, table)).trace()
    exact = mdp.covariance(
        policy, params, weight=weight, baseline=baselines.value(lambda s, t: mdp.values(policy, params)[t, s])
    ).trace()
    none = mdp.covariance(policy, params, weight=weight).trace()
    assert fitted < none - 0.5 * (none - exact)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be"),
        ({"discount": 1.5}, "discount must be"),
        ({"optimizer": 3}, "optimizer must be"),
        ({"num_episodes": 0}, "num_episodes must be"),
    ],
)
def test_bad_arguments(options, message, key):
    mdp, env, policy, params, critic = problem()
    with pytest.raises((ValueError, TypeError), match=message):
        jaxpg.fit_value(key, env, policy, params, critic, **options)
