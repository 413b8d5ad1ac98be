"""A finite MDP played as an `Environment`: what is sampled here is what is known exactly elsewhere."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.spaces import Discrete

__all__ = ["FiniteState", "make"]


class FiniteState(NamedTuple):
    """The state's index and the number of steps taken: integer scalars."""

    index: jax.Array
    time: jax.Array


def make(mdp: Any, *, max_steps: int | None, geometric_stopping: bool) -> Environment:
    """`mdp` as an environment; see `FiniteMDP.environment`."""
    max_steps = _check.optional(_check.count, "max_steps", max_steps)
    if max_steps is None and mdp.horizon is None:
        raise ValueError(
            "max_steps is required where the MDP's horizon is None: give the length at which episodes are truncated"
        )
    limit = min(bound for bound in (max_steps, mdp.horizon) if bound is not None)
    initial_cumulative = jnp.cumsum(mdp.initial)
    cumulative = jnp.cumsum(mdp.transition, axis=-1)

    def reset(key: jax.Array) -> tuple[FiniteState, jax.Array]:
        index = _categorical(key, initial_cumulative)
        return FiniteState(index, jnp.zeros((), jnp.int32)), index

    def step(key: jax.Array, state: FiniteState, action: jax.Array) -> tuple[FiniteState, Timestep]:
        transition_key = stopping_key = key
        if geometric_stopping:
            transition_key, stopping_key = jax.random.split(key)
        index = _categorical(transition_key, cumulative[state.index, action])
        reward = mdp.reward[state.index, action]
        time = state.time + 1
        terminated = jnp.zeros((), bool) if mdp.terminal is None else mdp.terminal[index]
        if mdp.horizon is not None:
            terminated |= time >= mdp.horizon
        if geometric_stopping:
            terminated |= jax.random.uniform(stopping_key, dtype=mdp.discount.dtype) >= mdp.discount
        truncated = (time >= limit) & ~terminated
        return FiniteState(index, time), Timestep(
            index, reward[index] if reward.ndim else reward, terminated, truncated
        )

    return Environment(
        reset=reset,
        step=step,
        observation_space=Discrete(mdp.num_states),
        action_space=Discrete(mdp.num_actions),
        max_steps=limit,
        name=f"FiniteMDP({mdp.num_states} states, {mdp.num_actions} actions)",
    )


def _categorical(key: jax.Array, cumulative: jax.Array) -> jax.Array:
    """A draw from the distribution with these cumulative sums, by inverting them; never an index of probability 0."""
    # u < 1 strictly, so u·total < total: the count stops before trailing zeros; `<=` steps over leading ones.
    threshold = jax.random.uniform(key, dtype=cumulative.dtype) * cumulative[-1]
    return jnp.sum(cumulative <= threshold, dtype=jnp.int32)
