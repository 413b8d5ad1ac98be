"""What NPG and TRPO share: the natural direction of a segment's surrogate, and a critic fitted beside it.

    x = (F + λI)⁻¹ g,    g = ∇L(θ),    L(θ') = E_t[ ρ_t(θ') A_t ],    F = ∇² E_t[ KL(π_θ(· | s_t) ‖ π_θ'(· | s_t)) ]

both at θ' = θ, where ρ_t = π_θ'(a_t | s_t) / π_θ(a_t | s_t). F is never formed: its products with vectors are
directional derivatives of the gradient of the mean divergence, exact in the actions and means over the segment's steps.
Source: Kakade (2001); Schulman et al. (2015), appendix C.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check, natural
from jaxpg.algorithms import _parts
from jaxpg.algorithms._actor_critic import Learner, actor_critic, forward
from jaxpg.algorithms._batch import Batch
from jaxpg.algorithms._minibatches import count_rows, in_minibatches
from jaxpg.algorithms._parts import Parameters
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Critic, Policy

__all__ = ["Change", "Move", "length_of_step", "natural_actor_critic", "natural_direction", "surrogate"]


class Change(NamedTuple):
    """What another policy would be on the steps of a segment.

    Fields:
      improvement: L(θ') − L(θ), the entropy bonus included.
      kl: E_t[KL(π_θ ‖ π_θ')].
      entropy: E_t[H(π_θ')].
    """

    improvement: jax.Array
    kl: jax.Array
    entropy: jax.Array


# (θ' -> Change, θ, the solution x, the update's index) -> (the new θ, metrics).
Move = Callable[[Callable[[Any], Change], Any, natural.Solution, jax.Array], tuple[Any, dict[str, jax.Array]]]


def surrogate(
    policy: Policy, params: Any, batch: Batch, advantages: jax.Array, entropy_coefficient: Any = 0.0
) -> Callable[[Any], Change]:
    """θ' -> `Change` from the policy that acted; means over the valid rows."""
    old = forward(policy, params, batch, batch.policy_carry)

    def measure(distribution, action, old):
        if not hasattr(old, "kl_divergence"):
            raise TypeError(f"policy must give distributions with kl_divergence; {type(old).__name__} has none")
        entropy = _parts.entropy_of(distribution, entropy_coefficient)
        bonus = _parts.weighted(entropy_coefficient, entropy - _parts.entropy_of(old, entropy_coefficient))
        return distribution.log_prob(action) - old.log_prob(action), old.kl_divergence(distribution), entropy, bonus

    def change(candidate: Any) -> Change:
        log_ratio, kl, entropy, bonus = forward(
            policy, candidate, batch, batch.policy_carry, measure, batch.action, old
        )
        # ρ − 1, not ρ: near θ the improvement is a small difference of large sums.
        gain = jnp.expm1(jnp.where(batch.valid, log_ratio, 0.0)) * advantages + bonus
        return Change(*(_parts.mean_where(batch.valid, x) for x in (gain, kl, entropy)))

    return change


def natural_direction(
    policy: Policy, change: Callable[[Any], Change], params: Any, damping: Any, iterations: int, tolerance: Any
) -> tuple[natural.Solution, Any]:
    """(x, g) at θ' = θ, 0 in what is not trainable."""
    trainable = None if policy.trainable is None else policy.trainable(params)

    def free(vector: Any) -> Any:
        return vector if trainable is None else jax.tree.map(lambda t, v: jnp.where(t, v, 0), trainable, vector)

    gradient = free(jax.grad(lambda theta: change(theta).improvement)(params))
    # Linearised once: every product reuses the same forward and backward pass.
    along = jax.linearize(jax.grad(lambda theta: change(theta).kl), params)[1]

    def product(vector: Any) -> Any:
        return free(along(jax.tree.map(lambda v, p: v.astype(jnp.result_type(p)), vector, params)))

    solution = natural.solve(product, gradient, damping=damping, iterations=iterations, tolerance=tolerance)
    return solution, gradient


def length_of_step(max_kl: Any, solution: natural.Solution) -> jax.Array:
    """α with α² xᵀFx / 2 = δ; 0 where x does not move the policy at all."""
    form = solution.quadratic_form
    return jnp.where(form > 0, jnp.sqrt(2 * max_kl / jnp.where(form > 0, form, 1)), 0.0)


def stepped(params: Any, step_size: jax.Array, direction: Any) -> Any:
    """θ + α x."""
    return jax.tree.map(lambda p, x: (p + step_size * x).astype(jnp.asarray(p).dtype), params, direction)


def natural_actor_critic(
    env: Environment,
    policy: Policy,
    critic: Critic | None,
    move: Move,
    *,
    name: str,
    config: Mapping[str, Any],
    num_envs: int,
    num_steps: int,
    discount: Any,
    lambda_: Any,
    damping: Any,
    cg_iterations: int,
    cg_tolerance: Any,
    entropy_coefficient: Any,
    normalize_advantages: bool,
    scale_rewards: bool,
    critic_epochs: int,
    critic_minibatches: int,
    critic_learning_rate: Any,
    critic_optimizer: Any,
) -> Algorithm:
    """The algorithm that moves the policy by `move` and fits the critic to V + A by minibatches; see `npg`, `trpo`."""
    if _check.instance("policy", policy, Policy).has_value:
        raise ValueError(
            f"policy has a value of its own (shared_value=True): {name} steps along the policy's natural gradient, and "
            f"the critic's steps would move the shared layers too; take a policy without one"
        )
    discount, lambda_ = _check.unit("discount", discount), _check.unit("lambda_", lambda_)
    _check.number("damping", damping, 0.0)
    cg_iterations = _check.count("cg_iterations", cg_iterations)
    _check.positive("cg_tolerance", cg_tolerance)
    _check.number("entropy_coefficient", entropy_coefficient)
    _check.boolean("normalize_advantages", normalize_advantages)
    critic_epochs = _check.count("critic_epochs", critic_epochs)
    _check.optional(_check.optimizer, "critic_optimizer", critic_optimizer)
    if critic_optimizer is not None and critic_learning_rate is not None:
        raise ValueError("give critic_learning_rate or a critic_optimizer, which has a learning rate of its own")
    rate = 1e-3 if critic_learning_rate is None else critic_learning_rate
    _parts.schedule("critic_learning_rate", rate)

    def make_learner(critic: Critic | None) -> Learner:
        assert critic is not None  # There is no value of the policy's own.
        count_rows("critic_minibatches", critic_minibatches, (critic,), num_envs, num_steps)
        descent = _parts.make_descent(critic_optimizer, rate, None, critic.trainable)

        def fit(optimizer_state: Any, params: Any, batch: Batch, targets: jax.Array, key: jax.Array, count: jax.Array):
            def loss(params, batch, targets):
                value = forward(critic, params, batch, batch.critic_carry)
                return 0.5 * _parts.mean_where(batch.valid, (value - targets) ** 2)

            def step(carry, batch, targets):
                params, optimizer_state = carry
                value, gradient = jax.value_and_grad(loss)(params, batch, targets)
                return descent.step(gradient, optimizer_state, params, count), value

            (params, optimizer_state), losses = in_minibatches(
                step, (params, optimizer_state), batch, targets, (critic,), key, critic_epochs, critic_minibatches
            )
            return params, optimizer_state, jnp.nanmean(losses)

        def update(optimizer_state: Any, parameters: Parameters, batch: Batch, key: jax.Array, count: jax.Array):
            advantages, targets = _parts.advantages(batch, discount, lambda_)
            weights = _parts.standardized(advantages, batch.valid) if normalize_advantages else advantages
            change = surrogate(policy, parameters.policy, batch, weights, entropy_coefficient)
            solution, gradient = natural_direction(
                policy, change, parameters.policy, damping, cg_iterations, cg_tolerance
            )
            params, metrics = move(change, parameters.policy, solution, count)
            critic_params, optimizer_state, value_loss = fit(
                optimizer_state, parameters.critic, batch, targets, key, count
            )
            metrics |= {
                "value_loss": value_loss,
                "gradient_norm": _parts.global_norm(gradient),
                "cg_residual": solution.residual,
                "explained_variance": _parts.explained_variance(targets, batch.value, batch.valid),
            }
            return optimizer_state, Parameters(params, critic_params), metrics

        return Learner(lambda parameters: descent.init(parameters.critic), update)

    return actor_critic(
        env, policy, critic, make_learner,
        num_envs=num_envs, num_steps=num_steps, discount=discount, scale_rewards=scale_rewards, name=name,
        config={
            **config,
            **_parts.plain(
                discount=discount, lambda_=lambda_, damping=damping, cg_iterations=cg_iterations,
                cg_tolerance=cg_tolerance, entropy_coefficient=entropy_coefficient,
                normalize_advantages=normalize_advantages, critic_epochs=critic_epochs,
                critic_minibatches=critic_minibatches, critic_learning_rate=rate, critic_optimizer=critic_optimizer,
            ),
        },
    )  # fmt: skip
