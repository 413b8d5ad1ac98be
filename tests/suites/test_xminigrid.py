"""XLand-MiniGrid through the adapter against xminigrid's own loop: the same keys and actions, whole episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

xminigrid = pytest.importorskip("xminigrid")

from xminigrid.core.constants import TILES_REGISTRY, Colors, Tiles  # noqa: E402
from xminigrid.core.goals import AgentNearGoal  # noqa: E402
from xminigrid.core.rules import EmptyRule  # noqa: E402
from xminigrid.types import RuleSet  # noqa: E402
from xminigrid.wrappers import (  # noqa: E402
    DirectionObservationWrapper,
    GymAutoResetWrapper,
    RulesAndGoalsObservationWrapper,
)

import jaxpg  # noqa: E402
from jaxpg.envs import spaces  # noqa: E402
from jaxpg.envs import xminigrid as adapter  # noqa: E402
from jaxpg.envs.conformance import check_env  # noqa: E402
from jaxpg.envs.spaces import Box, Discrete  # noqa: E402

LANES = 16


def near_a_ball():
    """The task of standing next to a red ball."""
    ball = TILES_REGISTRY[Tiles.BALL, Colors.RED]
    return RuleSet(goal=AgentNearGoal(tile=ball).encode(), rules=EmptyRule().encode()[None], init_tiles=ball[None])


# name -> limit and parameters. In each, both ends are seen.
PLAYED = {
    "MiniGrid-Empty-5x5": (60, lambda: {}),
    "MiniGrid-EmptyRandom-6x6": (80, lambda: {"view_size": 5}),
    "MiniGrid-DoorKey-5x5": (400, lambda: {}),
    "MiniGrid-MemoryS8": (80, lambda: {}),
    "MiniGrid-Unlock": (400, lambda: {}),
    "XLand-MiniGrid-R4-9x9": (150, lambda: {"ruleset": near_a_ball()}),
}


SLOW = ("MiniGrid-EmptyRandom-6x6",)


def random_actions(key, num_steps):
    return jax.random.randint(key, (LANES, num_steps), 0, 6)


def own_loop(env, params, key, actions):
    """First timesteps, and those of each step [lane, step], of xminigrid's own functions."""

    def step(timestep, action):
        timestep = env.step(params, timestep, action)
        return timestep, (timestep.observation, timestep.reward, timestep.step_type, timestep.discount)

    def episode(key, actions):
        timestep = env.reset(params, key)
        return timestep.observation, jax.lax.scan(step, timestep, actions)[1]

    return jax.jit(jax.vmap(episode))(jax.random.split(key, LANES), actions)


def adapted_loop(env, key, actions):
    def episode(key, actions):
        state, observation = env.reset(key)
        return observation, jax.lax.scan(lambda s, a: env.step(key, s, a), state, actions)[1]

    return jax.jit(jax.vmap(episode))(jax.random.split(key, LANES), actions)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PLAYED]
)
def test_episodes_are_those_of_xminigrid(name, key):
    limit, parameters = PLAYED[name][0], PLAYED[name][1]()
    theirs, params = xminigrid.make(name, max_steps=limit, **parameters)
    env = jaxpg.make(f"xminigrid/{name}", max_steps=limit, **parameters)
    actions = random_actions(key, limit)
    first, (observation, reward, step_type, discount) = jax.device_get(own_loop(theirs, params, key, actions))
    our_first, ours = jax.device_get(adapted_loop(env, key, actions))

    ended = step_type == 2
    live = np.cumsum(ended, axis=1) - ended == 0
    np.testing.assert_array_equal(first, our_first)
    np.testing.assert_array_equal(observation[live], ours.observation[live])
    np.testing.assert_array_equal(reward[live], ours.reward[live])
    np.testing.assert_array_equal((ended & (discount == 0))[live], ours.terminated[live])
    at_limit = np.arange(limit) == limit - 1
    np.testing.assert_array_equal(np.broadcast_to(at_limit, live.shape)[live], ours.truncated[live])

    assert ours.terminated[live].any() and (ours.truncated & ~ours.terminated)[live].any(), "both ends should be seen"
    assert 0 < ours.reward[live].max() <= 1
    inside = jax.vmap(jax.vmap(lambda value: spaces.contains(env.observation_space, value)))(ours.observation)
    assert np.asarray(inside).all()


def test_a_goal_at_the_limit_is_both(key):
    actions = random_actions(key, 60)
    _, ours = jax.device_get(adapted_loop(jaxpg.make("xminigrid/MiniGrid-Empty-5x5", max_steps=60), key, actions))
    lane, step = np.argwhere(ours.terminated)[0]
    env = jaxpg.make("xminigrid/MiniGrid-Empty-5x5", max_steps=int(step) + 1)
    _, ours = jax.device_get(adapted_loop(env, key, actions[:, : step + 1]))
    assert ours.terminated[lane, -1] and ours.truncated[lane, -1]
    assert not ours.terminated[:, -1].all() and ours.truncated[:, -1].all()
    assert ours.reward[lane, -1] == pytest.approx(0.1)  # 1 − 0.9 · limit / limit


def test_max_steps_may_be_longer_than_the_limit_of_the_suite(key):
    env = jaxpg.make("xminigrid/MiniGrid-Empty-5x5")
    assert env.max_steps == 100 == xminigrid.make("MiniGrid-Empty-5x5")[1].max_steps
    longer = adapter.from_xminigrid(*xminigrid.make("MiniGrid-Empty-5x5"), max_steps=103)
    assert longer.max_steps == 103 and longer.name == "Empty"
    _, ours = adapted_loop(longer, key, jnp.ones((LANES, 103), jnp.int32))  # Turning.
    np.testing.assert_array_equal(np.asarray(ours.truncated)[0], np.arange(103) == 102)


def test_spaces():
    env = jaxpg.make("xminigrid/MiniGrid-DoorKey-8x8")
    assert env.action_space == Discrete(6)
    assert env.observation_space == Box(0, np.broadcast_to([12, 11], (7, 7, 2)), (7, 7, 2), jnp.uint8)
    theirs, params = xminigrid.make("XLand-MiniGrid-R1-9x9", ruleset=near_a_ball())
    wrapped = RulesAndGoalsObservationWrapper(DirectionObservationWrapper(theirs))
    env = adapter.from_xminigrid(wrapped, params)
    assert env.name == "XLandMiniGrid"
    assert set(env.observation_space) == {"img", "direction", "goal_encoding", "rule_encoding"}
    assert env.observation_space["direction"] == Box(0, 1, (4,), jnp.float32)
    report = check_env(env, num_episodes=2, num_steps=10)
    assert report.passed, report


def test_initial_states_differ_by_key():
    env = jaxpg.make("xminigrid/MiniGrid-DoorKey-8x8")
    _, observation = jax.vmap(env.reset)(jax.random.split(jax.random.key(3), 16))
    assert len(np.unique(np.asarray(observation).reshape(16, -1), axis=0)) > 8
    raw = env.reset(jax.random.key_data(jax.random.key(3)))[1]
    np.testing.assert_array_equal(raw, env.reset(jax.random.key(3))[1])


def test_rulesets_may_be_mapped_over():
    theirs, params = xminigrid.make("XLand-MiniGrid-R1-9x9")
    ball, key = TILES_REGISTRY[Tiles.BALL, Colors.RED], TILES_REGISTRY[Tiles.KEY, Colors.BLUE]
    rulesets = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), near_a_ball(), near_a_ball().replace(init_tiles=key[None])
    )

    def first(ruleset):
        env = adapter.from_xminigrid(theirs, params.replace(ruleset=ruleset))
        return env.reset(jax.random.key(5))[0].state.grid

    grids = np.asarray(jax.jit(jax.vmap(first))(rulesets))
    for grid, tile in zip(grids, (ball, key), strict=True):
        assert (grid == np.asarray(tile)).all(-1).sum() == 1


def test_pictures():
    env = jaxpg.make("xminigrid/MiniGrid-Empty-5x5")
    state, _ = env.reset(jax.random.key(0))
    picture = env.render(state)
    assert picture.dtype == np.uint8 and picture.shape == (160, 160, 3) and picture.std() > 5
    after, _ = env.step(jax.random.key(1), state, jnp.asarray(0))
    assert (env.render(after) != picture).any()


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"no parameter 'view'.*view_size.*did you mean 'view_size'"):
        jaxpg.make("xminigrid/MiniGrid-Empty-5x5", view=3)
    with pytest.raises(ValueError, match=r"did you mean 'xminigrid/MiniGrid-Empty-5x5'"):
        jaxpg.make("xminigrid/MiniGrid-Emty-5x5")
    theirs, params = xminigrid.make("MiniGrid-Empty-5x5")
    with pytest.raises(ValueError, match="the episode limit is set by the argument max_steps"):
        adapter.make("MiniGrid-Empty-5x5", None, {"max_steps": 3})
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1"):
        adapter.from_xminigrid(theirs, params, max_steps=0)
    with pytest.raises(TypeError, match="must not reset itself.*GymAutoResetWrapper"):
        adapter.from_xminigrid(DirectionObservationWrapper(GymAutoResetWrapper(theirs)), params)
    with pytest.raises(TypeError, match="got a tuple: unpack"):
        adapter.from_xminigrid((theirs, params))
    with pytest.raises(TypeError, match="which lacks reset"):
        adapter.from_xminigrid(params)
    with pytest.raises(TypeError, match="the class and not an instance"):
        adapter.from_xminigrid(type(theirs))
    with pytest.raises(TypeError, match="params must be the EnvParams of this environment; got int"):
        adapter.from_xminigrid(theirs, 3)


def test_names():
    assert adapter.available() == xminigrid.registered_environments()
    assert "xminigrid/MiniGrid-DoorKey-5x5" in jaxpg.envs.available("xminigrid")


@pytest.mark.slow
@pytest.mark.parametrize("name", xminigrid.registered_environments())
def test_all_keep_their_promises(name, key):
    report = check_env(jaxpg.make(f"xminigrid/{name}"), key, num_episodes=4, num_steps=60)
    assert report.passed, report
