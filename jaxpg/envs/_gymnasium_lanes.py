"""Environments played step by step from the host: one, or many side by side, in compiled functions.

An episode's keys are those of `jaxpg.lanes`: e = fold_in(key of the seed, number of the episode), from which the reset
and each step have theirs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg._threefry import fold_in
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.wrappers._wrap import select, strong
from jaxpg.envs.wrappers.time import time_limit

__all__ = ["Lane", "compiled", "compiled_vector", "inner_state"]


class Lane(NamedTuple):
    """Where an episode is.

    Fields:
      key: words of the key of the seed: a typed key would cost each call of a compiled function its fast path.
      episode: its number under that seed.
      state: of the environment with its limit. time: the steps taken. returns: the sum of their rewards.
      ended: whether it is over.
    """

    key: jax.Array
    episode: jax.Array
    state: Any
    time: jax.Array
    returns: jax.Array
    ended: jax.Array


def inner_state(env: Environment, state: Any) -> Any:
    """The state of `env` in a lane's."""
    return state if env.max_steps is None else state.inner


@functools.lru_cache(maxsize=64)
def compiled(env: Environment) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """One environment: (key, episode) -> (lane, observation) and (lane, action) -> (lane, timestep)."""
    env = _limited(env)
    return jax.jit(functools.partial(_start, env)), jax.jit(functools.partial(_step, env))


@functools.lru_cache(maxsize=64)
def compiled_vector(env: Environment, same_step: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Many environments: (keys, episodes) -> (lanes, observations), (lanes, actions) -> (lanes, timesteps, final).

    Episodes that ended start anew: with `same_step` at once, and then `final` are the observations that the steps led
    to; else with the next step, which does nothing more, and `final` is None.
    """
    env = _limited(env)
    start = jax.vmap(functools.partial(_start, env))

    def step(lanes: Lane, actions: Any) -> tuple[Lane, Timestep, Any]:
        before = lanes.ended
        lanes, timestep = jax.vmap(functools.partial(_step, env))(lanes, actions)
        final = timestep.observation
        ended = lanes.ended if same_step else before

        def with_new(lanes: Lane, observation: Any) -> tuple[Lane, Any]:
            return jax.vmap(select)(ended, start(lanes.key, lanes.episode + 1), (lanes, observation))

        # Most steps end no episode, and a reset may cost more than a step.
        lanes, observation = jax.lax.cond(jnp.any(ended), with_new, lambda *same: same, lanes, final)
        timestep = timestep._replace(observation=observation)
        if same_step:
            return lanes, timestep, final
        timestep = timestep._replace(
            reward=jnp.where(before, 0, timestep.reward),
            terminated=timestep.terminated & ~before,
            truncated=timestep.truncated & ~before,
        )
        return lanes, timestep, None

    return jax.jit(start), jax.jit(step)


def _limited(env: Environment) -> Environment:
    return env if env.max_steps is None else time_limit(env, env.max_steps)


def _episode_key(words: jax.Array, episode: jax.Array) -> jax.Array:
    return fold_in(jax.random.wrap_key_data(words), episode)


def _start(env: Environment, key: jax.Array, episode: jax.Array) -> tuple[Lane, Any]:
    state, observation = env.reset(fold_in(_episode_key(key, episode), 0))
    returns = jnp.zeros((), jnp.result_type(float))
    lane = Lane(key, episode, state, jnp.zeros((), jnp.int32), returns, jnp.zeros((), bool))
    return jax.tree.map(strong, (lane, observation))


def _step(env: Environment, lane: Lane, action: Any) -> tuple[Lane, Timestep]:
    from jaxpg.lanes import key_for_environment  # Rollouts stand on environments: not at the top of this file.

    key = fold_in(_episode_key(lane.key, lane.episode), lane.time + 1)
    state, timestep = jax.tree.map(strong, env.step(key_for_environment(key), lane.state, action))
    return lane._replace(
        state=state,
        time=lane.time + 1,
        returns=lane.returns + timestep.reward.astype(lane.returns.dtype),
        ended=timestep.terminated | timestep.truncated,
    ), timestep
