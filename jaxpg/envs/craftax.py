"""Craftax and Craftax-Classic as `Environment`: death and the time limit apart, no reset inside a step.

What the adapter keeps as craftax has it:
- Rewards, actions, worlds and the symbolic or pixel observations.
- All that a game remembers is in its state: `state.achievements` holds what has been unlocked so far.

What it changes:
- craftax has one `done` for everything. Here `terminated` is death (lava and, in Craftax, the defeat of the boss
  included), and `truncated` is the step of the time limit: 10,000 steps in Classic, 100,000 in Craftax, or `max_steps`.
  Where both fall on one step, both are true.
- The space of Craftax-Symbolic has no upper bound: craftax says 1, but mana / 10 reaches 2.1.
- Textures are made in memory, in seconds. craftax makes those of two more sizes and writes them into its own folder.
"""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs._adapted import adapted, x64_off
from jaxpg.envs._keys import plain_key
from jaxpg.envs._parameters import check_names
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete

__all__ = ["available", "from_craftax", "make"]

_LIMIT = "max_timesteps"
_NEVER = np.iinfo(np.int32).max
# craftax keeps no list of its names.
_NAMES = ("Craftax-Symbolic-v1", "Craftax-Pixels-v1", "Craftax-Classic-Symbolic-v1", "Craftax-Classic-Pixels-v1")
_CELL = 16  # Pixels of a cell in `render`, one of the three sizes that craftax has textures for; then doubled.


def available() -> tuple[str, ...]:
    """Craftax's environments."""
    return _NAMES


def make(name: str, max_steps: int | None, parameters: Mapping[str, Any]) -> Environment:
    """The environment that `jaxpg.make("craftax/name", max_steps=…, **parameters)` gives.

    Parameters are the fields of craftax's `EnvParams`, of which numbers may be traced, and of its `StaticEnvParams`.
    """
    environment = _built(_check.named("name", name, _NAMES))
    dynamic, static = environment.default_params, environment.static_env_params
    known = [field.name for fields in (dynamic, static) for field in dataclasses.fields(fields)]
    check_names(f"craftax/{name}", parameters, known, limit=_LIMIT)
    dynamic, static = (
        dataclasses.replace(
            fields,
            **{
                parameter: check(f"craftax/{name}: {parameter}", value, getattr(fields, parameter))
                for parameter, value in parameters.items()
                if hasattr(fields, parameter)
            },
        )
        for fields, check in ((dynamic, _parameter), (static, _static_parameter))
    )
    if static != environment.static_env_params:
        with _building():
            environment = type(environment)(static)
    return from_craftax(environment, dynamic, max_steps=max_steps, name=f"craftax/{name}")


def from_craftax(
    craftax_env: Any, craftax_params: Any = None, *, max_steps: int | None = None, name: str | None = None
) -> Environment:
    """An `Environment` from one of craftax's environments, with or without its auto-reset, which is not used.

    Args:
      craftax_env: what craftax's `make_craftax_env_from_name` gives.
      craftax_params: its `EnvParams`; the default is `craftax_env.default_params`.
      max_steps: the episode limit in place of `craftax_params.max_timesteps`; it may be longer.
      name: the default is `craftax_env.name`.
    Raises:
      TypeError: `craftax_env` or `craftax_params` is not what craftax calls so.
      ValueError: `max_steps` is below 1.
    """
    _check_interface(craftax_env, craftax_params)
    params = craftax_env.default_params if craftax_params is None else craftax_params
    limit = _check.count(_LIMIT, getattr(params, _LIMIT)) if max_steps is None else _check.count("max_steps", max_steps)
    endless = dataclasses.replace(params, **{_LIMIT: _NEVER})

    def reset(key: jax.Array) -> tuple[Any, Any]:
        observation, state = craftax_env.reset_env(plain_key(key), endless)
        return state, observation

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        observation, state, reward, terminated, _ = craftax_env.step_env(plain_key(key), state, action, endless)
        return state, observation, reward, terminated, state.timestep >= limit

    space = craftax_env.observation_space(params)
    is_full_symbolic = len(space.shape) == 1 and not _is_classic(craftax_env)
    return adapted(
        str(craftax_env.name) if name is None else name,
        lambda narrow: (reset, step),
        observation_space=Box(0.0, np.inf if is_full_symbolic else 1.0, tuple(space.shape), jnp.result_type(float)),
        action_space=Discrete(int(craftax_env.action_space(params).n)),
        max_steps=limit,
        render=functools.partial(_render, _is_classic(craftax_env)),
    )


def _check_interface(craftax_env: Any, craftax_params: Any) -> None:
    if isinstance(craftax_env, type):
        raise TypeError(f"craftax_env must be an environment of craftax; got the class {craftax_env.__name__}")
    needed = ("reset_env", "step_env", "default_params", "static_env_params", "observation_space", "action_space")
    missing = [attribute for attribute in needed if not hasattr(craftax_env, attribute)]
    if missing:
        raise TypeError(
            f"craftax_env must be an environment of craftax; got {craftax_env!r}, which lacks {', '.join(missing)}"
        )
    expected = type(craftax_env.default_params)
    if craftax_params is not None and not isinstance(craftax_params, expected):
        raise TypeError(
            f"craftax_params must be the {expected.__module__}.{expected.__name__} of this environment; got "
            f"{type(craftax_params).__name__} ({craftax_params!r})"
        )


def _parameter(argument: str, value: Any, default: Any) -> Any:
    """A field of `EnvParams`, in the kind of its default."""
    if isinstance(default, bool):
        return _check.boolean(argument, value)
    if isinstance(default, tuple):  # The angles of the noise that worlds are made of.
        if not isinstance(value, (tuple, list)) or len(value) != len(default):
            raise TypeError(f"{argument} must be a tuple of {len(default)}, each None or an array; got {value!r}")
        return tuple(value)
    if isinstance(default, int) and _check.is_concrete(value):
        return _check.count(argument, value, 0)
    return _check.number(argument, value, 0)


def _static_parameter(argument: str, value: Any, default: Any) -> Any:
    """A field of `StaticEnvParams`: an array's size."""
    if not isinstance(default, tuple):
        return _check.count(argument, value)
    if not isinstance(value, (tuple, list)) or len(value) != len(default):
        raise TypeError(f"{argument} must be {len(default)} integers; got {value!r}")
    return tuple(_check.count(f"{argument}[{k}]", size) for k, size in enumerate(value))


@functools.cache
def _built(name: str) -> Any:
    """The environment with sizes as craftax has them."""
    with _building():
        return importlib.import_module("craftax.craftax_env").make_craftax_env_from_name(name, auto_reset=False)


def _is_classic(craftax_env: Any) -> bool:
    return "classic" in type(craftax_env.default_params).__module__


def _package(classic: bool) -> str:
    return "craftax.craftax_classic" if classic else "craftax.craftax"


class _Textures(dict):
    """Pixels of a cell -> textures, made when they are asked for."""

    def __init__(self, classic: bool):
        self.make = importlib.import_module(f"{_package(classic)}.constants").load_all_textures_given_size

    def __missing__(self, size: int) -> Any:
        self[size] = self.make(size)
        return self[size]


_textures = functools.cache(_Textures)


@contextlib.contextmanager
def _building() -> Iterator[None]:
    """In the body, arrays are concrete and in 32 bits (craftax's own would follow x64, and then fit nothing), and
    craftax makes the textures that it needs and writes nothing.
    """
    with jax.ensure_compile_time_eval(), x64_off(True), contextlib.ExitStack() as stack:
        for classic in (False, True):
            module = importlib.import_module(f"{_package(classic)}.renderer")
            textures = _textures(classic)
            stack.enter_context(mock.patch.object(module, "load_all_textures", lambda textures=textures: textures))
        yield


@functools.cache
def _renderer(classic: bool) -> Callable[[Any], Any]:
    with _building():
        return jax.jit(importlib.import_module(f"{_package(classic)}.renderer").make_craftax_pixel_renderer(_CELL))


def _render(classic: bool, state: Any) -> np.ndarray:
    """What craftax's pixel agents see, in finer textures: uint8 [height, width, 3]."""
    with x64_off(True):
        pixels = np.asarray(_renderer(classic)(state))
    return np.clip(pixels, 0, 255).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
