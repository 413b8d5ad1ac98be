"""Fixed-length segments of rollouts, for actor-critic methods: T steps of every lane, going on where the last stopped.

The lanes take the same step as whole episodes do (`jaxpg.lanes`). The c-th episode of lane l has the key
fold_in(fold_in(key, l), c): what a lane plays does not depend on the other lanes or on where segments are cut.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check, _mesh
from jaxpg._batching import any_member
from jaxpg._threefry import fold_in
from jaxpg.envs.base import Environment
from jaxpg.lanes import EpisodeStatistics, KeyWords, Lanes, Player, Trajectory, play_row, reset_lane, select
from jaxpg.policies.base import Policy

__all__ = ["Segment", "SegmentState", "restart", "segment", "start_segments"]


class SegmentState(NamedTuple):
    """Where the lanes stand between segments.

    Fields:
      lanes: the lanes; `lanes.episode` counts each lane's episodes.
      key: [lane] the lanes' keys, which name their episodes.
      spare: the lanes at the first step of their next episodes. Initial states are drawn for all lanes at once, when a
        lane needs one and has used up its spare, rather than for every lane at every step.
      spent: [lane] whether the spare has been used.
    """

    lanes: Lanes
    key: KeyWords
    spare: Lanes
    spent: jax.Array


class Segment(NamedTuple):
    """What a segment gives.

    Fields:
      trajectory: [step, lane] arrays. A row that is not `valid` holds the final observation of the truncated episode
        in the row before it.
      last_value: [lane] the value of the observation that each lane stands at behind the last row; None without a
        value function.
      finished: [step, lane] whether an episode ended with the row, and then its length and returns.
    """

    trajectory: Trajectory
    last_value: Any
    finished: jax.Array
    statistics: EpisodeStatistics


def _fresh(player: Player, keys: KeyWords, episode: jax.Array) -> Lanes:
    def lane(key, episode):
        return reset_lane(player, fold_in(key.key(), episode), episode)

    return jax.vmap(lane)(keys, episode)


def start_segments(env: Environment, policy: Policy, key: Any, num_lanes: int) -> SegmentState:
    """`num_lanes` lanes at the first steps of their first episodes."""
    player = Player(env=env, policy=policy)
    num_lanes = _check.count("num_lanes", num_lanes)
    key = _check.key("key", key)
    keys = jax.vmap(lambda lane: KeyWords.of(fold_in(key, lane)))(jnp.arange(num_lanes, dtype=jnp.uint32))
    # Each lane's first two episodes, in one call: the environment's reset is compiled once.
    episodes = jnp.broadcast_to(jnp.arange(2, dtype=jnp.int32)[:, None], (2, num_lanes))
    first_two = jax.vmap(lambda episode: _fresh(player, keys, episode))(episodes)
    return SegmentState(
        lanes=jax.tree.map(lambda x: x[0], first_two),
        key=keys,
        spare=jax.tree.map(lambda x: x[1], first_two),
        spent=jnp.zeros(num_lanes, bool),
    )


def restart(env: Environment, policy: Policy, state: SegmentState, lanes: jax.Array) -> SegmentState:
    """`state` with new episodes on those `lanes` ([lane] booleans) that are to leave the ones they are playing."""
    wanted = _check.instance("state", state, SegmentState).spent
    lanes = _check.array("lanes", lanes)
    if lanes.shape != wanted.shape or lanes.dtype != wanted.dtype:
        raise ValueError(f"lanes must be booleans of shape {wanted.shape}; got {_check.described(lanes)}")
    return _hand_out_if_any(Player(env=env, policy=policy), lanes, state)


def _hand_out_if_any(player: Player, free: jax.Array, state: SegmentState) -> SegmentState:
    """The free lanes at the first steps of their next episodes."""

    def hand_out(free, state: SegmentState) -> SegmentState:
        def refill():
            return _fresh(player, state.key, state.lanes.episode + 1), jnp.zeros_like(state.spent)

        spare, spent = jax.lax.cond(any_member(jnp.any(free & state.spent)), refill, lambda: (state.spare, state.spent))
        return state._replace(lanes=select(free, spare, state.lanes), spare=spare, spent=spent | free)

    return jax.lax.cond(any_member(jnp.any(free)), hand_out, lambda _, state: state, free, state)


def segment(
    env: Environment,
    policy: Policy,
    params: Any,
    state: SegmentState,
    num_steps: int,
    value: Callable | None = None,
    final_rows: bool = True,
) -> tuple[SegmentState, Segment]:
    """Plays `num_steps` rows on every lane.

    Args:
      value: (observation, time) -> value, recorded for every row and for the observations behind the last one.
      final_rows: spend one row on the final observation of a truncated episode; without it nothing can bootstrap there.
    """
    num_steps = _check.count("num_steps", num_steps)
    _check.instance("state", state, SegmentState)
    player = Player(env=env, policy=policy, value=value, final_rows=final_rows)

    def play(params: Any, state: SegmentState) -> tuple[SegmentState, tuple]:
        def body(state: SegmentState, _):
            lanes, row, ended, free = play_row(player, params, state.lanes)
            statistics = EpisodeStatistics(lanes.time, lanes.returns, lanes.discounted_returns)
            state = state._replace(lanes=lanes)
            state = _hand_out_if_any(player, free, state)
            return state, (row, ended, statistics)

        return jax.lax.scan(body, state, None, length=num_steps)

    _mesh.divides("num_envs", state.spent.shape[0])
    # Every device plays its own lanes: none waits for another's resets.
    played = _mesh.along_devices(_mesh.current(), play, cut={1: 0}, axes=(0, 1))
    state, (trajectory, finished, statistics) = played(params, state)
    last_value = None if value is None else jax.vmap(value)(state.lanes.observation, state.lanes.time)
    return state, Segment(trajectory, last_value, finished, statistics)
