"""Spaces and their values, ours and gymnasium's. gymnasium is imported when a space is made."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, Space, is_leaf

__all__ = ["checked_action", "from_gymnasium_space", "to_gymnasium_space", "to_numpy"]


def to_gymnasium_space(space: Space) -> Any:
    """gymnasium's space: a dict is a `Dict`, a tuple or list a `Tuple`, and choices are counted in int64, as there.

    Where a `Box` of integers has no bound, the dtype's own stands for it.
    """
    from gymnasium import spaces

    if isinstance(space, Mapping):
        return spaces.Dict({name: to_gymnasium_space(child) for name, child in space.items()})
    if not is_leaf(space):
        return spaces.Tuple(tuple(map(to_gymnasium_space, space)))
    if isinstance(space, Discrete):
        return spaces.Discrete(space.n)
    if isinstance(space, MultiDiscrete):
        return spaces.MultiDiscrete(list(space.nvec))
    low, high = (np.broadcast_to(np.asarray(bound), space.shape) for bound in (space.low, space.high))
    dtype = np.dtype(space.dtype)
    if dtype.kind in "iu":
        # As floats the largest bounds of 64 bits are not integers of 64 bits.
        limits = np.iinfo(dtype)
        low, high = (
            np.array([limits.min if x <= limits.min else limits.max if x >= limits.max else int(x) for x in bound.flat])
            for bound in (low, high)
        )
    low, high = (bound.astype(dtype).reshape(space.shape) for bound in (low, high))
    return spaces.Box(low, high, space.shape, dtype.type)


def from_gymnasium_space(space: Any) -> Space:
    """Our space for one of gymnasium's: Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple.

    Raises:
      ValueError: choices that do not start at 0, or a MultiDiscrete of more than one axis.
      TypeError: another space.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {name: from_gymnasium_space(child) for name, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(map(from_gymnasium_space, space.spaces))
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)):
        if np.any(space.start != 0) or np.ndim(getattr(space, "nvec", [0])) != 1:
            raise ValueError(f"space must count its choices from 0, on at most one axis; got {space}")
        return Discrete(int(space.n)) if isinstance(space, spaces.Discrete) else MultiDiscrete(space.nvec.tolist())
    if isinstance(space, spaces.MultiBinary):
        return Box(0, 1, space.shape, bool)
    if isinstance(space, spaces.Box):
        low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        if space.dtype.kind in "iu":
            low, high = np.where(space.bounded_below, low, -np.inf), np.where(space.bounded_above, high, np.inf)
        return Box(low, high, space.shape, jnp.result_type(float) if space.dtype.kind == "f" else space.dtype)
    raise TypeError(
        f"space must be a Discrete, MultiDiscrete, MultiBinary, Box, Dict or Tuple of gymnasium; got "
        f"{type(space).__name__} ({space!r:.80})"
    )


def to_numpy(space: Space, value: Any) -> Any:
    """A value of a space, or a batch of them, as gymnasium has it: arrays of its dtypes that may be written to."""
    if isinstance(space, Mapping):
        return {name: to_numpy(child, value[name]) for name, child in space.items()}
    if not is_leaf(space):
        return tuple(to_numpy(child, part) for child, part in zip(space, value, strict=True))
    array = np.array(value, space.dtype if isinstance(space, Box) else np.int64)
    return array[()] if isinstance(space, Discrete) and array.ndim == 0 else array


def checked_action(space: Space, action: Any, batch: tuple[int, ...] = (), where: str = "action") -> Any:
    """An action of gymnasium's space as one of ours, or a batch of them.

    Raises:
      ValueError: it has another structure, shape or kind of number, or is no choice. Real numbers may leave their
        bounds: what that means is the environment's business.
    """
    if not is_leaf(space):
        names = list(space) if isinstance(space, Mapping) else list(range(len(space)))
        if _entries(action) != (isinstance(space, Mapping), set(names)):
            raise ValueError(f"{where} must have the entries {names}; got {action!r:.80}")
        parts = [checked_action(space[name], action[name], batch, f"{where}[{name!r}]") for name in names]
        if isinstance(space, Mapping):
            return dict(zip(names, parts))
        return type(space)(*parts) if hasattr(space, "_fields") else type(space)(parts)
    array, kind = np.asarray(action), np.dtype(space.dtype).kind
    if array.shape != (*batch, *space.shape) or array.dtype.kind not in {"f": "iuf", "b": "iub"}.get(kind, "iu"):
        raise ValueError(f"{where} must be of shape {(*batch, *space.shape)} in {space}; got {action!r:.80}")
    if not isinstance(space, Box):
        number = np.asarray(space.n if isinstance(space, Discrete) else space.nvec)
        if np.any((array < 0) | (array >= number)):
            raise ValueError(f"{where} must lie in {space}; got {action!r:.80}")
    return array.astype(space.dtype)


def _entries(action: Any) -> tuple[bool, set[Any]]:
    """Whether an action is a dict, and the names of its entries; those of what is no container are none."""
    if isinstance(action, Mapping):
        return True, set(action)
    return False, set(range(len(action))) if isinstance(action, (tuple, list)) else set()
