"""Baselines made of a group's other episodes, as the numbers that their covariance depends on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.baselines import Baseline

__all__ = ["group_coefficients"]


def group_coefficients(
    baseline: Baseline, num_episodes: int, *, ends_vary: bool
) -> list[tuple[int, float, int, Any, Any]]:
    """The groups of equal size as (size, share of all episodes, how many, α, β) with b_i = α Σ_{j≠i} Ψ_j + β Ψ_i.

    `ends_vary`: whether the number of episodes that reach a time step is random; then a baseline that depends on it is
    refused. Raises ValueError where there are fewer than two episodes, or b is not linear in the weights.
    """
    if num_episodes < 2:
        raise ValueError(
            "this baseline is made of the other episodes of a group: num_episodes must be at least 2; got "
            f"{num_episodes}"
        )
    sizes = _group_sizes(num_episodes, min(baseline.group_size or num_episodes, num_episodes))
    return [(size, size / num_episodes, repeats, *_coefficients(baseline, size, ends_vary)) for size, repeats in sizes]


def _group_sizes(num_episodes: int, size: int) -> list[tuple[int, int]]:
    """(size, how many) of the groups of consecutive episodes; a remainder of one joins the group before it."""
    full, rest = divmod(num_episodes, size)
    if rest == 1:
        return [(size, full - 1), (size + 1, 1)] if full > 1 else [(size + 1, 1)]
    return [(size, full), (rest, 1)] if rest else [(size, full)]


def _coefficients(baseline: Baseline, size: int, ends_vary: bool) -> tuple[float, float]:
    """(α, β), read off the baseline's function."""

    function = baseline.peers
    if function is None:
        raise TypeError("the baseline is not made of other episodes")

    def b(total: float, own: float, count: int = size) -> float:
        with jax.ensure_compile_time_eval():  # Numbers, also where a caller is being traced.
            return float(function(*(jnp.asarray(x, jnp.result_type(float)) for x in (total, own, size, count))))

    others, own = b(1.0, 0.0), b(1.0, 1.0)
    if not (np.isclose(b(2.5, -1.5), 4.0 * others - 1.5 * own, rtol=1e-4) and abs(b(0.0, 0.0)) < 1e-6):
        raise ValueError(
            "the exact covariance of a baseline made of other episodes is known where it is linear in their "
            "weights; this one is not"
        )
    if ends_vary and any(not np.isclose(b(1.0, 0.0, count), others, rtol=1e-4) for count in range(1, size)):
        raise ValueError(
            "this baseline divides by the number of episodes that reach a time step, which is random where "
            "the MDP has terminal states: its exact covariance is not available. Use leave_one_out, which "
            "divides by the group's size"
        )
    return others, own
