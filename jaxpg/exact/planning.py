"""Optimal values and policies of a finite MDP."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.exact import evaluation

__all__ = ["optimal"]


@jax.jit
def optimal(mdp: Any) -> tuple[jax.Array, jax.Array]:
    """(V*, actions): backward induction, [H, S] both; policy iteration without a horizon, [S] both."""
    return _policy_iteration(mdp) if mdp.horizon is None else _backward_induction(mdp)


def _q_values(mdp: Any, value: jax.Array) -> jax.Array:
    return evaluation.expected_reward(mdp) + mdp.discount * jnp.einsum("sat,t->sa", evaluation.survival(mdp), value)


def _backward_induction(mdp: Any) -> tuple[jax.Array, jax.Array]:
    def backward(value: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        q_values = _q_values(mdp, value)
        value = jnp.max(q_values, -1)
        return value, (value, jnp.argmax(q_values, -1))

    start = jnp.zeros(mdp.num_states, mdp.transition.dtype)
    return jax.lax.scan(backward, start, None, length=mdp.horizon, reverse=True)[1]


def _policy_iteration(mdp: Any) -> tuple[jax.Array, jax.Array]:
    """Howard's policy iteration from the greedy answer to the uniform policy, until no action improves by more than
    rounding error. The last policy's values are a linear solve, so they are exact and differentiable."""
    dtype = mdp.transition.dtype
    tolerance = 100 * jnp.finfo(dtype).eps
    uniform = jnp.full((mdp.num_states, mdp.num_actions), 1.0 / mdp.num_actions, dtype)

    def improve(actions: jax.Array, value: jax.Array) -> jax.Array:
        q_values = _q_values(mdp, value)
        current = jnp.take_along_axis(q_values, actions[:, None], 1)[:, 0]
        better = jnp.max(q_values, -1) > current + tolerance * (1.0 + jnp.max(jnp.abs(q_values)))
        return jnp.where(better, jnp.argmax(q_values, -1), actions)  # Kept on ties, so that it stops.

    def table(actions: jax.Array) -> jax.Array:
        return jax.nn.one_hot(actions, mdp.num_actions, dtype=dtype)

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        actions, improved, count = carry
        return jnp.any(actions != improved) & (count < mdp.num_states * mdp.num_actions + 100)

    def iterate(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, actions, count = carry
        return actions, improve(actions, evaluation.values(mdp, table(actions))), count + 1

    first = jnp.argmax(_q_values(mdp, evaluation.values(mdp, uniform)), -1)
    start = (first, improve(first, evaluation.values(mdp, table(first))), jnp.zeros((), jnp.int32))
    actions = jax.lax.stop_gradient(jax.lax.while_loop(unfinished, iterate, start)[1])
    value = evaluation.values(mdp, table(actions))
    q_values = _q_values(mdp, value)
    margin = tolerance * (1.0 + jnp.max(jnp.abs(q_values)))
    return value, jnp.argmax(q_values >= jnp.max(q_values, -1, keepdims=True) - margin, -1)
