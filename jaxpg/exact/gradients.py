"""∇J, ∇²J and the Fisher information of a policy on a finite MDP."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxpg import _check
from jaxpg.exact import enumeration, evaluation

__all__ = ["fisher", "hessian", "natural_gradient", "policy_gradient", "precondition"]


def policy_gradient(mdp: Any, policy: Any, params: Any, method: str = "autodiff", temperature: Any = None) -> Any:
    """∇J(θ) by one of three ways that share little code; see `FiniteMDP.policy_gradient`."""
    _check.named("method", method, ("autodiff", "occupancy", "enumeration"))
    if method == "autodiff":
        evaluation.probabilities(mdp, policy, params)  # Under `grad` below the rows are traced: check them here.
        return jax.grad(functools.partial(_objective, mdp, policy, temperature))(params)
    mdp = evaluation.soft(mdp, policy, params, temperature)  # E[∇ log π] = 0: the reward's own slope adds nothing.
    unravel = ravel_pytree(params)[1]
    pi, psi = evaluation.probabilities(mdp, policy, params), evaluation.scores(mdp, policy, params)
    if method == "occupancy":
        visits = evaluation.state_distribution(mdp, pi, discounted=True)
        q_values = evaluation.action_values(mdp, pi)
        return unravel(jnp.einsum("...s,sa,sap,...sa->p", visits, pi, psi, q_values))
    return unravel(enumeration.policy_gradient(mdp, pi, psi))


def _objective(mdp: Any, policy: Any, temperature: Any, params: Any) -> jax.Array:
    pi = evaluation.probabilities(mdp, policy, params)
    return evaluation.objective(evaluation.soft(mdp, policy, params, temperature), pi)


def hessian(mdp: Any, policy: Any, params: Any, temperature: Any = None) -> jax.Array:
    """∇²J(θ), [P, P], by differentiating J twice."""
    flat, unravel = ravel_pytree(params)
    evaluation.probabilities(mdp, policy, params)
    return jax.hessian(lambda theta: _objective(mdp, policy, temperature, unravel(theta)))(flat)


def fisher(mdp: Any, policy: Any, params: Any, discounted: bool = False) -> jax.Array:
    """Σ_t (γ^t) Σ_s d_t(s) Σ_a π(a | s) ψ(s, a) ψ(s, a)ᵀ, [P, P]."""
    pi, psi = evaluation.probabilities(mdp, policy, params), evaluation.scores(mdp, policy, params)
    visits = evaluation.state_distribution(mdp, pi, discounted)
    visits = visits if mdp.horizon is None else jnp.sum(visits, 0)
    return jnp.einsum("s,sa,sap,saq->pq", visits, pi, psi, psi)


def natural_gradient(mdp: Any, policy: Any, params: Any, damping: Any = 0.0, discounted: bool = False) -> Any:
    """(F + λI)⁻¹ ∇J; the pseudo-inverse where λ = 0."""
    return precondition(fisher(mdp, policy, params, discounted), policy_gradient(mdp, policy, params), damping)


def precondition(metric: jax.Array, gradient: Any, damping: Any) -> Any:
    """(F + λI)⁻¹ g for a metric F [P, P] and a pytree g; F⁺ g where λ is the number 0."""
    damping = _check.number("damping", damping, 0.0)
    flat, unravel = ravel_pytree(gradient)
    if _check.is_concrete(damping) and float(damping) == 0.0:
        return unravel(jnp.linalg.pinv(metric, hermitian=True) @ flat)
    return unravel(jnp.linalg.solve(metric + damping * jnp.eye(len(flat), dtype=metric.dtype), flat))
