"""Networks of other libraries as policies and critics; and bad input to every builder of policies."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import policies
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete
from jaxpg.policies import distributions


def environment(observation_space, action_space):
    """An environment for its spaces; nothing here steps it."""
    return Environment(
        reset=lambda key: None,
        step=lambda key, state, action: None,
        observation_space=observation_space,
        action_space=action_space,
    )


VECTOR = environment(Box(-1.0, 1.0, (4,)), Discrete(3))
REAL = environment(Box(-1.0, 1.0, (4,)), Box(-2.0, 3.0, (2,)))


def linen(size):
    nn = pytest.importorskip("flax.linen")

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(size)(nn.tanh(nn.Dense(8)(x)))

    return Network()


def nnx_constructor(size):
    nnx = pytest.importorskip("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, size, rngs=rngs)

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))

    return lambda key: Network(nnx.Rngs(key))


def equinox_constructor(size):
    equinox = pytest.importorskip("equinox")
    return lambda key: equinox.nn.MLP(4, size, 8, 1, jnp.tanh, key=key)


def haiku(size):
    hk = pytest.importorskip("haiku")
    return hk.transform(lambda x: hk.nets.MLP([8, size], activation=jnp.tanh)(x))


def haiku_without_rng(size):
    return pytest.importorskip("haiku").without_apply_rng(haiku(size))


def pair(size):
    return (
        lambda key: {"w": jax.random.normal(key, (4, 8)), "v": jnp.ones((8, size)).at[0].set(jnp.arange(size))},
        lambda params, x: jnp.tanh(x @ params["w"]) @ params["v"],
    )


NETWORKS = {
    "linen": linen,
    "nnx": nnx_constructor,
    "equinox": equinox_constructor,
    "haiku": haiku,
    "haiku without rng": haiku_without_rng,
    "pair": pair,
}
MODULES = {"nnx": nnx_constructor, "equinox": equinox_constructor}


@pytest.mark.parametrize(("name", "squash"), [*((name, False) for name in NETWORKS), ("linen", True), ("pair", "beta")])
def test_policy_from_network(name, squash):
    env = REAL if squash else VECTOR
    policy = policies.from_network(env, NETWORKS[name](policies.head_size(env.action_space)), squash=squash)
    params = jax.jit(policy.init)(jax.random.key(0))
    leaves = jax.tree.leaves(params)
    assert leaves and all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)
    other = policy.init(jax.random.key(1))
    assert any((a != b).any() for a, b in zip(leaves, jax.tree.leaves(other)))  # The key matters.
    x = jax.random.normal(jax.random.key(2), (2, 3, 4))

    @jax.jit
    def both(params, x):
        gradient = jax.grad(lambda p: policy.apply(p, x).entropy().sum())(params)
        mapped = jax.vmap(jax.vmap(policy.apply, (None, 0)), (None, 0))(params, x)
        return policy.apply(params, x), mapped, gradient

    with jax.checking_leaks():
        distribution, mapped, gradient = both(params, x)
    expected = {False: distributions.Categorical, True: distributions.TanhNormal, "beta": distributions.Beta}
    assert isinstance(distribution, expected[squash]) and distribution.entropy().shape == (2, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), distribution, mapped)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(leaf.any() for leaf in jax.tree.leaves(gradient))
    action = distribution.to_environment(distribution.sample(jax.random.key(3)))
    assert bool(env.action_space.contains(action[0, 0]))


def scalar(size):
    init, apply = pair(size)
    return init, lambda params, x: apply(params, x)[0]


@pytest.mark.parametrize("network", [*NETWORKS.values(), scalar])
def test_critic_from_network(network):
    network = network(1)
    critic = policies.value_from_network(VECTOR, network)
    params = critic.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(2), (2, 3, 4))
    values = critic.apply(params, x)
    assert values.shape == (2, 3) and critic.apply(params, x[0, 0]).shape == ()
    np.testing.assert_allclose(critic.apply(params, x[1, 2]), values[1, 2], rtol=1e-5)


@pytest.mark.parametrize("name", MODULES)
def test_module_keeps_its_own_arrays(name):
    """An instance is a starting point, for example a trained one: it gives its own outputs, for every key."""
    module = MODULES[name](3)(jax.random.key(5))
    policy = policies.from_network(VECTOR, module)
    x = jnp.asarray([0.1, -0.2, 0.3, 0.4])
    for seed in (0, 1):
        np.testing.assert_allclose(policy.apply(policy.init(jax.random.key(seed)), x).logits, module(x), rtol=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_constructor_gives_what_it_constructs(name):
    constructor = MODULES[name](3)
    policy = policies.from_network(VECTOR, constructor)
    x, key = jnp.asarray([0.1, -0.2, 0.3, 0.4]), jax.random.key(11)
    np.testing.assert_allclose(policy.apply(policy.init(key), x).logits, constructor(key)(x), rtol=1e-6)


def test_linen_params_and_output():
    network = linen(3)
    policy = policies.from_network(VECTOR, network)
    params = policy.init(jax.random.key(0))
    x = jnp.ones(4)
    assert set(params) == {"Dense_0", "Dense_1"}
    np.testing.assert_array_equal(policy.apply(params, x).logits, network.apply({"params": params}, x))


def test_nnx_params_are_a_plain_dict():
    params = policies.from_network(VECTOR, nnx_constructor(3)).init(jax.random.key(0))
    assert type(params) is dict and type(params["first"]) is dict
    assert jax.tree.map(jnp.shape, params) == {
        "first": {"bias": (8,), "kernel": (4, 8)},
        "last": {"bias": (3,), "kernel": (8, 3)},
    }


def test_preprocess_and_mask():
    """A dict observation with integers: flat features for the network, the mask for the head."""
    space = {"cell": Discrete(5), "action_mask": Box(0, 1, (3,), bool)}
    env = environment(space, Discrete(3))
    network = (lambda key: jax.random.normal(key, (5, 3)), lambda params, x: x @ params)
    policy = policies.from_network(env, network, preprocess=policies.features(space))
    params = policy.init(jax.random.key(0))
    observation = {"cell": jnp.asarray([1, 4]), "action_mask": jnp.asarray([[True, False, True], [True, True, False]])}
    distribution = policy.apply(params, observation)
    np.testing.assert_array_equal(distribution.logits, params[jnp.asarray([1, 4])])
    assert (distribution.log_prob(jnp.asarray([1, 2])) == -jnp.inf).all()


def test_network_may_give_a_distribution():
    network = (lambda key: jnp.zeros(4), lambda params, x: distributions.Bernoulli((params * x).sum(), 0))
    policy = policies.from_network(environment(Box(-1.0, 1.0, (4,)), Box(0, 1, (), bool)), network)
    assert policy.apply(policy.init(jax.random.key(0)), jnp.ones((2, 4))).log_prob(jnp.ones(2)).shape == (2,)
    numpyro = pytest.importorskip("numpyro.distributions")
    network = (lambda key: jnp.zeros((4, 3)), lambda params, x: numpyro.Categorical(logits=x @ params))
    policy = policies.from_network(VECTOR, network)
    distribution = policy.apply(policy.init(jax.random.key(0)), jnp.ones(4))
    np.testing.assert_allclose(distribution.log_prob(distribution.sample(jax.random.key(0))), -np.log(3), rtol=1e-6)


def test_low_precision_output_is_widened():
    network = (lambda key: jnp.zeros((4, 3)), lambda params, x: (x @ params).astype(jnp.bfloat16))
    assert policies.from_network(VECTOR, network).apply(jnp.zeros((4, 3)), jnp.ones(4)).logits.dtype == jnp.float32


def test_double_precision(x64):
    policy = policies.from_network(VECTOR, pair(3))
    assert policy.apply(policy.init(jax.random.key(0)), jnp.ones(4)).logits.dtype == jnp.float64


def test_import_needs_no_network_library():
    code = (
        "import sys, jax, jaxpg.policies, jaxpg.policies._linen\n"
        "loaded = {'flax', 'haiku', 'equinox', 'optax', 'gymnax'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a backend was started'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# --- What must be refused --------------------------------------------------------------------------------------------


def stateful_linen():
    nn = pytest.importorskip("flax.linen")

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.BatchNorm(use_running_average=True)(x))

    return Network()


def stateful_nnx(key):
    nnx = pytest.importorskip("flax.nnx")
    return nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(key)), nnx.BatchNorm(3, rngs=nnx.Rngs(0)))


def stateful_haiku():
    hk = pytest.importorskip("haiku")
    return hk.transform_with_state(lambda x: hk.Linear(3)(x))


FLOATS, MASKED = Box(-1, 1, (4,)), {"x": Box(-1, 1, (2,)), "action_mask": Box(0, 1, (3,), bool)}
P, E, NET = policies, environment, policies.from_network
ERRORS = [
    (lambda: P.mlp("CartPole-v1"), TypeError, "env must be an Environment"),
    (lambda: P.mlp(VECTOR, 64), TypeError, r"hidden_sizes must be a sequence of positive integers such as \(64, 64\)"),
    (lambda: P.mlp(VECTOR, "64"), TypeError, "hidden_sizes must be a sequence"),
    (lambda: P.mlp(VECTOR, (64, 0)), ValueError, r"hidden_sizes\[1\] must be an integer of at least 1; got 0"),
    (lambda: P.mlp(VECTOR, (64, 2.5)), TypeError, r"hidden_sizes\[1\] must be an integer"),
    (lambda: P.mlp(VECTOR, activation="tahn"), ValueError, "activation must be one of .* did you mean 'tanh'"),
    (lambda: P.mlp(VECTOR, activation=3), TypeError, "activation must be a function"),
    (lambda: P.mlp(VECTOR, head_gain=float("nan")), ValueError, "head_gain must be a finite real number"),
    (lambda: P.mlp(REAL, log_std_init=None), TypeError, "log_std_init must be a finite real number"),
    (lambda: P.mlp(REAL, squash="tahn"), ValueError, "squash must be one of 'tanh', 'beta'; .* did you mean 'tanh'"),
    (lambda: P.mlp(REAL, squash=1.0), TypeError, "squash must be False, True, 'tanh' or 'beta'"),
    (lambda: P.mlp(REAL, state_dependent_std="yes"), TypeError, "state_dependent_std must be True or False"),
    (lambda: P.mlp(E(FLOATS, Box(-jnp.inf, 1, (2,))), squash=True), ValueError, "squash='tanh' needs"),
    (lambda: P.mlp(E(FLOATS, Box(0, 9, (2,), jnp.int32))), ValueError, "action_space must not hold a Box of integers"),
    (lambda: P.mlp(VECTOR, dtype="int32"), TypeError, "dtype must be None or a float type"),
    (lambda: P.mlp(VECTOR, dtype="float31"), TypeError, "dtype must be None or a float type"),
    (lambda: P.mlp(E(MASKED, Discrete(4))), ValueError, r"observation_space\['action_mask'\] must have shape \(4,\)"),
    (lambda: P.mlp(E(MASKED, FLOATS)), ValueError, "an entry 'action_mask' needs a Discrete or MultiDiscrete"),
    (lambda: P.mlp(E({"action_mask": Box(0, 1, (3,), bool)}, Discrete(3))), ValueError, "nothing but an action mask"),
    (lambda: P.mlp(VECTOR).init(0), TypeError, "key must be one random key"),
    (
        lambda: P.mlp(VECTOR).apply(P.mlp(VECTOR, (9,)).init(jax.random.key(0)), jnp.ones(4)),
        ValueError,
        "params must have the structure",
    ),
    (
        lambda: P.mlp(VECTOR, (8,)).apply(P.mlp(VECTOR, (9,)).init(jax.random.key(0)), jnp.ones(4)),
        ValueError,
        r"params\['head'\]\['kernel'\] must have shape \(8, 3\); got \(9, 3\)",
    ),
    (
        lambda: P.mlp(VECTOR).apply(P.mlp(VECTOR).init(jax.random.key(0)), jnp.ones(5)),
        ValueError,
        r"observation must have the shape of its space, .*; got \(5,\)",
    ),
    (lambda: P.features({"a": FLOATS})(jnp.ones(4)), ValueError, "observation must have the structure"),
    (lambda: P.cnn(VECTOR), ValueError, "a convolutional network needs"),
    (lambda: P.cnn(E(Box(0, 1, (4, 4, 2)), Discrete(2)), kernel_size=5), ValueError, "leave nothing of a 4 × 4"),
    (lambda: P.cnn(E(Box(0, 1, (4, 4, 2)), Discrete(2)), strides=0), ValueError, "strides must be an integer"),
    (lambda: P.tabular(VECTOR), ValueError, "a table needs observation_space to be Discrete"),
    (lambda: P.tabular(E(Discrete(3), FLOATS)), ValueError, "a table needs action_space to be Discrete"),
    (lambda: P.value_tabular(VECTOR), ValueError, "a table needs observation_space to be Discrete"),
    (lambda: P.tabular(E(Discrete(3), Discrete(2))).apply(jnp.zeros((2, 3)), 0), ValueError, "must have shape"),
    (lambda: P.linear_gaussian(VECTOR), ValueError, "linear_gaussian needs action_space to be a Box of floats"),
    (lambda: P.linear_gaussian(E(Discrete(3), FLOATS)), ValueError, "linear_gaussian needs observation_space to be"),
    (lambda: P.head_size("left"), TypeError, "action_space must be a Discrete"),
    (lambda: P.Policy(init=None, apply=len), TypeError, "init must be a function"),
    (lambda: NET(VECTOR, "mlp"), TypeError, "network must be a flax linen or nnx module.*; got str"),
    (lambda: NET(VECTOR, policies.mlp(VECTOR)), TypeError, "network is a jaxpg Policy already"),
    (lambda: NET(VECTOR, type(linen(3))), TypeError, "network must be an instance of a module"),
    (lambda: NET(VECTOR, lambda x: x + 1), ValueError, "network, called with a random key, must give"),
    (lambda: NET(VECTOR, lambda key: jnp.zeros(3)), TypeError, "network, called with a random key, must give"),
    (lambda: NET(VECTOR, pair(2)), ValueError, r"network must give head_size.* Discrete\(3\).* got shape \(2,\)"),
    (lambda: NET(REAL, linen(2)), ValueError, r"an array of shape \(4,\) for one observation; got shape \(2,\)"),
    (lambda: NET(VECTOR, (pair(3)[0], lambda p, x: "left")), ValueError, "network must give .* got str"),
    (lambda: NET(VECTOR, (pair(3)[0], lambda p, x: x @ p["u"])), ValueError, "network does not work on one"),
    (lambda: NET(E(Discrete(4), Discrete(3)), pair(3)), ValueError, r"does not work on .* \(see `preprocess`\)"),
    (lambda: NET(VECTOR, pair(3), preprocess=4), TypeError, "preprocess must be a function"),
    (lambda: NET(VECTOR, stateful_linen()), ValueError, r"it keeps state, the collections \['batch_stats'\]"),
    (lambda: NET(VECTOR, stateful_nnx), ValueError, "it keeps state, the variables .*BatchStat"),
    (lambda: NET(VECTOR, stateful_haiku()), ValueError, "it keeps state"),
    (lambda: NET(VECTOR, pair(3)).apply({"w": jnp.zeros((4, 8))}, jnp.ones(4)), ValueError, "params must have"),
    (lambda: P.value_from_network(VECTOR, pair(3)), ValueError, r"network must give one number.* got shape \(3,\)"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_masks_for_multi_discrete_have_an_entry_for_each_choice():
    space = {"x": Box(-1, 1, (2,)), "action_mask": Box(0, 1, (6,), bool)}
    policy = policies.mlp(environment(space, MultiDiscrete((2, 4))))
    mask = jnp.array([False, True, True, False, True, False])  # 1 of two, and 0 or 2 of four
    distribution = policy.apply(policy.init(jax.random.key(0)), {"x": jnp.ones(2), "action_mask": mask})
    actions = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(1), 200))
    assert set(map(tuple, np.asarray(actions).tolist())) == {(1, 0), (1, 2)}
