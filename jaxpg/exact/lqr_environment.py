"""A linear-quadratic regulator played as an `Environment`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.spaces import Box

__all__ = ["LQRState", "make"]


class LQRState(NamedTuple):
    """The state x [n] and the number of steps taken."""

    x: jax.Array
    time: jax.Array


def make(lqr: Any, *, max_steps: int | None) -> Environment:
    """`lqr` as an environment; see `LQR.environment`."""
    max_steps = _check.optional(_check.count, "max_steps", max_steps)
    if max_steps is None and lqr.horizon is None:
        raise ValueError(
            "max_steps is required where the LQR's horizon is None: give the length at which episodes are truncated"
        )
    limit = min(bound for bound in (max_steps, lqr.horizon) if bound is not None)
    dtype = lqr.A.dtype

    def gaussian(key: jax.Array, factor: jax.Array) -> jax.Array:
        return _product(factor, jax.random.normal(key, (factor.shape[1],), dtype))

    initial = jnp.eye(lqr.state_size, dtype=dtype) if lqr.initial is None else lqr.initial

    def reset(key: jax.Array) -> tuple[LQRState, jax.Array]:
        x = gaussian(key, initial)
        return LQRState(x, jnp.zeros((), jnp.int32)), x

    def step(key: jax.Array, state: LQRState, action: jax.Array) -> tuple[LQRState, Timestep]:
        action = jnp.asarray(action, dtype)
        reward = -(state.x @ _product(lqr.Q, state.x) + action @ _product(lqr.R, action))
        x = _product(lqr.A, state.x) + _product(lqr.B, action)
        if lqr.noise is not None:
            x = x + gaussian(key, lqr.noise)
        time = state.time + 1
        terminated = jnp.zeros((), bool) if lqr.horizon is None else time >= lqr.horizon
        return LQRState(x, time), Timestep(x, reward, terminated, (time >= limit) & ~terminated)

    def unbounded(size: int) -> Box:
        return Box(-float("inf"), float("inf"), (size,), dtype)

    return Environment(
        reset=reset,
        step=step,
        observation_space=unbounded(lqr.state_size),
        action_space=unbounded(lqr.action_size),
        max_steps=limit,
        name=f"LQR({lqr.state_size} states, {lqr.action_size} actions)",
    )


def _product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """At full precision: accelerators round the inputs of float32 products unless they are told not to."""
    return jnp.matmul(matrix, vector, precision="highest")
