"""Orthogonal initial weights, without LAPACK."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["orthogonal"]


def orthogonal(gain: Any = 1.0) -> Callable[..., jax.Array]:
    """(key, shape, dtype) -> a kernel [..., out] whose columns or rows, whichever are fewer, are orthogonal and of
    length `gain`, uniform among all such (Saxe et al., 2014).

    The numbers are those of `jax.nn.initializers.orthogonal`, up to rounding, by Gram-Schmidt in the place of LAPACK's
    QR factorisation: on a CPU, JAX cuts a batch of these (`vmap` over runs) into tasks for the threads that also wait
    for them, so that the policy's and the critic's can wait for ever.
    """

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = None) -> jax.Array:
        dtype = jnp.result_type(float) if dtype is None else dtype
        rows, columns = math.prod(shape[:-1]), shape[-1]
        basis = _basis(key, max(rows, columns), min(rows, columns), dtype)
        return jnp.asarray(gain, dtype) * (basis if rows >= columns else basis.T).reshape(shape)

    return init


# Traced once for a size: flax looks at what this gives at every `apply`, too, to compare shapes.
@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _basis(key: jax.Array, rows: int, columns: int, dtype: Any) -> jax.Array:
    """`columns` orthonormal ones, [rows, columns]."""
    return _gram_schmidt(jax.random.normal(key, (rows, columns), dtype))


def _gram_schmidt(vectors: jax.Array) -> jax.Array:
    """The columns [n, k], k ≤ n, made orthonormal from the first on."""

    def add(k: jax.Array, basis: jax.Array) -> jax.Array:
        def without(_: Any, column: jax.Array) -> jax.Array:
            return column - basis @ (column @ basis)

        # "Twice is enough": after the second pass only rounding is left (Giraud et al., 2005).
        column = jax.lax.fori_loop(0, 2, without, vectors[:, k])
        return basis.at[:, k].set(column / jnp.linalg.norm(column))

    return jax.lax.fori_loop(0, vectors.shape[1], add, jnp.zeros_like(vectors))
