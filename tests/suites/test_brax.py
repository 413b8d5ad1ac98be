"""brax's environments, held against brax's own loop."""

import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("brax")

import brax.envs as brax_envs  # noqa: E402
from brax.envs.wrappers import training  # noqa: E402

import jaxpg  # noqa: E402
from jaxpg.envs import spaces  # noqa: E402
from jaxpg.envs.brax import available, from_brax, make  # noqa: E402
from jaxpg.envs.check import check_structure  # noqa: E402
from jaxpg.rollout import collect  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Brax System")  # brax warns of itself.
# Name, parameters, steps, and whether random actions end it within them.
CASES = (
    ("inverted_pendulum", {}, 200, True),
    pytest.param("inverted_pendulum", {"backend": "mjx"}, 200, True, marks=pytest.mark.slow),
    ("inverted_double_pendulum", {"backend": "spring"}, 100, True),
    ("hopper", {"backend": "spring", "reset_noise_scale": 0.02}, 300, True),
    ("halfcheetah", {"backend": "spring", "ctrl_cost_weight": 0.5}, 1000, False),
    ("ant", {"backend": "spring", "healthy_z_range": (0.1, 2.0)}, 1000, True),
    pytest.param("reacher", {"n_frames": 4}, 1000, False, marks=pytest.mark.slow),
)
PLAYED = {case.values[0] if hasattr(case, "values") else case[0] for case in CASES}


def strong(state):
    """Arrays of fixed dtypes, in dicts of its own: brax gives Python numbers, and writes into the dicts it is given."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), state)


@pytest.mark.parametrize("name, parameters, num_steps, ends", CASES)
def test_steps_are_those_of_brax(name, parameters, num_steps, ends, key):
    """Along a whole episode of brax's: from each of its states we step to where it does."""
    suite, env = brax_envs.get_environment(name, **parameters), jaxpg.make(f"brax/{name}", **parameters)
    own_reset, own_step = jax.jit(suite.reset), jax.jit(suite.step)
    assert (env.max_steps, env.name) == (1000, f"brax/{name}")
    assert env.action_space == spaces.Box(-1.0, 1.0, (suite.action_size,))
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (suite.observation_size,))

    # Half of them beyond the bounds, which brax's policies keep to.
    actions = np.random.default_rng(0).uniform(-2.0, 2.0, (num_steps, suite.action_size)).astype(np.float32)
    own = strong(own_reset(jax.random.key_data(key)))
    state, observation = env.reset(key)
    np.testing.assert_allclose(observation, own.obs, rtol=1e-5, atol=1e-5)
    rewards = []
    for t, action in enumerate(actions):
        before, own = own, strong(own_step(own, np.clip(action, -1.0, 1.0)))
        # At first from our own states, so that those are seen to be whole; small differences grow.
        state, timestep = env.step(key, state if t < 5 else before, action)
        np.testing.assert_allclose(timestep.observation, own.obs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(timestep.reward, own.reward, rtol=1e-3, atol=1e-3)
        assert (bool(timestep.terminated), bool(timestep.truncated)) == (
            bool(own.done),
            False,
        )  # The rollout truncates.
        rewards.append(float(own.reward))
        if own.done:
            break
    assert bool(own.done) == ends
    assert np.std(rewards) > 0 or name == "inverted_pendulum"
    for leaf, own_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(leaf, own_leaf, rtol=1e-2, atol=1e-2)


def test_the_limit_truncates_as_brax_does(key):
    """In played episodes: the flags and the last observation are those of brax's EpisodeWrapper, without a reset."""
    limit = 14
    env = jaxpg.make("brax/inverted_pendulum", max_steps=limit)
    policy = jaxpg.policies.mlp(env)
    params = policy.init(key)
    rows, episodes = jax.jit(lambda key: collect(env, policy, params, key, num_episodes=64, num_lanes=64))(key)
    raw = brax_envs.get_environment("inverted_pendulum")
    counted = training.EpisodeWrapper(raw, limit, 1)

    def own(observation, actions):
        state = counted.reset(key).replace(pipeline_state=raw.pipeline_init(observation[:2], observation[2:]))

        def step(state, action):
            state = strong(counted.step(strong(state), jnp.clip(action, -1.0, 1.0)))
            return state, (state.obs, state.done, state.info["truncation"])

        return jax.lax.scan(step, strong(state), actions)[1]

    played = jax.jit(jax.vmap(own, in_axes=(0, 1), out_axes=1))(rows.observation[0], rows.action[:limit])
    kinds = set()
    for lane in range(64):  # One episode each.
        length = int(episodes.length[lane])
        last = length - 1
        observation, done, truncation = (np.asarray(x)[:length, lane] for x in played)
        assert not done[:last].any() and done[last]
        flags = bool(rows.terminated[last, lane]), bool(rows.truncated[last, lane])
        assert flags == (not truncation[last], bool(truncation[last]))
        kinds.add((flags, length == limit))
        if flags[1]:
            assert not rows.valid[length, lane]  # The row that holds where the last step led.
            np.testing.assert_allclose(rows.observation[length, lane], observation[last], atol=1e-5)
        np.testing.assert_allclose(rows.observation[1:length, lane], observation[:last], atol=1e-5)
    # Falls before the limit and at the very step of it, and time that was up.
    assert kinds == {((True, False), False), ((True, False), True), ((False, True), True)}


def test_other_limits():
    assert jaxpg.make("brax/reacher", max_steps=50).max_steps == 50
    assert jaxpg.make("brax/reacher", max_steps=10_000).max_steps == 10_000
    assert from_brax(brax_envs.get_environment("reacher")).max_steps == 1000


def test_initial_states_are_fresh(key):
    """Of every episode, also of those that follow another one in the same lane."""
    env = jaxpg.make("brax/inverted_pendulum", backend="spring", max_steps=2)
    policy = jaxpg.policies.mlp(env)
    params = policy.init(key)
    rows, _ = jax.jit(lambda key: collect(env, policy, params, key, num_episodes=16, num_lanes=4))(key)
    firsts = np.asarray(rows.observation)[np.asarray(rows.valid & (rows.time == 0))]
    assert len(firsts) == 16 == len({each.tobytes() for each in firsts})


def test_keys_of_other_generators():
    env = jaxpg.make("brax/inverted_pendulum", backend="spring")
    one, other = (env.reset(jax.random.key(seed, impl="rbg"))[1] for seed in (0, 1))
    assert (one != other).all()


def test_a_step_leaves_its_state_alone(key):
    """brax writes into the dict of metrics that it is given."""
    env = jaxpg.make("brax/reacher", backend="spring")
    state, _ = env.reset(key)
    metrics = dict(state.metrics)
    after, _ = env.step(key, state, jnp.ones(2))
    assert all(state.metrics[name] is value for name, value in metrics.items())
    assert after.metrics["reward_ctrl"] == -2.0 and state.metrics["reward_ctrl"] == 0.0


def test_numbers_may_be_traced(key):
    def reward(weight):
        env = jaxpg.make("brax/halfcheetah", backend="spring", ctrl_cost_weight=weight)
        state, _ = env.reset(key)
        return env.step(key, state, jnp.ones(6))[1].reward

    free, dear = jax.jit(jax.vmap(reward))(jnp.asarray([0.0, 0.5]))
    np.testing.assert_allclose(free - dear, 3.0, rtol=1e-5)


def test_equal_arguments_give_one_object():
    assert jaxpg.make("brax/reacher") is jaxpg.make("brax/reacher")
    assert jaxpg.make("brax/reacher") is not jaxpg.make("brax/reacher", backend="spring")


def test_in_64_bits(x64, key):
    env = jaxpg.make("brax/inverted_pendulum")
    state, observation = env.reset(key)
    _, timestep = env.step(key, state, jnp.zeros(1))
    assert observation.dtype == timestep.observation.dtype == timestep.reward.dtype == jnp.float64
    check_structure(env)


def test_observations_of_several_parts(key):
    env = jaxpg.make("brax/fast", obs_mode="dict_state", asymmetric_obs=True)
    assert set(env.observation_space) == {"state", "privileged_state"}
    check_structure(env)
    state, observation = env.reset(key)
    _, timestep = env.step(key, state, jnp.ones(1))
    assert type(observation) is dict
    np.testing.assert_allclose(timestep.observation["state"], [0.0004, 0.02])
    assert env.render is None


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in available() if name not in PLAYED])
def test_the_others_can_be_played(name, key):
    env = make(name, None, {})
    check_structure(env)
    state, _ = jax.jit(env.reset)(key)
    _, timestep = jax.jit(env.step)(key, state, jnp.zeros(env.action_space.shape))
    assert bool(spaces.contains(env.observation_space, timestep.observation))
    assert np.isfinite(timestep.reward) and not timestep.terminated


def test_names_are_those_that_brax_has():
    offered = set(available())
    assert jaxpg.envs.available("brax") == [f"brax/{name}" for name in available()]
    assert set(brax_envs._envs) - offered <= {"swimmer"}
    brax_envs.register_environment("mine", lambda: brax_envs.get_environment("fast"))
    try:
        assert "mine" in available()
        assert jaxpg.make("brax/mine").observation_space.shape == (2,)
    finally:
        del brax_envs._envs["mine"]


def test_swimmer_where_jax_has_what_it_needs():
    if "a_min" in inspect.signature(jnp.clip).parameters:
        assert "swimmer" in available()
        check_structure(make("swimmer", None, {}))
    else:
        assert "swimmer" not in available()
        with pytest.raises(ValueError, match="'brax/swimmer' is not offered: it calls jax.numpy.clip with a_min"):
            jaxpg.make("brax/swimmer")


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: jaxpg.make("brax/ants"), ValueError, "got 'brax/ants'; did you mean 'brax/ant'"),
        (lambda: jaxpg.make("brax/ant", ctrl_cost=1.0), ValueError, "has no parameter 'ctrl_cost'.*'ctrl_cost_weight'"),
        (lambda: jaxpg.make("brax/ant", sys=1), ValueError, "has no parameter 'sys'; it has ctrl_cost_weight.*backend"),
        (lambda: jaxpg.make("brax/ant", backend="springs"), ValueError, "backend='springs': backend should be in"),
        (lambda: jaxpg.make("brax/ant", use_contact_forces=True), ValueError, "use_contact_forces not implemented"),
        (lambda: jaxpg.make("brax/fast", backend="mjx"), ValueError, "has no physics for backend to change"),
        (lambda: jaxpg.make("brax/ant", max_steps=0), ValueError, "max_steps must be an integer of at least 1"),
        (lambda: from_brax(brax_envs.create("fast")), ValueError, "got one in a AutoResetWrapper: pass env.unwrapped"),
        (lambda: from_brax(brax_envs.create("fast", auto_reset=False)), ValueError, "got one in a EpisodeWrapper"),
        (lambda: from_brax(brax_envs._envs["fast"]), TypeError, "the class and not an instance"),
        (lambda: from_brax("ant"), TypeError, "env must be an environment of brax; got 'ant', which lacks reset"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_wrappers_of_ones_own_are_welcome(key):
    class Doubled(brax_envs.Wrapper):
        def step(self, state, action):
            after = self.env.step(state, action)
            return after.replace(reward=2 * after.reward)

    with pytest.raises(ValueError, match="got one in a AutoResetWrapper"):
        from_brax(Doubled(brax_envs.create("fast")))
    env = from_brax(Doubled(brax_envs.get_environment("fast")))
    assert env.name == "Fast"
    state, _ = env.reset(key)
    np.testing.assert_allclose(env.step(key, state, jnp.ones(1))[1].reward, 0.0008)


HAS_OPENGL = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>')).render()"
DRAW = """
    import jax, numpy as np, warnings
    warnings.simplefilter("ignore")
    import jaxpg
    from brax.io import image
    import brax.envs

    env = jaxpg.make("brax/reacher", backend="spring")
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    other, _ = jax.jit(env.reset)(jax.random.key(1))
    picture = env.render(state)
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8 and isinstance(picture, np.ndarray)
    assert picture.std() > 1 and (env.render(other) != picture).any()
    sys = brax.envs.get_environment("reacher", backend="spring").sys
    np.testing.assert_array_equal(env.render(state), image.render_array(sys, state.pipeline_state))
    np.testing.assert_array_equal(env.render(jax.tree.map(np.asarray, state)), picture)
    print("drawn")
"""


def test_pictures(run_in_subprocess):
    for backend in ("egl", "osmesa"):
        try:
            run_in_subprocess(HAS_OPENGL, env={"MUJOCO_GL": backend})
        except pytest.fail.Exception:
            continue
        assert "drawn" in run_in_subprocess(DRAW, env={"MUJOCO_GL": backend})
        return
    pytest.skip("no OpenGL")


def test_without_opengl(monkeypatch, key):
    import mujoco

    def renderer(*_):
        raise mujoco.FatalError("an OpenGL platform library has not been loaded")

    monkeypatch.setattr(mujoco, "Renderer", renderer)
    env = from_brax(brax_envs.get_environment("reacher"))
    state, _ = env.reset(key)
    with pytest.raises(RuntimeError, match="set the environment variable MUJOCO_GL.*MuJoCo says: an OpenGL platform"):
        env.render(state)


def test_nothing_of_it_is_imported_with_jaxpg(run_in_subprocess):
    code = """
        import sys
        import jaxpg, jaxpg.envs.brax, jaxpg.envs.mujoco_playground
        print([name for name in ("brax", "mujoco", "mujoco_playground") if name in sys.modules])
    """
    assert run_in_subprocess(code).split()[-1] == "[]"


def test_nothing_is_printed():
    """What brax and MuJoCo say of packages that nobody needs, and of brax's future, is not the user's concern."""
    program = "import jaxpg; jaxpg.make('brax/inverted_pendulum')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")
