"""An estimator of one episode as a backward recursion: what the exact moments are computed from.

    R_t = x + c R_{t+1}                      the return-like recursion of a weight
    y_t = u + k R_{t+1}                      the weight Ψ_t read from it; u = x and k = c for most
    g_t = ψ_t (y_t − p b_t(s_t)) + w g_{t+1}   the estimate, g = g_0; R and g behind the episode's end are 0

x, c, u, k and w may depend on (t, s, a, s'), p on (t, s, a). Reward-to-go is x = r, c = w = γ. With importance ratios
ρ = π/μ of the acting policy μ the per-decision estimate is x = ρ r, c = w = γρ, p = ρ.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Coefficients", "Recursion", "generic"]


class Coefficients(NamedTuple):
    """The recursion's coefficients at one time, each broadcastable to [S, A, S].

    Fields: increment x, decay c, direct u, carry k, score_discount w, and baseline_factor p (broadcastable to [S, A]).
    """

    increment: jax.Array
    decay: jax.Array
    direct: jax.Array
    carry: jax.Array
    score_discount: jax.Array
    baseline_factor: jax.Array


class Recursion(NamedTuple):
    """An estimator of one episode.

    Fields:
      coefficients: time -> Coefficients. The time is an integer scalar, traced; None without a horizon.
      baseline: b_t(s), broadcastable to [H, S, P] (its first axis is 1 without a horizon). The last axis is for
        baselines that differ between the coordinates of the gradient.
      acting: [S, A], the probabilities of the policy that acts, μ(a | s).
      lags: None, or n: R sums n increments, R_t = Σ_{k<n} c^k x_{t+k}, as in n-step advantages.
      whole_episode: the episode's first R is the weight of every step: g = R Σ_t ψ_t − Σ_t ψ_t b_t.
      episode_ratio: None, or [S, A] factors whose product over the episode multiplies g: the trajectory's importance
        ratio. For `whole_episode` only.
    """

    coefficients: Callable[[Any], Coefficients]
    baseline: jax.Array
    acting: jax.Array
    lags: int | None = None
    whole_episode: bool = False
    episode_ratio: jax.Array | None = None


def generic(increment: Any, decay: Any, acting: jax.Array, *, score_discount: Any = 1.0, baseline: Any = 0.0,
            direct: Any = None, carry: Any = None, baseline_factor: Any = 1.0, lags: int | None = None,
            whole_episode: bool = False, episode_ratio: Any = None) -> Recursion:
    """A recursion from arrays that do not change with time; `direct` and `carry` default to `increment` and `decay`."""
    dtype = acting.dtype

    def array(value: Any, axes: int) -> jax.Array:
        value = jnp.asarray(value, dtype)
        return value.reshape((1,) * (axes - value.ndim) + value.shape)

    increment, decay = array(increment, 3), array(decay, 3)
    constants = Coefficients(
        increment=increment,
        decay=decay,
        direct=increment if direct is None else array(direct, 3),
        carry=decay if carry is None else array(carry, 3),
        score_discount=array(score_discount, 3),
        baseline_factor=array(baseline_factor, 2),
    )
    return Recursion(lambda time: constants, array(baseline, 3), acting, lags, whole_episode, episode_ratio)
