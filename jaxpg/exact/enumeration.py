"""Every trajectory of a small finite MDP, with its probability: expectations without sampling."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg._show import compact
from jaxpg.exact import evaluation
from jaxpg.exact.checks import check_mdp

__all__ = ["Trajectories", "log_probability", "policy_gradient", "trajectories"]


class Trajectories(NamedTuple):
    """N trajectories, time first: [H, N] arrays.

    Fields:
      state, action, next_state: integers; zeros or the terminal state after the end.
      reward: floats, 0 after the end.
      terminated: the step ended the episode: it entered a terminal state, or was the horizon's last.
      valid: the step was played: no step before it ended the episode.
      environment_probability: [N] floats, P(s_0) Π_t P(s_{t+1} | s_t, a_t): all of a trajectory's probability but the
        policy's.
    """

    state: Any
    action: Any
    next_state: Any
    reward: Any
    terminated: Any
    valid: Any
    environment_probability: Any

    __repr__ = compact


def trajectories(mdp: Any, *, limit: int = 2_000_000) -> Trajectories:
    """Every trajectory that has positive probability under some policy.

    Where the MDP's arrays are traced, which transitions are possible is unknown, and the impossible ones are there
    too, with probability 0. Raises ValueError without a horizon, and where there are more than `limit`.
    """
    check_mdp(mdp)
    if mdp.horizon is None:
        raise ValueError("trajectories can be enumerated only for a finite horizon; this MDP's horizon is None")
    states, actions, next_states, ended = _paths(mdp, limit)
    transition_probability = mdp.transition[states, actions, next_states]
    reward = jnp.broadcast_to(evaluation.transition_reward(mdp), mdp.transition.shape)[states, actions, next_states]
    valid = ~ended if mdp.terminal is None else ~jnp.asarray(mdp.terminal)[states]
    terminated = (jnp.zeros_like(valid) if mdp.terminal is None else jnp.asarray(mdp.terminal)[next_states]) & valid
    terminated = terminated.at[-1].set(valid[-1])
    # A trajectory goes on in one way after its end: with action 0 back to the same state. Where the terminal states are
    # traced, the other ways are there and have probability 0.
    after = ((actions == 0) & (next_states == states)).astype(mdp.transition.dtype)
    probability = mdp.initial[states[0]] * jnp.prod(jnp.where(valid, transition_probability, after), 0)
    return Trajectories(states, actions, next_states, jnp.where(valid, reward, 0.0), terminated, valid, probability)


def _paths(mdp: Any, limit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Integers [H, N]: states, actions, next states; and booleans [H, N], whether the state is known to be terminal."""
    shape = mdp.transition.shape
    support = np.asarray(mdp.transition) > 0 if _check.is_concrete(mdp.transition) else np.ones(shape, bool)
    start = np.asarray(mdp.initial) > 0 if _check.is_concrete(mdp.initial) else np.ones(shape[0], bool)
    ended = np.zeros(shape[0], bool)
    if mdp.terminal is not None:
        if _check.is_concrete(mdp.terminal):
            ended = np.asarray(mdp.terminal)
            support = support & ~ended[:, None, None]
        support = support.copy()
        support[np.arange(shape[0]), 0, np.arange(shape[0])] |= ended if _check.is_concrete(mdp.terminal) else True
    moves = [np.argwhere(support[state]) for state in range(shape[0])]
    num_moves = np.array([len(move) for move in moves])
    paths = np.flatnonzero(start)[:, None]  # [N, 1 + 2t]: s_0, a_0, s_1, a_1, …, s_t
    for _ in range(mdp.horizon):
        if (total := int(num_moves[paths[:, -1]].sum())) > limit:
            raise ValueError(
                f"enumeration needs more than limit={limit} trajectories for horizon {mdp.horizon} with "
                f"{shape[0]} states and {shape[1]} actions ({total} already): use a smaller MDP or horizon"
            )
        parents = np.repeat(np.arange(len(paths)), num_moves[paths[:, -1]])
        paths = np.concatenate([paths[parents], np.concatenate([moves[state] for state in paths[:, -1]])], 1)
    states, actions = paths[:, :-1:2].T, paths[:, 1::2].T
    return states, actions, paths[:, 2::2].T, ended[states]


def log_probability(paths: Trajectories, log_pi: jax.Array) -> jax.Array:
    """log P(τ | θ) = log P(s_0) + Σ_t log π(a_t | s_t) + Σ_t log P(s_{t+1} | s_t, a_t), [N], from log π [S, A]."""
    acted = jnp.where(paths.valid, log_pi[paths.state, paths.action], 0.0)
    return jnp.log(paths.environment_probability) + jnp.sum(acted, 0)


def policy_gradient(mdp: Any, pi: jax.Array, psi: jax.Array) -> jax.Array:
    """E[R G] = Σ_τ P(τ) (Σ_t γ^t r_t) (Σ_t ψ_t), [P]."""
    paths = trajectories(mdp)
    probability = paths.environment_probability * jnp.prod(
        jnp.where(paths.valid, pi[paths.state, paths.action], 1.0), 0
    )
    discounts = mdp.discount ** jnp.arange(mdp.horizon)
    returns = discounts @ paths.reward
    # Σ_τ weight(τ) Σ_t ψ(s_t, a_t) = Σ_{s, a} ψ(s, a) Σ_{τ, t: (s_t, a_t) = (s, a)} weight(τ): no [H, N, P] array.
    weights = jnp.where(paths.valid, probability * returns, 0.0)
    visits = jnp.zeros(pi.shape, pi.dtype).at[paths.state, paths.action].add(weights)
    return jnp.einsum("sa,sap->p", visits, psi)
