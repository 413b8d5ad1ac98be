"""An estimator of one episode as a backward recursion on a finite MDP: what its exact moments are computed from.

    R_t = x + c R_{t+1}                        the return-like recursion of a weight
    y_t = u + k R_{t+1}                        the weight Ψ_t read from it; u = x and k = c for most
    g_t = ψ_t (y_t − p b_t(s_t)) + h_t(s_t) + w g_{t+1}

The estimate is g = g_0; behind the episode's end R and g are 0. x, c, u, k and w may depend on (t, s, a, s'), p on
(t, s, a), and h, a vector like ψ, on (t, s). Reward-to-go is x = r, c = w = γ. With importance ratios ρ = π/μ of the
acting policy μ, the per-decision estimate is x = ρ r, c = w = γρ, p = ρ.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg.exact.precision import check_spectral_radius

__all__ = ["Coefficients", "Recursion", "at", "check_converges", "generic"]


class Coefficients(NamedTuple):
    """The recursion's coefficients, each [K, S, A, S] or with ones in the place of some of these axes.

    Of the K rows the last is for an episode's last step H − 1, the one before it for H − 2, and so on back; the first
    is for all earlier steps as well. So K = 1 is for coefficients that do not change with time, K = 2 for a last step
    that differs. Without a horizon K = 1.

    Fields: increment x, decay c, direct u, carry k, score_discount w, and baseline_factor p ([K, S, A, 1]).
    """

    increment: jax.Array
    decay: jax.Array
    direct: jax.Array
    carry: jax.Array
    score_discount: jax.Array
    baseline_factor: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["coefficients", "baseline", "acting", "episode_ratio", "state_term"],
    meta_fields=["lags", "whole_episode"],
)
@dataclasses.dataclass(frozen=True)
class Recursion:
    """An estimator of one episode.

    Fields:
      coefficients: `Coefficients`.
      baseline: b_t(s), [K, S, P] or with ones for some of these axes; K as for the coefficients. The last axis is for
        baselines that differ between the coordinates of the gradient.
      acting: [S, A], the probabilities of the policy that acts, μ(a | s).
      lags: None, or n: R sums n increments, R_t = Σ_{k<n} c^k x_{t+k}, as in n-step advantages.
      whole_episode: the episode's first R is the weight of every step: g = R Σ_t ψ_t − Σ_t ψ_t b_t.
      episode_ratio: None, or [S, A] factors whose product over the episode multiplies g, the importance ratio of the
        trajectory; for `whole_episode` only.
      state_term: None, or h_t(s), [K, S, P]: sums over all actions, or of entropies. Not for `whole_episode`.
    """

    coefficients: Coefficients
    baseline: jax.Array
    acting: jax.Array
    lags: int | None = None
    whole_episode: bool = False
    episode_ratio: Any = None
    state_term: Any = None


def generic(
    increment: Any,
    decay: Any,
    acting: jax.Array,
    *,
    score_discount: Any = 1.0,
    baseline: Any = 0.0,
    direct: Any = None,
    carry: Any = None,
    baseline_factor: Any = 1.0,
    lags: int | None = None,
    whole_episode: bool = False,
    episode_ratio: Any = None,
    state_term: Any = None,
) -> Recursion:
    """A recursion from arrays: `baseline` and `state_term` broadcast to [K, S, P], the rest to [K, S, A, S].

    See `Coefficients`. `direct` and `carry` are `increment` and `decay` unless given.
    """
    dtype = acting.dtype

    def array(value: Any, axes: int = 4) -> jax.Array:
        value = jnp.asarray(value, dtype)
        return value.reshape((1,) * (axes - value.ndim) + value.shape)

    coefficients = Coefficients(
        increment=array(increment),
        decay=array(decay),
        direct=array(increment if direct is None else direct),
        carry=array(decay if carry is None else carry),
        score_discount=array(score_discount),
        baseline_factor=array(baseline_factor),
    )
    term = None if state_term is None else array(state_term, 3)
    return Recursion(coefficients, array(baseline, 3), acting, lags, whole_episode, episode_ratio, term)


def at(rows: Any, time: Any, horizon: int | None) -> Any:
    """The rows of a pytree of [K, …] arrays that are for `time`."""
    if horizon is None:
        return jax.tree.map(lambda array: array[0], rows)
    return jax.tree.map(lambda array: array[jnp.maximum(time - (horizon - array.shape[0]), 0)], rows)


def check_converges(mdp: Any, recursion: Recursion) -> None:
    """Raises ValueError where, without a horizon, the moments are infinite. Traced values pass."""
    if mdp.horizon is not None:
        return
    x, c, _, _, w, _ = at(recursion.coefficients, None, None)
    measure = recursion.acting
    if recursion.whole_episode:
        w = jnp.ones_like(w)
        measure = measure if recursion.episode_ratio is None else measure * recursion.episode_ratio**2
    survival = mdp.transition * mdp.alive[:, None, None] * mdp.alive
    for factor in (w, c) if recursion.lags is None else (w,):
        kernel = jnp.einsum("sa,sat->st", measure, survival * factor * factor)
        check_spectral_radius(kernel, "this estimator's second moments are infinite without a horizon")
