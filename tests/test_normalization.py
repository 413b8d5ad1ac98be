"""Normalised observations: the statistics against NumPy's, what they reach, and what never changes them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from jaxpg import policies
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete
from jaxpg.policies import Policy, normalization
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
MIXED = environment(
    {
        "action_mask": Box(0, 1, (2,)),  # Of floats, and a mask all the same.
        "card": Discrete(3),
        "pair": (Box(-1, 1, (2, 2)), Box(0, 255, (2,), jnp.uint8)),
        "speed": Box(-jnp.inf, jnp.inf),
        "switch": Box(0, 1, (1,), bool),
        "whole": Box(0, 9, (2,), jnp.int32),
    },
    Discrete(2),
)
SEEN = Policy(init=lambda key: {}, apply=lambda params, observation: observation)
"""A policy whose "distribution" is the observation that it sees."""


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


def counted(model, *batches, params=None):
    """Params after `observe` of (observations, valid) each."""
    params = model.init(jax.random.key(0)) if params is None else params
    observe = jax.jit(model.observe)
    for observations, valid in batches:
        params = observe(params, observations, valid)
    return params


def moments(statistics):
    return statistics["count"], statistics["mean"], statistics["m2"] / statistics["count"]


# --- The statistics --------------------------------------------------------------------------------------------------


def test_statistics_are_numpys():
    """Of all valid observations in batches of several shapes, the first one included; others are not looked at."""
    rng, model = np.random.default_rng(0), policies.normalized(SEEN, ENV)
    batches, all_ = [], []
    for shape in ((1,), (4, 5), (7,), (2, 3, 2), (6,)):
        x = rng.normal([1.0, -2.0, 30.0], [0.5, 3.0, 10.0], (*shape, 3)).astype(np.float32)
        valid = rng.random(shape) < 0.7 if shape != (1,) else np.ones(1, bool)
        all_.append(x[valid])
        batches.append((np.where(valid[..., None], x, 1e6 if len(batches) % 2 else np.nan), valid))
    params, x = counted(model, *batches), np.concatenate(all_)
    assert_close(moments(params["observations"]), (len(x), x.mean(axis=0), x.var(axis=0)), rtol=1e-4)
    nothing = counted(model, (x, np.zeros(len(x), bool)), params=params)
    jax.tree.map(np.testing.assert_array_equal, nothing, params)


def test_large_offsets():
    """Mean 10⁴, deviation 1, in float32, where a sum of squares would leave nothing of the variance."""
    rng, model = np.random.default_rng(0), policies.normalized(SEEN, ENV)
    x = rng.normal(1e4, 1.0, (40, 500, 3)).astype(np.float32)
    params = counted(model, *((batch, np.ones(500, bool)) for batch in x))
    flat = x.reshape(-1, 3).astype(np.float64)
    naive = np.square(x.reshape(-1, 3)).mean(axis=0) - np.square(x.reshape(-1, 3).mean(axis=0))
    assert np.abs(naive / flat.var(axis=0) - 1).max() > 0.1
    _, mean, variance = moments(params["observations"])
    assert_close(mean, flat.mean(axis=0), rtol=0, atol=5e-3)  # A float32 near 10⁴ is good to 10⁻³.
    assert_close(variance, flat.var(axis=0), rtol=2e-3)
    assert_close(counted(model, (x, np.ones((40, 500), bool)))["observations"]["mean"], flat.mean(axis=0), atol=2e-3)


def test_nonfinite_observations_are_left_out():
    model, x = policies.normalized(SEEN, ENV), np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    bad = x.copy()
    bad[1, 2], bad[3, 0], bad[4, 1] = np.nan, np.inf, 1e30
    ours = counted(model, (bad, np.ones(6, bool)))
    assert_close(ours, counted(model, (x[[0, 2, 5]], np.ones(3, bool))))
    assert float(ours["observations"]["count"]) == 3


def test_the_count_stops_growing(monkeypatch):
    """From then on the statistics are an exponential average: they follow a change, and the variance stays one."""
    monkeypatch.setattr(normalization, "MOST_COUNTED", 1000.0)
    rng, model = np.random.default_rng(0), policies.normalized(SEEN, ENV)
    valid = np.ones(500, bool)
    before = counted(model, *((rng.normal(0, 1, (500, 3)).astype(np.float32), valid) for _ in range(20)))
    count, mean, variance = moments(before["observations"])
    assert count == 1000
    assert_close((mean, variance), (np.zeros(3), np.ones(3)), rtol=0.1, atol=0.1)
    after = counted(model, *((rng.normal(5, 2, (500, 3)).astype(np.float32), valid) for _ in range(20)), params=before)
    count, mean, variance = moments(after["observations"])
    assert count == 1000
    assert_close((mean, variance), (np.full(3, 5.0), np.full(3, 4.0)), rtol=0.15)


def test_the_cap_leaves_float32_counting():
    """With the count at its cap, one more batch still moves the mean by its share."""
    model = policies.normalized(SEEN, ENV)
    params = model.init(jax.random.key(0))
    cap = jnp.float32(normalization.MOST_COUNTED)
    assert cap + 1 > cap
    params["observations"] = {"count": cap, "mean": jnp.zeros(3), "m2": jnp.ones(3) * cap}
    after = counted(model, (np.ones((100, 3), np.float32), np.ones(100, bool)), params=params)["observations"]
    assert after["count"] == cap
    assert_close(after["mean"], np.full(3, 1e-5), rtol=1e-3)
    assert_close(after["m2"] / cap, np.ones(3), rtol=1e-5)


def test_under_vmap():
    """Seeds have statistics of their own."""
    model, rng = policies.normalized(SEEN, ENV), np.random.default_rng(0)
    x, valid = rng.normal(size=(3, 8, 3)).astype(np.float32), rng.random((3, 8)) < 0.6
    start = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), model.init(jax.random.key(0)))
    mapped = jax.jit(jax.vmap(model.observe))(start, x, valid)
    alone = [counted(model, (x[k], valid[k])) for k in range(3)]
    assert_close(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))


def test_double_precision(x64):
    model, x = policies.normalized(SEEN, ENV), np.random.default_rng(0).normal(1e4, 1, (50, 3))
    params = counted(model, (x[:20], np.ones(20, bool)), (x[20:], np.ones(30, bool)))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
    assert_close(moments(params["observations"]), (50, x.mean(axis=0), x.var(axis=0)), rtol=1e-11)


@pytest.mark.slow
def test_sharded(run_in_subprocess):
    """Observations that lie on several devices give one set of statistics, that of all."""
    output = run_in_subprocess(
        """
        import jax, jax.numpy as jnp, numpy as np, jaxpg
        from jax.sharding import NamedSharding, PartitionSpec as P
        env = jaxpg.make("CartPole-v1")
        model = jaxpg.policies.normalized(jaxpg.policies.mlp(env), env)
        mesh = jax.make_mesh((4,), ("lanes",))
        x = np.random.default_rng(0).normal(3, 2, (5, 8, 4)).astype(np.float32)
        on_devices = jax.device_put(x, NamedSharding(mesh, P(None, "lanes")))
        valid = jax.device_put(jnp.ones((5, 8), bool), NamedSharding(mesh, P(None, "lanes")))
        params = model.init(jax.random.key(0))
        result = jax.jit(model.observe)(params, on_devices, valid)["observations"]
        assert len(on_devices.sharding.device_set) == 4
        flat = x.reshape(-1, 4)
        np.testing.assert_allclose(result["mean"], flat.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(result["m2"] / result["count"], flat.var(axis=0), rtol=1e-5)
        print("same")
        """,
        devices=4,
    )
    assert output.strip() == "same"


# --- What the model sees ---------------------------------------------------------------------------------------------


def test_normalised_by_hand():
    model = policies.normalized(SEEN, ENV, clip=2.0, epsilon=0.5)
    params = model.init(jax.random.key(0))
    o = jnp.asarray([[1.0, -1.5, 30.0], [0.0, 0.0, -7.0]])
    expected = np.clip(np.asarray(o) / np.sqrt(1.5), -2, 2)  # Before anything is counted: mean 0, variance 1.
    assert_close(model.apply(params, o), expected)
    x = np.asarray([[0.0, 2.0, 5.0], [4.0, 2.0, -5.0]], np.float32)
    params = counted(model, (x, np.ones(2, bool)))
    assert_close(model.apply(params, o), np.clip((o - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 0.5), -2, 2))
    assert_close(model.apply(params, o[0]), model.apply(params, o)[0])


def test_a_constant_number_is_zero():
    """A variance of 0 gives 0 where the number stays what it was, and never a NaN."""
    model = policies.normalized(SEEN, ENV)
    params = counted(model, (np.full((5, 3), 7.0, np.float32), np.ones(5, bool)))
    assert_close(model.apply(params, jnp.asarray([7.0, 8.0, 6.0])), [0.0, 10.0, -10.0])


def test_only_real_numbers_are_normalised():
    model, rng = policies.normalized(SEEN, MIXED), np.random.default_rng(0)
    observations = {
        "action_mask": np.ones((9, 2), np.float32),
        "card": rng.integers(0, 3, 9),
        "pair": (rng.normal(3, 2, (9, 2, 2)).astype(np.float32), rng.integers(0, 255, (9, 2)).astype(np.uint8)),
        "speed": rng.normal(-5, 4, 9).astype(np.float32),
        "switch": rng.random((9, 1)) < 0.5,
        "whole": rng.integers(0, 9, (9, 2)).astype(np.int32),
    }
    params = counted(model, (observations, np.ones(9, bool)))
    shapes = jax.tree.map(jnp.shape, params["observations"])
    assert shapes["count"] == () and len(jax.tree.leaves(params)) == 5
    assert shapes["mean"]["pair"] == ((2, 2), None) and shapes["mean"]["speed"] == ()
    seen = model.apply(params, observations)
    for name in ("action_mask", "card", "switch", "whole"):
        assert seen[name] is observations[name]
    assert seen["pair"][1] is observations["pair"][1]
    for value in (seen["pair"][0], seen["speed"]):
        assert_close((np.mean(value, axis=0), np.std(value, axis=0)), (0 * value[0], 0 * value[0] + 1), atol=1e-5)


@pytest.mark.slow
def test_policies_of_all_kinds():
    """Dict observations with a mask, a shared value, memory: as the model itself on observations normalised by hand."""
    x = np.random.default_rng(0).normal(3, 2, (6, 3)).astype(np.float32)
    by_hand = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-8)
    starts = np.arange(6) == 3
    for inner in (
        policies.mlp(ENV, (4,), head_gain=1.0, shared_value=True),
        policies.recurrent(ENV, "linear", 3, (4,), head_gain=1.0, shared_value=True),
        policies.value_mlp(ENV, (4,)),
        policies.value_recurrent(ENV, "gru", 3, (4,)),
    ):
        model = policies.normalized(inner, ENV)
        assert type(model) is type(inner) and (model.unroll is None) == (inner.unroll is None)
        params = counted(model, (x, np.ones(6, bool)))
        ours, carry = unroll(model, params, x, starts, model.initial_carry)
        theirs, expected = unroll(inner, params["model"], by_hand, starts, inner.initial_carry)
        assert_close((ours, carry), (theirs, expected), atol=1e-5)
        if isinstance(model, Policy):
            assert model.has_value and ours.value.shape == (6,)
            critic = model.critic()
            assert critic.observe is not None and critic.description["model"]["critic"].startswith("value_")
        if model.initial_carry is not None:
            single, _ = model.apply(params, x[0], model.initial_carry)
            assert_close(jax.tree.leaves(single), jax.tree.leaves(jax.tree.map(lambda leaf: leaf[0], ours)), atol=1e-5)


def test_what_reaches_the_statistics():
    """No gradient, and no optimiser that is masked by `trainable`, weight decay included."""
    model = policies.normalized(policies.mlp(ENV, (4,), head_gain=1.0), ENV)
    x = np.random.default_rng(0).normal(3, 2, (6, 3)).astype(np.float32)
    params = counted(model, (x, np.ones(6, bool)))
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, x).log_prob(jnp.ones(6)))))(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["observations"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["model"]))
    assert not any(jax.tree.leaves(model.trainable(params)["observations"]))
    assert all(jax.tree.leaves(model.trainable(params)["model"]))

    labels = jax.tree.map(lambda t: "learn" if t else "keep", model.trainable(params))
    optimizer = optax.multi_transform(
        {"learn": optax.adamw(0.1, weight_decay=0.5), "keep": optax.set_to_zero()}, labels
    )
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    jax.tree.map(np.testing.assert_array_equal, after["observations"], params["observations"])
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(after["model"]), jax.tree.leaves(params["model"])))


def test_gradients_and_evaluation_with_the_engine():
    env = jaxpg.make("CartPole-v1", max_steps=20)
    model = policies.normalized(policies.mlp(env, (4,)), env)
    params = model.init(jax.random.key(0))
    estimate = jax.jit(jaxpg.policy_gradient(env, model, num_episodes=8))(jax.random.key(1), params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(estimate.gradient["observations"]))
    assert any(leaf.any() for leaf in jax.tree.leaves(estimate.gradient["model"]))
    scores = jaxpg.evaluate(jax.random.key(1), env, model, params, num_episodes=4)
    assert bool((scores.returns > 0).all())


# --- Bad input -------------------------------------------------------------------------------------------------------

MODEL = policies.mlp(ENV, (4,))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: policies.normalized(SEEN, environment(MultiDiscrete((2, 3)), Discrete(2))),
            ValueError,
            r"observation_space must hold a Box of floats for its observations to be normalised; got MultiDiscrete",
        ),
        (
            lambda: policies.normalized(SEEN, environment(Box(0, 255, (3,), jnp.uint8), Discrete(2))),
            ValueError,
            "observation_space must hold a Box of floats",
        ),
        (lambda: policies.normalized(policies.normalized(MODEL, ENV), ENV), ValueError, "cannot be normalised again"),
        (lambda: policies.normalized("mlp", ENV), TypeError, "model must be a Policy or a Critic; got str"),
        (lambda: policies.normalized(MODEL, MODEL), TypeError, "env must be an Environment"),
        (lambda: policies.normalized(MODEL, ENV, clip=0), ValueError, r"clip must be a finite .* in \(0, inf\)"),
        (lambda: policies.normalized(MODEL, ENV, epsilon=0), ValueError, "epsilon must be a finite real number"),
        (
            lambda: policies.normalized(MODEL, ENV).apply(MODEL.init(jax.random.key(0)), jnp.ones(3)),
            ValueError,
            r"params must be a normalised model's, \{'observations', 'model'\}; got \['head', 'hidden_0'\]",
        ),
        (
            lambda: counted(policies.normalized(SEEN, ENV), (np.ones((4, 3)), np.ones(5, bool))),
            ValueError,
            r"observations must have the leading axes of valid, \(5,\)",
        ),
        (
            lambda: counted(policies.normalized(SEEN, MIXED), (np.ones((4, 3)), np.ones(4, bool))),
            ValueError,
            "observation must have the structure of observation_space",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
