"""TRPO: trust region policy optimisation (Schulman et al., 2015).

    maximise L(θ') = E_t[ ρ_t(θ') A_t ]    subject to    E_t[ KL(π_θ(· | s_t) ‖ π_θ'(· | s_t)) ] ≤ δ

along the natural direction x = (F + λI)⁻¹ ∇L: θ' = θ + β^j α x with α = √(2δ / xᵀFx) and the first j = 0, 1, … for
which the divergence, computed exactly, is within δ and L is better than at θ. Where there is none, θ stays.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg.algorithms import _parts
from jaxpg.algorithms._trust_region import Change, length_of_step, natural_actor_critic, stepped
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Critic, Policy

__all__ = ["trpo"]


class Search(NamedTuple):
    """Where a line search stands: the steps tried, whether the last was accepted, and what it was."""

    tried: jax.Array
    accepted: jax.Array
    step_size: jax.Array
    change: Change


@hinted
def trpo(
    env: Environment,
    policy: Policy,
    critic: Critic | None = None,
    *,
    num_envs: int = 16,
    num_steps: int = 64,
    discount: Any = 0.99,
    lambda_: Any = 0.95,
    max_kl: Any = 0.01,
    line_search_steps: int = 10,
    backtrack_factor: Any = 0.8,
    damping: Any = 0.01,
    cg_iterations: int = 10,
    cg_tolerance: Any = 1e-6,
    entropy_coefficient: Any = 0.0,
    normalize_advantages: bool = True,
    scale_rewards: bool = False,
    critic_epochs: int = 10,
    critic_minibatches: int = 8,
    critic_learning_rate: Any = None,
    critic_optimizer: Any = None,
) -> Algorithm:
    """TRPO with generalized advantages.

    Args:
      env, policy: the policy may have a memory, but no value of its own: the critic's steps would move shared layers.
      critic: V_φ; None: one like the policy.
      num_envs, num_steps: environments played side by side, and the steps of each between two updates.
      discount, lambda_: γ and λ.
      max_kl: δ; a number or a function of the number of updates.
      line_search_steps: the most steps tried.
      backtrack_factor: β in (0, 1), by which each is shorter than the one before.
      damping, cg_iterations, cg_tolerance, entropy_coefficient, normalize_advantages, scale_rewards, critic_epochs,
      critic_minibatches, critic_learning_rate, critic_optimizer: as in `npg`.

    Among the metrics: `accepted`, 1 where a step was taken; `line_search_step`, its j, or line_search_steps where
    none was; `kl` and `improvement` of the step taken, 0 where none was; `step_size`, β^j α.
    Raises:
      ValueError, TypeError: as `npg`.
    """
    kl_at = _parts.schedule("max_kl", max_kl)
    line_search_steps = _check.count("line_search_steps", line_search_steps)
    _check.number("backtrack_factor", backtrack_factor, 0.0, 1.0, exclusive=True)

    def move(change, params, solution, count):
        delta = kl_at(count)
        found = line_search(
            lambda alpha: change(stepped(params, alpha, solution.direction)),
            length_of_step(delta, solution), delta, line_search_steps, backtrack_factor,
        )  # fmt: skip
        taken = stepped(params, found.step_size, solution.direction)
        new = jax.tree.map(lambda n, o: jnp.where(found.accepted, n, o), taken, params)
        at = change(new)
        return new, {
            "policy_loss": -at.improvement,
            "entropy": at.entropy,
            "kl": jnp.where(found.accepted, found.change.kl, 0.0),
            "improvement": jnp.where(found.accepted, found.change.improvement, 0.0),
            "step_size": found.step_size,
            "accepted": found.accepted.astype(jnp.int32),
            "line_search_step": jnp.where(found.accepted, found.tried - 1, line_search_steps),
        }

    return natural_actor_critic(
        env, policy, critic, move,
        name="trpo",
        config=_parts.plain(
            max_kl=max_kl, line_search_steps=line_search_steps, backtrack_factor=backtrack_factor
        ),
        num_envs=num_envs, num_steps=num_steps, discount=discount, lambda_=lambda_, damping=damping,
        cg_iterations=cg_iterations, cg_tolerance=cg_tolerance, entropy_coefficient=entropy_coefficient,
        normalize_advantages=normalize_advantages, scale_rewards=scale_rewards, critic_epochs=critic_epochs,
        critic_minibatches=critic_minibatches, critic_learning_rate=critic_learning_rate,
        critic_optimizer=critic_optimizer,
    )  # fmt: skip


def line_search(change: Callable[[jax.Array], Change], first: jax.Array, max_kl: Any, most: int, factor: Any) -> Search:
    """The first of the step sizes α, βα, β²α, … whose divergence is within `max_kl` and that improves; 0 if none is.

    A change that is NaN is not accepted. Under `vmap` each member keeps what it has found while others go on.
    """

    def search(state: Search) -> Search:
        alpha = first * jnp.asarray(factor, first.dtype) ** state.tried
        at = change(alpha)
        accepted = (at.kl <= max_kl) & (at.improvement > 0)
        return Search(state.tried + 1, accepted, jnp.where(accepted, alpha, 0.0), at)

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(change, first))
    start = Search(jnp.zeros((), jnp.int32), jnp.zeros((), bool), jnp.zeros_like(first), nothing)
    return jax.lax.while_loop(lambda state: ~state.accepted & (state.tried < most), search, start)
