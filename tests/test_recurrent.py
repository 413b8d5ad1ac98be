"""Policies and critics with memory: cells by hand, unrolled against step by step, resets, segments, empty memories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import policies
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete
from jaxpg.policies import Policy, distributions
from jaxpg.policies.unroll import unroll

CELLS = ["gru", "lstm", "linear"]
T = 11
KEY = np.array([0, 0], np.uint32)  # A key in the old style, so that none is made while the tests are collected.
STARTS = np.array([0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0], bool)


def environment(observation_space, action_space):
    """An environment for its spaces; nothing here steps it."""
    return Environment(
        reset=lambda key: None,
        step=lambda key, state, action: None,
        observation_space=observation_space,
        action_space=action_space,
    )


ENV = environment(Box(-jnp.inf, jnp.inf, (3,)), Discrete(2))


def build(cell, **options):
    """A small policy, parameters of which every one matters, and T observations."""
    policy = policies.recurrent(ENV, cell, 5, (4,), **{"head_sizes": (3,), "head_gain": 1.0, **options})
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), jax.jit(policy.init)(KEY))
    return policy, params, jnp.asarray(rng.normal(size=(T, 3)), jnp.result_type(float))


def some_carry(policy):
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda h: 0.5 + rng.normal(size=h.shape).astype(h.dtype), policy.initial_carry)


def step_by_step(policy, params, observations, starts, carry):
    """`apply` in a Python loop: (logits [T, 2], carries behind each step)."""
    apply, logits, carries = jax.jit(policy.apply), [], []
    for observation, start in zip(observations, starts):
        distribution, carry = apply(params, observation, policy.initial_carry if start else carry)
        logits.append(distribution.logits)
        carries.append(carry)
    return jnp.stack(logits), carries


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-5, **tolerance}), a, b)


def logits_of(distribution):
    return distribution.logits


# --- The equations ---------------------------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cell_by_hand(cell, memory, x, carry):
    """One step in NumPy, gate by gate."""
    kernel, bias = (np.asarray(memory["input"][name], np.float64) for name in ("kernel", "bias"))
    from_input = x @ kernel + bias
    if cell == "linear":
        a, v = sigmoid(from_input[:5]), from_input[5:]
        return a * carry + (1 - a) * v
    weights = np.asarray(memory["recurrent"], np.float64)
    if cell == "gru":
        from_memory = carry @ weights
        r, z = sigmoid(from_input[:5] + from_memory[:5]), sigmoid(from_input[5:10] + from_memory[5:10])
        n = np.tanh(from_input[10:] + r * from_memory[10:])
        return (1 - z) * n + z * carry
    gates = from_input + carry["hidden"] @ weights
    i, f, o, g = sigmoid(gates[:5]), sigmoid(gates[5:10]), sigmoid(gates[10:15]), np.tanh(gates[15:])
    c = f * carry["cell"] + i * g
    return {"cell": c, "hidden": o * np.tanh(c)}


@pytest.mark.parametrize("cell", CELLS)
def test_one_step_by_hand(cell):
    policy, params, observations = build(cell)
    carry = some_carry(policy)
    distribution, after = policy.apply(params, observations[0], carry)
    dense = lambda name, x: x @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])  # noqa: E731
    x = np.tanh(dense("hidden_0", np.asarray(observations[0])))
    expected = cell_by_hand(cell, params["memory"], x, carry)
    assert_close(after, expected)
    h = expected["hidden"] if cell == "lstm" else expected
    assert_close(distribution.logits, dense("head", np.tanh(dense("hidden_1", np.concatenate([x, h])))))


def test_gru_and_lstm_are_those_of_flax():
    """With flax's parameters in the places of ours, the same numbers."""
    from flax import linen

    for cell, module, gates in (
        ("gru", linen.GRUCell(5), [("ir", "hr"), ("iz", "hz"), ("in", "hn")]),
        ("lstm", linen.OptimizedLSTMCell(5), [("ii", "hi"), ("if", "hf"), ("io", "ho"), ("ig", "hg")]),
    ):
        policy, params, observations = build(cell, head_sizes=())
        h, x = jnp.full(5, 0.3), jnp.tanh(observations[0] @ params["hidden_0"]["kernel"] + params["hidden_0"]["bias"])
        carry = h if cell == "gru" else (2 * h, h)
        theirs = module.init(jax.random.key(4), carry, x)["params"]
        memory = {
            "input": {
                "kernel": jnp.concatenate([theirs[i]["kernel"] for i, _ in gates], axis=1),
                "bias": jnp.concatenate([theirs[i].get("bias", jnp.zeros(5)) for i, _ in gates]),
            },
            "recurrent": jnp.concatenate([theirs[k]["kernel"] for _, k in gates], axis=1),
        }
        ours = h if cell == "gru" else {"cell": 2 * h, "hidden": h}
        _, after = policy.apply({**params, "memory": memory}, observations[0], ours)
        expected, _ = module.apply({"params": theirs}, carry, x)
        assert_close(jax.tree.leaves(after), jax.tree.leaves(expected))


def test_initial_parameters():
    for cell, blocks in (("gru", 3), ("lstm", 4), ("linear", 2)):
        memory = policies.recurrent(ENV, cell, 6, (6,)).init(jax.random.key(0))["memory"]
        matrices = [memory["input"]["kernel"], *([memory["recurrent"]] if cell != "linear" else [])]
        for matrix in matrices:
            for block in np.split(np.asarray(matrix), blocks, axis=1):
                assert_close(block.T @ block, np.eye(6))
        first, second = np.split(np.asarray(matrices[0]), blocks, axis=1)[:2]
        assert np.abs(first - second).max() > 0.1  # Each gate has a matrix of its own.
        bias = memory["input"]["bias"]
        if cell == "linear":
            horizons = 1 / (1 - jax.nn.sigmoid(bias[:6]))
            assert_close([horizons[0], horizons[-1]], [2.0, 101.0], rtol=1e-4)
            assert not bias[6:].any()
        else:
            assert_close(bias, np.repeat([0.0, 1.0, 0.0, 0.0], 6) if cell == "lstm" else np.zeros(18))


# --- Unrolled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_unrolled_equals_step_by_step(cell):
    """With episodes that begin in the middle, one right behind the other; every output and the last carry."""
    policy, params, observations = build(cell)
    carry = some_carry(policy)
    expected, carries = step_by_step(policy, params, observations, STARTS, carry)
    run = jax.jit(policy.unroll)
    distribution, after = run(params, observations, STARTS, carry)
    assert_close((distribution.logits, after), (expected, carries[-1]))
    # The classic mistake, the memory begun anew one step late, gives other numbers: the test above sees it.
    late, _ = run(params, observations, np.roll(STARTS, 1), carry)
    assert float(jnp.abs(late.logits - expected)[3].max()) > 1e-3
    # And the carry counts, up to the first start and no further.
    other, _ = run(params, observations, STARTS, jax.tree.map(lambda h: h + 1, carry))
    changed = np.abs(np.asarray(other.logits - expected)).max(axis=1)
    assert (changed[:3] > 1e-4).all() and (changed[3:] < 1e-6).all()


@pytest.mark.parametrize("cell", CELLS)
def test_segment_by_segment_equals_whole(cell):
    policy, params, observations = build(cell)
    run = jax.jit(policy.unroll)
    whole, last = run(params, observations, STARTS, policy.initial_carry)
    carry, parts = policy.initial_carry, []
    for rows in (slice(0, 1), slice(1, 6), slice(6, T)):
        part, carry = run(params, observations[rows], STARTS[rows], carry)
        parts.append(part.logits)
    assert_close((jnp.concatenate(parts), carry), (whole.logits, last))


@pytest.mark.parametrize("cell", CELLS)
def test_batched_and_mapped(cell):
    """Time first, then batch; under vmap over lanes; and `apply` on a batch, from the initial carry too."""
    policy, params, _ = build(cell)
    observations = jax.random.normal(jax.random.key(5), (T, 4, 3))
    starts = np.stack([STARTS, ~STARTS, np.roll(STARTS, 2), np.zeros(T, bool)], axis=1)
    carry = jax.tree.map(lambda h: jax.random.normal(jax.random.key(6), (4, *h.shape)), policy.initial_carry)
    batched, after = jax.jit(policy.unroll)(params, observations, starts, carry)
    lanes = jax.jit(jax.vmap(policy.unroll, (None, 1, 1, 0), (1, 0)))
    mapped, after_mapped = lanes(params, observations, starts, carry)
    assert_close((batched.logits, after), (mapped.logits, after_mapped))
    logits, _ = step_by_step(policy, params, observations[:, 2], starts[:, 2], jax.tree.map(lambda h: h[2], carry))
    assert_close(batched.logits[:, 2], logits)
    first, _ = jax.jit(policy.apply)(params, observations[0], policy.initial_carry)
    expected, _ = jax.jit(jax.vmap(policy.apply, (None, 0, None)))(params, observations[0], policy.initial_carry)
    assert_close(first.logits, expected.logits)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_equal(cell):
    """Through `unroll` and through a scan of `apply`, in the parameters and in the carry."""
    policy, params, observations = build(cell)
    by_apply = Policy(init=policy.init, apply=policy.apply, initial_carry=policy.initial_carry)
    actions = jnp.arange(T) % 2

    def objective(model):
        def total(params, carry):
            scores, _ = unroll(model, params, observations, STARTS, carry, lambda d, a: d.log_prob(a), actions)
            return jnp.sum(scores * jnp.arange(1.0, T + 1))

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))

    ours, theirs = (objective(model)(params, some_carry(policy)) for model in (policy, by_apply))
    assert_close(ours, theirs, rtol=1e-4)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(ours[1]))


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_crosses_the_beginning_of_an_episode(cell):
    """A NaN in one episode, or in the carry, stays out of the others, of their outputs and their gradients."""
    policy, params, observations = build(cell)
    observations = observations.at[4].set(jnp.nan)
    carry = jax.tree.map(lambda h: jnp.full_like(h, jnp.nan), policy.initial_carry)
    distribution, after = jax.jit(policy.unroll)(params, observations, STARTS, carry)
    finite = np.isfinite(np.asarray(distribution.logits)).all(axis=1)
    assert finite.tolist() == [False] * 3 + [True] + [False] * 3 + [True] * 4
    assert all(bool(jnp.isfinite(h).all()) for h in jax.tree.leaves(after))

    def last_rows(observations):
        return jnp.sum(policy.unroll(params, observations, STARTS, carry)[0].logits[8:])

    gradient = jax.jit(jax.grad(last_rows))(observations)
    assert bool(jnp.isfinite(gradient[8:]).all()) and float(jnp.abs(gradient[8]).max()) > 0
    assert not gradient[7].any()
    fresh, _ = jax.jit(policy.unroll)(params, observations[8:], np.asarray([True, False, False]), carry)
    assert_close(fresh.logits, distribution.logits[8:])


@pytest.mark.parametrize("cell", CELLS)
def test_critics(cell):
    critic = policies.value_recurrent(ENV, cell, 5, (4,))
    params, observations = critic.init(jax.random.key(0)), jax.random.normal(jax.random.key(2), (T, 3))
    values, after = jax.jit(critic.unroll)(params, observations, STARTS, critic.initial_carry)
    by_apply = policies.Critic(init=critic.init, apply=critic.apply, initial_carry=critic.initial_carry)
    assert values.shape == (T,)
    assert_close((values, after), unroll(by_apply, params, observations, STARTS, critic.initial_carry))


@pytest.mark.slow
def test_double_precision_and_compute_dtype(x64):
    for cell in CELLS:
        policy, params, observations = build(cell)
        assert {x.dtype for x in jax.tree.leaves((params, policy.initial_carry))} == {jnp.dtype("float64")}
        distribution, after = jax.jit(policy.unroll)(params, observations, STARTS, policy.initial_carry)
        by_steps, carries = step_by_step(policy, params, observations, STARTS, policy.initial_carry)
        assert_close((distribution.logits, after), (by_steps, carries[-1]), rtol=1e-12, atol=1e-12)
        low = policies.recurrent(ENV, cell, 5, (4,), head_sizes=(3,), dtype=jnp.bfloat16)
        rough, after = jax.jit(low.unroll)(params, observations, STARTS, low.initial_carry)
        assert {x.dtype for x in jax.tree.leaves((rough, after))} == {jnp.dtype("float64")}
        assert 0 < float(jnp.abs(rough.logits - distribution.logits).max()) < 0.1


def test_a_policy_of_single_precision_within_64_bits(x64):
    """A memory keeps its dtype from step to step, whatever comes in."""
    policy, params, observations = build("gru")
    carry = policy.initial_carry.astype(np.float32)
    assert policy.apply(params, observations[0], carry)[1].dtype == jnp.float32
    assert policy.unroll(params, observations, STARTS, carry)[1].dtype == jnp.float32


# --- The function that algorithms call -------------------------------------------------------------------------------


def test_unroll_of_a_model_without_memory():
    policy = policies.mlp(ENV, (4,), head_gain=1.0)
    params, observations = policy.init(jax.random.key(0)), jax.random.normal(jax.random.key(2), (T, 3))
    actions = jnp.arange(T) % 2
    scores, carry = unroll(policy, params, observations, STARTS, None, lambda d, a: d.log_prob(a), actions)
    assert carry is None
    assert_close(scores, policy.apply(params, observations).log_prob(actions))
    critic = policies.value_mlp(ENV, (4,))
    params = critic.init(jax.random.key(0))
    assert_close(unroll(critic, params, observations, STARTS, None)[0], critic.apply(params, observations))


class Counting:
    """A distribution from elsewhere, not a pytree."""

    def __init__(self, logits):
        self.logits = logits

    def sample(self, key):
        return jax.random.categorical(key, self.logits)

    def log_prob(self, action):
        return jax.nn.log_softmax(self.logits)[action]


def test_unroll_of_a_policy_of_ones_own():
    """Without `unroll`, with a carry of several parts, one of integers, and with distributions that are no pytrees."""

    def apply(params, observation, carry):
        total, steps = carry["total"] + observation, carry["steps"] + 1
        return Counting(params * total[:2] / steps), {"total": total, "steps": steps}

    first = {"total": jnp.ones(3), "steps": jnp.asarray(0)}
    policy = Policy(init=lambda key: jnp.ones(2), apply=apply, initial_carry=first)
    params, observations = jnp.asarray([1.0, 2.0]), jax.random.normal(jax.random.key(2), (T, 3))
    before = {"total": jnp.asarray([3.0, 1.0, 0.0]), "steps": jnp.asarray(7)}
    logits, carry = jax.jit(lambda p: unroll(policy, p, observations, STARTS, before, logits_of))(params)
    expected, total, steps = [], np.asarray(before["total"]), 7
    for t in range(T):
        if STARTS[t]:
            total, steps = np.ones(3), 0
        total, steps = total + np.asarray(observations[t]), steps + 1
        expected.append(np.asarray(params) * total[:2] / steps)
    assert_close(logits, np.stack(expected))
    assert_close(carry, {"total": total, "steps": steps})
    assert carry["steps"].dtype == jnp.int32


def test_a_carry_keeps_its_dtype():
    """Where a policy's `apply` answers in another dtype than its memory's, as one in half precision may."""
    policy = Policy(
        init=lambda key: jnp.ones(()),
        apply=lambda params, observation, carry: (observation, carry.astype(jnp.float32) + observation[0]),
        initial_carry=jnp.zeros((), jnp.float16),
    )
    _, carry = unroll(policy, jnp.ones(()), jnp.ones((T, 3)), STARTS, jnp.zeros((), jnp.float16))
    assert carry.dtype == jnp.float16 and float(carry) == 3.0


def test_a_carry_of_length_zero():
    """A memory that holds nothing: everything is as without one, and `unroll` as a map of `apply`."""
    plain = policies.mlp(ENV, (4, 3), head_gain=1.0)
    params, observations = plain.init(jax.random.key(0)), jax.random.normal(jax.random.key(2), (T, 3))
    for cell in CELLS:
        policy = policies.recurrent(ENV, cell, 0, (4,), head_sizes=(3,), head_gain=1.0)
        assert all(h.shape == (0,) for h in jax.tree.leaves(policy.initial_carry))
        jax.tree.map(np.testing.assert_array_equal, policy.init(jax.random.key(0)), params)
        distribution, _ = policy.unroll(params, observations, STARTS, policy.initial_carry)
        np.testing.assert_array_equal(distribution.logits, plain.apply(params, observations).logits)
        single, _ = policy.apply(params, observations[0], policy.initial_carry)
        assert_close(single.logits, distribution.logits[0])
    ones_own = Policy(init=plain.init, apply=lambda p, o, carry: (plain.apply(p, o), carry), initial_carry=jnp.zeros(0))
    logits, carry = unroll(ones_own, params, observations, STARTS, jnp.zeros(0), logits_of)
    assert carry.shape == (0,)
    assert_close(logits, unroll(plain, params, observations, STARTS, None, logits_of)[0])


# --- In the engine ---------------------------------------------------------------------------------------------------


def remembering(length=4):
    """The first observation shows a sign; the reward is for the action that names it at the end."""

    def reset(key):
        sign = jax.random.bernoulli(key).astype(jnp.int32)
        return (sign, jnp.int32(0)), jnp.asarray([2.0 * sign - 1, 1.0, 0.0])

    def step(key, state, action):
        sign, t = state
        last = t + 1 == length
        reward = jnp.where(last, jnp.where(action == sign, 1.0, -1.0), 0.0)
        return (sign, t + 1), jaxpg.Timestep(jnp.asarray([0.0, 0.0, 1.0]), reward, last, jnp.bool_(False))

    return Environment(
        reset=reset,
        step=step,
        observation_space=Box(-1, 1, (3,)),
        action_space=Discrete(2),
        max_steps=length,
        name="remembering",
    )


@pytest.mark.parametrize("cell", CELLS)
def test_segments_played_and_unrolled_agree(cell):
    """log π of the actions as they were taken, from the carry before the first row; episodes begin within."""
    env = remembering()
    policy = policies.recurrent(env, cell, 5, (4,), head_sizes=(), head_gain=1.0)
    params = policy.init(jax.random.key(0))
    state = jaxpg.segments.start_segments(env, policy, jax.random.key(1), 3)
    play = jax.jit(lambda state: jaxpg.segments.segment(env, policy, params, state, 6))
    for _ in range(2):  # The second segment begins in the middle of an episode.
        state, segment = play(state)
    rows = segment.trajectory
    carry = jax.tree.map(lambda h: h[0], rows.carry)

    def lane(observations, starts, carry, actions):
        return unroll(policy, params, observations, starts, carry, lambda d, a: d.log_prob(a), actions)

    lanes = jax.jit(jax.vmap(lane, in_axes=(1, 1, 0, 1), out_axes=(1, 0)))
    log_prob, after = lanes(rows.observation, rows.time == 0, carry, rows.action)
    assert bool((rows.time[1:] == 0).any()) and bool((rows.time[0] > 0).any())
    valid = np.asarray(rows.valid)
    assert_close(np.asarray(log_prob)[valid], np.asarray(rows.log_prob)[valid])
    shifted, _ = lanes(rows.observation, jnp.roll(rows.time == 0, 1, axis=0), carry, rows.action)
    assert float(jnp.abs(jnp.where(valid, shifted - rows.log_prob, 0)).max()) > 1e-3


def test_evaluate_plays_with_memory():
    """A linear cell set by hand to hold the sign names it every time; one that forgets does not."""
    env = remembering()
    policy = policies.recurrent(env, "linear", 1, (), head_sizes=(), head_gain=0.0)
    params = policy.init(jax.random.key(0))
    # The gate lets the first observation in (its second entry is 1) and holds on to it (then the third is).
    kernel = jnp.asarray([[0.0, 1.0], [-40.0, 0.0], [40.0, 0.0]])
    memory = {"input": {"kernel": kernel, "bias": jnp.zeros(2)}}
    head = {"kernel": params["head"]["kernel"].at[3].set(jnp.asarray([-50.0, 50.0])), "bias": jnp.zeros(2)}
    holds = {**params, "memory": memory, "head": head}
    returns = jaxpg.evaluate(jax.random.key(2), env, policy, holds, num_episodes=64).returns
    assert (np.asarray(returns) == 1).all()
    memory = {"input": {"kernel": kernel.at[2, 0].set(-40.0), "bias": jnp.zeros(2)}}
    forgets = jaxpg.evaluate(jax.random.key(2), env, policy, {**holds, "memory": memory}, num_episodes=64).returns
    assert abs(float(forgets.mean())) < 0.5


# --- Images, descriptions, bad input ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_images():
    env = environment(Box(0, 1, (6, 5, 2)), Discrete(3))
    policy = policies.recurrent(env, "gru", 4, (7,), features=(3,), head_gain=1.0)
    params, observations = policy.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (T, 6, 5, 2))
    assert params["convolution_0"]["kernel"].shape == (3, 3, 2, 3)
    logits, _ = step_by_step(policy, params, observations, STARTS, policy.initial_carry)
    assert_close(jax.jit(policy.unroll)(params, observations, STARTS, policy.initial_carry)[0].logits, logits)
    assert policy.critic().init(jax.random.key(0))["convolution_0"]["kernel"].shape == (3, 3, 2, 3)


def test_masks_and_deviations():
    env = environment({"x": Box(-1, 1, (3,)), "action_mask": Box(0, 1, (2,), bool)}, Discrete(2))
    policy = policies.recurrent(env, "linear", 4, (7,))
    observations = {"x": jnp.ones((T, 3)), "action_mask": jnp.ones((T, 2), bool).at[4, 1].set(False)}
    params = policy.init(jax.random.key(0))
    distribution, _ = jax.jit(policy.unroll)(params, observations, STARTS, policy.initial_carry)
    assert np.isneginf(distribution.log_prob(1)).tolist() == [t == 4 for t in range(T)]
    env = environment(Box(-1, 1, (3,)), Box(-1, 1, (2,)))
    policy = policies.recurrent(env, "linear", 4, (7,), squash=True, log_std_init=-1.0)
    params = policy.init(jax.random.key(0))
    distribution, _ = jax.jit(policy.unroll)(params, jnp.ones((T, 3)), STARTS, policy.initial_carry)
    assert isinstance(distribution, distributions.TanhNormal) and (distribution.log_std == -1).all()
    assert distribution.log_std.shape == (T, 2)


def test_the_critic_is_like_the_policy():
    policy = policies.recurrent(ENV, "lstm", 5, (4,), "relu", head_sizes=())
    critic = policy.critic()
    assert critic.description == {
        "critic": "value_recurrent",
        "cell": "lstm",
        "size": 5,
        "hidden_sizes": [4],
        "activation": "relu",
        "head_sizes": [],
        "features": None,
        "kernel_size": 3,
        "strides": 1,
        "head_gain": 1.0,
        "dtype": None,
    }


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cell": "gruu"}, ValueError, r"cell must be one of 'gru', 'lstm', 'linear'; got 'gruu'; did you mean 'gru'"),
        ({"size": -1}, ValueError, "size must be an integer of at least 0; got -1"),
        ({"size": 2.5}, TypeError, "size must be an integer"),
        ({"head_sizes": 64}, TypeError, r"head_sizes must be a sequence of positive integers"),
        ({"hidden_sizes": (0,)}, ValueError, r"hidden_sizes\[0\] must be an integer of at least 1"),
        ({"features": (8,)}, ValueError, "a convolutional network needs observations that are one Box of shape"),
        ({"activation": "tan"}, ValueError, "activation must be one of"),
        ({"shared_value": 1}, TypeError, "shared_value must be True or False; got 1"),
        ({"kernel_size": 0}, ValueError, "kernel_size must be an integer of at least 1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        policies.recurrent(ENV, **arguments)


def test_bad_carries_and_params():
    policy, params, observations = build("lstm")
    with pytest.raises(ValueError, match="carry must have the structure and shapes of initial_carry"):
        unroll(policy, params, observations, STARTS, jnp.zeros(5))
    with pytest.raises(ValueError, match="carry must be None for a model without memory"):
        unroll(policies.mlp(ENV), policies.mlp(ENV).init(jax.random.key(0)), observations, STARTS, jnp.zeros(5))
    with pytest.raises(ValueError, match="params must have the structure that init gives"):
        policy.apply(build("linear")[1], observations[0], policy.initial_carry)
