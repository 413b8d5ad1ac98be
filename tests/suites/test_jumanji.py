"""Jumanji through the adapter against jumanji's own loop: the same keys and actions, whole episodes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

jumanji = pytest.importorskip("jumanji")

from jumanji.environments.routing.maze.generator import RandomGenerator  # noqa: E402

import jaxpg  # noqa: E402
from jaxpg.envs import jumanji as adapter  # noqa: E402
from jaxpg.envs import spaces  # noqa: E402
from jaxpg.envs._jumanji_spaces import action_coding  # noqa: E402
from jaxpg.envs.check import check_structure  # noqa: E402
from jaxpg.envs.conformance import check_env  # noqa: E402
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete  # noqa: E402

LANES = 8
FAR = 100_000

# name, constructor arguments, limit, steps played. In each, episodes end in one way or another.
PLAYED = {
    "Snake-v1": ({"num_rows": 4, "num_cols": 4}, 30, 30),
    "Game2048-v1": ({"board_size": 3}, None, 150),
    "Maze-v0": ({"generator": RandomGenerator(num_rows=5, num_cols=5)}, 20, 20),
    "Tetris-v0": ({"num_cols": 5}, 14, 14),
    "Minesweeper-v0": ({}, None, 60),
    "Connector-v3": ({}, 26, 26),
    "Cleaner-v0": ({}, 12, 12),
    "LevelBasedForaging-v0": ({}, 60, 60),
    "SearchAndRescue-v0": ({"target_contact_range": 0.3}, 12, 12),
    "RubiksCube-partly-scrambled-v0": ({}, 20, 20),
    "MultiCVRP-v0": ({}, None, 41),
    "TSP-v1": ({}, None, 20),
}
SLOW = ("LevelBasedForaging-v0", "RubiksCube-partly-scrambled-v0")
SPARSE = SLOW  # Random actions earn nothing there.
JOINT = {"Tetris-v0": (4, 5), "Minesweeper-v0": (10, 10)}


def with_limit(arguments, limit):
    return arguments if limit is None else {**arguments, "time_limit": limit}


def legal_action(env, observation, key):
    """A random action that jumanji's own mask allows, in jumanji's form."""
    mask = getattr(observation, "action_mask", None)
    if mask is None:
        return (
            jax.random.uniform(key, env.action_spec.shape, minval=-1.0)
            if env.action_spec.dtype.kind == "f"
            else (jax.random.randint(key, env.action_spec.shape, 0, env.action_spec.num_values))
        )
    if env.action_spec.shape and mask.shape == tuple(np.asarray(getattr(env.action_spec, "num_values", []))):
        index = jax.random.categorical(key, jnp.where(mask.reshape(-1), 0.0, -jnp.inf))
        return jnp.stack(jnp.unravel_index(index, mask.shape)).astype(env.action_spec.dtype)
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf)).astype(env.action_spec.dtype)


def own_loop(env, key, num_steps):
    """First timestep, and (timesteps, actions) [lane, step] of jumanji's own functions."""

    def step(carry, key):
        state, observation = carry
        action = legal_action(env, observation, key)
        state, timestep = env.step(state, action)
        return (state, timestep.observation), (timestep, action)

    def episode(key):
        state, timestep = env.reset(key)
        _, played = jax.lax.scan(step, (state, timestep.observation), jax.random.split(key, num_steps))
        return timestep, played

    return jax.jit(jax.vmap(episode))(jax.random.split(key, LANES))


def adapted_loop(env, key, actions):
    """First observation and timesteps [lane, step] of the adapter."""

    def episode(key, actions):
        state, observation = env.reset(key)
        return observation, jax.lax.scan(lambda s, a: env.step(key, s, a), state, actions)[1]

    return jax.jit(jax.vmap(episode))(jax.random.split(key, LANES), actions)


def plain(observation):
    """{path: array} of an observation of jumanji (named tuples, dataclasses) or of the adapter (dicts)."""
    if isinstance(observation, dict):
        parts = observation.items()
    elif hasattr(observation, "_fields"):
        parts = zip(observation._fields, observation, strict=True)
    elif dataclasses.is_dataclass(observation):
        parts = ((field.name, getattr(observation, field.name)) for field in dataclasses.fields(observation))
    else:
        return {"": np.asarray(observation)}
    return {f"{name}.{path}": leaf for name, part in parts for path, leaf in plain(part).items()}


def played(name, key, limit="its own", steps=None):
    """The same episodes by jumanji and by the adapter, up to the end that jumanji tells."""
    arguments, own_limit, num_steps = PLAYED[name]
    limit = own_limit if limit == "its own" else limit
    theirs = jumanji.make(name, **with_limit(arguments, limit))
    first, (timesteps, actions) = own_loop(theirs, key, steps or num_steps)
    env = jaxpg.make(f"jumanji/{name}", max_steps=limit, **arguments)
    if name in JOINT:
        actions = jnp.stack([jnp.ravel_multi_index(tuple(action.T), JOINT[name], mode="clip") for action in actions])
    ours = adapted_loop(env, key, actions)
    ended = np.asarray(timesteps.step_type == 2)
    live = np.cumsum(ended, axis=1) - ended == 0  # Up to the end of the first episode, its last step included.
    return env, theirs, (first, timesteps), ours, live, ended & live


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PLAYED]
)
def test_episodes_are_those_of_jumanji(name, key):
    arguments, limit, num_steps = PLAYED[name]
    env, theirs, (first, timesteps), (observation, ours), live, ended = played(name, key)
    check_structure(env)
    assert ended.any(), "the test should see an end"

    for expected, given, where in (
        (first.observation, observation, slice(None)),
        (timesteps.observation, ours.observation, live),
    ):
        expected, given = plain(expected), plain(given)
        assert expected.keys() == given.keys()
        for path in expected:
            if path == "action_mask.":
                rows = expected[path].reshape(*given[path].shape[:-1], -1)
                nothing = ~choices(env, rows).any(-1, keepdims=True)
                rows = (choices(env, rows) | nothing).reshape(rows.shape)
                np.testing.assert_array_equal(rows[where], given[path][where])
            else:
                np.testing.assert_allclose(
                    expected[path][where], given[path][where], rtol=1e-6, atol=1e-6, err_msg=path
                )

    rewards = np.asarray(timesteps.reward)
    rewards = rewards.sum(-1) if rewards.ndim == 3 else rewards
    np.testing.assert_allclose(np.asarray(ours.reward)[live], rewards[live], rtol=1e-6)
    assert np.abs(rewards[live]).max() > 0 or name in SPARSE

    # The limit is told apart from the natural end by playing with a limit that is never reached.
    natural = ended
    if limit is not None:
        unlimited = jumanji.make(name, **with_limit(arguments, FAR))
        _, (further, _) = own_loop(unlimited, key, num_steps)
        natural = np.asarray(further.step_type == 2) & live
    at_limit = np.zeros_like(ended)
    if limit is not None:
        at_limit[:, limit - 1] = live[:, limit - 1]
    np.testing.assert_array_equal(np.asarray(ours.terminated)[live], natural[live])
    np.testing.assert_array_equal(np.asarray(ours.truncated)[live], at_limit[live])
    inside = jax.vmap(jax.vmap(lambda value: spaces.contains(env.observation_space, value)))(ours.observation)
    assert np.asarray(inside)[live].all()


def choices(env, mask):
    count = len(env.action_space.nvec) if isinstance(env.action_space, MultiDiscrete) else 1
    return mask.reshape(*mask.shape[:-1], count, -1)


def test_both_ends_are_seen(key):
    """The episodes above have natural ends and limits: otherwise they would prove little."""
    _, _, _, (_, ours), live, _ = played("Maze-v0", key)
    assert (np.asarray(ours.terminated) & live).any() and (np.asarray(ours.truncated) & live).any()


def test_a_natural_end_at_the_limit_is_both(key):
    _, _, _, _, _, ended = played("Maze-v0", key)
    length = min(int(step) + 1 for _, step in np.argwhere(ended) if step + 1 < 20)
    _, _, _, (_, ours), live, _ = played("Maze-v0", key, limit=length)
    last = np.asarray(ours.terminated)[:, length - 1] & live[:, length - 1]
    assert last.any() and not last.all()
    assert np.asarray(ours.truncated)[:, length - 1][live[:, length - 1]].all()


def test_max_steps_may_be_longer_than_the_limit_of_the_suite(key):
    small = RandomGenerator(num_rows=5, num_cols=5)
    theirs = jumanji.make("Maze-v0", generator=small)
    assert theirs.time_limit == 25
    for env in (
        jaxpg.make("jumanji/Maze-v0", max_steps=28, generator=small),
        adapter.from_jumanji(theirs, max_steps=28),
    ):
        assert env.max_steps == 28 and env.observation_space["step_count"] == Box(0, 28, (), jnp.int32)
        _, ours = adapted_loop(env, key, jnp.zeros((LANES, 28), jnp.int32))  # Up, into the wall.
        goes_on = ~np.asarray(ours.terminated).any(axis=1)
        assert goes_on.any()
        np.testing.assert_array_equal(np.asarray(ours.truncated)[goes_on][0], np.arange(28) == 27)
    assert env.name == "Maze" and jaxpg.make("jumanji/Maze-v0").max_steps == 100
    assert theirs.time_limit == 25


def test_initial_states_differ_by_key():
    env = jaxpg.make("jumanji/Snake-v1")
    _, observation = jax.vmap(env.reset)(jax.random.split(jax.random.key(3), 16))
    assert len(np.unique(np.asarray(observation["grid"]).reshape(16, -1), axis=0)) > 8
    raw = env.reset(jax.random.key_data(jax.random.key(3)))[1]
    np.testing.assert_array_equal(raw["grid"], env.reset(jax.random.key(3))[1]["grid"])


def test_action_spaces_fit_their_masks():
    made = {name: jaxpg.make(f"jumanji/{name}") for name in ("FlatPack-v0", "MultiCVRP-v0", "Maze-v0", "RubiksCube-v0")}
    assert made["FlatPack-v0"].action_space == Discrete(25 * 4 * 9 * 9)
    assert made["FlatPack-v0"].observation_space["action_mask"] == Box(0, 1, (8_100,), jnp.bool_)
    assert made["MultiCVRP-v0"].action_space == MultiDiscrete((21, 21), jnp.int16)
    assert made["MultiCVRP-v0"].observation_space["action_mask"].shape == (42,)
    assert made["Maze-v0"].action_space == Discrete(4)
    assert made["RubiksCube-v0"].action_space == MultiDiscrete((6, 1, 3))
    assert "action_mask" not in made["RubiksCube-v0"].observation_space
    assert jaxpg.make("jumanji/SearchAndRescue-v0").action_space == Box(-1, 1, (2, 2), jnp.float32)
    for env in made.values():
        jaxpg.policies.mlp(env)  # It refuses masks that do not fit.


def test_too_many_joint_actions_keep_their_form():
    spec = jumanji.specs.MultiDiscreteArray(jnp.array([200, 100]))
    coding = action_coding(spec, (200, 100))
    assert coding.space == MultiDiscrete((200, 100))
    observed = coding.with_mask({"board": 1, "action_mask": jnp.ones((200, 100), bool)})
    assert set(observed) == {"board", "joint_action_mask"} and observed["joint_action_mask"].shape == (200, 100)


def test_a_mask_without_any_legal_action_has_them_all(key):
    """FlatPack goes on when nothing fits any more."""
    env = jaxpg.make("jumanji/FlatPack-v0")
    report = check_env(env, key, num_episodes=4)
    assert report.passed, report
    assert env.max_steps == 25


@pytest.mark.parametrize("name", ["Snake-v1", "RubiksCube-v0", "Connector-v3"])
def test_pictures(name):
    env = jaxpg.make(f"jumanji/{name}")
    import matplotlib
    from matplotlib import pyplot

    before, figures = matplotlib.get_backend(), pyplot.get_fignums()
    state, _ = env.reset(jax.random.key(0))
    picture = env.render(state)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert picture.std() > 5
    after, _ = env.step(jax.random.key(1), state, spaces.sample(env.action_space, jax.random.key(2)))
    assert (env.render(after) != picture).any()
    assert matplotlib.get_backend() == before and pyplot.get_fignums() == figures


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"Snake-v1 has no parameter 'num_row'.*num_rows.*did you mean 'num_rows'"):
        jaxpg.make("jumanji/Snake-v1", num_row=3)
    with pytest.raises(ValueError, match="set by max_steps, not by time_limit"):
        jaxpg.make("jumanji/Snake-v1", time_limit=3)
    with pytest.raises(ValueError, match=r"did you mean 'jumanji/Snake-v1'"):
        jaxpg.make("jumanji/Snek-v1")
    with pytest.raises(ValueError, match="Sokoban-v0' is not offered: it downloads"):
        jaxpg.make("jumanji/Sokoban-v0")
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1"):
        adapter.from_jumanji(jumanji.make("Maze-v0"), max_steps=0)
    with pytest.raises(ValueError, match="70 steps that the state of MMST has room for.*time_limit=71"):
        adapter.from_jumanji(jumanji.make("MMST-v0"), max_steps=71)
    with pytest.raises(TypeError, match="without wrappers.*AutoResetWrapper"):
        adapter.from_jumanji(jumanji.wrappers.AutoResetWrapper(jumanji.make("Maze-v0")))
    with pytest.raises(TypeError, match="must be an environment of jumanji; got int"):
        adapter.from_jumanji(3)


def test_names():
    names = adapter.available()
    assert set(names) == jumanji.registered_environments() - {"Sokoban-v0"}
    assert "jumanji/Snake-v1" in jaxpg.envs.available("jumanji")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(jumanji.registered_environments() - {"Sokoban-v0"}))
def test_all_keep_their_promises(name, key):
    report = check_env(jaxpg.make(f"jumanji/{name}"), key, num_episodes=4, num_steps=60)
    assert report.passed, report
