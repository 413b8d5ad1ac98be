"""Action masks: the entry "action_mask" of an observation that is a dict says which actions are legal."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.envs import spaces
from jaxpg.envs.spaces import Space

__all__ = ["ACTION_MASK", "action_mask", "leaves_an_action", "random_action", "without_mask"]

ACTION_MASK = "action_mask"


def without_mask(space_or_observation: Any) -> Any:
    """The same dict without its entry "action_mask"; anything else as it is."""
    if isinstance(space_or_observation, Mapping) and ACTION_MASK in space_or_observation:
        return {name: value for name, value in space_or_observation.items() if name != ACTION_MASK}
    return space_or_observation


def action_mask(observation: Any) -> jax.Array | None:
    """`observation["action_mask"]` where an observation is a dict with that entry, else None."""
    return observation.get(ACTION_MASK) if isinstance(observation, Mapping) else None


def random_action(action_space: Space, observation: Any, key: jax.Array) -> Any:
    """A draw of the space, uniform among the actions that the observation's mask allows."""
    mask = action_mask(observation)
    if mask is None or not spaces.is_leaf(action_space):
        return spaces.sample(action_space, key)
    draws = [
        jax.random.categorical(jax.random.fold_in(key, choice), jnp.where(part, 0.0, -jnp.inf))
        for choice, part in enumerate(_choices(action_space, mask))
    ]
    drawn = draws[0] if isinstance(action_space, spaces.Discrete) else jnp.stack(draws)
    return drawn.astype(action_space.dtype)


def leaves_an_action(action_space: Space, observation: Any) -> jax.Array:
    """Whether each choice has a legal action: boolean scalar, true where there is no mask."""
    mask = action_mask(observation)
    if mask is None or not spaces.is_leaf(action_space):
        return jnp.asarray(True)
    return jnp.all(jnp.stack([jnp.any(part) for part in _choices(action_space, mask)]))


def _choices(action_space: Any, mask: jax.Array) -> list[jax.Array]:
    """The mask of each choice: one of a `Discrete`, several of a `MultiDiscrete`."""
    sizes = getattr(action_space, "nvec", mask.shape)
    return jnp.split(mask.astype(bool), np.cumsum(sizes)[:-1])
