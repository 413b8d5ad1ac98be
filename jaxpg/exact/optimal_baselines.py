"""The baselines that make an estimate's variance least, exactly.

tr Cov of Σ_t w^t ψ_t (Ψ_t − b_t(s_t)) is quadratic in the table b, and since scores of different steps are uncorrelated
(and those of one step in different states never meet) its Hessian is diagonal: the best table is one Newton step from
anywhere, entry by entry, also where one entry serves many times or states. For a constant this is E[D·g] / E[D·D] with
D = Σ_t w^t ψ_t: the classic E[‖G‖² R] / E[‖G‖²] of the total return (Weaver & Tao, 2001; Greensmith et al., 2004;
Peters & Schaal, 2008).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.exact import covariance, evaluation, moments, whole_episode
from jaxpg.exact.checks import check_mdp
from jaxpg.exact.precision import precise
from jaxpg.exact.recursion import Recursion, check_converges
from jaxpg.weights import Weight

__all__ = ["optimal_baseline"]


@precise
def optimal_baseline(
    mdp: Any,
    policy: Any,
    params: Any,
    *,
    weight: Weight | None = None,
    over: str = "constant",
    per_coordinate: bool = False,
    behavior: tuple[Any, Any] | None = None,
) -> jax.Array:
    """The baseline with the least variance, summed over the gradient's coordinates or for each of them.

    Args:
      weight, behavior: as in `FiniteMDP.covariance`.
      over: what the baseline depends on: "constant", "time" (b_t), "state" (b(s)) or "state_time" (b_t(s)).
      per_coordinate: one baseline for each coordinate k of the gradient, E[G_k² R] / E[G_k²] for the total return.
    Returns:
      A scalar, [H], [S] or [H, S]; with `per_coordinate` one axis [P] more. 0 where a state or time is not reached.
    Raises:
      ValueError: "time" and "state_time" without a horizon.
    """
    _check.named("over", over, ("constant", "time", "state", "state_time"))
    check_mdp(mdp)
    if mdp.horizon is None and "time" in over:
        raise ValueError(f'over="{over}" needs a finite horizon; this MDP\'s horizon is None')
    psi = evaluation.scores(mdp, policy, params)
    estimator = covariance.recursion(mdp, policy, params, weight, None, behavior)
    check_converges(mdp, estimator)
    times = mdp.horizon if "time" in over else 1
    states = mdp.num_states if "state" in over else 1
    coordinates = psi.shape[-1] if per_coordinate else 1
    zero = jnp.zeros((times, states, coordinates), psi.dtype)
    slope = _slope(mdp, estimator, psi, zero)
    curvature = _slope(mdp, estimator, psi, zero + 1.0) - slope  # The Hessian is diagonal: its product with ones is it.
    b = -jnp.where(curvature > 0, slope / jnp.where(curvature > 0, curvature, 1.0), 0.0)
    axes = (*(() if "time" in over else (0,)), *(() if "state" in over else (1,)), *(() if per_coordinate else (2,)))
    return jnp.squeeze(b, axes)


@jax.jit
def _slope(mdp: Any, estimator: Recursion, psi: jax.Array, baseline: jax.Array) -> jax.Array:
    """The gradient of tr E[g gᵀ] in the baseline; the mean of g does not depend on it."""

    def trace(baseline: jax.Array) -> jax.Array:
        changed = dataclasses.replace(estimator, baseline=baseline)
        return jnp.trace((whole_episode if estimator.whole_episode else moments).moments(mdp, changed, psi)[1])

    return jax.grad(trace)(baseline)
