"""A linear baseline fitted by least squares on a group's other episodes: b_i(s, t) = φ(s, t)ᵀ θ_{−k(i)}.

The episodes of a group are dealt out to K folds. θ_{−k} solves the normal equations of the steps of all folds but k, so
it is independent of the episodes of fold k, and the estimate is unbiased.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg._batching import any_member
from jaxpg._weigh import Weighted
from jaxpg.baselines import Baseline
from jaxpg.lanes import Trajectory
from jaxpg.weights import Weight

__all__ = ["fit"]


def fit(
    baseline: Baseline,
    steps: Trajectory,
    psi: jax.Array,
    weighted: Weighted,
    group: jax.Array,
    size: jax.Array,
    group_size: int,
    weight: Weight,
    block_size: int,
) -> Callable[[Any, jax.Array, jax.Array], jax.Array]:
    """(observation, time, slot), each with a leading axis, -> b: fitted to Ψ over the packed order.

    Args:
      steps, psi: [row · lane, …] steps and their Ψ.
      group, size: [slot] groups of slots, and [group] their sizes.
    """
    folds, function = baseline.folds, baseline.features
    if function is None:
        raise TypeError("the baseline has no features")
    slots = jnp.arange(group.shape[0], dtype=jnp.int32)
    fold = (slots - group * group_size) % folds
    total = jnp.sum(weighted.length, dtype=jnp.int32)
    index = jnp.arange(block_size, dtype=jnp.int32)

    def features(observation, time):
        return jax.vmap(function)(observation, time).astype(psi.dtype)

    def body(state):
        start, squares, products, _ = state
        places = weighted.packed[jnp.minimum(start + index, total - 1)]
        step, target = jax.tree.map(lambda x: x[places], (steps._replace(action=None), psi))
        if weight.whole_episode:
            target = weighted.first[step.episode]
        phi = jnp.where((start + index < total)[:, None], features(step.observation, step.time), 0.0)
        at = (group[step.episode], fold[step.episode])
        squares = squares.at[at].add(phi[:, :, None] * phi[:, None, :])
        products = products.at[at].add(phi * target[:, None])
        return start + block_size, squares, products, any_member(start + block_size < total)

    example = jax.tree.map(lambda x: x[:1], (steps.observation, steps.time))
    num_features = jax.eval_shape(features, *example).shape[-1]
    shape = (size.shape[0], folds, num_features)
    state = (
        jnp.zeros((), jnp.int32),
        jnp.zeros((*shape, num_features), psi.dtype),
        jnp.zeros(shape, psi.dtype),
        any_member(total > 0),
    )
    _, squares, products, _ = jax.lax.while_loop(lambda state: state[-1], body, state)
    others = jnp.sum(squares, 1, keepdims=True) - squares
    targets = jnp.sum(products, 1, keepdims=True) - products
    # The ridge is relative to the features' mean square; where no other episode is, θ = 0.
    trace = jnp.trace(others, axis1=-2, axis2=-1)[..., None, None] / num_features
    ridge = (baseline.ridge * trace + jnp.finfo(psi.dtype).tiny) * jnp.eye(num_features, dtype=psi.dtype)
    theta = jnp.linalg.solve(others + ridge, targets[..., None])[..., 0]
    theta = jnp.where(trace[..., 0] > 0, theta, 0.0)

    def b(observation, time, slot):
        return jnp.sum(features(observation, time) * theta[group[slot], fold[slot]], axis=-1)

    return b
