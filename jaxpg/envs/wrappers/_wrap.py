"""What all wrappers share: the record they make, the objects they find again, and looks at functions by tracing."""

import dataclasses
import weakref
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import ACTION_MASK, without_mask
from jaxpg.envs.spaces import Box, Space, is_leaf

__all__ = [
    "check_environment",
    "inner_state",
    "kept",
    "looked_at",
    "map_unmasked",
    "real_line",
    "select",
    "strong",
    "with_entry",
    "with_entry_space",
    "wrapped",
]

# By what they were made of. A wrapped environment holds the one within, which may hold traced parameters: kept here for
# as long as something else holds it, and no longer. Compiled functions do hold theirs.
_made: MutableMapping[Any, Environment] = weakref.WeakValueDictionary()


def check_environment(env: Any) -> Environment:
    return _check.instance("env", env, Environment)


def kept(build: Callable[[], Environment], *made_of: Any) -> Environment:
    """`build()`, or what it gave before for equal `made_of`."""
    # 1, 1.0 and True are equal but may mean different things; spaces follow the float dtype.
    key = (made_of, tuple(map(type, made_of)), jnp.result_type(float))
    try:
        found = _made.get(key)
    except TypeError:  # Arrays and traced values have no hash.
        return build()
    if found is None:
        found = _made[key] = build()
    return found


def wrapped(env: Environment, suffix: str, *, inner: Callable[[Any], Any] | None = None, **changes: Any) -> Environment:
    """`env` with some fields changed; `inner` gives the state within a wrapped one where the two differ."""
    draw = env.render
    if draw is not None and inner is not None:

        def render(state: Any) -> Any:
            return draw(inner(state))

        changes["render"] = render
    return dataclasses.replace(env, name=f"{env.name}, {suffix}", **changes)


def inner_state(state: Any) -> Any:
    """The state within that of a wrapper."""
    return state.inner


def strong(value: Any) -> jax.Array:
    """An array that is not weakly typed."""
    array = jnp.asarray(value)
    return (
        array if jnp.issubdtype(array.dtype, jax.dtypes.extended) else jax.lax.convert_element_type(array, array.dtype)
    )


def select(flag: jax.Array, when_true: Any, when_false: Any) -> Any:
    """One of two pytrees, by a boolean scalar."""
    return jax.tree.map(lambda new, old: jnp.where(flag, new, old), when_true, when_false)


def looked_at(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The shapes and dtypes of what `function` returns, as `jax.ShapeDtypeStruct`; nothing is computed."""
    try:
        return jax.eval_shape(lambda *values: jax.tree.map(strong, function(*values)), *arguments)
    except Exception as error:
        error.add_note(f"This came while {what} was traced to see what it returns.")
        raise


def real_line(leaf: Any) -> Box:
    """The space of all arrays of a shape and dtype; booleans lie in [0, 1]."""
    return Box(0, 1, leaf.shape, leaf.dtype) if leaf.dtype == np.bool_ else Box(-np.inf, np.inf, leaf.shape, leaf.dtype)


def map_unmasked(function: Callable[..., Any], space: Space, *values: Any) -> Any:
    """`function(space, *values)` at each leaf of an observation space; the action mask of the last is put back."""
    result = jax.tree.map(function, without_mask(space), *map(without_mask, values), is_leaf=is_leaf)
    last = values[-1] if values else space
    if isinstance(last, Mapping) and ACTION_MASK in last:
        return {**result, ACTION_MASK: last[ACTION_MASK]}
    return result


def with_entry(observation: Any, name: str, value: Any) -> Any:
    """A dict with one more entry; what is no dict becomes its entry "observation"."""
    return {**(observation if isinstance(observation, Mapping) else {"observation": observation}), name: value}


def with_entry_space(env: Environment, name: str, space: Space) -> Space:
    """The space of `with_entry`. A ValueError where the observations of `env` have an entry of that name."""
    if isinstance(env.observation_space, Mapping) and name in env.observation_space:
        raise ValueError(
            f"observe=True adds an entry {name!r} to the observations, and those of {env.name} have one: "
            f"{env.observation_space}"
        )
    return with_entry(env.observation_space, name, space)
