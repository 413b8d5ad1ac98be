"""Wrappers of environments: each against a loop written by hand, and all of them together."""

import collections
import dataclasses
import gc
import math
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import exact
from jaxpg.envs import Box, Discrete, Environment, MultiDiscrete, Timestep, spaces, wrappers
from jaxpg.envs.check import check_structure
from jaxpg.envs.conformance import check_env

NO = jnp.bool_(False)


def walk(
    length=5,
    max_steps=None,
    own_limit=None,
    observe=lambda position, time: position.astype(jnp.float32)[None],
    **changes,
):
    """Steps of 0 or 1 and sometimes one more; ends at `length`. The reward is 10 · time + action."""

    def reset(key):
        state = {"position": jax.random.randint(key, (), 0, 2), "time": jnp.int32(0)}
        return state, observe(**state)

    def step(key, state, action):
        position = state["position"] + action + jax.random.bernoulli(key, 0.2).astype(jnp.int32)
        state = {"position": position, "time": state["time"] + 1}
        truncated = NO if own_limit is None else state["time"] >= own_limit
        reward = (10 * state["time"] + action).astype(jnp.float32)
        return state, Timestep(observe(**state), reward, position >= length, truncated)

    fields = {
        "observation_space": Box(0, np.inf, (1,)),
        "action_space": Discrete(2),
        "max_steps": max_steps,
        "name": "walk",
        "render": lambda state: np.full((2, 2, 3), int(state["position"]), np.uint8),
    }
    return Environment(reset=reset, step=step, **(fields | changes))


def masked(position, time):
    image = jnp.stack([jnp.full((3, 2), position), jnp.full((3, 2), time)], -1).astype(jnp.int32)
    return {"image": image, "place": position, "action_mask": jnp.stack([time % 2 == 1, True])}


MASKED_SPACE = {"image": Box(0, 20, (3, 2, 2), jnp.int32), "place": Discrete(9), "action_mask": Box(0, 1, (2,), bool)}


def masked_walk(**changes):
    return walk(observe=masked, observation_space=MASKED_SPACE, **changes)


def episode(env, actions, key=0):
    """Observations, rewards and flags of one episode played step by step, until it ends or the actions do."""
    key = jax.random.key(key)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, observation = reset(jax.random.fold_in(key, 0))
    states, observations, rewards, ends = [state], [observation], [], []
    for t, action in enumerate(actions):
        state, timestep = step(jax.random.fold_in(key, t + 1), state, jnp.asarray(action))
        states.append(state)
        observations.append(timestep.observation)
        rewards.append(float(timestep.reward))
        ends.append((bool(timestep.terminated), bool(timestep.truncated)))
        if any(ends[-1]):
            break
    return states, jax.tree.map(np.asarray, observations), rewards, ends


# Time.


@pytest.mark.parametrize("key", range(3))
def test_time_limit_truncates_at_its_step_and_changes_nothing_before(key):
    actions = [0, 1] * 10
    _, observations, rewards, ends = episode(walk(length=100), actions[:7], key)
    limited = wrappers.time_limit(walk(length=100), 7)
    _, *found = episode(limited, actions, key)
    chex.assert_trees_all_equal(found[0], observations)
    assert found[1] == rewards
    assert ends == [(False, False)] * 7 and found[2] == [(False, False)] * 6 + [(False, True)]
    assert limited.max_steps == 7 and limited.name == "walk, limit 7"
    *_, ends = episode(wrappers.time_limit(walk(length=100, own_limit=4), 7), actions, key)
    assert ends == [(False, False)] * 3 + [(False, True)]


def test_an_end_at_the_limit_is_both():
    env = walk(length=5)
    *_, ends = episode(env, [1] * 9)
    assert len(ends) > 1
    *_, at_the_limit = episode(wrappers.time_limit(env, len(ends)), [1] * 9)
    assert at_the_limit == ends[:-1] + [(True, True)]


def test_limits_longer_than_the_environments_are_refused():
    assert wrappers.time_limit(walk(max_steps=5), 5).max_steps == 5
    with pytest.raises(ValueError, match=r"max_steps must be at most 5, the limit of walk.*got 6.*max_steps=6"):
        wrappers.time_limit(walk(max_steps=5), 6)


@pytest.mark.parametrize("limits", [{"max_steps": 10}, {"own_limit": 10}, {"max_steps": 10, "own_limit": 10}, {}])
@pytest.mark.parametrize("length", [4, 100])
def test_action_repeat_is_a_loop_of_steps(limits, length):
    env = walk(length=length, **limits)
    num_repeats, actions, key = 4, [0, 1, 1, 0, 1], jax.random.key(8)

    state, observation = env.reset(jax.random.fold_in(key, 0))
    observations, rewards, ends, time = [observation], [], [], 0
    for t, action in enumerate(actions):
        rewards.append(0.0)
        for i in range(num_repeats):
            step_key = jax.random.fold_in(jax.random.fold_in(key, t + 1), i)
            state, timestep = env.step(step_key, state, jnp.int32(action))
            time += 1
            rewards[-1] += float(timestep.reward)
            flags = bool(timestep.terminated), bool(timestep.truncated) or time == limits.get("max_steps")
            if any(flags):
                break
        observations.append(timestep.observation)
        ends.append(flags)
        if any(flags):
            break
    assert any(ends[-1]) == (bool(limits) or length == 4)
    assert time % num_repeats or not any(ends[-1])  # The loop ends within a step, so that this can be got wrong.

    repeated = wrappers.action_repeat(env, num_repeats)
    _, *found = episode(repeated, actions, 8)
    chex.assert_trees_all_equal(found[0], jax.tree.map(np.asarray, observations))
    assert found[1] == rewards and found[2] == ends
    assert repeated.max_steps == (3 if "max_steps" in limits else None)


def test_an_action_repeated_once_is_a_step():
    env = jaxpg.make("CartPole-v1")
    actions = [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    _, *found = episode(wrappers.action_repeat(env, 1), actions)
    _, *expected = episode(env, actions)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


# Observations.


def test_frames_are_the_last_observations_oldest_first():
    _, observations, rewards, ends = episode(masked_walk(length=9), [1] * 19)
    assert ends[-1] == (True, False) and len(observations) > 4
    _, stacked, *rest = episode(wrappers.frame_stack(masked_walk(length=9), 3), [1] * 19)
    assert rest == [rewards, ends]
    last = collections.deque([observations[0]] * 3, maxlen=3)
    for observation, found in zip(observations, stacked, strict=True):
        last.append(observation)
        np.testing.assert_array_equal(found["image"], np.concatenate([each["image"] for each in last], axis=-1))
        np.testing.assert_array_equal(found["place"], [each["place"] for each in last])
        np.testing.assert_array_equal(found["action_mask"], observation["action_mask"])
    # The newest frame of the last observation is the final one.
    np.testing.assert_array_equal(stacked[-1]["image"][..., -2:], observations[-1]["image"])


@pytest.mark.parametrize(
    "space, stacked",
    [
        (Box(-1, 1, ()), Box(-1, 1, (3,))),
        (Box([0, -1], [5, 6], (2,)), Box([0, -1] * 3, [5, 6] * 3, (6,))),
        (Box(0, 255, (5, 4), np.uint8), Box(0, 255, (5, 4, 3), np.uint8)),
        (Box(0, 1, (5, 4, 2), bool), Box(0, 1, (5, 4, 6), bool)),
        (Discrete(4), MultiDiscrete([4, 4, 4])),
        (MultiDiscrete([2, 5]), MultiDiscrete([2, 5] * 3)),
        ({"a": Box(0, 1, (2,)), "b": (Discrete(2),)}, {"a": Box(0, 1, (6,)), "b": (MultiDiscrete([2, 2, 2]),)}),
    ],
    ids=str,
)
def test_spaces_of_frames(space, stacked):
    env = wrappers.frame_stack(drawing(space), 3)
    assert env.observation_space == stacked
    check_structure(env)
    _, observations, *_ = episode(env, [0] * 4)
    for observation in observations:
        assert spaces.contains(stacked, jax.tree.map(jnp.asarray, observation))


def drawing(space, **changes):
    """Observations drawn from a space."""

    def step(key, state, action):
        return state, Timestep(spaces.sample(space, key), jnp.float32(1), NO, NO)

    fields = {"observation_space": space, "action_space": Discrete(2), "max_steps": 4, "name": "draws"}
    return Environment(reset=lambda key: (jnp.int32(0), spaces.sample(space, key)), step=step, **(fields | changes))


def test_flatten_observation_gives_what_networks_see():
    space = {
        "place": Discrete(3),
        "more": (Box([-1, -2], [1, 2], (2,)), MultiDiscrete([2, 3])),
        "bytes": Box(0, 255, (2, 1), np.uint8),
        "action_mask": Box(0, 1, (2,), bool),
    }
    env = wrappers.flatten_observation(drawing(space))
    check_structure(env)
    _, before, *_ = episode(drawing(space), [0] * 3)
    _, found, *_ = episode(env, [0] * 3)
    for one, other in zip(before, found, strict=True):
        places = np.eye(3)[one["place"]], np.eye(2)[one["more"][1][0]], np.eye(3)[one["more"][1][1]]
        expected = np.concatenate([one["bytes"].ravel() / 255, one["more"][0], *places[1:], places[0]])
        np.testing.assert_allclose(other["observation"], expected, rtol=1e-6)
        np.testing.assert_array_equal(other["action_mask"], one["action_mask"])
    low, high = [0, 0, -1, -2] + [0] * 8, [1, 1, 1, 2] + [1] * 8
    assert env.observation_space == {"observation": Box(low, high, (12,)), "action_mask": space["action_mask"]}
    assert wrappers.flatten_observation(jaxpg.make("Breakout-MinAtar")).observation_space.shape == (400,)


@pytest.mark.parametrize(
    "space, sizes, lows",
    [
        (Discrete(4), [4], [0]),
        (MultiDiscrete([2, 5]), [2, 5], [0, 0]),
        (Box(-1, 2, (), np.int32), [4], [-1]),
        (Box([0, -3, 7], [2, -1, 7], (3,), np.int8), [3, 3, 1], [0, -3, 7]),
        (Box(0, 3, (2, 4), np.uint8), [4], [0]),
        (Box([[[0, 1], [1, 1]]], [[[3, 2], [2, 2]]], (1, 2, 2), np.int32), [4, 2], [0, 1]),
    ],
    ids=str,
)
def test_one_hot_vectors_tell_the_integers(space, sizes, lows):
    env = wrappers.one_hot(drawing({"x": space, "action_mask": Box(0, 1, (2,), np.int32)}))
    check_structure(env)
    _, before, *_ = episode(drawing({"x": space, "action_mask": Box(0, 1, (2,), np.int32)}), [0] * 6)
    _, found, *_ = episode(env, [0] * 6)
    for one, other in zip(before, found, strict=True):
        parts = np.split(other["x"], np.cumsum(sizes)[:-1], axis=-1)
        assert all((part.sum(-1) == 1).all() for part in parts) and set(np.unique(other["x"])) <= {0.0, 1.0}
        integers = np.stack([part.argmax(-1) + low for part, low in zip(parts, lows, strict=True)], -1)
        np.testing.assert_array_equal(integers.reshape(one["x"].shape), one["x"])
        np.testing.assert_array_equal(one["action_mask"], other["action_mask"])


def test_one_hot_leaves_alone_what_is_no_category():
    space = {
        "floats": Box(0, 3, (2,)),
        "flags": Box(0, 1, (2,), bool),
        "bytes": Box(0, 255, (2, 2, 3), np.uint8),
        "free": Box(0, np.inf, (2,), np.int32),
        "many": Box(0, 256, (), np.int32),
    }
    env = wrappers.one_hot(drawing(space))
    assert env.observation_space == space
    chex.assert_trees_all_equal(*(env.reset(jax.random.key(0))[1] for env in (env, drawing(space))))
    assert wrappers.one_hot(drawing(space), max_categories=257).observation_space["many"] == Box(0, 1, (257,))


def test_transforms_of_observations_and_rewards():
    env = wrappers.transform_observation(walk(), lambda x: {"double": 2 * x, "high": x > 2})
    assert env.observation_space == {"double": Box(-np.inf, np.inf, (1,)), "high": Box(0, 1, (1,), bool)}
    env = wrappers.transform_reward(env, lambda reward: -reward)
    _, observations, rewards, ends = episode(walk(), [1] * 9)
    _, *found = episode(env, [1] * 9)
    expected = [{"double": 2 * x, "high": x > 2} for x in observations]
    chex.assert_trees_all_equal(found, [expected, [-reward for reward in rewards], ends])
    assert env.name == "walk, observation, reward"


def test_integer_observations_need_a_space():
    space = Discrete(30)
    env = wrappers.transform_observation(walk(), lambda x: x[0].astype(jnp.int32), space, suffix="whole")
    assert env.observation_space == space and env.name == "walk, whole"
    check_structure(env)
    with pytest.raises(ValueError, match=r"space is required where.*int32\[\]"):
        wrappers.transform_observation(walk(), lambda x: x[0].astype(jnp.int32))


# Actions.


def test_transformed_actions():
    env = wrappers.transform_action(walk(), lambda flag: flag[0].astype(jnp.int32), Box(0, 1, (1,), bool))
    _, *found = episode(env, [[False], [True], [True]])
    _, *expected = episode(walk(), [0, 1, 1])
    chex.assert_trees_all_equal(found, expected)


def echo(action_space, **changes):
    """Observes its last action."""
    shapes = spaces.shape_dtype(action_space)
    free = jax.tree.map(lambda leaf: Box(-np.inf, np.inf, leaf.shape, leaf.dtype), shapes)

    def reset(key):
        return jnp.int32(0), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def step(key, state, action):
        return state, Timestep(action, jnp.float32(0), NO, NO)

    fields = {"observation_space": free, "action_space": action_space, "name": "echo"}
    return Environment(reset=reset, step=step, **(fields | changes))


BOUNDED = {"force": Box([-3, 0.1], [1, 0.3], (2,)), "gear": Discrete(3)}


def test_normalized_actions_reach_the_bounds_exactly():
    env = wrappers.normalize_action(echo(BOUNDED))
    assert env.action_space == {"force": Box(-1, 1, (2,)), "gear": Discrete(3)}
    check_structure(env)
    for action, expected in [(-1, [-3, 0.1]), (1, [1, 0.3]), (0, [-1, 0.2]), (0.5, [0, 0.25]), (3, [5, 0.5])]:
        action = {"force": jnp.full(2, action, jnp.float32), "gear": jnp.int32(2)}
        _, timestep = env.step(jax.random.key(0), jnp.int32(0), action)
        compare = np.testing.assert_array_equal if action["force"][0] in (-1, 1) else np.testing.assert_allclose
        compare(timestep.observation["force"], np.array(expected, np.float32))
        assert timestep.observation["gear"] == 2


def test_clipped_actions():
    env = wrappers.clip_action(echo(BOUNDED | {"free": Box(-np.inf, 1, ())}))
    assert env.action_space["force"] == Box(-np.inf, np.inf, (2,)) and env.action_space["gear"] == Discrete(3)
    check_structure(env)
    action = {"force": jnp.float32([-9, 0.2]), "gear": jnp.int32(2), "free": jnp.float32(7)}
    _, timestep = env.step(jax.random.key(0), jnp.int32(0), action)
    chex.assert_trees_all_equal(timestep.observation, action | {"force": np.float32([-3, 0.2]), "free": np.float32(1)})
    both = wrappers.clip_action(wrappers.normalize_action(echo(BOUNDED)))
    _, timestep = both.step(jax.random.key(0), jnp.int32(0), {"force": jnp.float32([-9, 9]), "gear": jnp.int32(2)})
    np.testing.assert_array_equal(timestep.observation["force"], np.float32([-3, 0.3]))


def test_several_choices_as_one():
    env = wrappers.flatten_action(echo(MultiDiscrete([2, 3, 2])))
    assert env.action_space == Discrete(12)
    check_structure(env)
    found = jax.vmap(lambda action: env.step(jax.random.key(0), jnp.int32(0), action)[1].observation)(jnp.arange(12))
    np.testing.assert_array_equal(found, [(i, j, k) for i in range(2) for j in range(3) for k in range(2)])


# Episodes with something drawn for each.


@pytest.fixture(scope="module")
def mdp():
    drawn = exact.random_mdp(jax.random.key(3), num_states=4, num_actions=2, horizon=12, discount=0.8)
    return dataclasses.replace(drawn, reward=drawn.reward + 1)


def uniform_returns(env, discount_of, num_episodes=40_000):
    """Undiscounted returns of the uniform policy, and the discount of each episode."""

    def play(key):
        state, observation = env.reset(jax.random.fold_in(key, 0))
        discount = discount_of(state, observation)

        def step(carry, t):
            state, playing, total = carry
            action_key, step_key = jax.random.split(jax.random.fold_in(key, t + 1))
            state, timestep = env.step(step_key, state, jax.random.randint(action_key, (), 0, 2))
            total = total + jnp.where(playing, timestep.reward, 0)
            return (state, playing & ~timestep.terminated & ~timestep.truncated, total), None

        (*_, total), _ = jax.lax.scan(step, (state, jnp.bool_(True), jnp.float32(0)), jnp.arange(env.max_steps))
        return total, discount

    keys = jax.random.split(jax.random.key(5), num_episodes)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(play))(keys))


def uniform_value(mdp, discount):
    """The exact discounted objective of the uniform policy."""
    mdp = dataclasses.replace(mdp, discount=jnp.asarray(discount, mdp.discount.dtype))
    policy = jaxpg.policies.mlp(mdp.environment(), ())
    return float(mdp.objective(policy, jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))))


def score(returns, value):
    """How many standard errors the mean is away from a value."""
    return abs(returns.mean() - value) / (returns.std() / math.sqrt(len(returns)))


def test_stopping_at_random_gives_discounted_returns_without_bias(mdp):
    env = wrappers.random_discount(
        mdp.environment(), lambda key: jax.random.choice(key, jnp.array([0.5, 0.9])), observe=True
    )
    assert env.observation_space == {"observation": Discrete(4), "discount": Box(0, 1)}
    check_structure(env)
    returns, discounts = uniform_returns(env, lambda state, observation: observation["discount"])
    assert abs((discounts == np.float32(0.5)).mean() - 0.5) < 0.01  # Four standard errors.
    for discount in (0.5, 0.9):
        of_it = returns[discounts == np.float32(discount)]
        # |z| < 4 fails by chance for one key in 16,000; an error of 4 % of the value would be seen.
        assert score(of_it, uniform_value(mdp, discount)) < 4
        assert of_it.std() / math.sqrt(len(of_it)) < 0.01 * uniform_value(mdp, discount)
        # What is easily got wrong: a discounted first reward, or the discount of other episodes.
        assert score(of_it, discount * uniform_value(mdp, discount)) > 8
        assert score(of_it, uniform_value(mdp, 1.4 - discount)) > 8


def test_a_discount_that_is_a_number(mdp):
    env = wrappers.random_discount(mdp.environment(), 0.7)
    assert env.observation_space == Discrete(4)
    policy = jaxpg.policies.mlp(env, ())
    params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    returns = np.asarray(jaxpg.evaluate(jax.random.key(1), env, policy, params, num_episodes=20_000).returns)
    assert score(returns, uniform_value(mdp, 0.7)) < 4


def test_discounts_of_zero_and_one():
    *_, ends = episode(wrappers.random_discount(walk(length=100), 1.0), [0] * 30)
    assert ends == [(False, False)] * 30
    *_, ends = episode(wrappers.random_discount(walk(length=100), 0.0), [0] * 30)
    assert ends == [(True, False)]


def gravity(key):
    return {"g": jax.random.uniform(key, (), minval=8.0, maxval=12.0)}


def pendulum(parameters):
    return jaxpg.make("Pendulum-v1", **parameters)


def test_parameters_are_drawn_for_each_episode_and_stay():
    env = wrappers.domain_randomization(pendulum, gravity, observe=True)
    assert env.max_steps == 200 and env.name == "Pendulum-v1, randomized"
    check_structure(env)
    drawn = []
    for key in range(3):
        states, observations, rewards, _ = episode(env, [[0.3]] * 5, key)
        g = float(states[0].parameters["g"])
        drawn.append(g)
        assert 8 <= g <= 12
        assert {float(state.parameters["g"]) for state in states} == {g}
        assert {float(observation["parameters"]["g"]) for observation in observations} == {np.float32(g)}
        # The same steps in the environment with that number.
        fixed, state = jaxpg.make("Pendulum-v1", g=g), states[0].inner
        for observation, reward in zip(observations[1:], rewards):
            state, timestep = fixed.step(jax.random.key(0), state, jnp.float32([0.3]))
            np.testing.assert_allclose(observation["observation"], timestep.observation, atol=1e-5)
            np.testing.assert_allclose(reward, timestep.reward, rtol=1e-5)
    assert len(set(drawn)) == 3
    hidden = wrappers.domain_randomization(pendulum, gravity)
    assert hidden.observation_space == jaxpg.make("Pendulum-v1").observation_space


def test_what_is_drawn_is_drawn_anew_with_every_key():
    env = wrappers.domain_randomization(pendulum, gravity)
    states, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 1000))
    g = np.asarray(states.parameters["g"])
    assert len(np.unique(g)) > 990 and abs(g.mean() - 10) < 0.15  # 4 standard errors: 4 · (4 / √12) / √1000.


# All of them.


WRAPPED = {
    "limit": lambda: wrappers.time_limit(walk(length=20), 6),
    "repeat": lambda: wrappers.action_repeat(walk(length=20, max_steps=9), 2),
    "frames of images": lambda: wrappers.frame_stack(masked_walk(max_steps=7), 3),
    "frames of a limit": lambda: wrappers.frame_stack(wrappers.time_limit(masked_walk(), 5), 2),
    "limit of frames": lambda: wrappers.time_limit(wrappers.frame_stack(masked_walk(), 2), 5),
    "repeat of frames": lambda: wrappers.action_repeat(wrappers.frame_stack(walk(length=20, max_steps=9), 2), 4),
    "frames of repeats": lambda: wrappers.frame_stack(wrappers.action_repeat(walk(length=20, max_steps=9), 4), 2),
    "one-hot": lambda: wrappers.one_hot(masked_walk(length=8, max_steps=5)),
    "flat": lambda: wrappers.flatten_observation(wrappers.one_hot(masked_walk(length=8, max_steps=5))),
    "discount": lambda: wrappers.random_discount(masked_walk(max_steps=9), 0.9, observe=True),
    "reward": lambda: wrappers.transform_reward(walk(max_steps=9), lambda reward: reward / 10),
    "normal": lambda: wrappers.clip_action(wrappers.normalize_action(jaxpg.make("Pendulum-v1", max_steps=5))),
    "randomized": lambda: wrappers.domain_randomization(lambda p: jaxpg.make("Pendulum-v1", max_steps=5, **p), gravity),
    "many": lambda: wrappers.frame_stack(
        wrappers.random_discount(
            wrappers.action_repeat(wrappers.domain_randomization(pendulum, gravity), 20), 0.9, observe=True
        ),
        2,
    ),
    "breakout": lambda: wrappers.frame_stack(wrappers.time_limit(jaxpg.make("Breakout-MinAtar"), 9), 4),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_environments_keep_what_environments_promise(name):
    found = check_env(WRAPPED[name](), num_episodes=4)
    assert found.passed, str(found)


@pytest.mark.parametrize("name", ["repeat of frames", "discount", "many"])
def test_no_key_is_used_twice(name):
    env = WRAPPED[name]()

    def play(key):
        state, observation = env.reset(jax.random.fold_in(key, 0))

        def step(carry, t):
            state, observation = carry
            step_key, action_key = jax.random.split(jax.random.fold_in(key, t))
            state, timestep = env.step(step_key, state, spaces.sample(env.action_space, action_key))
            return (state, timestep.observation), timestep.reward

        return jax.lax.scan(step, (state, observation), jnp.arange(1, 4))[1]

    with jax.debug_key_reuse(True):
        jax.jit(play)(jax.random.key(0))
        jax.vmap(play)(jax.random.split(jax.random.key(0), 2))


@pytest.mark.parametrize("name", ["frames of a limit", "many"])
def test_gradients_of_wrapped_environments(name):
    env = WRAPPED[name]()
    policy = jaxpg.policies.mlp(env, (4,))
    gradient = jaxpg.policy_gradient(env, policy, num_episodes=8)
    estimate = jax.jit(gradient)(jax.random.key(1), policy.init(jax.random.key(0)))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(estimate.gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(estimate.gradient))


def test_rollouts_see_the_final_frames():
    env = wrappers.frame_stack(wrappers.time_limit(walk(length=100), 3), 2)
    policy = jaxpg.policies.mlp(env, (4,))
    frames = jaxpg.render.play_episode(env, policy, policy.init(jax.random.key(0)), jax.random.key(1))
    observations = [frame.observation for frame in frames]
    assert len(frames) == 4
    for before, after in zip(observations, observations[1:]):
        assert before[1] == after[0] and after[1] >= after[0]


def test_wrappers_of_traced_environments_are_mapped_over():
    def angle(g):
        env = wrappers.frame_stack(wrappers.time_limit(jaxpg.make("Pendulum-v1", g=g), 5), 2)
        env = wrappers.action_repeat(env, 2)
        state, _ = env.reset(jax.random.key(0))
        return env.step(jax.random.key(1), state, jnp.float32([0]))[1].observation

    values = jnp.array([8.0, 10.0, 12.0])
    found = jax.jit(jax.vmap(angle))(values)
    np.testing.assert_allclose(found, np.stack([angle(float(g)) for g in values]), atol=1e-5)
    assert len(np.unique(found[:, -1])) == 3


def test_pictures_are_those_of_the_state_within():
    env = walk(max_steps=9)
    deep = wrappers.random_discount(
        wrappers.frame_stack(wrappers.action_repeat(wrappers.time_limit(env, 8), 2), 2), 0.9
    )
    deep = wrappers.one_hot(wrappers.transform_reward(deep, jnp.sign))
    state, observation = deep.reset(jax.random.key(4))
    for key in range(3):
        assert (deep.render(state) == int(observation[-1])).all() and deep.render(state).shape == (2, 2, 3)
        state, timestep = deep.step(jax.random.key(key), state, jnp.int32(1))
        observation = timestep.observation
    assert wrappers.time_limit(walk(render=None), 3).render is None
    randomized = wrappers.domain_randomization(lambda p: walk(length=p), lambda key: jax.random.randint(key, (), 3, 9))
    state, observation = randomized.reset(jax.random.key(0))
    assert (randomized.render(state) == int(observation[0])).all()


# Objects that are found again.


def test_equal_arguments_give_the_same_environment():
    env = jaxpg.make("CartPole-v1")

    def wrap():
        limited = wrappers.action_repeat(wrappers.time_limit(env, 20), 2)
        return wrappers.transform_reward(wrappers.frame_stack(wrappers.one_hot(limited), 2), jnp.sign)

    first = wrap()
    assert wrap() is first and hash(wrap()) == hash(first)
    assert wrappers.time_limit(env, 20) is not wrappers.time_limit(env, 21)
    assert wrappers.flatten_observation(env) is wrappers.flatten_observation(env)
    assert wrappers.normalize_action(echo(BOUNDED)) is not wrappers.normalize_action(echo(BOUNDED))
    kept = wrappers.random_discount(env, 0.5)
    assert wrappers.random_discount(env, 0.5) is kept
    assert wrappers.random_discount(env, 0.5, observe=True) is not kept
    randomized = wrappers.domain_randomization(pendulum, gravity)
    assert wrappers.domain_randomization(pendulum, gravity) is randomized


def test_compiled_programs_are_found_again():
    env = jaxpg.make("CartPole-v1")
    policy = jaxpg.policies.mlp(env, (4,))
    params = policy.init(jax.random.key(0))
    traces = []

    def counted(observation):
        traces.append(1)
        return observation

    def score():
        limited = wrappers.transform_observation(wrappers.time_limit(env, 7), counted)
        return jaxpg.evaluate(jax.random.key(1), limited, policy, params, num_episodes=4).returns

    first = score()
    gc.collect()
    counted_once = len(traces)
    np.testing.assert_array_equal(score(), first)
    assert len(traces) == counted_once + 1  # Once more for the space.


def test_wrapped_environments_are_not_kept_when_nothing_holds_them():
    wrapped = wrappers.frame_stack(wrappers.time_limit(walk(), 3), 2)
    seen = weakref.ref(wrapped)
    check_structure(wrapped)
    del wrapped
    gc.collect()
    assert seen() is None


def test_tracers_do_not_outlive_their_trace():
    def total(g, discount):
        env = wrappers.time_limit(jaxpg.make("Pendulum-v1", g=g), 3)
        env = wrappers.random_discount(wrappers.frame_stack(env, 2), discount)
        return env.reset(jax.random.key(0))[1].sum()

    with jax.checking_leaks():
        jax.jit(total)(9.0, 0.9)
        jax.jit(wrappers.domain_randomization(pendulum, gravity).reset)(jax.random.key(0))
    jax.jit(total)(9.0, 0.9)
    assert np.isfinite(jax.jit(lambda g, d: total(g, d) * 2)(9.0, 0.9))


def test_environments_of_32_and_64_bits(x64):
    env = wrappers.one_hot(wrappers.flatten_observation(masked_walk(max_steps=5)))
    env = wrappers.action_repeat(wrappers.random_discount(env, 0.9, observe=True), 2)
    check_structure(env)
    assert env.observation_space["observation"].dtype == np.float64
    _, observations, *_ = episode(env, [1, 1])
    assert observations[1]["observation"].dtype == np.float64


# Misuse.


def box(**changes):
    return echo(Box(-1, 1, (2,)), **changes)


MISUSES = {
    "no environment": (lambda: wrappers.time_limit("CartPole-v1", 5), TypeError, "env must be an Environment"),
    "no limit": (lambda: wrappers.time_limit(walk(), 0), ValueError, "max_steps must be an integer of at least 1"),
    "half a repeat": (lambda: wrappers.action_repeat(walk(), 1.5), TypeError, "num_repeats must be an integer"),
    "no frames": (lambda: wrappers.frame_stack(walk(), 0), ValueError, "num_frames must be an integer of at least 1"),
    "a mask alone": (
        lambda: wrappers.frame_stack(drawing({"action_mask": Box(0, 1, (2,), bool)}), 2),
        ValueError,
        "env must have something to observe",
    ),
    "no function of observations": (
        lambda: wrappers.transform_observation(walk(), 3),
        TypeError,
        "function must be a function observation -> observation; got int",
    ),
    "another space": (
        lambda: wrappers.transform_observation(walk(), lambda x: x, Box(0, 1, (2,))),
        ValueError,
        r"function must return what space describes, float32\[2\]; got float32\[1\]",
    ),
    "a vector of rewards": (
        lambda: wrappers.transform_reward(walk(), lambda r: jnp.stack([r, r])),
        ValueError,
        r"function must return one number for one reward; got float32\[2\]",
    ),
    "no action of the environment": (
        lambda: wrappers.transform_action(box(), lambda a: a[:1], Box(-1, 1, (2,))),
        ValueError,
        r"function must return what env.action_space describes, float32\[2\]; got float32\[1\]",
    ),
    "an error within": (
        lambda: wrappers.transform_reward(walk(), lambda r: r[3]),
        IndexError,
        "Too many indices",
    ),
    "no real actions": (lambda: wrappers.normalize_action(walk()), ValueError, "needs actions that are real numbers"),
    "nothing to clip": (lambda: wrappers.clip_action(walk()), ValueError, "clip_action needs actions that are real"),
    "no bounds": (
        lambda: wrappers.normalize_action(echo(Box(-np.inf, 1, (2,)))),
        ValueError,
        "normalize_action needs finite bounds of the actions of echo",
    ),
    "one choice": (lambda: wrappers.flatten_action(walk()), ValueError, "needs a MultiDiscrete action space"),
    "choices and a mask": (
        lambda: wrappers.flatten_action(
            drawing({"x": Discrete(2), "action_mask": Box(0, 1, (4,), bool)}, action_space=MultiDiscrete([2, 2]))
        ),
        ValueError,
        "cannot combine the choices",
    ),
    "too many": (
        lambda: wrappers.flatten_action(echo(MultiDiscrete([2**16, 2**16]))),
        ValueError,
        "have 4294967296 combinations",
    ),
    "a discount above 1": (lambda: wrappers.random_discount(walk(), 1.5), ValueError, r"sample must be .*\[0, 1\]"),
    "two discounts": (
        lambda: wrappers.random_discount(walk(), lambda key: jnp.ones(2)),
        ValueError,
        "sample must return one discount",
    ),
    "a discount observed twice": (
        lambda: wrappers.random_discount(wrappers.random_discount(walk(), 0.9, observe=True), 0.9, observe=True),
        ValueError,
        "observe=True adds an entry 'discount'",
    ),
    "observe": (lambda: wrappers.random_discount(walk(), 0.9, observe=1), TypeError, "observe must be True or False"),
    "no environment built": (
        lambda: wrappers.domain_randomization(lambda p: p, gravity),
        TypeError,
        "build must return a jaxpg Environment; got dict",
    ),
    "no sample": (
        lambda: wrappers.domain_randomization(pendulum, {"g": 9}),
        TypeError,
        "sample must be a function key -> parameters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISUSES)
def test_misuse_is_told_at_once(case):
    wrap, error, message = MISUSES[case]
    with pytest.raises(error, match=message):
        wrap()


def test_errors_of_ones_own_functions_say_where():
    with pytest.raises(TypeError) as raised:
        wrappers.domain_randomization(lambda p: jaxpg.make("Pendulum-v1", max_steps=p), lambda key: jnp.int32(3))
    assert "build(parameters)" in "".join(raised.value.__notes__)
