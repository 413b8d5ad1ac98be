"""gymnax's reset and step with one strong dtype for each leaf of the state, in 32 bits and under x64.

A gymnax state may leave reset with a Python zero and step with an array: weakly typed first, strongly after, which
would compile a jitted step twice and fail in `lax.scan`. And under x64 some environments cannot be traced, since
`lax.select` wants equal dtypes (Freeway, MetaMaze, GaussianBandit, DiscountingChain), or write 64-bit numbers into
32-bit arrays, which JAX will refuse (Seaquest, UmbrellaChain): those are played in 32 bits there. Old versions of jax
(0.7) cannot mix the two, and the first four are refused.
"""

import contextlib
import copy
import functools
import importlib
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.envs.spaces import Space, is_leaf, shape_dtype

__all__ = ["strong", "typed_functions"]


def strong(value: Any, dtype: Any) -> jax.Array:
    """`value` as an array of that dtype, never weakly typed."""
    return jax.lax.convert_element_type(jnp.asarray(value), dtype)


def typed_functions(name: str, gymnax_env: Any, params: Any, action_space: Space) -> tuple[Callable, Callable]:
    """gymnax's functions, under x64 in 32 bits where they cannot be traced otherwise.

    Returns:
      reset: key -> (state, observation), step: (key, state, action) -> (state, observation, reward, terminated,
      truncated), where the state has the same strong dtypes from both and the rest is as gymnax gives it.
    """
    x64 = jnp.result_type(float) == jnp.float64
    can_narrow = x64 and x64_may_be_off_in_a_part()
    failure: Exception | None = None
    for narrow in (False, True) if can_narrow else (False,):
        reset, step = _functions(name, gymnax_env, params, action_space, narrow)
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
    raise TypeError(f"{name} cannot be traced{hint}; its reset_env or step_env failed with: {failure}") from failure


@functools.cache
def x64_may_be_off_in_a_part() -> bool:
    """Whether jax compiles, under x64, a function that was traced with x64 off.

    jax 0.7 cannot: a Python number in it grows to 64 bits when the function is mapped.
    """

    def select(x: jax.Array) -> jax.Array:
        with _x64_off(True):
            return jax.lax.select(x > 0, 3, x)

    try:
        jax.jit(jax.vmap(jax.jit(select))).lower(jax.ShapeDtypeStruct((2,), jnp.int32))
    except ValueError:
        return False
    return True


def _functions(name: str, gymnax_env: Any, params: Any, action_space: Space, narrow: bool) -> tuple[Callable, Callable]:
    """gymnax's functions, played in 32 bits if `narrow`."""
    if narrow:
        gymnax_env, params = copy.copy(gymnax_env), jax.tree.map(_narrow, params)
        with jax.ensure_compile_time_eval():
            for attribute, value in vars(gymnax_env).items():
                setattr(gymnax_env, attribute, _narrow(value))
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
        with _x64_off(narrow):
            observation, state = gymnax_env.reset_env(key, params)
            return jax.tree.map(jnp.asarray, (state, observation))

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        with _x64_off(narrow):
            action = jax.tree.map(as_expected, action_space, action, is_leaf=is_leaf)
            observation, state, reward, terminated, _ = gymnax_env.step_env(key, state, action, params)
            truncated = gymnax_env.is_truncated(state, params)
            return jax.tree.map(jnp.asarray, (state, observation, reward, terminated, truncated))

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
        if wider == dtypes:
            return dtypes
        dtypes = wider


def _with_state_dtypes(reset: Callable, step: Callable, dtypes: Any) -> tuple[Callable, Callable]:
    def cast(state: Any) -> Any:
        return jax.tree.map(
            lambda leaf, dtype: leaf if leaf.dtype == dtype and not leaf.weak_type else strong(leaf, dtype),
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
    """The state of a gymnax environment changes its structure or a shape from reset to step."""


def _check_same_shapes(name: str, first: Any, after: Any) -> None:
    if jax.tree.structure(first) != jax.tree.structure(after):
        raise _StateError(
            f"{name}: the state must keep its structure; reset_env gives {jax.tree.structure(first)}, "
            f"step_env gives {jax.tree.structure(after)}"
        )
    for (path, before), leaf in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(after), strict=True):
        if before.shape != leaf.shape:
            raise _StateError(
                f"{name}: the state must keep its shapes; state{jax.tree_util.keystr(path)} has shape "
                f"{before.shape} after reset_env and {leaf.shape} after step_env"
            )


def _narrow(value: Any) -> Any:
    """A 64-bit array as a 32-bit one; anything else as it is."""
    narrower = {"float64": jnp.float32, "int64": jnp.int32}
    if not isinstance(value, jax.Array) or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return value
    return value.astype(narrower.get(value.dtype.name, value.dtype))


@contextlib.contextmanager
def _x64_off(active: bool):
    """Trace the body as if x64 were off."""
    if not active:
        yield
        return
    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")  # Before jax 0.8.
    with home.enable_x64(False):
        yield
