"""Several processes as one: what each of them has to know, and which of them writes.

With one process everything here is what it would be without.
"""

from typing import Any

import jax
import numpy as np

__all__ = ["agree", "gather", "is_writer", "put"]


def is_writer() -> bool:
    """Whether this process writes files: the first does."""
    return jax.process_index() == 0


def agree(value: Any) -> Any:
    """The first process's `value`, a number or a numpy array, in every process. All have to call it."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    result = np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(value)))
    return result if isinstance(value, np.ndarray) else type(value)(result.item())


def gather(tree: Any) -> Any:
    """Every leaf as a whole numpy array, in every process; keys as their words. All have to call it."""

    def leaf(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(leaf, tree)


def put(tree: Any, shardings: Any) -> Any:
    """The leaves, whole in every process, as arrays laid out by `shardings` (one, or a pytree prefix)."""

    def leaf(x: Any, sharding: Any) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            words = np.asarray(jax.random.key_data(x))
            cut = jax.make_array_from_callback(words.shape, sharding, lambda index: words[index])
            return jax.random.wrap_key_data(cut, impl=jax.random.key_impl(x))
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda x: leaf(x, shardings), tree)
    return jax.tree.map(lambda s, part: jax.tree.map(lambda x: leaf(x, s), part), shardings, tree)
