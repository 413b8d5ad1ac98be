"""Environments for gymnax 1.0 and the trainers that are built on it.

gymnax's `env.step` resets by itself and returns six values: observation, state, reward, terminated, truncated, info,
where `info["final_observation"]` is what the step led to. `env.step_env` and `env.reset_env` are our functions with
gymnax's order of arguments.

The time limit is `params.max_steps_in_episode`, which may be shortened or traced; the environment's own end of time, if
`step` has one, stays. An environment without a limit has parameters without that field.
"""

import functools
import importlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs import _gymnax_make
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Discrete, MultiDiscrete, Space, is_leaf
from jaxpg.envs.wrappers._wrap import strong

__all__ = ["to_gymnax"]


def to_gymnax(env: Environment) -> tuple[Any, Any]:
    """`env` as (a gymnax environment, its parameters), as `gymnax.make` gives them.

    Spaces become gymnax's: a dict a `Dict`, a tuple or list a `Tuple`, and a `MultiDiscrete`, which gymnax has not, a
    `Box` of integers that draws each of them uniformly. The state is a record with the fields `time`, `inner` (the
    state of `env`), `observation`, `terminated` and `truncated`. Two environments made of the same one are equal, so
    that compiled functions are found again.
    """
    result = _environment_class()(_check.instance("env", env, Environment))
    return result, result.default_params


@functools.cache
def _environment_class() -> Any:
    """gymnax takes seconds to import, so that what inherits from it is made when it is asked for."""
    from flax import struct

    _gymnax_make.import_gymnax()
    gymnax_spaces: Any = importlib.import_module("gymnax.environments.spaces")
    environment: Any = importlib.import_module("gymnax.environments.environment")

    @struct.dataclass
    class JaxpgState(environment.EnvState):
        inner: Any
        observation: Any
        terminated: jax.Array
        truncated: jax.Array

    @struct.dataclass
    class WithoutLimit:
        """No parameters."""

    class Choices(gymnax_spaces.Box):
        """Several integers at once."""

        def __init__(self, space: MultiDiscrete):
            super().__init__(0, np.asarray(space.nvec) - 1, space.shape, space.dtype)
            self.nvec = space.nvec
            self._space = space

        def sample(self, key: jax.Array) -> jax.Array:
            return self._space.sample(key)

    class JaxpgEnvironment(environment.Environment):
        def __init__(self, env: Environment):
            self.env = env

        def __eq__(self, other: Any) -> bool:
            return isinstance(other, JaxpgEnvironment) and self.env == other.env

        def __hash__(self) -> int:
            return hash(("to_gymnax", self.env))

        @property
        def name(self) -> str:
            return self.env.name

        @property
        def default_params(self) -> Any:
            limit = self.env.max_steps
            return WithoutLimit() if limit is None else environment.EnvParams(max_steps_in_episode=limit)

        @property
        def num_actions(self) -> int:
            """Of a `Discrete` its choices, of real actions their entries; of several spaces the sum."""
            return sum(map(_size, jax.tree.leaves(self.env.action_space, is_leaf=is_leaf)))

        def reset_env(self, key: jax.Array, params: Any) -> tuple[Any, Any]:
            state, observation = jax.tree.map(strong, self.env.reset(_check.key("key", key)))
            no = jnp.zeros((), bool)
            return observation, JaxpgState(jnp.zeros((), jnp.int32), state, observation, no, no)

        def step_env(self, key: jax.Array, state: Any, action: Any, params: Any) -> tuple[Any, Any, Any, Any, dict]:
            action = jax.tree.map(
                lambda space, part: jnp.asarray(part, space.dtype), self.env.action_space, action, is_leaf=is_leaf
            )
            inner, timestep = jax.tree.map(strong, self.env.step(_check.key("key", key), state.inner, action))
            observation, reward, terminated, truncated = timestep
            state = JaxpgState(state.time + 1, inner, observation, terminated, truncated)
            return observation, state, reward, terminated, {"discount": self.discount(state, params)}

        def observe(self, key: jax.Array, state: Any, action: Any, params: Any) -> Any:
            return state.observation

        def get_obs(self, state: Any, params: Any = None, key: Any = None) -> Any:
            return state.observation

        def is_terminated(self, state: Any, params: Any) -> jax.Array:
            return state.terminated

        def is_truncated(self, state: Any, params: Any) -> jax.Array:
            limit = getattr(params, "max_steps_in_episode", None)
            return state.truncated if limit is None else state.truncated | (state.time >= limit)

        def action_space(self, params: Any = None) -> Any:
            return space_of(self.env.action_space)

        def observation_space(self, params: Any = None) -> Any:
            return space_of(self.env.observation_space)

    def space_of(space: Space) -> Any:
        if isinstance(space, Mapping):
            return gymnax_spaces.Dict({name: space_of(child) for name, child in space.items()})
        if not is_leaf(space):
            return gymnax_spaces.Tuple([space_of(child) for child in space])
        if isinstance(space, Discrete):
            return gymnax_spaces.Discrete(space.n)
        if isinstance(space, MultiDiscrete):
            return Choices(space)
        low, high = (bound if isinstance(bound, float) else np.asarray(bound) for bound in (space.low, space.high))
        return gymnax_spaces.Box(low, high, space.shape, space.dtype)

    return JaxpgEnvironment


def _size(space: Any) -> int:
    if isinstance(space, Discrete):
        return space.n
    return sum(space.nvec) if isinstance(space, MultiDiscrete) else math.prod(space.shape)
