"""Keys for suites that keep them in their states."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check

__all__ = ["plain_key"]


def plain_key(key: Any) -> jax.Array:
    """`key` as the array of numbers that `jax.random.PRNGKey` gives, with the same draws.

    States then hold numbers alone, which is what these suites were written for. A key of another kind than JAX's
    default (`jax.random.key(seed, impl=…)`) is replaced by one of the default kind that is drawn with it.
    """
    key = _check.key("key", key)
    usual = jax.eval_shape(lambda: jax.random.PRNGKey(0))
    if jax.random.key_impl(key) == jax.random.key_impl(jax.random.key(0)):
        return jax.random.key_data(key)
    return jax.random.bits(key, usual.shape, jnp.uint32)
