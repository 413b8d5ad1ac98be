"""Policies in gymnasium's environments: the episodes of `jaxpg.evaluate`, all modes of autoreset, spaces."""

import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import jaxpg
from jaxpg.gymnasium_evaluation import evaluate_gymnasium

MODES = tuple(AutoresetMode)


class FromJaxpg(gymnasium.Env):
    """The episodes first, first + stride, … of a jaxpg environment, under the key that names them."""

    def __init__(self, env, key, first=0, stride=1):
        self.env, self.key, self.episode, self.stride = env, key, first - stride, stride
        box = env.observation_space
        self.observation_space = spaces.Box(-np.inf, np.inf, box.shape, np.float32)
        action = env.action_space
        is_box = isinstance(action, jaxpg.envs.Box)
        self.action_space = (
            spaces.Box(np.float32(action.low), np.float32(action.high), action.shape)
            if is_box
            else spaces.Discrete(action.n)
        )
        self.functions = named_by_episode(env)

    def reset(self, *, seed=None, options=None):
        del seed, options
        self.episode, self.time = self.episode + self.stride, 0
        self.state, observation = self.functions[0](self.key, self.episode)
        return np.asarray(observation), {}

    def step(self, action):
        self.time += 1
        self.state, step = self.functions[1](self.key, self.episode, self.time, self.state, action)
        truncated = bool(step.truncated) or self.time >= self.env.max_steps
        return np.asarray(step.observation), float(step.reward), bool(step.terminated), truncated, {}


@functools.cache
def named_by_episode(env):
    """The environment's functions with the keys that jaxpg derives from an episode's number and the step."""
    fold_in = jax.random.fold_in

    def step(key, episode, time, state, action):
        return env.step(fold_in(fold_in(fold_in(key, episode), time), 2**32 - 1), state, action)

    return jax.jit(lambda key, episode: env.reset(fold_in(fold_in(key, episode), 0))), jax.jit(step)


class Countdown(gymnasium.Env):
    """Episodes of given lengths, one after the other; the observation is the step, the reward is 10^(-step).

    It fails where it is stepped after the end of an episode.
    """

    def __init__(self, lengths):
        self.observation_space, self.action_space = spaces.Box(0, 100, (1,)), spaces.Discrete(2)
        self.lengths, self.seeds, self.time = iter(lengths), [], None

    def reset(self, *, seed=None, options=None):
        del options
        self.seeds.append(seed)
        self.length, self.time = next(self.lengths), 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action) and self.time < self.length
        self.time += 1
        return np.full(1, self.time, np.float32), 0.1**self.time, self.time == self.length, False, {}


def balancing(env, gain=1.5):
    """A policy for CartPole that pushes, more often than not, to where the pole falls."""
    del env

    def apply(params, observation):
        lean = jnp.dot(observation, params)
        return jaxpg.policies.Categorical(jnp.stack([-lean, lean]))

    return jaxpg.policies.Policy(init=lambda key: gain * jnp.array([0.0, 0.05, 1.0, 0.3]), apply=apply)


def prepared(name="CartPole-v1", builder=balancing, **arguments):
    env = jaxpg.make(name, **arguments)
    policy = builder(env)
    return env, policy, policy.init(jax.random.key(5))


CASES = {
    "categorical": ("CartPole-v1", lambda env: balancing(env, -1.0)),
    "recurrent": ("CartPole-v1", lambda env: jaxpg.policies.recurrent(env, size=4, head_gain=9.0)),
    "squashed": ("Pendulum-v1", lambda env: jaxpg.policies.mlp(env, squash=True, head_gain=1.0)),
}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_episodes_are_those_of_evaluate(case, deterministic, key):
    """To rounding, where gymnasium plays jaxpg's own environment from the same initial states."""
    env, policy, params = prepared(*CASES[case], max_steps=40)
    expected = jaxpg.evaluate(key, env, policy, params, num_episodes=7, deterministic=deterministic)
    for mode in MODES:
        vector = SyncVectorEnv([lambda i=i: FromJaxpg(env, key, i, 3) for i in range(3)], autoreset_mode=mode)
        scores = evaluate_gymnasium(key, vector, policy, params, num_episodes=7, deterministic=deterministic)
        np.testing.assert_array_equal(scores.lengths, expected.lengths)
        np.testing.assert_allclose(scores.returns, expected.returns, rtol=1e-4)
    assert scores.returns.dtype == expected.returns.dtype and scores.lengths.dtype == expected.lengths.dtype
    assert len(set(np.asarray(expected.returns).tolist())) > 1


def test_cart_pole_is_gymnasiums(key):
    """Returns from gymnasium's CartPole and from jaxpg's have one distribution; false alarm: 1 in 1,000."""
    env, policy, params = prepared()
    ours = jaxpg.evaluate(key, env, policy, params, num_episodes=600).lengths
    scores = evaluate_gymnasium(jax.random.fold_in(key, 1), "CartPole-v1", policy, params, num_episodes=600)
    np.testing.assert_array_equal(scores.returns, scores.lengths)
    assert scipy.stats.ks_2samp(ours, scores.lengths).pvalue > 1e-3
    # A pole that falls faster would be noticed.
    other = jaxpg.evaluate(key, jaxpg.make("CartPole-v1", gravity=20.0), policy, params, num_episodes=600).lengths
    assert scipy.stats.ks_2samp(other, scores.lengths).pvalue < 1e-3


@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_modes_of_autoreset_give_the_same_episodes(num_envs, key):
    _, policy, params = prepared()
    functions = [lambda: gymnasium.make("CartPole-v1")] * num_envs
    # All are made first: they write their mode into one dict that the class shares.
    vectors = [SyncVectorEnv(functions, autoreset_mode=mode) for mode in MODES]
    scores = [evaluate_gymnasium(key, each, policy, params, num_episodes=8, seed=3) for each in vectors]
    for each in scores[1:]:
        np.testing.assert_array_equal(each.lengths, scores[0].lengths)
        np.testing.assert_array_equal(each.returns, scores[0].returns)
    again = evaluate_gymnasium(key, vectors[0], policy, params, num_episodes=8, seed=4)
    assert (again.lengths != scores[0].lengths).any()
    np.testing.assert_array_equal(  # Without a seed, the key says it.
        *(evaluate_gymnasium(key, vectors[0], policy, params, num_episodes=8).lengths for _ in range(2))
    )
    assert not any(each.closed for each in vectors)


def test_one_environment_is_a_vector_of_one(key):
    _, policy, params = prepared()
    env = gymnasium.make("CartPole-v1")
    one = evaluate_gymnasium(key, env, policy, params, num_episodes=5, seed=3)
    vector = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")])
    np.testing.assert_array_equal(
        one.lengths, evaluate_gymnasium(key, vector, policy, params, num_episodes=5, seed=3).lengths
    )
    env.reset()  # It was left open.


@pytest.mark.parametrize("mode", MODES)
def test_long_episodes_count_as_often_as_short_ones(mode, key):
    """Sub-environment i of 3 plays the episodes i, i + 3, …, however long the others take."""
    _, policy, params = countdown_policy()
    lengths = [[1] * 50, [2, 4, 2, 4] * 9, [9] * 9]
    made = [Countdown(each) for each in lengths]
    vector = SyncVectorEnv([lambda env=env: env for env in made], autoreset_mode=mode)
    scores = evaluate_gymnasium(key, vector, policy, params, num_episodes=8, seed=70)
    expected = np.array([1, 2, 9, 1, 4, 9, 1, 2])
    np.testing.assert_array_equal(scores.lengths, expected)
    np.testing.assert_allclose(scores.returns, (1 - 0.1**expected) / 9, rtol=1e-6)
    assert [(env.seeds[0], set(env.seeds[1:])) for env in made] == [(70, {None}), (71, {None}), (72, {None})]


def test_fewer_episodes_than_environments(key):
    _, policy, params = countdown_policy()
    vector = SyncVectorEnv([lambda k=k: Countdown([k] * 99) for k in (5, 6, 7)])
    np.testing.assert_array_equal(evaluate_gymnasium(key, vector, policy, params, num_episodes=2).lengths, [5, 6])


def test_functions_are_closed_and_environments_are_not(key):
    _, policy, params = countdown_policy()
    closed = []

    class Closing(Countdown):
        def close(self):
            closed.append(self)

    made = [Closing([3] * 9) for _ in range(2)]
    supply = iter(made)
    assert (evaluate_gymnasium(key, lambda: next(supply), policy, params, num_episodes=2).lengths == 3).all()
    assert closed == made
    closed.clear()
    evaluate_gymnasium(key, Closing([3] * 9), policy, params, num_episodes=2)
    assert not closed


def countdown_policy():
    """A policy for an environment of one's own: given by its spaces."""
    return policy_for(jaxpg.envs.Box(0, 100, (1,)), jaxpg.envs.Discrete(2))


def policy_for(observation_space, action_space, **arguments):
    env = jaxpg.envs.Environment(
        reset=lambda key: None, step=lambda *_: None, observation_space=observation_space, action_space=action_space
    )
    policy = jaxpg.policies.mlp(env, hidden_sizes=(8,), **arguments)
    return env, policy, policy.init(jax.random.key(0))


class Rich(gymnasium.Env):
    """Observations and actions of many kinds; it keeps the actions and checks that they are its space's."""

    def __init__(self):
        self.observation_space = spaces.Dict(
            {
                "zoom": spaces.Box(0, 1, (2, 2), np.float64),
                "a": spaces.Discrete(3),
                "action_mask": spaces.MultiBinary(4),
            }
        )
        self.action_space = spaces.Discrete(4)
        self.actions = []

    def _observation(self):
        mask = np.zeros(4, np.int8)
        mask[self.time % 4] = 1
        return {"zoom": np.full((2, 2), 0.5), "a": np.int64(self.time % 3), "action_mask": mask}

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.actions.append((self.time, int(action)))
        self.time += 1
        return self._observation(), 1, False, self.time == 6, {}


@pytest.mark.parametrize("mode", MODES)
def test_a_dict_with_an_action_mask(mode, key):
    box, discrete = jaxpg.envs.Box(0, 1, (2, 2)), jaxpg.envs.Discrete(3)
    mask = jaxpg.envs.Box(0, 1, (4,), jnp.bool_)
    _, policy, params = policy_for({"zoom": box, "a": discrete, "action_mask": mask}, jaxpg.envs.Discrete(4))
    made = [Rich(), Rich()]
    vector = SyncVectorEnv([lambda env=env: env for env in made], autoreset_mode=mode)
    scores = evaluate_gymnasium(key, vector, policy, params, num_episodes=4)
    assert (scores.returns == 6).all()
    for env in (*made, alone := Rich()):
        if env is alone:
            evaluate_gymnasium(key, env, policy, params, num_episodes=2)
        assert len(env.actions) >= 12 and all(action == time % 4 for time, action in env.actions)


class Bounded(gymnasium.Env):
    """Continuous and whole-numbered actions in a tuple, kept."""

    def __init__(self):
        self.observation_space = spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3])))
        self.action_space = spaces.Tuple(
            (spaces.Box(np.float32([-0.1, -1]), np.float32([0.1, 9])), spaces.MultiDiscrete([4, 2]))
        )
        self.actions = []

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.actions.append(action)
        self.time += 1
        return self.observation_space.sample(), 0.0, self.time == 20, False, {}


@pytest.mark.parametrize("vectorise", [False, True])
def test_actions_are_clipped_to_their_box(vectorise, key):
    box = jaxpg.envs.Box
    _, policy, params = policy_for(
        (box(-1, 1, (2,)), jaxpg.envs.MultiDiscrete((2, 3))),
        (box(-np.inf, np.inf, (2,)), jaxpg.envs.MultiDiscrete((4, 2))),  # So it does not clip by itself.
    )
    env = Bounded()
    evaluate_gymnasium(key, SyncVectorEnv([lambda: env]) if vectorise else env, policy, params, num_episodes=2)
    forces = np.array([action[0] for action in env.actions])
    assert forces.dtype == np.float32
    at_bound = np.isin(forces[:, 0], np.float32([-0.1, 0.1]))
    assert at_bound.any() and not at_bound.all()
    assert len({tuple(action[1]) for action in env.actions}) > 4


def test_errors(key):
    _, policy, params = prepared()
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync")
    with pytest.raises(TypeError, match="envs must be a gymnasium.vector.VectorEnv, .*; got int"):
        evaluate_gymnasium(key, 3, policy, params)
    with pytest.raises(TypeError, match="envs must return a gymnasium.Env; got int"):
        evaluate_gymnasium(key, lambda: 3, policy, params)
    with pytest.raises(TypeError, match="policy must be a Policy, .*; got str"):
        evaluate_gymnasium(key, envs, "policy", params)
    with pytest.raises(ValueError, match="num_episodes must be an integer of at least 1; got 0"):
        evaluate_gymnasium(key, envs, policy, params, num_episodes=0)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0; got -1"):
        evaluate_gymnasium(key, envs, policy, params, seed=-1)
    with pytest.raises(TypeError, match="deterministic must be True or False; got int"):
        evaluate_gymnasium(key, envs, policy, params, deterministic=1)
    with pytest.raises(TypeError, match=r"key must be one random key .* got int"):
        evaluate_gymnasium(0, envs, policy, params)

    with pytest.raises(ValueError, match=r"policy must take the observations of envs, Box.*\(2,\).*; it failed with"):
        evaluate_gymnasium(key, "MountainCar-v0", policy, params)
    _, three_actions, its_params = policy_for(jaxpg.envs.Box(-9, 9, (4,)), jaxpg.envs.Discrete(3))
    with pytest.raises(ValueError, match=r"policy must give the actions of envs, Discrete\(2\); it gives one of 3"):
        evaluate_gymnasium(key, envs, three_actions, its_params)
    _, force, its_params = policy_for(jaxpg.envs.Box(-9, 9, (4,)), jaxpg.envs.Box(-1, 1, (1,)))
    with pytest.raises(ValueError, match=r"the actions of envs, Discrete\(2\); it gives float32\[1\]"):
        evaluate_gymnasium(key, envs, force, its_params)

    class Odd(Countdown):
        def __init__(self, observation_space, action_space):
            self.observation_space, self.action_space = observation_space, action_space

    with pytest.raises(ValueError, match="envs: action_space is none that jaxpg has: .* from 0"):
        evaluate_gymnasium(key, Odd(spaces.Box(0, 1, (4,)), spaces.Discrete(2, start=1)), policy, params)
    with pytest.raises(TypeError, match=r"envs: observation_space is none that jaxpg has: .* got Text"):
        evaluate_gymnasium(key, Odd(spaces.Dict({"x": spaces.Text(3)}), spaces.Discrete(2)), policy, params)


def test_a_vector_must_say_its_mode(key):
    _, policy, params = prepared()

    class Silent(gymnasium.vector.VectorEnv):
        num_envs, metadata = 1, {}
        single_observation_space, single_action_space = spaces.Box(-9, 9, (4,)), spaces.Discrete(2)

    with pytest.raises(ValueError, match=r"metadata\['autoreset_mode'\] must be a .*AutoresetMode; got None"):
        evaluate_gymnasium(key, Silent(), policy, params)
