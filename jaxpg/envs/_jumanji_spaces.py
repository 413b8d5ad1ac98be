"""jumanji's specs as spaces, its observations as dicts, and actions whose masks policies can use."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.envs.masks import ACTION_MASK, without_mask
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, Space

__all__ = ["ActionCoding", "action_coding", "as_dict", "converted_space"]

_JOINT_MASK = "joint_action_mask"
_MOST_JOINT_ACTIONS = 16_384  # jumanji's own agent for FlatPack chooses among 8,100.
_COUNTS_OF_STEPS = ("step_count", "step")


def as_dict(observation: Any) -> Any:
    """Named tuples and dataclasses as dicts, all the way down."""
    if hasattr(observation, "_fields"):
        return {field: as_dict(getattr(observation, field)) for field in observation._fields}
    if dataclasses.is_dataclass(observation):
        return {field.name: as_dict(getattr(observation, field.name)) for field in dataclasses.fields(observation)}
    if isinstance(observation, Mapping):
        return {field: as_dict(value) for field, value in observation.items()}
    return observation


def converted_space(spec: Any, observation: Any, limit: int | None, field: str = "") -> Space:
    """The space of an observation of these shapes and dtypes, with the bounds of its spec.

    A count of steps reaches the time limit, if there is one; some specs stop one short of it.
    """
    if isinstance(observation, Mapping):
        return {name: converted_space(spec[name], part, limit, name) for name, part in observation.items()}
    shape, dtype = observation.shape, observation.dtype
    if dtype == jnp.bool_:
        return Box(0, 1, shape, dtype)
    if limit is not None and field in _COUNTS_OF_STEPS and not shape:
        return Box(0, limit, shape, dtype)
    if hasattr(spec, "num_values") and not shape:
        return Discrete(int(spec.num_values), dtype)
    if hasattr(spec, "minimum"):
        return Box(np.asarray(spec.minimum), np.asarray(spec.maximum), shape, dtype)
    return Box(-np.inf, np.inf, shape, dtype)


@dataclasses.dataclass(frozen=True)
class ActionCoding:
    """How an action of a space becomes jumanji's, and what becomes of the mask.

    Fields:
      space: the action space.
      decode: an action of it -> jumanji's action.
      mask_entry: "action_mask" where the mask fits the space once it is flat, "joint_action_mask" where it does not,
        None where there is no mask.
    """

    space: Space
    decode: Callable[[Any], Any]
    mask_entry: str | None

    def with_mask(self, observation: Any) -> Any:
        """The observation with its mask as policies expect it: flat, and all true where nothing is legal."""
        if self.mask_entry is None:
            return observation
        mask = observation[ACTION_MASK]
        if self._fits:
            choices = mask.reshape(len(getattr(self.space, "nvec", (1,))), -1)
            mask = (choices | ~jnp.any(choices, axis=1, keepdims=True)).reshape(-1)
        return {**without_mask(observation), self.mask_entry: mask}

    def mask_space(self, observation_space: Any) -> Any:
        """The space of such observations."""
        if self.mask_entry is None:
            return observation_space
        shape = observation_space[ACTION_MASK].shape
        return {
            **without_mask(observation_space),
            self.mask_entry: Box(0, 1, (math.prod(shape),) if self._fits else shape, jnp.bool_),
        }

    @property
    def _fits(self) -> bool:
        return self.mask_entry == ACTION_MASK


def action_coding(spec: Any, mask_shape: tuple[int, ...] | None) -> ActionCoding:
    """The action space for a spec and the shape of the mask in the observation, None where it has none."""
    if not jnp.issubdtype(spec.dtype, jnp.integer):
        entry = None if mask_shape is None else _JOINT_MASK
        return ActionCoding(
            Box(np.asarray(spec.minimum), np.asarray(spec.maximum), spec.shape, spec.dtype), _as_is, entry
        )
    if not spec.shape:
        num_actions = int(spec.num_values)
        entry = None if mask_shape is None else ACTION_MASK if mask_shape == (num_actions,) else _JOINT_MASK
        return ActionCoding(Discrete(num_actions, spec.dtype), _as_is, entry)
    if len(spec.shape) != 1:
        raise ValueError(f"the action spec must have at most one axis where it holds whole numbers; got {spec}")

    lowest = np.broadcast_to(np.asarray(spec.minimum), spec.shape)
    sizes = tuple(int(size) for size in np.broadcast_to(np.asarray(spec.maximum), spec.shape) - lowest + 1)

    def raised(action: jax.Array) -> jax.Array:
        return action + jnp.asarray(lowest, spec.dtype)

    if mask_shape is None:
        return ActionCoding(MultiDiscrete(sizes, spec.dtype), raised, None)
    if mask_shape == sizes and math.prod(sizes) <= _MOST_JOINT_ACTIONS:

        def decode(action: jax.Array) -> jax.Array:
            return raised(jnp.stack(jnp.unravel_index(action, sizes)).astype(spec.dtype))

        return ActionCoding(Discrete(math.prod(sizes)), decode, ACTION_MASK)
    if mask_shape != sizes and len(mask_shape) == 2 and mask_shape[0] == len(sizes):
        # MultiCVRP's spec has one number more than its mask: a node that does not exist.
        rows = tuple(min(size, mask_shape[1]) for size in sizes)
        if all(size == mask_shape[1] for size in rows):
            return ActionCoding(MultiDiscrete(rows, spec.dtype), raised, ACTION_MASK)
    return ActionCoding(MultiDiscrete(sizes, spec.dtype), raised, _JOINT_MASK)


def _as_is(action: Any) -> Any:
    return action
