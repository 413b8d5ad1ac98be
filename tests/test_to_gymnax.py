"""Environments as gymnax's: its own reset and step with their automatic resets, its wrappers, and the way back."""

import dataclasses

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.wrappers import FlattenObservationWrapper, LogWrapper

import jaxpg
from jaxpg.envs import Box, Discrete, Environment, MultiDiscrete, Timestep, from_gymnax
from jaxpg.envs._gymnax_spaces import converted_space
from jaxpg.envs.to_gymnax import to_gymnax


def draws(max_steps=None, own_limit=None, **changes):
    """Ends with probability 0.1 at each step; observes what was drawn and done."""

    def observe(draw, time):
        return {"draw": draw, "time": time.astype(jnp.float32)}

    def reset(key):
        state = {"draw": jax.random.uniform(key, (2,)), "time": jnp.int32(0)}
        return state, observe(**state)

    def step(key, state, action):
        draw_key, end_key = jax.random.split(key)
        state = {"draw": jax.random.uniform(draw_key, (2,)), "time": state["time"] + 1}
        truncated = jnp.bool_(False) if own_limit is None else state["time"] >= own_limit
        reward = state["draw"].sum() + 10 * action
        return state, Timestep(observe(**state), reward, jax.random.bernoulli(end_key, 0.1), truncated)

    fields = {
        "observation_space": {"draw": Box(0, 1, (2,)), "time": Box(0, np.inf, ())},
        "action_space": Discrete(3),
        "max_steps": max_steps,
        "name": "draws",
    }
    return Environment(reset=reset, step=step, **(fields | changes))


def test_steps_and_automatic_resets_are_ours():
    env = draws(max_steps=5)
    theirs, params = to_gymnax(env)
    assert isinstance(theirs, gymnax.environments.environment.Environment) and theirs.name == "draws"
    assert params.max_steps_in_episode == 5 and theirs.num_actions == 3
    key = jax.random.key(0)
    observation, state = theirs.reset(key, params)
    inner, expected = env.reset(key)
    jax.tree.map(np.testing.assert_array_equal, observation, expected)
    time, ends = 0, []
    for t in range(60):
        key, step_key = jax.random.split(jax.random.fold_in(key, t))
        action = t % 3
        observation, state, reward, terminated, truncated, info = theirs.step(step_key, state, action, params)
        first, second = jax.random.split(step_key)  # gymnax's own.
        inner, timestep = env.step(first, inner, jnp.int32(action))
        time += 1
        flags = bool(timestep.terminated), time == 5
        assert (bool(terminated), bool(truncated)) == flags
        np.testing.assert_allclose(reward, timestep.reward, rtol=1e-6)
        assert info["discount"] == 1 - flags[0]
        jax.tree.map(np.testing.assert_array_equal, info["final_observation"], timestep.observation)
        expected = timestep.observation
        if any(flags):
            ends.append(flags)
            inner, expected = env.reset(second)
            time = 0
        jax.tree.map(np.testing.assert_array_equal, observation, expected)
        jax.tree.map(np.testing.assert_array_equal, state.inner, inner)
        assert int(state.time) == time
        jax.tree.map(np.testing.assert_array_equal, theirs.observe(key, state, action, params), observation)
    assert {(True, False), (False, True)} <= set(ends)  # Both kinds of ends were seen.


@pytest.mark.parametrize("limits", [{"max_steps": 5}, {"own_limit": 4}, {"own_limit": 4, "max_steps": 6}, {}])
def test_there_and_back_the_episodes_are_the_same(limits):
    env = draws(**limits)
    back = from_gymnax(*to_gymnax(env))
    assert (back.observation_space, back.action_space) == (env.observation_space, env.action_space)
    assert (back.max_steps, back.name) == (env.max_steps, env.name)

    def play(env):
        def episode(key):
            state, observation = env.reset(jax.random.fold_in(key, 0))

            def step(state, t):
                state, timestep = env.step(jax.random.fold_in(key, t + 1), state, (t % 3).astype(jnp.int32))
                return state, timestep

            return observation, jax.lax.scan(step, state, jnp.arange(4))[1]

        return jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(1), 20))

    jax.tree.map(np.testing.assert_array_equal, play(back), play(env))


def test_returns_of_a_policy_are_the_same_there_and_back():
    env = jaxpg.make("CartPole-v1", max_steps=40)
    policy = jaxpg.policies.mlp(env, (4,))
    params = policy.init(jax.random.key(0))
    returns = [
        jaxpg.evaluate(jax.random.key(1), each, policy, params, num_episodes=16).returns
        for each in (env, from_gymnax(*to_gymnax(env)))
    ]
    np.testing.assert_array_equal(*returns)


def test_the_limit_may_be_shortened_and_traced():
    theirs, params = to_gymnax(draws(max_steps=50))

    def ended(limit):
        shorter = dataclasses.replace(params, max_steps_in_episode=limit)
        _, state = theirs.reset(jax.random.key(0), shorter)

        def step(state, key):
            _, state, _, _, truncated, _ = theirs.step(key, state, 0, shorter)
            return state, truncated

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(2), 12))[1]

    found = jax.vmap(ended)(jnp.array([1, 3, 50]))
    assert found[0].all() and found[1].sum() >= 1 and not found[2].any()


def test_gymnaxs_wrappers():
    env = jaxpg.make("Breakout-MinAtar", max_steps=30)
    theirs, params = to_gymnax(env)
    wrapped = LogWrapper(FlattenObservationWrapper(theirs))
    assert FlattenObservationWrapper(theirs).observation_space(params).shape == (400,)

    def play(key):
        observation, state = wrapped.reset(key, params)

        def step(state, key):
            action_key, step_key = jax.random.split(key)
            action = theirs.action_space(params).sample(action_key)
            observation, state, reward, terminated, truncated, info = wrapped.step(step_key, state, action, params)
            ended = terminated | truncated
            return state, (observation, reward, ended, info["returned_episode_returns"], info["returned_episode"])

        return jax.lax.scan(step, state, jax.random.split(key, 60))[1]

    observations, rewards, ended, returns, returned = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), 4))
    assert observations.shape == (4, 60, 400)
    np.testing.assert_array_equal(ended, returned)
    for lane in range(4):
        assert ended[lane].sum() >= 1
        start = 0
        for end in np.flatnonzero(ended[lane]):
            np.testing.assert_allclose(returns[lane, end], rewards[lane, start : end + 1].sum(), rtol=1e-6)
            start = end + 1


def test_old_keys_and_actions_of_another_dtype():
    pendulum = jaxpg.make("Pendulum-v1")

    def typed(function):
        def called(key, *arguments):
            assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
            return function(key, *arguments)

        return called

    theirs, params = to_gymnax(dataclasses.replace(pendulum, reset=typed(pendulum.reset), step=typed(pendulum.step)))
    for key in (jax.random.PRNGKey(3), jax.random.key(3)):
        observation, state = theirs.reset(key, params)
        found = theirs.step(key, state, np.array([0.5]), params)
        np.testing.assert_array_equal(observation, theirs.reset(jax.random.key(3), params)[0])
        assert found[0].shape == (3,)


def test_equal_environments_compile_once():
    traces = []
    env = draws(max_steps=4)

    def step(*arguments):
        traces.append(1)
        return env.step(*arguments)

    env_counted = dataclasses.replace(env, step=step)
    for _ in range(3):
        theirs, params = to_gymnax(env_counted)
        _, state = theirs.reset(jax.random.key(0), params)
        theirs.step(jax.random.key(1), state, 1, params)
    assert len(traces) == 1
    assert to_gymnax(env)[0] == to_gymnax(env)[0] != theirs


def test_spaces():
    space = {
        "a": Discrete(3),
        "b": (MultiDiscrete([2, 5]), Box([-1, 0], [0, np.inf], (2,))),
        "action_mask": Box(0, 1, (4,), bool),
    }
    theirs, params = to_gymnax(draws(observation_space=space, action_space=space["b"]))
    found = theirs.observation_space(params)
    assert found.spaces["a"].n == 3
    choices, box = found.spaces["b"].spaces
    drawn = np.asarray(jax.vmap(choices.sample)(jax.random.split(jax.random.key(0), 300)))
    assert {tuple(each) for each in drawn} == {(i, j) for i in range(2) for j in range(5)}
    assert choices.contains(jnp.array([1, 4])) and not choices.contains(jnp.array([2, 4]))
    assert (choices.dtype, choices.shape) == (np.int32, (2,))
    np.testing.assert_array_equal(box.high, [0, np.inf])
    assert found.spaces["action_mask"].dtype == bool
    assert theirs.num_actions == 7 + 2
    assert len(theirs.action_space(params).spaces) == 2
    assert converted_space(theirs.observation_space, params) == space
    assert converted_space(theirs.action_space, params) == space["b"]
    assert not hasattr(to_gymnax(draws())[1], "max_steps_in_episode")


def test_a_trainer_of_gymnaxs_kind_learns_what_it_is_given():
    """Vectorised steps in a scan, as gymnax's trainers have them, keep dtypes and shapes."""
    theirs, params = to_gymnax(draws(max_steps=7))
    observation, state = jax.vmap(theirs.reset, in_axes=(0, None))(jax.random.split(jax.random.key(0), 5), params)

    def step(carry, key):
        _, state = carry
        keys = jax.random.split(key, 5)
        observation, state, reward, *_ = jax.vmap(theirs.step, in_axes=(0, 0, 0, None))(
            keys, state, jnp.zeros(5, jnp.int32), params
        )
        return (observation, state), reward

    _, rewards = jax.jit(lambda carry: jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), 20)))(
        (observation, state)
    )
    assert rewards.shape == (20, 5)


def test_misuse():
    with pytest.raises(TypeError, match="env must be an Environment, .*; got str"):
        to_gymnax("CartPole-v1")
