"""MuJoCo Playground's control suite, held against its own loop. Robots need models that are fetched: none here."""

import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("mujoco_playground")

import mujoco_playground as playground  # noqa: E402
from brax.envs.wrappers import training  # noqa: E402
from mujoco_playground._src.dm_control_suite import cartpole  # noqa: E402

import jaxpg  # noqa: E402
from jaxpg.envs import spaces  # noqa: E402
from jaxpg.envs.check import check_structure  # noqa: E402
from jaxpg.envs.mujoco_playground import available, from_mujoco_playground, make  # noqa: E402
from jaxpg.rollout import collect  # noqa: E402

SUITE = playground.dm_control_suite
HAS_IMPL = "impl" in SUITE.get_default_config("CartpoleBalance")
IN_JAX = {"impl": "jax"} if HAS_IMPL else {}  # Older versions have nothing else.
# Name, changes of the configuration, steps: whole episodes, of a length of ours for the slower ones.
CASES = (
    ("CartpoleBalance", {}, 1000),
    pytest.param("CartpoleSwingupSparse", {"ctrl_dt": 0.02}, 300, marks=pytest.mark.slow),
    ("PendulumSwingup", {}, 1000),
    ("ReacherEasy", {}, 300),
    pytest.param("PointMass", {}, 300, marks=pytest.mark.slow),
)
PLAYED = {case.values[0] if hasattr(case, "values") else case[0] for case in CASES}


class Leaving(cartpole.Balance):
    """An episode ends where the cart is 0.1 m off, which it may be from the start."""

    def step(self, state, action):
        after = super().step(state, action)
        return after.replace(done=(jnp.abs(after.data.qpos[0]) > 0.1).astype(float))


@pytest.fixture
def leaving():
    """The name of an environment that was registered with Playground and has a natural end."""

    def build(config, config_overrides=None):
        return Leaving(swing_up=False, sparse=False, config=config, config_overrides=config_overrides)

    SUITE.register_environment("Leaving", build, cartpole.default_config)
    yield "Leaving"
    del SUITE._envs["Leaving"], SUITE._cfgs["Leaving"]


def strong(state):
    """Arrays of fixed dtypes, in dicts of its own: environments write into those that they are given."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), state)


@pytest.mark.parametrize("name, changes, num_steps", CASES)
def test_steps_are_those_of_playground(name, changes, num_steps, key):
    """Along a whole episode of its: from each of its states we step to where it does."""
    suite = playground.registry.load(name, config_overrides={**changes, **IN_JAX})
    env = jaxpg.make(f"mujoco_playground/{name}", max_steps=num_steps, config_overrides=changes)
    own_reset, own_step = jax.jit(suite.reset), jax.jit(suite.step)
    assert (env.max_steps, env.name) == (num_steps, f"mujoco_playground/{name}")
    assert env.action_space == spaces.Box(-1.0, 1.0, (suite.action_size,))
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (suite.observation_size,))

    # Half of them beyond the bounds.
    actions = np.random.default_rng(0).uniform(-2.0, 2.0, (num_steps, suite.action_size)).astype(np.float32)
    own = strong(own_reset(jax.random.key_data(key)))
    state, observation = env.reset(key)
    np.testing.assert_allclose(observation, own.obs, rtol=1e-5, atol=1e-5)
    for t, action in enumerate(actions):
        before, own = own, strong(own_step(own, np.clip(action, -1.0, 1.0)))
        # At first from our own states, so that those are seen to be whole; small differences grow.
        state, timestep = env.step(key, state if t < 5 else before, action)
        np.testing.assert_allclose(timestep.observation, own.obs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(timestep.reward, own.reward, rtol=1e-3, atol=1e-3)
        assert not timestep.truncated and not timestep.terminated and not own.done
    for leaf, own_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(leaf, own_leaf, rtol=1e-2, atol=1e-2)


def test_what_is_loaded(key, monkeypatch):
    """In JAX unless something else is asked for, and with the limit that the environment may observe."""
    suite, calls = playground.registry.load("PointMass", config_overrides=IN_JAX), []
    monkeypatch.setattr(playground.registry, "load", lambda *args, **kwargs: calls.append((args, kwargs)) or suite)
    make("PointMass", 7, {"config_overrides": {"sim_dt": 0.01}, "ctrl_dt": 0.05})
    overrides = {**IN_JAX, "sim_dt": 0.01, "ctrl_dt": 0.05, "episode_length": 7}
    assert calls.pop() == (("PointMass",), {"config": None, "config_overrides": overrides})
    make("PointMass", None, {})
    assert calls.pop()[1]["config_overrides"] == IN_JAX
    config = SUITE.get_default_config("PointMass")
    make("PointMass", None, {"config": config})
    assert calls.pop()[1] == {"config": config, "config_overrides": {}}
    if HAS_IMPL:
        make("PointMass", None, {"impl": "warp"})
        assert calls.pop()[1]["config_overrides"] == {"impl": "warp"}


def test_the_limit_truncates_and_an_end_terminates(leaving, key):
    """In played episodes: flags and last observations are those of the wrapper that counts steps, without a reset."""
    limit, num_episodes = 12, 64
    env = jaxpg.make(f"mujoco_playground/{leaving}", max_steps=limit)
    policy = jaxpg.policies.mlp(env)
    params = policy.init(key)
    play = jax.jit(lambda key: collect(env, policy, params, key, num_episodes=num_episodes, num_lanes=num_episodes))
    rows, episodes = play(key)
    counted = training.EpisodeWrapper(playground.registry.load(leaving, config_overrides=IN_JAX), limit, 1)

    def own(episode, actions):
        def step(state, action):
            state = strong(counted.step(strong(state), jnp.clip(action, -1.0, 1.0)))
            return state, (state.obs, state.done, state.info["truncation"])

        first = jax.random.fold_in(jax.random.fold_in(key, episode), 0)  # As jaxpg.lanes names it.
        state = strong(counted.reset(jax.random.key_data(first)))
        return state.obs, jax.lax.scan(step, state, actions)[1]

    map_own = jax.jit(jax.vmap(own, in_axes=(0, 1), out_axes=(0, 1)))
    first, played = map_own(jnp.arange(num_episodes), rows.action[:limit])
    np.testing.assert_allclose(rows.observation[0], first, atol=1e-6)
    kinds = set()
    for lane in range(num_episodes):  # One episode each.
        length = int(episodes.length[lane])
        last = length - 1
        observation, done, truncation = (np.asarray(x)[:length, lane] for x in played)
        assert not done[:last].any() and done[last]
        flags = bool(rows.terminated[last, lane]), bool(rows.truncated[last, lane])
        assert flags == (not truncation[last], bool(truncation[last]))
        kinds.add((flags, length == limit))
        np.testing.assert_allclose(rows.observation[1:length, lane], observation[:last], atol=1e-4)
        if flags[1]:
            assert not rows.valid[length, lane]  # The row that holds where the last step led.
            np.testing.assert_allclose(rows.observation[length, lane], observation[last], atol=1e-4)
    # Ends before the limit and at the very step of it, and time that was up.
    assert kinds == {((True, False), False), ((True, False), True), ((False, True), True)}


def test_numbers_that_are_not_finite_terminate(key):
    env = jaxpg.make("mujoco_playground/PendulumSwingup")
    state, _ = env.reset(key)
    broken = state.replace(data=state.data.replace(qpos=state.data.qpos * jnp.nan))
    _, timestep = jax.jit(env.step)(key, broken, jnp.zeros(1))
    assert timestep.terminated and not timestep.truncated


def test_limits():
    assert jaxpg.make("mujoco_playground/CartpoleBalance").max_steps == 1000
    assert jaxpg.make("mujoco_playground/CartpoleBalance", max_steps=5000).max_steps == 5000
    short = playground.registry.load("CartpoleBalance", config_overrides={**IN_JAX, "episode_length": 77})
    assert from_mujoco_playground(short).max_steps == 77
    assert from_mujoco_playground(short, max_steps=8, name="short").max_steps == 8


def test_a_configuration_of_ones_own():
    config = SUITE.get_default_config("CartpoleBalance")
    config.update({**IN_JAX, "episode_length": 33, "ctrl_dt": 0.05})
    env = jaxpg.make("mujoco_playground/CartpoleBalance", config=config)
    assert env.max_steps == 33
    assert jaxpg.make("mujoco_playground/CartpoleBalance", config=config, max_steps=44).max_steps == 44
    assert config.episode_length == 33
    state, _ = env.reset(jax.random.key(0))
    after, _ = env.step(jax.random.key(0), state, jnp.zeros(1))
    np.testing.assert_allclose(after.data.time - state.data.time, 0.05, rtol=1e-5)
    assert jaxpg.make("mujoco_playground/PointMass") is jaxpg.make("mujoco_playground/PointMass")


def test_initial_states_are_fresh(key):
    env = jaxpg.make("mujoco_playground/PendulumSwingup", max_steps=2)
    policy = jaxpg.policies.mlp(env)
    params = policy.init(key)
    rows, _ = jax.jit(lambda key: collect(env, policy, params, key, num_episodes=16, num_lanes=4))(key)
    firsts = np.asarray(rows.observation)[np.asarray(rows.valid & (rows.time == 0))]
    assert len(firsts) == 16 == len({each.tobytes() for each in firsts})


def test_a_step_leaves_its_state_alone(key):
    """Playground writes into the dict of metrics that it is given."""
    env = jaxpg.make("mujoco_playground/CartpoleBalance")
    state, _ = env.reset(key)
    metrics = dict(state.metrics)
    env.step(key, state, jnp.ones(1))
    assert metrics and all(state.metrics[name] is value for name, value in metrics.items())


def test_in_64_bits(x64, key):
    env = jaxpg.make("mujoco_playground/PendulumSwingup")
    check_structure(env)
    state, observation = jax.jit(env.reset)(key)
    _, timestep = jax.jit(env.step)(key, state, jnp.zeros(1))
    assert timestep.reward.dtype == jnp.float64 and observation.dtype == timestep.observation.dtype


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SUITE.ALL_ENVS if name not in PLAYED])
def test_the_others_can_be_played(name, key):
    env = make(name, None, {})
    check_structure(env)
    state, _ = jax.jit(env.reset)(key)
    _, timestep = jax.jit(env.step)(key, state, jnp.zeros(env.action_space.shape))
    assert bool(spaces.contains(env.observation_space, timestep.observation))
    assert np.isfinite(timestep.reward) and not timestep.terminated


def test_names_are_those_that_playground_has(leaving):
    names = available()
    missing = {*playground.registry.ALL_ENVS, leaving} - set(names)
    assert missing <= {"LeapCubeReorient", "PandaRobotiqPushCube"}
    for name in missing:
        with pytest.raises(ValueError, match=f"{name}' is not offered: it calls jax.numpy.clip with a_max"):
            jaxpg.make(f"mujoco_playground/{name}")
    assert jaxpg.envs.available("mujoco_playground") == [f"mujoco_playground/{name}" for name in names]


def test_models_that_cannot_be_fetched(monkeypatch):
    """Names are listed all the same; the error says what to do."""

    def load(*_, **__):
        raise subprocess.CalledProcessError(128, ["git", "clone"])

    monkeypatch.setattr(playground.registry, "load", load)
    assert "Go1Getup" in available()
    with pytest.raises(OSError, match="Go1Getup needs the robots of MuJoCo Menagerie.*git.*put a copy"):
        jaxpg.make("mujoco_playground/Go1Getup")


CARTPOLE = "mujoco_playground/CartpoleBalance"


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: jaxpg.make("mujoco_playground/Cartpole"), ValueError, "mean.*'mujoco_playground/CartpoleBalance'"),
        (lambda: jaxpg.make(CARTPOLE, ctl_dt=0.1), ValueError, "no parameter 'ctl_dt'; it has config, .*'ctrl_dt'"),
        (lambda: jaxpg.make(CARTPOLE, config_overrides={"ctl_dt": 0.1}), ValueError, "the configuration of.*'ctl_dt'"),
        (lambda: jaxpg.make(CARTPOLE, episode_length=3), ValueError, "limit is set by max_steps, not by episode_len"),
        (lambda: jaxpg.make(CARTPOLE, max_steps=0), ValueError, "max_steps must be an integer of at least 1"),
        (lambda: from_mujoco_playground(SUITE._envs["PendulumSwingup"]), TypeError, "the class and not an instance"),
        (lambda: from_mujoco_playground("PointMass"), TypeError, "of mujoco_playground; got 'PointMass', which lacks"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_wrappers_of_training_are_refused():
    raw = playground.registry.load("CartpoleBalance", config_overrides=IN_JAX)
    wrapped = playground.wrapper.wrap_for_brax_training(raw)
    with pytest.raises(ValueError, match="got one in a BraxAutoResetWrapper: pass env.unwrapped"):
        from_mujoco_playground(wrapped)
    for inner in (wrapped.env, wrapped.env.env):
        with pytest.raises(ValueError, match="got one in a (EpisodeWrapper|VmapWrapper)"):
            from_mujoco_playground(inner)
    assert from_mujoco_playground(wrapped.unwrapped).name == "Balance"
    assert from_mujoco_playground(playground.wrapper.Wrapper(raw)).max_steps == 1000


HAS_OPENGL = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>')).render()"
DRAW = """
    import jax, numpy as np
    import jaxpg
    import mujoco_playground

    env = jaxpg.make("mujoco_playground/CartpoleBalance")
    reset = jax.jit(env.reset)
    (state, _), (other, _) = reset(jax.random.key(0)), reset(jax.random.key(1))
    picture = env.render(state)
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8 and isinstance(picture, np.ndarray)
    assert picture.std() > 1 and (env.render(other) != picture).any()
    suite = mujoco_playground.registry.load("CartpoleBalance", config_overrides=OVERRIDES)
    np.testing.assert_array_equal(env.render(state), suite.render([state])[0])
    print("drawn")
"""


def test_pictures(run_in_subprocess):
    for backend in ("egl", "osmesa"):
        try:
            run_in_subprocess(HAS_OPENGL, env={"MUJOCO_GL": backend})
        except pytest.fail.Exception:
            continue
        assert "drawn" in run_in_subprocess(DRAW.replace("OVERRIDES", str(IN_JAX)), env={"MUJOCO_GL": backend})
        return
    pytest.skip("no OpenGL")
