"""A policy or critic along one lane's steps: the memory flows from step to step and begins anew with each episode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["unroll"]


def _itself(output: Any) -> Any:
    return output


def unroll(
    model: Any,
    params: Any,
    observations: Any,
    starts: Any,
    carry: Any,
    measure: Callable[..., Any] = _itself,
    *extra: Any,
) -> tuple[Any, Any]:
    """What a model gives at each of T consecutive steps of one lane, and its memory behind the last.

        (y_t, h_t) = apply(params, s_t, h'_t),    h'_t = initial_carry where starts_t, else h_{t−1}

    A model without memory is mapped over the steps. One with memory runs its own `unroll`, or `apply` step by step.

    Args:
      model: a `Policy` or `Critic`.
      observations: pytree of arrays [T, …].
      starts: booleans [T], whether an episode begins with the step; not looked at without memory.
      carry: h_{−1}, the memory before the first step; None for a model without memory.
      measure: (y_t, *extra_t) -> pytree of arrays, what is kept of each step's output (a distribution or a value).
        The output itself by default: then a policy's distributions must be pytrees, as they must be for its `unroll`.
      extra: pytrees of arrays [T, …], further arguments of `measure`, such as the actions taken.

    Returns:
      (measured [T, …], h_{T−1}); the second is None without memory.
    Raises:
      ValueError: a carry that is not like the model's `initial_carry`.
    """
    if model.initial_carry is None:
        if carry is not None:
            raise ValueError("carry must be None for a model without memory (initial_carry is None)")

        def one(observation: Any, *extra: Any) -> Any:
            return measure(model.apply(params, observation), *extra)

        return jax.vmap(one)(observations, *extra), None

    expected, given = (jax.tree.map(jnp.shape, tree) for tree in (model.initial_carry, carry))
    if expected != given:
        raise ValueError(f"carry must have the structure and shapes of initial_carry, {expected}; got {given}")
    if model.unroll is not None:
        outputs, carry = model.unroll(params, observations, starts, carry)
        return jax.vmap(measure)(outputs, *extra), carry

    def step(carry: Any, row: tuple[Any, ...]) -> tuple[Any, Any]:
        observation, start, *extra = row
        before = jax.tree.map(lambda first, h: jnp.where(start, first, h).astype(h.dtype), model.initial_carry, carry)
        output, after = model.apply(params, observation, before)
        # A scan's carry keeps its dtype, whatever the model computes in.
        after = jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), after, carry)
        return after, measure(output, *extra)

    carry = jax.tree.map(jnp.asarray, carry)
    carry, measured = jax.lax.scan(step, carry, (observations, jnp.asarray(starts, bool), *extra))
    return measured, carry
