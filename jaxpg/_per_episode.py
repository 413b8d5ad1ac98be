"""Each episode's own gradient g_i = Σ_t w^t ψ_t (Ψ_t − b_t) and score D_i = Σ_t w^t ψ_t, batch by batch.

The score is the slope of −g_i in a constant b, with the same importance ratios: its mean is zero, whoever acts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg._accumulate import Steps, Terms
from jaxpg._batching import any_member
from jaxpg.lanes import float_dtype

__all__ = ["fold_episodes"]

BATCH_BYTES = 16 * 2**20  # Of the gradients and scores of one batch.
MOST_EPISODES = 32  # In a batch: with blocks of a few steps each, little is spent behind the shorter ones' ends.


def fold_episodes(
    steps: Steps,
    terms: Terms,
    params: Any,
    num_slots: jax.Array,
    block_size: int,
    fold: Callable[[Any, jax.Array, Any, Any], Any],
    start: Any,
) -> Any:
    """`fold(state, slots, gradients, scores)` over batches of E episodes: slots [E], pytrees with a leading [E] axis.

    Slots whose episode was not finished, or that do not exist, have gradients and scores of zero.
    """
    floats = float_dtype()
    num_bytes = sum(2 * x.size * jnp.promote_types(x.dtype, floats).itemsize for x in jax.tree.leaves(params))
    length, offset = steps.weighted.length, steps.weighted.offset
    batch = int(max(min(MOST_EPISODES, BATCH_BYTES // max(num_bytes, 1), length.shape[0]), 1))
    block = max(block_size // batch, 1)
    last_place = jnp.maximum(jnp.sum(length, dtype=jnp.int32) - 1, 0)
    zeros = jax.tree.map(lambda p: jnp.zeros((batch, *p.shape), jnp.promote_types(p.dtype, floats)), params)

    def one(params, observation, action, time, factors):
        """Gradient and score of an episode's steps in one block."""

        def objectives(params):
            gradient = jax.vmap(lambda *step: terms.step(params, *step))(observation, action, time, factors)
            log_prob = jax.vmap(lambda o, a: terms.policy.apply(params, o).log_prob(a))(observation, action)
            return jnp.sum(gradient), jnp.sum(factors.score * log_prob)

        (gradient, score), pull = jax.vjp(objectives, params)
        zero, unit = jnp.zeros_like(gradient), jnp.ones_like(gradient)
        return pull((unit, zero.astype(score.dtype)))[0], pull((zero, unit.astype(score.dtype)))[0]

    def add(total, new):
        return jax.tree.map(lambda t, n: t + n.astype(t.dtype), total, new)

    def body(state):
        first, carry, _ = state
        slots = first + jnp.arange(batch, dtype=jnp.int32)
        known = jnp.minimum(slots, length.shape[0] - 1)
        lengths = jnp.where(slots < num_slots, length[known], 0)

        def block_of(state):
            at, gradients, scores, _ = state
            times = at + jnp.arange(block, dtype=jnp.int32)
            places = jnp.minimum(offset[known][:, None] + times, last_place)
            parts = jax.vmap(lambda p, n: steps.at(terms, p, times < n))(places, lengths)
            new_gradients, new_scores = jax.vmap(lambda *part: one(params, *part))(*parts)
            going = any_member(jnp.any(at + block < lengths))
            return at + block, add(gradients, new_gradients), add(scores, new_scores), going

        at_start = (jnp.zeros((), jnp.int32), zeros, zeros, any_member(jnp.any(lengths > 0)))
        _, gradients, scores, _ = jax.lax.while_loop(lambda state: state[-1], block_of, at_start)
        carry = fold(carry, slots, gradients, scores)
        return first + batch, carry, any_member(first + batch < num_slots)

    state = (jnp.zeros((), jnp.int32), start, any_member(num_slots > 0))
    return jax.lax.while_loop(lambda state: state[-1], body, state)[1]
