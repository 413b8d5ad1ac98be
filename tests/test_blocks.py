"""A minibatch's gradient block by block: what it is in one piece, with less memory, and one sum over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import _plan
from jaxpg.algorithms import _blocks
from jaxpg.algorithms._batch import Batch


def minibatch(steps, lanes, with_lanes=False, valid=None):
    draws = iter(jax.random.split(jax.random.key(0), 10))

    def normal(*shape):
        return jax.random.normal(next(draws), shape)

    none = jnp.zeros((steps, lanes), bool)
    return Batch(
        observation={"x": normal(steps, lanes, 3), "y": normal(steps, lanes)},
        action=normal(steps, lanes), log_prob=normal(steps, lanes), reward=normal(steps, lanes), terminated=none,
        truncated=none, valid=normal(steps, lanes) > -1 if valid is None else jnp.full((steps, lanes), valid),
        starts=none, value=normal(steps, lanes), last_value=normal(lanes) if with_lanes else None,
        policy_carry=normal(lanes, 2) if with_lanes else None, critic_carry=None,
    )  # fmt: skip


def terms(parameters, batch, extra):
    z = jnp.tanh(batch.observation["x"] @ parameters["w"] + batch.observation["y"][..., None]) @ parameters["v"]
    if batch.last_value is not None:  # What belongs to lanes must come with them.
        z = z * batch.last_value + batch.policy_carry[:, 0]
    values = jnp.where(batch.valid, (z - extra) ** 2 * batch.value, 0.0)
    return jnp.sum(values), {"square": jnp.sum(jnp.where(batch.valid, z**2, 0.0))}


PARAMETERS = {"w": np.arange(12.0).reshape(3, 4) / 10, "v": np.linspace(-1, 1, 4)}


@pytest.fixture
def rows_of_a_block(monkeypatch):
    return lambda rows: monkeypatch.setitem(_plan.DEFAULTS["cpu"], "minibatch_rows", rows)


@pytest.mark.parametrize("steps, lanes, with_lanes", [(1, 48, False), (1, 48, True), (5, 12, False), (5, 12, True)])
def test_blocks_change_rounding_only(x64, rows_of_a_block, steps, lanes, with_lanes):
    batch = minibatch(steps, lanes, with_lanes)
    extra = jnp.arange(float(steps * lanes)).reshape(steps, lanes)

    def mean(parameters):
        return terms(parameters, batch, extra)[0] / jnp.sum(batch.valid)

    want = jax.grad(mean)(PARAMETERS)
    square = terms(PARAMETERS, batch, extra)[1]["square"] / jnp.sum(batch.valid)
    for rows in (1000, 24, 20, 10, 7):
        rows_of_a_block(rows)
        gradient, metrics = jax.jit(lambda p: _blocks.mean_gradient(terms, p, batch, extra))(PARAMETERS)
        for name in want:
            np.testing.assert_allclose(gradient[name], want[name], rtol=1e-12, atol=1e-13, err_msg=str(rows))
        np.testing.assert_allclose(metrics["square"], square, rtol=1e-12)


def test_no_valid_row(rows_of_a_block):
    for rows in (4, 1000):
        rows_of_a_block(rows)
        gradient, metrics = _blocks.mean_gradient(terms, PARAMETERS, minibatch(1, 16, valid=False), jnp.zeros((1, 16)))
        assert all((g == 0).all() for g in gradient.values()) and np.isnan(metrics["square"])


def test_how_many_blocks(rows_of_a_block):
    rows_of_a_block(1024)
    found = {(lanes, steps): _blocks._count(lanes, steps) for lanes, steps in
             [(1024, 1), (65_536, 1), (1025, 1), (3000, 1), (2053, 1), (64, 128), (3, 2048), (128, 2048)]}  # fmt: skip
    assert found == {
        (1024, 1): 1,
        (65_536, 1): 64,
        (1025, 1): 5,
        (3000, 1): 3,
        (2053, 1): 1,  # A prime: blocks of one row would be no gain.
        (64, 128): 8,
        (3, 2048): 3,  # One lane alone has more rows than a block.
        (128, 2048): 128,
    }


@pytest.mark.slow
def test_a_wide_minibatch_takes_less_memory(rows_of_a_block):
    env = jaxpg.make("CartPole-v1")

    def temporaries(rows):
        rows_of_a_block(rows)
        algorithm = jaxpg.ppo(env, jaxpg.policies.mlp(env), num_envs=512, num_steps=64, num_minibatches=2)
        state = jax.eval_shape(algorithm.init, jax.eval_shape(lambda: jax.random.key(0)))
        return jax.jit(algorithm.step).lower(state).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(1024) < 0.5 * temporaries(2**31)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [False, True])
def test_ppo_learns_the_same_in_blocks(key, x64, rows_of_a_block, memory):
    env = jaxpg.make("CartPole-v1", max_steps=12)
    policy = jaxpg.policies.recurrent(env, size=4) if memory else jaxpg.policies.mlp(env, (8,))
    after = []
    for rows in (1000, 8):
        rows_of_a_block(rows)
        algorithm = jaxpg.ppo(env, policy, num_envs=8, num_steps=16, num_epochs=2, num_minibatches=2)
        after.append(jax.jit(algorithm.step)(algorithm.init(key))[0])
    for one, other in zip(jax.tree.leaves(after[0].params), jax.tree.leaves(after[1].params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


SUMMED_ONCE = """
import jax, jax.numpy as jnp, numpy as np, re
from jax.sharding import Mesh
from jaxpg import _mesh, _plan
from jaxpg.algorithms import _blocks
from test_blocks import PARAMETERS, minibatch, terms
_plan.DEFAULTS["cpu"]["minibatch_rows"] = 4
batch, extra = minibatch(1, 64), jnp.ones((1, 64))
mesh = Mesh(np.array(jax.devices()), ("d",))
def f(parameters, batch, extra):
    return _blocks._sums(terms, parameters, batch, extra)
rows = _mesh.sharded(mesh, 1)
together = _mesh.along_devices(mesh, f, cut={1: 1, 2: 1}, axes=None, together=True)
compiled = jax.jit(together, in_shardings=(None, rows, rows)).lower(PARAMETERS, batch, extra).compile()
found = re.findall(r"= \\S+ (all-reduce|all-gather|all-to-all|collective-permute)", compiled.as_text())
assert found == ["all-reduce"], found
want = f(PARAMETERS, batch, extra)
got = compiled(PARAMETERS, *jax.device_put((batch, extra), rows))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), want, got)
print("fine")
"""


def test_devices_are_summed_over_once(run_in_subprocess):
    assert "fine" in run_in_subprocess(SUMMED_ONCE, devices=4)
