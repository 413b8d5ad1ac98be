"""Returns and advantages of stored rewards: backward recursions along time, as functions of arrays."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check

__all__ = ["backward_recursion", "discounted_returns", "generalized_advantages"]


def discounted_returns(rewards: jax.Array, discounts: jax.Array) -> jax.Array:
    """Discounted returns: G_t = r_t + d_t G_{t+1}, with G behind the last step = 0.

    Args:
      rewards: floats, time-major [T, ...].
      discounts: d_t, of the same shape, or a scalar; 0 at the last step of an episode.
    Returns:
      Returns, shaped like `rewards`.
    Source: Sutton & Barto (2018), equation 3.9.
    """
    rewards = _time_major("rewards", rewards)
    discounts = jnp.broadcast_to(discounts, rewards.shape) if jnp.ndim(discounts) == 0 else jnp.asarray(discounts)
    _same_shape(rewards=rewards, discounts=discounts)
    return backward_recursion(rewards, discounts.astype(rewards.dtype))


def generalized_advantages(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Any,
    lambda_: Any,
) -> jax.Array:
    """Generalized advantage estimates: A_t = δ_t + γλ (1 − ended_t) A_{t+1}.

    δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t). `next_values[t]` is the value of the observation that step t
    led to, before any reset: a truncated step still bootstraps from it, a terminated one does not, and neither passes
    an advantage back from the episode after it.

    Args:
      rewards, values, next_values: floats, time-major [T, ...].
      terminated, truncated: booleans of the same shape.
      discount, lambda_: γ and λ, scalars in [0, 1].
    Returns:
      Advantages, shaped like `rewards`.
    Source: Schulman et al. (2016), equation 16.
    """
    discount, lambda_ = _check.unit("discount", discount), _check.unit("lambda_", lambda_)
    rewards = _time_major("rewards", rewards)
    values, next_values = jnp.asarray(values, rewards.dtype), jnp.asarray(next_values, rewards.dtype)
    terminated, truncated = _flags("terminated", terminated), _flags("truncated", truncated)
    _same_shape(rewards=rewards, values=values, next_values=next_values, terminated=terminated, truncated=truncated)
    deltas = rewards + discount * jnp.where(terminated, 0.0, next_values) - values
    return backward_recursion(deltas, jnp.where(terminated | truncated, 0.0, discount * lambda_).astype(deltas.dtype))


def backward_recursion(increments: jax.Array, decays: jax.Array) -> jax.Array:
    """Ψ_t = x_t + c_t Ψ_{t+1} along the first axis, with Ψ behind the last step = 0."""
    increments, decays = _time_major("increments", increments), _check.array("decays", decays)
    _same_shape(increments=increments, decays=decays)

    def backward(weight, step):
        increment, decay = step
        weight = increment + decay * weight
        return weight, weight

    _, weights = jax.lax.scan(backward, jnp.zeros_like(increments[0]), (increments, decays), reverse=True)
    return weights


def _time_major(argument: str, array: Any) -> jax.Array:
    array = _check.array(argument, array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    if array.ndim == 0:
        raise ValueError(f"{argument} must be time-major [T] or [T, ...]; got a scalar")
    if array.shape[0] == 0:
        raise ValueError(f"{argument} must hold at least one step; got shape {array.shape}")
    return array


def _flags(argument: str, array: Any) -> jax.Array:
    array = _check.array(argument, array)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{argument} must be boolean; got dtype {array.dtype}")
    return array


def _same_shape(**arrays: jax.Array) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{', '.join(shapes)} must have one shape; got "
            f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())}"
        )
