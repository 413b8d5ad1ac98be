"""Policies and critics: every kind of space, exact parametrisations, networks of other libraries, and bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import policies
from jaxpg.envs import spaces
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


OBSERVATIONS = {
    "vector": Box(-jnp.inf, jnp.inf, (4,)),
    "number": Box(-1, 1),
    "bytes": Box(0, 255, (3, 2), jnp.uint8),
    "switches": Box(0, 1, (5,), bool),
    "discrete": Discrete(6),
    "multi-discrete": MultiDiscrete((2, 3)),
    "dict": {"position": Box(-1, 1, (2,)), "card": Discrete(3), "rest": (Box(0, 9, (2, 2), jnp.int32), Discrete(2))},
}
ACTIONS = {
    "discrete": (Discrete(3), 3, distributions.Categorical),
    "multi-discrete": (MultiDiscrete((2, 4)), 6, distributions.MultiDiscrete),
    "switches": (Box(0, 1, (3,), bool), 3, distributions.Bernoulli),
    "real": (Box(-1, 2, (2,)), 4, distributions.DiagonalNormal),
    "unbounded number": (Box(-jnp.inf, jnp.inf), 2, distributions.DiagonalNormal),
    "matrix": (Box(-1, 1, (2, 3)), 12, distributions.DiagonalNormal),
    "dict": ({"move": Discrete(3), "aim": (Box(-1, 1, (2,)), Box(0, 1, (1,), bool))}, 8, distributions.Joint),
}
VECTOR = environment(OBSERVATIONS["vector"], Discrete(3))
REAL = environment(OBSERVATIONS["vector"], Box(-2.0, 3.0, (2,)))


def observations(space, batch=(2, 3), seed=0):
    keys = jax.random.split(jax.random.key(seed), math.prod(batch))
    flat = jax.vmap(lambda key: spaces.sample(space, key))(keys)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), flat)


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


def assert_batches(apply, params, observation):
    """Two leading batch axes, vmap, and one observation give the same; returns the batched result."""

    @jax.jit
    def three_ways(params, observation):
        mapped = jax.vmap(jax.vmap(apply, (None, 0)), (None, 0))(params, observation)
        return apply(params, observation), mapped, apply(params, jax.tree.map(lambda x: x[1, 2], observation))

    batched, mapped, single = three_ways(params, observation)
    assert_close(batched, mapped)
    assert_close(jax.tree.map(lambda x: x[1, 2], batched), single)
    return batched


# --- Networks over all spaces ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations(name):
    env = environment(OBSERVATIONS[name], Discrete(3))
    policy, critic = policies.mlp(env, hidden_sizes=(5,), head_gain=1.0), policies.value_mlp(env, hidden_sizes=(5,))
    params = policy.init(jax.random.key(0))
    assert params["hidden_0"]["kernel"].shape == (policies.feature_size(env.observation_space), 5)
    observation = observations(env.observation_space)
    logits = assert_batches(policy.apply, params, observation).logits
    assert logits.shape == (2, 3, 3) and float(jnp.ptp(logits, axis=(0, 1)).min()) > 0
    values = assert_batches(critic.apply, critic.init(jax.random.key(0)), observation)
    assert values.shape == (2, 3) and values.dtype == jnp.result_type(float)


REAL_ACTIONS = ["real", "unbounded number", "matrix", "dict"]


@pytest.mark.parametrize(
    ("name", "squash", "state_dependent_std"),
    [
        *((name, False, False) for name in ACTIONS),
        *((name, False, True) for name in REAL_ACTIONS),
        *((name, squash, False) for name in ("real", "matrix", "dict") for squash in (True, "beta")),
    ],
)
def test_actions(name, squash, state_dependent_std):
    space, size, kind = ACTIONS[name]
    env = environment(OBSERVATIONS["vector"], space)
    policy = policies.mlp(env, (5,), squash=squash, state_dependent_std=state_dependent_std)
    params = policy.init(jax.random.key(0))
    assert policies.head_size(space) == size
    own_std = "log_std" in params
    assert own_std == (name in REAL_ACTIONS and not state_dependent_std and squash != "beta")
    scales = params["log_std"].size if own_std else 0
    assert params["head"]["kernel"].shape == (5, size - scales)
    distribution = assert_batches(policy.apply, params, observations(env.observation_space))
    if kind is distributions.DiagonalNormal and squash:
        kind = distributions.Beta if squash == "beta" else distributions.TanhNormal
    assert isinstance(distribution, kind)
    action, log_prob = jax.jit(lambda d: (lambda a: (a, d.log_prob(a)))(d.sample(jax.random.key(1))))(distribution)
    assert log_prob.shape == (2, 3) and bool(jnp.isfinite(log_prob).all())
    outside = jax.tree.map(lambda x: x[0, 0], distribution.to_environment(action))
    assert bool(spaces.contains(space, outside))


def test_dict_actions_use_every_output():
    """Each leaf of a joint action reads its own numbers, in order, also where the deviations are the network's."""
    space = ACTIONS["dict"][0]  # Leaves in order: aim[0] (2 real), aim[1] (1 switch), move (3 choices).
    head, numbers = policies.head(space), jnp.arange(8.0)
    aim, switch = head(numbers).distributions["aim"]
    move = head(numbers).distributions["move"]
    assert_close([aim.mean, aim.log_std, switch.logits, move.logits], [[0, 1], [2, 3], [4], [5, 6, 7]])
    aim = head(jnp.arange(6.0), None, jnp.asarray([7.0, 8.0])).distributions["aim"][0]
    assert_close([aim.mean, aim.log_std], [[0, 1], [7, 8]])


def test_each_real_action_has_its_own_deviations():
    head = policies.head((Box(-1, 1, (2,)), Discrete(2), Box(-1, 1, (1,))))
    first, _, last = head(jnp.arange(5.0), None, jnp.asarray([7.0, 8.0, 9.0])).distributions
    assert_close([first.mean, first.log_std, last.mean, last.log_std], [[0, 1], [7, 8], [4], [9]])


def test_features_by_hand():
    space = OBSERVATIONS["dict"]
    value = {"position": jnp.asarray([0.5, -1.0]), "card": jnp.asarray(2), "rest": (jnp.asarray([[1, 2], [3, 4]]), 1)}
    assert_close(policies.features(space)(value), [0, 0, 1, 0.5, -1, 1, 2, 3, 4, 0, 1])
    assert_close(policies.features(MultiDiscrete((2, 3)))(jnp.asarray([1, 0])), [0, 1, 1, 0, 0])
    assert_close(policies.features(OBSERVATIONS["bytes"])(jnp.full((3, 2), 51, jnp.uint8)), [0.2] * 6)
    assert_close(policies.features(Box(0, 20, (2,), jnp.uint8))(jnp.asarray([5, 20], jnp.uint8)), [5, 20])


def test_mlp_by_hand():
    """tanh(x W₀ + b₀) W₁ + b₁; orthogonal weights with gains √2 and 0.01, biases 0, log_std as asked for."""
    policy = policies.mlp(REAL, (8,), log_std_init=-0.7)
    params = policy.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {
        "hidden_0": {"kernel": (4, 8), "bias": (8,)},
        "head": {"kernel": (8, 2), "bias": (2,)},
        "log_std": (2,),
    }
    hidden, head = params["hidden_0"]["kernel"], params["head"]["kernel"]
    assert_close(hidden @ hidden.T, 2 * jnp.eye(4))
    assert_close(head.T @ head, 1e-4 * jnp.eye(2), atol=1e-9)
    assert_close(params["log_std"], [-0.7, -0.7])
    params = jax.tree.map(lambda x: x + 0.1, params)
    x = observations(REAL.observation_space)
    expected = jnp.tanh(x @ (hidden + 0.1) + 0.1) @ (head + 0.1) + 0.1
    distribution = policy.apply(params, x)
    assert_close(distribution.mean, expected)
    assert_close(distribution.log_std, jnp.full((2, 3, 2), -0.6))
    assert (distribution.low, distribution.high) == (-2.0, 3.0)
    value = policies.value_mlp(REAL, (8,)).init(jax.random.key(0))["head"]["kernel"]
    assert_close((value**2).sum(), 1.0)


@pytest.mark.parametrize("activation", [*policies.networks.ACTIVATIONS, jnp.sin])
def test_activations(activation):
    policy = policies.mlp(VECTOR, (4,), activation, head_gain=1.0)
    params = policy.init(jax.random.key(0))
    x = jnp.asarray([0.3, -0.2, 1.0, -2.0])
    function = policies.networks.ACTIVATIONS.get(activation, activation) if isinstance(activation, str) else activation
    assert_close(policy.apply(params, x).logits, function(x @ params["hidden_0"]["kernel"]) @ params["head"]["kernel"])


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((10, 10, 4), {}),
        ((10, 8, 3), {"strides": 2, "features": (4, 5)}),
        ((6, 6), {"kernel_size": 2, "hidden_sizes": ()}),
    ],
)
def test_cnn_equals_convolution(shape, options):
    env = environment(Box(0, 1, shape, bool), Discrete(3))
    options = {"features": (4,), "hidden_sizes": (6,), **options}
    policy, critic = policies.cnn(env, **options, head_gain=1.0), policies.value_cnn(env, **options)
    params, value_params = policy.init(jax.random.key(0)), critic.init(jax.random.key(1))
    x = observations(env.observation_space)

    def reference(params):
        y = x.reshape(6, *shape[:2], -1).astype(float)
        for k in range(len(options["features"])):
            layer = params[f"convolution_{k}"]
            y = jax.lax.conv_general_dilated(
                y,
                layer["kernel"],
                (options.get("strides", 1),) * 2,
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            y = jax.nn.relu(y + layer["bias"])
        y = y.reshape(2, 3, -1)
        for k in range(len(options["hidden_sizes"])):
            y = jax.nn.relu(y @ params[f"hidden_{k}"]["kernel"] + params[f"hidden_{k}"]["bias"])
        return y @ params["head"]["kernel"] + params["head"]["bias"]

    params, value_params = jax.tree.map(lambda x: x + 0.05, (params, value_params))
    assert_close(assert_batches(policy.apply, params, x).logits, reference(params), rtol=1e-4)
    assert_close(assert_batches(critic.apply, value_params, x), reference(value_params)[..., 0], rtol=1e-4)


@pytest.mark.parametrize("kind", [Discrete(4), MultiDiscrete((3, 2))])
def test_action_masks_reach_the_head_and_not_the_features(kind):
    size = policies.head_size(kind)
    space = {"view": Box(-1, 1, (3,)), "action_mask": Box(0, 1, (size,), bool)}
    policy = policies.mlp(environment(space, kind), (5,))
    params = policy.init(jax.random.key(0))
    assert params["hidden_0"]["kernel"].shape == (3, 5)
    mask = jnp.ones(size, bool).at[1].set(False)
    observation = {"view": jnp.ones(3), "action_mask": mask}
    distribution = policy.apply(params, observation)
    forbidden = 1 if isinstance(kind, Discrete) else jnp.asarray([1, 0])
    assert float(distribution.log_prob(forbidden)) == -math.inf
    observation = jax.tree.map(lambda x: jnp.broadcast_to(x, (2, 3, *x.shape)), observation)
    batched = assert_batches(policy.apply, params, observation)
    assert (batched.log_prob(jnp.asarray(forbidden)) == -math.inf).all()


def flat(jaxpr):
    """The equations, those with derivatives of their own as what they compute."""
    for equation in jaxpr.eqns:
        inner = equation.params.get("call_jaxpr")
        yield from [equation] if inner is None else flat(inner.jaxpr)


@pytest.mark.parametrize("build", [policies.mlp, policies.value_mlp])
def test_network_is_plain_products(build):
    """Under vmap: one product for each layer, and no transpose, gather or reshape between them."""
    network = build(VECTOR)
    params = network.init(jax.random.key(0))
    jaxpr = jax.make_jaxpr(jax.vmap(network.apply, (None, 0)))(params, jnp.zeros((7, 4))).jaxpr
    names = [equation.primitive.name for equation in flat(jaxpr)]
    assert names.count("dot_general") == 3
    assert set(names) <= {"dot_general", "add", "tanh", "broadcast_in_dim", "reshape", "slice", "squeeze"}
    before_last = names[: len(names) - 1 - names[::-1].index("dot_general")]
    assert not {"transpose", "gather", "slice", "squeeze"} & set(before_last)


def test_compute_dtype():
    policy = policies.mlp(VECTOR, (8,), dtype=jnp.bfloat16)
    params = policy.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits = policy.apply(params, jnp.ones(4)).logits
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, policies.mlp(VECTOR, (8,)).apply(params, jnp.ones(4)).logits, atol=1e-3)


@pytest.mark.parametrize("build", [policies.mlp, policies.value_mlp])
def test_double_precision(build, x64):
    network = build(REAL)
    params = network.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
    assert {leaf.dtype for leaf in jax.tree.leaves(network.apply(params, jnp.ones(4, jnp.float32)))} == {
        jnp.dtype("float64")
    }


def test_transformations():
    """Seeds and hyperparameters under vmap and jit, without leaks; legacy keys."""

    def entropy(key, log_std_init):
        policy = policies.mlp(REAL, (4,), log_std_init=log_std_init)
        return policy.apply(policy.init(key), jnp.ones(4)).entropy()

    with jax.checking_leaks():
        keys = jax.random.split(jax.random.key(0), 2)
        result = jax.jit(jax.vmap(entropy))(keys, jnp.asarray([0.0, 1.0]))
    assert_close(result[1] - result[0], 2.0)
    assert_close(policies.mlp(VECTOR).init(jax.random.PRNGKey(3)), policies.mlp(VECTOR).init(jax.random.key(3)))


# --- Tables and linear feedback --------------------------------------------------------------------------------------


def test_tabular():
    env = environment(Discrete(5), Discrete(3))
    policy, critic = policies.tabular(env), policies.value_tabular(env)
    params = policy.init(jax.random.key(0))
    assert params.shape == (5, 3) and not params.any() and not critic.init(jax.random.key(0)).any()
    params = jax.random.normal(jax.random.key(1), (5, 3))
    states = observations(Discrete(5))
    assert_close(assert_batches(policy.apply, params, states).log_probs(), jax.nn.log_softmax(params)[states])
    score = jax.grad(lambda p: policy.apply(p, 2).log_prob(1))(params)
    assert_close(score, jnp.zeros((5, 3)).at[2].set(jax.nn.one_hot(1, 3) - jax.nn.softmax(params[2])))
    assert_close(assert_batches(critic.apply, params[:, 0], states), params[states, 0])


def test_linear_gaussian():
    env = environment(Box(-jnp.inf, jnp.inf, (3,)), Box(-jnp.inf, jnp.inf, (2,)))
    policy = policies.linear_gaussian(env, log_std_init=-1.0)
    params = policy.init(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {"gain": (2, 3), "log_std": (2,)}
    assert not params["gain"].any() and (params["log_std"] == -1).all()
    params["gain"] = jnp.asarray([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]])
    state = jnp.asarray([1.0, -1.0, 2.0])
    distribution = policy.apply(params, state)
    assert_close(distribution.mean, -params["gain"] @ state)
    assert_close(distribution.log_prob(distribution.mean), 2 - math.log(2 * math.pi))
    score = jax.grad(lambda p: policy.apply(p, state).log_prob(jnp.zeros(2)))(params)
    assert_close(score["gain"], jnp.outer(params["gain"] @ state, -state) * math.exp(2))
    assert_batches(policy.apply, params, observations(env.observation_space))


def test_linear_gaussian_of_numbers_and_matrices():
    for state, action in [((), ()), ((2, 2), (3, 2))]:
        policy = policies.linear_gaussian(environment(Box(-1, 1, state), Box(-1, 1, action)))
        params = jax.tree.map(lambda x: x + 0.5, policy.init(jax.random.key(0)))
        distribution = assert_batches(policy.apply, params, observations(Box(-1, 1, state)))
        assert distribution.sample(jax.random.key(0)).shape == (2, 3, *action)
        assert distribution.entropy().shape == (2, 3)
