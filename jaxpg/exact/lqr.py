"""The linear-quadratic regulator with noisy linear feedback: a continuous problem that is known exactly."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.exact import gradients, lqr_environment, lqr_estimators, riccati
from jaxpg.exact.precision import check_spectral_radius, precise
from jaxpg.exact.quadratic import Quadratic

__all__ = ["LQR"]

_LEAVES = ("A", "B", "Q", "R", "discount", "noise", "initial")


@dataclasses.dataclass(frozen=True)
class LQR:
    """x_{t+1} = A x_t + B u_t + F ξ_t, reward −(x_tᵀ Q x_t + u_tᵀ R u_t), x_0 ~ N(0, I), J = E[Σ_{t<H} γ^t r_t].

    Fields:
      A, B, Q, R: [n, n], [n, m], [n, n], [m, m]; Q and R symmetric, as a rule Q ⪰ 0 and R ≻ 0.
      discount: γ in [0, 1]; below 1 without a horizon.
      horizon: H, after which the episode ends, `terminated`, at no cost; or None: no limit.
      noise: None, no process noise; or F [n, k], ξ_t ~ N(0, I): its covariance is F Fᵀ.
      initial: None; or G [n, k], x_0 ~ N(0, G Gᵀ).

    The methods take the policy u = −K x + σ ε, ε ~ N(0, I): `jaxpg.policies.linear_gaussian`, with params
    {"gain": K [m, n], "log_std": log σ [m]}. Arrays over parameters ([P], [P, P]) are in the order of
    `jax.flatten_util.ravel_pytree(params)`: K row by row, then log σ. Fields may be traced arrays (all but `horizon`).

    Raises:
      ValueError: shapes that do not fit, Q or R not symmetric, numbers that are not finite, γ = 1 without a horizon;
        and from the methods, without a horizon, a gain with which the discounted cost is infinite.
    """

    A: Any
    B: Any
    Q: Any
    R: Any
    discount: Any = 0.9
    horizon: int | None = None
    noise: Any = None
    initial: Any = None

    def __post_init__(self) -> None:
        for name in ("A", "B", "Q", "R", "noise", "initial"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _matrix(name, getattr(self, name)))
        object.__setattr__(self, "discount", jnp.asarray(_check.unit("discount", self.discount), self.A.dtype))
        object.__setattr__(self, "horizon", _check.optional(_check.count, "horizon", self.horizon))
        _check_shapes(self)
        if self.horizon is None and _check.is_concrete(self.discount) and float(self.discount) == 1.0:
            raise ValueError("discount must be below 1 where horizon is None")

    @property
    def state_size(self) -> int:
        """n."""
        return self.A.shape[0]

    @property
    def action_size(self) -> int:
        """m."""
        return self.B.shape[1]

    @property
    def noise_covariance(self) -> jax.Array:
        """F Fᵀ, [n, n]."""
        return jnp.zeros_like(self.A) if self.noise is None else self.noise @ self.noise.T

    @property
    def initial_covariance(self) -> jax.Array:
        """E[x_0 x_0ᵀ], [n, n]."""
        return jnp.eye(self.state_size, dtype=self.A.dtype) if self.initial is None else self.initial @ self.initial.T

    def environment(self, *, max_steps: int | None = None) -> Environment:
        """The same problem as an `Environment`: observation x [n], action u [m], no bounds.

        Args:
          max_steps: the length at which episodes are `truncated`; required where `horizon` is None.
        """
        return lqr_environment.make(self, max_steps=max_steps)

    @precise
    def objective(self, policy: Any, params: Any) -> jax.Array:
        """J(θ), a scalar."""
        return riccati.objective(self, *self._feedback(policy, params))

    @precise
    def values(self, policy: Any, params: Any) -> Quadratic:
        """V_t(x) = −xᵀ P_t x − q_t for t = 0 … H − 1 (one V without a horizon).

        P_t = Q + Kᵀ R K + γ A_cᵀ P_{t+1} A_c with A_c = A − B K; q_t is the cost of the noise.
        """
        return riccati.values(self, *self._feedback(policy, params))

    @precise
    def action_values(self, policy: Any, params: Any) -> Quadratic:
        """Q_t(x, u) as a quadratic function of the vector (x, u) [n + m], for t = 0 … H − 1."""
        return riccati.action_values(self, *self._feedback(policy, params))

    @precise
    def state_distribution(self, policy: Any, params: Any, *, discounted: bool = False) -> jax.Array:
        """Covariances Σ_t of x_t ~ N(0, Σ_t), [H, n, n], times γ^t if `discounted`; Σ_t γ^t Σ_t, [n, n], without a
        horizon."""
        return riccati.state_covariance(self, *self._feedback(policy, params), discounted)

    @precise
    def policy_gradient(self, policy: Any, params: Any, *, method: str = "autodiff") -> Any:
        """∇J(θ), a pytree like `params`.

        Args:
          method: "autodiff" through the recursion for J, or "occupancy", the closed form over the states' covariances:
            ∇_K J = −2 Σ_t γ^t [(R + γ Bᵀ P_{t+1} B) K − γ Bᵀ P_{t+1} A] Σ_t and
            ∂J/∂log σ_i = −2 σ_i² Σ_t γ^t [R + γ Bᵀ P_{t+1} B]_ii (Fazel et al., 2018).
        """
        _check.named("method", method, ("autodiff", "occupancy"))
        gain, std = self._feedback(policy, params)
        if method == "occupancy":
            return riccati.policy_gradient(self, gain, std)
        return riccati.gradient(self, _like(params))

    @precise
    def hessian(self, policy: Any, params: Any) -> jax.Array:
        """∇²J(θ), [P, P]."""
        self._feedback(policy, params)
        return riccati.hessian(self, _like(params))

    @precise
    def fisher(self, policy: Any, params: Any, *, discounted: bool = False) -> jax.Array:
        """E[G Gᵀ] over an episode, G = Σ_t ψ_t, [P, P]. `discounted` (always without a horizon): Σ_t γ^t E[ψ_t ψ_tᵀ].

        With ψ = (−σ_i⁻¹ ε_i x_j, ε_i² − 1) its blocks are σ_i⁻² δ_ik Σ_t and 2 δ_ik.
        """
        return riccati.fisher(self, *self._feedback(policy, params), discounted)

    @precise
    def natural_gradient(self, policy: Any, params: Any, *, damping: Any = 0.0, discounted: bool = False) -> Any:
        """(F + λI)⁻¹ ∇J with F = `fisher(discounted=…)` and λ = `damping`, a pytree like `params` (Kakade, 2001)."""
        metric = self.fisher(policy, params, discounted=discounted)
        return gradients.precondition(metric, self.policy_gradient(policy, params), damping)

    @precise
    def mean(self, policy: Any, params: Any, *, weight: Any = None, baseline: Any = None, num_episodes: int = 1) -> Any:
        """E[ĝ] of an estimate, a pytree like `params`; arguments as in `covariance`."""
        gain, std = self._feedback(policy, params)
        mean, _ = lqr_estimators.estimate_moments(self, gain, std, weight, baseline, num_episodes)
        return ravel_pytree(_like(params))[1](mean)

    @precise
    def bias(self, policy: Any, params: Any, *, weight: Any = None, baseline: Any = None, num_episodes: int = 1) -> Any:
        """E[ĝ] − ∇J of an estimate, a pytree like `params`; arguments as in `covariance`."""
        mean = self.mean(policy, params, weight=weight, baseline=baseline, num_episodes=num_episodes)
        return jax.tree.map(jnp.subtract, mean, self.policy_gradient(policy, params))

    @precise
    def covariance(
        self, policy: Any, params: Any, *, weight: Any = None, baseline: Any = None, num_episodes: int = 1
    ) -> jax.Array:
        """Cov(ĝ) of the estimate ĝ, the average of Σ_t w^t ψ_t (Ψ_t − b_t) over `num_episodes` episodes: [P, P].

        Exact: scores, returns and baselines are quadratic forms of one Gaussian vector (x_0 and all noises), and the
        moments of their products are sums of traces. Needs a finite horizon.

        Args:
          weight: Ψ, from `jaxpg.weights`, linear in rewards and values; None: `reward_to_go` with γ of this problem.
            Its value function must be quadratic in x without a linear term, as V is here.
          baseline: b, from `jaxpg.baselines`; a function of that form, or one made of other episodes (`leave_one_out`).
          num_episodes: N.
        """
        gain, std = self._feedback(policy, params)
        return lqr_estimators.estimate_moments(self, gain, std, weight, baseline, num_episodes)[1]

    @precise
    def optimal_policy(self) -> jax.Array:
        """The gains K_t of the optimal policy u = −K_t x: [H, m, n], or [m, n] without a horizon (Riccati)."""
        return self._optimal()[1]

    @precise
    def optimal_values(self) -> Quadratic:
        """V*_t(x) = −xᵀ P_t x − q_t of the optimal policy, which acts without noise."""
        return self._optimal()[0]

    def _optimal(self) -> tuple[Quadratic, jax.Array]:
        if _check.is_concrete(self.R) and np.linalg.eigvalsh(np.asarray(self.R, np.float64)).min() <= 0:
            raise ValueError(f"R must be positive definite for an optimal policy to exist; got {self.R}")
        return riccati.optimal(self)

    def _feedback(self, policy: Any, params: Any) -> tuple[jax.Array, jax.Array]:
        """(K, σ) of the policy. Raises where it is not u = −K x + σ ε, as far as one evaluation shows."""
        params = _like(params)
        gain, log_std = jnp.asarray(params["gain"]), jnp.asarray(params["log_std"])
        if gain.shape != (self.action_size, self.state_size) or log_std.shape != (self.action_size,):
            raise ValueError(
                f"params must hold gain [m, n] = {(self.action_size, self.state_size)} and log_std [m] = "
                f"{(self.action_size,)}; got {gain.shape} and {log_std.shape}"
            )
        std = jnp.exp(log_std)
        x, u = jnp.linspace(-1.0, 0.5, self.state_size), jnp.linspace(0.3, 1.0, self.action_size)
        expected = jnp.sum(jax.scipy.stats.norm.logpdf(u, -gain @ x, std))
        actual = policy.apply(params, x).log_prob(u)
        if all(map(_check.is_concrete, (expected, actual))) and not np.allclose(actual, expected, rtol=1e-3, atol=1e-3):
            raise ValueError(
                "policy must be jaxpg.policies.linear_gaussian, u = −K x + σ ε: its log_prob is not that of "
                "its gain and log_std"
            )
        if self.horizon is None:
            closed = jnp.sqrt(self.discount) * (self.A - self.B @ gain)
            check_spectral_radius(closed, "the gain does not stabilise the system, √γ (A − B K), without a horizon")
        return gain.astype(self.A.dtype), std.astype(self.A.dtype)

    def __repr__(self) -> str:
        return (
            f"LQR(state_size={self.state_size}, action_size={self.action_size}, discount={self.discount}, "
            f"horizon={self.horizon}, noise={'None' if self.noise is None else '[n, k]'})"
        )


def _flatten_with_keys(lqr: LQR) -> tuple[tuple[Any, ...], Any]:
    return tuple((jax.tree_util.GetAttrKey(name), getattr(lqr, name)) for name in _LEAVES), lqr.horizon


def _unflatten(horizon: int | None, leaves: Any) -> LQR:
    # Without __init__: tree transformations put tracers, None and placeholders at the leaves.
    lqr = object.__new__(LQR)
    for name, leaf in zip(_LEAVES, leaves, strict=True):
        object.__setattr__(lqr, name, leaf)
    object.__setattr__(lqr, "horizon", horizon)
    return lqr


jax.tree_util.register_pytree_with_keys(LQR, _flatten_with_keys, _unflatten)


def _like(params: Any) -> dict[str, Any]:
    if not isinstance(params, Mapping) or set(params) != {"gain", "log_std"}:
        raise TypeError(
            'params must be {"gain": K, "log_std": log σ}, those of jaxpg.policies.linear_gaussian; got '
            f"{list(params) if isinstance(params, Mapping) else type(params).__name__}"
        )
    return dict(params)


def _matrix(name: str, value: Any) -> jax.Array:
    try:
        value = value if hasattr(value, "dtype") else np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a matrix of numbers; got {type(value).__name__} ({value!r})") from None
    if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
        raise TypeError(f"{name} must be a matrix of real numbers; got dtype {value.dtype}")
    if value.ndim != 2 or 0 in value.shape:
        raise ValueError(f"{name} must be a matrix; got shape {value.shape}")
    if _check.is_concrete(value) and not np.isfinite(value).all():
        raise ValueError(f"{name} must hold finite numbers; got {value}")
    return jnp.asarray(value, jnp.result_type(float))


def _check_shapes(lqr: LQR) -> None:
    n, m = lqr.A.shape[0], lqr.B.shape[1]
    for name, shape in (("A", (n, n)), ("B", (n, m)), ("Q", (n, n)), ("R", (m, m))):
        matrix = getattr(lqr, name)
        if matrix.shape != shape:
            raise ValueError(
                f"{name} must have shape {list(shape)} to go with A {list(lqr.A.shape)} and B "
                f"{list(lqr.B.shape)}; got {list(matrix.shape)}"
            )
        if name in "QR" and _check.is_concrete(matrix) and not np.allclose(matrix, matrix.T, rtol=1e-5, atol=1e-6):
            raise ValueError(f"{name} must be symmetric; got {matrix}")
    for name in ("noise", "initial"):
        matrix = getattr(lqr, name)
        if matrix is not None and matrix.shape[0] != n:
            raise ValueError(f"{name} must have shape [n, k] with n = {n}; got {list(matrix.shape)}")
