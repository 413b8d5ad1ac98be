"""Whether an environment keeps its promises on structure, seen by tracing it: no step is computed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.spaces import Space, is_leaf, shape_dtype

__all__ = ["EnvironmentStructure", "check_structure"]


class EnvironmentStructure(NamedTuple):
    """Shapes and dtypes, each a pytree of `jax.ShapeDtypeStruct`: state, observation, action and reward."""

    state: Any
    observation: Any
    action: Any
    reward: jax.ShapeDtypeStruct


def check_structure(environment: Environment) -> EnvironmentStructure:
    """The shapes and dtypes of an environment, once it is seen to give the same at every step.

    `reset(key)` must give (state, observation) and `step(key, state, action)` (state, Timestep), where
      - the state has the same structure, shapes and dtypes from both (weak types do not count),
      - the observation has the structure, shapes and kinds of dtype of `observation_space`, and one dtype from both,
      - the reward is a float or integer scalar, `terminated` and `truncated` are boolean scalars.

    Raises:
      TypeError, ValueError: the first of these that does not hold, by the environment's name and the leaf's path.
    """
    if not isinstance(environment, Environment):
        raise TypeError(f"environment must be a jaxpg.Environment; got {type(environment).__name__} ({environment!r})")
    name = f"environment {environment.name!r}"
    key, action = jax.eval_shape(lambda: jax.random.key(0)), shape_dtype(environment.action_space)

    state, observation = _pair(f"{name}: reset(key) must return (state, observation)",
                               _traced(f"{name}: reset", environment.reset, key))
    _check_observation(f"{name}: the observation of reset", observation, environment.observation_space)

    state_after, timestep = _pair(f"{name}: step(key, state, action) must return (state, Timestep)",
                                  _traced(f"{name}: step", environment.step, key, state, action))
    if not isinstance(timestep, Timestep):
        raise TypeError(f"{name}: step(key, state, action) must return (state, Timestep); got "
                        f"(state, {type(timestep).__name__})")
    _check_same(f"{name}: state", state, state_after)
    _check_observation(f"{name}: the observation of step", timestep.observation, environment.observation_space)
    _check_same(f"{name}: observation", observation, timestep.observation)
    _check_scalar(f"{name}: timestep.reward", timestep.reward, "if")
    _check_scalar(f"{name}: timestep.terminated", timestep.terminated, "b")
    _check_scalar(f"{name}: timestep.truncated", timestep.truncated, "b")
    return EnvironmentStructure(state, observation, action, timestep.reward)


_KINDS = {"f": "float", "i": "integer", "b": "boolean"}


def _kind(dtype: Any) -> str:
    """One letter: f for every float (bfloat16 too), i for every integer, b for booleans, else numpy's."""
    if jnp.issubdtype(dtype, jnp.floating):
        return "f"
    return "i" if jnp.issubdtype(dtype, jnp.integer) else np.dtype(dtype).kind if dtype == jnp.bool_ else "?"


def _traced(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns for abstract arguments, its leaves as `ShapeDtypeStruct`."""
    returned = []

    def record(*values: Any) -> tuple[()]:
        leaves, structure = jax.tree_util.tree_flatten_with_path(function(*values))
        described = [_described(f"{what} returned{_path(path)}", leaf) for path, leaf in leaves]
        returned.append(jax.tree_util.tree_unflatten(structure, described))
        return ()

    jax.eval_shape(record, *arguments)
    return returned[0]


def _described(what: str, leaf: Any) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float)):
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if isinstance(leaf, jax.Array) or array.dtype.kind in "biuf" or array.dtype == jnp.bfloat16:
            return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True))
    raise TypeError(f"{what} a {type(leaf).__name__} ({leaf!r}); every leaf must be an array or a number")


def _path(path: Any) -> str:
    return f" at {jax.tree_util.keystr(path)}" if path else ""


def _pair(rule: str, returned: Any) -> tuple[Any, Any]:
    if type(returned) is not tuple or len(returned) != 2:
        count = f" of {len(returned)}" if isinstance(returned, (tuple, list)) else ""
        raise TypeError(f"{rule}; got a {type(returned).__name__}{count}")
    return returned


def _check_same(what: str, before: Any, after: Any) -> None:
    """One structure, shapes and dtypes from reset and from step."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError(f"{what} must keep its structure; reset gives {jax.tree.structure(before)}, step gives "
                         f"{jax.tree.structure(after)}")
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            raise ValueError(f"{what}{_path(path)} must keep its shape and dtype; reset gives {_text(one)}, step gives "
                             f"{_text(other)}")


def _check_observation(what: str, observation: Any, space: Space) -> None:
    spaces = jax.tree.structure(space, is_leaf=is_leaf)
    if jax.tree.structure(observation) != spaces:
        raise ValueError(f"{what} must have the structure of observation_space, {spaces}; got "
                         f"{jax.tree.structure(observation)}")
    described = jax.tree.leaves(shape_dtype(space))
    for (path, leaf), expected in zip(jax.tree_util.tree_leaves_with_path(observation), described, strict=True):
        if leaf.shape != expected.shape or _kind(leaf.dtype) != _kind(expected.dtype):
            raise ValueError(f"{what}{_path(path)} must be {_text(expected)}, as observation_space has it; got "
                             f"{_text(leaf)}")


def _check_scalar(what: str, leaf: Any, kinds: str) -> None:
    accepted = f"one {' or '.join(_KINDS[kind] for kind in reversed(kinds))} scalar"
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        raise TypeError(f"{what} must be {accepted}; got a {type(leaf).__name__}")
    if leaf.shape != () or _kind(leaf.dtype) not in kinds:
        raise ValueError(f"{what} must be {accepted}; got {_text(leaf)}")


def _text(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
