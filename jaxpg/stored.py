"""The policy gradient from stored episodes: from data collected elsewhere, and from all that a small problem has."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _accumulate, _check, _groups, baselines, weights
from jaxpg._accumulate import Terms
from jaxpg._estimate import GradientEstimate, finish, no_moments, returns_of
from jaxpg._importance import correction_for, importance_ratios
from jaxpg._keywords import hinted
from jaxpg._plan import default
from jaxpg.baselines import Baseline
from jaxpg.lanes import EpisodeStatistics, Trajectory, float_dtype
from jaxpg.policies.base import Policy
from jaxpg.weights import Weight

__all__ = ["gradient_from"]


@hinted
def gradient_from(
    trajectory: Trajectory,
    policy: Policy,
    params: Any,
    weight: Weight | None = None,
    baseline: Baseline | None = None,
    probabilities: Any = None,
    *,
    entropy_coefficient: Any = None,
    importance_sampling: str | None = None,
    per_episode: bool = False,
    num_episodes: int | None = None,
    num_groups: int | None = None,
    block_size: int | None = None,
) -> GradientEstimate:
    """The policy gradient from stored episodes, by the same code as `policy_gradient`.

    Fed with every trajectory of a small problem and their probabilities it gives the estimator's exact mean.

    Args:
      trajectory: whole episodes as [step, lane] arrays, back to back in the lanes in any arrangement. `episode` holds
        ids 0 … N − 1. A truncated episode is followed by a row that is not `valid` and holds its final observation, if
        the weight has a value function. `value` and `carry` are not looked at.
      policy, params: π_θ. They should be those that acted, unless `importance_sampling` is given.
      weight, baseline: as in `policy_gradient`; all episodes are in memory, so the default group of a baseline made of
        other episodes is all N.
      probabilities: [N] p_i: the estimate is Σ_i p_i g_i, and its variances are NaN. None: p_i = 1/N.
      entropy_coefficient, per_episode: as in `policy_gradient`. (For the soft policy gradient subtract α log π from the
        stored rewards.)
      importance_sampling: None: the episodes are the policy's own. Else they are another policy's, whose
        log μ(a_t | s_t) is `trajectory.log_prob`, and are corrected as in `policy_gradient`.
      num_episodes: N; needed where `trajectory` is traced and no probabilities are given.
      num_groups, block_size: as in `policy_gradient`.
    Raises:
      ValueError, TypeError: as `policy_gradient`; and for episodes that are not whole, where that can be seen.
    """
    weight = weights.reward_to_go(discount=0.99) if weight is None else _check.instance("weight", weight, Weight)
    baseline = baselines.none() if baseline is None else _check.instance("baseline", baseline, Baseline)
    _check.instance("trajectory", trajectory, Trajectory)
    _check.instance("policy", policy, Policy)
    _check.params("params", params)
    shape = jnp.shape(trajectory.reward)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"trajectory must hold [step, lane] arrays with at least one step; reward has shape {shape}")
    num_episodes = number_of_episodes(trajectory, probabilities, num_episodes)
    if baseline.peers is not None and num_episodes < 2:
        raise ValueError(
            f"num_episodes must be at least 2 for a baseline made of the other episodes; got {num_episodes}"
        )
    num_groups = _check.optional(_check.count, "num_groups", num_groups)
    if baseline.optimal is not None and min(num_episodes, num_groups or 2) < 2:
        raise ValueError("num_episodes and num_groups must be at least 2 for the optimal baseline")
    if probabilities is not None and (baseline.optimal is not None or baseline.of_other_episodes):
        raise ValueError("probabilities: a baseline made of other episodes is no function of single episodes")
    block_size = _check.count_or("block_size", block_size, default("block_size"))
    if policy.initial_carry is not None:
        raise ValueError("policy has a memory (initial_carry); gradient_from takes policies without one")
    floats = float_dtype()
    off_policy = importance_sampling is not None
    correction = None if importance_sampling is None else correction_for(importance_sampling, weight)
    if off_policy and (baseline.of_other_episodes or (weight.corrected and baseline != baselines.none())):
        raise ValueError(
            "baseline: one made of other episodes, or any with V-trace, is not available with importance_sampling"
        )
    trajectory = trajectory._replace(
        observation=jax.tree.map(jnp.asarray, trajectory.observation),
        action=jax.tree.map(jnp.asarray, trajectory.action),
        reward=jnp.asarray(trajectory.reward, floats),
        terminated=jnp.asarray(trajectory.terminated, bool),
        truncated=jnp.asarray(trajectory.truncated, bool) & ~jnp.asarray(trajectory.terminated, bool),
        valid=jnp.asarray(trajectory.valid, bool),
        episode=jnp.asarray(trajectory.episode, jnp.int32),
        time=jnp.asarray(trajectory.time, jnp.int32),
        log_prob=_check.array("trajectory.log_prob", trajectory.log_prob).astype(floats) if off_policy else None,
        carry=None,
        value=None
        if weight.value is None
        else jax.vmap(jax.vmap(weight.value))(trajectory.observation, trajectory.time).astype(floats),
    )
    statistics = episode_statistics(trajectory, num_episodes, weight.discount)
    if _check.is_concrete(statistics.length):
        check_whole(trajectory, statistics, weight)
    if off_policy and _check.is_concrete(trajectory.log_prob):
        _check_log_prob(trajectory)
    terms = Terms(
        policy, weight, baseline, _check.optional(_check.number, "entropy_coefficient", entropy_coefficient, 0)
    )
    num_rows = jnp.asarray(shape[0], jnp.int32)
    ratios = None
    if off_policy:
        ratios = importance_ratios(
            trajectory,
            num_rows,
            statistics.length,
            statistics.discounted_returns,
            policy,
            params,
            discount=weight.discount,
            correction=correction,
        )
    peer_group_size = (baseline.group_size or num_episodes) if baseline.of_other_episodes else None
    block_size = min(block_size, shape[0] * shape[1])
    steps = _accumulate.weighed_steps(
        trajectory,
        num_rows,
        statistics.length,
        jnp.asarray(num_episodes, jnp.int32),
        terms,
        ratios,
        group_size=peer_group_size or 1,
        max_time=shape[0],
        block_size=block_size,
        episode_weights=None if probabilities is None else jnp.asarray(probabilities, floats),
    )
    ends = _groups.variance_groups(num_episodes, num_groups, peer_group_size)
    slots = jnp.arange(num_episodes, dtype=jnp.int32)
    group_ends = jnp.asarray(ends, jnp.int32)
    group = jnp.searchsorted(group_ends, slots, side="right").astype(jnp.int32)
    kept = _groups.empty_episodes(params, num_episodes) if per_episode else None
    empty = no_moments(
        _groups.empty_sums(params, len(ends), baseline.optimal), len(ends), shape[0] * shape[1], off_policy, kept
    )
    sums, episodes = _groups.accumulate(
        steps,
        terms,
        params,
        jnp.asarray(num_episodes, jnp.int32),
        slots,
        group,
        group_ends=group_ends,
        block_size=block_size,
        sums=empty.sums,
        episodes=kept,
    )
    if episodes is not None:
        episodes = episodes._replace(discounted_return=statistics.discounted_returns)
    moments = returns_of(statistics, group, ratios, empty, jnp.asarray(shape[0] * shape[1], floats))
    moments = moments._replace(sums=sums, episodes=episodes)
    sums = _groups.group_sums(sums, baseline.optimal)
    sizes = jnp.diff(group_ends, prepend=0)
    self_normalized = correction == "self_normalized"
    if probabilities is None:
        return finish(moments, sums, params, sizes, num_episodes, self_normalized)
    probabilities = jnp.asarray(probabilities, floats)
    if ratios is not None:
        statistics = statistics._replace(discounted_returns=ratios.returns)
        if self_normalized:
            raise ValueError("probabilities: the self-normalised estimate is no sum over single episodes")
    estimate = finish(moments, sums, params, sizes, num_episodes)
    return _with_probabilities(estimate, sums, probabilities, statistics)


def _check_log_prob(trajectory: Trajectory) -> None:
    played = np.asarray(trajectory.log_prob)[np.asarray(trajectory.valid)]
    if not np.isfinite(played).all():
        raise ValueError(
            "trajectory.log_prob must be finite for importance_sampling: log μ(a_t | s_t) of the policy that acted, of "
            "an action that it can take"
        )


def check_whole(trajectory: Trajectory, statistics: EpisodeStatistics, weight: Weight) -> None:
    """Each episode 0 … N − 1 with all its steps and its end, and its final observation where it is needed."""
    valid, episode = np.asarray(trajectory.valid), np.asarray(trajectory.episode)
    length = np.asarray(statistics.length)
    played = episode[valid]
    if played.size and (played.min() < 0 or played.max() >= length.size):
        raise ValueError(f"trajectory must hold episodes 0 … {length.size - 1}; it has ids up to {played.max()}")
    broken = np.flatnonzero((length == 0) | (np.bincount(played, minlength=length.size) != length))
    if broken.size:
        raise ValueError(
            f"trajectory must hold whole episodes 0 … {length.size - 1}; without an end, or not with every step once: "
            f"{broken[:5].tolist()}"
        )
    cut = valid & np.asarray(trajectory.truncated)
    followed = np.zeros_like(valid)
    followed[:-1] = ~valid[1:] & (episode[1:] == episode[:-1])
    if weight.value is not None and (cut & ~followed).any():
        raise ValueError(
            "trajectory must hold a row with the final observation behind each truncated step (not valid, of the same "
            "episode), since the weight has a value function: rollout.collect(…, final_rows=True) keeps them"
        )


def number_of_episodes(trajectory: Trajectory, probabilities: Any, num_episodes: Any) -> int:
    if num_episodes is not None:
        num_episodes = _check.count("num_episodes", num_episodes)
    if probabilities is not None:
        shape = jnp.shape(probabilities)
        if len(shape) != 1 or (num_episodes or shape[0]) != shape[0]:
            raise ValueError(f"probabilities must have shape [N] with N = num_episodes = {num_episodes}; got {shape}")
        return shape[0]
    if num_episodes is None:
        if not (_check.is_concrete(trajectory.episode) and _check.is_concrete(trajectory.valid)):
            raise ValueError("num_episodes is required where the trajectory is traced")
        num_episodes = int(np.max(np.where(np.asarray(trajectory.valid), np.asarray(trajectory.episode), 0))) + 1
    return num_episodes


def episode_statistics(trajectory: Trajectory, num_episodes: int, discount: Any) -> EpisodeStatistics:
    """Lengths and returns of the stored episodes, [N]."""
    ended = trajectory.valid & (trajectory.terminated | trajectory.truncated)
    floats = trajectory.reward.dtype
    reward = jnp.where(trajectory.valid, trajectory.reward, 0.0)
    slots = jnp.where(trajectory.valid, trajectory.episode, num_episodes)
    zeros = jnp.zeros(num_episodes, floats)
    return EpisodeStatistics(
        length=jnp.zeros(num_episodes, jnp.int32)
        .at[jnp.where(ended, trajectory.episode, num_episodes)]
        .set(trajectory.time + 1, mode="drop"),
        returns=zeros.at[slots].add(reward, mode="drop"),
        discounted_returns=zeros.at[slots].add(reward * jnp.asarray(discount, floats) ** trajectory.time, mode="drop"),
    )


def _with_probabilities(
    estimate: GradientEstimate, sums: Any, probabilities: jax.Array, statistics: EpisodeStatistics
) -> GradientEstimate:
    """The weighted sums in place of the means; what is known of their spread only if episodes weigh alike is NaN."""
    nan = jnp.full((), jnp.nan, probabilities.dtype)
    gradient = jax.tree.map(lambda s: jnp.sum(s, axis=0), sums)
    squared_norm = sum(jnp.sum(g**2).astype(nan.dtype) for g in jax.tree.leaves(gradient))
    return estimate._replace(
        gradient=gradient,
        variance=jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), gradient),
        objective=jnp.sum(probabilities * statistics.discounted_returns),
        objective_error=nan,
        episode_return=jnp.sum(probabilities * statistics.returns),
        episode_length=jnp.sum(probabilities * statistics.length),
        gradient_norm=jnp.sqrt(squared_norm),
        gradient_norm_error=nan,
        snr=nan,
        noise_scale=nan,
        trace=nan,
        effective_sample_size=nan,
    )
