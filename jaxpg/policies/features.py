"""Observations as flat feature vectors, for networks that take vectors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.masks import without_mask
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, Space, check_space, is_leaf

__all__ = ["feature_size", "features", "leaf_size", "pixels"]


def feature_size(observation_space: Space) -> int:
    """The length of the vector that `features(observation_space)` makes of an observation."""
    return sum(map(leaf_size, _leaves(observation_space)[0]))


def features(observation_space: Space) -> Callable[[Any], jax.Array]:
    """A function observation [...] -> floats [..., feature_size], for `observation_space`.

    An array of numbers or booleans (`Box`) is flattened; unsigned bytes with bounds 0 and 255 are scaled to [0, 1]. An
    integer (`Discrete`) becomes a one-hot vector, several (`MultiDiscrete`) one after the other. The leaves of a
    dict or tuple are concatenated in the order of `jax.tree_util`. A dict's entry "action_mask" is left out.
    """
    spaces, structure = _leaves(observation_space)

    def observe(observation: Any) -> jax.Array:
        try:
            leaves = structure.flatten_up_to(without_mask(observation))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"observation must have the structure of observation_space, {observation_space}; got "
                f"{jax.tree_util.tree_structure(observation)}"
            ) from error
        parts = [_leaf_features(space, leaf) for space, leaf in zip(spaces, leaves, strict=True)]
        return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)

    return observe


def pixels(observation_space: Space) -> tuple[Callable[[Any], jax.Array], tuple[int, ...]]:
    """A function observation [...] -> floats [..., height, width, channels], and these three numbers.

    For a `Box` of that shape or one without channels, or a dict whose only entry besides "action_mask" is such a box.
    """
    spaces, structure = _leaves(observation_space)
    space = spaces[0]
    if len(spaces) != 1 or not isinstance(space, Box) or len(space.shape) not in (2, 3):
        raise ValueError(
            f"a convolutional network needs observations that are one Box of shape (height, width, "
            f"channels) or (height, width); got {observation_space}"
        )

    def observe(observation: Any) -> jax.Array:
        image = _floats(space, structure.flatten_up_to(without_mask(observation))[0])
        return image[..., None] if len(space.shape) == 2 else image

    return observe, (*space.shape, 1) if len(space.shape) == 2 else space.shape


def _leaves(observation_space: Space) -> tuple[list[Any], Any]:
    check_space("observation_space", observation_space)
    leaves, structure = jax.tree_util.tree_flatten(without_mask(observation_space), is_leaf=is_leaf)
    if not leaves:
        raise ValueError(
            f"observation_space holds nothing but an action mask: there is nothing to observe in {observation_space}"
        )
    return leaves, structure


def leaf_size(space: Any) -> int:
    """The length of one basic space as a vector: its one-hot entries, or the entries of its arrays."""
    if isinstance(space, Discrete):
        return space.n
    return sum(space.nvec) if isinstance(space, MultiDiscrete) else int(np.prod(space.shape, dtype=int))


def _leaf_features(space: Any, value: Any) -> jax.Array:
    if isinstance(space, Discrete):
        return _one_hot(_shaped(space, value), space.n)
    if isinstance(space, MultiDiscrete):
        value = _shaped(space, value)
        return jnp.concatenate([_one_hot(value[..., k], n) for k, n in enumerate(space.nvec)], axis=-1)
    value = _floats(space, value)
    if len(space.shape) == 1:
        return value
    return value.reshape(*value.shape[: value.ndim - len(space.shape)], -1)


def _one_hot(value: jax.Array, size: int) -> jax.Array:
    """A comparison, since a gather from the identity would have a scatter for its transpose."""
    return (value[..., None] == jnp.arange(size, dtype=value.dtype)).astype(jnp.result_type(float))


def _floats(space: Box, value: Any) -> jax.Array:
    value = _shaped(space, value).astype(jnp.result_type(float))
    is_bytes = space.dtype == np.uint8 and np.all(np.asarray(space.low) == 0) and np.all(np.asarray(space.high) == 255)
    return value / 255 if is_bytes else value


def _shaped(space: Any, value: Any) -> jax.Array:
    value = _check.array("observation", value)
    rank = len(space.shape)
    if value.ndim < rank or value.shape[value.ndim - rank :] != space.shape:
        raise ValueError(
            f"observation must have the shape of its space, {space}, after any batch axes: "
            f"(..., {', '.join(map(str, space.shape))}); got {value.shape}"
        )
    return value
