"""Heads: from the numbers at the end of a network to a distribution over the actions of a space.

One head for each leaf of the action space. With d for the number of entries of a `Box`:

    space                  outputs                                    distribution
    Discrete(n)            n logits                                   Categorical
    MultiDiscrete(nvec)    sum(nvec) logits, entry after entry        MultiDiscrete
    Box of booleans        d logits                                   Bernoulli
    Box of floats          d means, then d log standard deviations    DiagonalNormal, or TanhNormal with squash="tanh"
    Box of floats          d and d more, shapes above 1               Beta, with squash="beta"
    dict or tuple          those of its leaves, one after the other   Joint
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.masks import ACTION_MASK
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, Space, check_space, is_leaf
from jaxpg.policies import distributions
from jaxpg.policies.features import leaf_size

__all__ = ["check_mask", "check_real", "check_squash", "head", "head_size", "mean_size", "num_scales"]

SQUASHES = ("tanh", "beta")


def check_squash(squash: Any) -> str | None:
    """None, "tanh" or "beta" for the accepted values: False, True (the same as "tanh"), "tanh", "beta"."""
    if squash is None or isinstance(squash, (bool, np.bool_)):
        return "tanh" if squash else None
    if not isinstance(squash, str):
        raise TypeError(f"squash must be False, True, 'tanh' or 'beta'; got {type(squash).__name__} ({squash!r})")
    return _check.named("squash", squash, SQUASHES)


def head_size(action_space: Space) -> int:
    """How many numbers a network must give for one action of `action_space`; what they mean is in the table above."""
    return mean_size(action_space) + num_scales(action_space)


def mean_size(action_space: Space) -> int:
    """Of those, how many depend on the observation in every policy: all but the scales of real-valued actions."""
    return sum(map(leaf_size, _leaves(action_space)))


def num_scales(action_space: Space) -> int:
    """How many numbers of an action are real, each with a scale (a log standard deviation) of its own."""
    return sum(leaf_size(leaf) for leaf in _leaves(action_space) if _is_real(leaf))


def head(action_space: Space, squash: bool | str = False) -> Callable[..., Any]:
    """A function (outputs, mask=None, log_std=None) -> distribution over `action_space`.

    Its arguments: outputs, floats [..., head_size]; mask, None or booleans like the logits of a Discrete(n), [..., n],
    or of a MultiDiscrete, [..., sum(nvec)]; log_std, None or floats [num_scales]: standard deviations that do not
    depend on the observation, and then outputs are [..., mean_size].

    Args:
      squash: how real-valued actions are kept within the bounds of their `Box`. False: a normal, whose actions are
        clipped on their way to the environment. True or "tanh": a squashed normal. "beta": a Beta distribution.
    Raises:
      ValueError: a `Box` of integers; where `squash` is given, one without finite bounds, or no `Box` of floats at all.
    """
    family = check_squash(squash)
    leaves = _leaves(action_space)
    structure = jax.tree_util.tree_structure(action_space, is_leaf=is_leaf)
    for leaf in leaves:
        _check_leaf(leaf, family)
    if family is not None:
        check_real("squash", family, action_space)

    def distribution(outputs: jax.Array, mask: jax.Array | None = None, log_std: jax.Array | None = None) -> Any:
        parts, start, scale_start = [], 0, 0
        for leaf in leaves:
            size, scales = leaf_size(leaf), None
            if _is_real(leaf) and log_std is not None:
                scales = log_std[scale_start : scale_start + size]
                scale_start += size
            stop = start + size * (2 if _is_real(leaf) and scales is None else 1)
            part = outputs if len(leaves) == 1 else outputs[..., start:stop]
            parts.append(_leaf_distribution(leaf, part, mask, scales, family))
            start = stop
        return parts[0] if is_leaf(action_space) else distributions.Joint(structure.unflatten(parts))

    return distribution


def check_real(argument: str, value: Any, action_space: Space) -> None:
    """Refuse an option for actions that are real numbers where there are none."""
    if num_scales(action_space) == 0:
        raise ValueError(
            f"{argument}={value!r} is for actions that are real numbers, a Box of floats; got the action space "
            f"{action_space}: leave {argument} out"
        )


def check_mask(observation_space: Space, action_space: Space) -> None:
    """Refuse an observation entry "action_mask" that does not fit the action space."""
    if not isinstance(observation_space, Mapping) or ACTION_MASK not in observation_space:
        return
    mask_space = observation_space[ACTION_MASK]
    if not isinstance(action_space, (Discrete, MultiDiscrete)):
        raise ValueError(
            f"an observation with an entry {ACTION_MASK!r} needs a Discrete or MultiDiscrete action "
            f"space; got {action_space}"
        )
    expected = (mean_size(action_space),)
    if getattr(mask_space, "shape", None) != expected:
        raise ValueError(
            f"observation_space[{ACTION_MASK!r}] must have shape {expected}, one entry for each choice in "
            f"{action_space}; got {mask_space}"
        )


def _leaves(action_space: Space) -> list[Any]:
    check_space("action_space", action_space)
    return jax.tree_util.tree_leaves(action_space, is_leaf=is_leaf)


def _is_real(space: Any) -> bool:
    return isinstance(space, Box) and space.dtype.kind != "b"


def _check_leaf(space: Any, squash: str | None) -> None:
    if not _is_real(space):
        return
    if space.dtype.kind != "f":
        raise ValueError(
            f"action_space must not hold a Box of integers; got {space}: describe whole numbers with "
            f"Discrete or MultiDiscrete, or use a Box of floats"
        )
    bounds = np.asarray(space.low), np.asarray(space.high)
    if squash and not (np.isfinite(bounds[0]).all() and np.isfinite(bounds[1]).all() and np.all(bounds[0] < bounds[1])):
        raise ValueError(
            f"squash={squash!r} needs an action space with finite bounds, low < high; got {space}: use squash=False"
        )


def _leaf_distribution(space: Any, outputs: jax.Array, mask: Any, log_std: Any, squash: str | None) -> Any:
    if isinstance(space, Discrete):
        return distributions.Categorical(outputs, mask)
    if isinstance(space, MultiDiscrete):
        return distributions.MultiDiscrete(outputs, space.nvec, mask)
    rank, size = len(space.shape), leaf_size(space)
    if not _is_real(space):
        return distributions.Bernoulli(_unflatten(outputs, space), event_ndim=rank)
    if log_std is None:
        first, second = outputs[..., :size], outputs[..., size:]
    else:
        first, second = outputs, jnp.broadcast_to(log_std, outputs.shape)
    first, second = _unflatten(first, space), _unflatten(second, space)
    if squash == "beta":
        return distributions.Beta(1 + jax.nn.softplus(first), 1 + jax.nn.softplus(second), space.low, space.high, rank)
    family = distributions.TanhNormal if squash == "tanh" else distributions.DiagonalNormal
    return family(first, second, space.low, space.high, rank)


def _unflatten(flat: jax.Array, space: Box) -> jax.Array:
    return flat if len(space.shape) == 1 else flat.reshape(*flat.shape[:-1], *space.shape)
