"""`replay`: the episodes that training and evaluation played, by their names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import rollout, segments
from jaxpg.envs import Box, Discrete, Environment, Timestep
from jaxpg.training import replay as module


def walk(max_steps=12):
    """A random walk with random ends: what it does depends on every key."""

    def reset(key):
        state = jax.random.normal(key, (2,))
        return state, state

    def step(key, state, action):
        drift, end = jax.random.split(key)
        state = 0.9 * state + 0.3 * jax.random.normal(drift, (2,)) + 0.1 * jnp.asarray(action, float)
        return state, Timestep(state, state.sum(), jax.random.bernoulli(end, 0.1), jnp.zeros((), bool))

    return Environment(
        reset=reset, step=step, max_steps=max_steps, observation_space=Box(-9, 9, (2,)), action_space=Discrete(3)
    )


def with_memory(env):
    """A policy whose logits depend on the sum of all that it has seen in the episode."""
    base = jaxpg.policies.mlp(env, (4,))

    def apply(params, observation, carry):
        carry = carry + observation
        return base.apply(params, carry), carry

    return jaxpg.Policy(init=base.init, apply=apply, initial_carry=jnp.zeros(2))


def setup(memory, max_steps=12):
    env = walk(max_steps)
    policy = with_memory(env) if memory else jaxpg.policies.mlp(env, (4,))
    return env, policy, policy.init(jax.random.key(7))


def rows_of(trajectory, episode, lane=None):
    """(the rows of one episode, in their order, its final observation where one was stored)."""
    flat = jax.tree.map(lambda x: np.asarray(x).swapaxes(0, 1), trajectory)  # Lane by lane: an episode is in one.
    chosen = flat.episode == episode
    if lane is not None:
        chosen &= (np.arange(len(chosen)) == lane)[:, None]
    rows = jax.tree.map(lambda x: x[chosen & flat.valid], flat)
    final = flat.observation[chosen & ~flat.valid & (flat.time > 0)]
    return rows, final


def check_same(played, rows, final):
    length = len(rows.reward)
    assert length > 0 and played.valid.tolist() == [True] * length + [False]
    for name in ("action", "terminated", "truncated", "time", "episode"):
        np.testing.assert_array_equal(getattr(played, name)[:-1], getattr(rows, name), err_msg=name)
    for name in ("observation", "log_prob", "reward", "carry"):
        if getattr(rows, name) is not None:
            np.testing.assert_allclose(
                getattr(played, name)[:-1], getattr(rows, name), rtol=1e-6, atol=1e-6, err_msg=name
            )
    assert played.terminated[-2] or played.truncated[-2]
    assert played.time[-1] == length
    if played.truncated[-2]:
        np.testing.assert_allclose(played.observation[-1], final[0], atol=1e-6)
    else:
        assert len(final) == 0


@pytest.mark.parametrize("memory", [pytest.param(False, marks=pytest.mark.slow), True])
def test_replay_plays_what_collect_played(key, memory):
    env, policy, params = setup(memory)
    trajectory, statistics = rollout.collect(env, policy, params, key, num_episodes=20, num_lanes=3)
    for episode in range(20):
        played = jaxpg.replay(env, policy, params, key, episode)
        check_same(played, *rows_of(trajectory, episode))
        assert len(played.reward) == statistics.length[episode] + 1
        np.testing.assert_allclose(played.reward.sum(), statistics.returns[episode], atol=1e-5)
    lengths = np.asarray(statistics.length)
    assert (lengths == 12).any() and (lengths < 12).any()  # Truncated ones and terminated ones were among them.


@pytest.mark.slow
@pytest.mark.parametrize("memory", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_replay_plays_what_segments_played(key, memory):
    env, policy, params = setup(memory)
    state, parts = segments.start_segments(env, policy, key, 3), []
    for _ in range(3):
        state, part = segments.segment(env, policy, params, state, 15)
        parts.append(part.trajectory)
    trajectory = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    checked = 0
    for lane in range(3):
        for count in range(int(state.lanes.episode[lane])):  # Those that have ended.
            played = jaxpg.replay(env, policy, params, key, (lane, count))
            check_same(played, *rows_of(trajectory, count, lane))
            checked += 1
    assert checked > 6


def test_replay_plays_what_evaluate_played(key):
    env, policy, params = setup(False)
    scores = jaxpg.evaluate(key, env, policy, params, num_episodes=6, deterministic=True)
    for episode in range(6):
        played = jaxpg.replay(env, policy, params, key, np.int32(episode), deterministic=True)
        np.testing.assert_allclose(played.reward.sum(), scores.returns[episode], atol=1e-5)


def test_a_pair_without_a_lane_is_an_id(key):
    env, policy, params = setup(False)
    one, other = (jaxpg.replay(env, policy, params, key, name) for name in (5, (jnp.int32(-1), np.int64(5))))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(one))


def test_episodes_without_a_limit_are_played_to_their_end(key, monkeypatch):
    env, policy, params = setup(True, None)
    whole = jaxpg.replay(env, policy, params, key, 3)
    monkeypatch.setattr(module, "MOST_ROWS", 2)
    parts = jaxpg.replay(env, policy, params, key, 3)
    assert len(whole.reward) > 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, parts)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["reward", pytest.param("observation", marks=pytest.mark.slow)])
def test_training_names_the_episode_that_was_not_finite_and_replay_shows_it(key, where):
    """One initial state in twenty leads to NaN at the third step; REINFORCE says which episode it was."""
    env = walk()

    def step(key, state, action):
        (position, time), good = state
        position, timestep = env.step(key, position, action)
        bad = jnp.where(~good & (time >= 2), jnp.nan, 0.0)
        value = {"reward": timestep._replace(reward=timestep.reward + bad),
                 "observation": timestep._replace(observation=timestep.observation + bad)}[where]  # fmt: skip
        return ((position, time + 1), good), value._replace(terminated=jnp.zeros((), bool))

    def reset(key):
        position, observation = env.reset(key)
        return ((position, jnp.int32(0)), position[0] < 1.65), observation

    broken = Environment(
        reset=reset, step=step, max_steps=6, observation_space=env.observation_space, action_space=env.action_space
    )
    algorithm = jaxpg.reinforce(broken, jaxpg.policies.mlp(broken, (4,)), num_episodes=4)
    with pytest.warns(RuntimeWarning, match="was not applied: episode .*jaxpg.replay"):
        result = jaxpg.train(algorithm, key, num_env_steps=5000, progress=False)
    assert result.stopped == "nonfinite" and result.history["nonfinite"][-1] > 0
    assert not result.history["nonfinite"][:-1].any()
    lane, episode = (result.history[name][-1] for name in ("nonfinite_lane", "nonfinite_episode"))
    assert algorithm.episode_key is not None
    played = jaxpg.replay(broken, algorithm.policy, result.params, algorithm.episode_key(result.state), (lane, episode))
    assert np.isnan(getattr(played, where)).any()


@pytest.mark.parametrize("where", ["reward", "observation"])
def test_an_episode_without_a_limit_that_never_ends_is_left_where_it_is_not_finite(key, where):
    """A state that has become NaN is in no terminal region, ever; a limit of the caller's is one more way out."""

    def step(key, state, action):
        time, reward = state
        reward = jnp.where(time == 3, jnp.nan, reward)
        shown = jnp.stack([1.0 * time, reward if where == "observation" else 0.0])
        timestep = Timestep(shown, reward if where == "reward" else 0.0, reward > 9, jnp.zeros((), bool))
        return (time + 1, reward), timestep

    env = Environment(
        reset=lambda key: ((jnp.int32(0), 1.0), jnp.zeros(2)), step=step, max_steps=None,
        observation_space=Box(0, 99, (2,)), action_space=Discrete(3),
    )  # fmt: skip
    policy = jaxpg.policies.mlp(env, (4,))
    params = policy.init(key)
    played = jaxpg.replay(env, policy, params, key, 0)
    # The reward of the fourth step is NaN, or the observation in which the fifth is taken.
    assert played.valid.tolist() == [True] * (4 + (where == "observation")) + [False]
    values = getattr(played, where)[:-1]
    assert np.isnan(values[-1]).any() and np.isfinite(values[:-1]).all()
    assert not played.terminated.any() and not played.truncated.any()
    for most in (2, 4, 5, 11):
        cut = jaxpg.replay(env, policy, params, key, 0, max_steps=most)
        assert cut.valid.tolist() == [True] * most + [False] and not cut.truncated.any()
        assert cut.observation[-1][0] == most - 1


def test_replay_plays_at_most_so_many_steps(key, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    for limit in (None, 12):
        env, policy, params = setup(True, limit)
        whole = jaxpg.replay(env, policy, params, key, 3)
        length = len(whole.reward) - 1
        assert length > 5
        for most in (1, 4, 5, length, length + 3):
            cut = jaxpg.replay(env, policy, params, key, 3, max_steps=most)
            kept = min(most, length)
            assert cut.valid.tolist() == [True] * kept + [False]
            jax.tree.map(lambda a, b, n=kept: np.testing.assert_allclose(a[:n], b[:n], atol=1e-6), cut, whole)
            np.testing.assert_allclose(cut.observation[-1], whole.observation[kept], atol=1e-6)
            assert (cut.terminated | cut.truncated)[:-1].any() == (most >= length)
    with pytest.raises(ValueError, match="max_steps"):
        jaxpg.replay(env, policy, params, key, 3, max_steps=0)


@pytest.mark.parametrize("episode", [-1, 2**32, (0, -1), (-2, 0), 1.5, "3", True, (1, 2, 3), None, (0, None)])
def test_episodes_that_have_no_name(key, episode):
    env, policy, params = setup(False)
    with pytest.raises((TypeError, ValueError), match="episode must be an episode id, or a pair"):
        jaxpg.replay(env, policy, params, key, episode)


def test_replay_is_not_for_transformations(key):
    env, policy, params = setup(False)
    with pytest.raises(TypeError, match="key must be known"):
        jax.jit(lambda key: jaxpg.replay(env, policy, params, key, 0))(key)
    with pytest.raises(TypeError, match="env must be"):
        jaxpg.replay("CartPole-v1", policy, params, key, 0)  # type: ignore
