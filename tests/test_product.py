"""`policies._product`: the value and all derivatives of x W, and a gradient whose factors are laid out for a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.policies import _product

ROWS, SIZES = 11, [(7, 7), (7, 3), (5, 1), (3, 6)]  # The last has more outputs than inputs, and is left to XLA.
CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere XLA multiplies both ways at one rate")


def rows_mapped(x, weights):
    return jax.vmap(_product.product, in_axes=(0, None))(x, weights)


def factors(size):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(ROWS, size[0]))), jnp.asarray(rng.normal(size=size))


def curved(product):
    """A number with second derivatives in both factors."""
    return lambda x, weights: jnp.sum(jnp.sin(product(jnp.tanh(x), weights)) ** 2)


def weighed(product):
    """The same, but with x given: only the weights have a tangent."""
    return lambda x, weights: curved(product)(jax.lax.stop_gradient(x), weights)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("product", [_product.product, rows_mapped])
@pytest.mark.parametrize("function", [curved, weighed])
def test_derivatives(function, product, size, x64):
    x, weights = factors(size)
    np.testing.assert_array_equal(product(x, weights), x @ weights)
    for argument in (0, 1):
        for transform in (jax.grad, jax.jacfwd, jax.hessian):
            found = transform(function(product), argument)(x, weights)
            np.testing.assert_allclose(
                found, transform(function(jnp.matmul), argument)(x, weights), rtol=1e-10, atol=1e-10
            )


@pytest.mark.parametrize("size", SIZES)
def test_leading_axes_and_many_weights(size, x64):
    x, weights = factors(size)
    grids, many = jnp.stack([x, -x]).reshape(2, 1, ROWS, -1), jnp.stack([weights, weights + 1, weights**2])
    np.testing.assert_allclose(_product.product(grids, weights), grids @ weights, rtol=1e-12)
    for found, expected in zip(
        jax.vmap(jax.grad(curved(rows_mapped), (0, 1)), (None, 0))(x, many),
        jax.vmap(jax.grad(curved(jnp.matmul), (0, 1)), (None, 0))(x, many),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


@CPU
@pytest.mark.parametrize("size", SIZES)
def test_no_product_contracts_columns(size):
    """Of its first factor: XLA's slow way, to which it would turn products back, were one of the barriers not there."""
    x, weights = factors(size)
    gradient = jax.jit(jax.grad(lambda w, x: jnp.sum(jnp.tanh(rows_mapped(x, w)) ** 2)))
    products = [line for line in gradient.lower(weights, x).compile().as_text().splitlines() if " dot(" in line]
    assert products
    slow = [line for line in products if "lhs_contracting_dims={0}" in line]
    assert bool(slow) == (size[1] > size[0]), slow
