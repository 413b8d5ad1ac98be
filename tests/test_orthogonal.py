"""Orthogonal initial weights: JAX's own numbers, orthogonal, and without LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from jaxpg.policies._orthogonal import orthogonal


@pytest.mark.parametrize("shape", [(64, 64), (4, 64), (64, 2), (64, 1), (1, 5), (3, 3, 4, 16), (300, 40)])
def test_the_numbers_are_jaxs(key, shape):
    ours, theirs = orthogonal(1.5)(key, shape), jax.nn.initializers.orthogonal(1.5)(key, shape, jnp.float32)
    assert ours.dtype == jnp.float32
    # By Gram-Schmidt or by reflections: nearly dependent columns, as the last ones of a square, differ most.
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (10, 64), (128, 7)])
def test_columns_or_rows_are_orthogonal(key, shape):
    weights = np.asarray(orthogonal(2.0)(key, shape), np.float64)
    product = weights.T @ weights if shape[0] >= shape[1] else weights @ weights.T
    np.testing.assert_allclose(product, 4 * np.eye(min(shape)), atol=1e-5)


def test_vmapped_policies_do_without_lapack():
    """Its batches can wait for each other for ever (tests/test_devices.py)."""
    env = jaxpg.make("CartPole-v1")
    keys = jax.random.split(jax.random.key(0), 3)
    for policy in (jaxpg.policies.mlp(env, (8,)), jaxpg.policies.recurrent(env, size=4)):
        assert "custom_call_target=" not in jax.jit(jax.vmap(policy.init)).lower(keys).compile().as_text()
    qr = jax.jit(jax.vmap(jnp.linalg.qr)).lower(jnp.ones((3, 4, 4)))
    assert "custom_call_target=" in qr.compile().as_text()  # What is looked for is what a factorisation leaves.
