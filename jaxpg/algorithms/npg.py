"""NPG: the natural policy gradient (Kakade, 2001), with conjugate gradients and a learned critic.

    θ ← θ + α x,    x = (F + λI)⁻¹ E_t[ ∇ log π_θ(a_t | s_t) A_t ],    F = E_t[ E_a[ ∇ log π_θ ∇ log π_θᵀ ] ]

with a fixed α, or with α = √(2δ / xᵀFx), for which the mean divergence KL(π_old ‖ π) is δ to second order (Rajeswaran
et al., 2017).
"""

from typing import Any

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg.algorithms import _parts
from jaxpg.algorithms._trust_region import length_of_step, natural_actor_critic, stepped
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Critic, Policy

__all__ = ["npg"]


@hinted
def npg(
    env: Environment,
    policy: Policy,
    critic: Critic | None = None,
    *,
    num_envs: int = 16,
    num_steps: int = 64,
    discount: Any = 0.99,
    lambda_: Any = 0.95,
    max_kl: Any = None,
    step_size: Any = None,
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
    """The natural policy gradient with generalized advantages.

    F is the mean over the segment's steps of the Fisher information, exact in the actions. Only what `policy.trainable`
    names takes part.

    Args:
      env, policy: the policy may have a memory, but no value of its own: the critic's steps would move shared layers.
      critic: V_φ; None: one like the policy.
      num_envs, num_steps: environments played side by side, and the steps of each between two updates.
      discount, lambda_: γ and λ.
      max_kl: δ, which fixes the length of the step; a number or a function of the number of updates. Default 0.01.
      step_size: α, in the place of max_kl; a number or a function of the number of updates.
      damping: λ ≥ 0 in F + λI.
      cg_iterations, cg_tolerance: the most conjugate-gradient steps, and the relative residual that ends them.
      entropy_coefficient: of the entropy bonus in the objective.
      normalize_advantages: standardise them over the segment. With max_kl their scale does not matter but beside
        the entropy bonus.
      scale_rewards: divide rewards by the running standard deviation of the discounted return.
      critic_epochs, critic_minibatches: passes over the segment in which the critic is fitted to V + A after the
        policy's step, and the parts that it is cut into, anew each time.
      critic_learning_rate: of the critic's Adam; a number, or a function of the number of updates. Default 0.001.
      critic_optimizer: an optax optimiser in the place of it.
    Raises:
      ValueError, TypeError: for arguments out of range, a policy with a value of its own, distributions without
        `kl_divergence`, and where minibatches would not be of one size.
    """
    if max_kl is not None and step_size is not None:
        raise ValueError("give max_kl or a step_size: each fixes the length of the step; got both")
    max_kl = 0.01 if step_size is None and max_kl is None else max_kl
    kl_at = _check.optional(_parts.schedule, "max_kl", max_kl)
    size_at = _check.optional(_parts.schedule, "step_size", step_size)

    def move(change, params, solution, count):
        alpha = length_of_step(kl_at(count), solution) if size_at is None else size_at(count)
        new = stepped(params, alpha, solution.direction)
        after = change(new)
        return new, {
            "policy_loss": -after.improvement,
            "entropy": after.entropy,
            "kl": after.kl,
            "step_size": alpha,
        }

    return natural_actor_critic(
        env, policy, critic, move,
        name="npg", config=_parts.plain(max_kl=max_kl, step_size=step_size),
        num_envs=num_envs, num_steps=num_steps, discount=discount, lambda_=lambda_, damping=damping,
        cg_iterations=cg_iterations, cg_tolerance=cg_tolerance, entropy_coefficient=entropy_coefficient,
        normalize_advantages=normalize_advantages, scale_rewards=scale_rewards, critic_epochs=critic_epochs,
        critic_minibatches=critic_minibatches, critic_learning_rate=critic_learning_rate,
        critic_optimizer=critic_optimizer,
    )  # fmt: skip
