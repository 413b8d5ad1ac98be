"""Observations brought to mean 0 and variance 1 by running statistics, which are part of the parameters.

    ŝ = clip((s − μ) / √(σ² + ε), −c, c),    σ² = M₂ / n,    M₂ = Σ (s − μ)²

μ, M₂ and n are those of all observations counted so far, with n capped. `apply` never changes them: algorithms do, by
`observe`, once an update is made, so that acting and learning see the same normalisation.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import ACTION_MASK
from jaxpg.envs.spaces import Box, is_leaf
from jaxpg.policies._describe import describe
from jaxpg.policies.base import Critic, Policy, check_environment

__all__ = ["normalized"]

Model = TypeVar("Model", Policy, Critic)

MOST_COUNTED = 1e7  # Below 2²⁴, from where on a float32 no longer counts.


def normalized(model: Model, env: Environment, *, clip: Any = 10.0, epsilon: Any = 1e-8) -> Model:
    """A policy or critic that sees normalised observations.

    Each number of an observation that comes from a `Box` of floats is normalised by its own mean and variance;
    integers, bytes, booleans and the entry "action_mask" are passed on as they are. Before anything is counted the mean
    is 0 and the variance 1.

    `observe(params, observations, valid)` counts the observations in for which `valid` holds, by the pairwise update of
    Chan, Golub & LeVeque (1983); those that hold a NaN, an infinity, or a number whose square overflows are left out.
    At 1e7 observations the count stops growing: from then on mean and variance are exponential averages, which float32
    can follow. No gradient reaches the statistics, and `trainable` tells optimisers to leave them alone.

    Args:
      model: a `Policy` or `Critic` without statistics of its own.
      env: the environment; its observation space says what is normalised.
      clip: c > 0, the largest magnitude of a normalised number.
      epsilon: ε > 0, added to the variance.

    Returns: what `model` is; params is {"observations": {"count", "mean", "m2"}, "model": the model's own}. "mean" and
      "m2" have the observation's structure, with None for what is not normalised.
    Raises: ValueError for an observation space without real numbers, or a model that is normalised already.
    """
    if not isinstance(model, (Policy, Critic)):
        raise TypeError(f"model must be a Policy or a Critic; got {type(model).__name__} ({model!r:.80})")
    if model.observe is not None:
        raise ValueError("model keeps statistics of its observations already (observe): it cannot be normalised again")
    clip, epsilon = _check.positive("clip", clip), _check.positive("epsilon", epsilon)
    statistics = _Statistics(check_environment(env).observation_space)

    def init(key: Any) -> dict[str, Any]:
        return {"observations": statistics.initial(), "model": model.init(_check.key("key", key))}

    def see(params: Any, observations: Any) -> tuple[Any, Any]:
        """The model's own params, and what it sees."""
        parts = _parts(params)
        return parts["model"], statistics.normalize(parts["observations"], observations, clip, epsilon)

    def apply(params: Any, observation: Any, *carry: Any) -> Any:
        return model.apply(*see(params, observation), *carry)

    def unroll(params: Any, observations: Any, starts: Any, carry: Any) -> Any:
        assert model.unroll is not None
        return model.unroll(*see(params, observations), starts, carry)

    def observe(params: Any, observations: Any, valid: Any) -> Any:
        counted = statistics.count_in(_parts(params)["observations"], observations, valid)
        return {**params, "observations": counted}

    def trainable(params: Any) -> Any:
        inner = params["model"]
        return {
            "observations": jax.tree.map(lambda _: False, params["observations"]),
            "model": jax.tree.map(lambda _: True, inner) if model.trainable is None else model.trainable(inner),
        }

    kind, inner = ("policy" if isinstance(model, Policy) else "critic"), model.description
    fields: dict[str, Any] = dict(
        init=init,
        apply=apply,
        initial_carry=model.initial_carry,
        unroll=None if model.unroll is None else unroll,
        observe=observe,
        trainable=trainable,
        description=None if inner is None else describe(kind, "normalized", model=inner, clip=clip, epsilon=epsilon),
    )
    if isinstance(model, Critic):
        return Critic(**fields)
    make_critic = model.critic
    critic = None if make_critic is None else lambda: normalized(make_critic(), env, clip=clip, epsilon=epsilon)
    return Policy(**fields, has_value=model.has_value, critic=critic)


def _parts(params: Any) -> Any:
    if not isinstance(params, Mapping) or set(params) != {"observations", "model"}:
        got = sorted(params) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(f"params must be a normalised model's, {{'observations', 'model'}}; got {got}")
    return params


class _Statistics:
    """Count, mean and sum of squared deviations of the real numbers in the observations of a space."""

    def __init__(self, space: Any) -> None:
        self.space = space
        paths, self.structure = jax.tree_util.tree_flatten_with_path(space, is_leaf=is_leaf)
        self.spaces = [leaf for _, leaf in paths]
        masks = [len(path) == 1 and getattr(path[0], "key", None) == ACTION_MASK for path, _ in paths]
        self.real = [
            isinstance(leaf, Box) and leaf.dtype.kind == "f" and not mask
            for leaf, mask in zip(self.spaces, masks, strict=True)
        ]
        if not any(self.real):
            raise ValueError(
                f"observation_space must hold a Box of floats for its observations to be normalised; got {space}"
            )

    def initial(self) -> dict[str, Any]:
        floats = jnp.result_type(float)

        def zeros() -> Any:
            leaves = [jnp.zeros(s.shape, floats) if real else None for s, real in zip(self.spaces, self.real)]
            return self.structure.unflatten(leaves)

        return {"count": jnp.zeros((), floats), "mean": zeros(), "m2": zeros()}

    def normalize(self, statistics: Any, observations: Any, clip: Any, epsilon: Any) -> Any:
        count, means, m2s = self._leaves(jax.lax.stop_gradient(statistics))
        result = self._observed(observations)
        for k, (mean, m2) in enumerate(zip(means, m2s, strict=True)):
            if self.real[k]:
                variance = jnp.where(count > 0, m2 / jnp.maximum(count, 1), 1.0)
                deviation = jnp.asarray(result[k]).astype(mean.dtype) - mean
                result[k] = jnp.clip(deviation / jnp.sqrt(variance + epsilon), -clip, clip).astype(mean.dtype)
        return self.structure.unflatten(result)

    def count_in(self, statistics: Any, observations: Any, valid: Any) -> dict[str, Any]:
        count, means, m2s = self._leaves(statistics)
        observed, counted = self._observed(observations), jnp.asarray(valid, bool)
        for k, value in enumerate(observed):
            if self.real[k]:
                observed[k] = self._checked(k, value, counted.shape).astype(means[k].dtype)
                own_axes = tuple(range(counted.ndim, observed[k].ndim))
                counted &= jnp.all(jnp.isfinite(jnp.square(observed[k]) * MOST_COUNTED), axis=own_axes)
        # Booleans are summed as integers: float32 would stop counting at 2²⁴.
        number = jnp.sum(counted, dtype=jnp.int32).astype(count.dtype)
        total = count + number
        kept, share = jnp.minimum(total, MOST_COUNTED), number / jnp.maximum(total, 1)
        new_means, new_m2s = list(means), list(m2s)
        for k, (mean, m2) in enumerate(zip(means, m2s, strict=True)):
            if self.real[k]:
                batch_mean, batch_m2 = _moments(observed[k], counted, number)
                delta = batch_mean - mean
                m2_of_all = m2 + batch_m2 + jnp.square(delta) * count * share
                new_means[k] = jnp.where(number > 0, mean + delta * share, mean)
                new_m2s[k] = jnp.where(number > 0, m2_of_all * (kept / jnp.maximum(total, 1)), m2)
        unflatten = self.structure.unflatten
        result = {"count": kept, "mean": unflatten(new_means), "m2": unflatten(new_m2s)}
        return jax.tree.map(lambda new, old: new.astype(old.dtype), result, statistics)

    def _leaves(self, statistics: Any) -> tuple[jax.Array, list[Any], list[Any]]:
        flatten = self.structure.flatten_up_to
        return statistics["count"], flatten(statistics["mean"]), flatten(statistics["m2"])

    def _observed(self, observations: Any) -> list[Any]:
        try:
            return self.structure.flatten_up_to(observations)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"observation must have the structure of observation_space, {self.space}; got "
                f"{jax.tree_util.tree_structure(observations)}"
            ) from error

    def _checked(self, k: int, value: Any, batch: tuple[int, ...]) -> jax.Array:
        """An observation's leaf, if it has these leading axes."""
        value, shape = jnp.asarray(value), self.spaces[k].shape
        if value.shape != (*batch, *shape):
            raise ValueError(
                f"observations must have the leading axes of valid, {batch}, and then the shape of their space, "
                f"{self.spaces[k]}; got shape {value.shape}"
            )
        return value


def _moments(x: jax.Array, counted: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and sum of squared deviations over the leading axes of x, which are those of `counted`, where that holds.

    In two passes: deviations from a first mean are small, however large the mean, and correct what rounding left.
    """
    axes, number = tuple(range(counted.ndim)), jnp.maximum(number, 1)
    counted = jnp.expand_dims(counted, tuple(range(counted.ndim, x.ndim)))
    first = jnp.sum(jnp.where(counted, x, 0), axis=axes) / number
    deviation = jnp.where(counted, x - first, 0)
    rest = jnp.sum(deviation, axis=axes) / number
    return first + rest, jnp.sum(jnp.square(jnp.where(counted, deviation - rest, 0)), axis=axes)
