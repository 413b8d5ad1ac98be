"""Several processes as one: what each of them has to know, and which of them writes.

With one process everything here is what it would be without.
"""

import builtins
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["agree", "any_of", "gather", "is_writer", "least", "local", "on_writer", "put"]


def is_writer() -> bool:
    """Whether this process writes files: the first does."""
    return jax.process_index() == 0


PIECE = 2**28  # Bytes that are sent at a time.


def agree(value: Any) -> Any:
    """The first process's `value`, a number, in every process. All have to call it."""
    if jax.process_count() == 1:
        return value
    # As bytes: through arrays numbers would be rounded to 32 bits.
    return type(value)(np.frombuffer(_broadcast(np.float64(value).tobytes(), 8), np.float64)[0])


def _broadcast(content: bytes, size: int) -> bytes:
    from jax.experimental import multihost_utils

    mine = np.frombuffer(content, np.uint8) if is_writer() else np.zeros(size, np.uint8)
    pieces = [mine[first : first + PIECE] for first in range(0, size, PIECE)]
    return b"".join(np.asarray(multihost_utils.broadcast_one_to_all(piece)).tobytes() for piece in pieces)


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

    words = np.frombuffer(np.float64(value).tobytes(), np.uint32)  # As arrays, numbers would be rounded to 32 bits.
    return np.asarray(multihost_utils.process_allgather(words), np.uint32).reshape(-1, 2).view(np.float64)[:, 0]


def on_writer(function: Callable[[], Any]) -> Any:
    """What `function` gives or raises in the first process, in every process; only the first runs it.

    All have to call it. With several processes the result has to be plain data.
    """
    if jax.process_count() == 1:
        return function()
    problem: Exception | None = None
    content = b""
    if is_writer():
        try:
            content = pickle.dumps((True, function()))
        except Exception as error:
            problem = error
            content = pickle.dumps((False, (type(error).__name__, str(error))))
    size = agree(len(content))
    fine, value = pickle.loads(_broadcast(content, size))
    if problem is not None:
        raise problem
    if not fine:
        name, text = value
        kind = getattr(builtins, name, RuntimeError)
        raise (kind if kind in (OSError, RuntimeError, TypeError, ValueError) else RuntimeError)(f"{name}: {text}")
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


def put(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    """The leaves, whole in every process, as arrays laid out by `sharding`."""

    def leaf(x: Any) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key):
            words = np.asarray(jax.random.key_data(x))
            cut = jax.make_array_from_callback(words.shape, sharding, lambda index: words[index])
            return jax.random.wrap_key_data(cut, impl=jax.random.key_impl(x))
        whole = np.asarray(x)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(leaf, tree)
