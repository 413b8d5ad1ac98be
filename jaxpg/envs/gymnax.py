"""gymnax environments as `Environment`: terminated and truncated apart, strong dtypes, no reset inside a step.

What the adapter keeps as gymnax has it:
- Actions pass through unclipped. Pendulum, PointRobot and MountainCarContinuous clip the force themselves (the last
  charges for the action as it came, as gymnasium does); Reacher and Swimmer do not clip.
- What an observation tells of the time (DiscountingChain's is time / limit) follows `max_steps` as it does in gymnax.
- MetaMaze goes on after the goal: it moves the agent elsewhere, and terminates if that place is the goal again.

What it changes: the observation gets the dtype of its space and the reward the default float dtype; each leaf of the
state has one dtype in reset and step; a bound at the largest float is written as infinite. Where an episode ends by
itself at the step of its time limit, `terminated` and `truncated` are both true: the value of what follows is 0.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxpg import _check
from jaxpg.envs._adapted import adapted, narrowed
from jaxpg.envs._gymnax_spaces import converted_space
from jaxpg.envs.base import Environment

__all__ = ["from_gymnax"]

_LIMIT = "max_steps_in_episode"


def from_gymnax(
    gymnax_env: Any, gymnax_params: Any = None, *, max_steps: int | None = None, name: str | None = None
) -> Environment:
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
    _check_interface(gymnax_env, gymnax_params)
    name = str(gymnax_env.name) if name is None else name
    with jax.ensure_compile_time_eval():
        params = gymnax_env.default_params if gymnax_params is None else gymnax_params
        _check_not_nan(name, params)
        params, limit = _with_limit(params, max_steps)
        observation_space = converted_space(gymnax_env.observation_space, params)
        action_space = converted_space(gymnax_env.action_space, params)

    def functions(narrow: bool) -> tuple[Callable, Callable]:
        return _functions(gymnax_env, params, narrow)

    return adapted(
        name,
        functions,
        observation_space=observation_space,
        action_space=action_space,
        max_steps=limit,
    )


def _functions(gymnax_env: Any, params: Any, narrow: bool) -> tuple[Callable, Callable]:
    if narrow:
        gymnax_env, params = copy.copy(gymnax_env), jax.tree.map(narrowed, params)
        with jax.ensure_compile_time_eval():
            for attribute, value in vars(gymnax_env).items():
                setattr(gymnax_env, attribute, narrowed(value))

    def reset(key: jax.Array) -> tuple[Any, Any]:
        observation, state = gymnax_env.reset_env(key, params)
        return state, observation

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        observation, state, reward, terminated, _ = gymnax_env.step_env(key, state, action, params)
        return state, observation, reward, terminated, gymnax_env.is_truncated(state, params)

    return reset, step


def _check_interface(gymnax_env: Any, gymnax_params: Any) -> None:
    """A TypeError, unless these look like gymnax's environment and its parameters."""
    if isinstance(gymnax_env, tuple):
        raise TypeError(
            "gymnax_env must be one gymnax environment; got a tuple: unpack what gymnax.make gives, "
            "from_gymnax(*gymnax.make(name))"
        )
    needed = ("reset_env", "step_env", "is_truncated", "default_params", "observation_space", "action_space")
    missing = [attribute for attribute in needed if not hasattr(gymnax_env, attribute)]
    if missing or isinstance(gymnax_env, type):
        lacks = f", which lacks {', '.join(missing)}" if missing else ", the class and not an instance of it"
        raise TypeError(f"gymnax_env must be an environment of gymnax 1.0 or later; got {gymnax_env!r}{lacks}")
    if gymnax_params is not None and not isinstance(gymnax_params, type(gymnax_env.default_params)):
        expected = type(gymnax_env.default_params)
        raise TypeError(
            f"gymnax_params must be the {expected.__module__}.{expected.__name__} of this environment; got "
            f"{type(gymnax_params).__name__} ({gymnax_params!r})"
        )


def _check_not_nan(name: str, params: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if _check.is_concrete(leaf) and np.asarray(leaf).dtype.kind == "f" and np.isnan(np.asarray(leaf)).any():
            raise ValueError(f"{name}: parameter {jax.tree_util.keystr(path).lstrip('.')} must not be NaN; got {leaf}")


def _with_limit(params: Any, max_steps: int | None) -> tuple[Any, int | None]:
    """The parameters with the limit put in, and the limit where it is known now."""
    current = getattr(params, _LIMIT, None)
    if max_steps is None:
        return params, int(current) if current is not None and _check.is_concrete(current) else None
    max_steps = _check.count("max_steps", max_steps)
    if current is None:
        return params, max_steps  # No limit of its own: the rollout cuts episodes at `environment.max_steps`.
    as_it_counts = float if isinstance(current, float) else int  # BernoulliBandit counts in floats.
    return dataclasses.replace(params, **{_LIMIT: as_it_counts(max_steps)}), max_steps
