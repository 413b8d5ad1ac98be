"""How well a policy does: the returns of whole episodes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check, rollout
from jaxpg._compile import outside_jit
from jaxpg._keywords import hinted
from jaxpg._plan import default, require_max_steps
from jaxpg._show import compact
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.lanes import Player
from jaxpg.policies.base import Policy

__all__ = ["Evaluation", "evaluate"]


class Evaluation(NamedTuple):
    """Undiscounted returns Σ_t r_t and lengths of the episodes, [num_episodes] arrays in the order of their ids."""

    returns: jax.Array
    lengths: jax.Array

    __repr__ = compact


@hinted
def evaluate(
    key: Any,
    env: Environment,
    policy: Policy,
    params: Any,
    *,
    num_episodes: int = 128,
    deterministic: bool = False,
    num_lanes: int | None = None,
) -> Evaluation:
    """Plays `num_episodes` whole episodes and returns what they earned.

    The key is the evaluation's own: pass one that training does not use. May be called under `jit` and `vmap`.

    Args:
      key: names the episodes, as in `policy_gradient`.
      env: needs an episode limit.
      deterministic: take the mode of the policy's distribution instead of a sample.
      num_lanes: episodes played side by side; default as in `policy_gradient`.
    Raises:
      ValueError, TypeError: for arguments out of range, an environment without a limit, and, where `params` are
        concrete, NaN in them.
    """
    key = _check.key("key", key)
    check_structure(_check.instance("env", env, Environment))
    _check.instance("policy", policy, Policy)
    num_episodes = _check.count("num_episodes", num_episodes)
    deterministic = _check.boolean("deterministic", deterministic)
    num_lanes = min(_check.count_or("num_lanes", num_lanes, default("num_lanes")), num_episodes)
    longest = require_max_steps(env)
    alone = outside_jit()
    if alone:
        _check.not_nan("params", params)
    # Inside a transformation nothing may be kept: the environment may hold values that live no longer than it.
    play = _play_compiled if alone and _check.is_concrete(key) else _play
    return play(env, policy, num_episodes, num_lanes, longest, deterministic, key, params)


def _play(env, policy, num_episodes, num_lanes, longest, deterministic, key, params):
    queue = rollout.Queue.of(0, num_episodes, num_lanes)
    most_rows = min(num_episodes * longest, jnp.iinfo(jnp.int32).max)
    player = Player(env=env, policy=policy, deterministic=deterministic)
    _, _, statistics, _ = rollout.episodes(player, params, key, queue, None, num_rows=most_rows, max_slots=num_episodes)
    return Evaluation(statistics.returns, statistics.length)


# Compiled once for an environment and a policy, however often they are evaluated.
_play_compiled = jax.jit(_play, static_argnums=(0, 1, 2, 3, 4, 5))
