"""Whether an environment keeps its promises on structure, seen by tracing it: no step is computed."""

import weakref
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.spaces import Space, is_leaf, shape_dtype

__all__ = ["EnvironmentStructure", "check_action", "check_structure"]


class EnvironmentStructure(NamedTuple):
    """Shapes and dtypes, each a pytree of `jax.ShapeDtypeStruct`: state, observation, action and reward."""

    state: Any
    observation: Any
    action: Any
    reward: Any


# By environment and float dtype. Weak, since an environment may hold traced parameters, which must not outlive it.
_seen: MutableMapping[Environment, dict[Any, EnvironmentStructure]] = weakref.WeakKeyDictionary()


def check_structure(environment: Environment) -> EnvironmentStructure:
    """The shapes and dtypes of an environment, once it is seen to give the same at every step.

    `reset(key)` must give (state, observation) and `step(key, state, action)` (state, Timestep), where
      - the state has the same structure, shapes and dtypes from both (weak types do not count),
      - the observation has the structure, shapes and kinds of dtype of `observation_space`, and one dtype from both,
      - the reward is a float or integer scalar, `terminated` and `truncated` are boolean scalars.

    Raises:
      TypeError, ValueError: the first of these that does not hold, by the environment's name and the leaf's path.
    """
    _check.instance("env", environment, Environment)
    seen = _seen.setdefault(environment, {})
    float_dtype = jnp.result_type(float)
    if float_dtype not in seen:
        seen[float_dtype] = _structure(environment)
    return seen[float_dtype]


def _structure(environment: Environment) -> EnvironmentStructure:
    name = f"environment {environment.name!r}"
    key, action = jax.eval_shape(lambda: jax.random.key(0)), shape_dtype(environment.action_space)

    state, observation = _pair(
        f"{name}: reset(key) must return (state, observation)", _traced(f"{name}: reset", environment.reset, key)
    )
    _check_observation(f"{name}: the observation of reset", observation, environment.observation_space)

    state_after, timestep = _pair(
        f"{name}: step(key, state, action) must return (state, Timestep)",
        _traced(f"{name}: step", environment.step, key, state, action),
    )
    if not isinstance(timestep, Timestep):
        raise TypeError(
            f"{name}: step(key, state, action) must return (state, Timestep); got (state, {type(timestep).__name__})"
        )
    _check_same(f"{name}: state", state, state_after)
    _check_observation(f"{name}: the observation of step", timestep.observation, environment.observation_space)
    _check_same(f"{name}: observation", observation, timestep.observation)
    _check_scalar(f"{name}: timestep.reward", timestep.reward, "float", "integer")
    _check_scalar(f"{name}: timestep.terminated", timestep.terminated, "boolean")
    _check_scalar(f"{name}: timestep.truncated", timestep.truncated, "boolean")
    return EnvironmentStructure(state, observation, action, timestep.reward)


def check_action(environment: Environment, action: Any) -> None:
    """Raises where `action`, arrays or their shapes and dtypes, is not of the action space's structure, shapes, kinds.

    A policy for another action space would play on otherwise: actions broadcast, and integers pass for numbers.
    """
    space = environment.action_space
    what = f"the action of the policy for {environment.name!r}, whose action_space is {space},"
    spaces, found = jax.tree.structure(space, is_leaf=is_leaf), jax.tree.structure(action)
    if found != spaces:
        raise ValueError(f"{what} must have its structure, {spaces}; got {found}")
    described = jax.tree.leaves(shape_dtype(space))
    for (path, leaf), expected in zip(jax.tree_util.tree_leaves_with_path(action), described, strict=True):
        shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
        kinds = {_kind(expected.dtype)} | ({"boolean"} if _kind(expected.dtype) == "integer" else set())
        if shape != expected.shape or _kind(dtype) not in kinds:
            raise ValueError(
                f"{what}{_path(path)} must be {_text(expected)}; got {_text(jax.ShapeDtypeStruct(shape, dtype))}: is "
                f"the policy made for this environment?"
            )


_KINDS = {"float": jnp.floating, "integer": jnp.integer, "boolean": jnp.bool_}


def _kind(dtype: Any) -> str:
    return next((kind for kind, scalar in _KINDS.items() if jnp.issubdtype(dtype, scalar)), str(dtype))


def _traced(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function` returns for abstract arguments, its leaves as `ShapeDtypeStruct`."""
    returned = []

    def record(*values: Any) -> tuple[()]:
        leaves, structure = jax.tree_util.tree_flatten_with_path(function(*values))
        described = [_described(f"{what} returned{_path(path)}", leaf) for path, leaf in leaves]
        returned.append(jax.tree_util.tree_unflatten(structure, described))
        return ()

    try:
        jax.eval_shape(record, *arguments)
    except Exception as error:
        error.add_note(f"This came while {what} was traced to check the environment's structure.")
        raise
    return returned[0]


def _described(what: str, leaf: Any) -> jax.ShapeDtypeStruct:
    try:
        array = jnp.asarray(leaf)
    except TypeError:
        raise TypeError(f"{what} a {type(leaf).__name__} ({leaf!r}); every leaf must be an array or a number") from None
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


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
        raise ValueError(
            f"{what} must keep its structure; reset gives {jax.tree.structure(before)}, step gives "
            f"{jax.tree.structure(after)}"
        )
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            raise ValueError(
                f"{what}{_path(path)} must keep its shape and dtype; reset gives {_text(one)}, step gives "
                f"{_text(other)}"
            )


def _check_observation(what: str, observation: Any, space: Space) -> None:
    spaces = jax.tree.structure(space, is_leaf=is_leaf)
    if jax.tree.structure(observation) != spaces:
        raise ValueError(
            f"{what} must have the structure of observation_space, {spaces}; got {jax.tree.structure(observation)}"
        )
    described = jax.tree.leaves(shape_dtype(space))
    for (path, leaf), expected in zip(jax.tree_util.tree_leaves_with_path(observation), described, strict=True):
        if leaf.shape != expected.shape or _kind(leaf.dtype) != _kind(expected.dtype):
            raise ValueError(
                f"{what}{_path(path)} must be {_text(expected)}, as observation_space has it; got {_text(leaf)}"
            )


def _check_scalar(what: str, leaf: Any, *kinds: str) -> None:
    accepted = f"one {' or '.join(kinds)} scalar"
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        raise TypeError(f"{what} must be {accepted}; got a {type(leaf).__name__}")
    if leaf.shape != () or _kind(leaf.dtype) not in kinds:
        raise ValueError(f"{what} must be {accepted}; got {_text(leaf)}")


def _text(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"
