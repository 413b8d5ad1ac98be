"""Rollouts τ ~ π_θ: lanes that play episodes side by side, one environment step each per row.

`episodes` plays whole episodes packed back to back: a lane whose episode ends takes the next episode id until all
are played, so no step is computed for a dead lane except in the tail, no episode is favoured for being short and none
is cut. `collect` keeps all their steps. `jaxpg.segments` takes the same lane step for segments of fixed length.

Randomness goes by name. Episode i has the key e = fold_in(key, i). Its reset draws from fold_in(e, 0); its step t has
the key k = fold_in(e, t + 1): the action draws from k, the environment from fold_in(k, 2³² − 1), a counter that no draw
from k reaches. What an episode is therefore depends on its name alone: not on lanes, chunks, devices or `vmap`. Where
the environment ignores its key, the compiler drops the derivation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg._batching import any_member, write_row
from jaxpg._plan import default, require_max_steps, worst_rows
from jaxpg.envs.base import Environment
from jaxpg._threefry import fold_in
from jaxpg.policies.base import Policy

__all__ = ["EpisodeStatistics", "Lanes", "Queue", "Trajectory", "collect", "episodes"]

ENVIRONMENT_STREAM = np.uint32(2**32 - 1)


class Trajectory(NamedTuple):
    """Steps as [step, lane] arrays, time first. Episodes lie back to back in a lane.

    Fields:
      observation: s_t, the observation in which `action` was taken; in a row with `valid` False behind a truncated
        step, the final observation that the step led to.
      action: a_t as the policy's distribution sampled it (for a squashed one, before squashing).
      log_prob: log π(a_t | s_t) of the policy that acted.
      reward, terminated, truncated: of the step that took `action` in `observation`; never both flags.
      value: V(s_t) where the rollout was given a value function, else None.
      carry: the policy's memory before the step; None without one.
      episode: the id of the episode that the step belongs to.
      time: t, the index of the step within its episode.
      valid: whether the row is a step that was played.
    """

    observation: Any
    action: Any
    log_prob: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    value: Any
    carry: Any
    episode: jax.Array
    time: jax.Array
    valid: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyWords:
    """A random key as the plain words that loops can select and gather; `impl` names its generator."""

    words: jax.Array
    impl: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, key: jax.Array) -> "KeyWords":
        """The words of a typed key."""
        return cls(jax.random.key_data(key), jax.random.key_impl(key))

    def key(self) -> jax.Array:
        """The typed key."""
        return jax.random.wrap_key_data(self.words, impl=self.impl)


class Lanes(NamedTuple):
    """What a lane carries from row to row; every leaf has a leading [lane] axis.

    `episode` counts within the queue (`episodes`) or within the lane (`segment`). `final` marks a lane whose next row
    only records the final observation of a truncated episode. `returns` and `discounted_returns` are the sums so far.
    """

    state: Any
    observation: Any
    carry: Any
    key: KeyWords
    episode: jax.Array
    time: jax.Array
    playing: jax.Array
    final: jax.Array
    returns: jax.Array
    discounted_returns: jax.Array
    discount: jax.Array


class EpisodeStatistics(NamedTuple):
    """What is known of each episode of a queue, [slot] arrays; an episode that was not finished has length 0."""

    length: jax.Array
    returns: jax.Array
    discounted_returns: jax.Array


class Queue(NamedTuple):
    """The episodes to play: slots 0, 1, … name first the `num_pending` ids in `pending`, then `next_id`, `next_id` + 1, …

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


def select(mask: jax.Array, when_true: Any, when_false: Any) -> Any:
    """`when_true` on the lanes where `mask` holds, leaf by leaf."""

    def leaf(new, old):
        return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim)), new, old)

    return jax.tree.map(leaf, when_true, when_false)


def as_dtypes_of(reference: Any, tree: Any) -> Any:
    """`tree` with the (strong) dtypes of `reference`: loops need types that do not change from row to row."""
    return jax.tree.map(lambda x, y: y if _is_key(x) else jnp.asarray(y).astype(x.dtype), reference, tree)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype if not hasattr(leaf, "dtype") else leaf.dtype, jax.dtypes.prng_key)


def strong(tree: Any) -> Any:
    """`tree` as arrays without weak types."""
    return jax.tree.map(lambda x: x if _is_key(x) else jnp.asarray(x).astype(jnp.asarray(x).dtype), tree)


def float_dtype() -> Any:
    """float32, or float64 under x64."""
    return jnp.result_type(float)


def environment_action(distribution: Any, action: Any) -> Any:
    """The action as the environment takes it: squashed or scaled where the distribution says so."""
    transform = getattr(distribution, "to_environment", None)
    return action if transform is None else transform(action)


def reset_lane(env: Environment, policy: Policy, key: jax.Array, episode: jax.Array, discount: Any) -> Lanes:
    """One lane at the first step of the episode that `key` names; `episode` is its number."""
    state, observation = env.reset(fold_in(key, 0))
    floats = float_dtype()
    return Lanes(
        state=strong(state),
        observation=strong(observation),
        carry=strong(policy.initial_carry),
        key=KeyWords.of(key),
        episode=jnp.asarray(episode, jnp.int32),
        time=jnp.zeros((), jnp.int32),
        playing=jnp.ones((), bool),
        final=jnp.zeros((), bool),
        returns=jnp.zeros((), floats),
        discounted_returns=jnp.zeros((), floats),
        discount=jnp.ones((), floats) if discount is not None else None,
    )


def key_for_environment(key: jax.Array) -> jax.Array:
    """The environment's key of the step with this key: independent of all that the action draws."""
    return fold_in(key, ENVIRONMENT_STREAM)


def play_step(
    env: Environment, policy: Policy, params: Any, lane: Lanes, discount: Any, deterministic: bool = False
) -> tuple[Lanes, Trajectory]:
    """One step of one lane: a ~ π(· | s), s′, r ~ P(· | s, a). Nothing is reset here.

    The flags are exclusive: a step that terminates is not also truncated, and the `max_steps`-th step of an episode
    truncates it if nothing else has ended it.
    """
    key = fold_in(lane.key.key(), lane.time + 1)
    environment_key = key_for_environment(key)
    if policy.initial_carry is None:
        distribution, carry = policy.apply(params, lane.observation), None
    else:
        distribution, carry = policy.apply(params, lane.observation, lane.carry)
        carry = as_dtypes_of(lane.carry, carry)
    action = distribution.mode() if deterministic else distribution.sample(key)
    state, timestep = env.step(environment_key, lane.state, environment_action(distribution, action))

    reward = jnp.asarray(timestep.reward).astype(float_dtype())
    terminated = jnp.asarray(timestep.terminated, bool)
    truncated = jnp.asarray(timestep.truncated, bool)
    if env.max_steps is not None:
        truncated |= lane.time + 1 >= env.max_steps
    truncated &= ~terminated

    step = Trajectory(
        observation=lane.observation,
        action=action,
        log_prob=distribution.log_prob(action),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        value=None,
        carry=lane.carry,
        episode=lane.episode,
        time=lane.time,
        valid=lane.playing & ~lane.final,
    )
    if discount is None:
        discounted_returns, next_discount = lane.discounted_returns, None
    else:
        discounted_returns = lane.discounted_returns + lane.discount * reward
        next_discount = (lane.discount * discount).astype(lane.discount.dtype)
    lane = lane._replace(
        state=as_dtypes_of(lane.state, state),
        observation=as_dtypes_of(lane.observation, timestep.observation),
        carry=carry,
        time=lane.time + 1,
        returns=lane.returns + reward,
        discounted_returns=discounted_returns,
        discount=next_discount,
    )
    return lane, step


def play_row(
    env: Environment,
    policy: Policy,
    params: Any,
    lanes: Lanes,
    discount: Any,
    value: Callable | None,
    final_rows: bool,
    deterministic: bool = False,
) -> tuple[Lanes, Trajectory, jax.Array, jax.Array]:
    """One step of every lane.

    With `final_rows`, a lane whose episode was truncated keeps its place for one more row, which records the final
    observation (for bootstrapping) and is not valid.

    Returns:
      (lanes, row, ended, free): `ended` marks the lanes whose episode ended in this row, `free` those that can take a
      new one.
    """
    before = lanes
    lanes, row = jax.vmap(lambda lane: play_step(env, policy, params, lane, discount, deterministic))(lanes)
    if value is not None:
        row = row._replace(value=jax.vmap(value)(before.observation, before.time))
    ended = row.valid & (row.terminated | row.truncated)
    final = ended & row.truncated if final_rows else jnp.zeros_like(ended)
    free = (ended & ~final) | before.final
    return lanes._replace(playing=before.playing & ~free, final=final), row, ended, free


# --- Whole episodes, packed ------------------------------------------------------------------------------------------


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
    env: Environment,
    policy: Policy,
    params: Any,
    key: jax.Array,
    queue: Queue,
    buffer: Any,
    *,
    num_rows: int,
    max_slots: int,
    discount: Any = None,
    value: Callable | None = None,
    final_rows: bool | None = None,
    record: Callable[[Trajectory], Any] = lambda row: row,
    deterministic: bool = False,
) -> tuple[Any, jax.Array, EpisodeStatistics, Queue]:
    """Plays the queue's episodes packed on lanes until all are done or `num_rows` rows are full.

    Args:
      queue: the episodes to play; as many lanes are used as `queue.pending` has entries.
      buffer: pytree of [num_rows, lane, …] arrays that `record(row)` is written into (None: nothing is kept).
      num_rows: the rows that the buffer holds; without a buffer, the most rows to play.
      max_slots: static bound of `queue.num_slots`.
      discount: for `discounted_returns`; None leaves them 0.
      value: (observation, time) -> value, recorded for every row.
      final_rows: keep one extra row with the final observation of each truncated episode; default: where there is a
        `value`.
      record: what of a `Trajectory` row is kept. `episode` in it is the slot.

    Returns:
      (buffer, rows used, statistics [max_slots], the queue with what is left). Steps of episodes whose statistics show
      length 0 belong to episodes that were not finished; they head the new queue.
    """
    num_lanes = queue.pending.shape[0]
    final_rows = value is not None if final_rows is None else final_rows

    def lanes_for(slots):
        ids = queue.ids(slots)
        keys = jax.vmap(lambda i: fold_in(key, i))(ids)
        return jax.vmap(lambda k, slot: reset_lane(env, policy, k, slot, discount))(keys, slots)

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
        fresh = jax.tree.map(lambda x: x[places], pool)
        return rnd._replace(
            lanes=select(has, fresh, rnd.lanes),
            pool=pool,
            pool_start=pool_start,
            next_slot=jnp.minimum(rnd.next_slot + demand, queue.num_slots),
        )

    def body(rnd: _Round) -> _Round:
        rnd = jax.lax.cond(any_member(jnp.any(rnd.free)), hand_out, lambda rnd: rnd, rnd)
        lanes, row, ended, free = play_row(
            env, policy, params, rnd.lanes, discount, value, final_rows, deterministic
        )
        buffer = None if rnd.buffer is None else write_row(rnd.buffer, record(row), rnd.row)
        slots = jnp.where(ended, row.episode, max_slots)  # Out of range: dropped.
        statistics = jax.tree.map(
            lambda all_, new: all_.at[slots].set(new, mode="drop"),
            rnd.episodes,
            EpisodeStatistics(lanes.time, lanes.returns, lanes.discounted_returns),
        )
        left = jnp.any(lanes.playing) | (rnd.next_slot < queue.num_slots)
        return rnd._replace(
            lanes=lanes,
            free=free,
            episodes=statistics,
            buffer=buffer,
            row=rnd.row + 1,
            going=any_member(left) & (rnd.row + 1 < num_rows),
        )

    # All lanes start free, without an episode; the first row hands them one.
    lanes = jax.tree.map(
        lambda x: jnp.broadcast_to(key, x.shape) if _is_key(x) else jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(lanes_for, jnp.arange(num_lanes, dtype=jnp.int32)),
    )
    floats = float_dtype()
    start = _Round(
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
        going=any_member(queue.num_slots > 0),
    )
    end = jax.lax.while_loop(lambda rnd: rnd.going, body, start)

    # A lane that waits to record its final observation has played its episode but not stored it: it is unfinished.
    unfinished = end.lanes.playing
    statistics = end.episodes._replace(
        length=end.episodes.length.at[jnp.where(unfinished, end.lanes.episode, max_slots)].set(0, mode="drop")
    )
    ids = jnp.sort(jnp.where(unfinished, queue.ids(end.lanes.episode), jnp.iinfo(jnp.int32).max))
    num_new = jnp.maximum(end.next_slot - queue.num_pending, 0)
    rest = Queue(
        pending=ids,
        num_pending=jnp.sum(unfinished, dtype=jnp.int32),
        next_id=queue.next_id + num_new,
        num_slots=jnp.sum(unfinished, dtype=jnp.int32),
    )
    return end.buffer, end.row, statistics, rest


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

    Memory is that of the worst case, num_episodes × env.max_steps steps.

    Args:
      discount: γ of the `discounted_returns`; None leaves them 0.
      final_rows: follow truncated episodes by a row that is not `valid` and holds their final observation, which weights
        with a value function need.
    Returns:
      (trajectory of [row, lane] arrays, statistics [num_episodes]).
    """
    num_episodes = _check.count("num_episodes", num_episodes)
    key = _check.key("key", key)
    longest = require_max_steps(env) + final_rows
    num_lanes = min(_check.optional(_check.count, "num_lanes", num_lanes) or default("num_lanes"), num_episodes)
    num_rows = worst_rows(num_episodes, num_lanes, longest)

    def example(params):
        lane = reset_lane(env, policy, jax.random.key(0), jnp.zeros((), jnp.int32), discount)
        return strong(play_step(env, policy, params, lane, discount)[1])

    buffer = jax.tree.map(
        lambda x: jnp.zeros((num_rows, num_lanes, *x.shape), x.dtype), jax.eval_shape(example, params)
    )
    trajectory, _, statistics, _ = episodes(
        env,
        policy,
        params,
        key,
        Queue.of(0, num_episodes, num_lanes),
        buffer,
        num_rows=num_rows,
        max_slots=num_episodes,
        discount=discount,
        final_rows=final_rows,
    )
    return trajectory, statistics
