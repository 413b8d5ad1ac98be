"""Full-precision matrix products: accelerators round the inputs of float32 products unless they are told not to."""

import functools
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["precise"]


def precise(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with every matrix product inside at its dtype's full precision."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped
