"""XLand-MiniGrid environments (`xminigrid`) as `Environment`: terminated and truncated apart, no reset inside a step.

What the adapter keeps as xminigrid has it:
- An observation is what the agent sees, tile and colour codes [view, view, 2] in unsigned bytes; of a wrapped
  environment (direction, rules and goals, pixels) its dict. The agent sees through walls, and not what it carries.
- The reward of a reached goal is 1 − 0.9 · step / limit, so a longer `max_steps` changes what a late goal is worth.
- Layouts, and what is drawn in an episode, come from the key of `reset`; `step` draws nothing.
- The worlds "XLand-MiniGrid-…" need a task, `ruleset=`. Their default is the empty one: no goal, all rewards are 0.
  `xminigrid.load_benchmark(name)` downloads some; nothing is downloaded here. "MiniGrid-Playground" has no goal either.

What it changes: a goal that is reached at the very step of the limit is both `terminated` and `truncated`.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs._adapted import adapted, narrowed
from jaxpg.envs._keys import plain_key
from jaxpg.envs._parameters import check_names
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete

__all__ = ["available", "from_xminigrid", "make"]

_LIMIT = "max_steps"


def from_xminigrid(
    xminigrid_env: Any, params: Any = None, *, max_steps: int | None = None, name: str | None = None
) -> Environment:
    """An `Environment` from an environment of xminigrid: `from_xminigrid(*xminigrid.make(name))`.

    Args:
      xminigrid_env: the first of what `xminigrid.make` gives; also one in xminigrid's wrappers for observations.
      params: the second; the default is `xminigrid_env.default_params()`. A ruleset in it may be traced.
      max_steps: the episode limit in place of `params.max_steps`.
      name: the default is the name of the class.
    Raises:
      TypeError: `xminigrid_env` or `params` is none, or the environment resets itself.
      ValueError: `max_steps` is below 1.
    """
    _check_interface(xminigrid_env, params)
    name = type(_layers(xminigrid_env)[-1]).__name__ if name is None else name
    with jax.ensure_compile_time_eval():
        params = xminigrid_env.default_params() if params is None else params
        limit = _check.count("max_steps", params.max_steps if max_steps is None else max_steps)
        params = params.replace(max_steps=limit)
    observation = jax.eval_shape(lambda key: xminigrid_env.reset(params, key).observation, jax.random.key(0))

    def functions(narrow: bool) -> tuple[Callable, Callable]:
        return _functions(xminigrid_env, jax.tree.map(narrowed, params) if narrow else params)

    def render(state: Any) -> np.ndarray:
        picture = xminigrid_env.render(params.replace(render_mode="rgb_array"), state)
        return np.asarray(picture, np.uint8)

    return adapted(
        name,
        functions,
        observation_space=_observation_space(observation),
        action_space=Discrete(int(xminigrid_env.num_actions(params))),
        max_steps=limit,
        render=render,
    )


def available() -> tuple[str, ...]:
    """The names that xminigrid has registered."""
    return tuple(_imported("xminigrid").registered_environments())


def make(name: str, max_steps: int | None, parameters: Mapping[str, Any]) -> Environment:
    """The environment that `jaxpg.make("xminigrid/name")` gives. The parameters are the fields of its `EnvParams`."""
    xminigrid = _imported("xminigrid")
    _check.named("name", name, available())
    with jax.ensure_compile_time_eval():
        environment, defaults = xminigrid.make(name)
    check_names(name, parameters, [field.name for field in dataclasses.fields(defaults)], limit=_LIMIT)
    params = defaults.replace(**parameters)
    return from_xminigrid(environment, params, max_steps=max_steps, name=f"xminigrid/{name}")


def _functions(xminigrid_env: Any, params: Any) -> tuple[Callable, Callable]:
    def reset(key: jax.Array) -> tuple[Any, Any]:
        timestep = xminigrid_env.reset(params, plain_key(key))
        return timestep, timestep.observation

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        del key
        timestep = xminigrid_env.step(params, state, action)
        terminated = timestep.last() & (timestep.discount == 0)
        truncated = timestep.state.step_num >= params.max_steps
        return timestep, timestep.observation, timestep.reward, terminated, truncated

    return reset, step


def _observation_space(observation: Any) -> Any:
    """The space of an observation of these shapes: xminigrid has no spaces of its own."""
    if isinstance(observation, Mapping):
        return {entry: _leaf_space(entry, leaf) for entry, leaf in observation.items()}
    return _leaf_space("img", observation)


def _leaf_space(entry: str, leaf: Any) -> Box:
    constants = _imported("xminigrid.core.constants")
    if entry == "img" and leaf.shape[-1] == constants.NUM_LAYERS:
        highest = [constants.NUM_TILES - 1, constants.NUM_COLORS - 1]
        return Box(0, np.broadcast_to(highest, leaf.shape), leaf.shape, leaf.dtype)
    if entry == "direction":
        return Box(0, 1, leaf.shape, leaf.dtype)  # One-hot.
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        bounds = jnp.iinfo(leaf.dtype)
        return Box(bounds.min, bounds.max, leaf.shape, leaf.dtype)
    return Box(-np.inf, np.inf, leaf.shape, leaf.dtype)


def _check_interface(xminigrid_env: Any, params: Any) -> None:
    """A TypeError, unless these look like xminigrid's environment and its parameters."""
    if isinstance(xminigrid_env, tuple):
        raise TypeError(
            "xminigrid_env must be one environment of xminigrid; got a tuple: unpack what xminigrid.make gives, "
            "from_xminigrid(*xminigrid.make(name))"
        )
    needed = ("reset", "step", "default_params", "num_actions", "observation_shape")
    missing = [attribute for attribute in needed if not hasattr(xminigrid_env, attribute)]
    if missing or isinstance(xminigrid_env, type):
        lacks = f", which lacks {', '.join(missing)}" if missing else ", the class and not an instance of it"
        raise TypeError(f"xminigrid_env must be an environment of xminigrid; got {xminigrid_env!r}{lacks}")
    for layer in _layers(xminigrid_env):
        if "AutoReset" in type(layer).__name__:
            raise TypeError(
                f"xminigrid_env must not reset itself, or the last observation of an episode is lost; got a "
                f"{type(layer).__name__}: pass the environment inside of it"
            )
    if params is not None and not (hasattr(params, "replace") and hasattr(params, _LIMIT)):
        raise TypeError(f"params must be the EnvParams of this environment; got {type(params).__name__} ({params!r})")


def _layers(xminigrid_env: Any) -> list[Any]:
    """The environment and those that it wraps, the innermost last."""
    layers = [xminigrid_env]
    while hasattr(layers[-1], "_env"):
        layers.append(layers[-1]._env)
    return layers


def _imported(module: str) -> Any:
    """A module of xminigrid. They make arrays when imported: inside a trace those would be tracers, and stay."""
    with jax.ensure_compile_time_eval():
        return importlib.import_module(module)
