"""Classic control is gymnasium's: one transition from any state, and the mean returns of fixed policies."""

import math

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxpg
from jaxpg import envs

NAMES = ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0")


def gymnasium_env(name):
    return gymnasium.make(name, disable_env_checker=True)


# Transitions: the state of each environment as gymnasium's array <-> gymnax's record.

STATE_FIELDS = {
    "CartPole-v1": ("x", "x_dot", "theta", "theta_dot"),
    "Acrobot-v1": ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2"),
    "Pendulum-v1": ("theta", "theta_dot"),
    "MountainCar-v0": ("position", "velocity"),
    "MountainCarContinuous-v0": ("position", "velocity"),
}
# Before the end of an episode, and wide enough to pass the thresholds, walls, goals and clips with the next step.
STATE_BOUNDS = {
    "CartPole-v1": (2.399, 3.0, 0.209, 3.0),
    "Acrobot-v1": (math.pi, math.pi, 4 * math.pi, 9 * math.pi),
    "Pendulum-v1": (6.0, 8.0),
    "MountainCar-v0": (None, 0.07),
    "MountainCarContinuous-v0": (None, 0.07),
}
ACTIONS = {"Pendulum-v1": 3.0, "MountainCarContinuous-v0": 1.5}  # Half the range: above the largest force.


def random_states(name, generator, count):
    columns = []
    for bound in STATE_BOUNDS[name]:
        if bound is None:  # A car's position: half of the draws close to the walls and the goal.
            anywhere, at_wall = generator.uniform(-1.2, 0.6, count), generator.uniform(-1.2, -1.15, count)
            at_goal, choice = generator.uniform(0.4, 0.6, count), generator.uniform(size=count)
            columns.append(np.where(choice < 0.5, anywhere, np.where(choice < 0.75, at_wall, at_goal)))
        else:
            columns.append(generator.uniform(-bound, bound, count))
    return np.stack(columns, axis=1).astype(np.float32)


def random_actions(name, generator, count):
    if name in ACTIONS:
        return generator.uniform(-ACTIONS[name], ACTIONS[name], (count, 1)).astype(np.float32)
    return generator.integers(gymnasium_env(name).action_space.n, size=count)


def gymnasium_transition(env, state, action):
    env.reset(seed=0)
    env.unwrapped.state = np.asarray(state, np.float64)
    return env.unwrapped.step(action)[:3]


def our_transitions(env, name, states, actions):
    def one(state, action):
        first, _ = env.reset(jax.random.key(0))
        first = first.replace(**dict(zip(STATE_FIELDS[name], state, strict=True)))
        _, timestep = env.step(jax.random.key(1), first, action)
        return timestep.observation, timestep.reward, timestep.terminated

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(states, actions))


@pytest.mark.parametrize("name", NAMES)
def test_a_transition_from_any_state_is_gymnasiums(name):
    generator = np.random.default_rng(0)
    states, actions = random_states(name, generator, 400), random_actions(name, generator, 400)
    theirs = [gymnasium_transition(env, s, a) for env in [gymnasium_env(name)] for s, a in zip(states, actions)]
    observations, rewards, terminated = (np.stack([np.asarray(t[k], np.float64) for t in theirs]) for k in range(3))
    ours = our_transitions(jaxpg.make(name), name, states, actions)

    np.testing.assert_array_equal(ours[2], terminated)
    np.testing.assert_allclose(ours[1], rewards, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours[0], observations, rtol=1e-4, atol=1e-4)
    if name not in ("Pendulum-v1",):  # The one that never terminates.
        assert 0 < terminated.sum() < 400


def test_where_gymnax_differs_from_gymnasium():
    """gymnax's MountainCarContinuous keeps its speed at the left wall: that alone, and `make` corrects it."""
    import gymnax

    name = "MountainCarContinuous-v0"
    generator = np.random.default_rng(1)
    states, actions = random_states(name, generator, 2_000), random_actions(name, generator, 2_000)
    states = states[states[:, 0] < 0.45]  # Beyond the goal there is no next step.
    actions = actions[: len(states)]
    ours, _, _ = our_transitions(jaxpg.make(name), name, states, actions)
    gymnaxs, _, _ = our_transitions(envs.from_gymnax(*gymnax.make(name)), name, states, actions)

    different = np.abs(ours - gymnaxs).max(axis=1) > 1e-6
    at_wall_and_leftward = (gymnaxs[:, 0] == np.float32(-1.2)) & (gymnaxs[:, 1] < 0)
    np.testing.assert_array_equal(different, at_wall_and_leftward)
    assert different.sum() > 20
    assert (ours[different, 1] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_initial_states_and_limits_are_gymnasiums(name):
    theirs = gymnasium_env(name)
    ours = jaxpg.make(name)
    assert ours.max_steps == theirs.spec.max_episode_steps
    first = np.stack([theirs.reset(seed=seed)[0] for seed in range(1_000)])
    _, mine = jax.vmap(ours.reset)(jax.random.split(jax.random.key(0), 1_000))
    for column in range(first.shape[1]):
        if np.ptp(first[:, column]) > 0:
            assert scipy.stats.ks_2samp(first[:, column], np.asarray(mine[:, column])).pvalue > 1e-4
        else:
            np.testing.assert_array_equal(mine[:, column], first[:, column])


def test_a_longer_pole_falls_as_gymnasiums():
    """`length` alone moves the pole's mass times length too, as a longer pole does."""
    name, theirs = "CartPole-v1", gymnasium_env("CartPole-v1")
    inner = theirs.unwrapped
    inner.length, inner.masspole = 1.0, 0.3
    inner.total_mass, inner.polemass_length = inner.masscart + inner.masspole, inner.masspole * inner.length
    generator = np.random.default_rng(2)
    states, actions = random_states(name, generator, 50), random_actions(name, generator, 50)
    expected = np.stack([gymnasium_transition(theirs, s, a)[0] for s, a in zip(states, actions)])
    observations, _, _ = our_transitions(jaxpg.make(name, length=1.0, masspole=0.3), name, states, actions)
    np.testing.assert_allclose(observations, expected, rtol=1e-4, atol=1e-4)


# Returns: policies (module, observation, u) -> action, the same for numpy and jax.numpy; u is uniform in [0, 1).


def chooses(n):
    return lambda xp, observation, u: xp.asarray(xp.floor(n * u), dtype=xp.int32)


def always(action):
    return lambda xp, observation, u: xp.asarray(action)


def pushes_under_the_pole(xp, observation, u):
    return xp.where(observation[2] > 0, 1, 0)


def swings_with_the_first_link(xp, observation, u):
    return xp.where(observation[4] > 0, 0, 2)


def turns_upright(xp, observation, u):
    cosine, sine, velocity = observation
    spin = xp.where(velocity > 0, 2.0, -2.0)  # Add energy below, hold above.
    return xp.reshape(xp.where(cosine > 0.8, -10.0 * sine - 2.0 * velocity, spin), (1,))


def drives_with_the_motion(xp, observation, u):
    return xp.where(observation[1] < 0, 0, 2)


def pushes_with_the_motion(force):
    return lambda xp, observation, u: xp.reshape(xp.where(observation[1] < 0, -force, force), (1,))


CASES = {  # (environment, policy): gymnasium's episodes.
    ("CartPole-v1", "random"): (chooses(2), 400),
    ("CartPole-v1", "constant"): (always(0), 200),
    ("CartPole-v1", "feedback"): (pushes_under_the_pole, 200),
    ("Acrobot-v1", "random"): (chooses(3), 24),
    ("Acrobot-v1", "constant"): (always(2), 4),
    ("Acrobot-v1", "feedback"): (swings_with_the_first_link, 100),
    ("Pendulum-v1", "random"): (lambda xp, o, u: xp.reshape(4 * u - 2, (1,)), 100),
    ("Pendulum-v1", "constant"): (lambda xp, o, u: xp.ones(1), 100),
    ("Pendulum-v1", "feedback"): (turns_upright, 100),
    ("MountainCar-v0", "random"): (chooses(3), 10),
    ("MountainCar-v0", "constant"): (always(2), 10),
    ("MountainCar-v0", "feedback"): (drives_with_the_motion, 200),
    ("MountainCarContinuous-v0", "random"): (lambda xp, o, u: xp.reshape(2 * u - 1, (1,)), 30),
    ("MountainCarContinuous-v0", "constant"): (lambda xp, o, u: xp.ones(1), 4),
    ("MountainCarContinuous-v0", "feedback"): (pushes_with_the_motion(1.0), 60),
    ("MountainCarContinuous-v0", "too strong"): (pushes_with_the_motion(1.3), 60),
}


def gymnasium_returns(name, policy, episodes):
    env, generator, returns = gymnasium_env(name), np.random.default_rng(0), []
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        total, ended = 0.0, False
        while not ended:
            action = policy(np, observation, generator.uniform())
            action = action.astype(np.float32) if action.ndim else int(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, ended = total + reward, terminated or truncated
        returns.append(total)
    return np.asarray(returns)


def our_returns(env, policies, episodes=512):
    """[policies, episodes]: one program plays them all."""

    def play(which, key):
        state, observation = env.reset(jax.random.fold_in(key, 0))

        def step(carry, time):
            state, observation, alive = carry
            step_key, action_key = jax.random.split(jax.random.fold_in(key, time + 1))
            u = jax.random.uniform(action_key)
            actions = [jnp.asarray(policy(jnp, observation, u), env.action_space.dtype) for policy in policies]
            state, timestep = env.step(step_key, state, jnp.stack(actions)[which])
            reward = jnp.where(alive, timestep.reward, 0.0)
            return (state, timestep.observation, alive & ~(timestep.terminated | timestep.truncated)), reward

        _, rewards = jax.lax.scan(step, (state, observation, True), jnp.arange(env.max_steps))
        return rewards.sum()

    keys = jax.random.split(jax.random.key(0), (len(policies), episodes))
    return np.asarray(jax.jit(jax.vmap(jax.vmap(play, (None, 0))))(jnp.arange(len(policies)), keys), np.float64)


def standardized_difference(theirs, ours):
    """z of the difference of the means, with the pooled variance: the few of gymnasium may miss a rare event.

    Sums of rewards in float32 are rounded at 1e-5 of their size.
    """
    rounding = 1e-5 * (1 + abs(theirs.mean()))
    pooled = sum(x.var() * len(x) for x in (theirs, ours)) / (len(theirs) + len(ours) - 2)
    variance = pooled * (1 / len(theirs) + 1 / len(ours)) + rounding**2
    return (theirs.mean() - ours.mean()) / math.sqrt(variance)


@pytest.mark.slow
def test_fixed_policies_give_gymnasiums_mean_returns():
    """All z together: Σ z² is χ² with one degree of freedom for each case; false alarm 1e-4 (the seeds are fixed)."""
    z = {}
    for name in NAMES:
        cases = {kind: case for (environment, kind), case in CASES.items() if environment == name}
        ours = our_returns(jaxpg.make(name), [policy for policy, _ in cases.values()])
        for row, (kind, (policy, episodes)) in zip(ours, cases.items(), strict=True):
            z[name, kind] = standardized_difference(gymnasium_returns(name, policy, episodes), row)
    assert len(z) == len(CASES)
    report = "\n".join(f"{name} {kind}: z = {value:+.2f}" for (name, kind), value in z.items())
    assert sum(value**2 for value in z.values()) < scipy.stats.chi2.ppf(1 - 1e-4, len(z)), report


def test_the_criterion_sees_what_gymnax_has_otherwise():
    """The same criterion rejects gymnax's own MountainCarContinuous."""
    import gymnax

    name, (policy, episodes) = "MountainCarContinuous-v0", CASES["MountainCarContinuous-v0", "feedback"]
    (ours,) = our_returns(envs.from_gymnax(*gymnax.make(name)), [policy])
    z = standardized_difference(gymnasium_returns(name, policy, episodes), ours)
    assert z**2 > scipy.stats.chi2.ppf(1 - 1e-4, len(CASES))
