"""Finite MDPs read from environments: gymnasium's transition tables, gymnax's FrozenLake, deterministic dynamics."""

import copy
import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Discrete
from jaxpg.exact.finite_mdp import FiniteMDP

__all__ = ["enumerate_states", "from_environment"]


def from_environment(env: Any, *, discount: Any = 0.99, horizon: int | None = None) -> FiniteMDP:
    """The MDP of an environment whose states are its integer observations and whose probabilities are written down.

    Args:
      env: one of
        - a gymnasium environment with a table of transitions (`env.unwrapped.P`: FrozenLake, CliffWalking, Taxi);
        - a gymnax FrozenLake. Its step draws the direction that is taken and then moves without chance, so the moves
          are read from a copy that does not slip, and mixed with the probabilities that its definition states:
          `success_rate` for the chosen direction, half of the rest for each of its two sides.
      discount, horizon: those of the MDP. A time limit of `env` is a truncation, no part of its dynamics, and not read.
    Raises:
      TypeError: `env` is none of these. For deterministic dynamics with other observations see `enumerate_states`.
    """
    table = getattr(getattr(env, "unwrapped", None), "P", None)
    if table is not None:
        return _from_table(env.unwrapped, discount, horizon)
    module = sys.modules.get("gymnax.environments.misc.frozen_lake")
    if module is not None and isinstance(env, module.FrozenLake):
        return _from_frozen_lake(env, discount, horizon)
    raise TypeError(
        "env must be a gymnasium environment with a table of transitions env.unwrapped.P, or a gymnax FrozenLake; "
        f"got {type(env).__name__}. jaxpg.exact.enumerate_states reads deterministic environments"
    )


def _from_table(env: Any, discount: Any, horizon: int | None) -> FiniteMDP:
    """P[s][a] is a list of (probability, s', reward, terminated)."""
    num_states, num_actions = len(env.P), len(env.P[0])
    initial = np.asarray(env.initial_state_distrib, np.float64)
    transition, reward = (
        np.zeros((num_states, num_actions, num_states)),
        np.zeros((num_states, num_actions, num_states)),
    )
    ends = np.zeros((2, num_states), bool)  # Whether a state is entered with the episode going on, and ending.
    reachable = _reachable(env.P, initial)
    for state in range(num_states):
        for action in range(num_actions):
            for probability, following, earned, terminated in env.P[state][action]:
                seen = transition[state, action, following] > 0
                if seen and reward[state, action, following] != earned:
                    raise ValueError(
                        f"env pays different rewards for the same move, from state {state} by action {action} to "
                        f"state {following}: r(s, a, s') is not a function"
                    )
                transition[state, action, following] += probability
                reward[state, action, following] = earned
                if reachable[state] and probability > 0:
                    ends[int(terminated), following] = True
    if (ends[0] & ends[1]).any():
        raise ValueError(
            f"env ends on entering state {np.flatnonzero(ends[0] & ends[1])[0]} in some cases only: it is not an "
            "MDP with terminal states"
        )
    return FiniteMDP(
        transition, reward, initial, discount=discount, horizon=horizon, terminal=ends[1] if ends[1].any() else None
    )


def _reachable(table: Any, initial: np.ndarray) -> np.ndarray:
    """States that an episode can act in, [S]: others' rows may contradict how episodes end."""
    reachable = initial > 0
    frontier = np.flatnonzero(reachable).tolist()
    while frontier:
        for moves in table[frontier.pop()].values():
            for probability, following, _, terminated in moves:
                if probability > 0 and not terminated and not reachable[following]:
                    reachable[following] = True
                    frontier.append(int(following))
    return reachable


def _from_frozen_lake(env: Any, discount: Any, horizon: int | None) -> FiniteMDP:
    certain = copy.copy(env)
    certain.is_slippery = False
    params, key = env.default_params, jax.random.key(0)  # The key is not used where nothing slips.
    _, start = env.reset_env(key, params)

    def move(position: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, state, reward, terminated, _ = certain.step_env(key, start.replace(position=position), action, params)
        return state.position, reward, terminated

    positions, actions = jnp.arange(env.n_states), jnp.arange(env.num_actions)
    following, reward, ended = jax.vmap(lambda s: jax.vmap(lambda a: move(s, a))(actions))(positions)
    moves = jax.nn.one_hot(following, env.n_states, dtype=jnp.result_type(float))
    if env.is_slippery:
        sides = 0.5 * (jnp.roll(moves, 1, axis=1) + jnp.roll(moves, -1, axis=1))
        moves = env.success_rate * moves + (1.0 - env.success_rate) * sides
    # Reward and end are functions of the cell that is entered, by any move.
    by_cell = jnp.zeros(env.n_states).at[following.ravel()].set(reward.ravel())
    terminal = np.zeros(env.n_states, bool)
    terminal[np.asarray(following).ravel()] = np.asarray(ended).ravel()
    return FiniteMDP(
        moves,
        jnp.broadcast_to(by_cell, moves.shape),
        jax.nn.one_hot(start.position, env.n_states),
        discount=discount,
        horizon=horizon,
        terminal=terminal,
    )


def enumerate_states(
    env: Environment,
    *,
    discount: Any = 0.99,
    horizon: int | None = None,
    initial: str = "certain",
    canonical: Callable[[Any], Any] | None = None,
    num_keys: int = 64,
    limit: int = 10_000,
) -> tuple[FiniteMDP, Any]:
    """The MDP of an `Environment` whose steps hold no chance, by breadth-first search from its initial states.

    That a step holds no chance is tested, not proven: every state and action is tried with `num_keys` keys and must
    give one result (chance of probability p goes unseen with (1 − p)^num_keys). Probabilities are never estimated from
    samples: an environment whose steps are random is refused.

    Args:
      env: with `Discrete` actions; any observations. The MDP's observations are indices into the states found.
      initial: "certain", `reset` gives one state; or "uniform", the different states that `num_keys` resets give are
        equally likely, and they are all there are.
      canonical: state -> state, maps states that differ only in what does not matter to one of them; None: sets a field
        called `time` to zero. Dynamics and rewards must not depend on what it drops.
      limit: number of states at which the search gives up with a ValueError.
    Returns:
      (mdp, states): the states as the environment's own, stacked on a leading axis [S].
    """
    if not isinstance(env, Environment) or not isinstance(env.action_space, Discrete):
        raise TypeError(f"env must be a jaxpg Environment with Discrete actions; got {env!r}")
    _check.named("initial", initial, ("certain", "uniform"))
    canonical = _without_time if canonical is None else canonical
    keys = jax.random.split(jax.random.key(0), _check.count("num_keys", num_keys, 2))
    actions = jnp.arange(env.action_space.n)

    @jax.jit
    def expand(state: Any) -> Any:
        def one(key: jax.Array, action: jax.Array) -> Any:
            following, step = env.step(key, state, action)
            return canonical(following), step.reward, step.terminated

        return jax.vmap(lambda key: jax.vmap(lambda action: one(key, action))(actions))(keys)

    starts = jax.device_get(jax.vmap(lambda key: canonical(env.reset(key)[0]))(keys))
    index: dict[bytes, int] = {}
    states: list[Any] = []

    def number(state: Any) -> int:
        name = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
        if name not in index:
            index[name] = len(states)
            states.append(state)
        return index[name]

    initial_states = sorted({number(jax.tree.map(lambda leaf, k=k: leaf[k], starts)) for k in range(len(keys))})
    if initial == "certain" and len(initial_states) > 1:
        raise ValueError(
            'reset gives different states for different keys: pass initial="uniform" if they are equally likely'
        )
    moves: list[list[tuple[int, float]]] = []
    terminal: dict[int, bool] = dict.fromkeys(initial_states, False)
    while len(moves) < len(states):
        state = len(moves)
        moves.append([])
        if terminal[state]:
            continue
        followings, rewards, ended = jax.device_get(expand(states[state]))
        for action in range(env.action_space.n):
            outcomes = jax.tree.map(lambda leaf, a=action: leaf[:, a], (followings, rewards, ended))
            if any((leaf != leaf[:1]).any() for leaf in jax.tree.leaves(outcomes)):
                raise ValueError(
                    f"action {action} in state {states[state]} has different results for different keys: this "
                    "environment's steps are random, and its probabilities cannot be read"
                )
            following = number(jax.tree.map(lambda leaf: leaf[0], outcomes[0]))
            if terminal.setdefault(following, bool(outcomes[2][0])) != bool(outcomes[2][0]):
                raise ValueError(
                    f"the episode ends on entering state {states[following]} in some cases only: what canonical "
                    "drops matters"
                )
            moves[state].append((following, float(outcomes[1][0])))
        if len(states) > limit:
            raise ValueError(f"env has more than limit={limit} states")
    return _deterministic(moves, initial_states, terminal, env.action_space.n, discount, horizon), jax.tree.map(
        lambda *leaves: np.stack(leaves), *states
    )


def _deterministic(
    moves: Any,
    initial_states: list[int],
    terminal: dict[int, bool],
    num_actions: int,
    discount: Any,
    horizon: int | None,
) -> FiniteMDP:
    num_states = len(moves)
    transition, reward = np.zeros((num_states, num_actions, num_states)), np.zeros((num_states, num_actions))
    for state, by_action in enumerate(moves):
        for action in range(num_actions):
            following, reward[state, action] = by_action[action] if by_action else (state, 0.0)
            transition[state, action, following] = 1.0
    initial = np.zeros(num_states)
    initial[initial_states] = 1.0 / len(initial_states)
    ended = np.array([terminal[state] for state in range(num_states)])
    return FiniteMDP(
        transition, reward, initial, discount=discount, horizon=horizon, terminal=ended if ended.any() else None
    )


def _without_time(state: Any) -> Any:
    """`state` with its field `time`, where it has one, at zero."""
    if hasattr(state, "_replace") and "time" in getattr(state, "_fields", ()):
        return state._replace(time=jnp.zeros_like(state.time))
    if "time" in getattr(state, "__dataclass_fields__", ()):
        return dataclasses.replace(state, time=jnp.zeros_like(state.time))
    return state
