"""Actions in [-1, 1], actions of any size, and several choices as one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.envs.base import Environment
from jaxpg.envs.masks import ACTION_MASK, action_mask
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, Space, is_leaf
from jaxpg.envs.wrappers._wrap import check_environment, kept
from jaxpg.envs.wrappers.transforms import transform_action

__all__ = ["clip_action", "flatten_action", "normalize_action"]

_MOST_ACTIONS = 2**31 - 1


def normalize_action(env: Environment) -> Environment:
    """`env` whose real actions lie in [-1, 1], for the lower and the upper bound of its own; others are as they were.

    What lies outside of [-1, 1] is scaled like all else; `clip_action(normalize_action(env))` cuts it off.

    Raises:
      ValueError: no action is real (a `Box` of floats), or one that is has no finite bounds.
    """
    env = check_environment(env)
    for leaf in _real_leaves("normalize_action", env):
        if not _is_finite(leaf):
            raise ValueError(f"normalize_action needs finite bounds of the actions of {env.name}; got {leaf}")

    def scale(space: Any, action: Any) -> Any:
        if not _is_real(space):
            return action
        action = jnp.asarray(action)
        low, high = (np.asarray(bound, action.dtype) for bound in (space.low, space.high))
        return 0.5 * ((1 - action) * low + (1 + action) * high)  # The bounds themselves for -1 and 1, to the bit.

    def function(action: Any) -> Any:
        return jax.tree.map(scale, env.action_space, action, is_leaf=is_leaf)

    def build() -> Environment:
        space = _map_real(lambda leaf: Box(-1, 1, leaf.shape, leaf.dtype), env.action_space)
        return transform_action(env, function, space, suffix="actions in [-1, 1]")

    return kept(build, normalize_action, env)


def clip_action(env: Environment) -> Environment:
    """`env` that takes real actions of any size and cuts them off at its bounds; others are as they were.

    The new action space has no bounds, so a policy whose distribution needs them (`squash="tanh"` or "beta") cannot
    play here. jaxpg's normal distributions cut their actions off at the bounds of the action space themselves: for them
    this changes nothing.

    Raises:
      ValueError: no action is real (a `Box` of floats).
    """
    env = check_environment(env)
    _real_leaves("clip_action", env)

    def clip(space: Any, action: Any) -> Any:
        if not _is_real(space):
            return action
        action = jnp.asarray(action)
        return jnp.clip(action, *(np.asarray(bound, action.dtype) for bound in (space.low, space.high)))

    def function(action: Any) -> Any:
        return jax.tree.map(clip, env.action_space, action, is_leaf=is_leaf)

    def build() -> Environment:
        space = _map_real(lambda leaf: Box(-np.inf, np.inf, leaf.shape, leaf.dtype), env.action_space)
        return transform_action(env, function, space, suffix="clipped actions")

    return kept(build, clip_action, env)


def flatten_action(env: Environment) -> Environment:
    """`env` with a `MultiDiscrete` action space as one `Discrete` of all combinations; the last choice changes first.

    Raises:
      ValueError: the action space is another, has too many combinations, or the observation has an action mask, which
        is one of the choices and not of their combinations.
    """
    env = check_environment(env)
    space = env.action_space
    if not isinstance(space, MultiDiscrete):
        raise ValueError(f"flatten_action needs a MultiDiscrete action space; {env.name} has {space}")
    if action_mask(env.observation_space) is not None:
        raise ValueError(
            f"flatten_action cannot combine the choices of {env.name}: its entry {ACTION_MASK!r} masks each"
        )
    number = int(np.prod([int(n) for n in space.nvec], dtype=object))
    if number > _MOST_ACTIONS:
        raise ValueError(f"flatten_action: the choices of {env.name} have {number} combinations, which no int32 counts")

    def function(action: Any) -> jax.Array:
        return jnp.stack(jnp.unravel_index(jnp.asarray(action), space.nvec), axis=-1).astype(space.dtype)

    return kept(lambda: transform_action(env, function, Discrete(number), suffix="one choice"), flatten_action, env)


def _is_real(space: Any) -> bool:
    return isinstance(space, Box) and space.dtype.kind == "f"


def _is_finite(space: Box) -> bool:
    return bool(np.isfinite(np.asarray(space.low)).all() and np.isfinite(np.asarray(space.high)).all())


def _real_leaves(wrapper: str, env: Environment) -> list[Box]:
    leaves = [leaf for leaf in jax.tree.leaves(env.action_space, is_leaf=is_leaf) if _is_real(leaf)]
    if not leaves:
        raise ValueError(
            f"{wrapper} needs actions that are real numbers, a Box of floats; {env.name} has {env.action_space}"
        )
    return leaves


def _map_real(function: Any, space: Space) -> Space:
    return jax.tree.map(lambda leaf: function(leaf) if _is_real(leaf) else leaf, space, is_leaf=is_leaf)
