"""Minibatches of a segment: whole lanes where the policy or the critic has a memory, else single steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

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
    step: Callable[..., tuple[Any, Any]],
    start: Any,
    batch: Batch,
    extra: Any,
    models: tuple[Policy | Critic | None, ...],
    key: jax.Array,
    num_epochs: int,
    num_minibatches: int,
    of_whole: Callable[[jax.Array, Any], Any] | None = None,
) -> tuple[Any, Any]:
    """Scans (carry, minibatch, its rows of `extra`) -> (carry, out) over passes through the batch, cut anew each time.

    Args:
      extra: pytree of [step, lane] arrays that belong to the rows.
      models: whose memories count.
      of_whole: None: `step` sees whole minibatches; on a mesh the compiler shares its work out, with an exchange
        wherever devices need each other's rows. Or (valid, rows of extra) -> what `step` has to know of all rows of a
        minibatch, its fourth argument: where the devices of a mesh can share a minibatch evenly, each then runs all
        passes by itself, and `step` sees the device's part of the minibatch and has to come to the same on all of
        them, as `mean_gradient` does.
    Returns:
      (carry, outs [num_epochs, num_minibatches, …]).
    """
    whole_lanes = _has_memory(models)
    # What belongs to lanes as a whole goes only to models with a memory, which see whole lanes.
    lanes = (batch.last_value, batch.policy_carry, batch.critic_carry) if whole_lanes else (None, None, None)
    rows = batch._replace(last_value=None, policy_carry=None, critic_carry=None)
    num_steps, num_lanes = batch.valid.shape
    count = num_lanes if whole_lanes else num_steps * num_lanes
    mesh, share = _mesh.current(), count // num_minibatches
    if of_whole is None or mesh is None or share % mesh.size:
        devices, alone = 1, None
    else:
        devices, alone = mesh.size, mesh
        share //= devices

    def place(row: jax.Array) -> jax.Array:
        """Where a row of the segment is among those that the devices have put together, one device's behind another's:
        nothing is copied to have them in the order of the segment."""
        if whole_lanes or devices == 1:
            return row
        time, lane = jnp.divmod(row, num_lanes)
        device, lane = jnp.divmod(lane, num_lanes // devices)
        return (device * num_steps + time) * (num_lanes // devices) + lane

    def passes(first: jax.Array, start: Any, keys: jax.Array, rows: Any, lanes: Any) -> tuple[Any, Any]:
        if whole_lanes:
            (rows, extra), lanes = _mesh.gathered(rows, 1), _mesh.gathered(lanes, 0)
        else:  # One long row of lanes.
            rows, extra = jax.tree.map(lambda x: x.reshape(1, -1, *x.shape[2:]), _mesh.gathered(rows, 0))

        def take(chosen: jax.Array) -> tuple[Any, ...]:
            known = ()
            if of_whole is not None:
                known = (of_whole(rows.valid[:, chosen], jax.tree.map(lambda x: x[:, chosen], extra)),)
            if devices > 1:  # The device's part, whichever devices have played it.
                chosen = jax.lax.dynamic_slice_in_dim(chosen, first[0], share)
            # Where the compiler shares the work out, the devices take their parts, too.
            taken, of_rows = _mesh.constrain(jax.tree.map(lambda x: x[:, chosen], (rows, extra)), 1)
            last_value, policy_carry, critic_carry = jax.tree.map(lambda x: x[chosen], lanes)
            taken = taken._replace(last_value=last_value, policy_carry=policy_carry, critic_carry=critic_carry)
            return taken, of_rows, *known

        def epoch(carry, key):
            order = place(_shuffle.permutation(key, count)).reshape(num_minibatches, -1)
            return jax.lax.scan(lambda carry, chosen: step(carry, *take(chosen)), carry, order)

        return jax.lax.scan(epoch, start, keys)

    firsts = share * jnp.arange(devices, dtype=jnp.int32)
    passes = _mesh.along_devices(alone, passes, cut={0: 0, 3: 1, 4: 0}, axes=None, together=True)
    return passes(firsts, start, jax.random.split(key, num_epochs), (rows, extra), lanes)


def _has_memory(models: tuple[Policy | Critic | None, ...]) -> bool:
    return any(getattr(model, "initial_carry", None) is not None for model in models)
