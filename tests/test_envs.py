"""Environments by name and of one's own: structure, dtypes, ends of episodes, parameters, errors."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import envs
from jaxpg.envs import _gymnax_make, spaces
from jaxpg.envs._adapted import x64_may_be_off_in_a_part
from jaxpg.envs.check import check_structure

ALL = envs.available()
SLOW_TO_COMPILE = {"Asterix-MinAtar", "Freeway-MinAtar", "Seaquest-MinAtar", "SpaceInvaders-MinAtar"}


def marked(names):
    """Those that take XLA seconds for each new loop are left to the slow tests, but for one: single steps."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW_TO_COMPILE else name for name in names]


def play(env, key, num_steps, policy=None):
    """[num_steps] timesteps of one run without resets, and for each step whether the episode was still going on."""
    state, first = env.reset(jax.random.fold_in(key, 0))

    def step(carry, time):
        state, observation, alive = carry
        step_key, action_key = jax.random.split(jax.random.fold_in(key, time + 1))
        action = spaces.sample(env.action_space, action_key) if policy is None else policy(observation)
        state, timestep = env.step(step_key, state, action)
        ended = timestep.terminated | timestep.truncated
        return (state, timestep.observation, alive & ~ended), (timestep, alive)

    return jax.lax.scan(step, (state, first, True), jnp.arange(num_steps))[1]


@functools.cache
def compiled(env, num_steps, policy):
    return jax.jit(jax.vmap(functools.partial(play, env, num_steps=num_steps, policy=policy)))


def play_many(env, num_steps, policy=None, episodes=16):
    keys = jax.random.split(jax.random.key(0), episodes)
    return jax.tree.map(np.asarray, compiled(env, num_steps, policy)(keys))


# Every environment.


def test_available_names_every_gymnax_environment_without_download():
    import gymnax

    ours = {"ShortPole-test"}  # Registered by a test below, and for good.
    assert set(ALL) == set(gymnax.registered_envs) - {"MNISTBandit-bsuite"} - ours
    assert len(ALL) == 25


@pytest.mark.parametrize("name", ALL)
def test_steps_under_jit_compile_once_and_end_at_the_limit_by_truncation(name):
    env = jaxpg.make(name, max_steps=3)
    assert env.max_steps == 3
    traces = []

    @jax.jit
    def step(key, state):
        traces.append(name)
        return env.step(key, state, spaces.sample(env.action_space, key))

    state, observation = jax.jit(env.reset)(jax.random.key(0))
    check_leaves(env, state, observation)
    for time in range(3):
        state, timestep = step(jax.random.key(time), state)
        check_leaves(env, state, timestep.observation, timestep)
        assert timestep.truncated == (time == 2)
        assert timestep.terminated == (name == "SimpleBandit-bsuite")  # Each of its episodes is one step.
    assert len(traces) == step._cache_size() == 1


def check_leaves(env, state, observation, timestep=None):
    """Strong types, as `check_structure` and the observation space describe them."""
    structure = check_structure(env)
    for leaf in jax.tree.leaves((state, observation, timestep)):
        assert not leaf.weak_type
    described = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (state, observation))
    assert described == (structure.state, structure.observation)
    assert structure.observation == spaces.shape_dtype(env.observation_space)
    if timestep is not None:
        assert (timestep.reward.shape, timestep.reward.dtype) == ((), jnp.float32)
        assert structure.reward == jax.ShapeDtypeStruct((), jnp.float32)
        for flag in (timestep.terminated, timestep.truncated):
            assert (flag.shape, flag.dtype) == ((), jnp.bool_)


@pytest.mark.parametrize("name", marked(ALL))
def test_vmapped_scans_stay_in_the_spaces_and_repeat_with_their_keys(name):
    env = jaxpg.make(name)
    timesteps, alive = play_many(env, 60)
    inside = jax.vmap(jax.vmap(functools.partial(spaces.contains, env.observation_space)))(timesteps.observation)
    assert np.asarray(inside)[alive].all()
    assert np.isfinite(timesteps.reward[alive]).all()
    again, _ = play_many(env, 60)
    chex.assert_trees_all_equal(timesteps, again)


NATURAL_ENDS = {  # parameters, and the step every episode terminates at, whatever is done.
    "Catch-bsuite": ({}, 9),
    "DeepSea-bsuite": ({}, 8),
    "MemoryChain-bsuite": ({"memory_length": 7}, 8),
    "SimpleBandit-bsuite": ({}, 1),
    "UmbrellaChain-bsuite": ({"chain_length": 12}, 12),
}


@pytest.mark.parametrize("name", NATURAL_ENDS)
def test_a_natural_end_terminates(name):
    parameters, length = NATURAL_ENDS[name]
    env = jaxpg.make(name, **parameters)
    timesteps, alive = play_many(env, length + 2)
    np.testing.assert_array_equal(alive.sum(axis=1), length)
    assert timesteps.terminated[:, length - 1].all() and not timesteps.terminated[:, : length - 1].any()
    # DeepSea's limit is its size: both flags are true, the episode has ended by itself.
    assert (timesteps.truncated[:, length - 1] == (name == "DeepSea-bsuite")).all()


@pytest.mark.parametrize(
    "name",
    marked(
        [
            "Pendulum-v1",
            "Reacher-misc",
            "PointRobot-misc",
            "GaussianBandit-misc",
            "DiscountingChain-bsuite",
            "Freeway-MinAtar",
        ]
    ),
)
def test_environments_without_an_end_of_their_own_are_only_truncated(name):
    timesteps, alive = play_many(jaxpg.make(name, max_steps=40), 45, episodes=4)
    np.testing.assert_array_equal(alive.sum(axis=1), 40)
    assert not timesteps.terminated.any() and timesteps.truncated[:, 39].all()


def upright(observation):
    x, x_dot, theta, theta_dot = observation
    return jnp.where(0.1 * x + 0.3 * x_dot + 3 * theta + theta_dot > 0, 1, 0)


def test_a_pole_held_up_is_truncated_at_the_limit():
    timesteps, alive = play_many(jaxpg.make("CartPole-v1"), 500, policy=upright)
    assert alive.all()
    assert timesteps.truncated[:, -1].all() and not timesteps.terminated.any()
    assert timesteps.truncated.sum() == len(alive)
    assert (timesteps.reward.sum(axis=1) == 500).all()


def test_a_falling_pole_terminates():
    timesteps, alive = play_many(jaxpg.make("CartPole-v1"), 20, policy=lambda observation: jnp.asarray(1))
    lengths = alive.sum(axis=1)
    assert lengths.max() < 12
    last = np.arange(len(lengths)), lengths - 1
    assert timesteps.terminated[last].all() and not timesteps.truncated[last].any()
    assert (np.abs(timesteps.observation[last][:, 2]) > 0.2).all()  # What it ended with, not the next start.


def test_reaching_the_goal_terminates():
    env = jaxpg.make("MountainCar-v0")
    timesteps, alive = play_many(env, 200, policy=lambda observation: jnp.where(observation[1] < 0, 0, 2))
    last = np.arange(len(alive)), alive.sum(axis=1) - 1
    assert timesteps.terminated[last].all() and not timesteps.truncated[last].any()
    assert (timesteps.observation[last][:, 0] >= 0.5).all()


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "FrozenLake-misc", "Breakout-MinAtar", "Catch-bsuite"])
def test_numbers_are_gymnaxs(name):
    import gymnax

    env, (theirs, params) = jaxpg.make(name), gymnax.make(name)

    def both(key, action):
        reset_key, step_key = jax.random.split(key)
        observation, state = theirs.reset_env(reset_key, params)
        after, _, reward, done, _ = theirs.step_env(step_key, state, action, params)
        our_state, our_observation = env.reset(reset_key)
        _, timestep = env.step(step_key, our_state, action)
        ours = (our_observation, timestep.observation, timestep.reward, timestep.terminated)
        return ours, (observation, after, reward, done)

    keys = jax.random.split(jax.random.key(1), 64)
    actions = jax.vmap(functools.partial(spaces.sample, env.action_space))(keys)
    for one, other in zip(*jax.jit(jax.vmap(both))(keys, actions)):
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-6)


X64_KINDS = [
    "CartPole-v1",
    "Pendulum-v1",
    "Freeway-MinAtar",
    "MetaMaze-misc",
    "GaussianBandit-misc",
    "FourRooms-misc",
    "DiscountingChain-bsuite",
    "UmbrellaChain-bsuite",
    "Catch-bsuite",
    "Pong-misc",
    "FrozenLake-misc",
    "MountainCarContinuous-v0",
    "Seaquest-MinAtar",
]


PLAYED_IN_32_BITS = {"Freeway-MinAtar", "MetaMaze-misc", "GaussianBandit-misc", "DiscountingChain-bsuite"}


@pytest.mark.filterwarnings("ignore::FutureWarning" if jax.__version_info__ < (0, 8) else "error::FutureWarning")
@pytest.mark.parametrize("name", marked(X64_KINDS))
def test_under_x64(name, x64):
    if name in PLAYED_IN_32_BITS and not x64_may_be_off_in_a_part():
        with pytest.raises(TypeError, match=f"{name} cannot be traced .under x64; jax {jax.__version__} cannot"):
            jaxpg.make(name)
        return
    env = jaxpg.make(name)
    timesteps, alive = play_many(env, 12, episodes=4)
    assert timesteps.reward.dtype == np.float64
    assert timesteps.observation.dtype == env.observation_space.dtype
    assert timesteps.observation.dtype in (np.float64, np.int32)
    assert np.isfinite(timesteps.reward[alive]).all()
    structure = check_structure(env)
    assert jax.tree.map(lambda leaf: leaf.dtype, jax.eval_shape(env.reset, jax.random.key(0))[0]) == jax.tree.map(
        lambda leaf: leaf.dtype, structure.state
    )


@pytest.fixture
def cartpole_in_32_bits():
    return jaxpg.make("CartPole-v1")


def test_environments_of_32_and_64_bits_are_kept_apart(cartpole_in_32_bits, x64):
    assert cartpole_in_32_bits.observation_space.dtype == np.float32
    assert jaxpg.make("CartPole-v1").observation_space.dtype == np.float64


@pytest.mark.parametrize("name", ["CartPole-v1", "FrozenLake-misc", "UmbrellaChain-bsuite", "Breakout-MinAtar"])
def test_no_key_is_used_twice(name):
    with jax.debug_key_reuse(True):
        play_many(jaxpg.make(name), 3, episodes=2)


# Parameters.


def first_step(env, action=1):
    state, _ = env.reset(jax.random.key(3))
    return env.step(jax.random.key(4), state, jnp.asarray(action))[1].observation


def test_environments_are_mapped_over_traced_parameters():
    lengths = jnp.asarray([0.25, 0.5, 1.0])
    mapped = jax.jit(jax.vmap(lambda length: first_step(jaxpg.make("CartPole-v1", length=length))))(lengths)
    for length, observation in zip(lengths, mapped):
        one = first_step(jaxpg.make("CartPole-v1", length=float(length)))
        np.testing.assert_allclose(observation, one, rtol=1e-6)
    assert np.ptp(mapped[:, 3]) > 0.05  # Its angular velocity depends on the length.


def test_traced_integers_and_flags():
    def last_step(chain_length):
        timesteps, _ = play(jaxpg.make("UmbrellaChain-bsuite", chain_length=chain_length), jax.random.key(0), 6)
        return jnp.argmax(timesteps.terminated) + 1

    np.testing.assert_array_equal(jax.jit(jax.vmap(last_step))(jnp.asarray([3, 5])), [3, 5])

    def rewards(dense):
        return play(jaxpg.make("PointRobot-misc", dense_reward=dense), jax.random.key(0), 4)[0].reward

    sparse, dense = jax.jit(jax.vmap(rewards))(jnp.asarray([False, True]))
    assert (sparse >= 0).all() and (dense < 0).all()


def test_a_whole_parameter_record_may_be_traced():
    import gymnax

    gymnax_env, params = gymnax.make("Pendulum-v1")
    stacked = jax.tree.map(lambda leaf: jnp.asarray([leaf, leaf]), params).replace(g=jnp.asarray([10.0, 0.0]))
    seen = []

    def one(params):
        env = envs.from_gymnax(gymnax_env, params)
        seen.append(env)
        return play(env, jax.random.key(0), 3, policy=lambda observation: jnp.zeros(1))[0].observation

    observations = jax.vmap(one)(stacked)
    assert seen[0].max_steps is None  # The limit is traced: it holds, but is not known.
    assert seen[0].action_space == spaces.Box(-np.inf, np.inf, (1,))
    one_alone = play(jaxpg.make("Pendulum-v1"), jax.random.key(0), 3, policy=lambda observation: jnp.zeros(1))[0]
    np.testing.assert_allclose(observations[0], one_alone.observation, rtol=1e-4, atol=1e-6)
    assert np.ptp(observations[1][:, 2]) == 0.0  # No gravity, no torque: it turns as it turned.


def test_bounds_that_depend_on_a_traced_parameter_are_infinite():
    seen = []

    def one(torque, threshold):
        seen.extend([jaxpg.make("Pendulum-v1", max_torque=torque), jaxpg.make("CartPole-v1", x_threshold=threshold)])
        return torque

    jax.vmap(one)(jnp.ones(2), jnp.ones(2))
    pendulum, cartpole = seen
    assert pendulum.action_space == spaces.Box(-np.inf, np.inf, (1,))
    assert pendulum.observation_space == jaxpg.make("Pendulum-v1").observation_space
    angle = jaxpg.make("CartPole-v1").observation_space.high[2]
    assert cartpole.observation_space.high == (np.inf, np.inf, angle, np.inf)


def test_constructor_arguments_and_lists():
    assert jaxpg.make("DeepSea-bsuite", size=5).observation_space.shape == (5, 5)
    assert jaxpg.make("DeepSea-bsuite", size=5).max_steps == 5
    lake = jaxpg.make("FrozenLake-misc", desc=["SF", "HG"], is_slippery=False)
    assert lake.observation_space == spaces.Discrete(4)
    assert lake is jaxpg.make("FrozenLake-misc", desc=["SF", "HG"], is_slippery=False)
    assert jaxpg.make("FrozenLake-misc", map_name="8x8").max_steps == 200
    assert jaxpg.make("Swimmer-misc", num_urchins=2, dt=0.1).observation_space.shape == (10,)


def test_equal_arguments_give_the_same_environment():
    make = jaxpg.make
    assert make("CartPole-v1") is make("CartPole-v1") is make("gymnax/CartPole-v1")
    assert make("CartPole-v1", length=1, gravity=9) is make("CartPole-v1", gravity=9.0, length=np.float32(1.0))
    assert make("CartPole-v1", max_steps=100) is make("CartPole-v1", max_steps=np.int64(100))
    distinct = [
        make("CartPole-v1"),
        make("CartPole-v1", max_steps=100),
        make("CartPole-v1", length=0.6),
        make("CartPole-v1", masspole=0.6),
    ]
    assert len(set(map(id, distinct))) == 4
    torques = [make("Acrobot-v1", available_torque=torque) for torque in ([-1, 0, 1], [-1.0, 0.0, 1.0], [-2, 0, 2])]
    assert torques[0] is torques[1] is not torques[2]


def test_an_environment_made_before_is_found_at_once(monkeypatch):
    names = ["FourRooms-misc", "DeepSea-bsuite"]
    before = [jaxpg.make(name) for name in names] + [jaxpg.make("FourRooms-misc", fail_prob=0.1)]
    monkeypatch.setattr(_gymnax_make, "_built", None)  # Building anything now fails.
    assert before == [jaxpg.make(name) for name in names] + [jaxpg.make("FourRooms-misc", fail_prob=0.1)]


def test_traced_environments_are_not_kept():
    kept = len(_gymnax_make._kept)
    with jax.checking_leaks():
        jax.jit(lambda g: first_step(jaxpg.make("CartPole-v1", gravity=g)))(9.0)
        jax.vmap(lambda g: check_structure(jaxpg.make("CartPole-v1", gravity=g)) and g)(jnp.ones(2))
    assert len(_gymnax_make._kept) == kept


def test_the_first_environment_may_be_made_inside_a_trace(run_in_subprocess):
    """gymnax makes arrays as it is imported and as it builds; inside a trace those must not become tracers."""
    print(
        run_in_subprocess("""
        import sys
        import jax
        import jax.numpy as jnp
        from jaxpg import envs

        assert len(envs.available()) == 25 and "gymnax" not in sys.modules

        def step(name):
            env = envs.make(name)
            state, _ = env.reset(jax.random.key(0))
            return env.step(jax.random.key(1), state, 1)[1].reward

        def steps():
            return [step(name) for name in ["FrozenLake-misc", "Acrobot-v1", "DeepSea-bsuite"]]

        with jax.checking_leaks():
            inside = jax.jit(steps)()
        assert inside == jax.jit(lambda: steps())()
    """)
    )


def test_environments_registered_with_gymnax_are_found():
    import gymnax
    from gymnax.environments.classic_control.cartpole import CartPole

    if "ShortPole-test" not in gymnax.registered_envs:
        gymnax.register("ShortPole-test", CartPole)
    assert "ShortPole-test" in envs.available()
    assert jaxpg.make("ShortPole-test", length=0.2).action_space == spaces.Discrete(2)


# One's own environment: two functions.


def corridor(**changes):
    """Walk right to the end of a corridor, or not; a dict for a state, a dict for an observation."""

    def observe(state):
        return {"place": state["place"], "light": jnp.sin(state["place"] * 1.0)[None]}

    def reset(key):
        state = {"place": jax.random.randint(key, (), 0, 2), "steps": 0}
        return state, observe(state)

    def step(key, state, action):
        place = state["place"] + jnp.where(action == 1, 1, -1).clip(-state["place"])
        state = {"place": place, "steps": state["steps"] + 1}
        return state, jaxpg.Timestep(observe(state), -1.0, place >= 5, jnp.asarray(False))

    fields = {
        "reset": reset,
        "step": step,
        "observation_space": {"place": spaces.Discrete(6), "light": spaces.Box(-1.0, 1.0, (1,))},
        "action_space": spaces.Discrete(2),
        "max_steps": 50,
        "name": "corridor",
    }
    return jaxpg.Environment(**(fields | changes))


def test_an_environment_of_ones_own():
    env = corridor()
    structure = check_structure(env)
    integer = jax.ShapeDtypeStruct((), jnp.int32)
    assert structure.state == {"place": integer, "steps": integer} and structure.action == integer
    assert structure.reward == jax.ShapeDtypeStruct((), jnp.float32)
    equal = corridor(reset=env.reset, step=env.step)
    assert env == equal != corridor() and hash(env) == hash(equal)
    assert "corridor" in repr(env)
    assert check_structure(env) is structure  # Traced once.
    _, alive = play_many(env, 50, policy=lambda observation: jnp.asarray(1), episodes=4)
    assert set(alive.sum(axis=1)) <= {4, 5}


def broken(what):
    """The corridor, with one promise broken."""
    good = corridor()

    def step(change):
        return lambda key, state, action: change(*good.step(key, state, action))

    def reset(change):
        return lambda key: change(*good.reset(key))

    return corridor(
        **{
            "reset gives one": {"reset": lambda key: good.reset(key)[0]},
            "reset gives three": {"reset": reset(lambda s, o: (s, o, {}))},
            "step gives four": {"step": step(lambda s, t: (s, t.observation, t.reward, t.terminated))},
            "step gives a tuple": {"step": step(lambda s, t: (s, tuple(t)))},
            "state grows": {"step": step(lambda s, t: (s | {"more": 1}, t))},
            "state shape": {"step": step(lambda s, t: (s | {"place": s["place"][None]}, t))},
            "state dtype": {"step": step(lambda s, t: (s | {"place": s["place"] * 1.0}, t))},
            "text": {"step": step(lambda s, t: (s | {"place": "five"}, t))},
            "observation structure": {"reset": reset(lambda s, o: (s, o["place"]))},
            "observation shape": {"reset": reset(lambda s, o: (s, o | {"light": o["light"][0]}))},
            "observation kind": {"reset": reset(lambda s, o: (s, o | {"place": o["place"] * 1.0}))},
            "step's observation": {"step": step(lambda s, t: (s, t._replace(observation=t.observation["light"])))},
            "observation dtype": {
                "step": step(
                    lambda s, t: (
                        s,
                        t._replace(observation=t.observation | {"light": t.observation["light"].astype(jnp.bfloat16)}),
                    )
                )
            },
            "reward vector": {"step": step(lambda s, t: (s, t._replace(reward=jnp.ones(2))))},
            "reward complex": {"step": step(lambda s, t: (s, t._replace(reward=1j)))},
            "reward boolean": {"step": step(lambda s, t: (s, t._replace(reward=t.terminated)))},
            "no reward": {"step": step(lambda s, t: (s, t._replace(reward=None)))},
            "terminated number": {"step": step(lambda s, t: (s, t._replace(terminated=1.0)))},
            "truncated vector": {"step": step(lambda s, t: (s, t._replace(truncated=jnp.zeros(1, bool))))},
        }[what]
    )


STRUCTURE_ERRORS = [
    ("reset gives one", TypeError, r"reset\(key\) must return \(state, observation\); got a dict"),
    ("reset gives three", TypeError, r"reset\(key\) must return \(state, observation\); got a tuple of 3"),
    ("step gives four", TypeError, r"must return \(state, Timestep\); got a tuple of 4"),
    ("step gives a tuple", TypeError, r"must return \(state, Timestep\); got \(state, tuple\)"),
    ("state grows", ValueError, "state must keep its structure"),
    ("state shape", ValueError, r"state at \['place'\] must keep .* int32\[\], step gives int32\[1\]"),
    ("state dtype", ValueError, r"state at \['place'\] must keep .* int32\[\], step gives float32\[\]"),
    ("text", TypeError, r"step returned at \[0\]\['place'\] a str \('five'\)"),
    ("observation structure", ValueError, "observation of reset must have the structure of observation_space"),
    ("observation shape", ValueError, r"observation of reset at \['light'\] must be float32\[1\].* got float32\[\]"),
    ("observation kind", ValueError, r"observation of reset at \['place'\] must be int32\[\].* got float32\[\]"),
    ("step's observation", ValueError, "observation of step must have the structure of observation_space"),
    ("observation dtype", ValueError, r"observation at \['light'\] must keep .* float32\[1\], step gives bfloat16"),
    ("reward vector", ValueError, r"reward must be one float or integer scalar; got float32\[2\]"),
    ("reward complex", ValueError, r"reward must be one float or integer scalar; got complex64\[\]"),
    ("reward boolean", ValueError, r"reward must be one float or integer scalar; got bool\[\]"),
    ("no reward", TypeError, "reward must be one float or integer scalar; got a NoneType"),
    ("terminated number", ValueError, r"terminated must be one boolean scalar; got float32\[\]"),
    ("truncated vector", ValueError, r"truncated must be one boolean scalar; got bool\[1\]"),
]


@pytest.mark.parametrize("what, error, message", STRUCTURE_ERRORS, ids=[case[0] for case in STRUCTURE_ERRORS])
def test_a_wrong_structure_is_named(what, error, message):
    with pytest.raises(error, match=message) as raised:
        check_structure(broken(what))
    assert "environment 'corridor'" in str(raised.value)


def test_an_error_inside_an_environment_says_where():
    def reset(key):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as raised:
        check_structure(corridor(reset=reset))
    assert "environment 'corridor': reset" in " ".join(raised.value.__notes__)


# Errors of calls.


def gymnax_pair(name="CartPole-v1"):
    import gymnax

    return gymnax.make(name)


def growing_gymnax_env():
    from gymnax.environments.classic_control.cartpole import CartPole

    class Growing(CartPole):
        def step_env(self, key, state, action, params):
            observation, state, *rest = super().step_env(key, state, action, params)
            return observation, state.replace(x=state.x[None]), *rest

    return Growing()


def untraceable_gymnax_env():
    from gymnax.environments.classic_control.cartpole import CartPole

    class Untraceable(CartPole):
        def step_env(self, key, state, action, params):
            return super().step_env(key, state, 1 if action > 0 else 0, params)

    return Untraceable()


CALL_ERRORS = {
    "typo": (lambda: jaxpg.make("CartPole-v0"), ValueError, "did you mean 'CartPole-v1'"),
    "nonsense": (lambda: jaxpg.make("Zzzz"), ValueError, "name must be one of 'CartPole-v1'"),
    "unknown suite": (lambda: jaxpg.make("gymnas/CartPole-v1"), ValueError, "did you mean 'CartPole-v1'"),
    "unknown both": (lambda: jaxpg.make("gymnaxx/ant"), ValueError, "did you mean 'gymnax'"),
    "empty": (lambda: jaxpg.make(""), ValueError, "name must be one of"),
    "not a string": (lambda: jaxpg.make(3), TypeError, r"name must be a string .* got int \(3\)"),
    "download": (lambda: jaxpg.make("MNISTBandit-bsuite"), ValueError, "downloads its images"),
    "parameter typo": (lambda: jaxpg.make("CartPole-v1", lenght=1.0), ValueError, "'lenght'.*did you mean 'length'"),
    "no parameters": (lambda: jaxpg.make("Catch-bsuite", size=1), ValueError, "it has rows, columns"),
    "limit by gymnax's name": (lambda: jaxpg.make("CartPole-v1", max_steps_in_episode=9), ValueError, "by max_steps"),
    "limit by another's name": (lambda: jaxpg.make("CartPole-v1", max_episode_steps=9), ValueError, "by max_steps"),
    "NaN": (lambda: jaxpg.make("CartPole-v1", length=float("nan")), ValueError, "CartPole-v1: length.*nan"),
    "infinite": (lambda: jaxpg.make("CartPole-v1", length=np.inf), ValueError, "CartPole-v1: length.*inf"),
    "text": (lambda: jaxpg.make("CartPole-v1", length="long"), TypeError, "CartPole-v1: length.*str"),
    "vector": (lambda: jaxpg.make("CartPole-v1", length=[1.0, 2.0]), TypeError, r"CartPole-v1: length.*shape \(2,\)"),
    "traced vector": (
        lambda: jax.jit(lambda x: jaxpg.make("CartPole-v1", length=x) and x)(np.ones(2)),
        ValueError,
        "CartPole-v1: length.*jax.vmap",
    ),
    "flag": (lambda: jaxpg.make("PointRobot-misc", dense_reward=1), TypeError, "dense_reward must be True or False"),
    "whole number": (lambda: jaxpg.make("UmbrellaChain-bsuite", chain_length=2.5), TypeError, "must be an integer"),
    "array shape": (lambda: jaxpg.make("Acrobot-v1", available_torque=1.0), ValueError, "available_torque must be"),
    "array NaN": (lambda: jaxpg.make("Acrobot-v1", available_torque=[0, np.nan]), ValueError, "available_torque must"),
    "constructor": (lambda: jaxpg.make("MetaMaze-misc", maze_size=4), ValueError, "cannot be built with maze_size=4"),
    "traced constructor": (
        lambda: jax.jit(lambda n: jaxpg.make("DeepSea-bsuite", size=n) and n)(3),
        TypeError,
        "size fixes the environment's structure",
    ),
    "max_steps 0": (lambda: jaxpg.make("CartPole-v1", max_steps=0), ValueError, "max_steps must be .* at least 1"),
    "max_steps float": (lambda: jaxpg.make("CartPole-v1", max_steps=5.0), TypeError, "max_steps must be an integer"),
    "max_steps traced": (
        lambda: jax.jit(lambda n: jaxpg.make("CartPole-v1", max_steps=n) and n)(3),
        TypeError,
        "max_steps fixes an array's shape",
    ),
    "pair": (lambda: envs.from_gymnax(gymnax_pair()), TypeError, r"unpack .* from_gymnax\(\*gymnax.make\(name\)\)"),
    "class": (lambda: envs.from_gymnax(type(gymnax_pair()[0])), TypeError, "the class and not an instance"),
    "not gymnax": (lambda: envs.from_gymnax(object()), TypeError, "lacks reset_env, step_env"),
    "other's parameters": (
        lambda: envs.from_gymnax(gymnax_pair()[0], gymnax_pair("Pendulum-v1")[1]),
        TypeError,
        "cartpole.EnvParams",
    ),
    "NaN in a record": (
        lambda: envs.from_gymnax(gymnax_pair()[0], gymnax_pair()[1].replace(tau=np.nan)),
        ValueError,
        "tau must not be NaN",
    ),
    "growing state": (lambda: envs.from_gymnax(growing_gymnax_env()), TypeError, r"state.x has shape \(\) after"),
    "untraceable": (lambda: envs.from_gymnax(untraceable_gymnax_env()), TypeError, "cannot be traced"),
    "action shape": (lambda: first_step(jaxpg.make("CartPole-v1"), [0, 1]), ValueError, r"action must be .*int32\[2\]"),
    "action kind": (lambda: first_step(jaxpg.make("CartPole-v1"), 0.5), ValueError, r"action must be .*float32\[\]"),
    "no space": (lambda: corridor(action_space=2), TypeError, "action_space must be a Discrete"),
    "empty space": (lambda: corridor(observation_space={}), TypeError, "observation_space must be a Discrete"),
    "no function": (lambda: corridor(step=None), TypeError, "step must be a function"),
    "environment limit": (lambda: corridor(max_steps=-1), ValueError, "max_steps must be"),
    "environment name": (lambda: corridor(name=3), TypeError, "name must be a string"),
    "not an environment": (lambda: check_structure("CartPole-v1"), TypeError, "must be an Environment, .*; got str"),
}


@pytest.mark.parametrize("case", CALL_ERRORS)
def test_errors(case):
    call, error, message = CALL_ERRORS[case]
    with pytest.raises(error, match=message):
        call()
