"""`replay`: plays one episode again, by its name."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg._threefry import fold_in
from jaxpg.algorithms import _parts
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.lanes import Player, Trajectory, play_row, reset_lane
from jaxpg.policies.base import Policy

__all__ = ["replay"]

MOST_ROWS = 1024  # Played between two looks of the host.


def replay(
    env: Environment,
    policy: Policy,
    params: Any,
    key: Any,
    episode: Any,
    *,
    deterministic: bool = False,
    max_steps: int | None = None,
) -> Trajectory:
    """One whole episode, as it is played under this key with these parameters.

    An episode is a function of its name and of the parameters. Where training met NaN, `train` says which episode it
    was, and the key is `algorithm.episode_key(result.state)`. `result.params` play that episode as training did only
    if they alone have acted in it: so in REINFORCE. An episode that spans several updates began with the parameters of
    earlier ones, IMPALA's actors lag behind, and PGPE acts with perturbed parameters. The episode then begins in the
    same state with the same randomness, but other actions may lead elsewhere.

    An environment without an episode limit may never end an episode whose state has become NaN. There, unless
    `max_steps` is given, the first row with a reward or an observation that is NaN or infinite is the last one.

    Args:
      params: those that acted.
      key: the one given to `policy_gradient`, `evaluate` or `rollout.collect`, or that of the segments.
      episode: an id i: the episode with the key fold_in(key, i). A pair (lane, count), as segments count: the one with
        the key fold_in(fold_in(key, lane), count); lane −1, as metrics have it where there are no lanes: id `count`.
      deterministic: as in `evaluate`, and as it was played: with the mode in PGPE, unless that was told otherwise.
      max_steps: the most steps that are played; default: up to the episode's end. The environment's own limit holds
        besides.
    Returns:
      A `Trajectory` of numpy arrays [length + 1]. The last row, which is not `valid`, holds the observation that the
      episode ended with, whether it terminated, was truncated, or was left before its end (then neither flag is set in
      the row before); its action, reward and flags mean nothing.
      `episode` is i, or `count`.
    Raises:
      ValueError, TypeError: for arguments out of range.
    """
    check_structure(_check.instance("env", env, Environment))
    _check.instance("policy", policy, Policy)
    key = _check.key("key", key)
    if not _check.is_concrete(key):
        raise TypeError("key must be known: an episode's length is, so replay does not run under jit or vmap")
    deterministic = _check.boolean("deterministic", deterministic)
    lane, count = _name(episode)
    key = key if lane is None else fold_in(key, np.uint32(lane))
    player = Player(env=env, policy=policy, deterministic=deterministic)
    limits = [n for n in (env.max_steps, _check.optional(_check.count, "max_steps", max_steps)) if n is not None]
    num_rows = MOST_ROWS if env.max_steps is None else min(MOST_ROWS, env.max_steps)
    left = min(limits, default=None)
    leaves_nonfinite = jnp.bool_(left is None)

    lanes = _first(player, key, jnp.uint32(count))
    parts, over = [], False
    while not over and left != 0:
        most = num_rows if left is None else min(num_rows, left)
        lanes, rows, ended = _rows(player, num_rows, params, lanes, jnp.int32(most), leaves_nonfinite)
        ends = np.flatnonzero(np.asarray(ended))
        over = ends.size > 0
        length = int(ends[0]) + 1 if over else most
        left = None if left is None else left - length
        parts.append(jax.tree.map(lambda x, n=length: _host(x)[:n], rows))
    whole = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
    return _with_final_row(whole, jax.tree.map(_host, lanes.observation))


def _name(episode: Any) -> tuple[int | None, int]:
    """(lane or None, number)."""
    accepted = "an episode id, or a pair (lane, count), of integers from 0 to 2**32 - 1"
    pair = (None, episode) if not isinstance(episode, (tuple, list)) else tuple(episode)
    try:
        lane, count = (None if x is None else operator.index(x.item() if hasattr(x, "item") else x) for x in pair)
    except (TypeError, ValueError):
        raise TypeError(f"episode must be {accepted}; got {episode!r:.80}") from None
    if isinstance(episode, bool) or count is None:
        raise TypeError(f"episode must be {accepted}; got {episode!r:.80}")
    lane = None if lane == -1 else lane
    if not 0 <= count < 2**32 or not 0 <= (lane or 0) < 2**32:
        raise ValueError(f"episode must be {accepted}; got {episode!r:.80}")
    return lane, count


def _host(x: Any) -> Any:
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)


def _play_first(player, key, count):
    return jax.vmap(lambda i: reset_lane(player, fold_in(key, i), i.astype(jnp.int32)))(count[None])


def _play_rows(player, num_rows, params, lanes, most, leaves_nonfinite):
    """`most` of `num_rows` rows of one lane, which stays as it is once its episode has ended."""

    def row(carry):
        i, lanes, rows, ended = carry
        lanes, new, over, _ = play_row(player, params, lanes)
        rows = jax.tree.map(lambda x, y: x.at[i].set(y[0]), rows, new)
        over = over[0] | (leaves_nonfinite & ~_parts.finite((new.observation, new.reward)))
        return i + 1, lanes, rows, ended.at[i].set(over)

    shapes = jax.eval_shape(lambda lanes: play_row(player, params, lanes)[1], lanes)
    rows = jax.tree.map(lambda x: jnp.zeros((num_rows, *x.shape[1:]), x.dtype), shapes)
    start = (jnp.int32(0), lanes, rows, jnp.zeros(num_rows, bool))
    going = lambda carry: (carry[0] < most) & ~carry[3].any()  # noqa: E731
    _, lanes, rows, ended = jax.lax.while_loop(going, row, start)
    return lanes, rows, ended


# The same lanes, in one row, as in rollouts: their step is compiled for a batch.
_first = jax.jit(_play_first, static_argnums=0)
_rows = jax.jit(_play_rows, static_argnums=(0, 1))


def _with_final_row(whole: Trajectory, observation: Any) -> Trajectory:
    """The rows and one more that is not valid and holds the observation behind them."""
    last = jax.tree.map(lambda x: x[-1:], whole)
    zero = jax.tree.map(np.zeros_like, last)._replace(
        observation=observation, carry=last.carry, episode=last.episode, time=last.time + 1
    )
    return jax.tree.map(lambda x, y: np.concatenate([x, y]), whole, zero)
