"""Every action of a distribution with its probability, or nodes and their weights: E[f(a)] = Σ_j p_j f(a_j)."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.policies.distributions import (
    Bernoulli,
    Categorical,
    DiagonalNormal,
    Joint,
    MultiDiscrete,
    TanhNormal,
    is_distribution,
    without_value,
)

__all__ = ["quadrature"]

MOST_NODES = 65_536


def quadrature(distribution: Any, points: int = 8) -> tuple[Any, jax.Array]:
    """Actions a_j with a leading axis [n], and their probabilities p_j [n], for one unbatched distribution.

    Discrete actions are enumerated. A normal has Gauss–Hermite nodes, `points` for each component: exact for
    polynomials up to degree 2·points − 1. A joint distribution has the products of its parts' nodes.

    Raises:
      TypeError: for other distributions.
      ValueError: for more than 65,536 nodes.
    """
    distribution = without_value(distribution)
    if isinstance(distribution, Joint):
        parts, structure = jax.tree.flatten(distribution.distributions, is_leaf=is_distribution)
        actions, probabilities = _product([quadrature(part, points) for part in parts])
        return jax.tree.unflatten(structure, actions), probabilities
    if isinstance(distribution, Categorical):
        actions = jnp.arange(jnp.shape(distribution.logits)[-1], dtype=jnp.int32)
        return actions, jnp.exp(distribution.log_probs())
    if isinstance(distribution, (DiagonalNormal, TanhNormal)):
        return _hermite(distribution, points)
    if isinstance(distribution, (Bernoulli, MultiDiscrete)):
        actions = _combinations(distribution)
        return actions, jnp.exp(jax.vmap(distribution.log_prob)(actions))
    raise TypeError(
        f"the sum over all actions is available for discrete, normal and joint distributions; got "
        f"{type(distribution).__name__}"
    )


def _combinations(distribution: Any) -> jax.Array:
    """All actions of a Bernoulli or multi-discrete distribution, [n, …]."""
    shape = jax.eval_shape(distribution.mode)
    if isinstance(distribution, Bernoulli):
        sizes = [2] * math.prod(shape.shape)
    else:
        sizes = list(distribution.nvec)
    _check_nodes(math.prod(sizes))
    grid = np.array(list(itertools.product(*map(range, sizes))))
    return jnp.asarray(grid.reshape((-1, *shape.shape)), shape.dtype)


def _hermite(distribution: Any, points: int) -> tuple[jax.Array, jax.Array]:
    shape = jnp.shape(distribution.mean)
    size = math.prod(shape)
    _check_nodes(points**size)
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    grid = np.array(list(itertools.product(nodes, repeat=size))).reshape((-1, *shape))
    weights = np.array([math.prod(w) for w in itertools.product(weights / weights.sum(), repeat=size)])
    dtype = distribution.mean.dtype
    actions = distribution.mean + jnp.exp(distribution.log_std) * jnp.asarray(grid, dtype)
    return actions, jnp.asarray(weights, dtype)


def _product(parts: list[tuple[Any, jax.Array]]) -> tuple[list[Any], jax.Array]:
    sizes = [probabilities.shape[0] for _, probabilities in parts]
    _check_nodes(math.prod(sizes))
    index = np.indices(sizes).reshape(len(sizes), -1)
    actions = [jax.tree.map(lambda x, i=i: x[i], part) for (part, _), i in zip(parts, index, strict=True)]
    columns = jnp.stack([probabilities[i] for (_, probabilities), i in zip(parts, index, strict=True)])
    return actions, jnp.prod(columns, axis=0)


def _check_nodes(number: int) -> None:
    if number > MOST_NODES:
        raise ValueError(
            f"the sum over all actions has {number:,} terms, at most {MOST_NODES:,} are taken: give fewer "
            f"quadrature_points, or an action space of fewer actions"
        )
