"""From stored steps to their weights Ψ, by one backward pass over the rows of the buffer.

The pass also finds each step's place in the *packed order*: episodes one after the other by slot, each step by step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg._batching import read_row, write_row
from jaxpg._importance import Ratios
from jaxpg.baselines import Baseline
from jaxpg.lanes import Trajectory, float_dtype
from jaxpg.weights import StepValues, Weight

__all__ = ["Weighted", "peer_groups", "weigh"]


class Weighted(NamedTuple):
    """The buffer's steps with their weights.

    Fields:
      weight: Ψ [row, lane].
      packed: [row · lane] where the k-th step of the packed order lies, as row · lanes + lane.
      offset: [slot] the place of each slot's first step in the packed order.
      length: [slot] steps of each slot; 0 for an episode that was not finished.
      first: [slot] Ψ of the episode's first step.
      peer_sum, peer_count: [group, time] Σ_j Ψ_{j,t} and the number of episodes in it; None without such a baseline.
      peer_size: [group] episodes in the group.
    """

    weight: jax.Array
    packed: jax.Array
    offset: jax.Array
    length: jax.Array
    first: jax.Array
    peer_sum: Any
    peer_count: Any
    peer_size: Any


def peer_groups(num_slots: jax.Array, max_slots: int, group_size: int) -> tuple[jax.Array, jax.Array]:
    """Groups of consecutive slots; a last group of one joins the group before it.

    Returns:
      (group [max_slots] of each slot, size [max_groups] of each group).
    """
    groups = jnp.maximum((num_slots + group_size - 1) // group_size - (num_slots % group_size == 1), 1)
    slots = jnp.arange(max_slots, dtype=jnp.int32)
    group = jnp.minimum(slots // group_size, groups - 1)
    max_groups = -(-max_slots // group_size)
    size = jnp.zeros(max_groups, jnp.int32).at[jnp.where(slots < num_slots, group, max_groups)].add(1, mode="drop")
    return group, size


def recursion(increment: jax.Array, decay: jax.Array, ended: jax.Array, following: jax.Array) -> jax.Array:
    """R_t = x_t + c_t R_{t+1}; what follows an episode's last step belongs to another episode."""
    return increment + jnp.where(ended, 0.0, decay * following)


def weigh(
    buffer: Trajectory,
    num_rows: jax.Array,
    length: jax.Array,
    num_slots: jax.Array,
    weight: Weight,
    baseline: Baseline,
    ratios: Ratios | None,
    *,
    group_size: int,
    max_time: int,
) -> Weighted:
    """The weights Ψ of the buffer's first `num_rows` rows, and the packed order of its finished steps.

    Args:
      buffer: `Trajectory` of [row, lane] arrays; `episode` is the slot.
      length: [slot] episode lengths, 0 where not finished.
      ratios: None, or the importance ratios of the steps.
      group_size, max_time: for a baseline of the group's other episodes: their number, and the episode limit.
    """
    max_rows, num_lanes = buffer.reward.shape
    max_slots = length.shape[0]
    lane_index = jnp.arange(num_lanes, dtype=jnp.int32)
    offset = jnp.cumsum(length, dtype=jnp.int32) - length
    peers = baseline.peers is not None
    group, size = peer_groups(num_slots, max_slots, group_size)
    table = (size.shape[0], 1 if weight.whole_episode else max_time)
    coefficients = _coefficients(buffer, num_rows, weight, ratios)
    looked_at = buffer._replace(observation=None, action=None, log_prob=None)

    def body(state):
        row, following, finished, stored, result = state
        row = row - 1
        step = read_row(looked_at, row)
        ended = step.valid & (step.terminated | step.truncated)
        finished = finished | ended
        # An episode that was cut, also while its final observation was still to be stored, has length 0.
        kept = step.valid & finished & (length[step.episode] > 0)
        (increment, decay, direct, carry), stored = coefficients(row, step, stored)
        now = recursion(increment, decay, ended, following)
        psi = now if weight.direct is None else recursion(direct, carry, ended, following)
        nowhere = max_rows * num_lanes + lane_index
        place = jnp.where(kept, offset[step.episode] + step.time, nowhere)
        result = result._replace(
            weight=write_row(result.weight, psi, row),
            packed=result.packed.at[place].set(row * num_lanes + lane_index, mode="drop", unique_indices=True),
        )
        starts = kept & (step.time == 0)
        if weight.whole_episode:
            places = jnp.where(starts, step.episode, max_slots)
            result = result._replace(first=result.first.at[places].set(psi, mode="drop"))
        if peers:
            counted = starts if weight.whole_episode else kept
            at = (jnp.where(counted, group[step.episode], table[0]), 0 if weight.whole_episode else step.time)
            result = result._replace(
                peer_sum=result.peer_sum.at[at].add(psi, mode="drop"),
                peer_count=result.peer_count.at[at].add(1, mode="drop"),
            )
        return row, now, finished, stored, result

    start = _nothing_weighed(max_rows, num_lanes, offset, length, table if peers else None, size)
    floats = float_dtype()
    stored = jnp.zeros((max_rows, num_lanes), floats) if weight.lookahead is not None else None
    state = (num_rows, jnp.zeros(num_lanes, floats), jnp.zeros(num_lanes, bool), stored, start)
    return jax.lax.while_loop(lambda state: state[0] > 0, body, state)[-1]


def _coefficients(buffer: Trajectory, num_rows: jax.Array, weight: Weight, ratios: Ratios | None) -> Any:
    """(row, step, stored increments) -> ((x, c, u, k) of the row, stored increments with the row's)."""
    floats, max_rows = float_dtype(), buffer.reward.shape[0]
    prefix = ratios.prefix if ratios is not None and ratios.correction == "per_decision" else None

    def ahead(row, step, stored):
        """γⁿ x_{t+n}, where step t + n belongs to the same episode; corrected, with the ratios of the steps between."""
        n = min(weight.lookahead or 0, max_rows)
        later = jnp.minimum(row + n, max_rows - 1)
        episode, time, valid, increment = read_row((buffer.episode, buffer.time, buffer.valid, stored), later)
        same = (row + n < num_rows) & valid & (episode == step.episode) & (time == step.time + n)
        factor = jnp.asarray(weight.discount, floats) ** n
        if prefix is not None:
            before, there = read_row(prefix, row), read_row(prefix, later)
            factor = factor * jnp.where(before > 0, there / jnp.where(before > 0, before, 1.0), 0.0)
        return jnp.where(same, increment * factor, 0.0)

    def coefficients(row, step, stored):
        next_value = None
        if buffer.value is not None:
            next_value = read_row(buffer.value, jnp.minimum(row + 1, max_rows - 1))
        ratio = jnp.ones_like(step.reward) if ratios is None else read_row(ratios.ratio, row)
        values = StepValues(step.reward, step.value, next_value, step.terminated, step.truncated, ratio)
        increment, decay = weight.increment(values).astype(floats), weight.decay(values).astype(floats)
        if prefix is not None:
            increment, decay = ratio * increment, ratio * decay
        direct = carry = None
        if weight.direct is not None and weight.carry is not None:
            direct, carry = weight.direct(values).astype(floats), weight.carry(values).astype(floats)
        if weight.lookahead is not None:
            stored = write_row(stored, increment, row)
            increment = increment - ahead(row, step, stored)
        return (increment, decay, direct, carry), stored

    return coefficients


def _nothing_weighed(
    max_rows: int, num_lanes: int, offset: jax.Array, length: jax.Array, table: tuple[int, int] | None, size: jax.Array
) -> Weighted:
    """The record before the backward pass; `table` is the shape of the peers' sums, None without such a baseline."""
    floats = float_dtype()
    return Weighted(
        weight=jnp.zeros((max_rows, num_lanes), floats),
        packed=jnp.zeros(max_rows * num_lanes, jnp.int32),
        offset=offset,
        length=length,
        first=jnp.zeros(length.shape[0], floats),
        peer_sum=None if table is None else jnp.zeros(table, floats),
        peer_count=None if table is None else jnp.zeros(table, jnp.int32),
        peer_size=None if table is None else size,
    )
