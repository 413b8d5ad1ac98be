"""Rollouts in one kernel (benchmarks/one_kernel.py), interpreted, against the library's."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from benchmarks import accelerator, accelerator_page, one_kernel
from benchmarks.lane_program import Program, Shared, filled_up, flat, objects, unflat
from jaxpg.segments import segment, start_segments

LANES = 8


def over_lanes(function, *arguments, weights=()):
    """`function` of weights and one lane by its program, with the arguments of `LANES` lanes."""
    leaves = jax.tree.leaves(arguments)
    one = jax.tree.map(lambda x: x[0], arguments)
    program = Program(lambda weights, lane: function(*weights, *lane), weights, one)
    shared = [Shared(filled_up(x), x.shape) for x in weights]

    @jax.jit
    def run(leaves):
        values = [objects(list(flat(x)), x.shape[1:]) for x in leaves]
        found = program.run(shared, values)
        likes = jax.tree.leaves(program.result)
        return [unflat(jnp.stack([jnp.broadcast_to(v, LANES) for v in x.ravel()]), like)
                for x, like in zip(found, likes, strict=True)]  # fmt: skip

    return jax.tree.unflatten(jax.tree.structure(program.result), run(leaves))


def assert_same(found, wanted, **tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype), path
        exact = not jnp.issubdtype(y.dtype, jnp.floating)
        np.testing.assert_allclose(x, y, err_msg=str(path), **({"rtol": 0} if exact else tolerance))


SLOW = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0")
]


@pytest.mark.parametrize("name", ["CartPole-v1", *SLOW])
def test_an_environment_over_lanes_is_the_environment_of_each(name):
    env = jaxpg.make(name)

    def play(words, time):
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        state, observation = env.reset(key)
        action = env.action_space.sample(jax.random.split(key, 3)[1])
        state, timestep = env.step(jax.random.fold_in(key, time), state, action)
        return state, timestep, observation, jax.random.bits(key, (3,)), jax.random.normal(key, (2,))

    words, times = jax.random.key_data(jax.random.split(jax.random.key(1), LANES)), jnp.arange(LANES)
    assert_same(over_lanes(play, words, times), jax.vmap(play)(words, times), rtol=1e-5, atol=1e-6)


def test_small_arrays_over_lanes():
    def function(x, k):
        rows = jnp.stack([x, x[::-1] * 2, jnp.arange(3.0)])
        branch = jax.lax.switch(k, [lambda: rows[0], lambda: -rows[1], lambda: rows[2] + k])
        return {
            "product": rows @ x, "sums": jnp.cumsum(rows, axis=1), "backwards": jax.lax.cumsum(x, reverse=True),
            "argmax": jnp.argmax(x), "not a number": jnp.argmax(jnp.log(x)), "branch": branch,
            "chosen": jnp.where(k > 0, rows[:, 1:], rows[:, :2]),
            "all": jnp.all(rows.T > -9) & jnp.any(x > 1), "least": jnp.min(rows, axis=0), "number": rows.sum() + 1,
        }  # fmt: skip

    x = jax.random.normal(jax.random.key(0), (LANES, 3))
    k = jnp.arange(LANES) % 3
    assert_same(over_lanes(function, x, k), jax.vmap(function)(x, k), rtol=1e-6, atol=1e-6)


def test_products_with_weights_over_lanes():
    """Layers of 5 and 20 units, filled up: what is done behind them must not be seen."""

    def function(narrow, wide, back, scale, bias, single, x):
        few, many = x @ narrow, x @ wide + bias
        one = x @ single
        return {
            "softplus": jax.nn.softplus(many) @ back, "divided": (many / scale) @ back, "inverse": (1 / many) @ back,
            "softmax": jax.nn.softmax(few), "largest": jnp.max(many), "least": few.min(), "sum": many.sum(),
            "none": jnp.where(~jnp.any(few > 0.5), 1.0, 2.0), "not": ~(few > 0)[:2], "all": jnp.all(few > -1),
            "whole": jnp.max(jnp.floor(few).astype(jnp.int32)) // 2, "slice": few[1:3] * x[0],
            "with one": jnp.append(x[:2], 1.0) @ narrow, "reshaped": few.reshape(1, 5), "mode": jnp.argmax(few),
            "one and five": one * few, "one and two": one + x[:2], "shared one": few + single[0],
        }  # fmt: skip

    key = jax.random.key(0)
    sizes = ((3, 5), (3, 20), (20, 3), (20,), (20,), (3, 1))
    weights = [jax.random.normal(jax.random.fold_in(key, i), size) + 0.1 for i, size in enumerate(sizes)]
    wanted = jax.vmap(function, in_axes=(None,) * 6 + (0,))(*weights, x_of(key))
    assert_same(over_lanes(function, x_of(key), weights=weights), wanted, rtol=1e-4, atol=1e-5)


def x_of(key):
    return jax.random.normal(key, (LANES, 3))


def test_what_kernels_cannot_do_is_named():
    env = jaxpg.make("Breakout-MinAtar")
    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), LANES))
    words = jax.random.key_data(jax.random.split(jax.random.key(1), LANES))

    def step(words, state):
        return env.step(jax.random.wrap_key_data(words, impl="threefry2x32"), state, 0)

    with pytest.raises(NotImplementedError, match="gather|scatter|dynamic_slice"):
        over_lanes(step, words, state)
    words = jnp.zeros((LANES, 4), jnp.uint32)
    with pytest.raises(NotImplementedError, match="keys of rbg"):
        over_lanes(lambda words: jax.random.bits(jax.random.wrap_key_data(words, impl="rbg")), words)
    with pytest.raises(ValueError, match="block must be a power of two that divides the 12 lanes; got 8"):
        played(jaxpg.make("CartPole-v1"), (4,), num_lanes=12, block=8)


def played(env, hidden_sizes, *, num_lanes=16, block=8, num_steps=12, activation=None):
    """(lanes, rows) of the kernel, interpreted, and of the library."""
    policy = jaxpg.policies.mlp(env, hidden_sizes=hidden_sizes, **({} if activation is None else activation))
    params = jax.tree.map(lambda x: x + 0.1, policy.init(jax.random.key(0)))  # Biases, and actions of both kinds.
    state = jax.jit(lambda key: start_segments(env, policy, key, num_lanes))(jax.random.key(1))
    kernel = jax.jit(one_kernel.segment(env, policy, num_steps, block=block, interpret=True))(params, state)
    state, plain = jax.jit(lambda p, s: segment(env, policy, p, s, num_steps, final_rows=False))(params, state)
    return kernel, (state.lanes, plain.trajectory)


def test_the_kernel_plays_what_the_library_plays():
    """Hidden layers that have to be filled up; episodes that end by the limit, after which lanes go on."""
    kernel, plain = played(jaxpg.make("CartPole-v1", max_steps=5), (20, 7))
    assert plain[1].truncated.sum() >= 16 and 0 < plain[1].action.mean() < 1
    assert_same(kernel, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name, hidden_sizes, activation", [
    ("CartPole-v1", (64, 20), {"activation": jax.nn.softplus}),  # What fills up a layer does not stay 0.
    ("Pendulum-v1", (32,), None),
    ("MountainCar-v0", (64, 64), None),
])  # fmt: skip
def test_other_kernels_play_what_the_library_plays(name, hidden_sizes, activation):
    kernel, plain = played(jaxpg.make(name), hidden_sizes, num_steps=40, activation=activation)
    assert name != "CartPole-v1" or plain[1].terminated.sum() >= 8
    assert_same(kernel, plain, rtol=2e-3, atol=1e-4)


@pytest.mark.slow
def test_lanes_that_waited_for_a_final_row_go_on():
    """A segment that ends in the row after truncations leaves lanes that the kernel has to free."""
    env = jaxpg.make("CartPole-v1", max_steps=4)
    policy = jaxpg.policies.mlp(env, hidden_sizes=(4,))
    params = policy.init(jax.random.key(0))
    state, _ = jax.jit(lambda p, s: segment(env, policy, p, s, 4))(
        params, start_segments(env, policy, jax.random.key(1), 8)
    )
    assert state.lanes.final.all()
    kernel = jax.jit(one_kernel.segment(env, policy, 3, block=8, interpret=True))(params, state)
    state, plain = jax.jit(lambda p, s: segment(env, policy, p, s, 3, final_rows=False))(params, state)
    assert plain.trajectory.valid.any()
    assert_same(kernel, (state.lanes, plain.trajectory), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["CartPole-v1", pytest.param("Pendulum-v1", marks=pytest.mark.slow)])
def test_the_kernel_is_compiled_for_gpus_as_far_as_goes_without_one(name):
    """Triton's part is in the program's text, itself uncompiled. What is traced is what a CPU's backend traces."""
    env = jaxpg.make(name)
    policy = jaxpg.policies.mlp(env)
    params, state = policy.init(jax.random.key(0)), start_segments(env, policy, jax.random.key(1), 1024)
    text = (
        jax.jit(one_kernel.segment(env, policy, 64)).trace(params, state).lower(lowering_platforms=("cuda",)).as_text()
    )
    assert text.count("__gpu$xla.gpu.triton") == 1 and "stablehlo.while" not in text


@pytest.mark.slow
def test_a_kernel_that_plays_otherwise_is_not_measured(monkeypatch):
    whole = one_kernel.segment

    def wrong(*arguments, **options):
        play = whole(*arguments, **options)
        return lambda params, state: play(jax.tree.map(lambda x: 0 * x, params), state)

    monkeypatch.setattr(one_kernel, "segment", wrong)
    with pytest.raises(ArithmeticError, match="first step of the loop on [0-9.]+ % of the lanes"):
        one_kernel.measure("CartPole-v1", 16, 2, 1, blocks=one_kernel.QUICK_BLOCKS, interpret=True)


def test_weights_are_filled_up_to_powers_of_two():
    found = filled_up(jnp.ones((5, 17)))
    assert found.shape == (16, 32) and found.sum() == 5 * 17 and (found[:5, :17] == 1).all()
    assert filled_up(jnp.ones(64)).shape == (64,)


@pytest.mark.slow
def test_the_benchmarks_of_kernels_run_and_are_told(tmp_path, monkeypatch, capsys):
    pendulum = one_kernel.measure("Pendulum-v1", 16, 4, 1, blocks=one_kernel.QUICK_BLOCKS, interpret=True)
    given = accelerator.main(["--quick", "--parts", "one_kernel", "--out", str(tmp_path / "accelerator.json")])
    assert "CartPole-v1, 32 lanes" in capsys.readouterr().out
    for facts in (pendulum, *given["one_kernel"]):
        assert (facts["same_first_steps"], facts["same_actions"]) == (1, 1)
    text = accelerator_page.section(given)
    assert "| CartPole-v1 | 32 |" in text and "| 100.00 % |" in text

    def fails(*_, **__):
        raise RuntimeError("no | such kernel")

    monkeypatch.setattr(one_kernel, "measure", fails)
    given = accelerator.main(["--quick", "--parts", "one_kernel", "--out", str(tmp_path / "accelerator.json")])
    assert json.loads((tmp_path / "accelerator.json").read_text()) == given
    assert "| RuntimeError: no \\| such kernel |" in accelerator_page.section(given)


def test_the_page_of_accelerators_has_all_that_was_found():
    machine = {"device": "a GPU", "cores": 2, "processor": "one", "python": "3",
               "packages": dict.fromkeys(("jax", "jaxlib", "numpy"), "1")}  # fmt: skip
    gradient = {"lanes": 65_536, "dtype": "bfloat16", "steps_per_second": 3.5e8, "operations_per_second": 9.5e12,
                "times_the_floor": 2.0, "utilization": 0.75, "kernels": {"a": 40, "b": 30}}  # fmt: skip
    text = accelerator_page.section({
        "machine": machine, "gradient": [gradient], "one_kernel": [], "left_out": ["returns, breakout_64"],
        "ppo": {"breakout_64": {"jaxpg, float32": {"steps_per_second": 1.25e6}, "rejax": {"missing": "rejax"}}},
        "returns": {"cartpole_2048": [{"dtype": "float32", "returns": [500.0, 400.0]}]},
    })  # fmt: skip
    rows = ("| 65,536 | bfloat16 | 350 | 9.50 | 2.00 | 0.75 | 40, 30 |", "| jaxpg, float32 | 1.25 |",
            "| rejax | not installed |", "| float32 | 500, 400 |")  # fmt: skip
    for told in ("## On a GPU\n", *rows, "left out: returns, breakout_64."):
        assert told in text, told
    assert "one kernel" not in text


def test_the_page_says_when_nothing_was_measured_on_a_gpu():
    assert "no machine with one was at hand" in accelerator_page.section(None)
