"""From stored steps to Σ_t w^t ∇ log π(a_t | s_t) (Ψ_t − b_t), summed over groups of episodes.

First one backward pass over the rows of the buffer gives Ψ. It also finds each step's place in the *packed order*:
episodes one after the other by slot, each step by step. Then the gradient runs over blocks of the packed order, which
hold finished steps only, small enough for the cache; a block ends where a group does.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpg._batching import any_member, in_batches, read_row, write_row
from jaxpg._plan import default
from jaxpg.baselines import Baseline
from jaxpg.lanes import Trajectory, float_dtype
from jaxpg.policies.base import Policy
from jaxpg.weights import StepValues, Weight

__all__ = ["Weighted", "sum_terms", "weigh"]


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
    """Ψ_t = x_t + c_t Ψ_{t+1}; what follows an episode's last step belongs to another episode."""
    return increment + jnp.where(ended, 0.0, decay * following)


def weigh(
    buffer: Trajectory,
    num_rows: jax.Array,
    length: jax.Array,
    num_slots: jax.Array,
    weight: Weight,
    baseline: Baseline,
    *,
    group_size: int,
    max_time: int,
) -> Weighted:
    """The weights Ψ of the buffer's first `num_rows` rows, and the packed order of its finished steps.

    Args:
      buffer: `Trajectory` of [row, lane] arrays; `episode` is the slot.
      length: [slot] episode lengths, 0 where not finished.
      group_size, max_time: for a baseline of the group's other episodes: their number, and the episode limit.
    """
    max_rows, num_lanes = buffer.reward.shape
    max_slots = length.shape[0]
    lane_index = jnp.arange(num_lanes, dtype=jnp.int32)
    offset = jnp.cumsum(length, dtype=jnp.int32) - length
    floats = float_dtype()
    peers = baseline.peers is not None
    group, size = peer_groups(num_slots, max_slots, group_size)
    table = (size.shape[0], 1 if weight.whole_episode else max_time)

    looked_at = buffer._replace(observation=None, action=None)

    def increments(row, step):
        following = jnp.minimum(row + 1, max_rows - 1)
        next_value = None
        if buffer.value is not None:
            next_value = read_row(buffer.value, following)
        values = StepValues(step.reward, step.value, next_value, step.terminated, step.truncated)
        return weight.increment(values).astype(floats), weight.decay(values).astype(floats)

    def ahead(row, step, stored):
        """γⁿ x_{t+n}, where step t + n belongs to the same episode."""
        n = min(weight.lookahead or 0, max_rows)
        later = jnp.minimum(row + n, max_rows - 1)
        episode, time, valid, increment = read_row((buffer.episode, buffer.time, buffer.valid, stored), later)
        same = (row + n < num_rows) & valid & (episode == step.episode) & (time == step.time + n)
        return jnp.where(same, increment * jnp.asarray(weight.discount, floats) ** n, 0.0)

    def body(state):
        row, psi, finished, stored, result = state
        row = row - 1
        step = read_row(looked_at, row)
        ended = step.valid & (step.terminated | step.truncated)
        finished = finished | ended
        # An episode that was cut, also while its final observation was still to be stored, has length 0.
        kept = step.valid & finished & (length[step.episode] > 0)
        increment, decay = increments(row, step)
        if weight.lookahead is not None:
            stored = write_row(stored, increment, row)
            increment = increment - ahead(row, step, stored)
        psi = recursion(increment, decay, ended, psi)
        nowhere = max_rows * num_lanes + lane_index
        place = jnp.where(kept, offset[step.episode] + step.time, nowhere)
        starts = kept & (step.time == 0)
        result = result._replace(
            weight=write_row(result.weight, psi, row),
            packed=result.packed.at[place].set(row * num_lanes + lane_index, mode="drop", unique_indices=True),
            first=result.first.at[jnp.where(starts, step.episode, max_slots)].set(psi, mode="drop"),
        )
        if peers:
            counted = starts if weight.whole_episode else kept
            at = (jnp.where(counted, group[step.episode], table[0]), 0 if weight.whole_episode else step.time)
            result = result._replace(
                peer_sum=result.peer_sum.at[at].add(psi, mode="drop"),
                peer_count=result.peer_count.at[at].add(1, mode="drop"),
            )
        return row, psi, finished, stored, result

    start = _nothing_weighed(max_rows, num_lanes, offset, length, table if peers else None, size)
    zeros = jnp.zeros(num_lanes, floats)
    stored = jnp.zeros((max_rows, num_lanes), floats) if weight.lookahead is not None else None
    state = (num_rows, zeros, jnp.zeros(num_lanes, bool), stored, start)
    return jax.lax.while_loop(lambda state: state[0] > 0, body, state)[-1]


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


def sum_terms(
    buffer: Trajectory,
    num_rows: jax.Array,
    length: jax.Array,
    num_slots: jax.Array,
    policy: Policy,
    params: Any,
    weight: Weight,
    baseline: Baseline,
    *,
    group_ends: jax.Array,
    group_size: int,
    max_time: int,
    block_size: int,
    sums: Any,
    episode_weights: jax.Array | None = None,
) -> Any:
    """Adds Σ_i p_i Σ_t w^t ∇ log π(a_t | s_t) (Ψ_t − b_t) to `sums`, over the finished episodes i of each group.

    Args:
      buffer, num_rows, length, group_size, max_time: as in `weigh`.
      group_ends: [group] the number of slots up to and including the group's last; groups are ranges of slots.
      block_size: steps of a block.
      sums: pytree like `params` with a leading [group] axis.
      episode_weights: [slot] p_i; None: 1.
    """
    weighted = weigh(buffer, num_rows, length, num_slots, weight, baseline, group_size=group_size, max_time=max_time)
    flat = jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), (buffer, weighted.weight))
    total = jnp.sum(weighted.length, dtype=jnp.int32)
    # Steps of the packed order up to each group's end.
    offsets = jnp.append(weighted.offset, total)
    step_ends = offsets[group_ends]
    group, _ = peer_groups(num_slots, weighted.length.shape[0], group_size)
    floats = float_dtype()
    lanes = jnp.arange(block_size, dtype=jnp.int32)

    def advantages(step, psi):
        """w^t (Ψ_t − b_t) for the steps of a block."""
        if weight.whole_episode:
            psi = weighted.first[step.episode]
        if baseline.function is not None:
            psi_less = psi - jax.vmap(baseline.function)(step.observation, step.time).astype(floats)
        elif baseline.peers is not None:
            g, t = group[step.episode], 0 if weight.whole_episode else step.time
            b = baseline.peers(weighted.peer_sum[g, t], psi, weighted.peer_size[g], weighted.peer_count[g, t])
            psi_less = psi - b
        else:
            psi_less = psi
        if not _is_one(weight.state_discount):
            psi_less = psi_less * jnp.asarray(weight.state_discount, floats) ** step.time
        return psi_less if episode_weights is None else psi_less * episode_weights[step.episode]

    def objective(params, observation, action, scale):
        log_prob = jax.vmap(lambda o, a: policy.apply(params, o).log_prob(a))(observation, action)
        chex.assert_equal_shape([log_prob, scale])
        return jnp.sum(scale * log_prob)

    def block(start, end, partial):
        """Adds the terms of the next `block_size` steps before `end`."""
        places = weighted.packed[jnp.minimum(start + lanes, total - 1)]
        step, psi = jax.tree.map(lambda x: x[places], flat)
        scale = jnp.where(start + lanes < end, advantages(step, psi), 0.0)
        scale = jax.lax.stop_gradient(scale)
        most = max(default("block_size") // block_size, 1)  # Members of a vmap at a time: what the cache holds.
        gradient = in_batches(jax.grad(objective), most, params, step.observation, step.action, scale)
        return jax.tree.map(lambda p, g: p + g.astype(p.dtype), partial, gradient)

    def add_group(group, sums):
        end = step_ends[group]
        start = jnp.where(group > 0, step_ends[group - 1], 0)

        def body(state):
            start, partial, _ = state
            partial = block(start, end, partial)
            return start + block_size, partial, any_member(start + block_size < end)

        partial = jax.tree.map(lambda s: jnp.zeros(s.shape[1:], s.dtype), sums)
        _, partial, _ = jax.lax.while_loop(lambda state: state[2], body, (start, partial, any_member(start < end)))
        return write_row(sums, jax.tree.map(jnp.add, read_row(sums, group), partial), group)

    return jax.lax.fori_loop(0, step_ends.shape[0], add_group, sums)


def _is_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 1
