"""The uniform numbers that `from_uniforms` maps to an action by the inverse of the cumulative distribution."""

import math
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["as_draws"]


def as_draws(uniforms: Any, shape: tuple[int, ...]) -> jax.Array:
    """`uniforms`, floats [product of `shape`], in that shape and inside (0, 1), where every inverse is finite."""
    uniforms = jnp.asarray(uniforms)
    if uniforms.shape != (math.prod(shape),) or not jnp.issubdtype(uniforms.dtype, jnp.floating):
        raise ValueError(
            f"uniforms must be floats of shape {(math.prod(shape),)}, as num_uniforms() says; got shape "
            f"{uniforms.shape} and dtype {uniforms.dtype}"
        )
    limits = jnp.finfo(uniforms.dtype)
    return jnp.clip(uniforms, limits.tiny, 1 - limits.epsneg).reshape(shape)
