"""What gymnax 1.0 has otherwise than gymnasium, or than it does itself: corrected for `make`.

- MountainCarContinuous-v0: the left wall (`_mountain_car_continuous`).
- MemoryChain, UmbrellaChain, MetaMaze, BernoulliBandit, GaussianBandit: bounds of the observation space that their
  observations leave (`corrected_bounds`).

CartPole, Acrobot, Pendulum and MountainCar have gymnasium's initial states, dynamics, rewards, thresholds and limits.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpg.envs.spaces import Box

__all__ = ["corrected_bounds", "corrected_rules"]


def corrected_rules(name: str, gymnax_env: Any) -> Any:
    """`gymnax_env`, or a variant of it with gymnasium's rules."""
    return _mountain_car_continuous(gymnax_env) if name == "MountainCarContinuous-v0" else gymnax_env


def _mountain_car_continuous(gymnax_env: Any) -> Any:
    """MountainCarContinuous-v0 with gymnasium's wall.

    At `min_position` gymnasium sets a negative velocity to 0. gymnax 1.0 has `goal_position` in that line: its car
    keeps its speed at the left wall and, for a `goal_velocity` above 0, loses a negative one on the goal.
    Source: gymnasium, `envs/classic_control/continuous_mountain_car.py`.
    """

    class ContinuousMountainCar(type(gymnax_env)):
        def step_env(self, key: Any, state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, dict]:
            del key
            action = jnp.asarray(action).reshape(())
            force = jnp.clip(action, params.min_action, params.max_action)
            velocity = state.velocity + force * params.power - params.gravity * jnp.cos(3 * state.position)
            velocity = jnp.clip(velocity, -params.max_speed, params.max_speed)
            position = jnp.clip(state.position + velocity, params.min_position, params.max_position)
            velocity = jnp.where((position == params.min_position) & (velocity < 0), 0.0, velocity)

            state = state.replace(position=position, velocity=velocity, time=state.time + 1)
            terminated = self.is_terminated(state, params)
            reward = jnp.where(terminated, 100.0, 0.0) - 0.1 * action**2
            observation, state = self._apply_transition_gradient_policy(self.get_obs(state), state)
            return observation, state, reward, terminated, {}

    return ContinuousMountainCar()


def corrected_bounds(name: str, space: Any) -> Any:
    """`space`, the observation space of environment `name`, wide enough for its observations."""
    if name not in _BOUNDS:
        return space
    low, high = (np.broadcast_to(bound, space.shape).copy() for bound in (space.low, space.high))
    _BOUNDS[name](low, high)
    return Box(low, high, space.shape, space.dtype)


def _memory_chain(low: np.ndarray, high: np.ndarray) -> None:
    """[1 − time/length, query, context ∈ {−1, 0, 1}, …], the first 0 up to rounding; gymnax: [0, 2 · bits]."""
    low[0], high[0], low[2:], high[2:] = -1e-6, 1.0, -1.0, 1.0


def _umbrella_chain(low: np.ndarray, high: np.ndarray) -> None:
    """Entry 2 is 1 − time/length, 0 up to rounding; gymnax: [0, 1]."""
    low[2] = -1e-6


def _meta_maze(low: np.ndarray, high: np.ndarray) -> None:
    """The last entries are the reward (goal + wall, by the parameters) and the time, raw or from −1; gymnax: [0, 1]."""
    low[-2:], high[-2] = (-np.inf, -1.0), np.inf


def _bandit(low: np.ndarray, high: np.ndarray) -> None:
    """[reward, arm, arm, time]: a Gaussian reward; the time from −1, above 1 past step 100; gymnax: [0, 2], [·, 1]."""
    low[0], high[0], low[-1], high[-1] = -np.inf, np.inf, -1.0, np.inf


_BOUNDS: Mapping[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "MemoryChain-bsuite": _memory_chain, "UmbrellaChain-bsuite": _umbrella_chain, "MetaMaze-misc": _meta_maze,
    "BernoulliBandit-misc": _bandit, "GaussianBandit-misc": _bandit,
}  # fmt: skip
