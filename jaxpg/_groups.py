"""What is summed over groups of episodes on the way to a gradient and its variance."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg._accumulate import Steps, Terms, sum_groups
from jaxpg._estimate import EpisodeGradients
from jaxpg._per_episode import fold_episodes
from jaxpg.lanes import float_dtype

__all__ = ["LOOSE_GROUP", "OptimalSums", "accumulate", "empty_episodes", "empty_sums", "group_sums", "variance_groups"]

DEFAULT_GROUPS = 32
LOOSE_GROUP = 32  # Episodes of a baseline's group from which on its members count as independent.


class OptimalSums(NamedTuple):
    """Sums of each group for the optimal constant baseline, with a leading [group] axis.

    Fields:
      gradient, score: pytrees like params: Σ_i g_i without a baseline, Σ_i D_i.
      cross, square: Σ_i D_i·g_i and Σ_i D_i·D_i: for each coordinate, pytrees like params; or, for one constant, over
        all of them, [group] for each leaf.
    """

    gradient: Any
    score: Any
    cross: Any
    square: Any


def variance_groups(
    num_episodes: int, num_groups: int | None, dependent: int | None, strict: bool = False
) -> list[int]:
    """Where the groups of consecutive episodes end from whose sums the variance is estimated.

    Args:
      dependent: None, or a number of consecutive episodes whose terms depend on each other: those of a baseline made of
        other episodes, or of a sampling scheme. Sums are independent only between whole groups of them, so the ends are
        ends of those, unless (not `strict`) there are few and large ones, which tie their episodes together loosely.
    """
    wanted = min(num_groups or DEFAULT_GROUPS, num_episodes)
    if dependent is None:
        return [num_episodes * (g + 1) // wanted for g in range(wanted)]
    whole = max(num_episodes // dependent + (num_episodes % dependent > 1), 1)
    if not strict and whole < wanted and dependent >= LOOSE_GROUP:
        return [num_episodes * (g + 1) // wanted for g in range(wanted)]
    wanted = min(wanted, whole)
    ends = [whole * (g + 1) // wanted * dependent for g in range(wanted)]
    return [*ends[:-1], num_episodes]


def empty_sums(params: Any, num_groups: int, optimal: str | None) -> Any:
    """Zeros, at least in single precision, also where params are half."""
    floats = float_dtype()
    zeros = jax.tree.map(
        lambda p: jnp.zeros((num_groups, *jnp.shape(p)), jnp.promote_types(jnp.result_type(p), floats)), params
    )
    if optimal is None:
        return zeros
    squares = zeros if optimal == "per_coordinate" else jax.tree.map(lambda z: z.reshape(num_groups, -1)[:, 0], zeros)
    return OptimalSums(zeros, zeros, squares, squares)


def empty_episodes(params: Any, number: int) -> EpisodeGradients:
    """Zeros for so many episodes."""
    zeros = empty_sums(params, number, None)
    return EpisodeGradients(zeros, zeros, jnp.zeros(number, float_dtype()))


def accumulate(
    steps: Steps,
    terms: Terms,
    params: Any,
    num_slots: jax.Array,
    ids: jax.Array,
    group: jax.Array,
    *,
    group_ends: jax.Array,
    block_size: int,
    sums: Any,
    episodes: EpisodeGradients | None,
) -> tuple[Any, EpisodeGradients | None]:
    """Adds the buffer's finished episodes to the sums, and writes each by itself into `episodes`.

    Args:
      ids, group: [slot] episode ids, and groups of the variance.
      group_ends: [group] slots up to each group's end.
    """
    if terms.baseline.optimal is None and episodes is None:
        return sum_groups(steps, terms, params, group_ends=group_ends, block_size=block_size, sums=sums), None
    last = group.shape[0] - 1

    def fold(state, slots, gradients, scores):
        sums, episodes = state
        # A slot that is not there has gradients of zero; it is sent out of range, where writes are dropped.
        known = jnp.where(slots < num_slots, jnp.minimum(slots, last), last)
        finished = (slots < num_slots) & (steps.weighted.length[known] > 0)
        sums = _add_to_groups(sums, group[known], terms.baseline.optimal, gradients, scores)
        if episodes is not None:
            at = jnp.where(finished, ids[known], episodes.discounted_return.shape[0])
            write = lambda all_, new: all_.at[at].set(new.astype(all_.dtype), mode="drop")  # noqa: E731
            episodes = episodes._replace(
                gradient=jax.tree.map(write, episodes.gradient, gradients),
                score=jax.tree.map(write, episodes.score, scores),
            )
        return sums, episodes

    return fold_episodes(steps, terms, params, num_slots, block_size, fold, (sums, episodes))


def _add_to_groups(sums: Any, group: jax.Array, optimal: str | None, gradients: Any, scores: Any) -> Any:
    def add(all_, new):
        return jax.tree.map(lambda a, n: a.at[group].add(n.astype(a.dtype)), all_, new)

    if optimal is None:
        return add(sums, gradients)
    cross = jax.tree.map(jnp.multiply, scores, gradients)
    square = jax.tree.map(jnp.square, scores)
    if optimal == "scalar":
        cross, square = jax.tree.map(_over_coordinates, (cross, square))
    new = OptimalSums(gradients, scores, cross, square)
    return OptimalSums(*(add(a, n) for a, n in zip(sums, new, strict=True)))


def _over_coordinates(x: jax.Array) -> jax.Array:
    return jnp.sum(x.reshape(x.shape[0], -1), axis=1)


def group_sums(sums: Any, optimal: str | None) -> Any:
    """The groups' sums Σ_i g_i, with the optimal baseline of the other groups subtracted where there is one."""
    if optimal is None:
        return sums
    cross, square = sums.cross, sums.square
    if optimal == "scalar":  # One constant for all leaves.
        cross, square = (_same_for_all_leaves(x) for x in (cross, square))

    def less(gradient, score, cross, square):
        """Σ_i g_i − b Σ_i D_i, with b of each group from all others."""
        others_cross, others_square = jnp.sum(cross, 0) - cross, jnp.sum(square, 0) - square
        b = jnp.where(others_square > 0, others_cross / jnp.where(others_square > 0, others_square, 1.0), 0.0)
        return gradient - b.reshape(b.shape + (1,) * (score.ndim - b.ndim)) * score

    return jax.tree.map(less, sums.gradient, sums.score, cross, square)


def _same_for_all_leaves(tree: Any) -> Any:
    total = sum(jax.tree.leaves(tree))
    return jax.tree.map(lambda leaf: jnp.asarray(total).astype(leaf.dtype), tree)
