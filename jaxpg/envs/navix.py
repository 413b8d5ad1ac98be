"""NAVIX environments (`navix`) as `Environment`: terminated and truncated apart, no reset inside a step.

What the adapter keeps as navix has it:
- An observation is an array of the environment's `observation_fn`: by default the whole grid as codes of object,
  colour and state, [height, width, 3] in unsigned bytes. `jaxpg.make("navix/…", observation_fn="rgb")` takes another
  one of `navix.observations`, by name.
- Every environment of `navix.make` has the limit of 100 steps unless `max_steps` is given.
- What is drawn in an episode comes from the key of `reset`, which the state holds; `step` uses no other.

What it changes: navix resets in the step after the last one; here nothing resets. A natural end at the very step of
the limit is both `terminated` and `truncated`. The state leaves out navix's cache of pictures, which follows from the
grid and takes a hundred times the rest. The bounds of observations are those of the codes: navix has 9 categories in
its spaces but more in its grids.

Up to navix 0.7.4 nobody can reach the goal of a KeyCorridor (navix issue 98): refused, until it is a goal.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs._adapted import adapted
from jaxpg.envs._keys import plain_key
from jaxpg.envs._parameters import check_names
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete, Space

__all__ = ["available", "from_navix", "make", "refusal"]

_LIMIT = "max_steps"
_ENLARGED = 4  # navix draws a cell with 8 × 8 dots.
_REFUSED = {
    "Navix-KeyCorridor": "in this version of navix its doors are walls and its goal is a ball, which nobody can reach, "
    "so that all rewards are 0 (navix issue 98)"
}
_PLAYER, _MOST_COLOUR, _MOST_STATE = 10, 5, 3  # The highest code of an object, a colour, and a door or direction.


def from_navix(navix_env: Any, *, max_steps: int | None = None, name: str | None = None) -> Environment:
    """An `Environment` from an environment of navix, such as `navix.make("Navix-Empty-8x8-v0")`.

    Args:
      navix_env: the environment.
      max_steps: the episode limit in place of `navix_env.max_steps`.
      name: the default is the name of the class.
    Raises:
      TypeError: `navix_env` is none.
      ValueError: `max_steps` is below 1.
    """
    navix = _imported("navix")
    if not isinstance(navix_env, navix.Environment):
        raise TypeError(f"navix_env must be an environment of navix; got {type(navix_env).__name__} ({navix_env!r})")
    limit = _check.count("max_steps", navix_env.max_steps if max_steps is None else max_steps)
    navix_env = navix_env.replace(max_steps=limit)
    first = jax.eval_shape(navix_env.reset, jax.random.key(0))
    with jax.ensure_compile_time_eval():
        observation_space = _observation_space(navix_env, first.observation)

    def functions(narrow: bool) -> tuple[Callable, Callable]:
        del narrow  # Its fields are no arrays.
        return _functions(navix_env)

    def render(state: Any) -> np.ndarray:
        picture = np.asarray(navix.observations.rgb(state.timestep_with_cache().state), np.uint8)
        return picture.repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)

    return adapted(
        type(navix_env).__name__ if name is None else name,
        functions,
        observation_space=observation_space,
        action_space=Discrete(len(navix_env.action_set)),
        max_steps=limit,
        render=render,
    )


def available() -> tuple[str, ...]:
    """The names that navix has registered."""
    return tuple(name for name in _imported("navix").registry() if not refusal(name))


def make(name: str, max_steps: int | None, parameters: Mapping[str, Any]) -> Environment:
    """The environment that `jaxpg.make("navix/name")` gives. The parameters are those of its `create`."""
    navix = _imported("navix")
    with jax.ensure_compile_time_eval():
        check_names(name, parameters, _parameters(type(navix.make(name))), limit=_LIMIT)
        arguments = {parameter: _argument(parameter, value) for parameter, value in parameters.items()}
        try:
            navix_env = navix.make(name, **arguments)
        except TypeError as error:  # Such as the size, which the name fixes.
            given = ", ".join(f"{parameter}={value!r}" for parameter, value in parameters.items())
            raise ValueError(f"{name} cannot be built with {given}: {error}") from error
    return from_navix(navix_env, max_steps=max_steps, name=f"navix/{name}")


def refusal(name: str) -> str:
    """Why `name` is not offered, or an empty string."""
    key_corridor = _imported("navix.environments.key_corridor")
    for prefix, reason in _REFUSED.items():
        if name.startswith(prefix) and not hasattr(key_corridor, "Goal"):
            return reason
    return ""


def _functions(navix_env: Any) -> tuple[Callable, Callable]:
    def reset(key: jax.Array) -> tuple[Any, Any]:
        timestep = navix_env.reset(plain_key(key))
        return NavixState.of(timestep), timestep.observation

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        del key
        # `step` would compute a reset at every step: under vmap both branches of its `cond` run.
        timestep = navix_env._step(state.timestep_with_cache(), action)
        truncated = timestep.t >= navix_env.max_steps
        return NavixState.of(timestep), timestep.observation, timestep.reward, timestep.is_termination(), truncated

    return reset, step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NavixState:
    """A timestep of navix without what the next step does not depend on: pictures, observation, action, reward."""

    timestep: Any

    @staticmethod
    def of(timestep: Any) -> "NavixState":
        state = timestep.state.replace(cache=None)
        return NavixState(timestep.replace(state=state, observation=None, action=None, reward=None))

    def timestep_with_cache(self) -> Any:
        """With the cache made anew; compiled programs leave it out where nothing looks at it."""
        state, cache = self.timestep.state, _imported("navix.rendering.cache").RenderingCache
        return self.timestep.replace(state=state.replace(cache=cache.init(state.grid)))

    def __eq__(self, other: Any) -> bool:
        """By leaves, which are dtypes where structures are compared: navix's events compare arrays."""
        return jax.tree.leaves(self) == jax.tree.leaves(other)


def _observation_space(navix_env: Any, observation: Any) -> Space:
    """Shape and dtype are those of the observations, which are not always those of navix's spaces."""
    observations = _imported("navix.observations")
    shape, dtype, space = observation.shape, observation.dtype, navix_env.observation_space
    if navix_env.observation_fn in (observations.symbolic, observations.symbolic_first_person):
        return Box(0, np.broadcast_to([_PLAYER, _MOST_COLOUR, _MOST_STATE], shape), shape, dtype)
    if navix_env.observation_fn in (observations.categorical, observations.categorical_first_person):
        return Box(-1, _PLAYER, shape, dtype)  # Walls are −1.
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        return Box(0, jnp.iinfo(dtype).max, shape, dtype)
    return Box(np.asarray(space.minimum), np.asarray(space.maximum), shape, dtype)


def _parameters(kind: type) -> list[str]:
    """The arguments of its `create`, and its fields, which that takes too."""
    create = inspect.signature(kind.create).parameters  # pyright: ignore[reportAttributeAccessIssue]
    named = [parameter.name for parameter in create.values() if parameter.kind != parameter.VAR_KEYWORD]
    fields = [field.name for field in dataclasses.fields(kind)]
    return list(dict.fromkeys([*named, *fields]))


def _argument(parameter: str, value: Any) -> Any:
    """`value`; a function of `navix.observations` where an observation function is given by name."""
    if parameter != "observation_fn" or not isinstance(value, str):
        return value
    observations = _imported("navix.observations")
    functions = inspect.getmembers(observations, inspect.isfunction)
    names = [name for name, function in functions if list(inspect.signature(function).parameters) == ["state"]]
    return getattr(observations, _check.named(parameter, value, names))


def _imported(module: str) -> Any:
    """A module of navix. They make arrays when imported: inside a trace those would be tracers, and stay."""
    with jax.ensure_compile_time_eval():
        return importlib.import_module(module)
