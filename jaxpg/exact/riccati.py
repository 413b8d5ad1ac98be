"""Values, gradients and optimal gains of a linear-quadratic regulator under u = −K x + σ ε.

Each function takes the problem, K [m, n] and σ [m]. Finite horizons are backward or forward recursions; without a
horizon their fixed points are linear (Lyapunov) systems, and the optimal gain's is a Riccati equation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxpg.exact.quadratic import Quadratic

__all__ = [
    "action_values",
    "fisher",
    "gradient",
    "hessian",
    "objective",
    "optimal",
    "policy_gradient",
    "state_covariance",
    "values",
]


@jax.jit
def costs(lqr: Any, gain: jax.Array, std: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(P_t, q_t) with V_t(x) = −xᵀ P_t x − q_t: [H, n, n] and [H]; [n, n] and a scalar without a horizon."""
    closed, step_cost = lqr.A - lqr.B @ gain, lqr.Q + gain.T @ lqr.R @ gain
    action_covariance, noise = jnp.diag(std**2), lqr.noise_covariance

    def back(matrix: jax.Array, constant: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_noise = jnp.trace(action_covariance @ curvature(lqr, matrix)) + lqr.discount * jnp.trace(matrix @ noise)
        return step_cost + lqr.discount * closed.T @ matrix @ closed, of_noise + lqr.discount * constant

    if lqr.horizon is None:
        matrix = _lyapunov(closed.T, step_cost, lqr.discount)
        return matrix, back(matrix, jnp.zeros((), matrix.dtype))[1] / (1.0 - lqr.discount)

    def backward(following: Any, _: None) -> Any:
        now = back(*following)
        return now, now

    start = (jnp.zeros_like(step_cost), jnp.zeros((), step_cost.dtype))
    return jax.lax.scan(backward, start, None, length=lqr.horizon, reverse=True)[1]


def curvature(lqr: Any, matrix: jax.Array) -> jax.Array:
    """R + γ Bᵀ P B, [m, m]: the cost of a unit of action, now and later."""
    return lqr.R + lqr.discount * lqr.B.T @ matrix @ lqr.B


def values(lqr: Any, gain: jax.Array, std: jax.Array) -> Quadratic:
    """V_t(x)."""
    matrix, constant = costs(lqr, gain, std)
    return Quadratic(-matrix, -constant)


@jax.jit
def objective(lqr: Any, gain: jax.Array, std: jax.Array) -> jax.Array:
    """J = −tr(P_0 Σ_0) − q_0."""
    matrix, constant = costs(lqr, gain, std)
    if lqr.horizon is not None:
        matrix, constant = matrix[0], constant[0]
    return -jnp.trace(matrix @ lqr.initial_covariance) - constant


@jax.jit
def gradient(lqr: Any, params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """∇J by automatic differentiation, {"gain": [m, n], "log_std": [m]}."""
    return jax.grad(lambda p: objective(lqr, p["gain"], jnp.exp(p["log_std"])))(params)


@jax.jit
def hessian(lqr: Any, params: dict[str, jax.Array]) -> jax.Array:
    """∇²J, [P, P], in the order (K row by row, log σ)."""
    flat, unravel = ravel_pytree(params)
    return jax.jacfwd(lambda theta: ravel_pytree(gradient(lqr, unravel(theta)))[0])(flat)


@jax.jit
def action_values(lqr: Any, gain: jax.Array, std: jax.Array) -> Quadratic:
    """Q_t(x, u) = −xᵀ Q x − uᵀ R u + γ E[V_{t+1}(A x + B u + F ξ)] as a function of (x, u)."""
    matrix, constant = _following(lqr, *costs(lqr, gain, std))
    joint = jnp.concatenate([lqr.A, lqr.B], 1)
    now = jax.scipy.linalg.block_diag(lqr.Q, lqr.R)
    later = jnp.einsum("ia,...ij,jb->...ab", joint, matrix, joint)
    noise = jnp.einsum("...ij,ji->...", matrix, lqr.noise_covariance)
    return Quadratic(-(now + lqr.discount * later), -lqr.discount * (constant + noise))


@functools.partial(jax.jit, static_argnames="discounted")
def state_covariance(lqr: Any, gain: jax.Array, std: jax.Array, discounted: bool = False) -> jax.Array:
    """Σ_{t+1} = A_c Σ_t A_cᵀ + B σ² Bᵀ + F Fᵀ: [H, n, n], times γ^t if `discounted`; without a horizon Σ_t γ^t Σ_t."""
    closed = lqr.A - lqr.B @ gain
    added = (lqr.B * std**2) @ lqr.B.T + lqr.noise_covariance
    if lqr.horizon is None:
        constant = lqr.initial_covariance + lqr.discount / (1.0 - lqr.discount) * added
        return _lyapunov(closed, constant, lqr.discount)

    def forward(covariance: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        return closed @ covariance @ closed.T + added, covariance

    covariances = jax.lax.scan(forward, lqr.initial_covariance, None, length=lqr.horizon)[1]
    return covariances * _discounts(lqr)[:, None, None] if discounted else covariances


@jax.jit
def policy_gradient(lqr: Any, gain: jax.Array, std: jax.Array) -> dict[str, jax.Array]:
    """The closed form of ∇J (Fazel et al., 2018), {"gain": [m, n], "log_std": [m]}."""
    matrix, _ = _following(lqr, *costs(lqr, gain, std))
    covariance = state_covariance(lqr, gain, std, discounted=True)
    if lqr.horizon is None:
        matrix, covariance, discounts = matrix[None], covariance[None], (1.0 / (1.0 - lqr.discount))[None]
    else:
        discounts = _discounts(lqr)
    curvatures = jax.vmap(lambda p: curvature(lqr, p))(matrix)
    error = curvatures @ gain - lqr.discount * jnp.einsum("ij,tik,kl->tjl", lqr.B, matrix, lqr.A)
    diagonal = jnp.diagonal(curvatures, axis1=1, axis2=2)
    return {
        "gain": -2.0 * jnp.einsum("tij,tjk->ik", error, covariance),
        "log_std": -2.0 * std**2 * (discounts @ diagonal),
    }


@functools.partial(jax.jit, static_argnames="discounted")
def fisher(lqr: Any, gain: jax.Array, std: jax.Array, discounted: bool = False) -> jax.Array:
    """Σ_t (γ^t) E[ψ_t ψ_tᵀ], [P, P], in the order (K row by row, log σ)."""
    covariance = state_covariance(lqr, gain, std, discounted)
    if lqr.horizon is None:
        num_steps = 1.0 / (1.0 - lqr.discount)
    else:
        covariance = jnp.sum(covariance, 0)
        num_steps = jnp.sum(_discounts(lqr)) if discounted else float(lqr.horizon)
    return jax.scipy.linalg.block_diag(jnp.kron(jnp.diag(std**-2), covariance), 2.0 * num_steps * jnp.eye(len(std)))


@jax.jit
def optimal(lqr: Any) -> tuple[Quadratic, jax.Array]:
    """(V*, K*): the Riccati recursion, [H, …]; its fixed point without a horizon."""

    def gain_for(matrix: jax.Array) -> jax.Array:
        return jnp.linalg.solve(curvature(lqr, matrix), lqr.discount * lqr.B.T @ matrix @ lqr.A)

    def back(matrix: jax.Array, constant: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        gain = gain_for(matrix)
        closed = lqr.A - lqr.B @ gain
        cost = lqr.Q + gain.T @ lqr.R @ gain + lqr.discount * closed.T @ matrix @ closed
        return cost, lqr.discount * (constant + jnp.trace(matrix @ lqr.noise_covariance)), gain

    if lqr.horizon is None:
        scale = jnp.sqrt(lqr.discount)
        matrix = _riccati(scale * lqr.A, scale * lqr.B, lqr.Q, lqr.R)
        noise = jnp.trace(matrix @ lqr.noise_covariance)
        return Quadratic(-matrix, -lqr.discount * noise / (1.0 - lqr.discount)), gain_for(matrix)

    def backward(following: Any, _: None) -> Any:
        matrix, constant, gain = back(*following)
        return (matrix, constant), (matrix, constant, gain)

    start = (jnp.zeros_like(lqr.Q), jnp.zeros((), lqr.Q.dtype))
    matrix, constant, gains = jax.lax.scan(backward, start, None, length=lqr.horizon, reverse=True)[1]
    return Quadratic(-matrix, -constant), gains


def _following(lqr: Any, matrix: jax.Array, constant: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(P_{t+1}, q_{t+1}) for every t."""
    if lqr.horizon is None:
        return matrix, constant
    return _shifted(matrix), _shifted(constant)


def _shifted(rows: jax.Array) -> jax.Array:
    """The rows one step later; zero behind the last."""
    return jnp.concatenate([rows[1:], jnp.zeros_like(rows[:1])])


def _discounts(lqr: Any) -> jax.Array:
    """γ^t, [H]."""
    return lqr.discount ** jnp.arange(lqr.horizon)


def _lyapunov(transition: jax.Array, constant: jax.Array, discount: jax.Array) -> jax.Array:
    """X = constant + γ M X Mᵀ for M = `transition`, by one linear system in n² unknowns."""
    operator = discount * jnp.kron(transition, transition)
    return jnp.linalg.solve(jnp.eye(len(operator), dtype=operator.dtype) - operator, constant.ravel()).reshape(
        constant.shape
    )


def _riccati(a: jax.Array, b: jax.Array, q: jax.Array, r: jax.Array) -> jax.Array:
    """P = q + aᵀ P (I + b r⁻¹ bᵀ P)⁻¹ a by the structure-preserving doubling algorithm (Chu, Fan & Lin, 2005).

    Each round squares the closed-loop transition, so that the error after k rounds goes as ρ^(2^k); 40 rounds are
    more than float64 can resolve. A fixed number of them keeps it differentiable.
    """
    eye = jnp.eye(len(a), dtype=a.dtype)

    def double(carry: Any, _: None) -> Any:
        a, g, h = carry
        solved = jnp.linalg.solve(eye + g @ h, jnp.concatenate([a, g], 1))
        left, right = solved[:, : len(a)], solved[:, len(a) :]
        return (a @ left, g + a @ right @ a.T, h + a.T @ h @ left), None

    return jax.lax.scan(double, (a, b @ jnp.linalg.solve(r, b.T), q), None, length=40)[0][2]
