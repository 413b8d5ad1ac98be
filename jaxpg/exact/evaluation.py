"""What a policy is worth and where it goes on a finite MDP: J, V, Q and d, from its table of probabilities.

Every function takes `pi`, the table π(a | s) of shape [S, A], so it is differentiable in it and in the MDP's arrays.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxpg import _check

__all__ = [
    "action_values",
    "expected_reward",
    "kernel",
    "objective",
    "probabilities",
    "scores",
    "state_distribution",
    "survival",
    "values",
]


def log_probabilities(mdp: Any, policy: Any, params: Any) -> jax.Array:
    """log π(a | s), [S, A]."""
    if not callable(getattr(policy, "apply", None)):
        raise TypeError(f"policy must be a Policy, before its params; got {_check.described(policy)}")
    if getattr(policy, "initial_carry", None) is not None:
        raise ValueError(
            "policy must act on the observation alone; this one has a memory (initial_carry is not None), "
            "so its states are not the MDP's"
        )
    # A copy of the record with another `apply` has another module's function, and params of its own.
    table = getattr(policy.apply, "__module__", None) == "jaxpg.policies.closed_form"
    table = table and getattr(policy, "description", None) == {"policy": "tabular"}
    if table and jnp.shape(params) != (mdp.num_states, mdp.num_actions):  # Behind its end a table gives the last row.
        raise ValueError(
            f"params of a tabular policy must have shape [S, A] = {(mdp.num_states, mdp.num_actions)} for this MDP; "
            f"got {jnp.shape(params)}"
        )
    states, actions = jnp.arange(mdp.num_states), jnp.arange(mdp.num_actions)

    def one(state: jax.Array, action: jax.Array) -> jax.Array:
        log_prob = jnp.asarray(policy.apply(params, state).log_prob(action))
        if log_prob.ndim:
            raise ValueError(f"policy must give a scalar log_prob for one state and one action; got {log_prob.shape}")
        return log_prob

    return jax.vmap(lambda state: jax.vmap(lambda action: one(state, action))(actions))(states)


def probabilities(mdp: Any, policy: Any, params: Any) -> jax.Array:
    """π(a | s), [S, A]. Raises ValueError where the rows are concrete and do not sum to 1."""
    pi = jnp.exp(log_probabilities(mdp, policy, params)).astype(mdp.transition.dtype)
    if _check.is_concrete(pi):
        error = np.abs(np.asarray(pi, np.float64).sum(-1) - 1.0)
        if not error.max() < 1e-3:
            state = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
            raise ValueError(
                f"policy must give each of the {mdp.num_actions} actions a probability, summing to 1 in every "
                f"state; in state {state} they sum to {np.asarray(pi)[state].sum():g}"
            )
    return pi


def scores(mdp: Any, policy: Any, params: Any) -> jax.Array:
    """ψ(s, a) = ∇_θ log π_θ(a | s), [S, A, P], with the parameters in `ravel_pytree` order; 0 where π(a | s) = 0."""
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacrev(lambda theta: log_probabilities(mdp, policy, unravel(theta)))(flat)
    possible = jnp.isfinite(log_probabilities(mdp, policy, params))[..., None]
    return jnp.where(possible, jacobian, 0.0).astype(mdp.transition.dtype)


def entropy_slopes(mdp: Any, policy: Any, params: Any) -> jax.Array:
    """∇_θ H(π_θ(· | s)), [S, P]."""
    flat, unravel = ravel_pytree(params)

    def entropies(theta: jax.Array) -> jax.Array:
        log_pi = log_probabilities(mdp, policy, unravel(theta))
        return -jnp.sum(jnp.where(jnp.isfinite(log_pi), jnp.exp(log_pi) * log_pi, 0.0), -1)

    return jax.jacrev(entropies)(flat).astype(mdp.transition.dtype)


def soft(mdp: Any, policy: Any, params: Any, temperature: Any) -> Any:
    """The MDP whose reward is r − α log π(a | s), for the temperature α; the MDP itself for None."""
    if temperature is None:
        return mdp
    temperature = _check.number("temperature", temperature, 0.0)
    log_pi = log_probabilities(mdp, policy, params)
    bonus = -temperature * jnp.where(jnp.isfinite(log_pi), log_pi, 0.0)  # Never taken where the probability is 0.
    bonus = bonus if mdp.reward.ndim == 2 else bonus[:, :, None]
    return dataclasses.replace(mdp, reward=(mdp.reward + bonus).astype(mdp.reward.dtype))


def survival(mdp: Any) -> jax.Array:
    """P(s' | s, a) of moving on: [S, A, S], zero from and to terminal states."""
    return mdp.transition * mdp.alive[:, None, None] * mdp.alive


def transition_reward(mdp: Any) -> jax.Array:
    """r(s, a, s'), broadcastable to [S, A, S]."""
    return mdp.reward if mdp.reward.ndim == 3 else mdp.reward[:, :, None]


def expected_reward(mdp: Any) -> jax.Array:
    """r(s, a) = Σ_s' P(s' | s, a) r(s, a, s'), [S, A]; zero at terminal states."""
    reward = mdp.reward if mdp.reward.ndim == 2 else jnp.sum(mdp.transition * mdp.reward, -1)
    return mdp.alive[:, None] * reward


def kernel(mdp: Any, pi: jax.Array) -> jax.Array:
    """P_π(s' | s) = Σ_a π(a | s) P(s' | s, a) of moving on, [S, S]."""
    return jnp.einsum("sa,sat->st", pi, survival(mdp))


@jax.jit
def values(mdp: Any, pi: jax.Array) -> jax.Array:
    """V_t = r_π + γ P_π V_{t+1}, V_H = 0: [H, S]; without a horizon V = (I − γ P_π)⁻¹ r_π: [S]."""
    reward, step = jnp.sum(pi * expected_reward(mdp), -1), mdp.discount * kernel(mdp, pi)
    if mdp.horizon is None:
        return jnp.linalg.solve(jnp.eye(mdp.num_states, dtype=step.dtype) - step, reward)

    def backward(value: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        value = reward + step @ value
        return value, value

    return jax.lax.scan(backward, jnp.zeros_like(reward), None, length=mdp.horizon, reverse=True)[1]


def objective(mdp: Any, pi: jax.Array) -> jax.Array:
    """J = Σ_s P(s_0 = s) V_0(s)."""
    value = values(mdp, pi)
    return mdp.initial @ (value if mdp.horizon is None else value[0])


def action_values(mdp: Any, pi: jax.Array) -> jax.Array:
    """Q_t(s, a) = r(s, a) + γ Σ_s' P(s' | s, a) V_{t+1}(s'): [H, S, A], or [S, A] without a horizon."""
    value = values(mdp, pi)
    following = value if mdp.horizon is None else jnp.concatenate([value[1:], jnp.zeros_like(value[:1])])
    return expected_reward(mdp) + mdp.discount * jnp.einsum("sat,...t->...sa", survival(mdp), following)


@functools.partial(jax.jit, static_argnames="discounted")
def state_distribution(mdp: Any, pi: jax.Array, discounted: bool = False) -> jax.Array:
    """d_{t+1} = P_πᵀ d_t, [H, S], times γ^t if `discounted`; without a horizon (I − γ P_πᵀ)⁻¹ d_0, [S]."""
    start, step = mdp.initial * mdp.alive, kernel(mdp, pi)
    if mdp.horizon is None:
        return jnp.linalg.solve(jnp.eye(mdp.num_states, dtype=step.dtype) - mdp.discount * step.T, start)
    step = mdp.discount * step if discounted else step

    def forward(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return state @ step, state

    return jax.lax.scan(forward, start, None, length=mdp.horizon)[1]
