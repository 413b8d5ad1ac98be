"""Exact moments of estimates that give every step of an episode one weight: g = R G − B, as with the total return.

G = Σ_t ψ_t, R is the episode's return-like weight, B = Σ_t ψ_t b_t(s_t). The moments M_ij = E[R^i F^{⊗j}], i, j ≤ 2, of
F = G, or of F = (G, B) where the baseline is not one constant, close under R = x + c R', F = f + F':

    E[g] = M_11 − B-part of M_01,    E[g gᵀ] = M_22 − 2 M_12 (symmetrised) + M_02, read at G and B.

An importance ratio Π_t ρ_t of the trajectory multiplies g: the first moment is then the one under μρ, and the second
the one under μρ², measures that need not sum to one.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.exact.closure import Closure
from jaxpg.exact.recursion import Recursion, at

__all__ = ["episode_moments", "moments", "score_moments"]

_BINOMIAL = ((1,), (1, 1), (1, 2, 1))


@jax.jit
def moments(mdp: Any, recursion: Recursion, psi: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(E[g], E[g gᵀ]) of an episode, [P] and [P, P]."""
    if recursion.episode_ratio is None:
        first = second = episode_moments(mdp, recursion, psi, recursion.acting)
    else:
        first = episode_moments(mdp, recursion, psi, recursion.acting * recursion.episode_ratio)
        second = episode_moments(mdp, recursion, psi, recursion.acting * recursion.episode_ratio**2)
    num_params = psi.shape[-1]
    if _is_constant(recursion.baseline):
        b = recursion.baseline.reshape(-1)
        mixed = second[1, 2] * b  # E[R G_i G_j] b_j
        squared = second[2, 2] - mixed - mixed.T + second[0, 2] * jnp.outer(b, b)
        return first[1, 1] - first[0, 1] * b, squared
    scores, baselined = slice(None, num_params), slice(num_params, None)
    mixed = second[1, 2][scores, baselined]
    squared = second[2, 2][scores, scores] - mixed - mixed.T + second[0, 2][baselined, baselined]
    return first[1, 1][scores] - first[0, 1][baselined], squared


@jax.jit
def score_moments(mdp: Any, recursion: Recursion, psi: jax.Array) -> dict[tuple[int, int], jax.Array]:
    """M_ij with F = G alone, whatever the baseline, for on-policy episodes."""
    return episode_moments(
        mdp, dataclasses.replace(recursion, baseline=jnp.zeros((1, 1, 1), psi.dtype)), psi, recursion.acting
    )


def episode_moments(
    mdp: Any, recursion: Recursion, psi: jax.Array, measure: jax.Array
) -> dict[tuple[int, int], jax.Array]:
    """M_ij = E[R^i F^{⊗j}] for i, j ≤ 2 under `measure` [S, A] over actions: scalars, [F] and [F, F]."""
    num_features = psi.shape[-1] * (1 if _is_constant(recursion.baseline) else 2)
    shapes = {0: (), 1: (num_features,), 2: (num_features, num_features)}
    behind = {
        (i, j): jnp.full((mdp.num_states, *shapes[j]), _boundary(i, j), psi.dtype) for i in range(3) for j in range(3)
    }
    if mdp.horizon is None:
        first = _step(mdp, recursion, psi, measure, None, behind)
    else:

        def backward(following: Any, time: jax.Array) -> tuple[Any, None]:
            return _step(mdp, recursion, psi, measure, time, following), None

        first = jax.lax.scan(backward, behind, jnp.arange(mdp.horizon), reverse=True)[0]
    return {order: jnp.einsum("s,s...->...", mdp.initial, moment) for order, moment in first.items()}


def _step(mdp: Any, recursion: Recursion, psi: jax.Array, measure: jax.Array, time: Any, following: Any) -> Any:
    """M_ij given the state at `time`, by the binomial expansion of (x + c R')^i (f + F')^{⊗j}."""
    close, coefficients = Closure(mdp), at(recursion.coefficients, time, mdp.horizon)
    features = psi
    if not _is_constant(recursion.baseline):
        b = at(recursion.baseline, time, mdp.horizon)
        features = jnp.concatenate([psi, psi * b[:, None, :]], -1)
    now, entering = {}, {}
    for i in range(3):
        # terms[k](s, a, s') = P(s' | s, a) C(i, k) x^{i−k} c^k, which multiplies R'^k.
        terms = [
            mdp.transition * binomial * coefficients.increment ** (i - k) * coefficients.decay**k
            for k, binomial in enumerate(_BINOMIAL[i])
        ]
        kernels = [jnp.einsum("sa,sat->st", measure, term) for term in terms]
        given_action: dict[int, jax.Array] = {}  # Σ_k E[terms[k] M_kj' | s, a] for j = 0, 1
        for j in range(3):
            constant = sum(
                (jnp.einsum("st,t...->s...", kernels[k], entering[k, j]) for k in range(i)),
                start=jnp.zeros_like(following[i, j]),
            )
            if j == 1:
                constant += jnp.einsum("sa,saf,sa->sf", measure, features, given_action[0])
            if j == 2:
                cross = jnp.einsum("sa,saf,sag->sfg", measure, features, given_action[1])
                own = jnp.einsum("sa,saf,sag->sfg", measure * given_action[0], features, features)
                constant += own + cross + jnp.swapaxes(cross, 1, 2)
            now[i, j], entering[i, j] = close(constant, kernels[i], following[i, j], boundary=_boundary(i, j))
            if j < 2:
                expected = [jnp.einsum("sat,t...->sa...", terms[k], entering[k, j]) for k in range(i + 1)]
                given_action[j] = jnp.sum(jnp.stack(expected), 0)
    return now


def _boundary(i: int, j: int) -> float:
    """M_ij behind an episode's end, where R = 0 and F = 0."""
    return 1.0 if (i, j) == (0, 0) else 0.0


def _is_constant(baseline: jax.Array) -> bool:
    """Whether the baseline [H, S, P] is one number, or one for each coordinate, at all times and states."""
    return baseline.shape[0] == 1 and baseline.shape[1] == 1
