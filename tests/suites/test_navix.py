"""NAVIX through the adapter against navix's own loop: the same keys and actions, whole episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

navix = pytest.importorskip("navix")

import jaxpg  # noqa: E402
from jaxpg.envs import navix as adapter  # noqa: E402
from jaxpg.envs import spaces  # noqa: E402
from jaxpg.envs.conformance import check_env  # noqa: E402
from jaxpg.envs.spaces import Box, Discrete  # noqa: E402

LANES = 16

# name -> limit, and whether random actions earn something.
PLAYED = {
    "Navix-Empty-5x5-v0": (60, True),
    "Navix-DoorKey-5x5-v0": (400, True),
    "Navix-Dynamic-Obstacles-6x6-v0": (20, False),
    "Navix-LavaGapS5-v0": (30, False),
    "Navix-GoToDoor-5x5-v0": (40, True),
    "Navix-Empty-Random-8x8-v0": (100, True),
}


SLOW = ("Navix-Empty-Random-8x8-v0",)


def random_actions(key, num_steps):
    return jax.random.randint(key, (LANES, num_steps), 0, 7)


def own_loop(env, key, actions):
    """First observations, and (observation, reward, step_type) [lane, step], of navix's own functions."""

    def step(timestep, action):
        timestep = env.step(timestep, action)
        return timestep, (timestep.observation, timestep.reward, timestep.step_type)

    def episode(key, actions):
        timestep = env.reset(key)
        return timestep.observation, jax.lax.scan(step, timestep, actions)[1]

    return jax.device_get(jax.jit(jax.vmap(episode))(jax.random.split(key, LANES), actions))


def adapted_loop(env, key, actions):
    def episode(key, actions):
        state, observation = env.reset(key)
        return observation, jax.lax.scan(lambda s, a: env.step(key, s, a), state, actions)[1]

    return jax.device_get(jax.jit(jax.vmap(episode))(jax.random.split(key, LANES), actions))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PLAYED]
)
def test_episodes_are_those_of_navix(name, key):
    limit, earns = PLAYED[name]
    env = jaxpg.make(f"navix/{name}", max_steps=limit)
    actions = random_actions(key, limit)
    first, (observation, reward, step_type) = own_loop(navix.make(name, max_steps=limit), key, actions)
    our_first, ours = adapted_loop(env, key, actions)

    live = np.cumsum(step_type > 0, axis=1) - (step_type > 0) == 0
    np.testing.assert_array_equal(first, our_first)
    np.testing.assert_array_equal(observation[live], ours.observation[live])
    np.testing.assert_array_equal(reward[live], ours.reward[live])
    np.testing.assert_array_equal((step_type == 2)[live], ours.terminated[live])
    at_limit = np.broadcast_to(np.arange(limit) == limit - 1, live.shape)
    np.testing.assert_array_equal(at_limit[live], ours.truncated[live])

    assert ours.terminated[live].any() and (ours.truncated & ~ours.terminated)[live].any(), "both ends should be seen"
    assert (ours.reward[live].max() > 0) == earns
    inside = jax.vmap(jax.vmap(lambda value: spaces.contains(env.observation_space, value)))(ours.observation)
    assert np.asarray(inside)[live].all()


@pytest.mark.parametrize(
    "function", ["rgb", "categorical", pytest.param("symbolic_first_person", marks=pytest.mark.slow)]
)
def test_observation_functions_by_name(function, key):
    env = jaxpg.make("navix/Navix-DoorKey-5x5-v0", observation_fn=function)
    theirs = navix.make("Navix-DoorKey-5x5-v0", observation_fn=getattr(navix.observations, function))
    actions = random_actions(key, 10)
    first, (observation, _, _) = own_loop(theirs, key, actions)
    our_first, ours = adapted_loop(env, key, actions)
    np.testing.assert_array_equal(first, our_first)
    np.testing.assert_array_equal(observation, ours.observation)
    assert spaces.contains(env.observation_space, ours.observation[0, -1])
    assert env.observation_space.shape == observation.shape[2:] and env.observation_space.dtype == observation.dtype


def test_a_goal_at_the_limit_is_both(key):
    actions = random_actions(key, 60)
    _, ours = adapted_loop(jaxpg.make("navix/Navix-Empty-5x5-v0", max_steps=60), key, actions)
    lane, step = np.argwhere(ours.terminated)[0]
    _, ours = adapted_loop(jaxpg.make("navix/Navix-Empty-5x5-v0", max_steps=int(step) + 1), key, actions[:, : step + 1])
    assert ours.terminated[lane, -1] and ours.truncated[lane, -1]
    assert not ours.terminated[:, -1].all() and ours.truncated[:, -1].all()


def test_max_steps_may_be_longer_than_the_limit_of_the_suite(key):
    assert jaxpg.make("navix/Navix-Empty-16x16-v0").max_steps == 100 == navix.make("Navix-Empty-16x16-v0").max_steps
    turning = jnp.zeros((LANES, 103), jnp.int32)
    env = adapter.from_navix(navix.make("Navix-Empty-16x16-v0"), max_steps=103)
    assert env.max_steps == 103 and env.name == "Room"
    _, ours = adapted_loop(env, key, turning)
    np.testing.assert_array_equal(ours.truncated[0], np.arange(103) == 102)


def test_spaces():
    env = jaxpg.make("navix/Navix-DoorKey-8x8-v0")
    assert env.action_space == Discrete(7)
    assert env.observation_space == Box(0, np.broadcast_to([10, 5, 3], (8, 8, 3)), (8, 8, 3), jnp.uint8)
    few = jaxpg.make("navix/Navix-DoorKey-8x8-v0", action_set=navix.actions.DEFAULT_ACTION_SET[:3])
    assert few.action_space == Discrete(3)


def test_the_state_holds_no_pictures():
    env = jaxpg.make("navix/Navix-Empty-16x16-v0")
    state = jax.eval_shape(env.reset, jax.random.key(0))[0]
    assert max(leaf.size for leaf in jax.tree.leaves(state)) == 16 * 16


def test_initial_states_differ_by_key():
    env = jaxpg.make("navix/Navix-DoorKey-Random-8x8-v0")
    _, observation = jax.vmap(env.reset)(jax.random.split(jax.random.key(3), 16))
    assert len(np.unique(np.asarray(observation).reshape(16, -1), axis=0)) > 8
    raw = env.reset(jax.random.key_data(jax.random.key(3)))[1]
    np.testing.assert_array_equal(raw, env.reset(jax.random.key(3))[1])


def test_pictures():
    env = jaxpg.make("navix/Navix-Empty-5x5-v0")
    state, _ = env.reset(jax.random.key(0))
    picture = env.render(state)
    theirs = navix.make("Navix-Empty-5x5-v0", observation_fn=navix.observations.rgb)
    np.testing.assert_array_equal(picture[::4, ::4], theirs.reset(jax.random.key(0)).observation)
    assert picture.dtype == np.uint8 and picture.shape == (160, 160, 3) and picture.std() > 5
    after, _ = env.step(jax.random.key(1), state, jnp.asarray(2))
    assert (env.render(after) != picture).any()


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"no parameter 'observation_fun'.*did you mean 'observation_fn'"):
        jaxpg.make("navix/Navix-Empty-5x5-v0", observation_fun="rgb")
    with pytest.raises(ValueError, match=r"observation_fn must be one of .*'rgb'.*got 'rbg'; did you mean 'rgb'"):
        jaxpg.make("navix/Navix-Empty-5x5-v0", observation_fn="rbg")
    with pytest.raises(ValueError, match=r"Navix-Empty-5x5-v0 cannot be built with height=7"):
        jaxpg.make("navix/Navix-Empty-5x5-v0", height=7)
    with pytest.raises(ValueError, match=r"did you mean 'navix/Navix-Empty-5x5-v0'"):
        jaxpg.make("navix/Navix-Emty-5x5-v0")
    with pytest.raises(ValueError, match="the episode limit is set by the argument max_steps"):
        adapter.make("Navix-Empty-5x5-v0", None, {"max_steps": 3})
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1"):
        adapter.from_navix(navix.make("Navix-Empty-5x5-v0"), max_steps=0)
    with pytest.raises(TypeError, match="must be an environment of navix; got int"):
        adapter.from_navix(3)


def test_names(key):
    assert "navix/Navix-Empty-5x5-v0" in jaxpg.envs.available("navix")
    corridors = {name for name in navix.registry() if name.startswith("Navix-KeyCorridor")}
    refused = set(navix.registry()) - set(adapter.available())

    # Where nobody can leave the room in the middle, the corridors are refused.
    env = adapter.from_navix(navix.make("Navix-KeyCorridorS3R1-v0"), max_steps=1_000)
    observation, ours = adapted_loop(env, key, random_actions(key, 1_000))
    stuck = ((ours.observation[..., 0] == 10) == (observation[:, None, ..., 0] == 10)).all() and not ours.reward.any()
    assert refused == (corridors if stuck else set())
    if stuck:
        with pytest.raises(ValueError, match="'navix/Navix-KeyCorridorS3R1-v0' is not offered: in this version"):
            jaxpg.make("navix/Navix-KeyCorridorS3R1-v0")


@pytest.mark.slow
@pytest.mark.parametrize("name", adapter.available())
def test_all_keep_their_promises(name, key):
    report = check_env(jaxpg.make(f"navix/{name}"), key, num_episodes=4, num_steps=60)
    assert report.passed, report
