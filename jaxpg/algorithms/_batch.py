"""What an actor-critic algorithm learns from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Batch"]


class Batch(NamedTuple):
    """A segment as an algorithm learns from it: [step, lane] arrays, and [lane] arrays for what is before and behind.

    Fields:
      observation, action, log_prob, reward, terminated, truncated, valid: as in `Trajectory`. Rewards are scaled where
        the algorithm scales them, and 0 where no step was played.
      starts: whether an episode begins with the row.
      value, last_value: V of the rows' observations and of those behind the last row, by the critic as it is before the
        update.
      policy_carry, critic_carry: the memories before the first row; None without.
    """

    observation: Any
    action: Any
    log_prob: jax.Array
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array
    starts: jax.Array
    value: jax.Array
    last_value: jax.Array
    policy_carry: Any
    critic_carry: Any

    @property
    def next_value(self) -> jax.Array:
        """V of the observation that each step led to, before any reset."""
        return jnp.concatenate([self.value[1:], self.last_value[None]])
