"""Several processes as one: what each of them has to know, and which of them writes.

With one process everything here is what it would be without.
"""

import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["agree", "any_of", "gather", "is_writer", "least", "local", "on_writer", "put"]


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


def any_of(flag: bool) -> bool:
    """Whether it holds in any process. All have to call it."""
    return bool(_over_processes(flag).any())


def least(number: int) -> int:
    """The smallest of the processes' numbers. All have to call it."""
    return int(_over_processes(float(number)).min())


def _over_processes(value: Any) -> np.ndarray:
    if jax.process_count() == 1:
        return np.asarray([value])
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def on_writer(function: Callable[[], Any]) -> Any:
    """What `function` gives or raises in the first process, in every process; only the first runs it.

    All have to call it. With several processes the result has to be plain data.
    """
    if jax.process_count() == 1:
        return function()
    result: Any = None
    if is_writer():
        try:
            result = True, function()
        except Exception as error:
            result = False, error
    content = np.frombuffer(pickle.dumps(result), np.uint8) if is_writer() else np.zeros(0, np.uint8)
    size = agree(content.size)
    content = agree(content if is_writer() else np.zeros(size, np.uint8))
    fine, value = pickle.loads(content.tobytes())
    if not fine:
        raise value
    return value


def local(tree: Any) -> Any:
    """The leaves on one device of this process, whole: for what each process computes by itself."""

    def leaf(x: Any) -> Any:
        if not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1:
            return x
        if x.is_fully_replicated:
            return x.addressable_data(0)
        whole = jax.numpy.asarray(gather(x))
        is_key = jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(whole, impl=jax.random.key_impl(x)) if is_key else whole

    return jax.tree.map(leaf, tree)


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
