"""The policy gradient, estimated from whole episodes:

    ∇J(θ)  =  E_{τ ~ π_θ} [ Σ_t  w^t ∇_θ log π_θ(a_t | s_t) · ( Ψ_t(τ) − b_t ) ].

`policy_gradient` plays the episodes and averages; `jaxpg.stored.gradient_from` takes stored ones. Both run the same
code on them.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _accumulate, _check, baselines, rollout, weights
from jaxpg._batching import any_member
from jaxpg._estimate import GradientEstimate, Moments, add_statistics, finish, no_moments, variance_groups
from jaxpg._plan import Plan, make_plan, require_max_steps, row_bytes
from jaxpg.baselines import Baseline
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.lanes import Trajectory, float_dtype, play_step, reset_lane, strong
from jaxpg.policies.base import Policy
from jaxpg.rollout import Queue
from jaxpg.weights import Weight

__all__ = ["GradientEstimate", "policy_gradient"]


def policy_gradient(
    env: Environment,
    policy: Policy,
    *,
    num_episodes: int,
    weight: Weight | None = None,
    baseline: Baseline | None = None,
    chunk_size: int | None = None,
    num_groups: int | None = None,
    num_lanes: int | None = None,
    block_size: int | None = None,
    buffer_bytes: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Callable[[Any, Any], GradientEstimate]:
    """Builds (key, params) -> GradientEstimate, the policy gradient averaged over `num_episodes` whole episodes.

    The function may be put under `jit`, `vmap` (over keys, params, and whatever `env`, `weight` and `baseline` hold).
    Episode i depends on `key` and i alone; the other arguments change the estimate by rounding only, except that
    `chunk_size` is the default group of baselines that are made of other episodes.

    Args:
      env: needs an episode limit, `env.max_steps`.
      policy: without memory.
      num_episodes: N.
      weight: Ψ, from `jaxpg.weights`; default `reward_to_go(discount=0.99)`.
      baseline: b, from `jaxpg.baselines`; default `none()`.
      chunk_size: most episodes started before their gradient is taken and their steps are dropped.
      num_groups: groups of consecutive episodes from which the variance is estimated (default 32, at most N). Their
        gradients are held at once: memory num_groups × size of params. `num_groups=num_episodes` takes every episode by
        itself.
      num_lanes: episodes played side by side; default 256 on a CPU, 32,768 on a GPU.
      block_size: steps of one block of the backward pass.
      buffer_bytes: most bytes of the buffers that hold steps, for one device and one member of a `vmap`; default 24 MiB
        on a CPU, and 256 MiB where a baseline needs whole groups in memory.
      mesh: devices to lay the episodes over, along all its axes.
    Raises:
      ValueError, TypeError: for arguments out of range, an environment without limit or of wrong structure, a policy
        that does not fit it; and, where `key` and `params` are concrete, for rewards that are not finite.
    """
    num_episodes = _check.count("num_episodes", num_episodes)
    if num_episodes >= 2**31:
        raise ValueError(f"num_episodes must be below 2³¹, since episode ids are 32 bits wide; got {num_episodes}")
    weight = weights.reward_to_go(discount=0.99) if weight is None else _check.instance("weight", weight, Weight)
    baseline = baselines.none() if baseline is None else _check.instance("baseline", baseline, Baseline)
    _check.instance("env", env, Environment)
    _check.instance("policy", policy, Policy)
    require_max_steps(env)
    if policy.initial_carry is not None:
        raise ValueError("policy has a memory (initial_carry); policy_gradient takes policies without one")
    if baseline.peers is not None and num_episodes < 2:
        raise ValueError(
            f"num_episodes must be at least 2 for a baseline made of the other episodes; got {num_episodes}"
        )
    options = {
        "chunk_size": _check.optional(_check.count, "chunk_size", chunk_size, 1 if baseline.peers is None else 2),
        "num_lanes": _check.optional(_check.count, "num_lanes", num_lanes),
        "block_size": _check.optional(_check.count, "block_size", block_size),
        "buffer_bytes": _check.optional(_check.count, "buffer_bytes", buffer_bytes),
    }
    num_groups = _check.optional(_check.count, "num_groups", num_groups)
    _check.optional(_check.instance, "mesh", mesh, jax.sharding.Mesh)
    check_structure(env)

    def estimate(key, params):
        row = jax.eval_shape(functools.partial(_example_row, env, policy, weight), key, params)
        layout = _lay_out(
            env, weight, baseline, num_episodes, num_groups, options, row_bytes(row), 1 if mesh is None else mesh.size
        )
        play = functools.partial(_play, env, policy, weight, baseline, layout, row)
        moments = play(key, params, 0) if mesh is None else _on_devices(play, mesh, key, params)
        return finish(moments, params, layout.group_ends)

    compiled = jax.jit(estimate)
    seen = set()  # Structures of params that have been checked.

    def gradient(key, params):
        key = _check.key("key", key)
        leaves, structure = jax.tree.flatten(params)
        form = (structure, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
        if form not in seen:
            _check_policy(env, policy, params)
            seen.add(form)
        result = compiled(key, params)
        if _check.is_concrete(result.num_nonfinite) and result.num_nonfinite > 0:
            raise ValueError(
                f"reward: {int(result.num_nonfinite)} of {num_episodes} episodes of {env.name} have a return "
                f"that is not finite"
            )
        return result

    return gradient


def _check_policy(env: Environment, policy: Policy, params: Any) -> None:
    """One abstract step: does the policy take these params and the environment the policy's actions?"""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"params{jax.tree_util.keystr(path)} must be floating point; got dtype {dtype}")
    structure = check_structure(env)
    try:
        action, log_prob = jax.eval_shape(
            lambda p, o, k: (lambda d: (d.sample(k), d.log_prob(d.sample(k))))(policy.apply(p, o)),
            params,
            structure.observation,
            jax.eval_shape(lambda: jax.random.key(0)),
        )
    except Exception as error:
        raise ValueError(
            f"params do not fit the policy, or the policy does not fit {env.name}: policy.apply(params, "
            f"observation) failed with {type(error).__name__}: {error}"
        ) from error
    if log_prob.shape != ():
        raise ValueError(f"policy: log_prob of one action must be a scalar; got shape {log_prob.shape}")


class _Layout(NamedTuple):
    """Static: the sizes, each device's range of episode ids, and the groups' sizes and ends."""

    plan: Plan
    shares: list[int]  # Device d plays the ids in [shares[d], shares[d + 1]).
    peer_group_size: int
    group_ends: list[int]


def _lay_out(
    env: Environment,
    weight: Weight,
    baseline: Baseline,
    num_episodes: int,
    num_groups: int | None,
    options: dict,
    bytes_per_row: int,
    num_devices: int,
) -> _Layout:
    """Shares whole groups of the baseline out to the devices and sizes the buffers for the largest share."""
    peers = baseline.peers is not None
    sizes = functools.partial(
        make_plan, env, bytes_per_row=bytes_per_row, final_rows=weight.value is not None, whole_groups=peers
    )
    group_size = 1
    if peers:  # Without a size of its own, the group is what a device's buffer holds.
        share = max(-(-num_episodes // num_devices), 2)
        group_size = baseline.group_size or sizes(num_episodes=share, group_size=None, **options).chunk or 1
    # A last group of one joins the group before it.
    groups = max(-(-num_episodes // group_size) - (group_size > 1 and num_episodes % group_size == 1), 1)
    shares = [groups * d // num_devices * group_size for d in range(num_devices)] + [num_episodes]
    shares = [min(first, num_episodes) for first in shares]
    largest = max(last - first for first, last in itertools.pairwise(shares))
    plan = sizes(num_episodes=largest, group_size=group_size if peers else None, **options)
    group_ends = variance_groups(num_episodes, num_groups, group_size if peers else None)
    return _Layout(plan, shares, group_size, group_ends)


def _play(
    env: Environment,
    policy: Policy,
    weight: Weight,
    baseline: Baseline,
    layout: _Layout,
    row: Any,
    key: jax.Array,
    params: Any,
    device: Any,
) -> Moments:
    """Plays a device's share of the episodes buffer by buffer and sums their terms by group."""
    plan, max_steps = layout.plan, require_max_steps(env)
    shares, id_ends = jnp.asarray(layout.shares, jnp.int32), jnp.asarray(layout.group_ends, jnp.int32)
    first, last = shares[device], shares[device + 1]
    buffer = jax.tree.map(lambda x: jnp.zeros((plan.num_rows, plan.num_lanes, *x.shape), x.dtype), row)
    moments = no_moments(params, len(layout.group_ends), layout.group_ends[-1] * max_steps)
    queue = Queue.of(first, 0, plan.num_lanes)

    def body(state):
        queue, buffer, moments, _ = state
        queue = queue._replace(num_slots=_next_slots(queue, last, plan))
        buffer, num_rows, statistics, rest = rollout.episodes(
            env,
            policy,
            params,
            key,
            queue,
            buffer,
            num_rows=plan.num_rows,
            max_slots=plan.max_slots,
            discount=weight.discount,
            value=weight.value,
            record=functools.partial(_record_row, weight),
        )
        group_ends = _slots_before(queue, id_ends, plan)
        sums = _accumulate.sum_terms(
            buffer,
            num_rows,
            statistics.length,
            queue.num_slots,
            policy,
            params,
            weight,
            baseline,
            group_ends=group_ends,
            group_size=layout.peer_group_size,
            max_time=max_steps,
            block_size=plan.block_size,
            sums=moments.sums,
        )
        room = num_rows.astype(moments.room.dtype) * plan.num_lanes
        moments = add_statistics(moments._replace(sums=sums, room=moments.room + room), statistics)
        return rest, buffer, moments, any_member((rest.num_pending > 0) | (rest.next_id < last))

    state = (queue, buffer, moments, any_member(first < last))
    return jax.lax.while_loop(lambda state: state[3], body, state)[2]


def _example_row(env: Environment, policy: Policy, weight: Weight, key: jax.Array, params: Any) -> Trajectory:
    lane = reset_lane(env, policy, key, jnp.zeros((), jnp.int32), weight.discount)
    _, row = play_step(env, policy, params, lane, weight.discount)
    if weight.value is not None:
        row = row._replace(value=weight.value(lane.observation, lane.time))
    return _record_row(weight, row)


def _record_row(weight: Weight, row: Trajectory) -> Trajectory:
    """What of a row the gradient needs."""
    value = None if row.value is None else jnp.asarray(row.value, float_dtype())
    return strong(row._replace(log_prob=None, carry=None, value=value))


def _next_slots(queue: Queue, last: jax.Array, plan: Plan) -> jax.Array:
    """How many episodes the next buffer takes on: pending ones first, then new ones."""
    left = last - queue.next_id
    if plan.chunk is None:
        return jnp.minimum(queue.num_pending + left, plan.max_slots)
    return jnp.where(left <= plan.chunk + 1, left, plan.chunk)


def _slots_before(queue: Queue, ids: jax.Array, plan: Plan) -> jax.Array:
    """How many slots of the queue have ids below each of `ids`; slots are in the order of their ids."""
    pending = jnp.where(jnp.arange(plan.num_lanes) < queue.num_pending, queue.pending, jnp.iinfo(jnp.int32).max)
    before_pending = jnp.searchsorted(pending, ids).astype(jnp.int32)
    num_new = queue.num_slots - queue.num_pending
    return before_pending + jnp.clip(ids - queue.next_id, 0, num_new)


def _on_devices(play: Callable, mesh: jax.sharding.Mesh, key: jax.Array, params: Any) -> Moments:
    """`play` on every device of the mesh, and the merged moments."""
    names = tuple(mesh.axis_names)
    mesh = jax.sharding.Mesh(mesh.devices, names)  # With automatic axes, whatever the given mesh has.

    def on_device(key, params):
        moments = play(key, params, jax.lax.axis_index(names))
        total = jax.lax.psum(moments.count, names)  # N: a device may have none of the episodes.
        share = moments.count.astype(moments.mean.dtype) / total.astype(moments.mean.dtype)
        mean = jax.lax.psum(share * moments.mean, names)
        squares = moments.squares + moments.count.astype(moments.mean.dtype) * (moments.mean - mean) ** 2
        sums, steps, room, nonfinite = jax.lax.psum(
            (moments.sums, moments.steps, moments.room, moments.nonfinite), names
        )
        squares, mean_return = jax.lax.psum((squares, share * moments.mean_return), names)
        return Moments(sums, total, mean, squares, mean_return, steps, room, nonfinite)

    replicated = jax.sharding.PartitionSpec()
    # check_vma=False: differentiating with respect to params inside then does not sum over devices by itself.
    return jax.shard_map(on_device, mesh=mesh, in_specs=replicated, out_specs=replicated, check_vma=False)(key, params)
