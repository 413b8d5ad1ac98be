"""The policy gradient, estimated from whole episodes:

    ∇J(θ)  =  E_{τ ~ π_θ} [ Σ_t  w^t ∇_θ log π_θ(a_t | s_t) · ( Ψ_t(τ) − b_t ) ].

`policy_gradient` plays the episodes and averages; `gradient_from` takes stored ones. Both run the same code on them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _accumulate, _check, baselines, rollout, weights
from jaxpg._batching import any_member
from jaxpg._plan import Plan, default, make_plan, require_max_steps, row_bytes
from jaxpg.baselines import Baseline
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.policies.base import Policy
from jaxpg.rollout import Queue, Trajectory, float_dtype
from jaxpg.weights import Weight

__all__ = ["GradientEstimate", "gradient_from", "policy_gradient"]

DEFAULT_GROUPS = 32


class GradientEstimate(NamedTuple):
    """An estimate of ∇J(θ) with its error.

    With g_i the term of episode i, Σ the covariance of g_i and N the number of episodes:

    Fields:
      gradient: pytree like params, ĝ = 1/N Σ_i g_i, the ascent direction of J.
      variance: pytree like params, the variance of each coordinate of `gradient`: diag(Σ)/N, estimated from the sums
        of g_i over `num_groups` groups of consecutive episodes; its relative standard error is about
        √(2 / (num_groups − 1)). NaN for one group.
      objective: mean over episodes of Σ_t γ^t r_t, with the weight's γ, from all N episodes; J(θ).
      objective_error: standard error of `objective`. NaN for N = 1.
      episode_return, episode_length: mean over episodes of the undiscounted return Σ_t r_t, and of the length.
      gradient_norm, gradient_norm_error: ‖ĝ‖, and the standard error of ĝ in its own direction.
      snr: signal-to-noise ratio ‖∇J‖ / √(tr Σ / N), with ‖∇J‖² estimated without bias by ‖ĝ‖² − tr Σ̂ / N (0 where
        that is negative).
      noise_scale: tr Σ / ‖∇J‖², the batch size in episodes at which signal equals noise (McCandlish et al., 2018);
        infinite where no signal is seen.
      trace: tr Σ / N, the variances summed over all coordinates.
      num_episodes, num_steps, num_groups: counts; `num_steps` is an integer up to 2³¹, beyond it a rounded float.
      utilization: played steps over steps that the lanes had room for.
      num_nonfinite: episodes whose return is not finite; the estimate cannot be trusted unless it is 0.
    """

    gradient: Any
    variance: Any
    objective: jax.Array
    objective_error: jax.Array
    episode_return: jax.Array
    episode_length: jax.Array
    gradient_norm: jax.Array
    gradient_norm_error: jax.Array
    snr: jax.Array
    noise_scale: jax.Array
    trace: jax.Array
    num_episodes: jax.Array
    num_steps: jax.Array
    num_groups: jax.Array
    utilization: jax.Array
    num_nonfinite: jax.Array


class Moments(NamedTuple):
    """Running sums over the finished episodes of a device; `mean` and `squares` (Σ (x − mean)²) are those of returns."""

    sums: Any
    count: jax.Array
    mean: jax.Array
    squares: jax.Array
    mean_return: jax.Array
    steps: jax.Array
    room: jax.Array
    nonfinite: jax.Array


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
      num_lanes: episodes played side by side; default 512 on a CPU, 32,768 on a GPU.
      block_size: steps of one block of the backward pass.
      buffer_bytes: most bytes of the buffers that hold steps, for one device.
      mesh: devices to lay the episodes over, along all its axes.
    Raises:
      ValueError, TypeError: for arguments out of range, an environment without limit or of wrong structure, a policy
        that does not fit it; and, where `key` and `params` are concrete, for rewards that are not finite.
    """
    num_episodes = _check.count("num_episodes", num_episodes)
    weight = weights.reward_to_go(discount=0.99) if weight is None else _record("weight", weight, Weight)
    baseline = baselines.none() if baseline is None else _record("baseline", baseline, Baseline)
    _record("env", env, Environment)
    _record("policy", policy, Policy)
    require_max_steps(env)
    if policy.initial_carry is not None:
        raise ValueError("policy has a memory (initial_carry); policy_gradient takes policies without one")
    if baseline.peers is not None and num_episodes < 2:
        raise ValueError(f"num_episodes must be at least 2 for a baseline made of the other episodes; got {num_episodes}")
    options = {
        "chunk_size": _check.optional(_check.count, "chunk_size", chunk_size, 1 if baseline.peers is None else 2),
        "num_lanes": _check.optional(_check.count, "num_lanes", num_lanes),
        "block_size": _check.optional(_check.count, "block_size", block_size),
        "buffer_bytes": _check.optional(_check.count, "buffer_bytes", buffer_bytes),
    }
    num_groups = min(_check.optional(_check.count, "num_groups", num_groups) or DEFAULT_GROUPS, num_episodes)
    _record("mesh", mesh, (jax.sharding.Mesh, type(None)))
    check_structure(env)

    def estimate(key, params):
        play = functools.partial(_play, env, policy, weight, baseline, num_episodes, num_groups, options)
        moments = play(key, params, 0, 1) if mesh is None else _on_devices(play, mesh, key, params)
        return _finish(moments, num_episodes, num_groups)

    compiled = jax.jit(estimate)

    def gradient(key, params):
        key = _check.key("key", key)
        _check_policy(env, policy, params)
        result = compiled(key, params)
        if _check.is_concrete(result.num_nonfinite) and result.num_nonfinite > 0:
            raise ValueError(f"reward: {int(result.num_nonfinite)} of {num_episodes} episodes of {env.name} have a return "
                             f"that is not finite")
        return result

    return gradient


def _record(argument: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        name = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
        raise TypeError(f"{argument} must be a jaxpg {name}; got {type(value).__name__} ({value!r:.80})")
    return value


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
            params, structure.observation, jax.eval_shape(lambda: jax.random.key(0)),
        )
    except Exception as error:
        raise ValueError(f"params do not fit the policy, or the policy does not fit {env.name}: policy.apply(params, "
                         f"observation) failed with {type(error).__name__}: {error}") from error
    if log_prob.shape != ():
        raise ValueError(f"policy: log_prob of one action must be a scalar; got shape {log_prob.shape}")


def _play(
    env: Environment, policy: Policy, weight: Weight, baseline: Baseline, num_episodes: int, num_groups: int,
    options: dict, key: jax.Array, params: Any, device: Any, num_devices: int,
) -> Moments:
    """Plays a device's share of the episodes buffer by buffer and sums their terms by group."""
    row = jax.eval_shape(functools.partial(_example_row, env, policy, weight), key, params)
    plan = make_plan(
        env, -(-num_episodes // num_devices), row_bytes(row), final_rows=weight.value is not None,
        group_size=baseline.group_size, whole_groups=baseline.peers is not None, **options,
    )
    first, last = _share(num_episodes, baseline.group_size or plan.chunk or 1, device, num_devices)
    buffer = jax.tree.map(lambda x: jnp.zeros((plan.num_rows, plan.num_lanes, *x.shape), x.dtype), row)
    # Group g holds the episodes with ids in [g N / G, (g + 1) N / G).
    id_ends = jnp.asarray([num_episodes * (g + 1) // num_groups for g in range(num_groups)], jnp.int32)
    floats = float_dtype()
    zero = jnp.zeros((), floats)
    moments = Moments(
        sums=jax.tree.map(lambda p: jnp.zeros((num_groups, *jnp.shape(p)), jnp.result_type(p)), params),
        count=jnp.zeros((), jnp.int32), mean=zero, squares=zero, mean_return=zero, room=zero,
        steps=jnp.zeros((), _step_dtype(num_episodes, env.max_steps)),
        nonfinite=jnp.zeros((), jnp.int32),
    )
    queue = Queue(
        pending=jnp.full(plan.num_lanes, jnp.iinfo(jnp.int32).max, jnp.int32), num_pending=jnp.zeros((), jnp.int32),
        next_id=first, num_slots=jnp.zeros((), jnp.int32),
    )

    def body(state):
        queue, buffer, moments, _ = state
        queue = queue._replace(num_slots=_next_slots(queue, last, plan))
        buffer, num_rows, statistics, rest = rollout.episodes(
            env, policy, params, key, queue, buffer, num_rows=plan.num_rows, max_slots=plan.max_slots,
            discount=weight.discount, value=weight.value, record=functools.partial(_record_row, weight),
        )
        group_ends = _slots_before(queue, id_ends, plan)
        sums = _sum_terms(
            buffer, num_rows, statistics.length, queue.num_slots, policy, params, weight, baseline,
            group_ends=group_ends, group_size=baseline.group_size or plan.chunk or 1, max_time=env.max_steps,
            block_size=plan.block_size, sums=moments.sums,
        )
        room = num_rows.astype(floats) * plan.num_lanes
        moments = _add_statistics(moments._replace(sums=sums, room=moments.room + room), statistics)
        return rest, buffer, moments, any_member((rest.num_pending > 0) | (rest.next_id < last))

    state = (queue, buffer, moments, any_member(first < last))
    return jax.lax.while_loop(lambda state: state[3], body, state)[2]


def _sum_terms(buffer, num_rows, length, num_slots, policy, params, weight, baseline, *, group_ends, group_size,
               max_time, block_size, sums, episode_weights=None):
    """Weighs the buffer's steps and adds the finished episodes' terms to the groups' sums."""
    weighted = _accumulate.weigh(
        buffer, num_rows, length, num_slots, weight, baseline, group_size=group_size, max_time=max_time
    )
    return _accumulate.sum_scores(
        buffer, weighted, policy, params, weight, baseline, group_ends=group_ends, group_size=group_size,
        num_slots=num_slots, block_size=block_size, episode_weights=episode_weights, sums=sums,
    )


def _example_row(env: Environment, policy: Policy, weight: Weight, key: jax.Array, params: Any) -> Trajectory:
    lane = rollout.reset_lane(env, policy, key, jnp.zeros((), jnp.int32), weight.discount)
    _, row = rollout.play_step(env, policy, params, lane, weight.discount)
    if weight.value is not None:
        row = row._replace(value=weight.value(lane.observation, lane.time))
    return _record_row(weight, row)


def _record_row(weight: Weight, row: Trajectory) -> Trajectory:
    """What of a row the gradient needs."""
    value = None if row.value is None else jnp.asarray(row.value, float_dtype())
    return rollout.strong(row._replace(log_prob=None, carry=None, value=value))


def _share(num_episodes: int, unit: int, device: Any, num_devices: int) -> tuple[jax.Array, jax.Array]:
    """The device's range of episode ids; its ends are multiples of `unit`."""
    units = -(-num_episodes // unit)
    ends = [min(units * d // num_devices * unit, num_episodes) for d in range(num_devices + 1)]
    if num_episodes - ends[-2] == 1 and num_devices > 1 and unit > 1:  # A remainder of one joins the group before.
        ends[-2] = num_episodes
    ends = jnp.asarray(ends, jnp.int32)
    return ends[device], ends[device + 1]


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


def _step_dtype(num_episodes: int, max_steps: int) -> Any:
    """Integers where the number of steps cannot pass 2³¹, else floats."""
    return jnp.int32 if num_episodes * max_steps < 2**31 else float_dtype()


def _add_statistics(moments: Moments, episodes: rollout.EpisodeStatistics) -> Moments:
    """Merges the finished episodes into the running moments (Chan et al., 1983)."""
    finished = episodes.length > 0
    floats = moments.mean.dtype
    count = jnp.sum(finished, dtype=jnp.int32)
    total = moments.count + count
    share = count.astype(floats) / jnp.maximum(total, 1).astype(floats)

    def mean(x):
        return jnp.sum(jnp.where(finished, x, 0).astype(floats)) / jnp.maximum(count, 1).astype(floats)

    new_mean = mean(episodes.discounted_returns)
    squares = jnp.sum(jnp.where(finished, (episodes.discounted_returns - new_mean) ** 2, 0.0))
    shift = new_mean - moments.mean
    return moments._replace(
        count=total,
        mean=moments.mean + share * shift,
        squares=moments.squares + squares + shift**2 * share * moments.count.astype(floats),
        mean_return=moments.mean_return + share * (mean(episodes.returns) - moments.mean_return),
        steps=moments.steps + jnp.sum(episodes.length, dtype=jnp.int32).astype(moments.steps.dtype),
        nonfinite=moments.nonfinite + jnp.sum(finished & ~jnp.isfinite(episodes.returns), dtype=jnp.int32),
    )


def _on_devices(play: Callable, mesh: jax.sharding.Mesh, key: jax.Array, params: Any) -> Moments:
    """`play` on every device of the mesh, and the merged moments."""
    names = tuple(mesh.axis_names)
    mesh = jax.sharding.Mesh(mesh.devices, names)  # With automatic axes, whatever the given mesh has.

    def on_device(key, params):
        moments = play(key, params, jax.lax.axis_index(names), mesh.size)
        total = jax.lax.psum(moments.count, names)
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


def _finish(moments: Moments, num_episodes: int, num_groups: int) -> GradientEstimate:
    """The estimate and its errors from the groups' sums."""
    floats = moments.mean.dtype
    sizes = jnp.asarray(
        np.diff([num_episodes * g // num_groups for g in range(num_groups + 1)]), floats
    )

    def column(x, leaf):
        return x.reshape((-1,) + (1,) * (leaf.ndim - 1)).astype(leaf.dtype)

    gradient = jax.tree.map(lambda s: jnp.sum(s, axis=0) / num_episodes, moments.sums)
    # Group g's sum less its share of the mean, over √n_g: mean 0, covariance Σ (1 − n_g / N).
    residuals = jax.tree.map(lambda s, g: (s - column(sizes, s) * g) / jnp.sqrt(column(sizes, s)), moments.sums, gradient)
    scale = 1.0 / ((num_groups - 1) * num_episodes) if num_groups > 1 else jnp.nan
    variance = jax.tree.map(lambda r: jnp.sum(r**2, axis=0) * scale, residuals)

    def total(tree):
        return functools.reduce(jnp.add, [jnp.sum(x).astype(floats) for x in jax.tree.leaves(tree)])

    squared_norm = total(jax.tree.map(jnp.square, gradient))
    norm = jnp.sqrt(squared_norm)
    along = functools.reduce(jnp.add, [
        jnp.sum((r * g).reshape(num_groups, -1), axis=1).astype(floats)
        for r, g in zip(jax.tree.leaves(residuals), jax.tree.leaves(gradient), strict=True)
    ])
    trace = total(variance)
    signal = jnp.maximum(squared_norm - trace, 0.0)
    signal = jnp.where(jnp.isnan(trace), jnp.nan, signal)
    error = jnp.sqrt(moments.squares / (num_episodes - 1) / num_episodes) if num_episodes > 1 else jnp.nan
    return GradientEstimate(
        gradient=gradient, variance=variance, objective=moments.mean, objective_error=jnp.asarray(error, floats),
        episode_return=moments.mean_return, episode_length=moments.steps.astype(floats) / num_episodes, gradient_norm=norm,
        gradient_norm_error=jnp.sqrt(jnp.sum(along**2) * scale) / norm, snr=jnp.sqrt(signal / trace),
        noise_scale=num_episodes * trace / signal, trace=trace, num_episodes=moments.count,
        num_steps=moments.steps,
        num_groups=jnp.asarray(num_groups, jnp.int32), utilization=moments.steps.astype(floats) / moments.room,
        num_nonfinite=moments.nonfinite,
    )
