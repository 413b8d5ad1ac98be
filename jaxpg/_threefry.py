"""`fold_in` and scalar `uniform` of JAX's default generator, bit for bit, as one fused kernel.

On a CPU JAX lowers each Threefry call to a loop of small kernels, which costs more than a policy's layer when it is
called once for every row of lanes. Here the twenty rounds are written out, and XLA fuses them with what follows. For
other generators, and where JAX draws differently, these call `jax.random`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["fold_in", "uniform"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@jax.jit  # Traced once, not at every call.
def _threefry(key_0: jax.Array, key_1: jax.Array, x_0: jax.Array, x_1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with twenty rounds (Salmon et al., 2011): the block of the counter (x_0, x_1)."""
    keys = (key_0, key_1, key_0 ^ key_1 ^ np.uint32(0x1BD11BDA))
    x_0, x_1 = x_0 + keys[0], x_1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x_0 = x_0 + x_1
            x_1 = (x_1 << np.uint32(rotation)) | (x_1 >> np.uint32(32 - rotation))
            x_1 = x_0 ^ x_1
        x_0 = x_0 + keys[(group + 1) % 3]
        x_1 = x_1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x_0, x_1


def _is_threefry(key: jax.Array) -> bool:
    return key.dtype == jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype


def fold_in(key: jax.Array, data: Any) -> jax.Array:
    """`jax.random.fold_in(key, data)` for a typed key and an integer `data`."""
    if not _is_threefry(key):
        return jax.random.fold_in(key, data)
    words = jax.random.key_data(jax.random.clone(key))  # Folding in does not use a key up; key-reuse checks know that.
    zero = jnp.zeros((), jnp.uint32)
    return jax.random.wrap_key_data(
        jnp.stack(_threefry(words[0], words[1], zero, jnp.asarray(data).astype(jnp.uint32))), impl="threefry2x32"
    )


def uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """`jax.random.uniform(key, shape, dtype)`, floats in [0, 1); written out for a float32 scalar."""
    if shape or not _is_threefry(key) or dtype != jnp.float32 or not jax.config.jax_threefry_partitionable:  # type: ignore
        return jax.random.uniform(key, shape, dtype)
    words = jax.random.key_data(key)
    zero = jnp.zeros((), jnp.uint32)
    block = _threefry(words[0], words[1], zero, zero)
    bits = (block[0] ^ block[1]) >> np.uint32(9) | np.uint32(0x3F800000)  # A float in [1, 2).
    return jax.lax.bitcast_convert_type(bits, jnp.float32) - np.float32(1.0)
