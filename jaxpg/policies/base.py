"""The policy π_θ(a | s): a pair of pure functions. A critic V_φ(s) has the same shape and gives a value."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.envs.base import Environment

__all__ = ["Critic", "Policy", "check_environment", "params_check"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Policy:
    """A policy π_θ(a | s) as pure functions.

    Fields:
      init: key -> params, a pytree of float arrays.
      apply: (params, observation) -> distribution over actions, anything with `sample(key)` and `log_prob(action)`
        (and `entropy()`, `mode()`, `kl_divergence(other)` for what needs them). Where a sample is not itself what the
        environment takes, `to_environment(action)` says what is. A policy with memory:
        (params, observation, carry) -> (distribution, carry).
      initial_carry: None, or the pytree of arrays that the memory holds at the first step of an episode.
      unroll: None, or for a policy with memory (params, observations [T, …], starts [T], carry) ->
        (distributions [T], carry): what `apply` gives step by step, with `initial_carry` in the place of the carry at
        each step where `starts` holds, computed faster. Without it `apply` is scanned.
      has_value: whether the distributions have an attribute `value`, V_φ(s) from a torso shared with the policy.
      critic: None, or a function () -> `Critic` that makes one like the policy.
      observe: None, or (params, observations, valid) -> params: running statistics of the observations, which are part
        of params, with those counted in for which `valid` holds. Their leading axes are any, the same for both.
        Algorithms call it once in an update, after they have learnt from the observations.
      trainable: None (all), or params -> a pytree like params of booleans: what optimisers may change.
      description: None, or the arguments as plain data, for `save_policy` and checkpoints.

    The engine calls `apply` for one observation under `vmap`; jaxpg's own policies also take leading batch axes.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    initial_carry: Any = None
    unroll: Callable[..., Any] | None = None
    has_value: bool = False
    critic: Callable[[], "Critic"] | None = None
    observe: Callable[..., Any] | None = None
    trainable: Callable[[Any], Any] | None = None
    description: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check.callable_("init", self.init, "key -> params")
        _check.callable_("apply", self.apply, "(params, observation) -> distribution")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Critic:
    """A state-value function V_φ(s) as pure functions.

    Fields:
      init: key -> params.
      apply: (params, observation) -> value, a scalar for one observation. With memory:
        (params, observation, carry) -> (value, carry).
      initial_carry, unroll (with values [T] in the place of distributions), observe, trainable, description: as in
        `Policy`.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    initial_carry: Any = None
    unroll: Callable[..., Any] | None = None
    observe: Callable[..., Any] | None = None
    trainable: Callable[[Any], Any] | None = None
    description: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check.callable_("init", self.init, "key -> params")
        _check.callable_("apply", self.apply, "(params, observation) -> value")


def check_environment(env: Any) -> Environment:
    """`env`, if it is an `Environment`."""
    return _check.instance("env", env, Environment)


def params_check(init: Callable[..., Any]) -> Callable[[Any], Any]:
    """A function that returns params as they are if they have the structure and shapes that `init` gives.

    Else it raises ValueError, while tracing: another network's params would fail further on, or not at all.
    """
    expected: list[Any] = []  # Filled at the first check: `init` need not be traced to build a policy.

    def check(params: Any) -> Any:
        if not expected:
            key = jax.eval_shape(lambda: jax.random.key(0))
            expected.append(jax.eval_shape(init, key))
        want, structure = jax.tree_util.tree_flatten_with_path(expected[0])
        if jax.tree_util.tree_structure(params) != structure:
            raise ValueError(
                f"params must have the structure that init gives, {structure}; got "
                f"{jax.tree_util.tree_structure(params)}"
            )
        for (path, leaf), value in zip(want, jax.tree_util.tree_leaves(params), strict=True):
            if jnp.shape(value) != leaf.shape:
                raise ValueError(
                    f"params{jax.tree_util.keystr(path)} must have shape {leaf.shape}; got {jnp.shape(value)}"
                )
        return params

    return check
