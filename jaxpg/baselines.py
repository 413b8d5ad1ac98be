"""Baselines b_t: what is subtracted from the weight Ψ_t to cut the variance of the estimate.

A baseline leaves the mean of the estimate as it is as long as it does not depend on the action whose score it is
subtracted from: E[∇ log π(a | s) b(s)] = b(s) ∇ Σ_a π(a | s) = 0. Three kinds do that here:

- a function of the observation and the time that is given from outside (`constant`, `value`, `time(values)`);
- a function of the *other* episodes of a group (`leave_one_out`, `time()`, `linear`): b of episode i is made of
  episodes j ≠ i, which are independent of it. Groups are consecutive episode ids;
- the constant that cuts the variance most (`optimal`), fitted on all groups of the variance but the episode's own.

A mean that includes the episode itself shrinks the gradient by 1 − 1/n; no such baseline is offered.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg.weights import value_function

__all__ = ["Baseline", "constant", "leave_one_out", "linear", "none", "optimal", "polynomial_features", "time", "value"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """A baseline.

    Fields:
      function: None, or (observation, time) -> b, independent of the sampled episodes.
      peers: None, or (sum, own, size, count) -> b, made of a group's other episodes. `sum` is Σ_j Ψ_{j,t} over the
        group's episodes that reach step t (itself included), `own` is Ψ_{i,t}, `size` the number of episodes of the
        group and `count` of those that reach step t. A weight that is one for the whole episode is summed once an
        episode.
      features: None, or (observation, time) -> φ [F]: b = φᵀ θ, with θ fitted to Ψ by least squares on the group's
        episodes outside the episode's own fold; `folds` and `ridge` belong to it.
      optimal: None, "scalar" or "per_coordinate": the constant, or one for each coordinate of the gradient, that cuts
        the variance most.
      group_size: episodes in a group of `peers` or `features`; None: those of a chunk.
    """

    function: Callable[[Any, jax.Array], jax.Array] | None = None
    peers: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array] | None = None
    features: Callable[[Any, jax.Array], jax.Array] | None = None
    folds: int = 2
    ridge: Any = 1e-5
    optimal: str | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("function", "peers", "features"):
            _check.optional(_check.callable_, name, getattr(self, name), "as the docstring of Baseline has it")

    @property
    def of_other_episodes(self) -> bool:
        """Whether the baseline needs the other episodes of a group in memory."""
        return self.peers is not None or self.features is not None


def none() -> Baseline:
    """No baseline: b = 0."""
    return Baseline()


def constant(c: Any) -> Baseline:
    """One number for all steps: b = c. It must not be fitted on the episodes that it is used for."""
    c = _check.number("c", c)
    return Baseline(function=lambda observation, time: jnp.asarray(c, jnp.result_type(float)))


def value(function: Any) -> Baseline:
    """A state-value function: b_t = V(s_t). Unbiased if fitted on other episodes (Sutton et al., 2000).

    Args:
      function: observation -> value, or (observation, time) -> value.
    """
    return Baseline(function=value_function("function", function))


@hinted
def leave_one_out(group_size: int | None = None) -> Baseline:
    """The mean over the other episodes of the group: b_{i,t} = 1/(n−1) Σ_{j≠i} Ψ_{j,t} (Kool et al., 2019).

    An episode counts as Ψ = 0 after its end. With a weight that is one for the whole episode (`total_return`) this is
    b_i = mean of the others' returns. Unbiased.

    Args:
      group_size: n, at least 2: the group is that many consecutive episodes (a remainder of one joins the group before
        it). None: the episodes of a chunk; then the estimate depends on `chunk_size`.
    """
    return Baseline(
        peers=lambda total, own, size, count: (total - own) / jnp.maximum(size - 1, 1),
        group_size=_check.optional(_check.count, "group_size", group_size, 2),
    )


def time(values: Any = None, group_size: int | None = None) -> Baseline:
    """A baseline of the time step alone: b_t.

    Args:
      values: floats [T], b_t for t < T (steps beyond take the last one); they must come from other episodes. None: the
        mean of Ψ_{j,t} over the *other* episodes of the group that reach step t, 0 where there is none. Unbiased.
      group_size: as in `leave_one_out`; only where `values` is None.
    """
    if values is None:
        return Baseline(
            peers=lambda total, own, size, count: jnp.where(count > 1, (total - own) / jnp.maximum(count - 1, 1), 0.0),
            group_size=_check.optional(_check.count, "group_size", group_size, 2),
        )
    if group_size is not None:
        raise ValueError("group_size belongs to a time baseline that is made of the episodes; got values as well")
    if np.ndim(values) != 1 or np.shape(values)[0] == 0:
        raise ValueError(f"values must be a sequence b_0, b_1, … of at least one number; got shape {np.shape(values)}")
    _check.finite("values", _check.array("values", values))

    def function(observation: Any, time: jax.Array) -> jax.Array:
        del observation
        table = jnp.asarray(values, jnp.result_type(float))
        return table[jnp.minimum(time, table.shape[0] - 1)]

    return Baseline(function=function)


@hinted
def linear(features: Any = None, *, folds: int = 2, ridge: Any = 1e-5, group_size: int | None = None) -> Baseline:
    """A linear value function fitted within the estimate: b_i(s, t) = φ(s, t)ᵀ θ_{−k(i)}.

    The group's episodes are dealt out to K folds, and θ_{−k} minimises Σ (φᵀθ − Ψ)² over the steps of the other folds:
    cross-fitted, so the estimate stays unbiased. Source: Duan et al. (2016), for the features and the ridge.

    Args:
      features: φ, a function observation -> [F] or (observation, time) -> [F]; default `polynomial_features`.
      folds: K, at least 2.
      ridge: relative to the mean square of the features, 0 or more.
      group_size: as in `leave_one_out`.
    """
    return Baseline(
        features=polynomial_features if features is None else value_function("features", features, scalar=False),
        folds=_check.count("folds", folds, 2),
        ridge=_check.number("ridge", ridge, 0.0),
        group_size=_check.optional(_check.count, "group_size", group_size, 2),
    )


def polynomial_features(observation: Any, time: jax.Array) -> jax.Array:
    """[o, o², t/100, (t/100)², (t/100)³, 1], o the observation's numbers clipped to [−10, 10] (Duan et al., 2016)."""
    floats = jnp.result_type(float)
    o = jnp.concatenate([jnp.ravel(leaf).astype(floats) for leaf in jax.tree.leaves(observation)])
    o = jnp.clip(o, -10.0, 10.0)
    t = jnp.asarray(time, floats) / 100.0
    return jnp.concatenate([o, o**2, jnp.stack([t, t**2, t**3, jnp.ones_like(t)])])


def optimal(per_coordinate: bool = False) -> Baseline:
    """The constant of least variance: b = E[D·g] / E[D·D], or for each coordinate k, b_k = E[D_k g_k] / E[D_k²].

    g = Σ_t w^t ∇ log π Ψ_t is an episode's term and D = Σ_t w^t ∇ log π; for the total return this is the classic
    E[‖G‖² R] / E[‖G‖²]. It is estimated from all groups of episodes but the one that it is used in, so the estimate is
    unbiased. Each episode's own gradient is computed for it, which costs more than a baseline that is known.
    Sources: Weaver & Tao (2001); Greensmith et al. (2004); Peters & Schaal (2008).

    Args:
      per_coordinate: one constant for each coordinate of the gradient.
    """
    return Baseline(optimal="per_coordinate" if _check.boolean("per_coordinate", per_coordinate) else "scalar")
