"""`check_env`: what conforms, and that each mistake is found by the check that is for it."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg import envs


def corridor(limit=6, **changes):
    """Walk along a line from a random place; falls off (terminates) at 9; the limit truncates."""

    def reset(key):
        place = jax.random.uniform(key, (), jnp.float32)
        return (place, jnp.zeros((), jnp.int32)), place[None]

    def step(key, state, action):
        place, time = state
        place = place + action * (1.0 + 0.1 * jax.random.uniform(key, (), jnp.float32))
        time = time + 1
        return (place, time), jaxpg.Timestep(place[None], place, place > 9, time >= limit)

    space = jaxpg.Box(-20, 20, (1,))
    facts = dict(reset=reset, step=step, observation_space=space, action_space=jaxpg.Discrete(2), max_steps=limit)
    return jaxpg.Environment(**{**facts, "name": "corridor", **changes})


def with_step(env, change):
    """`env`, whose step's result is changed: (env, key, state before, state, timestep) -> (state, timestep)."""
    return dataclasses.replace(
        env, step=lambda key, state, action: change(env, key, state, *env.step(key, state, action))
    )


def resets_itself(env, key, before, state, timestep):
    ended = timestep.terminated | timestep.truncated
    first, observation = env.reset(key)
    state = jax.tree.map(lambda a, b: jnp.where(ended, a, b), first, state)
    return state, timestep._replace(observation=jnp.where(ended, observation, timestep.observation))


def falls_back(env, key, before, state, timestep):
    """As brax's wrapper: the very first state again."""
    ended = timestep.terminated | timestep.truncated
    first = env.reset(jax.random.key(7))[0]
    return jax.tree.map(lambda a, b: jnp.where(ended, a, b), first, state), timestep


counter = itertools.count()


def counts_in_python(env, key, before, state, timestep):
    return state, timestep._replace(reward=timestep.reward + next(counter))


def draws_from_numpy(env, key, before, state, timestep):
    return state, timestep._replace(reward=timestep.reward + np.random.default_rng().uniform())


def not_a_number(env, key, before, state, timestep):
    return state, timestep._replace(reward=jnp.where(state[0] > 1.5, jnp.nan, timestep.reward))


def ends_without_a_number(env, key, before, state, timestep):
    return state, timestep._replace(observation=jnp.where(timestep.truncated, jnp.nan, timestep.observation))


def loses_truncation(env, key, before, state, timestep):
    ended = timestep.terminated | timestep.truncated
    return state, timestep._replace(terminated=ended, truncated=jnp.zeros((), bool))


def truncates_early(env, key, before, state, timestep):
    return state, timestep._replace(truncated=state[1] >= 4)


def found(env, **options):
    return {finding.check: finding.status for finding in envs.check_env(env, **options).findings}


def test_an_environment_that_keeps_its_promises():
    report = envs.check_env(corridor())
    assert report.passed and not report.failures and not report.notes
    assert [finding.check for finding in report.findings] == [
        "structure", "purity", "no recompilation", "vmap = loop", "spaces", "finite", "ends", "after the end",
        "time limit", "initial states",
    ]  # fmt: skip
    assert "corridor: conforms" in str(report) and "truncated at step 6" in str(report)


MISTAKES = {
    "resets itself": (resets_itself, "ends"),
    "falls back": (falls_back, "ends"),
    "counts in Python": (counts_in_python, "purity"),
    "draws from numpy": (draws_from_numpy, "purity"),
    "not a number": (not_a_number, "finite"),
    "ends without a number": (ends_without_a_number, "spaces"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake):
    change, check = MISTAKES[mistake]
    report = envs.check_env(with_step(corridor(), change))
    assert not report.passed
    assert check in {finding.check for finding in report.failures}
    assert "does not conform" in str(report)


def test_weak_types_compile_twice():
    env = corridor()

    def reset(key):
        (place, _), observation = env.reset(key)
        return (place, 0), observation  # The steps go on with numbers that are strongly typed.

    env = with_step(env, lambda env, key, before, state, timestep: ((state[0], state[1].astype(jnp.int32)), timestep))
    report = envs.check_env(dataclasses.replace(env, reset=reset))
    (failure,) = report.failures
    assert failure.check == "no recompilation" and "[1]" in failure.message


def test_observations_outside_of_their_space():
    (failure,) = envs.check_env(corridor(observation_space=jaxpg.Box(0, 3, (1,)))).failures
    assert failure.check == "spaces" and "step" in failure.message


def test_the_batch_must_not_be_seen():
    """Side by side another result than alone: here by a step that rounds more coarsely when it is batched."""
    env = corridor()

    @jax.custom_batching.custom_vmap
    def reward(place):
        return place

    @reward.def_vmap
    def batched(size, in_batched, place):
        return place + 0.1 * jnp.arange(size), True

    seen = with_step(env, lambda env, key, before, state, timestep: (state, timestep._replace(reward=reward(state[0]))))
    (failure,) = envs.check_env(seen).failures
    assert failure.check == "vmap = loop" and "reward" in failure.message


def test_structure_is_told_not_raised():
    report = envs.check_env(corridor(observation_space=jaxpg.Box(-20, 20, (2,))))
    (failure,) = report.failures
    assert failure.check == "structure" and "float32[2]" in failure.message

    def broken(key, state, action):
        raise ZeroDivisionError("mine")

    (failure,) = envs.check_env(corridor(step=broken)).failures
    assert failure == ("structure", "failed", "ZeroDivisionError: mine")


def test_time_limits():
    assert found(with_step(corridor(), loses_truncation))["time limit"] == "note"
    assert found(with_step(corridor(), truncates_early))["time limit"] == "note"
    assert found(corridor(max_steps=None))["time limit"] == "note"
    assert found(corridor(limit=5), num_steps=3)["time limit"] == "note"
    left = with_step(corridor(), lambda e, k, b, s, t: (s, t._replace(truncated=jnp.zeros((), bool))))
    report = envs.check_env(left)
    assert report.passed and "left to the rollout" in str(report)


def test_masks_leave_an_action():
    env = corridor()

    def masked(observation, time):
        return {"place": observation, "action_mask": jnp.stack([time < 3, jnp.asarray(False)])}

    space = {"place": env.observation_space, "action_mask": jaxpg.Box(0, 1, (2,), bool)}

    def reset(key):
        state, observation = env.reset(key)
        return state, masked(observation, state[1])

    def step(key, state, action):
        state, timestep = env.step(key, state, action)
        return state, timestep._replace(observation=masked(timestep.observation, state[1]))

    report = envs.check_env(dataclasses.replace(env, reset=reset, step=step, observation_space=space))
    (failure,) = report.failures
    assert failure.check == "spaces" and "step 2 leaves no action" in failure.message


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-misc"])
def test_gymnaxs(name):
    report = envs.check_env(jaxpg.make(name))
    assert report.passed, report


# Each takes seconds to compile.
@pytest.mark.slow
@pytest.mark.parametrize("name", envs.available())
def test_every_gymnax_environment_conforms(name):
    report = envs.check_env(jaxpg.make(name), num_steps=300)
    assert report.passed, report


def test_arguments():
    with pytest.raises(TypeError, match="env must be"):
        envs.check_env("CartPole-v1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_episodes must be an integer of at least 2; got 1"):
        envs.check_env(corridor(), num_episodes=1)
    with pytest.raises(ValueError, match="num_steps"):
        envs.check_env(corridor(), num_steps=0)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_states_may_hold_typed_keys(impl):
    """The state draws by a key of its own; episodes are whole, packed, and evaluated by jit and by hand alike."""
    plain = corridor()

    def reset(key):
        state, observation = plain.reset(key)
        return (state, jax.random.key(3, impl=impl)), observation

    def step(key, state, action):
        state, own = state
        own, drawn = jax.random.split(own)
        state, timestep = plain.step(key, state, action)
        return (state, own), timestep._replace(reward=jax.random.uniform(drawn, (), jnp.float32))

    env = dataclasses.replace(plain, reset=reset, step=step)
    failures = [finding.check for finding in envs.check_env(env).failures]
    assert failures == ([] if impl == "threefry2x32" else ["vmap = loop"])  # What rbg draws depends on the batch.
    policy = jaxpg.policies.mlp(env, (4,))
    params = policy.init(jax.random.key(0))
    found = jaxpg.evaluate(jax.random.key(1), env, policy, params, num_episodes=5, num_lanes=2)
    assert set(np.asarray(found.lengths).tolist()) <= {1, 2, 3, 4, 5, 6}
    if impl == "rbg":
        return
    own, rewards = jax.random.key(3, impl=impl), []
    for _ in range(6):
        own, drawn = jax.random.split(own)
        rewards.append(jax.random.uniform(drawn, (), jnp.float32))
    whole = found.lengths == 6
    assert whole.any()
    np.testing.assert_allclose(found.returns[whole], sum(rewards), rtol=1e-6)
