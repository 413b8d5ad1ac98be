"""Playing a range of episodes buffer by buffer, on one device or many, and adding up their terms."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _accumulate, _groups, rollout, sampling
from jaxpg._accumulate import Terms
from jaxpg._batching import any_member
from jaxpg._estimate import Moments, merge, no_moments, returns_of
from jaxpg._importance import importance_ratios
from jaxpg._plan import Plan, make_plan, require_max_steps
from jaxpg.lanes import Player, Trajectory, float_dtype, play_step, reset_lane, strong
from jaxpg.rollout import Queue
from jaxpg.sampling import Sampling

__all__ = ["Job", "Layout", "example_row", "lay_out", "play_range"]


class Layout(NamedTuple):
    """Static sizes: of the buffers; of the groups of a baseline made of other episodes; most episodes in all."""

    plan: Plan
    peer_group_size: int
    most_episodes: int


class Job(NamedTuple):
    """What is played and added up.

    Fields:
      player: who acts. acting: None, or the params of another policy that acts.
      terms: the estimate's terms.
      correction: how importance corrects, where another policy acts.
      sampling: how episodes are named and actions drawn.
      layout: static sizes.
      num_groups: groups of the variance.
      per_episode: most episodes whose gradients are kept each by itself, or 0.
      mesh: devices, or None.
    """

    player: Player
    acting: Any
    terms: Terms
    correction: str | None
    sampling: Sampling
    layout: Layout
    num_groups: int
    per_episode: int
    mesh: jax.sharding.Mesh | None


def lay_out(
    player: Player,
    terms: Terms,
    num_episodes: int,
    options: dict,
    bytes_per_row: int,
    num_devices: int,
    most_episodes: int,
) -> Layout:
    """Sizes the buffers for a device's largest share of `num_episodes`; shares are whole groups of the baseline."""
    grouped = terms.baseline.of_other_episodes
    sizes = functools.partial(
        make_plan, player.env, bytes_per_row=bytes_per_row, final_rows=player.final_rows, whole_groups=grouped
    )
    group_size = 1
    if grouped:  # Without a size of its own, the group is what a device's buffer holds.
        share = max(-(-num_episodes // num_devices), 2)
        group_size = terms.baseline.group_size or sizes(num_episodes=share, group_size=None, **options).chunk or 1
    shares = [int(x) for x in _shares(0, num_episodes, group_size, num_devices)]
    largest = max(last - first for first, last in itertools.pairwise(shares))
    plan = sizes(num_episodes=largest, group_size=group_size if grouped else None, **options)
    return Layout(plan, group_size, most_episodes)


def _shares(first: Any, last: Any, group_size: int, num_devices: int) -> list[Any]:
    """Device d plays the ids in [shares[d], shares[d + 1]): whole groups; a last one of one joins the one before it."""
    number = last - first
    groups = -(-number // group_size) - ((group_size > 1) & (number % group_size == 1))
    groups = groups + (groups < 1)
    # ⌊groups · d / num_devices⌋ without the product, which may pass 2³¹.
    whole, rest = groups // num_devices, groups % num_devices
    ends = [first + (whole * d + rest * d // num_devices) * group_size for d in range(num_devices)]
    return [end - (end > last) * (end - last) for end in ends] + [last]


def play_range(job: Job, key: jax.Array, params: Any, first: Any, last: Any, id_ends: jax.Array) -> Moments:
    """The moments of the episodes [first, last), whose groups of the variance end at `id_ends`."""
    play = functools.partial(_play_share, job)
    if job.mesh is None:
        return play(key, params, jnp.asarray(first, jnp.int32), jnp.asarray(last, jnp.int32), id_ends)
    return _on_devices(play, job, key, params, first, last, id_ends)


def _play_share(
    job: Job, key: jax.Array, params: Any, first: jax.Array, last: jax.Array, id_ends: jax.Array
) -> Moments:
    """Plays the ids [first, last) buffer by buffer and sums their terms by group."""
    plan, terms, max_steps = job.layout.plan, job.terms, require_max_steps(job.player.env)
    acting_params = params if job.acting is None else job.acting
    player = dataclasses.replace(job.player, draw=sampling.draw(job.sampling, key))
    row = jax.eval_shape(functools.partial(example_row, player, job.acting is not None), key, acting_params)
    buffer = jax.tree.map(lambda x: jnp.zeros((plan.num_rows, plan.num_lanes, *x.shape), x.dtype), row)
    empty = no_moments(
        _groups.empty_sums(params, job.num_groups, terms.baseline.optimal),
        job.num_groups,
        job.layout.most_episodes * max_steps,
        job.acting is not None,
        _groups.empty_episodes(params, job.per_episode) if job.per_episode else None,
    )
    queue = Queue.of(first, 0, plan.num_lanes)

    def body(state):
        queue, buffer, moments, _ = state
        queue = queue._replace(num_slots=_next_slots(queue, last, plan))
        buffer, num_rows, statistics, rest = rollout.episodes(
            player,
            acting_params,
            key,
            queue,
            buffer,
            num_rows=plan.num_rows,
            max_slots=plan.max_slots,
            record=functools.partial(_record_row, job.acting is not None),
            episode_key=job.sampling.episode_key,
        )
        moments = _add(job, params, moments, empty, queue, id_ends, buffer, num_rows, statistics)
        return rest, buffer, moments, any_member((rest.num_pending > 0) | (rest.next_id < last))

    state = (queue, buffer, empty, any_member(first < last))
    return jax.lax.while_loop(lambda state: state[3], body, state)[2]


def _add(
    job: Job,
    params: Any,
    moments: Moments,
    empty: Moments,
    queue: Queue,
    id_ends: jax.Array,
    buffer: Trajectory,
    num_rows: jax.Array,
    statistics: Any,
) -> Moments:
    """The moments with a buffer's finished episodes."""
    terms, plan = job.terms, job.layout.plan
    ratios = None
    if job.acting is not None:
        ratios = importance_ratios(
            buffer,
            num_rows,
            statistics.length,
            statistics.discounted_returns,
            terms.policy,
            params,
            discount=terms.weight.discount,
            correction=job.correction,
        )
    steps = _accumulate.weighed_steps(
        buffer,
        num_rows,
        statistics.length,
        queue.num_slots,
        terms,
        ratios,
        group_size=job.layout.peer_group_size,
        max_time=require_max_steps(job.player.env),
        block_size=plan.block_size,
    )
    ids = queue.ids(jnp.arange(plan.max_slots, dtype=jnp.int32))
    group = jnp.minimum(jnp.searchsorted(id_ends, ids, side="right").astype(jnp.int32), job.num_groups - 1)
    sums, episodes = _groups.accumulate(
        steps,
        terms,
        params,
        queue.num_slots,
        ids,
        group,
        group_ends=_slots_before(queue, id_ends, plan),
        block_size=plan.block_size,
        sums=moments.sums,
        episodes=moments.episodes,
    )
    room = num_rows.astype(moments.room.dtype) * plan.num_lanes
    if episodes is not None:
        at = jnp.where(statistics.length > 0, ids, job.per_episode)
        returns = statistics.discounted_returns
        episodes = episodes._replace(discounted_return=episodes.discounted_return.at[at].set(returns, mode="drop"))
    moments = moments._replace(sums=empty.sums, episodes=empty.episodes)
    moments = merge(moments, returns_of(statistics, group, ratios, empty, room))
    return moments._replace(sums=sums, episodes=episodes)


def example_row(player: Player, keep_log_prob: bool, key: jax.Array, params: Any) -> Trajectory:
    """A row as the buffers hold it, for its shapes."""
    lane = reset_lane(player, key, 0, jnp.zeros((), jnp.int32))
    _, row = play_step(player, params, lane)
    if player.value is not None:
        row = row._replace(value=player.value(lane.observation, lane.time))
    return _record_row(keep_log_prob, row)


def _record_row(keep_log_prob: bool, row: Trajectory) -> Trajectory:
    """What of a row the gradient needs."""
    floats = float_dtype()
    value = None if row.value is None else jnp.asarray(row.value, floats)
    log_prob = jnp.asarray(row.log_prob, floats) if keep_log_prob else None
    return strong(row._replace(log_prob=log_prob, carry=None, value=value))


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


def _on_devices(
    play: Callable, job: Job, key: jax.Array, params: Any, first: Any, last: Any, id_ends: jax.Array
) -> Moments:
    """`play` on every device of the mesh, each its share of the range, and the merged moments."""
    mesh = job.mesh
    if mesh is None:
        raise TypeError("mesh is None")
    names = tuple(mesh.axis_names)

    def on_device(key, params, first, last, id_ends):
        shares = jnp.stack(_shares(first, last, job.layout.peer_group_size, mesh.size))
        device = jax.lax.axis_index(names)
        moments = play(key, params, shares[device], shares[device + 1], id_ends)
        total = jax.lax.psum(moments, names)
        floats = moments.mean.dtype
        # A device may have none of the episodes.
        share = moments.count.astype(floats) / jnp.maximum(total.count, 1).astype(floats)
        mean, mean_return = jax.lax.psum((share * moments.mean, share * moments.mean_return), names)
        spread = moments.count.astype(floats) * (moments.mean - mean) ** 2
        return total._replace(mean=mean, squares=total.squares + jax.lax.psum(spread, names), mean_return=mean_return)

    replicated = jax.sharding.PartitionSpec()
    # check_vma=False: differentiating with respect to params inside then does not sum over devices by itself.
    run = jax.shard_map(on_device, mesh=mesh, in_specs=replicated, out_specs=replicated, check_vma=False)
    return run(key, params, jnp.asarray(first, jnp.int32), jnp.asarray(last, jnp.int32), id_ends)
