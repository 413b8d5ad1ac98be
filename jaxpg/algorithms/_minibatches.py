"""Minibatches of a segment: whole lanes where the policy or the critic has a memory, else single steps."""

from collections.abc import Callable
from typing import Any

import jax

from jaxpg import _check, _mesh, _shuffle
from jaxpg.algorithms._batch import Batch
from jaxpg.policies.base import Critic, Policy

__all__ = ["count_rows", "in_minibatches"]


def count_rows(
    argument: str, num_minibatches: Any, models: tuple[Policy | Critic | None, ...], num_envs: Any, num_steps: Any
) -> int:
    """How many things are dealt out to minibatches: lanes, or single steps.

    Raises:
      ValueError: where minibatches would not be of one size.
    """
    num_minibatches = _check.count(argument, num_minibatches)
    num_envs, num_steps = _check.count("num_envs", num_envs), _check.count("num_steps", num_steps)
    if _has_memory(models):
        count, what = num_envs, "num_envs (whole lanes, for a memory)"
    else:
        count, what = num_envs * num_steps, "num_envs × num_steps"
    if count % num_minibatches:
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        below = max(n for n in divisors if n < num_minibatches)
        above = min((n for n in divisors if n > num_minibatches), default=count)
        raise ValueError(
            f"{argument} must divide {what} = {count}; got {num_minibatches}: the nearest are {below} and {above}"
        )
    return count


def in_minibatches(
    step: Callable[[Any, Batch, Any], tuple[Any, Any]],
    start: Any,
    batch: Batch,
    extra: Any,
    models: tuple[Policy | Critic | None, ...],
    key: jax.Array,
    num_epochs: int,
    num_minibatches: int,
) -> tuple[Any, Any]:
    """Scans (carry, minibatch, its rows of `extra`) -> (carry, out) over passes through the batch, cut anew each time.

    Args:
      extra: pytree of [step, lane] arrays that belong to the rows.
      models: whose memories count.
    Returns:
      (carry, outs [num_epochs, num_minibatches, …]).
    """
    whole_lanes = _has_memory(models)
    # What belongs to lanes as a whole goes only to models with a memory, which see whole lanes.
    lanes = (batch.last_value, batch.policy_carry, batch.critic_carry) if whole_lanes else (None, None, None)
    rows = (batch._replace(last_value=None, policy_carry=None, critic_carry=None), extra)
    if not whole_lanes:  # One long row of lanes.
        rows = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), rows)
    count = batch.valid.shape[1] if whole_lanes else batch.valid.size

    def take(chosen: jax.Array) -> tuple[Batch, Any]:
        # On a mesh each device takes its part of the minibatch, whichever devices have played it.
        taken, extra = _mesh.constrain(jax.tree.map(lambda x: x[:, chosen], rows), 1)
        last_value, policy_carry, critic_carry = jax.tree.map(lambda x: x[chosen], lanes)
        return taken._replace(last_value=last_value, policy_carry=policy_carry, critic_carry=critic_carry), extra

    def epoch(carry, key):
        order = _shuffle.permutation(key, count).reshape(num_minibatches, -1)
        return jax.lax.scan(lambda carry, chosen: step(carry, *take(chosen)), carry, order)

    return jax.lax.scan(epoch, start, jax.random.split(key, num_epochs))


def _has_memory(models: tuple[Policy | Critic | None, ...]) -> bool:
    return any(getattr(model, "initial_carry", None) is not None for model in models)
