"""The environment: two pure functions and two spaces (s, a, r and P of the policy-gradient equation).

An environment never resets itself and holds no state of its own: `reset` draws an initial state, `step` draws what
follows an action. The rollout decides when to reset, so the observation that an episode ended with is never lost.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxpg import _check
from jaxpg.envs.spaces import Space, check_space

__all__ = ["Environment", "Timestep"]


class Timestep(NamedTuple):
    """What one step gives: the observation it led to and the reward, and whether and why the episode ended with it.

    Fields:
      observation: a pytree as the observation space describes it: s_{t+1}, also when the episode ended.
      reward: scalar r_t, float or integer.
      terminated: boolean scalar; the task has ended, nothing follows, the value of `observation` is 0.
      truncated: boolean scalar; the episode was cut (a time limit), the value of `observation` is what it is.
    """

    observation: Any
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment:
    """A Markov decision process as two pure functions.

    Fields:
      reset: key -> (state, observation). Draws an initial state.
      step: (key, state, action) -> (state, Timestep). Draws the next state. It must not reset; what it returns after
        an episode has ended is not looked at.
      observation_space, action_space: a `Discrete`, `MultiDiscrete`, `Box`, or a pytree (dict, tuple) of them.
      max_steps: the episode limit. The rollout truncates an episode at its `max_steps`-th step if `step` has not
        ended it before. None where there is no limit; then whatever plays whole episodes refuses the environment.
      name: for messages, plots and files.
      render: state -> picture, a uint8 array [height, width, 3]; called on the host, outside `jit`. None where there is
        none; then `jaxpg.render.render_episode` draws what it can from the observations.

    The state may be any pytree of arrays whose shapes and dtypes stay the same from step to step.
    """

    reset: Callable[[jax.Array], tuple[Any, Any]]
    step: Callable[[jax.Array, Any, Any], tuple[Any, Timestep]]
    observation_space: Space
    action_space: Space
    max_steps: int | None = None
    name: str = "environment"
    render: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        _check.callable_("reset", self.reset, "key -> (state, observation)")
        _check.callable_("step", self.step, "(key, state, action) -> (state, Timestep)")
        check_space("observation_space", self.observation_space)
        check_space("action_space", self.action_space)
        object.__setattr__(self, "max_steps", _check.optional(_check.count, "max_steps", self.max_steps))
        _check.optional(_check.callable_, "render", self.render, "state -> picture")
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string; got {type(self.name).__name__}")

    def __hash__(self) -> int:
        """By the functions: a space may be a dict, which has no hash."""
        return hash((self.reset, self.step, self.max_steps, self.name))

    def __repr__(self) -> str:
        return (
            f"Environment({self.name!r}, observation_space={self.observation_space}, "
            f"action_space={self.action_space}, max_steps={self.max_steps})"
        )
