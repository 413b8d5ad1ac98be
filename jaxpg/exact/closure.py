"""Closing a moment recursion over the states of a finite MDP: one step back in time, or at its fixed point."""

from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["Closure"]


class Closure:
    """How m(s) = constant(s) + Σ_s' kernel(s, s') m'(s') is closed: m' is one step later, or m itself.

    Args:
      mdp: with a horizon, m' is given; without one, m' = m and the recursion is solved.
      lags: None; or n, where m' enters shifted by one lag: the moments of R_t = Σ_{k<n} …, whose entry j (the sum of
        j + 1 increments) goes on from entry j − 1 of the next step, and whose first entry goes on from nothing.
    """

    def __init__(self, mdp: Any, lags: int | None = None) -> None:
        self.horizon: int | None = mdp.horizon
        self.lags: int | None = lags
        self.alive: jax.Array = mdp.alive

    def __call__(
        self, constant: jax.Array, kernel: jax.Array, following: jax.Array, lag_axes: int = 0, boundary: float = 0.0
    ) -> tuple[jax.Array, jax.Array]:
        """(m, m' as it enters), [S, …] both, with m = `boundary` at terminal states.

        The last `lag_axes` axes of the moment run over lags.
        """
        if self.horizon is not None:
            after = self._shift(following, lag_axes)
            return self._end(constant + _apply(kernel, after), boundary), after
        if self.lags is None or lag_axes == 0:
            moment = self._solve(constant, kernel, boundary)
            return moment, moment
        moment = jnp.zeros_like(constant)
        for _ in range(self.lags):  # A shift by one lag is nilpotent: so many rounds are exact.
            moment = self._end(constant + _apply(kernel, self._shift(moment, lag_axes)), boundary)
        return moment, self._shift(moment, lag_axes)

    def _shift(self, moment: jax.Array, lag_axes: int) -> jax.Array:
        if self.lags is None:
            return moment
        for axis in range(moment.ndim - lag_axes, moment.ndim):
            moment = jnp.roll(moment, 1, axis).at[(slice(None),) * axis + (0,)].set(0.0)
        return moment

    def _solve(self, constant: jax.Array, kernel: jax.Array, boundary: float) -> jax.Array:
        """m = constant + kernel m off the terminal states: one [S, S] system, a right-hand side for each entry of m."""
        ended = 1.0 - self.alive
        constant = constant + _apply(kernel, jnp.broadcast_to(_column(ended, constant) * boundary, constant.shape))
        kernel = self.alive[:, None] * kernel * self.alive
        system = jnp.eye(len(kernel), dtype=kernel.dtype) - kernel
        moment = jnp.linalg.solve(system, constant.reshape(len(kernel), -1)).reshape(constant.shape)
        return self._end(moment, boundary)

    def _end(self, moment: jax.Array, boundary: float) -> jax.Array:
        return jnp.where(_column(self.alive, moment) > 0, moment, boundary)


def _apply(kernel: jax.Array, moment: jax.Array) -> jax.Array:
    return jnp.einsum("st,t...->s...", kernel, moment)


def _column(array: jax.Array, like: jax.Array) -> jax.Array:
    return array.reshape(array.shape + (1,) * (like.ndim - 1))
