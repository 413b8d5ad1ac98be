"""Exact moments of sums of products of two quadratic forms of one Gaussian vector.

z ~ N(0, I_D). Scores ψ_t = zᵀ A_t z − tr A_t (P of them) and weights y_t = zᵀ Y_t z − tr Y_t + β_t, with symmetric
matrices, make g = Σ_t ψ_t y_t. Joint cumulants of quadratic forms are traces of products of their matrices,

    κ(a, b) = 2 tr(ab),   κ(a, b, c) = 8 tr(abc),   κ(a, b, c, d) = 16 [tr(abcd) + tr(abdc) + tr(acbd)],

and moments follow from them: the centred third moment is κ(a, b, c), the fourth
κ(a, b, c, d) + κ(a, b)κ(c, d) + κ(a, c)κ(b, d) + κ(a, d)κ(b, c) (Magnus, 1978).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Forms", "moments", "shared_moment"]


class Forms(NamedTuple):
    """g = Σ_t ψ_t y_t with T terms.

    Fields: score [T, P, D, D]; weight [T, D, D] and its mean β [T]. All matrices symmetric.
    """

    score: jax.Array
    weight: jax.Array
    mean: jax.Array


@jax.jit
def moments(forms: Forms) -> tuple[jax.Array, jax.Array]:
    """(E[g], E[g gᵀ]): [P], [P, P]."""
    a, y, beta = forms
    mean = 2.0 * jnp.einsum("tpij,tij->p", a, y)
    scores = 2.0 * jnp.einsum("tpij,sqij->tpsq", a, a)  # E[ψ_t ψ_sᵀ]
    weights = 2.0 * jnp.einsum("tij,sij->ts", y, y) + jnp.outer(beta, beta)  # E[y_t y_s]
    mixed = 2.0 * jnp.einsum("tpij,sij->tsp", a, y)  # E[ψ_t y_s]
    product = jnp.einsum("tpij,tjk->pik", a, y)  # Σ_t A_t Y_t
    constant = jnp.einsum("tpij,t->pij", a, beta)
    third = 8.0 * jnp.einsum("pij,qij->pq", product, constant)  # Σ_ts β_s κ(ψ_t, y_t, ψ_s)
    fourth = 16.0 * (
        jnp.einsum("pij,qji->pq", product, product) + jnp.einsum("pij,qij->pq", product, product) + _alternating(a, y)
    )
    squared = (
        jnp.einsum("tpsq,ts->pq", scores, weights)
        + jnp.outer(mean, mean)
        + jnp.einsum("tsp,stq->pq", mixed, mixed)
        + third
        + third.T
        + fourth
    )
    return mean, squared


def _alternating(a: jax.Array, y: jax.Array) -> jax.Array:
    """Σ_ts tr(A_t,p A_s,q Y_t Y_s), [P, P]: the one trace that does not split into sums over t and over s."""

    def row(term: tuple[jax.Array, jax.Array]) -> jax.Array:
        a_t, y_t = term

        def one(other: tuple[jax.Array, jax.Array]) -> jax.Array:
            a_s, y_s = other
            return jnp.einsum("kl,plj,qjk->pq", y_t @ y_s, a_t, a_s)

        return jnp.sum(jax.lax.map(one, (a, y)), 0)

    return jnp.sum(jax.lax.map(row, (a, y)), 0)


@jax.jit
def shared_moment(forms: Forms) -> jax.Array:
    """Σ_ts (E[ψ_t ψ_sᵀ] Cov(y_t, y_s) + E[ψ_t y_s] E[ψ_s y_t]ᵀ), [P, P].

    It is what a baseline made of other, independent copies of y adds to a covariance; see `leave_one_out`.
    """
    a, y, _ = forms
    scores = 2.0 * jnp.einsum("tpij,sqij->tpsq", a, a)
    weights = 2.0 * jnp.einsum("tij,sij->ts", y, y)
    mixed = 2.0 * jnp.einsum("tpij,sij->tsp", a, y)
    return jnp.einsum("tpsq,ts->pq", scores, weights) + jnp.einsum("tsp,stq->pq", mixed, mixed)
