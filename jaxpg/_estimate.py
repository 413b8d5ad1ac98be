"""The estimate ĝ and its errors, from sums over groups of episodes and running moments of the returns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg._show import compact
from jaxpg.lanes import EpisodeStatistics, float_dtype

__all__ = ["EpisodeGradients", "GradientEstimate", "Moments", "finish", "merge", "no_moments", "returns_of"]


class EpisodeGradients(NamedTuple):
    """Each episode by itself; memory is 2 N times the size of params.

    Fields:
      gradient: pytree like params with a leading [N] axis, g_i = Σ_t w^t ∇ log π (Ψ_t − b_t), with its importance
        ratios: the estimate is their mean (self-normalised, their sum over that of the weights; with the optimal
        baseline, the mean of g_i − b D_i). With num_episodes="auto" rows behind the last episode are 0.
      score: the same for D_i = Σ_t w^t ∇ log π(a_t | s_t), with w = γ or as the weight has it.
      discounted_return: [N] Σ_t γ^t r_t.
    """

    gradient: Any
    score: Any
    discounted_return: jax.Array

    __repr__ = compact


class GradientEstimate(NamedTuple):
    """An estimate of ∇J(θ) with its error.

    With g_i the term of episode i, Σ the covariance of g_i and N the number of episodes:

    Fields:
      gradient: pytree like params, ĝ = 1/N Σ_i g_i, the ascent direction of J.
      variance: pytree like params, the variance of each coordinate of `gradient`: diag(Σ)/N, estimated from the sums
        of g_i over `num_groups` groups of consecutive episodes; its relative standard error is about
        √(2 / (num_groups − 1)). NaN for one group. With a baseline made of the group's other episodes the groups are
        whole groups of that baseline; where those are fewer than asked for and hold n ≥ 32 episodes, smaller groups are
        taken, and the variance comes out low by the order of 1/n. With episodes that depend on each other by
        `sampling`, groups are always whole ones.
      objective: mean over episodes of Σ_t γ^t r_t, with the weight's γ, from all N episodes; J(θ). With a temperature α
        the reward includes −α log π; with another policy acting, the episodes are weighed by their importance.
      objective_error: standard error of `objective`, from the groups where `sampling` ties episodes together. NaN for
        N = 1, and then for one group.
      episode_return, episode_length: mean over the episodes as played of the undiscounted return Σ_t r_t, and of the
        length.
      gradient_norm, gradient_norm_error: ‖ĝ‖, and the standard error of ĝ in its own direction.
      snr: signal-to-noise ratio ‖∇J‖ / √(tr Σ / N), with ‖∇J‖² estimated without bias by ‖ĝ‖² − tr Σ̂ / N (0 where
        that is negative; NaN where there is neither signal nor noise).
      noise_scale: tr Σ / ‖∇J‖², the batch size in episodes at which signal equals noise (McCandlish et al., 2018);
        infinite where no signal is seen.
      trace: tr Σ / N, the variances summed over all coordinates.
      effective_sample_size: (Σ w_i)² / Σ w_i² for the importance weights w_i of the episodes; N where the policy itself
        acts (Kong, 1992).
      num_episodes, num_steps, num_groups: counts; `num_steps` is an integer up to 2³¹, beyond it a rounded float.
      utilization: played steps over steps that the lanes had room for.
      num_nonfinite: episodes whose return is not finite; the estimate cannot be trusted unless it is 0.
      episodes: `EpisodeGradients`, where they were asked for, else None.
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
    effective_sample_size: jax.Array
    num_episodes: jax.Array
    num_steps: jax.Array
    num_groups: jax.Array
    utilization: jax.Array
    num_nonfinite: jax.Array
    episodes: Any = None

    __repr__ = compact


class Moments(NamedTuple):
    """What is known of finished episodes; two parts' moments are put together by `merge`.

    Fields:
      sums: sums over the groups, from `jaxpg._groups`.
      count: episodes. mean, squares: of the discounted returns x, and Σ (x − mean)².
      mean_return: of the undiscounted ones.
      group_returns: [group] Σ_i x_i; self-normalised: Σ_i w_i x_i for the importance weights w_i.
      weights, weight_squares: [group] Σ_i w_i, and the sum Σ_i w_i². None where the policy itself acts.
      steps, room: played steps, and those that the lanes had room for.
      nonfinite: episodes whose return is not finite.
      episodes: `EpisodeGradients` or None.
    """

    sums: Any
    count: jax.Array
    mean: jax.Array
    squares: jax.Array
    mean_return: jax.Array
    group_returns: jax.Array
    weights: Any
    weight_squares: Any
    steps: jax.Array
    room: jax.Array
    nonfinite: jax.Array
    episodes: Any


def no_moments(sums: Any, num_groups: int, most_steps: int, weighted: bool, episodes: Any = None) -> Moments:
    """The moments before the first episode. Steps are counted in integers where their number cannot pass 2³¹."""
    floats = float_dtype()
    zero = jnp.zeros((), floats)
    return Moments(
        sums=sums,
        count=jnp.zeros((), jnp.int32),
        mean=zero,
        squares=zero,
        mean_return=zero,
        group_returns=jnp.zeros(num_groups, floats),
        weights=jnp.zeros(num_groups, floats) if weighted else None,
        weight_squares=zero if weighted else None,
        steps=jnp.zeros((), jnp.int32 if most_steps < 2**31 else floats),
        room=zero,
        nonfinite=jnp.zeros((), jnp.int32),
        episodes=episodes,
    )


def returns_of(
    statistics: EpisodeStatistics, group: jax.Array, ratios: Any, empty: Moments, room: jax.Array
) -> Moments:
    """The moments of these episodes' returns, without sums.

    Args:
      group: [slot] the group of each slot.
      ratios: the importance ratios, or None.
      empty: moments of no episodes.
      room: steps that the lanes had room for.
    """
    finished = statistics.length > 0
    floats = empty.mean.dtype
    count = jnp.sum(finished, dtype=jnp.int32)

    def mean(x):
        return jnp.sum(jnp.where(finished, x, 0).astype(floats)) / jnp.maximum(count, 1).astype(floats)

    discounted = statistics.discounted_returns if ratios is None else ratios.returns
    new_mean = mean(discounted)
    weights = finished if ratios is None else jnp.where(finished, ratios.episode, 0.0)
    self_normalized = ratios is not None and ratios.correction == "self_normalized"
    terms = jnp.where(finished, weights * discounted if self_normalized else discounted, 0.0)
    moments = empty._replace(
        count=count,
        mean=new_mean,
        squares=jnp.sum(jnp.where(finished, (discounted - new_mean) ** 2, 0.0)),
        mean_return=mean(statistics.returns),
        group_returns=empty.group_returns.at[group].add(terms, mode="drop"),
        steps=jnp.sum(statistics.length, dtype=jnp.int32).astype(empty.steps.dtype),
        room=room.astype(floats),
        nonfinite=jnp.sum(finished & ~jnp.isfinite(statistics.returns), dtype=jnp.int32),
    )
    if ratios is None:
        return moments
    return moments._replace(
        weights=empty.weights.at[group].add(weights, mode="drop"),
        weight_squares=jnp.sum(weights**2),
    )


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of both parts' episodes (Chan et al., 1983)."""
    count = first.count + second.count
    floats = first.mean.dtype
    share = second.count.astype(floats) / jnp.maximum(count, 1).astype(floats)
    shift = second.mean - first.mean
    total = jax.tree.map(jnp.add, first, second)
    return total._replace(
        mean=first.mean + share * shift,
        squares=total.squares + shift**2 * share * first.count.astype(floats),
        mean_return=first.mean_return + share * (second.mean_return - first.mean_return),
    )


def finish(
    moments: Moments,
    sums: Any,
    params: Any,
    sizes: jax.Array,
    num_episodes: Any,
    self_normalized: bool = False,
    dependent: bool = False,
) -> GradientEstimate:
    """The estimate and its errors.

    Args:
      sums: pytree like params with a leading [group] axis: Σ_i g_i of the groups.
      sizes: [group] episodes of the groups; num_episodes: their sum.
      self_normalized: divide by the sum of the importance weights in the place of N.
      dependent: episodes of a group depend on each other, so that the objective's error is taken from the groups, too.
    """
    floats = moments.mean.dtype
    num_groups = sizes.shape[0]
    n = jnp.asarray(num_episodes, floats)
    sizes = sizes.astype(floats)
    shares = moments.weights if self_normalized else sizes
    total_share = jnp.sum(shares)

    def column(x, leaf):
        return x.reshape((-1,) + (1,) * (leaf.ndim - 1)).astype(leaf.dtype)

    gradient = jax.tree.map(lambda s: jnp.sum(s, axis=0) / total_share.astype(s.dtype), sums)
    # Group g's sum less its share of the mean, over √n_g: mean 0, covariance Σ (1 − n_g / N). For a ratio of sums this
    # is its linearisation, the delta method.
    residuals = jax.tree.map(lambda s, g: (s - column(shares, s) * g) / jnp.sqrt(column(sizes, s)), sums, gradient)
    scale = n / ((num_groups - 1) * total_share**2) if num_groups > 1 else jnp.full((), jnp.nan, floats)
    variance = jax.tree.map(lambda r: jnp.sum(r**2, axis=0) * scale.astype(r.dtype), residuals)

    def total(tree):
        return sum((jnp.sum(x).astype(floats) for x in jax.tree.leaves(tree)), jnp.zeros((), floats))

    squared_norm = total(jax.tree.map(jnp.square, gradient))
    norm = jnp.sqrt(squared_norm)
    products = jax.tree.map(lambda r, g: jnp.sum((r * g).reshape(num_groups, -1), axis=1), residuals, gradient)
    along = sum((p.astype(floats) for p in jax.tree.leaves(products)), jnp.zeros(num_groups, floats))
    trace = total(variance)
    signal = jnp.maximum(squared_norm - trace, 0.0)
    signal = jnp.where(jnp.isnan(trace), jnp.nan, signal)
    objective, squared_error = moments.mean, moments.squares / (n - 1) / n
    if self_normalized:
        objective = jnp.sum(moments.group_returns) / total_share
    if self_normalized or dependent:
        spread = (moments.group_returns - objective * shares) / jnp.sqrt(sizes)
        squared_error = jnp.sum(spread**2) * scale
    effective = n if moments.weights is None else jnp.sum(moments.weights) ** 2 / moments.weight_squares
    return GradientEstimate(
        gradient=jax.tree.map(lambda g, p: g.astype(jnp.result_type(p)), gradient, params),
        variance=variance,
        objective=objective,
        objective_error=jnp.where(n > 1, jnp.sqrt(squared_error), jnp.nan),
        episode_return=moments.mean_return,
        episode_length=moments.steps.astype(floats) / n,
        gradient_norm=norm,
        gradient_norm_error=jnp.sqrt(jnp.sum(along**2) * scale) / norm,
        snr=jnp.sqrt(signal / trace),
        noise_scale=n * trace / signal,
        trace=trace,
        effective_sample_size=effective,
        num_episodes=moments.count,
        num_steps=moments.steps,
        num_groups=jnp.asarray(num_groups, jnp.int32),
        utilization=moments.steps.astype(floats) / moments.room,
        num_nonfinite=moments.nonfinite,
        episodes=moments.episodes,
    )
