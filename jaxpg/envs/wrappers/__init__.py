"""Wrappers: functions from an `Environment` to another one. They compose, and draw nothing unless they say so.

    env = frame_stack(time_limit(jaxpg.make("Breakout-MinAtar"), 500), 4)

A wrapper never resets: the observation of the step that ends an episode is the final one, wrapped as all others. The
entry "action_mask" of an observation that is a dict is left as it is by all wrappers of observations but
`transform_observation`, whose function sees the whole observation. Where a wrapper keeps something for the episode, the
state is a record whose field `inner` is the state of the environment within; `env.render` takes the wrapped state.

The name tells what was done: "Breakout-MinAtar, limit 500, frames 4". Equal arguments give the same object while
anything holds it, so that compiled functions are found again.
"""

from jaxpg.envs.wrappers.actions import clip_action, flatten_action, normalize_action
from jaxpg.envs.wrappers.frames import frame_stack
from jaxpg.envs.wrappers.observations import flatten_observation, one_hot
from jaxpg.envs.wrappers.randomization import domain_randomization, random_discount
from jaxpg.envs.wrappers.time import action_repeat, time_limit
from jaxpg.envs.wrappers.transforms import transform_action, transform_observation, transform_reward

__all__ = [
    "action_repeat",
    "clip_action",
    "domain_randomization",
    "flatten_action",
    "flatten_observation",
    "frame_stack",
    "normalize_action",
    "one_hot",
    "random_discount",
    "time_limit",
    "transform_action",
    "transform_observation",
    "transform_reward",
]
