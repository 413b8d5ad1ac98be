"""Quadratic functions without a linear term, f_t(x) = xᵀ M_t x + c_t: the value functions of an LQR."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check

__all__ = ["Quadratic", "from_function"]


class Quadratic(NamedTuple):
    """f_t(x) = xᵀ M_t x + c_t.

    Fields: matrix [T, n, n] and constant [T]; or [n, n] and a scalar, one function for all times.
    """

    matrix: jax.Array
    constant: jax.Array

    def __call__(self, x: jax.Array, time: Any = 0) -> jax.Array:
        """f_t(x) for one x [n]; 0 for times behind the last."""
        if self.matrix.ndim == 2:
            return x @ self.matrix @ x + self.constant
        last = self.matrix.shape[0] - 1
        row = jnp.minimum(time, last)
        return jnp.where(jnp.asarray(time) <= last, x @ self.matrix[row] @ x + self.constant[row], 0.0)


def from_function(argument: str, function: Any, size: int, times: jax.Array, dtype: Any) -> Quadratic:
    """A function (x, time) -> number as a `Quadratic` with a row for each of `times`.

    Raises ValueError where values are concrete and the function is not quadratic, or has a linear term.
    """
    zero = jnp.zeros(size, dtype)

    def at(x: jax.Array, time: jax.Array) -> jax.Array:
        return jnp.asarray(function(x, time), dtype)

    quadratic = Quadratic(
        matrix=jax.vmap(lambda time: 0.5 * jax.hessian(at)(zero, time))(times),
        constant=jax.vmap(lambda time: at(zero, time))(times),
    )
    probes = jnp.asarray(np.random.default_rng(0).normal(size=(4, size)), dtype)
    claimed = jnp.einsum("ki,tij,kj->tk", probes, quadratic.matrix, probes) + quadratic.constant[:, None]
    actual = jax.vmap(lambda time: jax.vmap(lambda x: at(x, time))(probes))(times)
    if _check.is_concrete(claimed) and _check.is_concrete(actual) and not np.allclose(claimed, actual, 1e-3, 1e-4):
        raise ValueError(
            f"{argument} must be a quadratic function of the state without a linear term, xᵀ M x + c, for its "
            "estimator's moments to be exact; it is not"
        )
    return quadratic
