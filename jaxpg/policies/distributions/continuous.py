"""Distributions over real vectors: a diagonal normal, and two whose actions lie between bounds.

The bounded ones take as an action, the value that `sample` gives and `log_prob` takes, a point of the whole real line,
and `to_environment` squashes it into the bounds. Near a bound the squashed value has lost what `log_prob` needs:
in float32 tanh(10) is 1 and has no inverse. `log_prob` is still the log density of the *squashed* action.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.policies.distributions._log_cosh import expected_log_two_cosh
from jaxpg.policies.distributions._uniforms import as_draws

__all__ = ["Beta", "DiagonalNormal", "TanhNormal"]

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalNormal:
    """Independent normals, N(mean, exp(log_std)²); an action is a float array.

    Fields:
      mean: floats, batch axes first, then the axes of an action.
      log_std: floats that broadcast against `mean`.
      low, high: the bounds of what an environment accepts, numbers or arrays of an action's shape (static). An action
        is clipped on its way to the environment; densities are those of the action before, as they must be.
      event_ndim: how many of the last axes belong to one action (static); 0 for a single number.
    """

    mean: jax.Array
    log_std: jax.Array
    low: Any = dataclasses.field(default=-math.inf, metadata={"static": True})
    high: Any = dataclasses.field(default=math.inf, metadata={"static": True})
    event_ndim: int = dataclasses.field(default=1, metadata={"static": True})

    def __post_init__(self) -> None:
        _make_static(self)

    def sample(self, key: jax.Array) -> jax.Array:
        """mean + exp(log_std) ε, ε standard normal: floats shaped like `mean`."""
        _check.broadcasting(mean=self.mean, log_std=self.log_std)
        noise = jax.random.normal(_check.key("key", key), jnp.shape(self.mean), self.mean.dtype)
        return self.mean + jnp.exp(self.log_std) * noise

    def num_uniforms(self) -> int:
        """How many uniforms `from_uniforms` takes: one for each component."""
        return math.prod(jnp.shape(self.mean))

    def from_uniforms(self, uniforms: jax.Array) -> jax.Array:
        """mean + exp(log_std) Φ⁻¹(u), for Φ the standard normal's cumulative distribution: floats shaped like `mean`.

        Uniforms u and 1 − u give actions mirrored in the mean.
        """
        noise = jax.scipy.special.ndtri(as_draws(uniforms, jnp.shape(self.mean)))
        return self.mean + jnp.exp(self.log_std) * noise.astype(self.mean.dtype)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Σ −z²/2 − log_std − log(2π)/2, z = (action − mean)/exp(log_std): floats [...]."""
        _check.broadcasting(action=action, mean=self.mean, log_std=self.log_std)
        rank = self.event_ndim  # A number for each component, else one action's would be given to all of them.
        if jnp.shape(action)[jnp.ndim(action) - rank :] != jnp.shape(self.mean)[jnp.ndim(self.mean) - rank :]:
            raise ValueError(
                f"action must have the shape of an action, {jnp.shape(self.mean)[jnp.ndim(self.mean) - rank :]}, after "
                f"any batch axes; got {jnp.shape(action)}"
            )
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return _sum(-0.5 * jnp.square(z) - self.log_std - _HALF_LOG_TWO_PI, self.event_ndim)

    def entropy(self) -> jax.Array:
        """Σ log_std + log(2πe)/2: floats [...]."""
        return _sum(jnp.broadcast_to(self.log_std, jnp.shape(self.mean)) + (0.5 + _HALF_LOG_TWO_PI), self.event_ndim)

    def mode(self) -> jax.Array:
        """The mean."""
        return self.mean

    def kl_divergence(self, other: "DiagonalNormal") -> jax.Array:
        """KL(self ‖ other) = Σ log(σ'/σ) + (σ² + (μ − μ')²)/(2σ'²) − 1/2: floats [...]."""
        log_ratio = self.log_std - other.log_std
        z = (self.mean - other.mean) * jnp.exp(-other.log_std)
        # expm1: where the two nearly agree, the terms 1 of exp and of the constant would cancel.
        return _sum(0.5 * (jnp.expm1(2 * log_ratio) + jnp.square(z)) - log_ratio, self.event_ndim)

    def to_environment(self, action: jax.Array) -> jax.Array:
        """The action, clipped to [low, high]."""
        if not (np.isfinite(self.low).any() or np.isfinite(self.high).any()):
            return action
        return jnp.clip(action, jnp.asarray(self.low, action.dtype), jnp.asarray(self.high, action.dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TanhNormal:
    """A squashed normal: the environment's action is low + (tanh(u) + 1)/2 · (high − low), u ~ N(mean, exp(log_std)²).

    An action of this distribution is u, before the squash; `to_environment(u)` is the squashed one.

    Fields: as in `DiagonalNormal`, with finite bounds, low < high.
    Source: Haarnoja et al. (2018), appendix C.
    """

    mean: jax.Array
    log_std: jax.Array
    low: Any = dataclasses.field(default=-1.0, metadata={"static": True})
    high: Any = dataclasses.field(default=1.0, metadata={"static": True})
    event_ndim: int = dataclasses.field(default=1, metadata={"static": True})

    def __post_init__(self) -> None:
        _make_static(self)
        _check_finite_bounds(self)

    def _normal(self) -> DiagonalNormal:
        return DiagonalNormal(self.mean, self.log_std, event_ndim=self.event_ndim)

    def sample(self, key: jax.Array) -> jax.Array:
        """A draw of u: floats shaped like `mean`."""
        return self._normal().sample(key)

    def num_uniforms(self) -> int:
        """How many uniforms `from_uniforms` takes: one for each component."""
        return self._normal().num_uniforms()

    def from_uniforms(self, uniforms: jax.Array) -> jax.Array:
        """u = mean + exp(log_std) Φ⁻¹(uniform), as in `DiagonalNormal`: floats shaped like `mean`."""
        return self._normal().from_uniforms(uniforms)

    def log_prob(self, action: jax.Array) -> jax.Array:
        """The log density at the squashed action: log N(u) − Σ log((high − low)/2) + log(1 − tanh²(u)): floats [...].

        log(1 − tanh²(u)) = 2 (log 2 − u − softplus(−2u)), which has finite derivatives wherever u is finite.
        """
        slope = 2 * (math.log(2) - action - jax.nn.softplus(-2 * action)) + _log_half_width(self, action.dtype)
        return self._normal().log_prob(action) - _sum(slope, self.event_ndim)

    def entropy(self) -> jax.Array:
        """The entropy of the squashed action: H(u) + Σ log((high − low)/2) + E[log(1 − tanh²(u))]: floats [...].

        The expectation has no closed form; it is integrated numerically, within 1e-6 for every mean and log_std.
        """
        log_std = jnp.broadcast_to(self.log_std, jnp.shape(self.mean))
        slope = 2 * (math.log(2) - expected_log_two_cosh(self.mean, jnp.exp(log_std)))
        return self._normal().entropy() + _sum(slope + _log_half_width(self, slope.dtype), self.event_ndim)

    def mode(self) -> jax.Array:
        """The mean of u. Squashed, it is the median of the squashed action, whose density may peak elsewhere."""
        return self.mean

    def kl_divergence(self, other: "TanhNormal") -> jax.Array:
        """KL(self ‖ other), that of the two normals: a bijection on both sides leaves it as it is. Floats [...]."""
        _check_same_bounds(self, other)
        return self._normal().kl_divergence(other._normal())

    def to_environment(self, action: jax.Array) -> jax.Array:
        """low + (tanh(u) + 1)/2 · (high − low)."""
        return _between(self, 0.5 * (jnp.tanh(action) + 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Beta:
    """Beta distributions stretched over [low, high]: the environment's action is low + x (high − low), x ~ Beta(α, β).

    An action of this distribution is the log-odds u = log(x / (1 − x)); `to_environment(u)` is the stretched x.

    Fields:
      alpha, beta: positive floats, batch axes first, then the axes of an action. Both above 1: one peak inside.
      low, high, event_ndim: as in `TanhNormal`; the bounds are 0 and 1 by default.
    Source: Chou, Maturana & Scherer (2017).
    """

    alpha: jax.Array
    beta: jax.Array
    low: Any = dataclasses.field(default=0.0, metadata={"static": True})
    high: Any = dataclasses.field(default=1.0, metadata={"static": True})
    event_ndim: int = dataclasses.field(default=1, metadata={"static": True})

    def __post_init__(self) -> None:
        _make_static(self)
        _check_finite_bounds(self)

    def sample(self, key: jax.Array) -> jax.Array:
        """A draw of u: the log of a ratio of two gamma variates, which cannot round to 0 or 1. Floats like `alpha`."""
        _check.broadcasting(alpha=self.alpha, beta=self.beta)
        alpha_key, beta_key = jax.random.split(_check.key("key", key))
        shape, dtype = jnp.shape(self.alpha), self.alpha.dtype
        return jax.random.loggamma(alpha_key, self.alpha, shape, dtype) - jax.random.loggamma(
            beta_key, self.beta, shape, dtype
        )

    def num_uniforms(self) -> int:
        """How many uniforms an inverse cumulative distribution takes: one for each component."""
        return math.prod(jnp.shape(self.alpha))

    def from_uniforms(self, uniforms: jax.Array) -> jax.Array:
        """Not offered: JAX has no inverse of the regularised incomplete beta function.

        Raises:
          TypeError: always.
        """
        raise TypeError(
            "Beta has no from_uniforms: JAX has no inverse of the incomplete beta function. Antithetic and quasi-Monte "
            "Carlo sampling accept DiagonalNormal and TanhNormal among the continuous distributions"
        )

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Σ (α − 1) log x + (β − 1) log(1 − x) − log B(α, β) − log(high − low), x = sigmoid(u): floats [...]."""
        log_x, log_rest = -jax.nn.softplus(-action), -jax.nn.softplus(action)
        density = (self.alpha - 1) * log_x + (self.beta - 1) * log_rest - self._log_normalizer()
        return _sum(density - self._log_width(), self.event_ndim)

    def entropy(self) -> jax.Array:
        """Σ log B − (α − 1) ψ(α) − (β − 1) ψ(β) + (α + β − 2) ψ(α + β) + log(high − low), ψ digamma: floats [...]."""
        alpha, beta, digamma = self.alpha, self.beta, jax.scipy.special.digamma
        total = (alpha + beta - 2) * digamma(alpha + beta)
        entropy = self._log_normalizer() - (alpha - 1) * digamma(alpha) - (beta - 1) * digamma(beta) + total
        return _sum(entropy + self._log_width(), self.event_ndim)

    def mode(self) -> jax.Array:
        """The log-odds of the peak, (α − 1)/(α + β − 2), where α and β exceed 1; else of the mean, α/(α + β)."""
        peaked = (self.alpha > 1) & (self.beta > 1)
        shift = jnp.where(peaked, 1, 0).astype(self.alpha.dtype)
        return jnp.log(self.alpha - shift) - jnp.log(self.beta - shift)

    def kl_divergence(self, other: "Beta") -> jax.Array:
        """Σ log B'/B + (α − α') ψ(α) + (β − β') ψ(β) + (α' − α + β' − β) ψ(α + β): floats [...]."""
        _check_same_bounds(self, other)
        digamma = jax.scipy.special.digamma
        alpha_gap, beta_gap = self.alpha - other.alpha, self.beta - other.beta
        gaps = alpha_gap * digamma(self.alpha) + beta_gap * digamma(self.beta)
        total = (alpha_gap + beta_gap) * digamma(self.alpha + self.beta)
        return _sum(other._log_normalizer() - self._log_normalizer() + gaps - total, self.event_ndim)

    def to_environment(self, action: jax.Array) -> jax.Array:
        """low + sigmoid(u) (high − low)."""
        return _between(self, jax.nn.sigmoid(action))

    def _log_normalizer(self) -> jax.Array:
        return jax.scipy.special.betaln(self.alpha, self.beta)

    def _log_width(self) -> jax.Array:
        return _log_half_width(self, self.alpha.dtype) + math.log(2)


def _sum(values: jax.Array, event_ndim: int) -> jax.Array:
    return jnp.sum(values, axis=tuple(range(-event_ndim, 0)))


def _between(distribution: Any, fraction: jax.Array) -> jax.Array:
    """low + fraction (high − low). The clip takes back what rounding may add beyond `high`."""
    low, high = (jnp.asarray(bound, fraction.dtype) for bound in (distribution.low, distribution.high))
    return jnp.clip(low + fraction * (high - low), low, high)


def _log_half_width(distribution: Any, dtype: Any) -> jax.Array:
    return jnp.asarray(np.log((np.asarray(distribution.high) - np.asarray(distribution.low)) / 2), dtype)


def _make_static(distribution: Any) -> None:
    """Bounds as floats or nested tuples of floats: static fields must compare and hash."""
    for side in ("low", "high"):
        bound = getattr(distribution, side)
        if not _check.is_concrete(bound):
            raise TypeError(f"{side} must be a concrete number or array: it is static; got a traced value")
        if not isinstance(bound, (float, tuple)):
            object.__setattr__(distribution, side, _nested(np.asarray(bound, np.float64)))


def _nested(array: np.ndarray) -> Any:
    return tuple(map(_nested, array)) if array.ndim else float(array)


def _check_finite_bounds(distribution: Any) -> None:
    low, high = np.asarray(distribution.low), np.asarray(distribution.high)
    if not (np.isfinite(low).all() and np.isfinite(high).all() and np.all(low < high)):
        raise ValueError(
            f"low and high must be finite with low < high; got low={distribution.low}, high={distribution.high}"
        )


def _check_same_bounds(first: Any, second: Any) -> None:
    if (first.low, first.high) != (second.low, second.high):
        raise ValueError(
            f"other must have the same low and high as this distribution, {(first.low, first.high)}; got "
            f"{(second.low, second.high)}"
        )
