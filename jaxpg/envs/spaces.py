"""Spaces: what an observation or an action looks like. A pytree (dict, tuple) of these is a space too.

A space describes shapes, dtypes and bounds, so that a policy can be built for it; it holds no state, compares by value
and hashes.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check

__all__ = ["Box", "Discrete", "MultiDiscrete", "Space", "check_space", "contains", "is_leaf", "sample", "shape_dtype"]

Space = Any  # Discrete | MultiDiscrete | Box, or a dict, tuple or list of spaces.


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers 0, 1, …, n − 1; a value is an integer scalar."""

    n: int
    dtype: Any = jnp.int32
    shape: tuple[int, ...] = dataclasses.field(default=(), init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", _check.count("n", self.n))
        object.__setattr__(self, "dtype", _integer_dtype(self.dtype))

    def __repr__(self) -> str:
        return f"Discrete({self.n})"

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform draw: integer scalar."""
        return jax.random.randint(key, (), 0, self.n, self.dtype)

    def contains(self, value: Any) -> jax.Array:
        """Whether `value` is an integer scalar of the space: boolean scalar."""
        value = jnp.asarray(value)
        if value.shape != () or value.dtype.kind not in "iu":
            return jnp.asarray(False)
        return (value >= 0) & (value < self.n)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several integers at once: entry k lies in 0, 1, …, nvec[k] − 1; a value has shape [len(nvec)]."""

    nvec: tuple[int, ...]
    dtype: Any = jnp.int32

    def __post_init__(self) -> None:
        if np.ndim(self.nvec) != 1:
            raise TypeError(f"nvec must be a sequence of integers, one for each entry; got {self.nvec!r}")
        nvec = tuple(_check.count(f"nvec[{k}]", n) for k, n in enumerate(self.nvec))
        if not nvec:
            raise ValueError("nvec must hold at least one number of categories; got an empty sequence")
        object.__setattr__(self, "nvec", nvec)
        object.__setattr__(self, "dtype", _integer_dtype(self.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.nvec),)

    def __repr__(self) -> str:
        return f"MultiDiscrete({list(self.nvec)})"

    def sample(self, key: jax.Array) -> jax.Array:
        """A uniform draw: integers [len(nvec)]."""
        return jax.random.randint(key, self.shape, 0, jnp.asarray(self.nvec), self.dtype)

    def contains(self, value: Any) -> jax.Array:
        """Whether `value` is an integer vector of the space: boolean scalar."""
        value = jnp.asarray(value)
        if value.shape != self.shape or value.dtype.kind not in "iu":
            return jnp.asarray(False)
        return jnp.all((value >= 0) & (value < jnp.asarray(self.nvec)))


@dataclasses.dataclass(frozen=True)
class Box:
    """Arrays of one shape with bounds, which may be infinite; `low` and `high` are scalars or of that shape.

    A bound that is the same everywhere is kept as a number, others as nested tuples.
    """

    low: Any
    high: Any
    shape: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if np.ndim(self.shape) == 0:
            raise TypeError(f"shape must be a tuple of integers; got {self.shape!r}")
        shape = tuple(_check.count(f"shape[{k}]", n, minimum=0) for k, n in enumerate(self.shape))
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", _dtype(self.dtype))
        low, high = _bound("low", self.low, shape), _bound("high", self.high, shape)
        if not np.all(low <= high):
            raise ValueError(f"low must not exceed high; got low={self.low}, high={self.high}")
        object.__setattr__(self, "low", _hashable(low))
        object.__setattr__(self, "high", _hashable(high))

    def __repr__(self) -> str:
        low, high = (f"{bound:g}" if isinstance(bound, float) else "…" for bound in (self.low, self.high))
        return f"Box({low}, {high}, {self.shape}, {np.dtype(self.dtype).name})"

    def sample(self, key: jax.Array) -> jax.Array:
        """A draw: uniform between finite bounds, a half-normal from one finite bound, else standard normal."""
        if np.dtype(self.dtype).kind == "b":
            return jax.random.bernoulli(key, 0.5, self.shape)
        low, high = (np.broadcast_to(np.asarray(bound), self.shape) for bound in (self.low, self.high))
        bounded = np.isfinite(low) & np.isfinite(high)
        uniform_key, normal_key = jax.random.split(key)
        normal = jax.random.normal(normal_key, self.shape)
        one_sided = jnp.where(np.isfinite(low), low + jnp.abs(normal), high - jnp.abs(normal))
        free = jnp.where(np.isfinite(low) | np.isfinite(high), one_sided, normal)
        low, high = np.where(bounded, low, 0.0), np.where(bounded, high, 1.0)
        uniform = jax.random.uniform(uniform_key, self.shape)
        if np.dtype(self.dtype).kind in "iu":  # Whole numbers, both ends included.
            drawn = jnp.minimum(jnp.floor(low + uniform * (high - low + 1)), high)
            return jnp.where(bounded, drawn, jnp.trunc(free)).astype(self.dtype)
        return jnp.where(bounded, jnp.clip(low + uniform * (high - low), low, high), free).astype(self.dtype)

    def contains(self, value: Any) -> jax.Array:
        """Whether `value` has the space's shape and lies between its bounds (NaN does not): boolean scalar."""
        value = jnp.asarray(value)
        if value.shape != self.shape:
            return jnp.asarray(False)
        # In the space's own dtype: 0.1 as float32 lies above 0.1 as float64.
        low, high = (
            jnp.asarray(np.asarray(bound), value.dtype if value.dtype.kind == "f" else jnp.result_type(float))
            for bound in (self.low, self.high)
        )
        return jnp.all((value >= low) & (value <= high))


def _dtype(dtype: Any) -> np.dtype:
    try:
        return np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be a dtype such as jnp.float32; got {dtype!r:.80}") from None


def _integer_dtype(dtype: Any) -> np.dtype:
    result = _dtype(dtype)
    if result.kind not in "iu":
        raise TypeError(f"dtype must be an integer dtype; got {result.name}")
    return result


def _bound(side: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A bound as float64 of the space's shape."""
    try:
        bound = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{side} must be a number or an array of numbers; got {value!r:.80}") from None
    if np.isnan(bound).any():
        raise ValueError(f"{side} must not hold NaN; got {bound}")
    try:
        return np.broadcast_to(bound, shape)
    except ValueError:
        hint = "" if shape else f": give the shape of the space, too, shape={bound.shape}"
        raise ValueError(f"{side} must be a scalar or of shape {shape}; got shape {bound.shape}{hint}") from None


def _hashable(bound: np.ndarray) -> Any:
    if bound.size and (bound == bound.flat[0]).all():
        return float(bound.flat[0])

    def as_tuple(array: np.ndarray) -> Any:
        return tuple(map(as_tuple, array)) if array.ndim else float(array)

    return as_tuple(bound)


def is_leaf(space: Any) -> bool:
    """Whether `space` is one of the three basic spaces, not a container of spaces."""
    return isinstance(space, (Discrete, MultiDiscrete, Box))


def check_space(argument: str, space: Any) -> Space:
    """`space`, if it is a space or a pytree with at least one space and nothing else at its leaves."""
    accepted = "a Discrete, MultiDiscrete or Box, or a dict or tuple of them"
    leaves = jax.tree_util.tree_leaves(space, is_leaf=is_leaf)
    if not leaves:
        raise TypeError(f"{argument} must be {accepted}; got {space!r}")
    for leaf in leaves:
        if not is_leaf(leaf):
            module = type(leaf).__module__.partition(".")[0]
            origin = f" of {module}" if module in ("gym", "gymnasium", "gymnax") else ""
            raise TypeError(
                f"{argument} must be {accepted}, from jaxpg.envs; got {type(leaf).__name__}{origin} ({leaf!r:.80})"
            )
    return space


def shape_dtype(space: Space) -> Any:
    """A `jax.ShapeDtypeStruct` for each leaf of `space`, for tracing without values."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), space, is_leaf=is_leaf)


def sample(space: Space, key: jax.Array) -> Any:
    """One value of `space`, each leaf drawn by its own key."""
    leaves, structure = jax.tree_util.tree_flatten(space, is_leaf=is_leaf)
    keys = [jax.random.fold_in(key, index) for index in range(len(leaves))]
    return jax.tree_util.tree_unflatten(structure, [leaf.sample(k) for leaf, k in zip(leaves, keys, strict=True)])


def contains(space: Space, value: Any) -> jax.Array:
    """Whether each leaf of `value` lies in its space: boolean scalar. A value of another structure does not."""
    spaces, structure = jax.tree_util.tree_flatten(space, is_leaf=is_leaf)
    try:
        values = structure.flatten_up_to(value)
    except (TypeError, ValueError):
        return jnp.asarray(False)
    return jnp.all(jnp.stack([leaf.contains(v) for leaf, v in zip(spaces, values, strict=True)]))
