"""What an algorithm is: two pure functions."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Policy

__all__ = ["Algorithm"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Algorithm:
    """A learning algorithm as pure functions; hyperparameters are captured, and may be traced.

    Fields:
      init: key -> state, a pytree of arrays with a field `params`, the policy's.
      step: state -> (state, metrics): one update; sample, estimate, improve. `metrics` is a dict of scalars, among them
        `env_steps`, the environment steps that the update took, and `episode_return`, the mean return of the episodes
        that ended in it (NaN if none did). `nonfinite` counts what was NaN or infinite in the update (episodes with
        such rewards or observations, and one for the gradient or the new parameters); where it is not 0, the update has
        left the parameters as they were, and `nonfinite_lane` and `nonfinite_episode` name the first such episode
        (lane −1: episode is the id in a queue; episode −1: no episode is to blame).
      env, policy: what is trained, for evaluation and plots.
      name: for messages and files.
      config: the hyperparameters as plain data, for the record and for checkpoints.
      lay_out: state -> state: the same, with what belongs to lanes cut over the devices of the mesh that the program is
        traced for (`train(mesh=…)`); None: every device has all of it.
      episode_key: state -> the key by which `jaxpg.replay` plays the episodes of the update that led to the state.
    """

    init: Callable[[Any], Any]
    step: Callable[[Any], tuple[Any, dict[str, Any]]]
    env: Environment | None = None
    policy: Policy | None = None
    name: str = "algorithm"
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lay_out: Callable[[Any], Any] | None = None
    episode_key: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        _check.callable_("init", self.init, "key -> state")
        _check.callable_("step", self.step, "state -> (state, metrics)")
        _check.optional(_check.instance, "env", self.env, Environment)
        _check.optional(_check.instance, "policy", self.policy, Policy)
