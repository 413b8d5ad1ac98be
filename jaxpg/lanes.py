"""Lanes: the step that all rollouts take, for one lane and for a row of them.

Randomness goes by name. An episode has a key e. Its reset draws from fold_in(e, 0); its step t has the key
k = fold_in(e, t + 1): the action draws from k, the environment from fold_in(k, 2³² − 1), a counter that no draw from k
reaches. Where the environment ignores its key, the compiler drops the derivation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg._show import compact
from jaxpg._threefry import fold_in
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_action
from jaxpg.policies.base import Policy
from jaxpg.policies.distributions import is_distribution

__all__ = ["EpisodeStatistics", "KeyWords", "Lanes", "Player", "Trajectory", "play_row", "play_step", "reset_lane"]

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

    __repr__ = compact


@dataclasses.dataclass(frozen=True, kw_only=True)
class Player:
    """How lanes play: the environment, the policy that acts, and what is recorded besides.

    Fields:
      env, policy: P and π.
      discount: γ of the `discounted_returns`; None leaves them 0.
      temperature: None, or α: the reward that is recorded and discounted is r_t − α log π(a_t | s_t).
      draw: None: an action is `distribution.sample(key of the step)`; or (distribution, episode id, time) -> action.
      deterministic: take the distribution's mode instead.
      value: None, or (observation, time) -> value, recorded for every row.
      final_rows: keep one extra row with the final observation of each truncated episode.
    """

    env: Environment
    policy: Policy
    discount: Any = None
    temperature: Any = None
    draw: Callable[[Any, jax.Array, jax.Array], Any] | None = None
    deterministic: bool = False
    value: Callable[[Any, jax.Array], jax.Array] | None = None
    final_rows: bool = False

    def __post_init__(self) -> None:
        _check.instance("env", self.env, Environment)
        _check.instance("policy", self.policy, Policy)
        _check.optional(_check.callable_, "value", self.value, "(observation, time) -> value")
        _check.boolean("deterministic", self.deterministic)
        _check.boolean("final_rows", self.final_rows)


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

    `episode` counts within the queue (`episodes`) or within the lane (`segment`); `id` is the episode's name where the
    player draws actions by it. `final` marks a lane whose next row only records the final observation of a truncated
    episode. `returns` and `discounted_returns` are the sums so far.
    """

    state: Any
    observation: Any
    carry: Any
    key: KeyWords
    id: Any
    episode: jax.Array
    time: jax.Array
    playing: jax.Array
    final: jax.Array
    returns: jax.Array
    discounted_returns: jax.Array
    discount: Any


class EpisodeStatistics(NamedTuple):
    """What is known of each episode of a queue, [slot] arrays; an episode that was not finished has length 0."""

    length: jax.Array
    returns: jax.Array
    discounted_returns: jax.Array

    __repr__ = compact


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


def zeros_of(leaf: Any) -> jax.Array:
    """Zeros of a leaf's shape and dtype; a key of zeros for a typed key, which environment states may hold."""
    if not _is_key(leaf):
        return jnp.zeros(leaf.shape, leaf.dtype)
    found = []  # `key_impl` tells it of a key, not of a description of one.

    def words_of(key: jax.Array) -> jax.Array:
        found.append(jax.random.key_impl(key))
        return jax.random.key_data(key)

    words = jax.eval_shape(words_of, leaf)
    return jax.random.wrap_key_data(jnp.zeros(words.shape, words.dtype), impl=found[0])


def float_dtype() -> Any:
    """float32, or float64 under x64."""
    return jnp.result_type(float)


def environment_action(distribution: Any, action: Any) -> Any:
    """The action as the environment takes it: squashed or scaled where the distribution says so."""
    transform = getattr(distribution, "to_environment", None)
    return action if transform is None else transform(action)


def reset_lane(player: Player, key: jax.Array, episode: Any, id_: Any = None) -> Lanes:
    """One lane at the first step of the episode that `key` names; `episode` is its number, `id_` its name."""
    state, observation = player.env.reset(fold_in(key, 0))
    floats = float_dtype()
    return Lanes(
        state=strong(state),
        observation=strong(observation),
        carry=strong(player.policy.initial_carry),
        key=KeyWords.of(key),
        id=None if player.draw is None else id_,
        episode=jnp.asarray(episode, jnp.int32),
        time=jnp.zeros((), jnp.int32),
        playing=jnp.ones((), bool),
        final=jnp.zeros((), bool),
        returns=jnp.zeros((), floats),
        discounted_returns=jnp.zeros((), floats),
        discount=jnp.ones((), floats) if player.discount is not None else None,
    )


def key_for_environment(key: jax.Array) -> jax.Array:
    """The environment's key of the step with this key: independent of all that the action draws."""
    return fold_in(key, ENVIRONMENT_STREAM)


def play_step(player: Player, params: Any, lane: Lanes) -> tuple[Lanes, Trajectory]:
    """One step of one lane: a ~ π(· | s), s′, r ~ P(· | s, a). Nothing is reset here.

    The flags are exclusive: a step that terminates is not also truncated, and the `max_steps`-th step of an episode
    truncates it if nothing else has ended it.
    """
    env, policy = player.env, player.policy
    key = fold_in(lane.key.key(), lane.time + 1)
    environment_key = key_for_environment(key)
    if policy.initial_carry is None:
        distribution, carry = policy.apply(params, lane.observation), None
    else:
        distribution, carry = policy.apply(params, lane.observation, lane.carry)
        carry = as_dtypes_of(lane.carry, carry)
    _check_distribution(distribution, player.deterministic)
    if player.deterministic:
        action = distribution.mode()
    else:
        action = distribution.sample(key) if player.draw is None else player.draw(distribution, lane.id, lane.time)
    log_prob = distribution.log_prob(action)
    taken = environment_action(distribution, action)
    check_action(env, taken)
    state, timestep = env.step(environment_key, lane.state, taken)

    reward = jnp.asarray(timestep.reward).astype(float_dtype())
    returns = lane.returns + reward
    if player.temperature is not None:
        reward = (reward - player.temperature * log_prob).astype(reward.dtype)
    terminated = jnp.asarray(timestep.terminated, bool)
    truncated = jnp.asarray(timestep.truncated, bool)
    if env.max_steps is not None:
        truncated |= lane.time + 1 >= env.max_steps
    truncated &= ~terminated

    step = Trajectory(
        observation=lane.observation,
        action=action,
        log_prob=log_prob,
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        value=None,
        carry=lane.carry,
        episode=lane.episode,
        time=lane.time,
        valid=lane.playing & ~lane.final,
    )
    if player.discount is None:
        discounted_returns, next_discount = lane.discounted_returns, None
    else:
        discounted_returns = lane.discounted_returns + lane.discount * reward
        next_discount = (lane.discount * player.discount).astype(lane.discount.dtype)
    lane = lane._replace(
        state=as_dtypes_of(lane.state, state),
        observation=as_dtypes_of(lane.observation, timestep.observation),
        carry=carry,
        time=lane.time + 1,
        returns=returns,
        discounted_returns=discounted_returns,
        discount=next_discount,
    )
    return lane, step


def _check_distribution(distribution: Any, deterministic: bool) -> None:
    if not is_distribution(distribution):
        raise TypeError(
            f"policy.apply(params, observation) must give a distribution, with sample(key) and log_prob(action); got "
            f"{_check.described(distribution)}"
        )
    if deterministic and not callable(getattr(distribution, "mode", None)):
        raise TypeError(
            f"deterministic=True needs distributions with a method mode(); the policy gives "
            f"{type(distribution).__name__}, which has none"
        )


def play_row(player: Player, params: Any, lanes: Lanes) -> tuple[Lanes, Trajectory, jax.Array, jax.Array]:
    """One step of every lane.

    With `final_rows`, a lane whose episode was truncated keeps its place for one more row, which records the final
    observation (for bootstrapping) and is not valid.

    Returns:
      (lanes, row, ended, free): `ended` marks the lanes whose episode ended in this row, `free` those that can take a
      new one.
    """
    before = lanes
    lanes, row = jax.vmap(lambda lane: play_step(player, params, lane))(lanes)
    if player.value is not None:
        row = row._replace(value=jax.vmap(player.value)(before.observation, before.time))
    ended = row.valid & (row.terminated | row.truncated)
    final = ended & row.truncated if player.final_rows else jnp.zeros_like(ended)
    free = (ended & ~final) | before.final
    return lanes._replace(playing=before.playing & ~free, final=final), row, ended, free
