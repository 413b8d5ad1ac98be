"""gymnax environments as `Environment`: terminated and truncated apart, strong dtypes, no reset inside a step.

What the adapter keeps as gymnax has it:
- Actions pass through unclipped. Pendulum, PointRobot and MountainCarContinuous clip the force themselves (the last
  charges for the action as it came, as gymnasium does); Reacher and Swimmer do not clip.
- An observation or reward that shows the limit (DiscountingChain, the bandits, MetaMaze) shows `max_steps`.
- MetaMaze goes on after the goal: it moves the agent elsewhere, and terminates when that place is the goal again.

What it changes: the observation gets the dtype of its space, the reward the default float dtype, each leaf of the
state one dtype for reset and step; a bound at the largest float is written as infinite. Where `terminated` and
`truncated` come at the same step both are true: the episode has ended, and the value of what follows is 0.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.spaces import Box, Discrete, Space

__all__ = ["from_gymnax"]


def from_gymnax(gymnax_env: Any, gymnax_params: Any = None, *, max_steps: int | None = None,
                name: str | None = None) -> Environment:
    """An `Environment` from a gymnax environment (gymnax 1.0 or later).

    Args:
      gymnax_env: the first of what `gymnax.make` gives, or an environment of your own in that form. Its `step_env`
        reports the natural end alone as done; the time limit is what `is_truncated(state, params)` says.
      gymnax_params: its parameters; the default is `gymnax_env.default_params`. Leaves may be traced, so environments
        can be mapped over. A bound of a space that depends on a traced parameter is given as infinite.
      max_steps: the episode limit in place of `gymnax_params.max_steps_in_episode`. Where that is traced and no
        `max_steps` is given, the limit holds but `environment.max_steps` is None.
      name: the default is `gymnax_env.name`.
    Raises:
      TypeError: `gymnax_env` or `gymnax_params` is not what gymnax calls so, or its state changes shape.
      ValueError: a parameter is NaN; `max_steps` is below 1.
    """
    _check_gymnax(gymnax_env, gymnax_params)
    name = str(gymnax_env.name) if name is None else name
    with jax.ensure_compile_time_eval():
        params = gymnax_env.default_params if gymnax_params is None else gymnax_params
        _check_not_nan(name, params)
        params, limit = _with_limit(params, max_steps)
        observation_space = _space(lambda p: gymnax_env.observation_space(p), params)
        action_space = _space(lambda p: gymnax_env.action_space(p), params)
    raw = _Raw(name, gymnax_env, params, action_space)

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state, observation = raw.reset(key)
        return _cast(state, raw.state_dtypes), _cast_to_space(observation, observation_space)

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Timestep]:
        state, observation, reward, terminated, truncated = raw.step(key, state, action)
        timestep = Timestep(
            observation=_cast_to_space(observation, observation_space),
            reward=_strong(reward, raw.float_dtype),
            terminated=_strong(terminated, jnp.bool_),
            truncated=_strong(truncated, jnp.bool_))
        return _cast(state, raw.state_dtypes), timestep

    return Environment(reset=reset, step=step, observation_space=observation_space, action_space=action_space,
                       max_steps=limit, name=name)


class _Raw:
    """gymnax's own reset and step, with the number formats under which they can be traced.

    gymnax joins integers with `lax.select`, which wants equal dtypes, and some of its environments fix int32 where
    others take the default integer; three (Freeway, MetaMaze, GaussianBandit) cannot be traced under x64 at all and
    are played in 32 bits there. So the formats are tried in turn, once, when the environment is built.
    """

    def __init__(self, name: str, gymnax_env: Any, params: Any, action_space: Space) -> None:
        self.env, self.params, self.action_space = gymnax_env, params, action_space
        self.float_dtype = jnp.result_type(float)
        x64 = bool(jax.config.jax_enable_x64)
        failure: Exception | None = None
        for integer, bits32 in ((jnp.int32, False), (jnp.int64, False), (jnp.int32, True))[:3 if x64 else 1]:
            self.integer, self.bits32 = integer, bits32
            try:
                self.state_dtypes = self._fixed_dtypes(name)
                return
            except _StateShapeError:
                raise
            except (TypeError, ValueError) as error:
                failure = failure or error
        raise TypeError(f"{name} cannot be traced: its reset_env or step_env failed with {failure}") from failure

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        with _only_32_bits(self.bits32):
            observation, state = self.env.reset_env(key, self._params())
        return state, observation

    def step(self, key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        with _only_32_bits(self.bits32):
            params = self._params()
            action = jax.tree.map(self._cast_action, self.action_space, action, is_leaf=_is_space)
            observation, state, reward, terminated, _ = self.env.step_env(key, state, action, params)
            truncated = self.env.is_truncated(state, params)
        return state, observation, reward, terminated, truncated

    def _cast_action(self, space: Any, action: Any) -> jax.Array:
        """The action as gymnax's own samples are: its integer format, or the default float, in the space's shape."""
        dtype = jnp.result_type(float) if np.dtype(space.dtype).kind == "f" else self.integer
        return _strong(action, dtype).reshape(space.shape)

    def _params(self) -> Any:
        """The parameters; for a play in 32 bits under x64, traced ones are narrowed too."""
        narrow = {"f": jnp.float32, "i": jnp.int32}
        return jax.tree.map(lambda leaf: leaf.astype(narrow.get(leaf.dtype.kind, leaf.dtype))
                            if self.bits32 and isinstance(leaf, jax.Array) else leaf, self.params)

    def _fixed_dtypes(self, name: str) -> Any:
        """A dtype for each leaf of the state such that a step from these dtypes gives these dtypes."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        action = jax.tree.map(lambda space: jax.ShapeDtypeStruct(space.shape, space.dtype), self.action_space,
                              is_leaf=_is_space)
        first, _ = jax.eval_shape(self.reset, key)
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, first)
        for _ in range(4):
            state = jax.tree.map(lambda leaf, dtype: jax.ShapeDtypeStruct(leaf.shape, dtype), first, dtypes)
            after, *_ = jax.eval_shape(self.step, key, state, action)
            _check_same_shapes(name, first, after)
            wider = jax.tree.map(lambda dtype, leaf: _promote(dtype, leaf.dtype), dtypes, after)
            if wider == dtypes:
                return dtypes
            dtypes = wider
        return dtypes


class _StateShapeError(TypeError):
    """The state of a gymnax environment changes its structure or a shape from reset to step."""


def _check_same_shapes(name: str, first: Any, after: Any) -> None:
    if jax.tree.structure(first) != jax.tree.structure(after):
        raise _StateShapeError(f"{name}: the state must keep its structure; reset_env gives "
                               f"{jax.tree.structure(first)}, step_env gives {jax.tree.structure(after)}")
    for (path, before), leaf in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(after), strict=True):
        if before.shape != leaf.shape:
            raise _StateShapeError(f"{name}: the state must keep its shapes; state{jax.tree_util.keystr(path)} has shape "
                                   f"{before.shape} after reset_env and {leaf.shape} after step_env")


def _promote(one: Any, other: Any) -> Any:
    return one if one == other else jnp.promote_types(one, other)


def _strong(value: Any, dtype: Any) -> jax.Array:
    """`value` as an array of that dtype, never weakly typed: a weak type that a step drops would compile it twice."""
    return jax.lax.convert_element_type(jnp.asarray(value), dtype)


def _cast(tree: Any, dtypes: Any) -> Any:
    return jax.tree.map(lambda leaf, dtype: leaf if jnp.issubdtype(dtype, jax.dtypes.extended)
                        else _strong(leaf, dtype), tree, dtypes)


def _cast_to_space(observation: Any, space: Space) -> Any:
    return jax.tree.map(lambda leaf_space, leaf: _strong(leaf, leaf_space.dtype), space, observation, is_leaf=_is_space)


def _is_space(value: Any) -> bool:
    return isinstance(value, (Discrete, Box))


@contextlib.contextmanager
def _only_32_bits(active: bool):
    """Trace the body as if x64 were off."""
    if not active:
        yield
        return
    enable_x64 = getattr(jax, "enable_x64", None)
    if not callable(enable_x64):  # Before jax 0.8 it lived here.
        from jax.experimental import enable_x64
    with enable_x64(False):
        yield


def _check_gymnax(gymnax_env: Any, gymnax_params: Any) -> None:
    """A TypeError, unless these look like gymnax's environment and its parameters."""
    needed = ("reset_env", "step_env", "is_truncated", "default_params", "observation_space", "action_space")
    missing = [attribute for attribute in needed if not hasattr(gymnax_env, attribute)]
    if isinstance(gymnax_env, tuple):
        raise TypeError("gymnax_env must be one gymnax environment; got a tuple: unpack what gymnax.make gives, "
                        "from_gymnax(*gymnax.make(name))")
    if missing or isinstance(gymnax_env, type):
        lacks = f" that lacks {', '.join(missing)}" if missing else ""
        raise TypeError(f"gymnax_env must be an environment of gymnax 1.0 or later; got {type(gymnax_env).__name__}"
                        f"{lacks} ({gymnax_env!r})")
    expected = type(gymnax_env.default_params) if gymnax_params is not None else None
    if expected is not None and not isinstance(gymnax_params, expected):
        raise TypeError(f"gymnax_params must be the {expected.__module__}.{expected.__name__} of this environment; got "
                        f"{type(gymnax_params).__name__} ({gymnax_params!r})")


def _check_not_nan(name: str, params: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if _check.is_concrete(leaf) and np.asarray(leaf).dtype.kind == "f" and np.isnan(np.asarray(leaf)).any():
            raise ValueError(f"{name}: parameter {jax.tree_util.keystr(path).lstrip('.')} must not be NaN; got {leaf}")


def _with_limit(params: Any, max_steps: int | None) -> tuple[Any, int | None]:
    """The parameters with the limit put in, and the limit where it is known now."""
    field = "max_steps_in_episode"
    current = getattr(params, field, None)
    if max_steps is None:
        return params, int(current) if current is not None and _check.is_concrete(current) else None
    max_steps = _check.count("max_steps", max_steps)
    if current is None:
        return params, max_steps  # No limit of its own: the rollout cuts episodes at `environment.max_steps`.
    same_type = float if isinstance(current, float) else int  # BernoulliBandit counts in floats.
    return dataclasses.replace(params, **{field: same_type(max_steps)}), max_steps


def _space(make: Callable[[Any], Any], params: Any) -> Space:
    """The space of concrete parameters; a bound that depends on a traced one comes out as NaN and is made infinite.

    A traced number is replaced by NaN, a traced flag by both its values.
    """
    def known(flag: bool) -> Any:
        return jax.tree.map(lambda leaf: leaf if _check.is_concrete(leaf) else
                            (flag if leaf.dtype == jnp.bool_ else np.full(leaf.shape, np.nan, np.float32)), params)

    if all(map(_check.is_concrete, jax.tree.leaves(params))):
        return _convert(make(params))
    return jax.tree.map(_union, _convert(make(known(False))), _convert(make(known(True))), is_leaf=_is_space)


def _union(one: Any, other: Any) -> Any:
    if not isinstance(one, Box):
        return one
    return Box(np.minimum(one.low, other.low), np.maximum(one.high, other.high), one.shape, one.dtype)


def _convert(space: Any) -> Space:
    """gymnax's space as one of ours; floats get the default float dtype."""
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(int(space.n), jnp.int32)
    if kind == "Box":
        dtype = np.dtype(space.dtype)
        shape = (space.shape,) if np.ndim(space.shape) == 0 else tuple(space.shape)
        low, high = (_bound(bound, side, shape) for bound, side in ((space.low, -np.inf), (space.high, np.inf)))
        return Box(low, high, shape, jnp.result_type(float) if dtype.kind == "f" else dtype)
    if kind == "Dict":
        return {key: _convert(child) for key, child in space.spaces.items()}
    if kind == "Tuple":
        return tuple(_convert(child) for child in space.spaces)
    raise TypeError(f"a space must be a gymnax Discrete, Box, Dict or Tuple; got {kind} ({space!r})")


def _bound(bound: Any, side: float, shape: tuple[int, ...]) -> np.ndarray:
    """A bound as float64; one that is unknown (NaN) or the largest float is infinite."""
    bound = np.asarray(bound, np.float64)
    unlimited = np.isnan(bound) | (np.abs(bound) >= float(np.finfo(np.float32).max))
    return np.broadcast_to(np.where(unlimited, side, bound), shape)
