"""The policy π_θ(a | s): a pair of pure functions. A critic V_φ(s) has the same shape and gives a value."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxpg import _check

__all__ = ["Critic", "Policy"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy π_θ(a | s) as pure functions.

    Fields:
      init: key -> params, a pytree of float arrays.
      apply: (params, observation) -> distribution over actions, anything with `sample(key)` and `log_prob(action)`
        (and `entropy()`, `mode()`, `kl_divergence(other)` for what needs them). A policy with memory:
        (params, observation, carry) -> (distribution, carry).
      initial_carry: None, or the pytree of arrays that the memory holds at the first step of an episode.

    The engine calls `apply` for one observation under `vmap`; jaxpg's own policies also take leading batch axes.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    initial_carry: Any = None

    def __post_init__(self) -> None:
        _check.callable_("init", self.init, "key -> params")
        _check.callable_("apply", self.apply, "(params, observation) -> distribution")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Critic:
    """A state-value function V_φ(s) as pure functions.

    Fields:
      init: key -> params.
      apply: (params, observation) -> value, a scalar for one observation. With memory:
        (params, observation, carry) -> (value, carry).
      initial_carry: as in `Policy`.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    initial_carry: Any = None

    def __post_init__(self) -> None:
        _check.callable_("init", self.init, "key -> params")
        _check.callable_("apply", self.apply, "(params, observation) -> value")
