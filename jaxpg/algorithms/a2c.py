"""A2C: synchronous advantage actor-critic (Mnih et al., 2016, without its asynchrony).

    θ ← θ + optimiser( E_t[ ∇ log π_θ(a_t | s_t) A_t ] + β ∇ E_t[H(π_θ(· | s_t))] ),    V_φ towards V(s_t) + A_t

One gradient step on each segment: PPO with one epoch and one batch.
"""

from typing import Any

import jax

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg.algorithms import _parts
from jaxpg.algorithms._actor_critic import Learner, actor_critic, outputs
from jaxpg.algorithms._batch import Batch
from jaxpg.algorithms._parts import Parameters
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Critic, Policy

__all__ = ["a2c"]


@hinted
def a2c(
    env: Environment,
    policy: Policy,
    critic: Critic | None = None,
    *,
    num_envs: int = 16,
    num_steps: int = 8,
    discount: Any = 0.99,
    lambda_: Any = 0.95,
    value_coefficient: Any = 0.5,
    entropy_coefficient: Any = 0.0,
    normalize_advantages: bool = False,
    scale_rewards: bool = False,
    learning_rate: Any = None,
    optimizer: Any = None,
    max_gradient_norm: Any = 0.5,
) -> Algorithm:
    """A2C with generalized advantages.

    Args:
      env, policy: the policy may have a memory.
      critic: V_φ; None: one like the policy.
      num_envs, num_steps: environments played side by side, and the steps of each between two updates.
      discount, lambda_: γ and λ; λ = 1 are n-step returns as in the paper.
      value_coefficient: of ½ E[(V − target)²] in the loss.
      entropy_coefficient: β of the entropy bonus.
      normalize_advantages: standardise them over the segment.
      scale_rewards: divide rewards by the running standard deviation of the discounted return.
      learning_rate: of Adam; a number, or a function of the number of updates. Default 0.001.
      optimizer: an optax optimiser in the place of Adam and the learning rate.
      max_gradient_norm: the gradient is clipped to this global norm; None: not at all.
    """
    discount, lambda_ = _check.unit("discount", discount), _check.unit("lambda_", lambda_)
    _check.number("value_coefficient", value_coefficient, 0.0)
    _check.number("entropy_coefficient", entropy_coefficient)
    _check.boolean("normalize_advantages", normalize_advantages)
    _parts.check_optimizer(optimizer, learning_rate, max_gradient_norm)
    rate = 1e-3 if learning_rate is None else learning_rate

    def make_learner(critic: Critic | None) -> Learner:
        descent = _parts.make_descent(optimizer, rate, max_gradient_norm, _parts.trainable_parameters(policy, critic))

        def update(optimizer_state: Any, parameters: Parameters, batch: Batch, key: jax.Array, count: jax.Array):
            del key
            advantages, targets = _parts.advantages(batch, discount, lambda_)
            weights = _parts.standardized(advantages, batch.valid) if normalize_advantages else advantages

            def measure(distribution, action):
                return distribution.log_prob(action), _parts.entropy_of(distribution, entropy_coefficient)

            def loss(parameters: Parameters):
                (log_prob, entropy), value = outputs(policy, critic, parameters, batch, measure)
                policy_loss = -_parts.mean_where(batch.valid, log_prob * weights)
                value_loss = 0.5 * _parts.mean_where(batch.valid, (value - targets) ** 2)
                bonus = _parts.mean_where(batch.valid, entropy)
                total = policy_loss + value_coefficient * value_loss - _parts.weighted(entropy_coefficient, bonus)
                return total, {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": bonus}

            gradient, metrics = jax.grad(loss, has_aux=True)(parameters)
            parameters, optimizer_state = descent.step(gradient, optimizer_state, parameters, count)
            metrics["gradient_norm"] = _parts.global_norm(gradient)
            metrics["explained_variance"] = _parts.explained_variance(targets, batch.value, batch.valid)
            return optimizer_state, parameters, metrics

        return Learner(descent.init, update)

    return actor_critic(
        env, policy, critic, make_learner,
        num_envs=num_envs, num_steps=num_steps, discount=discount, scale_rewards=scale_rewards, name="a2c",
        config=_parts.plain(
            discount=discount, lambda_=lambda_, value_coefficient=value_coefficient,
            entropy_coefficient=entropy_coefficient, normalize_advantages=normalize_advantages, learning_rate=rate,
            optimizer=optimizer, max_gradient_norm=max_gradient_norm,
        ),
    )  # fmt: skip
