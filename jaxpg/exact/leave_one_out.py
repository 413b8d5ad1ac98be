"""Exact moments of estimates whose baseline is made of the group's other episodes.

N episodes, ĝ = (1/N) Σ_i Σ_t D_{i,t} ((1 − β) Ψ_{i,t} − α Σ_{j≠i} Ψ_{j,t}), D_t = w^t ψ_t, with Ψ = 0 after an
episode's end. Leave-one-out is α = 1/(N−1), β = 0; a mean that includes the episode itself is α = β = 1/N.

Let q_t = E[Ψ_t] and Ψ̃ = Ψ − q. Scores have mean zero given the past, E[D_t | past] = 0, so the products
B̃_ij = Σ_t D_{i,t} Ψ̃_{j,t}, i ≠ j, have mean zero given either episode, and are correlated with nothing but
themselves and their mirror image B̃_ji. Hence

    Cov ĝ = Cov(g_q) / N + α² (N − 1)/N · [Σ_t Var(Ψ_t) E[D_t D_tᵀ] + Σ_{t,s} X_ts X_stᵀ],      X_ts = E[D_t Ψ_s],

where g_q = Σ_t D_t ((1 − β) Ψ_t − α (N − 1) q_t) is a one-episode estimate with a baseline of time. For one weight R an
episode the bracket is Var(R) E[G Gᵀ] + ∇J ∇Jᵀ (Kool et al., 2019, state the estimator).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.exact import evaluation, moments, whole_episode
from jaxpg.exact.recursion import Recursion, at

__all__ = ["group_moments"]


def group_moments(
    mdp: Any, recursion: Recursion, psi: jax.Array, size: int, others: Any, own: Any = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Mean [P] and covariance [P, P] of the average over a group of `size` episodes, with α = `others`, β = `own`.

    The recursion must be one of on-policy episodes whose decay and score discount are numbers, with y = R: then
    Ψ_s = Σ_k C_sk x_k with fixed C.
    """
    extra = _whole_episode_extra if recursion.whole_episode else _extra
    typical, shared = extra(mdp, recursion, psi)
    estimate = whole_episode.moments if recursion.whole_episode else moments.moments
    # g_q with the weight unscaled and its baseline α (N − 1) q / (1 − β), times (1 − β), stated without the division.
    mean, squared = estimate(mdp, _scaled(recursion, 1.0 - own, others * (size - 1) * typical), psi)
    covariance = squared - jnp.outer(mean, mean)
    return mean, covariance / size + others**2 * (size - 1) / size * shared


def _scaled(recursion: Recursion, factor: Any, baseline: jax.Array) -> Recursion:
    """The recursion of `factor` times the weight, with this baseline."""
    coefficients = recursion.coefficients
    coefficients = coefficients._replace(increment=factor * coefficients.increment, direct=factor * coefficients.direct)
    return dataclasses.replace(recursion, coefficients=coefficients, baseline=baseline)


@jax.jit
def _whole_episode_extra(mdp: Any, recursion: Recursion, psi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """E[R] as a baseline [1, 1, 1], and Var(R) E[G Gᵀ] + E[R G] E[R G]ᵀ."""
    m = whole_episode.score_moments(mdp, recursion, psi)
    shared = (m[2, 0] - m[1, 0] ** 2) * m[0, 2] + jnp.outer(m[1, 1], m[1, 1])
    return m[1, 0].reshape(1, 1, 1), shared


@jax.jit
def _extra(mdp: Any, recursion: Recursion, psi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """q_t as a baseline [H, 1, 1], and Σ_t Var(Ψ_t) E[D_t D_tᵀ] + Σ_{t,s} X_ts X_stᵀ."""
    unbaselined = dataclasses.replace(recursion, baseline=jnp.zeros((1, 1, 1), psi.dtype))
    visits = evaluation.state_distribution(mdp, recursion.acting)
    _, (first, second) = moments.over_time(mdp, unbaselined, psi)
    q = jnp.sum(visits * first, -1)
    variance = jnp.sum(visits * second, -1) - q**2
    times = jnp.arange(mdp.horizon)
    factors = _numbers(recursion.coefficients.score_discount, mdp.horizon)
    factors = jnp.concatenate([jnp.ones_like(factors[:1]), jnp.cumprod(factors)[:-1]])  # w^t
    weights = jnp.einsum("t,t,ts->s", variance, factors**2, visits)
    own = jnp.einsum("s,sa,sap,saq->pq", weights, recursion.acting, psi, psi)
    x = jnp.einsum("tkp,sk->tsp", _increments_with_scores(mdp, recursion, psi, visits), _sums(mdp, recursion, times))
    x = factors[:, None, None] * x
    return q[:, None, None], own + jnp.einsum("tsp,stq->pq", x, x)


def _numbers(rows: jax.Array, horizon: int) -> jax.Array:
    """A coefficient that is a number at each time: [H]."""
    return jax.vmap(lambda time: at(rows, time, horizon).reshape(()))(jnp.arange(horizon))


def _sums(mdp: Any, recursion: Recursion, times: jax.Array) -> jax.Array:
    """C with Ψ_s = Σ_k C_sk x_k, [H, H]: the products of decays from s to k − 1, for s ≤ k < s + lags."""
    decays = _numbers(recursion.coefficients.decay, mdp.horizon)
    steps = times[None, :] - times[:, None]

    def row(start: jax.Array) -> jax.Array:
        factors = jnp.where(times > start, jnp.roll(decays, 1), 1.0)  # decay of step k − 1 enters at k > s
        return jnp.where(times >= start, jnp.cumprod(factors), 0.0)

    inside = steps < (recursion.lags or mdp.horizon)
    return jnp.where(inside, jax.vmap(row)(times), 0.0)


def _increments_with_scores(mdp: Any, recursion: Recursion, psi: jax.Array, visits: jax.Array) -> jax.Array:
    """Z_tk = E[ψ_t x_k], [H, H, P]: zero for k < t, since a score has mean zero given the past."""
    acting, times = recursion.acting, jnp.arange(mdp.horizon)
    survival, kernel = evaluation.survival(mdp), evaluation.kernel(mdp, acting)

    def increments(time: jax.Array) -> jax.Array:  # E[x_k | s, a], [S, A]
        return jnp.sum(mdp.transition * at(recursion.coefficients.increment, time, mdp.horizon), -1)

    def row(time: jax.Array) -> jax.Array:
        """Carries E[ψ_t 1{s_k = s}] forward from k = t + 1."""
        start = jnp.einsum("s,sa,sap,sat->tp", visits[time], acting, psi, survival)
        at_once = jnp.einsum("s,sa,sap,sa->p", visits[time], acting, psi, increments(time))

        def forward(measure: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
            later = jnp.einsum("sp,sa,sa->p", measure, acting, increments(k))
            value = jnp.where(k > time, later, jnp.where(k == time, at_once, 0.0))
            return jnp.where(k > time, kernel.T @ measure, measure), value

        return jax.lax.scan(forward, start, times)[1]

    return jax.vmap(row)(times)
