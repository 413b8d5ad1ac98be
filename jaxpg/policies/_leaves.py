"""A pytree of arrays as named arrays: "hidden_0/kernel", keys and positions joined by slashes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check

__all__ = ["ROOT", "leaf_names", "named_arrays"]

ROOT = "params"  # The name of the only array of params that are an array.


def leaf_names(tree: Any) -> list[str]:
    """The leaves' names, in the order of `jax.tree_util`. In a key "~" is written "~0" and "/" is written "~1".

    Raises: ValueError where two leaves would have one name, such as those of the keys 1 and "1".
    """
    names = [_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"params must have leaves whose paths differ as text; got {repeated[0]!r} more than once")
    return names


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(_key(entry).replace("~", "~0").replace("/", "~1") for entry in path) or ROOT


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):  # Of a dict or registered class, a sequence, a dataclass or named tuple.
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def named_arrays(params: Any) -> dict[str, np.ndarray]:
    """The leaves as NumPy arrays, by their names.

    Raises: TypeError for a leaf that is not an array of numbers, or not known yet because it is traced.
    """
    return {name: _array(name, leaf) for name, leaf in zip(leaf_names(params), jax.tree_util.tree_leaves(params))}


def _array(name: str, leaf: Any) -> np.ndarray:
    if not _check.is_concrete(leaf):
        raise TypeError(f"params must be arrays that are computed already; {name!r} is traced: save outside of jit")
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float)):
        raise TypeError(f"params must be a pytree of arrays; {name!r} is {type(leaf).__name__} ({leaf!r:.80})")
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        raise TypeError(f"params must be a pytree of arrays of numbers; {name!r} is a random key")
    if isinstance(leaf, (bool, int, float)):
        leaf = jnp.asarray(leaf)
    array = np.array(jax.device_get(leaf), order="C")
    return array.astype(array.dtype.newbyteorder("=")) if array.dtype.byteorder in "<>" else array
