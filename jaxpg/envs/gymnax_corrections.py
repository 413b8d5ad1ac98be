"""Where gymnax 1.0 plays a gymnasium environment by other rules than gymnasium: the gymnasium rule."""

from typing import Any

import jax.numpy as jnp

__all__ = ["corrected"]


def corrected(name: str, gymnax_env: Any) -> Any:
    """`gymnax_env`, or a subclass of it with gymnasium's rules."""
    return _mountain_car_continuous(gymnax_env) if name == "MountainCarContinuous-v0" else gymnax_env


def _mountain_car_continuous(gymnax_env: Any) -> Any:
    """MountainCarContinuous-v0 whose walls are inelastic on the left.

    gymnasium sets a negative velocity to 0 at `min_position`; gymnax 1.0 does so at `goal_position` instead, so its car
    keeps its speed at the left wall and, where `goal_velocity` is above 0, loses it on the goal. Source: gymnasium,
    `envs/classic_control/continuous_mountain_car.py`.
    """
    from gymnax.environments.classic_control import continuous_mountain_car

    class ContinuousMountainCar(type(gymnax_env)):
        def step_env(self, key: Any, state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, dict]:
            del key
            action = jnp.asarray(action).reshape(())
            force = jnp.clip(action, params.min_action, params.max_action)
            velocity = state.velocity + force * params.power - params.gravity * jnp.cos(3 * state.position)
            velocity = jnp.clip(velocity, -params.max_speed, params.max_speed)
            position = jnp.clip(state.position + velocity, params.min_position, params.max_position)
            velocity = jnp.where((position == params.min_position) & (velocity < 0), 0.0, velocity)

            state = continuous_mountain_car.EnvState(position=position, velocity=velocity, time=state.time + 1)
            terminated = self.is_terminated(state, params)
            reward = jnp.where(terminated, 100.0, 0.0) - 0.1 * action**2
            observation, state = self._apply_transition_gradient_policy(self.get_obs(state), state)
            return observation, state, reward, terminated, {"discount": self.discount(state, params)}

    return ContinuousMountainCar()
