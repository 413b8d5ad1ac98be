"""Plain functions of weights against numbers worked out by hand, and against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpg import baselines, weights

F, T = False, True


def test_discounted_returns_by_hand():
    # 1 + 0.5·(2 + 0.5·4) = 3; the episode ends after the third step.
    returns = weights.discounted_returns(jnp.array([1.0, 2.0, 4.0, 8.0]), jnp.array([0.5, 0.5, 0.0, 0.0]))
    np.testing.assert_allclose(returns, [3.0, 4.0, 4.0, 8.0])
    np.testing.assert_allclose(weights.discounted_returns(jnp.array([1, 2]), 0.5), [2.0, 2.0])
    batch = weights.discounted_returns(jnp.ones((3, 2)), jnp.array([[1.0, 0.5]] * 3))
    np.testing.assert_allclose(batch[0], [3.0, 1.75])


def test_generalized_advantages_by_hand():
    # δ = (1 + 0.5·2 − 1, 1 − 2 [terminated], 1 + 0.5·4 − 1, …); γλ = 0.25.
    advantages = weights.generalized_advantages(
        rewards=jnp.array([1.0, 1.0, 1.0, 1.0]), values=jnp.array([1.0, 2.0, 1.0, 2.0]),
        next_values=jnp.array([2.0, 9.0, 4.0, 6.0]), terminated=jnp.array([F, T, F, F]),
        truncated=jnp.array([F, F, T, F]), discount=0.5, lambda_=0.5,
    )  # fmt: skip
    np.testing.assert_allclose(advantages, [1.0 + 0.25 * -1.0, -1.0, 2.0, 2.0])


def test_truncation_bootstraps_and_termination_does_not():
    def advantage(terminated, truncated):
        one = lambda x: jnp.array([x])  # noqa: E731
        return float(weights.generalized_advantages(one(1.0), one(0.5), one(10.0), one(terminated), one(truncated), 0.9,
                                                    0.9)[0])  # fmt: skip

    assert advantage(F, T) == pytest.approx(9.5)
    assert advantage(T, F) == pytest.approx(0.5)
    assert advantage(T, T) == pytest.approx(0.5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31 - 1), length=st.integers(1, 30))
def test_advantages_are_the_double_sum(seed, length):
    """A_t = Σ_k (γλ)^k δ_{t+k}, summed forward until the episode ends."""
    rng = np.random.default_rng(seed)
    r, v, w = rng.normal(size=(3, length))
    terminated = rng.random(length) < 0.2
    truncated = ~terminated & (rng.random(length) < 0.2)
    got = weights.generalized_advantages(r, v, w, terminated, truncated, 0.9, 0.7)
    for t in range(length):
        total, factor = 0.0, 1.0
        for k in range(t, length):
            total += factor * (r[k] + 0.9 * (0.0 if terminated[k] else w[k]) - v[k])
            factor *= 0.63
            if terminated[k] or truncated[k]:
                break
        np.testing.assert_allclose(got[t], total, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_values_and_discounts():
    def first(discount, values):
        return weights.generalized_advantages(jnp.ones(3), values, values, jnp.array([F, F, T]), jnp.array([F] * 3),
                                              discount, 1.0)[0]  # fmt: skip

    slope = jax.grad(first)(0.5, jnp.zeros(3))  # A_0 = 1 + γ + γ².
    np.testing.assert_allclose(slope, 2.0)


def test_value_functions_of_one_and_of_two_arguments():
    assert weights.value_function("value", lambda o: o)(3, 4) == 3
    assert weights.value_function("value", lambda o, t: o + t)(3, 4) == 7
    assert weights.value_function("value", lambda o, scale=2: o * scale)(3, 4) == 6
    assert weights.value_function("value", jnp.sum)(jnp.ones(3), 4) == 3


def test_a_value_function_gets_the_time_where_it_takes_one():
    for function, want in (
        (lambda o: o, 2.0),
        (lambda o, t: o + t, 5.0),
        (lambda o, time=0: o + time, 5.0),
        (lambda o, scale=10: o * scale, 20.0),
    ):
        assert float(baselines.value(function).function(2.0, 3)) == want
