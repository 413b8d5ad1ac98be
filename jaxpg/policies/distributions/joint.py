"""A joint distribution: independent distributions over the leaves of a pytree of actions."""

import dataclasses
import functools
import operator
from typing import Any

import jax
import numpy as np

from jaxpg.policies.distributions.with_value import without_value

__all__ = ["Joint", "is_distribution", "num_uniforms", "to_environment"]


def is_distribution(value: Any) -> bool:
    """Whether `value` can be sampled and has log probabilities; jaxpg asks no more of a distribution."""
    return callable(getattr(value, "sample", None)) and callable(getattr(value, "log_prob", None))


def to_environment(distribution: Any, action: Any) -> Any:
    """What to pass to `Environment.step` for an `action` drawn from `distribution`.

    It is `distribution.to_environment(action)` where the distribution has that method, as one that draws before a
    squash does, and `action` elsewhere.
    """
    transform = getattr(distribution, "to_environment", None)
    return action if transform is None else transform(action)


def num_uniforms(distribution: Any) -> int:
    """How many uniforms `distribution.from_uniforms` takes.

    Raises:
      TypeError: where the distribution has no such method.
    """
    distribution = without_value(distribution)
    if not all(callable(getattr(distribution, name, None)) for name in ("num_uniforms", "from_uniforms")):
        raise TypeError(
            f"{type(distribution).__name__} cannot be drawn from given uniforms: it needs the methods num_uniforms() "
            "and from_uniforms(uniforms) -> action, as jaxpg's Categorical and DiagonalNormal have them"
        )
    return distribution.num_uniforms()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """Independent distributions, one for each leaf of an action; the action is a pytree of the same structure.

    Fields:
      distributions: a pytree (dict, tuple, …) with a distribution at each leaf.
    """

    distributions: Any

    def _leaves(self) -> tuple[list[Any], Any]:
        return jax.tree_util.tree_flatten(self.distributions, is_leaf=is_distribution)

    def _sum(self, values: list[jax.Array]) -> jax.Array:
        return functools.reduce(operator.add, values)

    def sample(self, key: jax.Array) -> Any:
        """A draw, each leaf by a key of its own."""
        leaves, structure = self._leaves()
        keys = [jax.random.fold_in(key, index) for index in range(len(leaves))]
        return structure.unflatten([leaf.sample(key) for leaf, key in zip(leaves, keys, strict=True)])

    def num_uniforms(self) -> int:
        """How many uniforms `from_uniforms` takes: the leaves' numbers, summed."""
        return sum(num_uniforms(leaf) for leaf in self._leaves()[0])

    def from_uniforms(self, uniforms: jax.Array) -> Any:
        """Each leaf from its own part of `uniforms` [num_uniforms()], in the order of the leaves."""
        leaves, structure = self._leaves()
        stops = np.cumsum([num_uniforms(leaf) for leaf in leaves])
        # What is left over goes to the last leaf, which refuses a wrong number.
        parts = [uniforms[start:stop] for start, stop in zip([0, *stops], [*stops[:-1], None])]
        return structure.unflatten([leaf.from_uniforms(part) for leaf, part in zip(leaves, parts, strict=True)])

    def log_prob(self, action: Any) -> jax.Array:
        """The sum of the leaves' log probabilities: floats [...]."""
        leaves, structure = self._leaves()
        actions = structure.flatten_up_to(action)
        return self._sum([leaf.log_prob(value) for leaf, value in zip(leaves, actions, strict=True)])

    def entropy(self) -> jax.Array:
        """The sum of the leaves' entropies: floats [...]."""
        return self._sum([leaf.entropy() for leaf in self._leaves()[0]])

    def mode(self) -> Any:
        """The leaves' modes."""
        leaves, structure = self._leaves()
        return structure.unflatten([leaf.mode() for leaf in leaves])

    def kl_divergence(self, other: "Joint") -> jax.Array:
        """The sum of the leaves' divergences: floats [...]."""
        leaves, structure = self._leaves()
        others, other_structure = other._leaves()
        if structure != other_structure:
            raise ValueError(f"other must have the structure {structure}; got {other_structure}")
        return self._sum([leaf.kl_divergence(leaf_) for leaf, leaf_ in zip(leaves, others, strict=True)])

    def to_environment(self, action: Any) -> Any:
        """Each leaf as its own distribution passes it to the environment."""
        leaves, structure = self._leaves()
        actions = structure.flatten_up_to(action)
        return structure.unflatten([to_environment(leaf, value) for leaf, value in zip(leaves, actions, strict=True)])
