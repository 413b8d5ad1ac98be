"""Numerical care shared by the exact computations."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxpg import _check

__all__ = ["check_spectral_radius", "precise"]


def precise(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with every matrix product inside at its dtype's full precision.

    Accelerators round the inputs of float32 products unless they are told not to.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


def check_spectral_radius(matrix: jax.Array, what: str) -> None:
    """Raises ValueError unless Σ_k matrix^k converges; traced values pass. `what` says what is wrong then."""
    if not _check.is_concrete(matrix):
        return
    radius = float(np.max(np.abs(np.linalg.eigvals(np.asarray(matrix, np.float64)))))
    if not radius < 1.0 - 1e-9:
        raise ValueError(f"{what}: the recursion has spectral radius {radius:.6g}, and must be below 1")
