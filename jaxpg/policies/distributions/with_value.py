"""A distribution that brings the value of the state along, from a network that policy and critic share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["WithValue", "without_value"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WithValue:
    """A distribution over actions, and V(s).

    Fields:
      distribution: π(· | s). Whatever it can do, this can: `sample`, `log_prob`, `entropy`, … are its own.
      value: V(s), floats [...].
    """

    distribution: Any
    value: jax.Array

    @property
    def kl_divergence(self) -> Callable[[Any], jax.Array]:
        """other -> KL(self ‖ other) of the distributions over actions; `other` may bring a value or not."""
        divergence = self.distribution.kl_divergence
        return lambda other: divergence(without_value(other))

    def __getattr__(self, name: str) -> Any:
        # Reached for what is not defined here. While an instance is being unpickled it has no fields yet.
        if name.startswith("__") or "distribution" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.distribution, name)


def without_value(distribution: Any) -> Any:
    """The distribution over actions alone."""
    return distribution.distribution if isinstance(distribution, WithValue) else distribution
