"""Observations as networks want them: one vector, or integers as one-hot vectors."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import ACTION_MASK, without_mask
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, is_leaf
from jaxpg.envs.wrappers._wrap import check_environment, kept, map_unmasked
from jaxpg.envs.wrappers.transforms import transform_observation

__all__ = ["flatten_observation", "one_hot"]


def flatten_observation(env: Environment) -> Environment:
    """`env` whose observation is one vector of floats: what jaxpg's networks of vectors make of it themselves.

    The leaves of a dict or tuple lie one after the other in the order of `jax.tree_util`; arrays are flattened, an
    integer (`Discrete`, `MultiDiscrete`) is a one-hot vector, bytes with bounds 0 and 255 are divided by 255. With
    an action mask the observation is {"observation": vector, "action_mask": mask}.
    """
    # Policies stand on environments: not at the top of this file.
    from jaxpg.policies.features import features

    env = check_environment(env)
    space = env.observation_space
    vector = features(space)
    leaves = [_flat_bounds(leaf) for leaf in jax.tree.leaves(without_mask(space), is_leaf=is_leaf)]
    low, high = (np.concatenate(bounds) for bounds in zip(*leaves))
    flat = Box(low, high, low.shape, jnp.result_type(float))
    has_mask = isinstance(space, Mapping) and ACTION_MASK in space

    def function(observation: Any) -> Any:
        if not has_mask:
            return vector(observation)
        return {"observation": vector(observation), ACTION_MASK: observation[ACTION_MASK]}

    def build() -> Environment:
        new = {"observation": flat, ACTION_MASK: space[ACTION_MASK]} if has_mask else flat
        return transform_observation(env, function, new, suffix="flat")

    return kept(build, flatten_observation, env)


def _flat_bounds(space: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(space, Box):
        size = space.n if isinstance(space, Discrete) else sum(space.nvec)
        return np.zeros(size), np.ones(size)
    low, high = (np.broadcast_to(np.asarray(bound), space.shape).ravel() for bound in (space.low, space.high))
    return (low / 255, high / 255) if _is_bytes(space) else (low, high)


def _is_bytes(space: Any) -> bool:
    """Intensities of pixels: they are scaled, not counted."""
    return space.dtype == np.uint8 and bool(
        np.all(np.asarray(space.low) == 0) and np.all(np.asarray(space.high) == 255)
    )


def one_hot(env: Environment, *, max_categories: int = 256) -> Environment:
    """`env` whose integers are observed as one-hot vectors of floats, laid one after the other on the last axis.

    - `Discrete(n)`: [n]. `MultiDiscrete(nvec)`: [sum(nvec)].
    - A `Box` of integers with finite bounds: the channels of its last axis, each as long as its bounds are apart, plus
      one: [height, width, channels] becomes [height, width, sum of the lengths], and so does a vector. An image
      [height, width] or a single number is one channel.
    - Floats, booleans, bytes with bounds 0 and 255, boxes of integers without finite bounds or with more than
      `max_categories` values, and the entry "action_mask" stay as they are.

    An integer out of its bounds has no 1.
    """
    env, limit = check_environment(env), _check.count("max_categories", max_categories)
    space = env.observation_space

    def function(observation: Any) -> Any:
        return map_unmasked(lambda leaf, value: _encoded(leaf, value, limit), space, observation)

    def build() -> Environment:
        return transform_observation(
            env, function, map_unmasked(lambda leaf: _encoded_space(leaf, limit), space), suffix="one-hot"
        )

    return kept(build, one_hot, env, limit)


def _channels(space: Any, limit: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The lowest value and the number of values of each channel; None for what stays as it is."""
    if isinstance(space, Discrete):
        return np.zeros(1, int), np.array([space.n])
    if isinstance(space, MultiDiscrete):
        return np.zeros(len(space.nvec), int), np.array(space.nvec)
    bounds = [np.broadcast_to(np.asarray(bound), space.shape) for bound in (space.low, space.high)]
    if space.dtype.kind not in "iu" or _is_bytes(space) or not all(np.isfinite(bound).all() for bound in bounds):
        return None
    channels = 1 if len(space.shape) in (0, 2) else space.shape[-1]
    low, high = (bound.reshape(-1, channels) for bound in bounds)
    if not low.size:
        return None
    low, high = low.min(axis=0), high.max(axis=0)
    return None if np.any(high - low + 1 > limit) else (low.astype(int), (high - low + 1).astype(int))


def _encoded_space(space: Any, limit: int) -> Any:
    channels = _channels(space, limit)
    if channels is None:
        return space
    leading = space.shape if len(space.shape) in (0, 2) else space.shape[:-1]
    return Box(0, 1, (*leading, int(channels[1].sum())), jnp.result_type(float))


def _encoded(space: Any, value: Any, limit: int) -> Any:
    channels = _channels(space, limit)
    if channels is None:
        return value
    value = jnp.asarray(value)
    value = value[..., None] if len(space.shape) in (0, 2) else value
    # Entry k of the result is 1 where its channel has its value.
    lows, sizes = channels
    expected = np.concatenate([low + np.arange(size) for low, size in zip(lows, sizes)])
    if len(sizes) > 1:
        value = value[..., np.repeat(np.arange(len(sizes)), sizes)]
    return (value == expected.astype(value.dtype)).astype(jnp.result_type(float))
