"""The written-out generator against JAX's own, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg import _threefry


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_fold_in_and_uniform_are_those_of_jax(impl):
    keys = jax.random.split(jax.random.key(5, impl=impl), 500)
    data = jax.random.bits(jax.random.key(6), (500,))
    ours, theirs = (jax.random.key_data(jax.vmap(f)(keys, data)) for f in (_threefry.fold_in, jax.random.fold_in))
    np.testing.assert_array_equal(ours, theirs)
    for index in (0, 1, np.uint32(2**32 - 1), jnp.int32(7)):
        ours, theirs = (jax.random.key_data(f(keys[0], index)) for f in (_threefry.fold_in, jax.random.fold_in))
        np.testing.assert_array_equal(ours, theirs)
    for dtype in (jnp.float32, jnp.bfloat16):
        # One key at a time: mapped draws of other generators than Threefry depend on the width of the map.
        ours = [_threefry.uniform(k, (), dtype) for k in keys[:20]]
        theirs = [jax.random.uniform(k, (), dtype) for k in keys[:20]]
        np.testing.assert_array_equal(jnp.stack(ours), jnp.stack(theirs))
    assert _threefry.uniform(keys[0], (3,), jnp.float32).shape == (3,)


def test_uniform_is_that_of_jax_in_double_precision(x64):
    keys = jax.random.split(jax.random.key(5), 100)
    ours = jax.vmap(lambda k: _threefry.uniform(k, (), jnp.float64))(keys)
    np.testing.assert_array_equal(ours, jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float64))(keys))


def test_the_original_counter_layout_is_left_to_jax():
    keys = jax.random.split(jax.random.key(5), 20)
    with jax.threefry_partitionable(False):
        ours = jax.vmap(lambda k: _threefry.uniform(k, (), jnp.float32))(keys)
        np.testing.assert_array_equal(ours, jax.vmap(lambda k: jax.random.uniform(k, (), jnp.float32))(keys))
