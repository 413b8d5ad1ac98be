"""Every episode of a small finite MDP as stored data: an estimator's exact mean, without sampling."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.exact import enumeration
from jaxpg.exact.evaluation import log_probabilities
from jaxpg.lanes import Trajectory

__all__ = ["every_episode"]


def every_episode(
    mdp: Any, policy: Any, params: Any, acting: Any = None, *, temperature: Any = None, limit: int = 2_000_000
) -> tuple[Trajectory, jax.Array]:
    """All episodes of an MDP with a horizon, one a lane, and their probabilities: what `gradient_from` takes.

        episodes, probabilities = jaxpg.exact.every_episode(mdp, policy, params)
        mean = jaxpg.gradient_from(episodes, policy, params, weight, probabilities=probabilities).gradient

    is E[ĝ] of the estimator with this weight: `mdp.policy_gradient(policy, params)`, if it has no bias.

    Args:
      mdp: a `FiniteMDP`; observations are its states.
      policy, params: π_θ, without memory.
      acting: params of the policy that acts, which gives the episodes their probabilities and log μ(a_t | s_t);
        None: `params` do.
      temperature: α, to take α log π_θ(a_t | s_t) off the rewards; None: the rewards are the MDP's.
      limit: the most episodes.
    Returns:
      (a `Trajectory` of [H, N] arrays, P(τ) [N]).
    Raises:
      ValueError, TypeError: as `exact.trajectories`, and for a policy that does not fit the MDP.
    """
    paths = enumeration.trajectories(mdp, limit=limit)
    steps, number = paths.action.shape

    def of_steps(table: jax.Array) -> jax.Array:
        return jnp.where(paths.valid, table[paths.state, paths.action], 0.0)

    log_pi = log_probabilities(mdp, policy, params)
    log_prob = of_steps(log_pi if acting is None else log_probabilities(mdp, policy, acting))
    probabilities = paths.environment_probability * jnp.exp(log_prob.sum(0))
    reward = paths.reward
    if temperature is not None:
        # Where π = 0 nobody ever acts so: 0, for 0 · ∞ would be NaN.
        bonus = of_steps(jnp.where(jnp.isneginf(log_pi), 0.0, log_pi))
        reward = reward - _check.number("temperature", temperature, 0.0) * bonus
    episodes = Trajectory(
        observation=jnp.asarray(paths.state),
        action=jnp.asarray(paths.action),
        log_prob=jnp.where(jnp.isneginf(log_prob), 0.0, log_prob),  # Of an episode of probability 0: nobody's.
        reward=reward,
        terminated=paths.terminated,
        truncated=jnp.zeros((steps, number), bool),
        value=None,
        carry=None,
        episode=jnp.broadcast_to(jnp.arange(number), (steps, number)),
        time=jnp.broadcast_to(jnp.arange(steps)[:, None], (steps, number)),
        valid=paths.valid,
    )
    return episodes, probabilities
