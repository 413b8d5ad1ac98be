"""Importance ratios of stored steps: ρ_t = π(a_t | s_t) / μ(a_t | s_t), where μ acted and π's gradient is wanted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg._batching import read_row, write_row
from jaxpg.lanes import Trajectory, float_dtype
from jaxpg.policies.base import Policy
from jaxpg.weights import Weight

__all__ = ["CORRECTIONS", "Ratios", "correction_for", "importance_ratios"]

CORRECTIONS = ("per_decision", "trajectory", "self_normalized")


class Ratios(NamedTuple):
    """Ratios of a buffer's steps.

    Fields:
      ratio, prefix: [row, lane] ρ_t and Π_{k<t} ρ_k of the episode; ratio 1 in rows that are not valid.
      episode: [slot] w_i = Π_t ρ_t of the finished episodes, else 0.
      returns: [slot] unbiased estimates of J: Σ_t γ^t Π_{k≤t} ρ_k r_t, or w_i Σ_t γ^t r_t (self-normalised: without
        w_i).
      correction: which of them the weights are corrected with: one of `CORRECTIONS`, or None where the weight corrects
        itself.
    """

    ratio: jax.Array
    prefix: jax.Array
    episode: jax.Array
    returns: jax.Array
    correction: str | None


def correction_for(importance_sampling: str, weight: Weight) -> str | None:
    """What to correct with, for this weight: one that is the same for all steps needs the ratio of the trajectory."""
    _check.named("importance_sampling", importance_sampling, CORRECTIONS)
    if weight.corrected:
        return None
    whole = weight.whole_episode and importance_sampling == "per_decision"
    return "trajectory" if whole else importance_sampling


def importance_ratios(
    buffer: Trajectory,
    num_rows: jax.Array,
    length: jax.Array,
    discounted_returns: jax.Array,
    policy: Policy,
    params: Any,
    *,
    discount: Any,
    correction: str | None,
) -> Ratios:
    """The ratios by one forward pass over the rows; `buffer.log_prob` is log μ(a_t | s_t).

    Products are sums of logarithms, restarted with each episode.
    """
    params = jax.lax.stop_gradient(params)
    floats = float_dtype()
    (max_rows, num_lanes), max_slots = buffer.reward.shape, length.shape[0]

    def body(row, state):
        log_prefix, discounts, ratio, prefix, log_episode, returns = state
        step = read_row(buffer, row)
        log_prob = jax.vmap(lambda o, a: policy.apply(params, o).log_prob(a))(step.observation, step.action)
        log_ratio = jnp.where(step.valid, log_prob - step.log_prob, 0.0).astype(floats)
        begins = step.time == 0
        log_prefix, discounts = jnp.where(begins, 0.0, log_prefix), jnp.where(begins, 1.0, discounts)
        ratio = write_row(ratio, jnp.exp(log_ratio), row)
        prefix = write_row(prefix, jnp.exp(log_prefix), row)
        log_prefix = log_prefix + log_ratio
        kept = step.valid & (length[step.episode] > 0)
        slots = jnp.where(kept, step.episode, max_slots)
        ended = jnp.where(step.terminated | step.truncated, slots, max_slots)
        log_episode = log_episode.at[ended].set(log_prefix, mode="drop")
        returns = returns.at[slots].add(discounts * jnp.exp(log_prefix) * step.reward, mode="drop")
        return log_prefix, (discounts * discount).astype(floats), ratio, prefix, log_episode, returns

    zeros, ones = jnp.zeros(num_lanes, floats), jnp.ones(num_lanes, floats)
    rows = jnp.ones((max_rows, num_lanes), floats)
    slots = jnp.zeros(max_slots, floats)
    state = (zeros, ones, rows, rows, slots - jnp.inf, slots)
    _, _, ratio, prefix, log_episode, returns = jax.lax.fori_loop(0, num_rows, body, state)
    episode = jnp.exp(log_episode)
    if correction == "trajectory":
        returns = episode * discounted_returns
    if correction == "self_normalized":
        returns = discounted_returns
    return Ratios(ratio, prefix, episode, returns, correction)
