"""Ascent of estimated gradients ends at exact optima to 1%: the value of gridworlds, the gain of Riccati's equation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from jaxpg import baselines, weights

pytestmark = [pytest.mark.slow, pytest.mark.learning]


@pytest.mark.parametrize(
    "layout, slip",
    [(("S..", "...", "..G"), 0.0), (("S...", ".#.H", "...H", "H..G"), 0.1), (("S....", ".###.", "...#G"), 0.2)],
)
def test_ascent_reaches_the_optimal_value_of_gridworlds(layout, slip):
    """Within 1% of the optimal value, from the uniform policy, by sampled episodes alone."""
    mdp = jaxpg.exact.gridworld(layout, slip=slip, discount=0.9)
    # Episodes that go on with probability γ have the undiscounted return of mean J.
    env = mdp.environment(max_steps=128, geometric_stopping=True)
    policy = jaxpg.policies.tabular(env)
    gradient = jaxpg.policy_gradient(
        env, policy, num_episodes=256, weight=weights.reward_to_go(1.0), baseline=baselines.leave_one_out(),
    )  # fmt: skip
    optimizer = optax.adam(0.2)

    @jax.jit
    def ascend(key):
        def update(carry, i):
            params, state = carry
            estimate = gradient(jax.random.fold_in(key, i), params)
            changes, state = optimizer.update(jax.tree.map(jnp.negative, estimate.gradient), state)
            return (optax.apply_updates(params, changes), state), None

        params = policy.init(key)
        (end, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), jnp.arange(400))
        return params, end

    start, end = ascend(jax.random.key(0))
    best = float(mdp.initial @ mdp.optimal_values())
    first, last = float(mdp.objective(policy, start)), float(mdp.objective(policy, end))
    assert 0.99 * best < last <= best + 1e-6, (first, last, best)
    assert first < 0.7 * best


def test_ascent_reaches_the_gain_of_riccatis_equation():
    """‖K − K*‖ / ‖K*‖ < 1% on 4 regulators: sampled gradients, and the mean of the later iterates (Polyak, 1992)."""
    rng = np.random.default_rng(0)
    number, n, m = 4, 2, 1
    a, b, half_q = rng.normal(size=(number, n, n)), rng.normal(size=(number, n, m)), rng.normal(size=(number, n, n))
    a = 0.9 * a / np.linalg.norm(a, 2, (1, 2))[:, None, None]
    regulators = jax.vmap(lambda *matrices: jaxpg.exact.LQR(*matrices, discount=0.6))(
        *map(jnp.asarray, (a, b, half_q @ half_q.swapaxes(1, 2), 0.5 * np.ones((number, m, m))))
    )
    steps = 1500

    def ascend(lqr, key):
        env = lqr.environment(max_steps=24)  # 0.6²⁴ < 1e-5
        policy = jaxpg.policies.linear_gaussian(env)
        with_noise = lambda gain: {"gain": gain, "log_std": jnp.full(m, -1.0)}  # noqa: E731
        gradient = jaxpg.policy_gradient(
            env, policy, num_episodes=512, weight=weights.reward_to_go(lqr.discount),
            baseline=baselines.linear(lambda x: jnp.append(jnp.outer(x, x).ravel(), 1.0)),
        )  # fmt: skip

        def update(carry, i):
            gain, mean = carry
            uphill = gradient(jax.random.fold_in(key, i), with_noise(gain)).gradient["gain"]
            gain = gain + 0.2 / jnp.sqrt(1 + i / 20) * uphill / jnp.maximum(1.0, jnp.linalg.norm(uphill))
            return (gain, mean + jnp.where(i >= steps // 2, gain, 0.0) / (steps - steps // 2)), None

        start = jnp.zeros((m, n))
        (_, mean), _ = jax.lax.scan(update, (start, start), jnp.arange(steps))
        return lqr.optimal_policy(), mean

    best, found = map(np.asarray, jax.jit(jax.vmap(ascend))(regulators, jax.random.split(jax.random.key(0), number)))
    error = np.linalg.norm(found - best, axis=(1, 2)) / np.linalg.norm(best, axis=(1, 2))
    assert error.max() < 0.01, error
    assert np.abs(best).max() > 0.2
