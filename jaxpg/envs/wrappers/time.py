"""Wrappers of time: a limit, and actions that are held for several steps."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg._threefry import fold_in
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.check import check_structure
from jaxpg.envs.wrappers._wrap import check_environment, inner_state, kept, select, strong, wrapped

__all__ = ["TimedState", "action_repeat", "time_limit"]


class TimedState(NamedTuple):
    """The state within, and the number of steps taken: integer scalar."""

    inner: Any
    time: jax.Array


def time_limit(env: Environment, max_steps: int) -> Environment:
    """`env` with episodes of at most `max_steps` steps: the last one is truncated, by `step` itself.

    Where the episode ends by itself at that very step, `terminated` and `truncated` are both true.

    Raises:
      ValueError: `env.max_steps` is smaller: `env.step` may end episodes there. A longer limit is a matter of building
        the environment: `jaxpg.make(name, max_steps=...)`.
    """
    env, max_steps = check_environment(env), _check.count("max_steps", max_steps)
    if env.max_steps is not None and max_steps > env.max_steps:
        raise ValueError(
            f"max_steps must be at most {env.max_steps}, the limit of {env.name}, whose step may end episodes there; "
            f"got {max_steps}: build the environment with the longer limit, as jaxpg.make(name, max_steps={max_steps})"
        )

    def reset(key: jax.Array) -> tuple[TimedState, Any]:
        state, observation = env.reset(key)
        return TimedState(state, jnp.zeros((), jnp.int32)), observation

    def step(key: jax.Array, state: TimedState, action: Any) -> tuple[TimedState, Timestep]:
        inner, timestep = env.step(key, state.inner, action)
        time = state.time + 1
        return TimedState(inner, time), timestep._replace(truncated=timestep.truncated | (time >= max_steps))

    def build() -> Environment:
        return wrapped(env, f"limit {max_steps}", inner=inner_state, reset=reset, step=step, max_steps=max_steps)

    return kept(build, time_limit, env, max_steps)


def action_repeat(env: Environment, num_repeats: int) -> Environment:
    """Each action is taken `num_repeats` times; one step sums their rewards.

    An episode that ends in between ends the step there: no later reward counts, and the observation is the one it ended
    with. `max_steps` becomes ⌈max_steps / num_repeats⌉; the steps of `env` are counted, so its last action is held
    for fewer of them where the limit is no multiple. Step i of them has the key fold_in(key of the step, i).
    """
    env, num_repeats = check_environment(env), _check.count("num_repeats", num_repeats)
    # The rollout would see the limit only after the last repeat.
    limited = env if env.max_steps is None else time_limit(env, env.max_steps)
    max_steps = None if env.max_steps is None else -(-env.max_steps // num_repeats)

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Timestep]:
        float_dtype = jnp.result_type(float)

        def repeat(carry: Any, index: jax.Array) -> tuple[Any, None]:
            state, timestep = carry
            ended = timestep.terminated | timestep.truncated
            after, new = jax.tree.map(strong, limited.step(fold_in(key, index), state, action))
            new = new._replace(reward=timestep.reward + new.reward.astype(float_dtype))
            return select(ended, (state, timestep), (after, new)), None

        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), check_structure(limited).observation)
        not_ended = jnp.zeros((), bool)
        before = Timestep(nothing, jnp.zeros((), float_dtype), not_ended, not_ended)
        carry, _ = jax.lax.scan(repeat, (jax.tree.map(strong, state), before), jnp.arange(num_repeats))
        return carry

    def build() -> Environment:
        return dataclasses.replace(limited, name=f"{env.name}, repeat {num_repeats}", step=step, max_steps=max_steps)

    return kept(build, action_repeat, env, num_repeats)
