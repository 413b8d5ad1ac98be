"""IMPALA: an actor-critic whose actors lag behind, corrected by V-trace (Espeholt et al., 2018).

    θ ← θ + optimiser( E_t[ ∇ log π_θ(a_t | s_t) ρ̄_t (r_t + γ v_{t+1} − V(s_t)) ] + β ∇ E_t[H(π_θ(· | s_t))] )
    v_t = V(s_t) + ρ̄_t δ_t + γ c_t (v_{t+1} − V(s_{t+1})),    ρ̄_t = min(ρ̄, ρ_t),    c_t = λ min(c̄, ρ_t)

with δ_t = r_t + γ V(s_{t+1}) − V(s_t), ρ_t = π_θ(a_t | s_t) / μ(a_t | s_t) and V_φ towards v_t. The policy μ that acts
is a copy of π_θ that is renewed every so many updates; where it is renewed for each and λ = 1, this is A2C.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check, weights
from jaxpg._keywords import hinted
from jaxpg.algorithms import _parts
from jaxpg.algorithms._actor_critic import Learner, actor_critic, outputs
from jaxpg.algorithms._batch import Batch
from jaxpg.algorithms._parts import Parameters
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Critic, Policy
from jaxpg.returns import backward_recursion

__all__ = ["impala"]


class ImpalaState(NamedTuple):
    """The optimiser's state, the policy's parameters that act, and for how many updates they have.

    At age 0 the actors are renewed: it is the learner's parameters that act, whatever `acting` holds.
    """

    optimizer: Any
    acting: Any
    age: jax.Array


@hinted
def impala(
    env: Environment,
    policy: Policy,
    critic: Critic | None = None,
    *,
    num_envs: int = 16,
    num_steps: int = 20,
    actor_update_period: int = 4,
    discount: Any = 0.99,
    lambda_: Any = 1.0,
    clip_rho: Any = 1.0,
    clip_c: Any = 1.0,
    value_coefficient: Any = 0.5,
    entropy_coefficient: Any = 0.01,
    scale_rewards: bool = True,
    learning_rate: Any = None,
    optimizer: Any = None,
    max_gradient_norm: Any = 0.5,
) -> Algorithm:
    """IMPALA's learner, with the lag of its actors as a hyperparameter.

    Args:
      env, policy: the policy may have a memory; the learner unrolls it from the actors' memory at the segment's start.
      critic: V_φ; None: one like the policy.
      num_envs, num_steps: environments played side by side, and the steps of each between two updates.
      actor_update_period: k: updates from one copy of θ to the actors to the next; 1: they never lag.
      discount, lambda_: γ and λ.
      clip_rho, clip_c: the bounds ρ̄ and c̄.
      value_coefficient: of ½ E[(V − v)²] in the loss.
      entropy_coefficient: β of the entropy bonus.
      scale_rewards: divide rewards by the running standard deviation of the discounted return (the paper clips them).
      learning_rate: of Adam; a number, or a function of the number of updates. Default 0.002.
      optimizer: an optax optimiser in the place of Adam and the learning rate; the paper has
        optax.rmsprop(6e-4, decay=0.99, eps=0.1).
      max_gradient_norm: the gradient is clipped to this global norm; None: not at all.

    Among the metrics, `kl` estimates KL(μ ‖ π_θ), and `clip_fraction` is the share of steps with ρ_t > ρ̄.
    """
    correct = weights.v_trace(discount, lambda_, lambda observation: 0.0, clip_rho=clip_rho, clip_c=clip_c)
    period = _check.count("actor_update_period", actor_update_period)
    _check.number("value_coefficient", value_coefficient, 0.0)
    _check.number("entropy_coefficient", entropy_coefficient)
    _parts.check_optimizer(optimizer, learning_rate, max_gradient_norm)
    rate = 2e-3 if learning_rate is None else learning_rate

    def make_learner(critic: Critic | None) -> Learner:
        descent = _parts.make_descent(optimizer, rate, max_gradient_norm, _parts.trainable_parameters(policy, critic))

        def init(parameters: Parameters) -> ImpalaState:
            return ImpalaState(descent.init(parameters), parameters.policy, jnp.zeros((), jnp.int32))

        def acting(state: ImpalaState, parameters: Parameters) -> Any:
            return jax.tree.map(lambda new, old: jnp.where(state.age == 0, new, old), parameters.policy, state.acting)

        def loss(parameters: Parameters, batch: Batch):
            def measure(distribution, action):
                return distribution.log_prob(action), _parts.entropy_of(distribution, entropy_coefficient)

            (log_prob, entropy), value = outputs(policy, critic, parameters, batch, measure)
            log_ratio = jax.lax.stop_gradient(jnp.where(batch.valid, log_prob - batch.log_prob, 0.0))
            # Of the critic as it is now: the value that came with the batch may be that of the parameters that acted.
            current = batch._replace(value=jax.lax.stop_gradient(value))
            advantages, targets = v_trace(current, jnp.exp(log_ratio), correct)

            policy_loss = -_parts.mean_where(batch.valid, log_prob * advantages)
            value_loss = 0.5 * _parts.mean_where(batch.valid, (value - targets) ** 2)
            bonus = _parts.mean_where(batch.valid, entropy)
            total = policy_loss + value_coefficient * value_loss - _parts.weighted(entropy_coefficient, bonus)
            return total, {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": bonus,
                "kl": _parts.mean_where(batch.valid, jnp.expm1(log_ratio) - log_ratio),
                "clip_fraction": _parts.mean_where(batch.valid, jnp.exp(log_ratio) > clip_rho),
                "explained_variance": _parts.explained_variance(targets, current.value, batch.valid),
            }

        def update(state: ImpalaState, parameters: Parameters, batch: Batch, key: jax.Array, count: jax.Array):
            del key
            acted = acting(state, parameters)
            gradient, metrics = jax.grad(loss, has_aux=True)(parameters, batch)
            parameters, optimizer_state = descent.step(gradient, state.optimizer, parameters, count)
            metrics["gradient_norm"] = _parts.global_norm(gradient)
            return ImpalaState(optimizer_state, acted, (state.age + 1) % period), parameters, metrics

        return Learner(init, update, acting)

    return actor_critic(
        env, policy, critic, make_learner,
        num_envs=num_envs, num_steps=num_steps, discount=discount, scale_rewards=scale_rewards, name="impala",
        config=_parts.plain(
            actor_update_period=period, discount=discount, lambda_=lambda_, clip_rho=clip_rho, clip_c=clip_c,
            value_coefficient=value_coefficient, entropy_coefficient=entropy_coefficient, learning_rate=rate,
            optimizer=optimizer, max_gradient_norm=max_gradient_norm,
        ),
    )  # fmt: skip


def v_trace(batch: Batch, ratio: jax.Array, correct: weights.Weight) -> tuple[jax.Array, jax.Array]:
    """(ρ̄_t (r_t + γ v_{t+1} − V(s_t)), v_t), 0 and V in rows that are no steps.

    Args:
      ratio: [step, lane] ρ_t.
      correct: V-trace as `weights.v_trace` gives it.
    """
    assert correct.direct is not None and correct.carry is not None
    steps = weights.StepValues(batch.reward, batch.value, batch.next_value, batch.terminated, batch.truncated, ratio)
    ended = batch.terminated | batch.truncated
    increment = jnp.where(batch.valid, correct.increment(steps), 0.0)
    above = backward_recursion(increment, jnp.where(ended, 0.0, correct.decay(steps)).astype(increment.dtype))
    following = jnp.where(ended, 0.0, jnp.concatenate([above[1:], jnp.zeros_like(above[:1])]))  # v_{t+1} − V(s_{t+1})
    advantages = correct.direct(steps) + correct.carry(steps) * following
    return jnp.where(batch.valid, advantages, 0.0), batch.value + jnp.where(batch.valid, above, 0.0)
