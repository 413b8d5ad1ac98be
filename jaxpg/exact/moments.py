"""Exact mean and second moment of a one-episode estimate on a finite MDP, by one backward recursion over states.

With R = x + c R' and g = ψ (y − p b) + h + w g', y = u + k R' (see `recursion`), the moments given the state

    E[R],  E[R Rᵀ],  E[g],  E[g Rᵀ],  E[g gᵀ]

close: each is a constant made of those before it in this list, plus itself one step later, propagated by a matrix over
states. Backward through time that is a scan; without a horizon it is one linear solve, [S, S], for each of them.
R is a vector where an n-step weight needs the sums of 1, …, n increments, and has one entry otherwise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg.exact.closure import Closure
from jaxpg.exact.recursion import Recursion, at

__all__ = ["Moments", "moments", "over_time"]


class Moments(NamedTuple):
    """Moments given the state, with L entries in R: [S, L], [S, L, L], [S, P], [S, P, L], [S, P, P]."""

    weight: jax.Array
    weight_squared: jax.Array
    estimate: jax.Array
    estimate_weight: jax.Array
    estimate_squared: jax.Array


@jax.jit
def moments(mdp: Any, recursion: Recursion, psi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(E[g], E[g gᵀ]) of an episode, [P] and [P, P], for the scores `psi` [S, A, P]."""
    if mdp.horizon is None:
        first = _step(mdp, recursion, psi, None, _nothing(mdp, recursion, psi))
    else:
        first = over_time(mdp, recursion, psi)[0]
    return mdp.initial @ first.estimate, jnp.einsum("s,spq->pq", mdp.initial, first.estimate_squared)


def over_time(mdp: Any, recursion: Recursion, psi: jax.Array) -> tuple[Moments, tuple[jax.Array, jax.Array]]:
    """The moments at time 0, and E[R_t | s_t] and E[R_t² | s_t] at every time, [H, S] both, for a finite horizon."""

    def backward(following: Moments, time: jax.Array) -> tuple[Moments, tuple[jax.Array, jax.Array]]:
        now = _step(mdp, recursion, psi, time, following)
        return now, (now.weight[:, -1], now.weight_squared[:, -1, -1])

    return jax.lax.scan(backward, _nothing(mdp, recursion, psi), jnp.arange(mdp.horizon), reverse=True)


def _nothing(mdp: Any, recursion: Recursion, psi: jax.Array) -> Moments:
    """The moments behind an episode's end."""
    lags, num_params = recursion.lags or 1, psi.shape[-1]
    shapes = ((lags,), (lags, lags), (num_params,), (num_params, lags), (num_params, num_params))
    return Moments(*(jnp.zeros((mdp.num_states, *shape), psi.dtype) for shape in shapes))


def _step(mdp: Any, recursion: Recursion, psi: jax.Array, time: Any, following: Moments) -> Moments:
    """The moments at `time` from those one step later; without a horizon, the fixed point.

    A name with `_next` is the next step's moment as it enters this step's.
    """
    close, transition, acting = Closure(mdp, recursion.lags), mdp.transition, recursion.acting
    x, c, u, k, w, p = at(recursion.coefficients, time, mdp.horizon)
    b = at(recursion.baseline, time, mdp.horizon)
    ones = jnp.ones(following.weight.shape[-1], psi.dtype)

    def mean(array: jax.Array) -> jax.Array:  # E[array | s, a], [S, A]
        return jnp.sum(transition * array, -1)

    def expect(array: jax.Array, later: jax.Array) -> jax.Array:  # E[array(s, a, s') later(s') | s, a], [S, A, …]
        return jnp.einsum("sat,t...->sa...", transition * array, later)

    def average(array: jax.Array) -> jax.Array:  # Σ_a μ(a | s) array(s, a, …), [S, …]
        return jnp.einsum("sa,sa...->s...", acting, array)

    def kernel(array: jax.Array) -> jax.Array:  # [S, S]
        return jnp.einsum("sa,sat->st", acting, transition * array)

    def outer(left: jax.Array, right: jax.Array) -> jax.Array:  # Σ_a μ(a | s) left(s, a) right(s, a)ᵀ, [S, P, P]
        return jnp.einsum("sa,sap,saq->spq", acting, left, right)

    # E[R] and E[R Rᵀ].
    r, r_next = close(average(mean(x))[:, None] * ones, kernel(c), following.weight, lag_axes=1)
    mixed = average(expect(x * c, r_next))[..., None] * ones
    constant = average(mean(x * x))[:, None, None] + mixed + jnp.swapaxes(mixed, 1, 2)
    rr, rr_next = close(constant, kernel(c * c), following.weight_squared, lag_axes=2)

    # E[y | s, a], E[y² | s, a], E[R | s, a] and E[y R | s, a]; y reads the last entry of the next step's R.
    r_last, rr_last = r_next[:, -1], rr_next[:, -1]
    y = mean(u) + expect(k, r_last)
    yy = mean(u * u) + 2 * expect(u * k, r_last) + expect(k * k, rr_last[:, -1])
    r_given = mean(x)[..., None] * ones + expect(c, r_next)
    yr = (mean(u * x) + expect(k * x, r_last))[..., None] * ones + expect(u * c, r_next) + expect(k * c, rr_last)

    # E[g] and E[g Rᵀ]. The baseline may differ between coordinates, so it stays with its score: φ = p b ψ − h.
    phi = psi * p * b[:, None, :]
    if recursion.state_term is not None:
        phi -= at(recursion.state_term, time, mdp.horizon)[:, None, :]
    g, g_next = close(average(psi * y[..., None] - phi), kernel(w), following.estimate)
    constant = average(psi[..., None] * yr[:, :, None] - phi[..., None] * r_given[:, :, None])
    constant += average(expect(w * x, g_next))[..., None] * ones
    gr, gr_next = close(constant, kernel(w * c), following.estimate_weight, lag_axes=1)

    # E[g gᵀ] = E[(ψ y − φ)(ψ y − φ)ᵀ] + E[w (ψ y − φ) g'ᵀ] + its transpose + E[w² g' g'ᵀ].
    cross = outer(psi, expect(w * u, g_next) + expect(w * k, gr_next[..., -1])) - outer(phi, expect(w, g_next))
    cross -= outer(psi * y[..., None], phi)
    constant = outer(psi * yy[..., None], psi) + outer(phi, phi) + cross + jnp.swapaxes(cross, 1, 2)
    gg, _ = close(constant, kernel(w * w), following.estimate_squared)
    return Moments(r, rr, g, gr, gg)
