"""Networks that policy and critic share: the distribution with a value, and everything that takes a policy."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import policies, weights
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete
from jaxpg.policies import WithValue, distributions
from jaxpg.policies.quadrature import quadrature
from jaxpg.policies.unroll import unroll


def environment(observation_space, action_space):
    """An environment for its spaces; nothing here steps it."""
    return Environment(
        reset=lambda key: None,
        step=lambda key, state, action: None,
        observation_space=observation_space,
        action_space=action_space,
    )


ENV = environment(Box(-jnp.inf, jnp.inf, (3,)), Discrete(2))


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


def two_networks(**options):
    """(shared policy, its params; plain policy, its params): the same head on the same hidden layers."""
    shared = policies.mlp(ENV, (5,), head_gain=1.0, shared_value=True, **options)
    plain = policies.mlp(ENV, (5,), head_gain=1.0, **options)
    params = jax.tree.map(lambda x: x + 0.1, shared.init(jax.random.key(0)))
    return shared, params, plain, {name: leaf for name, leaf in params.items() if name != "value_head"}


def test_value_by_hand():
    shared, params, plain, plain_params = two_networks()
    assert shared.has_value and not plain.has_value
    x = jax.random.normal(jax.random.key(1), (7, 3))
    result = jax.jit(shared.apply)(params, x)
    hidden = jnp.tanh(x @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"])
    assert result.value.shape == (7,)
    assert_close(result.value, hidden @ params["value_head"]["kernel"][:, 0] + params["value_head"]["bias"][0])
    assert_close(result.distribution.logits, plain.apply(plain_params, x).logits)
    mapped = jax.jit(jax.vmap(shared.apply, (None, 0)))(params, x)
    assert_close((mapped.value, mapped.log_prob(jnp.ones(7))), (result.value, result.log_prob(jnp.ones(7))))


def test_the_value_head_starts_at_gain_one():
    params = policies.mlp(ENV, (5,), shared_value=True).init(jax.random.key(0))
    assert_close(jnp.linalg.norm(params["value_head"]["kernel"]), 1.0)
    assert_close(jnp.linalg.norm(params["head"]["kernel"], axis=0), [0.01, 0.01])


def test_cnn_and_recurrent():
    env = environment(Box(0, 1, (4, 4, 1)), Discrete(2))
    policy = policies.cnn(env, (2,), (5,), shared_value=True)
    params = policy.init(jax.random.key(0))
    assert policy.apply(params, jnp.ones((6, 4, 4, 1))).value.shape == (6,)
    policy = policies.recurrent(ENV, "linear", 4, (5,), shared_value=True)
    params, x = policy.init(jax.random.key(0)), jnp.ones((6, 3))
    starts = jnp.arange(6) == 3
    value, carry = unroll(policy, params, x, starts, policy.initial_carry, lambda d: d.value)
    assert value.shape == (6,) and carry.shape == (4,)
    assert_close(value[:3], value[3:])
    assert float(jnp.abs(value[1] - value[0])) > 1e-4  # The value remembers too.


DISTRIBUTIONS = {
    "categorical": lambda: distributions.Categorical(jnp.asarray([0.1, 0.5, -1.0])),
    "normal": lambda: distributions.DiagonalNormal(jnp.asarray([0.1, 0.5]), jnp.asarray([0.2, -0.3])),
    "squashed": lambda: distributions.TanhNormal(jnp.asarray([0.1, 0.5]), jnp.asarray([0.2, -0.3])),
    "joint": lambda: distributions.Joint(
        {"a": distributions.Categorical(jnp.asarray([0.1, 0.5])), "b": distributions.Bernoulli(jnp.asarray([0.3]))}
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_all_is_delegated(name):
    """`sample`, `log_prob`, …, under `jit`, are the distribution's own; divergences with a value or without."""
    plain = DISTRIBUTIONS[name]()
    other = jax.tree.map(lambda x: x + 0.3, plain)
    both, other_both = WithValue(plain, jnp.asarray(2.0)), WithValue(other, jnp.asarray(-1.0))
    assert distributions.is_distribution(both)
    assert distributions.num_uniforms(both) == distributions.num_uniforms(plain)

    @jax.jit
    def everything(d, other):
        action = d.sample(jax.random.key(3))
        uniforms = jnp.linspace(0.2, 0.7, d.num_uniforms())
        outside = distributions.to_environment(d, action)
        return (
            action,
            d.log_prob(action),
            d.entropy(),
            d.mode(),
            d.from_uniforms(uniforms),
            outside,
            d.kl_divergence(other),
        )

    expected = everything(plain, other)
    for first, second in ((both, other_both), (both, other), (plain, other_both)):
        jax.tree.map(np.testing.assert_array_equal, everything(first, second), expected)
    jax.tree.map(np.testing.assert_array_equal, quadrature(both), quadrature(plain))


def test_what_the_distribution_lacks_is_lacking():
    class Plain:
        def sample(self, key):
            return 1

        def log_prob(self, action):
            return 0.0

    both = WithValue(Plain(), 0.5)
    assert distributions.is_distribution(both) and both.sample(None) == 1
    assert not any(hasattr(both, name) for name in ("entropy", "kl_divergence", "to_environment", "__len__"))
    with pytest.raises(TypeError, match="Plain cannot be drawn from given uniforms"):
        distributions.num_uniforms(both)


def test_copies_and_pickles():
    both = WithValue(DISTRIBUTIONS["categorical"](), jnp.asarray(2.0))
    for twin in (copy.copy(both), copy.deepcopy(both), pickle.loads(pickle.dumps(both))):
        assert_close(twin.log_prob(1), both.log_prob(1))
    assert_close(distributions.without_value(both).logits, both.logits)
    assert jax.tree.structure(both).num_leaves == 2


@pytest.mark.slow
def test_the_engine_takes_them():
    """Gradients in the policy's parameters are those of the plain policy, 0 in the value's head."""
    mdp = jaxpg.exact.gridworld(slip=0.1, discount=0.9, horizon=4)
    env = mdp.environment()
    shared = policies.mlp(env, (4,), head_gain=1.0, shared_value=True)
    plain = policies.mlp(env, (4,), head_gain=1.0)
    params = shared.init(jax.random.key(0))
    less = {name: leaf for name, leaf in params.items() if name != "value_head"}

    def both(function):
        ours, theirs = function(shared, params), function(plain, less)
        if isinstance(ours, dict):
            assert not any(leaf.any() for leaf in jax.tree.leaves(ours.pop("value_head")))
        assert_close(ours, theirs, rtol=1e-4)

    def gradient(weight):
        return lambda policy, params: jax.jit(
            lambda key: jaxpg.policy_gradient(env, policy, num_episodes=16, weight=weight)(key, params).gradient
        )(jax.random.key(1))

    both(gradient(weights.reward_to_go(0.9)))
    both(gradient(weights.all_action(0.9, lambda observation, action: observation + 2.0 * action)))
    both(lambda policy, params: jaxpg.evaluate(jax.random.key(1), env, policy, params, num_episodes=8).returns)
    both(lambda policy, params: jax.jit(functools.partial(mdp.policy_gradient, policy))(params))

    def fisher(policy, params):
        product = jax.jit(jaxpg.natural.fisher_vector_product, static_argnums=0)
        return product(policy, params, jnp.arange(4), jax.tree.map(jnp.ones_like, params))

    both(fisher)
