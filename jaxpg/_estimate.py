"""The estimate ĝ and its errors, from sums over groups of episodes and running moments of the returns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.lanes import EpisodeStatistics, float_dtype

__all__ = ["GradientEstimate", "Moments", "add_statistics", "finish", "no_moments", "variance_groups"]


class GradientEstimate(NamedTuple):
    """An estimate of ∇J(θ) with its error.

    With g_i the term of episode i, Σ the covariance of g_i and N the number of episodes:

    Fields:
      gradient: pytree like params, ĝ = 1/N Σ_i g_i, the ascent direction of J.
      variance: pytree like params, the variance of each coordinate of `gradient`: diag(Σ)/N, estimated from the sums
        of g_i over `num_groups` groups of consecutive episodes; its relative standard error is about
        √(2 / (num_groups − 1)). NaN for one group. With a baseline made of the group's other episodes the groups are
        whole groups of that baseline; where those are fewer than asked for and hold n ≥ 32 episodes, smaller groups are
        taken, and the variance comes out low by the order of 1/n.
      objective: mean over episodes of Σ_t γ^t r_t, with the weight's γ, from all N episodes; J(θ).
      objective_error: standard error of `objective`. NaN for N = 1.
      episode_return, episode_length: mean over episodes of the undiscounted return Σ_t r_t, and of the length.
      gradient_norm, gradient_norm_error: ‖ĝ‖, and the standard error of ĝ in its own direction.
      snr: signal-to-noise ratio ‖∇J‖ / √(tr Σ / N), with ‖∇J‖² estimated without bias by ‖ĝ‖² − tr Σ̂ / N (0 where
        that is negative; NaN where there is neither signal nor noise).
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


DEFAULT_GROUPS = 32
LOOSE_GROUP = 32  # Episodes of a baseline's group from which on its members count as independent.


class Moments(NamedTuple):
    """Running sums over a device's finished episodes; `mean` and `squares` (Σ (x − mean)²) are those of returns."""

    sums: Any
    count: jax.Array
    mean: jax.Array
    squares: jax.Array
    mean_return: jax.Array
    steps: jax.Array
    room: jax.Array
    nonfinite: jax.Array


def variance_groups(num_episodes: int, num_groups: int | None, peer_group_size: int | None) -> list[int]:
    """Where the groups of consecutive episodes end from whose sums the variance is estimated.

    With a baseline made of a group's other episodes, sums are independent only between whole groups of that baseline:
    then the ends are ends of those, unless there are few and large ones, which tie their episodes together loosely.
    """
    wanted = min(num_groups or DEFAULT_GROUPS, num_episodes)
    if peer_group_size is None:
        return [num_episodes * (g + 1) // wanted for g in range(wanted)]
    peer_groups = max(num_episodes // peer_group_size + (num_episodes % peer_group_size > 1), 1)
    if peer_groups < wanted and peer_group_size >= LOOSE_GROUP:
        return [num_episodes * (g + 1) // wanted for g in range(wanted)]
    wanted = min(wanted, peer_groups)
    ends = [peer_groups * (g + 1) // wanted * peer_group_size for g in range(wanted)]
    return [*ends[:-1], num_episodes]


def no_moments(params: Any, num_groups: int, most_steps: int) -> Moments:
    """The moments before the first episode. Steps are counted in integers where their number cannot pass 2³¹."""
    floats = float_dtype()
    zero = jnp.zeros((), floats)
    return Moments(
        # At least single precision, also where params are half.
        sums=jax.tree.map(
            lambda p: jnp.zeros((num_groups, *jnp.shape(p)), jnp.promote_types(jnp.result_type(p), floats)), params
        ),
        count=jnp.zeros((), jnp.int32),
        mean=zero,
        squares=zero,
        mean_return=zero,
        steps=jnp.zeros((), jnp.int32 if most_steps < 2**31 else floats),
        room=zero,
        nonfinite=jnp.zeros((), jnp.int32),
    )


def add_statistics(moments: Moments, episodes: EpisodeStatistics) -> Moments:
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


def finish(moments: Moments, params: Any, group_ends: list[int]) -> GradientEstimate:
    """The estimate and its errors from the groups' sums."""
    floats = moments.mean.dtype
    num_episodes, num_groups = group_ends[-1], len(group_ends)
    sizes = jnp.asarray(np.diff([0, *group_ends]), floats)

    def column(x, leaf):
        return x.reshape((-1,) + (1,) * (leaf.ndim - 1)).astype(leaf.dtype)

    gradient = jax.tree.map(lambda s: jnp.sum(s, axis=0) / num_episodes, moments.sums)
    # Group g's sum less its share of the mean, over √n_g: mean 0, covariance Σ (1 − n_g / N).
    residuals = jax.tree.map(
        lambda s, g: (s - column(sizes, s) * g) / jnp.sqrt(column(sizes, s)), moments.sums, gradient
    )
    scale = 1.0 / ((num_groups - 1) * num_episodes) if num_groups > 1 else jnp.nan
    variance = jax.tree.map(lambda r: jnp.sum(r**2, axis=0) * scale, residuals)

    def total(tree):
        return sum((jnp.sum(x).astype(floats) for x in jax.tree.leaves(tree)), jnp.zeros((), floats))

    squared_norm = total(jax.tree.map(jnp.square, gradient))
    norm = jnp.sqrt(squared_norm)
    products = jax.tree.map(lambda r, g: jnp.sum((r * g).reshape(num_groups, -1), axis=1), residuals, gradient)
    along = sum((p.astype(floats) for p in jax.tree.leaves(products)), jnp.zeros(num_groups, floats))
    trace = total(variance)
    signal = jnp.maximum(squared_norm - trace, 0.0)
    signal = jnp.where(jnp.isnan(trace), jnp.nan, signal)
    error = jnp.sqrt(moments.squares / (num_episodes - 1) / num_episodes) if num_episodes > 1 else jnp.nan
    return GradientEstimate(
        gradient=jax.tree.map(lambda g, p: g.astype(jnp.result_type(p)), gradient, params),
        variance=variance,
        objective=moments.mean,
        objective_error=jnp.asarray(error, floats),
        episode_return=moments.mean_return,
        episode_length=moments.steps.astype(floats) / num_episodes,
        gradient_norm=norm,
        gradient_norm_error=jnp.sqrt(jnp.sum(along**2) * scale) / norm,
        snr=jnp.sqrt(signal / trace),
        noise_scale=num_episodes * trace / signal,
        trace=trace,
        num_episodes=moments.count,
        num_steps=moments.steps,
        num_groups=jnp.asarray(num_groups, jnp.int32),
        utilization=moments.steps.astype(floats) / moments.room,
        num_nonfinite=moments.nonfinite,
    )
