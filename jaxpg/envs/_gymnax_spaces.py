"""gymnax's spaces as ours."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, Space, is_leaf

__all__ = ["converted_space"]


def converted_space(space_of: Callable[[Any], Any], params: Any) -> Space:
    """`space_of(params)` as a space of ours, where some of `params` may be traced.

    Bounds must be known, so a traced number is replaced by NaN, and a bound that becomes NaN is unknown: infinite. A
    traced flag is replaced by each of its values, and the wider of both bounds is taken.
    """
    if all(map(_check.is_concrete, jax.tree.leaves(params))):
        return _convert(space_of(params))

    def known(flag: bool) -> Any:
        def replaced(leaf: Any) -> Any:
            if _check.is_concrete(leaf):
                return leaf
            return flag if leaf.dtype == jnp.bool_ else np.full(leaf.shape, np.nan, np.float32)

        return jax.tree.map(replaced, params)

    return jax.tree.map(_wider, _convert(space_of(known(False))), _convert(space_of(known(True))), is_leaf=is_leaf)


def _wider(one: Any, other: Any) -> Any:
    if not isinstance(one, Box):
        return one
    return Box(np.minimum(one.low, other.low), np.maximum(one.high, other.high), one.shape, one.dtype)


def _convert(space: Any) -> Space:
    """By the name of its class, so that gymnax need not be imported; floats get the default float dtype."""
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n), jnp.int32)
    if kind == "Choices":  # `to_gymnax` has it: gymnax itself has no such space.
        return MultiDiscrete(space.nvec, space.dtype)
    if kind == "Box":
        dtype = np.dtype(space.dtype)
        shape = (space.shape,) if np.ndim(space.shape) == 0 else tuple(space.shape)
        low, high = _bound(space.low, -np.inf, shape), _bound(space.high, np.inf, shape)
        return Box(low, high, shape, jnp.result_type(float) if dtype.kind == "f" else dtype)
    if kind == "Dict":
        return {key: _convert(child) for key, child in space.spaces.items()}
    if kind == "Tuple":
        return tuple(map(_convert, space.spaces))
    raise TypeError(f"a space must be a gymnax Discrete, Box, Dict or Tuple; got {kind} ({space!r})")


def _bound(bound: Any, side: float, shape: tuple[int, ...]) -> np.ndarray:
    """A bound as float64; one that is unknown (NaN) or the largest float is infinite."""
    bound = np.asarray(bound, np.float64)
    unlimited = np.isnan(bound) | (np.abs(bound) >= float(np.finfo(np.float32).max))
    return np.broadcast_to(np.where(unlimited, side, bound), shape)
