"""Environments as gymnasium's: its own checker, its own vector environments, and jaxpg's own episodes."""

import sys
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import jaxpg
from jaxpg import envs, exact
from jaxpg.envs import Box, Discrete, Environment, MultiDiscrete, Timestep, spaces
from jaxpg.envs._gymnasium_spaces import from_gymnasium_space, to_gymnasium_space, to_numpy
from jaxpg.envs.to_gymnasium import to_gymnasium, to_gymnasium_vector

CLASSIC = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0")
MINATAR = tuple(name for name in envs.available() if "MinAtar" in name)
LONG, SLOW = ("Freeway-MinAtar", "Seaquest-MinAtar"), pytest.mark.slow


def warned(env):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
    return {str(each.message) for each in caught}


@pytest.mark.parametrize("name", CLASSIC)
def test_gymnasiums_checker_says_no_more_than_of_its_own(name):
    own = gymnasium.make(name).unwrapped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(own, skip_render_check=True)
    assert warned(to_gymnasium(jaxpg.make(name))) <= {str(each.message) for each in caught}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name in LONG else ()) for name in MINATAR])
def test_gymnasiums_checker_is_content(name):
    assert not warned(to_gymnasium(jaxpg.make(name)))


def puzzle(length=6, max_steps=None, own_limit=None, **changes):
    """All kinds of spaces; the reward tells the action, and an episode ends where enough was drawn."""
    action_space = {"gear": Discrete(3), "tools": (MultiDiscrete([2, 4]), Box(-1, 1, (2,)))}
    observation_space = {
        "grid": Box(0, 9, (2, 3), np.uint8),
        "place": (Discrete(50), MultiDiscrete([50, 50])),
        "reals": Box([0, -np.inf], [1, np.inf], (2,)),
        "flag": Box(0, 1, (2,), bool),
        "action_mask": Box(0, 1, (3,), bool),
    }

    def observe(state):
        place, time = state
        return {
            "grid": jnp.full((2, 3), time % 10, jnp.uint8),
            "place": (place, jnp.stack([place, time])),
            "reals": jnp.stack([0.5, place.astype(jnp.float32)]),
            "flag": jnp.stack([time > 2, place > 2]),
            "action_mask": jnp.arange(3) != time % 3,
        }

    def reset(key):
        state = jax.random.randint(key, (), 0, 3), jnp.int32(0)
        return state, observe(state)

    def step(key, state, action):
        state = state[0] + jax.random.randint(key, (), 0, 3), state[1] + 1
        bits, force = action["tools"]
        reward = 1000 * action["gear"] + 100 * bits[0] + 10 * bits[1] + force.sum()
        truncated = jnp.bool_(False) if own_limit is None else state[1] >= own_limit
        return state, Timestep(observe(state), reward, state[0] >= length, truncated)

    fields = {
        "observation_space": observation_space,
        "action_space": action_space,
        "max_steps": max_steps,
        "name": "a puzzle/of mine",
        "render": lambda state: np.full((4, 5, 3), int(state[1]), np.uint8),
    }
    return Environment(reset=reset, step=step, **(fields | changes))


ACTION = {"gear": 2, "tools": (np.array([1, 3]), np.array([0.25, 0.5], np.float32))}


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_all_kinds_of_spaces():
    env = to_gymnasium(puzzle(max_steps=9), render_mode="rgb_array")
    assert all("infinity" in message for message in warned(env))
    assert env.spec.id == "jaxpg/a_puzzle_of_mine" and env.spec.max_episode_steps == 9
    observation, info = env.reset(seed=3)
    assert observation in env.observation_space
    assert observation["grid"].dtype == np.uint8 and observation["flag"].dtype == bool
    assert isinstance(observation["place"], tuple) and isinstance(observation["place"][0], np.int64)
    observation["grid"][:] = 7  # What a user does with it is the user's.
    np.testing.assert_array_equal(info["action_mask"], [0, 1, 1])
    assert env.action_space["gear"].sample(mask=info["action_mask"]) in (1, 2)
    observation, reward, terminated, truncated, info = env.step(ACTION)
    assert observation in env.observation_space and (observation["grid"] == 1).all()
    assert isinstance(reward, float) and (reward, terminated, truncated) == (2130.75, False, False)
    np.testing.assert_array_equal(info["action_mask"], [1, 0, 1])
    assert env.render().shape == (4, 5, 3) and (env.render() == 1).all()


def play(env, policy, params, seed, episodes):
    """Observations and rewards of some episodes under the mode of a policy."""
    found = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        found.append(([observation], [], None))
        over = False
        while not over:
            action = np.asarray(policy.apply(params, observation).mode())
            observation, reward, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
            found[-1][0].append(observation)
            found[-1][1].append(reward)
        found[-1] = (*found[-1][:2], (terminated, truncated))
    return found


@pytest.mark.parametrize("name", ["CartPole", "MDP"])
def test_episodes_are_those_that_jaxpg_plays(name):
    mdp = exact.random_mdp(jax.random.key(0), num_states=5, num_actions=2, horizon=9)  # Its steps use their keys.
    env = mdp.environment() if name == "MDP" else jaxpg.make("CartPole-v1", max_steps=30)
    policy = jaxpg.policies.mlp(env, (8,))
    params = policy.init(jax.random.key(7))
    found = play(to_gymnasium(env), policy, params, 11, 3)
    for number, (observations, rewards, _) in enumerate(found):
        frames = jaxpg.render.play_episode(env, policy, params, jax.random.key(11), episode=number, deterministic=True)
        assert len(frames) == len(observations) == len(rewards) + 1
        np.testing.assert_allclose(observations, [frame.observation for frame in frames], atol=1e-5)
    returns = jaxpg.evaluate(jax.random.key(11), env, policy, params, num_episodes=3, deterministic=True).returns
    np.testing.assert_allclose([sum(rewards) for _, rewards, _ in found], returns, rtol=1e-5)


def test_seeds_name_episodes():
    one, other = to_gymnasium(puzzle()), to_gymnasium(puzzle())
    same(one.reset(seed=5), other.reset(seed=5))
    second = one.reset()
    same(second, other.reset())
    one.reset(seed=5)
    same(one.reset(), second)
    places = {int(one.reset()[0]["place"][0]) for _ in range(30)}
    assert places == {0, 1, 2}
    # Without a seed they differ from process to process: here, from object to object.
    firsts = [tuple(to_gymnasium(jaxpg.make("CartPole-v1")).reset()[0]) for _ in range(2)]
    assert firsts[0] != firsts[1]
    same(one.reset(seed=2**40 + 5), other.reset(seed=5))


@pytest.mark.parametrize("limits", [{"max_steps": 3}, {"own_limit": 3}, {"max_steps": 3, "own_limit": 3}])
def test_limits_truncate(limits):
    env = to_gymnasium(puzzle(length=100, **limits))
    env.reset(seed=0)
    assert [env.step(ACTION)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]


def test_a_natural_end_terminates_with_the_final_observation():
    env = to_gymnasium(puzzle(length=3, max_steps=40))
    env.reset(seed=0)
    for _ in range(40):
        observation, _, terminated, truncated, _ = env.step(ACTION)
        if terminated:
            break
    assert (terminated, truncated) == (True, False) and observation["place"][0] >= 3


def test_steps_need_a_reset():
    env = to_gymnasium(puzzle(max_steps=1))
    with pytest.raises(gymnasium.error.ResetNeeded, match="no episode has begun"):
        env.step(ACTION)
    env.reset(seed=0)
    env.step(ACTION)
    with pytest.raises(gymnasium.error.ResetNeeded, match="the episode is over"):
        env.step(ACTION)
    env.reset()
    env.step(ACTION)
    with pytest.raises(gymnasium.error.ResetNeeded):
        to_gymnasium_vector(puzzle(), 2).step(None)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"gear": 3}, r"action\['gear'\] must lie in Discrete\(3\); got 3"),
        ({"gear": -1}, r"action\['gear'\] must lie in"),
        ({"gear": 1.0}, r"action\['gear'\] must be of shape \(\) in Discrete\(3\)"),
        ({"gear": np.array([1])}, r"action\['gear'\] must be of shape \(\)"),
        ({"tools": (np.array([2, 0]), np.zeros(2))}, r"action\['tools'\]\[0\] must lie in MultiDiscrete"),
        ({"tools": (np.array([1, 0]), np.zeros(3))}, r"action\['tools'\]\[1\] must be of shape \(2,\)"),
        ({"tools": 3}, r"action\['tools'\] must have the entries \[0, 1\]"),
        ({"more": 3}, r"action must have the entries \['gear', 'tools'\]"),
    ],
    ids=str,
)
def test_actions_are_checked(change, message):
    env = to_gymnasium(puzzle())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(ACTION | change)


# Vector environments.


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    "make", [lambda: puzzle(length=5, max_steps=4), lambda: jaxpg.make("CartPole-v1", max_steps=12)]
)
def test_copies_play_as_gymnasiums_vectors_of_single_ones(mode, make):
    num_envs = 3
    ours = to_gymnasium_vector(make(), num_envs, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: to_gymnasium(make())] * num_envs, autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.metadata["autoreset_mode"] == mode
    ours.action_space.seed(0)
    close = {"rtol": 1e-5, "atol": 1e-6}

    def compare(one, other):
        if isinstance(one, dict):
            assert set(one) == set(other)
            for name in one:
                compare(one[name], other[name])
        elif isinstance(one, tuple) or getattr(one, "dtype", "") == np.dtype(object):
            assert len(one) == len(other)
            for part, its in zip(one, other):
                compare(part, its)
        elif one is None or other is None:
            assert one is other
        else:
            assert one.dtype == other.dtype and one.shape == other.shape
            np.testing.assert_allclose(one, other, **close)

    compare(ours.reset(seed=4), theirs.reset(seed=4))
    ends = 0
    for _ in range(25):
        actions = ours.action_space.sample()
        found = ours.step(actions)
        assert found[0] in ours.observation_space
        compare(found, theirs.step(actions))
        ends += int((found[2] | found[3]).sum())
    assert ends >= 3 and found[1].dtype == np.float64
    compare(ours.reset(seed=[7, None, 9]), theirs.reset(seed=[7, None, 9]))
    compare(ours.reset(), theirs.reset())


def test_a_vector_compiles_once():
    traces = []
    env = puzzle(max_steps=3)

    def step(key, state, action):
        traces.append(1)
        return env.step(key, state, action)

    counted = Environment(
        reset=env.reset,
        step=step,
        observation_space=env.observation_space,
        action_space=env.action_space,
        max_steps=3,
    )
    for _ in range(2):
        vector = to_gymnasium_vector(counted, 2)
        vector.reset(seed=0)
        for _ in range(6):
            vector.step(vector.action_space.sample())
    assert len(traces) == 1


def test_pictures_of_all_copies():
    vector = to_gymnasium_vector(puzzle(max_steps=9), 2, render_mode="rgb_array")
    vector.reset(seed=0)
    vector.step(vector.action_space.sample())
    pictures = vector.render()
    assert len(pictures) == 2 and all((picture == 1).all() for picture in pictures)
    cart = to_gymnasium(jaxpg.make("CartPole-v1"), render_mode="rgb_array")
    cart.reset(seed=0)
    before = cart.render()
    for _ in range(5):
        cart.step(1)
    assert before.dtype == np.uint8 and before.shape == cart.render().shape and (before != cart.render()).any()
    assert cart.metadata["render_fps"] == 50


def test_what_cannot_be_drawn():
    plain = puzzle(render=None)
    assert to_gymnasium(plain).metadata["render_modes"] == []
    with pytest.raises(ValueError, match="render_mode must be None: there is no drawing of a puzzle/of mine"):
        to_gymnasium(plain, render_mode="rgb_array")
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array'; got 'human'"):
        to_gymnasium(puzzle(), render_mode="human")
    with pytest.raises(gymnasium.error.ResetNeeded, match="before env.render"):
        to_gymnasium(puzzle(), render_mode="rgb_array").render()
    with pytest.warns(UserWarning, match="draws nothing"):
        assert to_gymnasium(puzzle()).render() is None


# Spaces.


@pytest.mark.parametrize(
    "space",
    [
        Discrete(4),
        MultiDiscrete([2, 3]),
        Box(-1, 2, (3,)),
        Box([0, -np.inf], [np.inf, 1], (2,)),
        Box(0, 255, (2, 2, 3), np.uint8),
        Box(0, 1, (4,), bool),
        Box(-5, np.inf, (), np.int32),
        Box(-np.inf, np.inf, (2,), np.int32),
        {"a": Discrete(2), "b": (Box(0, 1, (1,)), MultiDiscrete([2]))},
    ],
    ids=str,
)
def test_spaces_there_and_back(space):
    theirs = to_gymnasium_space(space)
    back = from_gymnasium_space(theirs)
    if space == Box(-5, np.inf, (), np.int32):
        space = Box(-5, np.iinfo(np.int32).max, (), np.int32)  # An array of bounds cannot hold infinite integers.
    elif space == Box(-np.inf, np.inf, (2,), np.int32):
        limits = np.iinfo(np.int32)
        space = Box(limits.min, limits.max, (2,), np.int32)
    assert back == space
    assert theirs.contains(to_numpy(space, spaces.sample(space, jax.random.key(0))))
    theirs.seed(0)
    assert spaces.contains(space, theirs.sample())


def test_spaces_that_have_no_counterpart():
    assert from_gymnasium_space(gymnasium.spaces.MultiBinary(3)) == Box(0, 1, (3,), bool)
    with pytest.raises(ValueError, match="must count its choices from 0"):
        from_gymnasium_space(gymnasium.spaces.Discrete(3, start=1))
    with pytest.raises(ValueError, match="on at most one axis"):
        from_gymnasium_space(gymnasium.spaces.MultiDiscrete([[2, 3], [3, 4]]))
    with pytest.raises(TypeError, match="space must be a Discrete.*got Text"):
        from_gymnasium_space(gymnasium.spaces.Text(3))


# Misuse.


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: to_gymnasium("CartPole-v1"), TypeError, "env must be an Environment"),
        (lambda: to_gymnasium_vector(puzzle(), 0), ValueError, "num_envs must be an integer of at least 1"),
        (
            lambda: to_gymnasium_vector(puzzle(), 2, autoreset_mode=AutoresetMode.DISABLED),
            ValueError,
            "autoreset_mode must be one of 'next_step', 'same_step'",
        ),
        (lambda: to_gymnasium_vector(puzzle(), 2).reset(seed=[1]), ValueError, "a list of 2, one for each copy; got 1"),
        (
            lambda: to_gymnasium_vector(puzzle(), 2).reset(options={"reset_mask": np.ones(2, bool)}),
            ValueError,
            "must not hold a 'reset_mask'",
        ),
    ],
    ids=["env", "num_envs", "autoreset_mode", "seeds", "reset_mask"],
)
def test_misuse(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_gymnasium_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    for call in (lambda: to_gymnasium(puzzle()), lambda: to_gymnasium_vector(puzzle(), 2)):
        with pytest.raises(ImportError, match='pip install "gymnasium>=1.1"'):
            call()
