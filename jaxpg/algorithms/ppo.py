"""PPO: proximal policy optimisation (Schulman et al., 2017).

    L(θ) = E_t[ min(ρ_t A_t, clip(ρ_t, 1 − ε, 1 + ε) A_t) ],   ρ_t = π_θ(a_t | s_t) / π_θold(a_t | s_t)      (clip)
    L(θ) = E_t[ ρ_t A_t − β KL(π_θold(· | s_t) ‖ π_θ(· | s_t)) ]                                              (kl)

ascended by several epochs of minibatches on each segment. At θ = θ_old, ∇L is the policy gradient with weights A_t.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg._batching import any_member
from jaxpg._keywords import hinted
from jaxpg.algorithms import _parts
from jaxpg.algorithms._actor_critic import Learner, actor_critic, forward, outputs
from jaxpg.algorithms._batch import Batch
from jaxpg.algorithms._blocks import mean_gradient
from jaxpg.algorithms._minibatches import count_rows, in_minibatches
from jaxpg.algorithms._parts import Parameters
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Critic, Policy

__all__ = ["ppo"]

KL_COEFFICIENTS = (1e-6, 1e6)  # β stays within: from 0 or infinity no doubling leads back.


class Targets(NamedTuple):
    """What belongs to the rows of a batch besides: advantages, the critic's targets, and the distributions that acted.

    `old` is empty where the objective does not need it.
    """

    advantages: jax.Array
    values: jax.Array
    old: Any


class PpoState(NamedTuple):
    """The optimiser's state and β, which follows the divergence where the objective is "kl"."""

    optimizer: Any
    kl_coefficient: jax.Array


@hinted
def ppo(
    env: Environment,
    policy: Policy,
    critic: Critic | None = None,
    *,
    num_envs: int = 16,
    num_steps: int = 64,
    num_epochs: int = 10,
    num_minibatches: int = 8,
    discount: Any = 0.99,
    lambda_: Any = 0.95,
    objective: str = "clip",
    clip: Any = 0.2,
    kl_coefficient: Any = 1.0,
    kl_target: Any = 0.01,
    value_clip: Any = None,
    value_coefficient: Any = 0.5,
    entropy_coefficient: Any = 0.0,
    normalize_advantages: str | None = "minibatch",
    max_kl: Any = None,
    scale_rewards: bool = False,
    learning_rate: Any = None,
    optimizer: Any = None,
    max_gradient_norm: Any = 0.5,
) -> Algorithm:
    """PPO with generalized advantages, in its clipped form or with a penalty on the divergence.

    Args:
      env, policy: the policy may have a memory; minibatches are then whole lanes, else single steps.
      critic: V_φ; None: one like the policy.
      num_envs, num_steps: environments played side by side, and the steps of each between two updates.
      num_epochs, num_minibatches: passes over the segment, and the parts that it is cut into, anew each time.
      discount, lambda_: γ and λ.
      objective: "clip" or "kl".
      clip: ε, a number or a function of the number of updates; for "clip".
      kl_coefficient, kl_target: for "kl": where β starts, and the divergence that it follows: β is halved after an
        update whose mean divergence was below kl_target / 1.5, doubled after one above 1.5 kl_target. kl_target None:
        β stays.
      value_clip: None; or c: the critic's loss is the larger of those of V and of V_old + clip(V − V_old, −c, c).
      value_coefficient: of ½ E[(V − target)²] in the loss.
      entropy_coefficient: of the entropy bonus.
      normalize_advantages: standardise advantages over each "minibatch" or the whole "batch"; None: leave them.
      max_kl: None; or a bound: no further gradient step in this update once a minibatch's estimated divergence from the
        policy that acted exceeds it.
      scale_rewards: divide rewards by the running standard deviation of the discounted return.
      learning_rate: of Adam; a number, or a function of the number of updates. Default 0.0003.
      optimizer: an optax optimiser in the place of Adam and the learning rate.
      max_gradient_norm: the gradient is clipped to this global norm; None: not at all.
    Raises:
      ValueError, TypeError: for arguments out of range, and where minibatches would not be of one size.
    """
    _check.named("objective", objective, ("clip", "kl"))
    discount, lambda_ = _check.unit("discount", discount), _check.unit("lambda_", lambda_)
    num_epochs = _check.count("num_epochs", num_epochs)
    count_rows("num_minibatches", num_minibatches, (policy, critic), num_envs, num_steps)
    if normalize_advantages is not None:
        _check.named("normalize_advantages", normalize_advantages, ("minibatch", "batch"))
    if normalize_advantages == "minibatch" and num_envs * num_steps == num_minibatches:
        raise ValueError(
            f"num_minibatches {num_minibatches} makes minibatches of one step, whose standardised advantage is 0: take "
            f"fewer, or normalize_advantages='batch'"
        )
    clip_at = _parts.schedule("clip", clip)
    _check.positive("kl_coefficient", kl_coefficient)
    for name, value in {"kl_target": kl_target, "value_clip": value_clip, "max_kl": max_kl}.items():
        _check.optional(_check.positive, name, value)
    _check.number("value_coefficient", value_coefficient, 0.0)
    _check.number("entropy_coefficient", entropy_coefficient)
    _parts.check_optimizer(optimizer, learning_rate, max_gradient_norm)
    rate = 3e-4 if learning_rate is None else learning_rate

    def make_learner(critic: Critic | None) -> Learner:
        descent = _parts.make_descent(optimizer, rate, max_gradient_norm, _parts.trainable_parameters(policy, critic))

        def init(parameters: Parameters) -> PpoState:
            return PpoState(descent.init(parameters), jnp.asarray(kl_coefficient, jnp.result_type(float)))

        def terms(parameters: Parameters, batch: Batch, targets: Targets, clip: Any, kl_coefficient: jax.Array):
            """(the loss, metrics), as sums over the rows."""

            def measure(distribution, action, old):
                kl = old.kl_divergence(distribution) if objective == "kl" else jnp.zeros(())
                return distribution.log_prob(action), _parts.entropy_of(distribution, entropy_coefficient), kl

            def total(values):
                return _parts.sum_where(batch.valid, values)

            (log_prob, entropy, kl), value = outputs(policy, critic, parameters, batch, measure, targets.old)
            log_ratio = jnp.where(batch.valid, log_prob - batch.log_prob, 0.0)
            ratio, advantages = jnp.exp(log_ratio), targets.advantages
            if objective == "clip":
                gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)
            else:
                gain = ratio * advantages - kl_coefficient * kl
            error = (value - targets.values) ** 2
            if value_clip is not None:
                clipped = batch.value + jnp.clip(value - batch.value, -value_clip, value_clip)
                error = jnp.maximum(error, (clipped - targets.values) ** 2)

            policy_loss, value_loss, bonus = -total(gain), 0.5 * total(error), total(entropy)
            loss = policy_loss + value_coefficient * value_loss - _parts.weighted(entropy_coefficient, bonus)
            return loss, {
                "policy_loss": policy_loss,
                "value_loss": value_loss,
                "entropy": bonus,
                # KL(π_old ‖ π) = E[(ρ − 1) − log ρ], every term of which is at least 0 (Schulman, 2020).
                "kl": total(kl if objective == "kl" else jnp.expm1(log_ratio) - log_ratio),
                "clip_fraction": total((jnp.abs(ratio - 1) > clip).astype(ratio.dtype)),
            }

        def update(state: PpoState, parameters: Parameters, batch: Batch, key: jax.Array, count: jax.Array):
            advantages, targets = _parts.advantages(batch, discount, lambda_)
            if normalize_advantages == "batch":
                advantages = _parts.standardized(advantages, batch.valid)
            old = forward(policy, parameters.policy, batch, batch.policy_carry) if objective == "kl" else ()
            epsilon = clip_at(count)

            def gradient_step(carry, batch, targets, moments):
                parameters, optimizer_state, going = carry
                if normalize_advantages == "minibatch":
                    advantages = _parts.standardized(targets.advantages, batch.valid, moments)
                    targets = targets._replace(advantages=advantages)
                gradient, metrics = mean_gradient(
                    lambda p, b, t: terms(p, b, t, epsilon, state.kl_coefficient), parameters, batch, targets
                )
                metrics["gradient_norm"] = _parts.global_norm(gradient)
                new = descent.step(gradient, optimizer_state, parameters, count)
                if max_kl is not None:
                    going &= ~(metrics["kl"] > max_kl)  # NaN where a minibatch holds no step.
                    new = jax.tree.map(lambda n, o: jnp.where(going, n, o), new, (parameters, optimizer_state))
                return (*new, going), (metrics, going)

            def skip(carry, batch, targets, moments):
                metrics = jax.eval_shape(gradient_step, carry, batch, targets, moments)[1]
                return carry, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

            def minibatch_step(carry, *minibatch):
                if max_kl is None:
                    return gradient_step(carry, *minibatch)
                return jax.lax.cond(any_member(carry[2]), gradient_step, skip, carry, *minibatch)

            def minibatch_moments(valid, targets):
                return _parts.moments(targets.advantages, valid) if normalize_advantages == "minibatch" else None

            start = (parameters, state.optimizer, jnp.ones((), bool))
            (parameters, optimizer_state, _), (metrics, done) = in_minibatches(
                minibatch_step, start, batch, Targets(advantages, targets, old), (policy, critic), key, num_epochs,
                num_minibatches, of_whole=minibatch_moments,
            )  # fmt: skip
            metrics = {name: _parts.mean_where(done & ~jnp.isnan(value), value) for name, value in metrics.items()}
            metrics["gradient_steps"] = jnp.sum(done, dtype=jnp.int32)
            metrics["explained_variance"] = _parts.explained_variance(targets, batch.value, batch.valid)
            beta = state.kl_coefficient
            if objective == "kl":
                metrics["kl_coefficient"] = beta
                if kl_target is not None:
                    after = forward(policy, parameters.policy, batch, batch.policy_carry, _divergence, old)
                    kl = _parts.mean_where(batch.valid, after)
                    beta = jnp.where(kl > 1.5 * kl_target, beta * 2, jnp.where(kl < kl_target / 1.5, beta / 2, beta))
                    beta = jnp.clip(beta, *KL_COEFFICIENTS)
            return PpoState(optimizer_state, beta), parameters, metrics

        return Learner(init, update)

    return actor_critic(
        env, policy, critic, make_learner,
        num_envs=num_envs, num_steps=num_steps, discount=discount, scale_rewards=scale_rewards, name="ppo",
        config=_parts.plain(
            num_epochs=num_epochs, num_minibatches=num_minibatches, discount=discount, lambda_=lambda_,
            objective=objective, clip=clip, kl_coefficient=kl_coefficient, kl_target=kl_target, value_clip=value_clip,
            value_coefficient=value_coefficient, entropy_coefficient=entropy_coefficient,
            normalize_advantages=normalize_advantages, max_kl=max_kl, learning_rate=rate, optimizer=optimizer,
            max_gradient_norm=max_gradient_norm,
        ),
    )  # fmt: skip


def _divergence(distribution: Any, old: Any) -> jax.Array:
    return old.kl_divergence(distribution)
