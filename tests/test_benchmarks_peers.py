"""PPO beside its peers: their environment is the same, and they take turns."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import peer_brax

# --- The pendulum -----------------------------------------------------------------------------------------------------


def position_before_speed(theta, theta_dot, torque):
    """The classic mistake: θ moves by the old velocity."""
    found = peer_brax.swing(theta, theta_dot, torque)
    return found._replace(theta=theta + 0.05 * theta_dot)


def reward_afterwards(theta, theta_dot, torque):
    """The reward of the state that the step leads to."""
    found = peer_brax.swing(theta, theta_dot, torque)
    return found._replace(reward=peer_brax.swing(found.theta, found.theta_dot, torque).reward)


def any_torque(theta, theta_dot, torque):
    """A torque that is not limited."""
    free = peer_brax.swing(theta, theta_dot, jnp.zeros(()))
    theta_dot = jnp.clip(free.theta_dot + 0.15 * torque, -8.0, 8.0)
    return free._replace(theta_dot=theta_dot, theta=theta + 0.05 * theta_dot)


def distance_from_gymnax(swing):
    """The largest difference in what a step leads to, over states within and at their limits."""
    env, params = gymnax.make("Pendulum-v1")
    draw = np.random.default_rng(0)
    theta, theta_dot, torque = (jnp.asarray(draw.uniform(-x, x, 500), jnp.float32) for x in (10.0, 8.0, 4.0))

    def both(theta, theta_dot, torque):
        _, state = env.reset_env(jax.random.key(0), params)
        state = state.replace(theta=theta, theta_dot=theta_dot)
        observation, state, reward, _, _ = env.step_env(jax.random.key(0), state, torque[None], params)
        found = swing(theta, theta_dot, torque)
        ours = [*found, *peer_brax.observe(found.theta, found.theta_dot)]
        return jnp.stack([state.theta, state.theta_dot, reward, *observation]), jnp.stack(ours)

    theirs, ours = jax.jit(jax.vmap(both))(theta, theta_dot, torque)
    return float(jnp.max(jnp.abs(theirs - ours)))


def test_brax_s_pendulum_is_gymnax_s():
    assert distance_from_gymnax(peer_brax.swing) < 1e-5
    for mistake in (position_before_speed, reward_afterwards, any_torque):
        assert distance_from_gymnax(mistake) > 0.01, mistake
    env, params = gymnax.make("Pendulum-v1")
    assert peer_brax.LIMIT == params.max_steps_in_episode
    for seed in range(3):
        observation, state = env.reset_env(jax.random.key(seed), params)
        np.testing.assert_array_equal(peer_brax.first(jax.random.key(seed)), [state.theta, state.theta_dot])
        np.testing.assert_allclose(peer_brax.observe(state.theta, state.theta_dot), observation, rtol=1e-6)


# --- Turns ------------------------------------------------------------------------------------------------------------


class Slow(peer_brax.Turns):
    """`train` of so many epochs, which are only counted."""

    epochs = 0

    def _train(self, rate, updates, epochs=1, seed=0, progress=lambda *_: None):
        for self.epochs in range(1, min(epochs, 4) + 1):
            progress(self.epochs * updates, {})
        raise ValueError("no more epochs")


def test_an_epoch_of_brax_is_played_when_it_is_asked_for():
    turns = Slow({"num_envs": 2, "num_steps": 3})
    assert set(turns.prepare([1e-3], 5)) == {"compile_seconds"} and turns.epochs == 2
    for epochs in (3, 4):
        assert set(turns.run(1)) == {"seconds", "processor_seconds"} and turns.epochs == epochs
    with pytest.raises(ValueError, match="no more epochs"):
        turns.run(1)
