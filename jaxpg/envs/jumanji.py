"""Jumanji environments (`jumanji`) as `Environment`: terminated and truncated apart, dict observations, masks that fit.

What the adapter keeps as jumanji has it:
- Rewards, dynamics and observations; an observation is a dict of its fields, nested where it is nested. Codes and
  counts are not scaled: "step_count" runs to the limit.
- What is drawn in an episode comes from the key of `reset`, which the state holds; `step` uses no other.
- Half of the environments have no limit: they end by themselves, and `max_steps` is what no episode can exceed
  (Game2048: 10,000; None where the class is not one of jumanji's).

What it changes:
- jumanji ends an episode at its `time_limit` as if the task had ended (but for Connector and LevelBasedForaging).
  Here that limit is `max_steps` and gives `truncated`; `terminated` is the natural end alone: the environment is played
  with its limit out of reach. A natural end at the very step of the limit is both.
- "action_mask" has the shape that policies expect. Where the mask is over joint actions (BinPack, FlatPack,
  Minesweeper, Sudoku, Tetris), the action is one `Discrete` over all of them, in row-major order of jumanji's numbers.
  Beyond 16,384 of them the action stays as it is and the mask, which no policy uses, is "joint_action_mask".
  Where it has a row for each number of the action, it is the rows one after the other, for a `MultiDiscrete`.
  A choice without any legal action has them all (FlatPack when nothing fits, an agent of MMST that has finished):
  jumanji goes on, and takes any action for none.
- Several agents are one: their actions are one action, and their rewards are summed, as jumanji's MultiToSingleWrapper
  does (Connector, LevelBasedForaging, SearchAndRescue). The episode goes on until all of them are done.

BinPack and RobotWarehouse cannot be played under x64.
"""

import copy
import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs._adapted import adapted
from jaxpg.envs._jumanji_render import renderer
from jaxpg.envs._jumanji_spaces import action_coding, as_dict, converted_space
from jaxpg.envs._keys import plain_key
from jaxpg.envs._parameters import check_names
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import ACTION_MASK
from jaxpg.envs.spaces import Box

__all__ = ["available", "from_jumanji", "make", "refusal"]

_LIMIT = "time_limit"
_OUT_OF_REACH = int(np.iinfo(np.int32).max)
# The most steps that an episode of an environment without a limit can have: then nothing is left to choose.
_LONGEST: Mapping[str, Callable[[Any], int]] = {
    "BinPack": lambda env: env.generator.max_num_items,
    "CVRP": lambda env: 2 * env.num_nodes,
    "FlatPack": lambda env: env.num_blocks,
    "Game2048": lambda env: 10_000,  # It might go on for longer.
    "GraphColoring": lambda env: env.num_nodes,
    "JobShop": lambda env: env.num_jobs * env.max_num_ops * env.max_op_duration,
    "Knapsack": lambda env: env.num_items,
    "Minesweeper": lambda env: env.num_rows * env.num_cols - env.num_mines,
    "MultiCVRP": lambda env: 2 * env._num_customers + 1,
    "Sudoku": lambda env: 81,
    "TSP": lambda env: env.num_cities,
}
_REFUSED = {
    "Sokoban-v0": "it downloads its levels when it is built; build it with jumanji.make (generator=… makes others) and "
    "pass it through jaxpg.envs.jumanji.from_jumanji"
}


def from_jumanji(jumanji_env: Any, *, max_steps: int | None = None, name: str | None = None) -> Environment:
    """An `Environment` from an environment of jumanji, such as `jumanji.make("Snake-v1")`.

    Args:
      jumanji_env: the environment, without wrappers.
      max_steps: the episode limit in place of `jumanji_env.time_limit`.
      name: the default is the name of the class.
    Raises:
      TypeError: `jumanji_env` is none, or wrapped.
      ValueError: `max_steps` is below 1, or above what the state has room for (MMST); a space or a reward of a form
        that no environment of jumanji has.
    """
    _check_interface(jumanji_env)
    name = type(jumanji_env).__name__ if name is None else name
    limit = _check.optional(_check.count, "max_steps", getattr(jumanji_env, _LIMIT, None))
    limit = _check.count_or("max_steps", max_steps, limit) if limit or max_steps else None
    with jax.ensure_compile_time_eval():
        unlimited = _with_limit_out_of_reach(name, jumanji_env, limit)
        first = jax.eval_shape(lambda key: jumanji_env.reset(key)[1], jax.random.key(0))
        observation = as_dict(first.observation)
        known_limit = limit if hasattr(jumanji_env, _LIMIT) else None
        observation_space = converted_space(jumanji_env.observation_spec, observation, known_limit)
        observation_space |= _corrections(jumanji_env)
        mask_shape = observation[ACTION_MASK].shape if ACTION_MASK in observation else None
        coding = action_coding(jumanji_env.action_spec, mask_shape)
        if len(first.reward.shape) > 1:
            raise ValueError(f"{name}: the reward must be one number or one for each agent; got {first.reward.shape}")

    draw = renderer(jumanji_env)

    def observed(timestep: Any) -> Any:
        return coding.with_mask(as_dict(timestep.observation))

    def functions(narrow: bool) -> tuple[Callable, Callable]:
        del narrow

        def reset(key: jax.Array) -> tuple[Any, Any]:
            state, timestep = unlimited.reset(plain_key(key))
            return JumanjiState(state, jnp.zeros((), jnp.int32)), observed(timestep)

        def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
            del key
            inner, timestep = unlimited.step(state.state, coding.decode(action))
            steps = state.steps + 1
            none_goes_on = jnp.all(timestep.discount == 0)
            terminated, truncated = timestep.last() & none_goes_on, timestep.last() & ~none_goes_on
            if limit is not None:
                truncated |= steps >= limit
            reward = jnp.sum(timestep.reward)
            return JumanjiState(inner, steps), observed(timestep), reward, terminated, truncated

        return reset, step

    return adapted(
        name,
        functions,
        observation_space=coding.mask_space(observation_space),
        action_space=coding.space,
        max_steps=limit or _longest(jumanji_env),
        render=None if draw is None else lambda state: draw(state.state),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class JumanjiState:
    """jumanji's state, and how many steps there have been: not all of them count."""

    state: Any
    steps: jax.Array

    def __eq__(self, other: Any) -> bool:
        """By leaves, which are dtypes where structures are compared: Connector's agents compare numbers."""
        return jax.tree.leaves(self) == jax.tree.leaves(other)


def available() -> tuple[str, ...]:
    """The names that jumanji has registered, but for those that cannot be built offline."""
    return tuple(sorted(set(_imported("jumanji").registered_environments()) - set(_REFUSED)))


def refusal(name: str) -> str:
    """Why `name` is not offered, or an empty string."""
    return _REFUSED.get(name, "")


def make(name: str, max_steps: int | None, parameters: Mapping[str, Any]) -> Environment:
    """The environment that `jaxpg.make("jumanji/name")` gives. The parameters are those of its constructor."""
    arguments = dict(parameters)
    if parameters or max_steps is not None:
        known = _constructor_arguments(name)
        check_names(name, parameters, known, limit=_LIMIT)
        if max_steps is not None and _LIMIT in known:
            arguments[_LIMIT] = max_steps  # Some states have as many entries as there may be steps.
    with jax.ensure_compile_time_eval():
        try:
            jumanji_env = _imported("jumanji").make(name, **arguments)
        except (AssertionError, AttributeError, TypeError, ValueError) as error:
            given = ", ".join(f"{parameter}={value!r}" for parameter, value in arguments.items())
            raise ValueError(f"{name} cannot be built with {given or 'its own arguments'}: {error}") from error
    return from_jumanji(jumanji_env, max_steps=max_steps, name=f"jumanji/{name}")


def _with_limit_out_of_reach(name: str, jumanji_env: Any, limit: int | None) -> Any:
    """The environment as it is without its time limit: what ends it then is the natural end."""
    if not hasattr(jumanji_env, _LIMIT):
        return jumanji_env
    environments = _imported("jumanji.environments")
    unlimited = copy.copy(jumanji_env)
    unlimited.time_limit = _OUT_OF_REACH
    if isinstance(jumanji_env, environments.SearchAndRescue):  # Its rewards shrink with the share of the time used.
        reward = jumanji_env._reward_fn
        unlimited._reward_fn = lambda found, step, _: reward(found, step, limit)
    if isinstance(jumanji_env, environments.MMST) and limit is not None and limit > jumanji_env.time_limit:
        raise ValueError(
            f"max_steps must not exceed the {jumanji_env.time_limit} steps that the state of {name} has room for; got "
            f"{limit}: build it with time_limit={limit}"
        )
    return unlimited


def _corrections(jumanji_env: Any) -> dict[str, Box]:
    """Spaces of entries whose spec has no bounds, or leaves out a value."""
    environments = _imported("jumanji.environments")
    if isinstance(jumanji_env, environments.Game2048):  # Exponents: a full board of 2, 4, 8, … and one more 4.
        size = jumanji_env.board_size
        return {"board": Box(0, size * size + 1, (size, size), jnp.int32)}
    if isinstance(jumanji_env, environments.TSP):  # It begins in no city: −1.
        return {"position": Box(-1, jumanji_env.num_cities - 1, (), jnp.int32)}
    return {}


def _longest(jumanji_env: Any) -> int | None:
    kind = type(jumanji_env).__name__
    return int(_LONGEST[kind](jumanji_env)) if kind in _LONGEST else None


@functools.cache
def _constructor_arguments(name: str) -> tuple[str, ...]:
    with jax.ensure_compile_time_eval():
        kind = type(_imported("jumanji").make(name))
    return tuple(inspect.signature(kind).parameters)


def _check_interface(jumanji_env: Any) -> None:
    """A TypeError, unless this is an environment of jumanji and no wrapper of one."""
    if isinstance(jumanji_env, _imported("jumanji.wrappers").Wrapper):
        raise TypeError(
            f"jumanji_env must be an environment without wrappers: they reset, batch or hide its limit; got "
            f"{type(jumanji_env).__name__}: pass its `unwrapped`"
        )
    if not isinstance(jumanji_env, _imported("jumanji").Environment):
        raise TypeError(
            f"jumanji_env must be an environment of jumanji; got {type(jumanji_env).__name__} ({jumanji_env!r})"
        )


def _imported(module: str) -> Any:
    """A module of jumanji. They make arrays when imported: inside a trace those would be tracers, and stay."""
    with jax.ensure_compile_time_eval():
        return importlib.import_module(module)
