"""The last observations at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.masks import without_mask
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, is_leaf
from jaxpg.envs.wrappers._wrap import check_environment, inner_state, kept, map_unmasked, wrapped

__all__ = ["StackedState", "frame_stack"]


class StackedState(NamedTuple):
    """The state within, and the stacked observation."""

    inner: Any
    observation: Any


def frame_stack(env: Environment, num_frames: int) -> Environment:
    """`env` whose observations are the last `num_frames` ones, oldest first; at reset the first one fills all places.

    Frames lie behind each other on the last axis, where jaxpg's networks look for channels: [height, width, channels]
    becomes [height, width, num_frames * channels], a vector [d] becomes [num_frames * d]. What has no such axis gets
    one: [height, width] becomes [height, width, num_frames], a number [num_frames], a `Discrete` a `MultiDiscrete`.
    Leaves of a dict or tuple are stacked each by itself; the entry "action_mask" is the newest one alone.
    """
    env, num_frames = check_environment(env), _check.count("num_frames", num_frames)
    space = env.observation_space
    if not jax.tree.leaves(without_mask(space), is_leaf=is_leaf):
        raise ValueError(f"env must have something to observe besides an action mask; got {space}")

    def first(observation: Any) -> Any:
        return map_unmasked(
            lambda leaf, value: jnp.concatenate([_channelled(leaf, value)] * num_frames, axis=-1), space, observation
        )

    def pushed(stacked: Any, observation: Any) -> Any:
        def push(leaf: Any, old: jax.Array, value: Any) -> jax.Array:
            value = _channelled(leaf, value)
            return jnp.concatenate([old[..., value.shape[-1] :], value], axis=-1)

        return map_unmasked(push, space, stacked, observation)

    def reset(key: jax.Array) -> tuple[StackedState, Any]:
        state, observation = env.reset(key)
        stacked = first(observation)
        return StackedState(state, stacked), stacked

    def step(key: jax.Array, state: StackedState, action: Any) -> tuple[StackedState, Timestep]:
        inner, timestep = env.step(key, state.inner, action)
        stacked = pushed(state.observation, timestep.observation)
        return StackedState(inner, stacked), timestep._replace(observation=stacked)

    def build() -> Environment:
        return wrapped(
            env,
            f"frames {num_frames}",
            inner=inner_state,
            reset=reset,
            step=step,
            observation_space=map_unmasked(lambda leaf: _stacked_space(leaf, num_frames), space),
        )

    return kept(build, frame_stack, env, num_frames)


def _has_channels(space: Any) -> bool:
    """Numbers and images without channels get a last axis of one."""
    return len(space.shape) not in (0, 2)


def _channelled(space: Any, value: Any) -> jax.Array:
    value = jnp.asarray(value)
    return value if _has_channels(space) else value[..., None]


def _stacked_space(space: Any, num_frames: int) -> Any:
    if isinstance(space, Discrete):
        return MultiDiscrete((space.n,) * num_frames, space.dtype)
    if isinstance(space, MultiDiscrete):
        return MultiDiscrete(space.nvec * num_frames, space.dtype)
    shape = space.shape if _has_channels(space) else (*space.shape, 1)
    low, high = (
        np.concatenate([np.broadcast_to(bound, space.shape).reshape(shape)] * num_frames, axis=-1)
        for bound in (np.asarray(space.low), np.asarray(space.high))
    )
    return Box(low, high, low.shape, space.dtype)
