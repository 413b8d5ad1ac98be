"""An `Environment` from a suite's functions: one strong dtype for each leaf of the state, in 32 bits and under x64.

A suite's state may leave reset with a Python zero and step with an array: weakly typed first, strongly after, which
would compile a jitted step twice and fail in `lax.scan`. And under x64 some environments cannot be traced, since
`lax.select` wants equal dtypes (gymnax's Freeway, MetaMaze, GaussianBandit, DiscountingChain), or write 64-bit numbers
into 32-bit arrays, which JAX will refuse (Seaquest, UmbrellaChain): those are played in 32 bits there. Old versions of
jax (0.7) cannot mix the two, and the first four are refused.
"""

import contextlib
import functools
import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.spaces import Space, is_leaf, shape_dtype

__all__ = ["adapted", "narrowed", "strong", "x64_off"]

# The functions of a suite, for x64 off (True) or as it is (False):
#   reset: key -> (state, observation),
#   step: (key, state, action) -> (state, observation, reward, terminated, truncated).
Functions = Callable[[bool], tuple[Callable, Callable]]


def adapted(
    name: str,
    functions: Functions,
    *,
    observation_space: Space,
    action_space: Space,
    max_steps: int | None,
    render: Callable[[Any], Any] | None = None,
) -> Environment:
    """An `Environment` that plays what `functions(narrow)` gives, in the dtypes of its spaces.

    Actions are checked against the action space's shape and kind and get its dtype; observations get the dtypes of
    their space, rewards the default float dtype, flags are booleans, and the state keeps its dtypes. Under x64 the
    suite is played in 32 bits, `functions(True)`, where it cannot be traced otherwise.
    """
    typed_reset, typed_step = _typed_functions(name, functions, action_space)
    reward_dtype = jnp.result_type(float)

    def in_space(observation: Any) -> Any:
        return jax.tree.map(
            lambda space, leaf: strong(leaf, space.dtype), observation_space, observation, is_leaf=is_leaf
        )

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state, observation = typed_reset(key)
        return state, in_space(observation)

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Timestep]:
        state, observation, reward, terminated, truncated = typed_step(key, state, action)
        return state, Timestep(
            observation=in_space(observation),
            reward=strong(reward, reward_dtype),
            terminated=strong(terminated, jnp.bool_),
            truncated=strong(truncated, jnp.bool_),
        )

    return Environment(
        reset=reset,
        step=step,
        observation_space=observation_space,
        action_space=action_space,
        max_steps=max_steps,
        name=name,
        render=render,
    )


def strong(value: Any, dtype: Any) -> jax.Array:
    """`value` as an array of that dtype, never weakly typed."""
    return jax.lax.convert_element_type(jnp.asarray(value), dtype)


def _typed_functions(name: str, functions: Functions, action_space: Space) -> tuple[Callable, Callable]:
    """The suite's functions, under x64 in 32 bits where they cannot be traced otherwise.

    The state has the same strong dtypes from both; the rest is as the suite gives it.
    """
    x64 = jnp.result_type(float) == jnp.float64
    can_narrow = x64 and x64_may_be_off_in_a_part()
    failure: Exception | None = None
    for narrow in (False, True) if can_narrow else (False,):
        reset, step = _functions(name, functions, action_space, narrow)
        try:
            with warnings.catch_warnings():  # Of numbers that are cut to fit into a narrower array.
                warnings.simplefilter("error" if can_narrow else "ignore", FutureWarning)
                dtypes = _fixed_dtypes(name, reset, step, action_space)
        except _StateError:
            raise
        except (TypeError, ValueError, FutureWarning) as error:
            failure = failure or error
            continue
        return _with_state_dtypes(reset, step, dtypes)
    hint = f" (under x64; jax {jax.__version__} cannot play it in 32 bits there)" if x64 and not can_narrow else ""
    raise TypeError(f"{name} cannot be traced{hint}; its functions failed with: {failure}") from failure


@functools.cache
def x64_may_be_off_in_a_part() -> bool:
    """Whether jax compiles, under x64, a function that was traced with x64 off.

    jax 0.7 cannot: a Python number in it grows to 64 bits when the function is mapped.
    """

    def select(x: jax.Array) -> jax.Array:
        with x64_off(True):
            return jax.lax.select(x > 0, 3, x)

    try:
        jax.jit(jax.vmap(jax.jit(select))).lower(jax.ShapeDtypeStruct((2,), jnp.int32))
    except ValueError:
        return False
    return True


def _functions(name: str, functions: Functions, action_space: Space, narrow: bool) -> tuple[Callable, Callable]:
    """The suite's functions with checked actions, played in 32 bits if `narrow`."""
    suite_reset, suite_step = functions(narrow)
    floating = jnp.float32 if narrow else jnp.result_type(float)

    def as_expected(space: Any, action: Any) -> jax.Array:
        action = jnp.asarray(action)
        kind = jnp.dtype(space.dtype).kind
        if action.size != math.prod(space.shape) or (kind in "iu" and action.dtype.kind not in "iub"):
            raise ValueError(
                f"{name}: action must be in {space}, of {jnp.dtype(space.dtype).name}{list(space.shape)}; "
                f"got {action.dtype.name}{list(action.shape)}"
            )
        return strong(action, floating if kind == "f" else space.dtype).reshape(space.shape)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        with x64_off(narrow):
            return jax.tree.map(jnp.asarray, tuple(suite_reset(key)))

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        with x64_off(narrow):
            action = jax.tree.map(as_expected, action_space, action, is_leaf=is_leaf)
            return jax.tree.map(jnp.asarray, tuple(suite_step(key, state, action)))

    return reset, step


def _fixed_dtypes(name: str, reset: Callable, step: Callable, action_space: Space) -> Any:
    """A dtype for each leaf of the state such that a step from these dtypes gives these dtypes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    first, _ = jax.eval_shape(reset, key)
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, first)
    while True:  # Each round widens a dtype or ends.
        state = jax.tree.map(lambda leaf, dtype: jax.ShapeDtypeStruct(leaf.shape, dtype), first, dtypes)
        after, *_ = jax.eval_shape(step, key, state, shape_dtype(action_space))
        _check_same_shapes(name, first, after)
        wider = jax.tree.map(
            lambda dtype, leaf: dtype if dtype == leaf.dtype else jnp.promote_types(dtype, leaf.dtype), dtypes, after
        )
        if jax.tree.leaves(wider) == jax.tree.leaves(dtypes):  # A suite's own records may have an == of their own.
            return dtypes
        dtypes = wider


def _with_state_dtypes(reset: Callable, step: Callable, dtypes: Any) -> tuple[Callable, Callable]:
    def cast(state: Any) -> Any:
        return jax.tree.map(
            # A key has no weak type.
            lambda leaf, dtype: (
                leaf if leaf.dtype == dtype and not getattr(leaf, "weak_type", False) else strong(leaf, dtype)
            ),
            state,
            dtypes,
        )

    def typed_reset(key: jax.Array) -> tuple[Any, Any]:
        state, observation = reset(key)
        return cast(state), observation

    def typed_step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        state, *rest = step(key, state, action)
        return cast(state), *rest

    return typed_reset, typed_step


class _StateError(TypeError):
    """The state of an environment changes its structure or a shape from reset to step."""


def _check_same_shapes(name: str, first: Any, after: Any) -> None:
    if jax.tree.structure(first) != jax.tree.structure(after):
        raise _StateError(
            f"{name}: the state must keep its structure; reset gives {jax.tree.structure(first)}, "
            f"step gives {jax.tree.structure(after)}"
        )
    for (path, before), leaf in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(after), strict=True):
        if before.shape != leaf.shape:
            raise _StateError(
                f"{name}: the state must keep its shapes; state{jax.tree_util.keystr(path)} has shape "
                f"{before.shape} after reset and {leaf.shape} after step"
            )


def narrowed(value: Any) -> Any:
    """A 64-bit array as a 32-bit one; anything else as it is."""
    narrower = {"float64": jnp.float32, "int64": jnp.int32}
    if not isinstance(value, jax.Array) or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    return value.astype(narrower.get(value.dtype.name, value.dtype))


@contextlib.contextmanager
def x64_off(active: bool):
    """Trace the body as if x64 were off."""
    if not active:
        yield
        return
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")  # Before jax 0.8.
    with home.enable_x64(False):
        yield
