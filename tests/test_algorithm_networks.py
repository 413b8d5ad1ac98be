"""Algorithms with networks of every kind: memories, shared torsos, running statistics, masks, pytrees of actions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg
from jaxpg import policies
from jaxpg.algorithms import _parts
from jaxpg.envs import Box, Discrete, Environment, MultiDiscrete, Timestep

pytestmark = pytest.mark.slow  # Programs with two networks and their gradients take long to compile.


def recall(length=4):
    """The first observation says what to do at the last step; a reward only there."""

    def observe(state):
        cue, time = state
        return jnp.stack([jnp.where(time == 0, 2.0 * cue - 1, 0.0), time / length])

    def reset(key):
        state = (jax.random.bernoulli(key).astype(jnp.float32), jnp.zeros(()))
        return state, observe(state)

    def step(key, state, action):
        cue, time = state
        last = time + 1 >= length
        reward = jnp.where(last, jnp.where(action == cue, 1.0, -1.0), 0.0)
        state = (cue, time + 1)
        return state, Timestep(observe(state), reward, last, jnp.zeros((), bool))

    return Environment(
        reset=reset, step=step, observation_space=Box(-1, 1, (2,)), action_space=Discrete(2), max_steps=length
    )


def close(got, want, **tolerance):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 1e-4, "atol": 1e-6})), got, want
    )


@pytest.mark.parametrize("cell", ["gru", "lstm", "linear"])
def test_the_memory_that_learns_is_the_one_that_acted(key, cell):
    """Over segments that cut episodes anywhere, π(a_t | …) is what it was when a_t was drawn: every ratio is 1."""
    env = recall(5)
    policy, critic = policies.recurrent(env, cell, 4, (4,), head_gain=1.0), policies.value_recurrent(env, cell, 4, (4,))
    algorithm = jaxpg.ppo(env, policy, critic, num_envs=3, num_steps=7, num_epochs=1, num_minibatches=1,
                          optimizer=optax.sgd(0.0), objective="clip")  # fmt: skip
    state, step = algorithm.init(key), jax.jit(algorithm.step)
    for _ in range(3):
        state, metrics = step(state)
        assert abs(float(metrics["kl"])) < 1e-6 and float(metrics["clip_fraction"]) == 0
    # And without the reset of the memory where an episode starts they are not: the check can fail.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            jaxpg.algorithms._actor_critic.Batch, "starts", property(lambda b: jnp.zeros_like(b[7])), raising=False
        )
        state, metrics = jax.jit(lambda s: algorithm.step(s))(state)
        assert float(metrics["kl"]) > 1e-5


def test_the_critics_memory_goes_on_from_segment_to_segment(key):
    """V in two segments of 4 rows is V in one of 8, at the same parameters."""
    env = recall(5)
    policy, critic = policies.recurrent(env, "gru", 4, (4,)), policies.value_recurrent(env, "gru", 4, (4,))
    values, honest = {}, _parts.advantages
    for num_steps, count in ((4, 2), (8, 1)):
        algorithm = jaxpg.a2c(env, policy, critic, num_envs=3, num_steps=num_steps, optimizer=optax.sgd(0.0))

        def seen(state, algorithm=algorithm, count=count):
            found = []

            def advantages(batch, *rest):
                found.append(batch.value)
                return honest(batch, *rest)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_parts, "advantages", advantages)
                for _ in range(count):
                    state, _ = algorithm.step(state)
            return jnp.concatenate(found)

        values[num_steps] = jax.jit(seen)(algorithm.init(key))
    assert values[8].shape == (8, 3) and np.abs(values[8]).max() > 1e-3
    np.testing.assert_allclose(values[4], values[8], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("builder", ["mlp", "recurrent"])
def test_statistics_are_frozen_while_acting_and_learning_and_count_every_observation(key, builder):
    """The ratio is 1 on the first pass whatever the statistics; afterwards they hold each observation once."""
    env = recall(5)
    inner = {"mlp": lambda: policies.mlp(env, (4,), head_gain=1.0),
             "recurrent": lambda: policies.recurrent(env, "gru", 4, (4,), head_gain=1.0)}[builder]()  # fmt: skip
    policy = policies.normalized(inner, env)
    algorithm = jaxpg.ppo(env, policy, num_envs=3, num_steps=6, num_epochs=1, num_minibatches=1,
                          optimizer=optax.adamw(1e-3, weight_decay=0.5))  # fmt: skip
    state, step = algorithm.init(key), jax.jit(algorithm.step)
    seen = []
    for _ in range(3):
        rows = jaxpg.segments.segment(env, policy, state.params, state.lanes, 6)[1].trajectory
        seen.append(np.asarray(rows.observation)[np.asarray(rows.valid)])
        state, metrics = step(state)
        assert abs(float(metrics["kl"])) < 1e-6
        observed = np.concatenate(seen)  # The first observation of each episode is among them.
        for params in (state.params, state.critic_params):
            statistics = params["observations"]
            np.testing.assert_allclose(jax.tree.leaves(statistics["mean"])[0], observed.mean(0), atol=1e-5)
            m2 = jax.tree.leaves(statistics["m2"])[0]
            np.testing.assert_allclose(m2 / len(observed), observed.var(0), rtol=1e-3, atol=1e-5)


def test_a_shared_torso_learns_value_and_policy_together(key):
    env = recall(3)
    policy = policies.mlp(env, (8,), shared_value=True)
    for name in ("ppo", "a2c"):
        options = {"num_minibatches": 2} if name == "ppo" else {}
        algorithm = getattr(jaxpg, name)(env, policy, num_envs=4, num_steps=6, learning_rate=0.01, **options)
        state = algorithm.init(key)
        assert state.critic_params is None
        after, metrics = jax.jit(algorithm.step)(state)
        moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), after.params, state.params)
        assert all(x > 0 for x in jax.tree.leaves(moved)), moved
        assert np.isfinite(metrics["value_loss"])
    with pytest.raises(ValueError, match="value of its own"):
        jaxpg.ppo(env, policy, policies.value_mlp(env))


def test_a_memory_of_length_zero_is_the_feed_forward_policy(key):
    """The same updates, parameter for parameter."""
    env = recall(5)
    mlp, value = policies.mlp(env, (6,)), policies.value_mlp(env, (6,))
    nothing = jnp.zeros(0)
    policy = jaxpg.Policy(init=mlp.init, apply=lambda p, o, c: (mlp.apply(p, o), c), initial_carry=nothing)
    critic = jaxpg.Critic(init=value.init, apply=lambda p, o, c: (value.apply(p, o), c), initial_carry=nothing)
    options = dict(num_envs=4, num_steps=7, learning_rate=0.01)
    one, other = jaxpg.a2c(env, mlp, value, **options), jaxpg.a2c(env, policy, critic, **options)
    a, b = one.init(key), other.init(key)
    for _ in range(3):
        a, b = jax.jit(one.step)(a)[0], jax.jit(other.step)(b)[0]
    close((a.params, a.critic_params), (b.params, b.critic_params))


def test_statistics_are_the_same_over_devices(run_in_subprocess):
    """Environments laid over two devices: the statistics of the observations count those of both."""
    printed = run_in_subprocess(
        """
        import jax, jax.numpy as jnp, numpy as np, jaxpg
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        env = jaxpg.make("CartPole-v1", max_steps=20)
        policy = jaxpg.policies.normalized(jaxpg.policies.mlp(env, (4,)), env)
        algorithm = jaxpg.a2c(env, policy, num_envs=4, num_steps=8, scale_rewards=True)
        state = algorithm.init(jax.random.key(0))
        mesh = jax.make_mesh((2,), ("lane",), axis_types=(AxisType.Auto,))
        def place(leaf):
            over = PartitionSpec("lane") if leaf.ndim and leaf.shape[0] == 4 else PartitionSpec()
            return jax.device_put(leaf, NamedSharding(mesh, over))
        laid = state._replace(lanes=jax.tree.map(place, state.lanes))
        rest = {name: jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, PartitionSpec())), x)
                for name, x in state._asdict().items() if name != "lanes"}
        laid = laid._replace(**rest)
        step = jax.jit(algorithm.step)
        for _ in range(3):
            state, laid = step(state)[0], step(laid)[0]
        assert len(laid.lanes.lanes.observation.sharding.device_set) == 2
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        jax.tree.map(close, (state.params, state.reward_scale), (laid.params, laid.reward_scale))
        print(float(laid.params["observations"]["count"]))
        """,
        devices=2,
    )
    assert 80 < float(printed) <= 96


def mixed():
    """Actions that are a dict of a masked choice, a tuple of choices and a bounded number; observations a dict."""

    def observe(state):
        mask = jnp.stack([state > 0, jnp.ones((), bool), state < 0.5])
        return {"place": state[None], "kind": (state > 0).astype(jnp.int32), "action_mask": mask}

    def reset(key):
        state = jax.random.normal(key)
        return state, observe(state)

    def step(key, state, action):
        state = state + 0.1 * (action - 1.0)
        return state, Timestep(observe(state), -(state**2), jnp.zeros((), bool), jnp.zeros((), bool))

    spaces = {"place": Box(-9, 9, (1,)), "kind": Discrete(2), "action_mask": Box(0, 1, (3,), bool)}
    return Environment(
        reset=reset, step=step, observation_space=spaces, action_space=Discrete(3), max_steps=6, name="mixed"
    )


def several():
    """An action that is a dict: a number within bounds, three switches."""

    def reset(key):
        state = jax.random.normal(key, (2,))
        return state, state

    def step(key, state, action):
        push = action["push"] + 0.1 * jnp.sum(action["switches"])
        state = state.at[0].add(0.1 * push[0])
        return state, Timestep(state, -jnp.sum(state**2), jnp.zeros((), bool), jnp.zeros((), bool))

    actions = {"push": Box(-1, 1, (1,)), "switches": MultiDiscrete((2, 3))}
    return Environment(
        reset=reset, step=step, observation_space=Box(-9, 9, (2,)), action_space=actions, max_steps=6, name="several"
    )


@pytest.mark.parametrize("squash", [False, "tanh", "beta"])
@pytest.mark.parametrize("make", [mixed, several], ids=["mask", "pytree of actions"])
def test_masks_and_pytrees_of_actions(key, make, squash):
    env = make()
    if make is mixed and squash:
        pytest.skip("its actions are not real numbers")
    algorithm = jaxpg.ppo(env, policies.mlp(env, (8,), squash=squash), num_envs=4, num_steps=8, num_minibatches=2,
                          num_epochs=2, learning_rate=0.01)  # fmt: skip
    state, step = algorithm.init(key), jax.jit(algorithm.step)
    for _ in range(2):
        state, metrics = step(state)
        assert int(metrics["nonfinite"]) == 0 and np.isfinite(metrics["gradient_norm"])
        if squash != "tanh":
            assert np.isfinite(metrics["entropy"])
    if make is mixed:
        rows = jaxpg.segments.segment(env, algorithm.policy, state.params, state.lanes, 8)[1].trajectory
        allowed = np.take_along_axis(
            np.asarray(rows.observation["action_mask"]), np.asarray(rows.action)[..., None], axis=-1
        )
        assert allowed.all()


@pytest.mark.learning
def test_memory_is_solved_by_a_recurrent_policy_alone():
    """Recall over 6 steps: with a memory the return goes to 1, without to 0."""
    env = recall(6)
    options = dict(num_envs=32, num_steps=32, num_epochs=4, num_minibatches=4, learning_rate=3e-3)
    ends = {}
    for name, policy in {
        "gru": policies.recurrent(env, "gru", 16, (16,)),
        "lstm": policies.recurrent(env, "lstm", 16, (16,)),
        "linear": policies.recurrent(env, "linear", 16, (16,)),
        "none": policies.mlp(env, (16,)),
    }.items():
        algorithm = jaxpg.ppo(env, policy, **options)
        result = jaxpg.train(algorithm, jax.random.key(0), num_env_steps=100_000)
        scores = jaxpg.evaluate(jax.random.key(1), env, policy, result.params, num_episodes=256)
        ends[name] = float(scores.returns.mean())
    assert min(ends["gru"], ends["lstm"], ends["linear"]) > 0.9 and abs(ends["none"]) < 0.3, ends
