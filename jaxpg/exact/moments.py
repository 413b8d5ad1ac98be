"""Exact mean and second moment of a one-episode estimate on a finite MDP, by one backward recursion over states.

With R = x + c R' and g = ψ (y − p b) + w g', y = u + k R' (see `recursion`), the conditional moments given the state

    E[R],  E[R Rᵀ],  E[g],  E[g Rᵀ],  E[g gᵀ]

close: each is a constant made of the ones before it in this list, plus itself one step later, propagated by a matrix
over states. Backward through time that is a scan; without a horizon it is one linear solve [S, S] for each moment.
R is a vector where an n-step weight needs the sums of 1, …, n increments, and has one entry otherwise.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.exact import evaluation
from jaxpg.exact.recursion import Recursion

__all__ = ["Closure", "Moments", "closure", "moments", "over_time"]


class Moments(NamedTuple):
    """Moments given the state, d entries in R: [S, d], [S, d, d], [S, P], [S, P, d], [S, P, P]."""

    weight: jax.Array
    weight_squared: jax.Array
    estimate: jax.Array
    estimate_weight: jax.Array
    estimate_squared: jax.Array


def moments(mdp: Any, recursion: Recursion, psi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(E[g], E[g gᵀ]) of an episode: [P], [P, P]."""
    if mdp.horizon is None:
        first = _step(mdp, recursion, psi, None, _zeros(mdp, recursion, psi))
    else:
        first, _ = over_time(mdp, recursion, psi)
    return mdp.initial @ first.estimate, jnp.einsum("s,spq->pq", mdp.initial, first.estimate_squared)


def over_time(mdp: Any, recursion: Recursion, psi: jax.Array) -> tuple[Moments, tuple[jax.Array, jax.Array]]:
    """The moments at time 0; and E[y_t | s_t], E[y_t² | s_t] at every time, [H, S] each, for a finite horizon."""

    def backward(following: Moments, time: jax.Array) -> tuple[Moments, tuple[jax.Array, jax.Array]]:
        now = _step(mdp, recursion, psi, time, following)
        return now, (now.weight[:, -1], now.weight_squared[:, -1, -1])

    return jax.lax.scan(backward, _zeros(mdp, recursion, psi), jnp.arange(mdp.horizon), reverse=True)


def _zeros(mdp: Any, recursion: Recursion, psi: jax.Array) -> Moments:
    states, lags, num_params = mdp.num_states, recursion.lags or 1, psi.shape[-1]
    shapes = Moments((lags,), (lags, lags), (num_params,), (num_params, lags), (num_params, num_params))
    return Moments(*(jnp.zeros((states, *shape), psi.dtype) for shape in shapes))


def _step(mdp: Any, recursion: Recursion, psi: jax.Array, time: Any, following: Moments) -> Moments:
    """The moments at `time` from those one step later; without a horizon, the fixed point."""
    close, lift = closure(mdp), _lift(recursion.lags)
    transition, acting = mdp.transition, recursion.acting
    x, c, u, k, w, p = recursion.coefficients(time)
    b = recursion.baseline[0 if time is None or recursion.baseline.shape[0] == 1 else time]

    def expect(array: jax.Array, later: jax.Array) -> jax.Array:
        """E[array(s, a, s') later(s') | s, a]."""
        return jnp.einsum("sat,t...->sa...", transition * array, later)

    def average(array: jax.Array) -> jax.Array:
        """Σ_a μ(a | s) array(s, a, …)."""
        return jnp.einsum("sa,sa...->s...", acting, array)

    def mean(array: jax.Array) -> jax.Array:
        """E[array(s, a, s') | s, a], [S, A]."""
        return jnp.sum(transition * array, -1)

    def kernel(array: jax.Array) -> jax.Array:
        return jnp.einsum("sa,sat->st", acting, transition * array)

    # E[R] and E[R Rᵀ]; `_next` is the moment of the step after this one, its R shifted by one lag.
    ones = jnp.ones(following.weight.shape[-1], psi.dtype)
    r, r_next = close(average(mean(x))[:, None] * ones, kernel(c), following.weight, lift)
    mixed = average(expect(x * c, r_next))[..., None] * ones
    constant = average(mean(x * x))[:, None, None] * jnp.outer(ones, ones) + mixed + jnp.swapaxes(mixed, 1, 2)
    rr, rr_next = close(constant, kernel(c * c), following.weight_squared, lambda m: lift(jnp.swapaxes(lift(m), 1, 2)))

    # E[y | s, a], E[y² | s, a], E[y R | s, a] and E[R | s, a], where y reads the last entry of the next step's R.
    y = mean(u) + expect(k, r_next[:, -1])
    yy = mean(u * u) + 2 * expect(u * k, r_next[:, -1]) + expect(k * k, rr_next[:, -1, -1])
    r_given_action = mean(x)[..., None] * ones + expect(c, r_next)
    yr = (mean(u * x) + expect(k * x, r_next[:, -1]))[..., None] * ones + expect(u * c, r_next) + expect(
        k * c, rr_next[:, -1])

    # E[g] and E[g Rᵀ]. The baseline may differ between coordinates, so it stays beside ψ: φ = p b ψ.
    phi = psi * p[..., None] * b[:, None, :]
    g, g_next = close(average(psi * y[..., None] - phi), kernel(w), following.estimate)
    constant = average(psi[..., None] * yr[:, :, None] - phi[..., None] * r_given_action[:, :, None])
    constant += average(expect(w * x, g_next))[..., None] * ones
    gr, gr_next = close(constant, kernel(w * c), following.estimate_weight, lift)

    # E[g gᵀ] = E[ψψᵀ (y − p b)²] + E[w ψ (y − p b) g'ᵀ] + its transpose + E[w² g' g'ᵀ].
    weighted = acting[..., None] * psi
    own = jnp.einsum("sap,saq->spq", weighted * yy[..., None], psi) + jnp.einsum("sap,saq->spq", acting[..., None] * phi, phi)
    mixed = jnp.einsum("sap,saq->spq", weighted * y[..., None], phi)
    cross = jnp.einsum("sap,saq->spq", weighted, expect(w * u, g_next) + expect(w * k, gr_next[..., -1]))
    cross -= jnp.einsum("sap,saq->spq", acting[..., None] * phi, expect(w, g_next))
    cross -= mixed
    gg, _ = close(own + cross + jnp.swapaxes(cross, 1, 2), kernel(w * w), following.estimate_squared)
    return Moments(r, rr, g, gr, gg)


def _lift(lags: int | None) -> Any:
    """R' as it enters R: itself; with lags, entry j of R goes on from entry j − 1 of R', and the first from nothing."""
    if lags is None:
        return lambda moment: moment
    return lambda moment: jnp.concatenate([jnp.zeros_like(moment[..., :1]), moment[..., :-1]], -1)


class Closure:
    """How a moment m(s) = constant(s) + Σ_s' kernel(s, s') lift(m')(s') is closed: by the step after it, or by itself."""

    def __init__(self, mdp: Any) -> None:
        self.mdp = mdp

    def __call__(self, constant: jax.Array, kernel: jax.Array, following: jax.Array, lift: Any = None,
                 boundary: float = 0.0) -> tuple[jax.Array, jax.Array]:
        """(m, lift(m')), [S, …] both. At terminal states the moment is `boundary`."""
        lift = lift or (lambda moment: moment)
        if self.mdp.horizon is not None:
            after = lift(following)
            return self._ended(constant + jnp.einsum("st,t...->s...", kernel, after), boundary), after
        if constant.ndim > 1 and lift(jnp.ones_like(constant)).ravel()[0] is not None and self._shifts(lift, constant):
            moment = self._ended(jnp.zeros_like(constant), boundary)
            for _ in range(constant.shape[-1]):  # A shift by one lag is nilpotent: n rounds are exact.
                moment = self._ended(constant + jnp.einsum("st,t...->s...", kernel, lift(moment)), boundary)
            return moment, lift(moment)
        moment = self._fixed_point(constant, kernel, boundary)
        return moment, lift(moment)
