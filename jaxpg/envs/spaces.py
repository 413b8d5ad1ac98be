"""Spaces: what an observation or an action looks like. A pytree (dict, tuple) of these is a space too.

A space describes shapes, dtypes and bounds, so that a policy can be built for it; it holds no state.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check

__all__ = ["Box", "Discrete", "MultiDiscrete", "Space", "check_space", "contains", "sample"]

Space = Any  # Discrete | MultiDiscrete | Box, or a dict, tuple or list of spaces.


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers 0, 1, …, n − 1; a value is an integer scalar."""

    n: int
    dtype: Any = jnp.int32
    shape: tuple[int, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check.count("n", self.n))
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    def __repr__(self) -> str:
        return f"Discrete({self.n})"

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform draw: integer scalar."""
        return jax.random.randint(key, (), 0, self.n, self.dtype)

    def contains(self, value: Any) -> jax.Array:
        """Whether `value` lies in the space: boolean scalar."""
        value = jnp.asarray(value)
        return jnp.logical_and(value >= 0, value < self.n)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several integers at once: entry k lies in 0, 1, …, nvec[k] − 1; a value has shape [len(nvec)]."""

    nvec: tuple[int, ...]
    dtype: Any = jnp.int32

    def __post_init__(self) -> None:
        nvec = tuple(_check.count(f"nvec[{k}]", n) for k, n in enumerate(self.nvec))
        if not nvec:
            raise ValueError("nvec must hold at least one number of categories; got an empty sequence")
        object.__setattr__(self, "nvec", nvec)
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)

    def __repr__(self) -> str:
        return f"MultiDiscrete({list(self.nvec)})"

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform draw: integers [len(nvec)]."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.nvec), self.dtype)

    def contains(self, value: Any) -> jax.Array:
        """Whether `value` lies in the space: boolean scalar."""
        value = jnp.asarray(value)
        return jnp.all(jnp.logical_and(value >= 0, value < jnp.asarray(self.nvec)))


@dataclasses.dataclass(frozen=True)
class Box:
    """Arrays of one shape with bounds, which may be infinite; `low` and `high` are scalars or of that shape."""

    low: Any
    high: Any
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if np.ndim(self.shape) == 0:
            raise TypeError(f"shape must be a tuple of integers; got {self.shape!r}")
        shape = tuple(_check.count(f"shape[{k}]", n, minimum=0) for k, n in enumerate(self.shape))
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", np.dtype(self.dtype))
        for side in ("low", "high"):
            bound = np.asarray(getattr(self, side), np.float64)
            if np.isnan(bound).any():
                raise ValueError(f"{side} must not hold NaN; got {bound}")
            try:
                np.broadcast_to(bound, shape)
            except ValueError:
                raise ValueError(f"{side} must be a scalar or of shape {shape}; got shape {bound.shape}") from None
            # Nested tuples, so that equal boxes compare equal and hash.
            object.__setattr__(self, side, float(bound) if bound.ndim == 0 else _as_tuple(bound))
        if not np.all(np.asarray(self.low) <= np.asarray(self.high)):
            raise ValueError(f"low must not exceed high; got low={self.low}, high={self.high}")

    def __repr__(self) -> str:
        bounds = [x if isinstance(x, float) else (x[0] if len(set(np.ravel(x))) == 1 else "…") for x in
                  (self.low, self.high)]
        bounds = [f"{float(np.ravel(x)[0]):g}" if x != "…" else x for x in bounds]
        return f"Box({bounds[0]}, {bounds[1]}, {self.shape}, {np.dtype(self.dtype).name})"

    def sample(self, key: jax.Array) -> jax.Array:
        """A draw: uniform where both bounds are finite, else standard normal, shifted to the finite bound's side."""
        low = jnp.broadcast_to(jnp.asarray(self.low, jnp.float32), self.shape)
        high = jnp.broadcast_to(jnp.asarray(self.high, jnp.float32), self.shape)
        if np.dtype(self.dtype).kind == "b":
            return jax.random.bernoulli(key, 0.5, self.shape)
        uniform_key, normal_key = jax.random.split(key)
        bounded = jnp.isfinite(low) & jnp.isfinite(high)
        uniform = jax.random.uniform(uniform_key, self.shape)
        normal = jax.random.normal(normal_key, self.shape)
        one_sided = jnp.where(jnp.isfinite(low), low + jnp.abs(normal), high - jnp.abs(normal))
        free = jnp.where(jnp.isfinite(low) | jnp.isfinite(high), one_sided, normal)
        safe_low, safe_high = jnp.where(bounded, low, 0.0), jnp.where(bounded, high, 1.0)
        if np.dtype(self.dtype).kind in "iu":  # Whole numbers, both ends included.
            drawn = jnp.floor(safe_low + uniform * (safe_high - safe_low + 1))
            return jnp.where(bounded, jnp.minimum(drawn, safe_high), jnp.round(free)).astype(self.dtype)
        return jnp.where(bounded, safe_low + uniform * (safe_high - safe_low), free).astype(self.dtype)

    def contains(self, value: Any) -> jax.Array:
        """Whether `value` lies in the space: boolean scalar."""
        value = jnp.asarray(value)
        return jnp.all((value >= jnp.asarray(self.low)) & (value <= jnp.asarray(self.high)))


def _as_tuple(array: np.ndarray) -> Any:
    return tuple(map(_as_tuple, array)) if array.ndim else float(array)


def is_leaf(space: Any) -> bool:
    """Whether `space` is one of the three basic spaces, not a container of spaces."""
    return isinstance(space, (Discrete, MultiDiscrete, Box))


def check_space(argument: str, space: Any) -> Space:
    """`space`, if it is a space or a pytree with at least one space and nothing else at its leaves."""
    leaves = jax.tree_util.tree_leaves(space, is_leaf=is_leaf)
    if not leaves:
        raise TypeError(f"{argument} must be a Discrete, MultiDiscrete or Box, or a dict or tuple of them; got {space!r}")
    for leaf in leaves:
        if not is_leaf(leaf):
            raise TypeError(f"{argument} must be a Discrete, MultiDiscrete or Box, or a dict or tuple of them; got "
                            f"{type(leaf).__name__} ({leaf!r})")
    return space


def sample(space: Space, key: jax.Array) -> Any:
    """One value of `space`, each leaf drawn by its own key."""
    leaves, structure = jax.tree_util.tree_flatten(space, is_leaf=is_leaf)
    keys = [jax.random.fold_in(key, index) for index in range(len(leaves))]
    return jax.tree_util.tree_unflatten(structure, [leaf.sample(k) for leaf, k in zip(leaves, keys, strict=True)])


def contains(space: Space, value: Any) -> jax.Array:
    """Whether each leaf of `value` lies in its space: boolean scalar."""
    spaces, structure = jax.tree_util.tree_flatten(space, is_leaf=is_leaf)
    values = structure.flatten_up_to(value)
    return jnp.all(jnp.stack([leaf.contains(v) for leaf, v in zip(spaces, values, strict=True)]))
