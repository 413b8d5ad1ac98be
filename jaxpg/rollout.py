"""Rollouts τ ~ π_θ: whole episodes, packed on lanes that take one environment step each per row.

`episodes` plays whole episodes packed back to back: a lane whose episode ends takes the next episode id until all
are played, so no step is computed for a dead lane except in the tail, no episode is favoured for being short and none
is cut. `collect` keeps all their steps. `jaxpg.segments` plays segments of fixed length.

Randomness goes by name: episode i has the key fold_in(key, i), from which `jaxpg.lanes` draws all that happens in it.
What an episode is depends on its name alone: not on lanes, chunks, devices or `vmap`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check, _mesh
from jaxpg._batching import any_member, mapped_like, write_row
from jaxpg._keywords import hinted
from jaxpg._plan import default, require_max_steps, row_bytes, worst_rows
from jaxpg._threefry import fold_in
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.lanes import (
    EpisodeStatistics,
    Lanes,
    Player,
    Trajectory,
    float_dtype,
    play_row,
    play_step,
    reset_lane,
    select,
    strong,
    zeros_of,
)
from jaxpg.policies.base import Policy

__all__ = ["EpisodeStatistics", "Queue", "Trajectory", "collect", "episodes"]


MOST_BYTES = 8 * 2**30  # That `collect` allocates; more is a mistake, or a job for `policy_gradient`.


class Queue(NamedTuple):
    """The episodes to play: slots 0, 1, … name first the `num_pending` ids in `pending`, then `next_id`, …

    Fields:
      pending: [lane] ids in ascending order (only the first `num_pending` count) that did not fit into the buffer
        before and are played again, from the start and by the same key: the same episodes.
      num_pending, next_id: scalars.
      num_slots: how many slots there are to play.
    """

    pending: jax.Array
    num_pending: jax.Array
    next_id: jax.Array
    num_slots: jax.Array

    @classmethod
    def of(cls, first_id: Any, num_slots: Any, num_lanes: int) -> "Queue":
        """The `num_slots` episodes from `first_id` on."""
        none = jnp.full(num_lanes, jnp.iinfo(jnp.int32).max, jnp.int32)
        zero = jnp.zeros((), jnp.int32)
        return cls(none, zero, jnp.asarray(first_id, jnp.int32), jnp.asarray(num_slots, jnp.int32))

    def ids(self, slots: jax.Array) -> jax.Array:
        """The episode id of each slot."""
        pending = self.pending[jnp.clip(slots, 0, self.pending.shape[0] - 1)]
        return jnp.where(slots < self.num_pending, pending, self.next_id + slots - self.num_pending)


class _Round(NamedTuple):
    lanes: Lanes
    free: jax.Array  # Lanes that can take a new episode.
    pool: Lanes  # Lanes at the first step of slots pool_start, pool_start + 1, …: resets are drawn in batches.
    pool_start: jax.Array
    next_slot: jax.Array
    episodes: EpisodeStatistics
    buffer: Any
    row: jax.Array
    going: jax.Array  # One scalar for all members of a vmap, as is `row`.


def episodes(
    player: Player,
    params: Any,
    key: jax.Array,
    queue: Queue,
    buffer: Any,
    *,
    num_rows: int,
    max_slots: int,
    record: Callable[[Trajectory], Any] = lambda row: row,
    episode_key: Callable[[jax.Array, jax.Array], jax.Array] = fold_in,
) -> tuple[Any, jax.Array, EpisodeStatistics, Queue]:
    """Plays the queue's episodes packed on lanes until all are done or `num_rows` rows are full.

    Args:
      queue: the episodes to play; as many lanes are used as `queue.pending` has entries.
      buffer: pytree of [num_rows, lane, …] arrays that `record(row)` is written into (None: nothing is kept).
      num_rows: the rows that the buffer holds; without a buffer, the most rows to play.
      max_slots: static bound of `queue.num_slots`.
      record: what of a `Trajectory` row is kept. `episode` in it is the slot.
      episode_key: (key, episode id) -> the episode's key.

    Returns:
      (buffer, rows used, statistics [max_slots], the queue with what is left). Steps of episodes whose statistics show
      length 0 belong to episodes that were not finished; they head the new queue.
    """
    num_lanes = queue.pending.shape[0]

    def lanes_for(slots):
        return jax.vmap(lambda slot, i: reset_lane(player, episode_key(key, i), slot, i))(slots, queue.ids(slots))

    def hand_out(rnd: _Round) -> _Round:
        """Gives the free lanes the next slots; initial states come from the pool, refilled when it runs out."""
        free = rnd.free
        demand = jnp.sum(free, dtype=jnp.int32)
        slots = rnd.next_slot + jnp.cumsum(free, dtype=jnp.int32) - 1
        has = free & (slots < queue.num_slots)
        short = (rnd.next_slot + demand > rnd.pool_start + num_lanes) & (rnd.next_slot < queue.num_slots)
        pool, pool_start = jax.lax.cond(
            any_member(short),
            lambda: (lanes_for(rnd.next_slot + jnp.arange(num_lanes, dtype=jnp.int32)), rnd.next_slot),
            lambda: (rnd.pool, rnd.pool_start),
        )
        places = jnp.clip(slots - pool_start, 0, num_lanes - 1)
        # Lanes for which no episode is left take an initial state, too: none steps from a state that no reset made.
        lanes = select(free, jax.tree.map(lambda x: x[places], pool), rnd.lanes)
        return rnd._replace(
            lanes=lanes._replace(playing=jnp.where(free, has, lanes.playing)),
            pool=pool,
            pool_start=pool_start,
            next_slot=jnp.minimum(rnd.next_slot + demand, queue.num_slots),
        )

    def body(rnd: _Round) -> _Round:
        rnd = jax.lax.cond(any_member(jnp.any(rnd.free)), hand_out, lambda rnd: rnd, rnd)
        lanes, row, ended, free = play_row(player, params, rnd.lanes)
        buffer = None if rnd.buffer is None else write_row(rnd.buffer, record(row), rnd.row)

        def note(statistics: EpisodeStatistics) -> EpisodeStatistics:
            slots = jnp.where(ended, row.episode, max_slots)  # Out of range: dropped.
            ends = EpisodeStatistics(lanes.time, lanes.returns, lanes.discounted_returns)
            return jax.tree.map(lambda all_, new: all_.at[slots].set(new, mode="drop"), statistics, ends)

        statistics = jax.lax.cond(any_member(jnp.any(ended)), note, lambda statistics: statistics, rnd.episodes)
        left = jnp.any(lanes.playing) | (rnd.next_slot < queue.num_slots)
        return rnd._replace(
            lanes=lanes,
            free=free,
            episodes=statistics,
            buffer=buffer,
            row=rnd.row + 1,
            going=any_member(left) & (rnd.row + 1 < num_rows),
        )

    lanes = jax.eval_shape(lanes_for, jnp.arange(num_lanes, dtype=jnp.int32))
    start = _start(lanes, buffer, max_slots, any_member(queue.num_slots > 0))
    # Mapped from the start: `vmap` batches a loop anew until it knows what is mapped. `row` and `going` stay one scalar
    # for all members. A clone, as `jax.debug_key_reuse` takes any key that is looked at for one that is used up.
    alone = mapped_like(start._replace(row=None, going=None), (params, jax.random.clone(key), queue))
    start = alone._replace(row=start.row, going=start.going)
    end = jax.lax.while_loop(lambda rnd: rnd.going, body, start)
    return (end.buffer, end.row, *_what_is_left(end, queue))


def _start(lanes: Any, buffer: Any, max_slots: int, going: jax.Array) -> _Round:
    """Before the first row: all lanes are free and without an episode, and the pool is empty."""
    lanes = jax.tree.map(zeros_of, lanes)
    num_lanes, floats = lanes.playing.shape[0], float_dtype()
    return _Round(
        lanes=lanes,
        free=jnp.ones(num_lanes, bool),
        pool=lanes,
        pool_start=jnp.full((), -num_lanes, jnp.int32),
        next_slot=jnp.zeros((), jnp.int32),
        episodes=EpisodeStatistics(
            jnp.zeros(max_slots, jnp.int32), jnp.zeros(max_slots, floats), jnp.zeros(max_slots, floats)
        ),
        buffer=buffer,
        row=jnp.zeros((), jnp.int32),
        going=going,
    )


def _what_is_left(end: _Round, queue: Queue) -> tuple[EpisodeStatistics, Queue]:
    """The statistics with the unfinished episodes marked, and the queue that is headed by them."""
    # A lane that waits to record its final observation has played its episode but not stored it: it is unfinished.
    unfinished = end.lanes.playing
    max_slots = end.episodes.length.shape[0]
    length = end.episodes.length.at[jnp.where(unfinished, end.lanes.episode, max_slots)].set(0, mode="drop")
    num_pending = jnp.sum(unfinished, dtype=jnp.int32)
    rest = Queue(
        pending=jnp.sort(jnp.where(unfinished, queue.ids(end.lanes.episode), jnp.iinfo(jnp.int32).max)),
        num_pending=num_pending,
        next_id=queue.next_id + jnp.maximum(end.next_slot - queue.num_pending, 0),
        num_slots=num_pending,
    )
    return end.episodes._replace(length=length), rest


@hinted
def collect(
    env: Environment,
    policy: Policy,
    params: Any,
    key: Any,
    *,
    num_episodes: int,
    num_lanes: int | None = None,
    discount: Any = None,
    final_rows: bool = True,
) -> tuple[Trajectory, EpisodeStatistics]:
    """All steps of `num_episodes` whole episodes, for `gradient_from`, for fitting critics, or to look at.

    Memory is that of the worst case, num_episodes × env.max_steps steps. Called again and again, put it under `jit`.

    Args:
      discount: γ of the `discounted_returns`; None leaves them 0.
      final_rows: follow truncated episodes by a row that is not `valid` and holds their final observation, which
        weights with a value function need.
    Returns:
      (trajectory of [row, lane] arrays, statistics [num_episodes]).
    """
    num_episodes = _check.count("num_episodes", num_episodes)
    key = _check.key("key", key)
    check_structure(_check.instance("env", env, Environment))
    _check.instance("policy", policy, Policy)
    longest = require_max_steps(env) + _check.boolean("final_rows", final_rows)
    _check.optional(_check.unit, "discount", discount)
    num_lanes = min(_check.count_or("num_lanes", num_lanes, default("num_lanes")), num_episodes)
    devices = 1 if (mesh := _mesh.current()) is None else mesh.size
    _mesh.divides("num_episodes", num_episodes)
    share, lanes = num_episodes // devices, max(num_lanes // devices, 1)
    num_rows = worst_rows(share, lanes, longest)

    player = Player(env=env, policy=policy, discount=discount, final_rows=final_rows)
    row = jax.eval_shape(lambda params: strong(play_step(player, params, reset_lane(player, key, 0))[1]), params)
    num_bytes = num_rows * lanes * row_bytes(row)
    if num_bytes > MOST_BYTES:
        raise ValueError(
            f"num_episodes: {num_episodes} episodes of {env.name} take up to {num_bytes:,} bytes, all steps kept; at "
            f"most {MOST_BYTES:,} are. Take fewer; policy_gradient needs no more memory for more episodes"
        )

    def play(first: jax.Array, params: Any, key: jax.Array) -> tuple[Trajectory, EpisodeStatistics]:
        """The `share` episodes from `first[0]` on; each device plays its own."""
        buffer = jax.tree.map(lambda x: jnp.zeros((num_rows, lanes, *x.shape), x.dtype), row)
        queue = Queue.of(first[0], share, lanes)
        trajectory, _, statistics, _ = episodes(player, params, key, queue, buffer, num_rows=num_rows, max_slots=share)
        return trajectory._replace(episode=trajectory.episode + first[0]), statistics

    firsts = share * jnp.arange(devices, dtype=jnp.int32)
    return _mesh.along_devices(mesh, play, cut={0: 0}, axes=(1, 0))(firsts, params, key)
