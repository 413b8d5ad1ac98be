"""Craftax, held against craftax's own loop."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

craftax = pytest.importorskip("craftax")

import jaxpg  # noqa: E402
from jaxpg.envs import spaces  # noqa: E402
from jaxpg.envs.craftax import _built, available, from_craftax  # noqa: E402

CLASSIC = "Craftax-Classic-Symbolic-v1"
FULL = "Craftax-Symbolic-v1"
LANES = 4


@functools.partial(jax.jit, static_argnums=(0, 3))
def own_loop(env, params, key, num_steps):
    """craftax's observations, rewards, dones and states under random actions, [step, lane]; no auto-reset."""

    def lane(key):
        def step(state, key):
            action = jax.random.randint(key, (), 0, env.num_actions)
            observation, state, reward, done, _ = env.step(jax.random.fold_in(key, 1), state, action, params)
            return state, (observation, reward, done, state.player_health, action)

        observation, state = env.reset(jax.random.fold_in(key, 0), params)
        return observation, jax.lax.scan(step, state, jax.random.split(key, num_steps))[1]

    return jax.vmap(lane, out_axes=(0, 1))(jax.random.split(key, LANES))


@functools.partial(jax.jit, static_argnums=0)
def our_loop(env, key, actions):
    """The same through the adapter: the first observation, timesteps and achievements [step, lane]."""

    def lane(key, actions):
        def step(state, inputs):
            key, action = inputs
            state, timestep = env.step(jax.random.fold_in(key, 1), state, action)
            return state, (timestep, state.achievements)

        state, observation = env.reset(jax.random.fold_in(key, 0))
        return observation, jax.lax.scan(step, state, (jax.random.split(key, len(actions)), actions))[1]

    return jax.vmap(lane, in_axes=(0, 1), out_axes=(0, 1))(jax.random.split(key, LANES), actions)


def compare(name, key, num_steps, limit):
    """Both loops, with the limit in craftax's own parameters; returns ours until the episodes' ends."""
    env = _built(name)
    first, (observation, reward, done, health, actions) = own_loop(
        env, env.default_params.replace(max_timesteps=limit), key, num_steps
    )
    ours, (steps, achievements) = our_loop(jaxpg.make(f"craftax/{name}", max_steps=limit), key, actions)
    lived = np.cumsum(done, axis=0) - done == 0
    # The two programs round the light of the day differently.
    np.testing.assert_allclose(ours, first, atol=1e-6)
    np.testing.assert_allclose(steps.observation[lived], observation[lived], atol=1e-6)
    np.testing.assert_allclose(steps.reward[lived], reward[lived], atol=1e-6)
    np.testing.assert_array_equal((steps.terminated | steps.truncated)[lived], done[lived])
    time = np.broadcast_to(np.arange(1, num_steps + 1)[:, None], lived.shape)
    np.testing.assert_array_equal(steps.truncated[lived], time[lived] >= limit)
    assert reward[lived].any() and done.any(axis=0).all()
    return steps, np.asarray(health), lived, np.asarray(achievements)


def test_names():
    assert jaxpg.envs.available("craftax") == [f"craftax/{name}" for name in available()]
    assert len(available()) == 4


def test_whole_episodes_of_classic(key):
    """Until all have died, and with a limit that cuts some."""
    steps, health, lived, achievements = compare(CLASSIC, key, 500, 10_000)
    assert steps.terminated[lived].sum() == LANES and not steps.truncated.any()
    dead = health <= 0  # Random play does not reach lava.
    np.testing.assert_array_equal(steps.terminated[lived], dead[lived])
    assert achievements[lived].any()
    assert jax.vmap(jax.vmap(lambda value: spaces.contains(jaxpg.make(f"craftax/{CLASSIC}").observation_space, value)))(
        steps.observation
    ).all()

    lengths = lived.sum(axis=0)
    cut = int(np.sort(lengths)[1])  # One dies before, one at the very step, the others are cut.
    steps, _, lived, _ = compare(CLASSIC, key, 500, cut)
    np.testing.assert_array_equal(np.asarray(steps.terminated & lived).any(axis=0), lengths <= cut)
    np.testing.assert_array_equal(np.asarray(steps.truncated[cut - 1] & lived[cut - 1]), lengths >= cut)
    both = np.asarray(steps.terminated & steps.truncated) & lived
    assert both[cut - 1].sum() == 1 and both.sum() == 1


@pytest.mark.slow
def test_whole_episodes_of_craftax(key):
    steps, health, lived, _ = compare(FULL, key, 600, 550)
    np.testing.assert_array_equal(steps.terminated[lived], health[lived] <= 0)
    assert steps.terminated[lived].any()


@pytest.mark.slow
def test_pixels(key):
    name = "Craftax-Classic-Pixels-v1"
    steps, *_ = compare(name, key, 8, 8)
    env = jaxpg.make(f"craftax/{name}")
    assert jax.vmap(jax.vmap(lambda value: spaces.contains(env.observation_space, value)))(steps.observation).all()
    assert env.observation_space.shape == (63, 63, 3) and float(steps.observation.std()) > 0.1


def test_limits(key):
    assert jaxpg.make(f"craftax/{CLASSIC}").max_steps == 10_000
    assert jaxpg.make(f"craftax/{FULL}").max_steps == 100_000
    env = _built(CLASSIC)
    assert from_craftax(env, env.default_params.replace(max_timesteps=9)).max_steps == 9
    # A longer limit than craftax's own, from a state that is nearly there.
    for limit, flags in ((10_000, (False, True)), (10_001, (False, False))):
        env = jaxpg.make(f"craftax/{CLASSIC}", max_steps=limit)
        state, _ = jax.jit(env.reset)(key)
        _, timestep = jax.jit(env.step)(key, state.replace(timestep=jnp.int32(9_999)), 0)
        assert (bool(timestep.terminated), bool(timestep.truncated)) == flags


def test_lava_terminates(key):
    """Classic's own rule; the true last observation is given, not that of a new world."""
    env = jaxpg.make(f"craftax/{CLASSIC}")
    state, _ = jax.jit(env.reset)(key)
    lava = state.replace(map=jnp.full_like(state.map, 14))
    after, timestep = jax.jit(env.step)(key, lava, 0)
    assert bool(timestep.terminated) and not bool(timestep.truncated)
    assert int(after.timestep) == 1
    np.testing.assert_array_equal(timestep.observation, _built(CLASSIC).get_obs(after))


def test_a_policy_plays_to_the_limit(key):
    """States hold their key as numbers, as rollouts of many episodes need them."""
    env = jaxpg.make(f"craftax/{CLASSIC}", max_steps=6)
    policy = jaxpg.policies.mlp(env, hidden_sizes=(8,))
    scores = jaxpg.evaluate(key, env, policy, policy.init(key), num_episodes=5, num_lanes=2)
    assert (scores.lengths == 6).all()
    assert env.reset(key)[0].state_rng.dtype == jnp.uint32


def test_initial_states_are_fresh(key):
    _, observations = jax.jit(jax.vmap(jaxpg.make(f"craftax/{CLASSIC}").reset))(jax.random.split(key, 8))
    assert len({np.asarray(each).tobytes() for each in observations}) == 8


def test_parameters(key):
    """Of both kinds; numbers may be traced."""
    env = jaxpg.make(f"craftax/{CLASSIC}", zombie_health=7, map_size=[32, 32], max_cows=2)
    state, _ = jax.jit(env.reset)(key)
    assert state.map.shape == (32, 32) and state.cows.mask.shape == (2,)
    assert env is not jaxpg.make(f"craftax/{CLASSIC}")

    @jax.jit
    def cow_health(health):
        return jaxpg.make(f"craftax/{CLASSIC}", cow_health=health).reset(key)[0].cows.health

    assert (np.asarray(cow_health(6)) == 6).all() and (np.asarray(cow_health(2)) == 2).all()
    with pytest.raises(ValueError, match="the episode limit is set by max_steps, not by max_timesteps"):
        jaxpg.make(f"craftax/{CLASSIC}", max_timesteps=100)
    with pytest.raises(ValueError, match="has no parameter 'zombi_health'; it has .*; did you mean 'zombie_health'"):
        jaxpg.make(f"craftax/{CLASSIC}", zombi_health=1)
    with pytest.raises(TypeError, match="always_diamond must be True or False; got int"):
        jaxpg.make(f"craftax/{CLASSIC}", always_diamond=1)
    with pytest.raises(TypeError, match="map_size must be 2 integers; got 32"):
        jaxpg.make(f"craftax/{CLASSIC}", map_size=32)
    with pytest.raises(TypeError, match="fractal_noise_angles must be a tuple of 4"):
        jaxpg.make(f"craftax/{CLASSIC}", fractal_noise_angles=(1,))
    with pytest.raises(ValueError, match="zombie_health must be .* got -1"):
        jaxpg.make(f"craftax/{CLASSIC}", zombie_health=-1)


def test_errors():
    with pytest.raises(ValueError, match=r"name must be one of .*got 'craftax/Craftax-Classic-v1'; did you mean"):
        jaxpg.make("craftax/Craftax-Classic-v1")
    with pytest.raises(TypeError, match="craftax_env must be an environment of craftax; got 'Craftax', which lacks"):
        from_craftax("Craftax")
    env = _built(CLASSIC)
    with pytest.raises(TypeError, match="got the class CraftaxClassicSymbolicEnv"):
        from_craftax(type(env))
    with pytest.raises(TypeError, match="craftax_params must be the .*EnvParams of this environment; got dict"):
        from_craftax(env, {})
    with pytest.raises(ValueError, match="max_steps must be an integer of at least 1; got 0"):
        jaxpg.make(f"craftax/{CLASSIC}", max_steps=0)


def test_pictures_are_drawn_and_nothing_is_written(key):
    folder = pathlib.Path(craftax.__file__).parent
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    env = jaxpg.make(f"craftax/{CLASSIC}")
    state, _ = jax.jit(env.reset)(key)
    picture = env.render(state)
    assert picture.dtype == np.uint8 and picture.shape == (288, 288, 3)
    assert picture.std() > 10
    # The player stands in the middle of the 9 x 7 cells that are seen; elsewhere the map does not change by a turn.
    turned = env.render(state.replace(player_direction=jnp.int32(1)))
    changed = (turned != picture).any(axis=2)
    assert changed.any() and not changed[:96].any() and not changed[128:].any() and not changed[:, :128].any()
    assert {path for path in folder.rglob("*") if "__pycache__" not in path.parts} == before


@pytest.mark.slow
def test_64_bits(run_in_subprocess):
    """In a process of its own: craftax's modules hold arrays that are made when they are imported."""
    code = """
        import jax, jax.numpy as jnp, jaxpg
        for name in ("Craftax-Symbolic-v1", "Craftax-Classic-Pixels-v1"):
            env = jaxpg.make(f"craftax/{name}")
            state, _ = jax.eval_shape(env.reset, jax.random.key(0))
            _, timestep = jax.eval_shape(env.step, jax.random.key(0), state, 0)
            print(timestep.reward.dtype, timestep.observation.dtype, state.map.dtype, state.player_hunger.dtype)
    """
    printed = run_in_subprocess(code, env={"JAX_ENABLE_X64": "1"})
    assert printed.split("\n")[:2] == ["float64 float64 int32 float32"] * 2


def test_import_does_not_import_craftax(run_in_subprocess):
    code = """
        import sys, jaxpg.envs.craftax, jaxpg.envs.pgx
        print({"craftax", "pgx", "imageio"} & set(sys.modules))
    """
    assert run_in_subprocess(code).strip() == "set()"
