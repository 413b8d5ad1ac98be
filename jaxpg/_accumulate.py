"""From stored steps to Σ_t [w^t ∇ log π(a_t | s_t) (Ψ_t − b_t)], summed over groups of episodes.

`weigh` gives Ψ and the packed order; the gradient then runs over blocks of the packed order, which hold finished steps
only, small enough for the cache. A block ends where a group does.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _linear_fit
from jaxpg._batching import any_member, in_batches, read_row, write_row
from jaxpg._importance import Ratios
from jaxpg._plan import default
from jaxpg._weigh import Weighted, peer_groups, weigh
from jaxpg.baselines import Baseline
from jaxpg.lanes import Trajectory, float_dtype
from jaxpg.policies.base import Policy
from jaxpg.policies.quadrature import quadrature
from jaxpg.weights import Weight

__all__ = ["Factors", "Steps", "Terms", "sum_groups", "weighed_steps"]


class Terms(NamedTuple):
    """What an estimate adds up over the steps: w^t [∇ log π(a | s) (Ψ − b) + β ∇H(π(· | s))].

    Fields:
      policy, weight, baseline: π, Ψ and b.
      entropy_coefficient: β; None: 0.
    """

    policy: Policy
    weight: Weight
    baseline: Baseline
    entropy_coefficient: Any = None

    def step(self, params: Any, observation: Any, action: Any, time: Any, factors: "Factors") -> jax.Array:
        """A scalar whose gradient in `params` is the term of one step."""
        distribution = self.policy.apply(params, observation)
        if self.weight.action_value is None:
            value = factors.scale * distribution.log_prob(action)
        else:
            value = jnp.sum(self._every_action(distribution, observation, time, factors))
        if self.entropy_coefficient is not None:
            value += self.entropy_coefficient * factors.discount * distribution.entropy()
        return value

    def _every_action(self, distribution: Any, observation: Any, time: Any, factors: "Factors") -> jax.Array:
        """w^t π(a | s) (Q(s, a) − b) log π(a | s) for every action a; of the factors the last alone has a gradient."""
        nodes = jax.lax.stop_gradient(distribution)
        actions, probabilities = quadrature(nodes, self.weight.quadrature_points)
        values = jax.vmap(lambda action: self.weight.action_value(observation, time, action))(actions)  # type: ignore
        scales = factors.discount * probabilities * (values - factors.baseline)
        log_probs = jax.vmap(distribution.log_prob)(actions)
        return scales * jnp.where(probabilities > 0, log_probs, 0.0)


class Factors(NamedTuple):
    """Of a step: w^t with the importance ratios before it; b_t; the first times (Ψ_t − b_t); b_t's factor therein."""

    discount: jax.Array
    baseline: jax.Array
    scale: jax.Array
    score: jax.Array


class Steps(NamedTuple):
    """The buffer's finished steps in the packed order, weighed.

    Fields:
      buffer, psi, ratios: [row · lane, …] the steps, their Ψ, and (ratio, prefix) or None.
      weighted: what `weigh` gave.
      group: [slot] the group of a baseline made of other episodes.
      fit: the linear baseline's coefficients, or None.
      episode_weights: [slot] factors of the episodes, or None.
      discounts: [time] w^t, or None for w = 1.
    """

    buffer: Trajectory
    psi: jax.Array
    ratios: Any
    weighted: Weighted
    group: jax.Array
    fit: Any
    episode_weights: Any
    discounts: Any

    def at(self, terms: Terms, places: jax.Array, played: jax.Array) -> tuple[Any, Any, jax.Array, Factors]:
        """(observation, action, time, factors) of the steps at these places; factors are 0 where not `played`."""
        places = self.weighted.packed[places]
        step, psi, ratios = jax.tree.map(lambda x: x[places], (self.buffer, self.psi, self.ratios))
        factors = self._factors(terms, step, psi, ratios)
        factors = jax.tree.map(lambda x: jnp.where(played, x, 0.0), factors)
        return step.observation, step.action, step.time, factors

    def _factors(self, terms: Terms, step: Trajectory, psi: jax.Array, ratios: Any) -> Factors:
        weighted, floats = self.weighted, psi.dtype
        if terms.weight.whole_episode:
            psi = weighted.first[step.episode]
        b = jnp.zeros((), floats)
        if terms.baseline.function is not None:
            b = jax.vmap(terms.baseline.function)(step.observation, step.time).astype(floats)
        elif terms.baseline.peers is not None:
            g, t = self.group[step.episode], 0 if terms.weight.whole_episode else step.time
            b = terms.baseline.peers(weighted.peer_sum[g, t], psi, weighted.peer_size[g], weighted.peer_count[g, t])
        elif terms.baseline.features is not None:
            b = self.fit(step.observation, step.time, step.episode)
        discount = jnp.ones((), floats) if self.discounts is None else self.discounts[step.time]
        ratio, prefix = (jnp.ones((), floats),) * 2 if ratios is None else ratios
        discount = discount * prefix
        if self.episode_weights is not None:
            discount = discount * self.episode_weights[step.episode]
        factors = Factors(discount, b, discount * (psi - ratio * b), discount * ratio)
        return Factors(*(jnp.broadcast_to(factor, psi.shape) for factor in factors))


def weighed_steps(
    buffer: Trajectory,
    num_rows: jax.Array,
    length: jax.Array,
    num_slots: jax.Array,
    terms: Terms,
    ratios: Ratios | None,
    *,
    group_size: int,
    max_time: int,
    block_size: int,
    episode_weights: jax.Array | None = None,
) -> Steps:
    """Weighs the buffer's steps; arguments as in `weigh`, and a factor for each slot's episode."""
    weighted = weigh(
        buffer,
        num_rows,
        length,
        num_slots,
        terms.weight,
        terms.baseline,
        ratios,
        group_size=group_size,
        max_time=max_time,
    )
    per_step = None
    if ratios is not None and ratios.correction == "per_decision":
        per_step = (ratios.ratio, ratios.prefix)
    elif ratios is not None and ratios.correction is not None:
        episode_weights = ratios.episode if episode_weights is None else episode_weights * ratios.episode
    flat = jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), (buffer, weighted.weight, per_step))
    group, size = peer_groups(num_slots, length.shape[0], group_size)
    w = terms.weight.state_discount
    # γ^t from a table: a power for every step would cost as much as a layer of the policy.
    times = jnp.arange(max_time, dtype=float_dtype())
    discounts = None if isinstance(w, (int, float)) and w == 1 else jnp.asarray(w, times.dtype) ** times
    steps = Steps(flat[0], flat[1], flat[2], weighted, group, None, episode_weights, discounts)
    if terms.baseline.features is None:
        return steps
    fit = _linear_fit.fit(
        terms.baseline, steps.buffer, steps.psi, weighted, group, size, group_size, terms.weight, block_size
    )
    return steps._replace(fit=fit)


def sum_groups(steps: Steps, terms: Terms, params: Any, *, group_ends: jax.Array, block_size: int, sums: Any) -> Any:
    """Adds the terms of the finished episodes of each group to `sums`, pytree like params with a leading [group] axis.

    Args:
      group_ends: [group] the number of slots up to and including the group's last; groups are ranges of slots.
      block_size: steps of a block.
    """
    weighted = steps.weighted
    total = jnp.sum(weighted.length, dtype=jnp.int32)
    step_ends = jnp.append(weighted.offset, total)[group_ends]  # Steps of the packed order up to each group's end.
    index = jnp.arange(block_size, dtype=jnp.int32)
    most = max(default("block_size") // block_size, 1)  # Members of a vmap at a time: what the cache holds.

    def objective(params, observation, action, time, factors):
        return jnp.sum(jax.vmap(lambda *step: terms.step(params, *step))(observation, action, time, factors))

    def add_group(group, sums):
        end = step_ends[group]
        start = jnp.where(group > 0, step_ends[group - 1], 0)

        def body(state):
            start, partial, _ = state
            block = steps.at(terms, jnp.minimum(start + index, total - 1), start + index < end)
            gradient = in_batches(jax.grad(objective), most, params, *block)
            partial = jax.tree.map(lambda p, g: p + g.astype(p.dtype), partial, gradient)
            return start + block_size, partial, any_member(start + block_size < end)

        partial = jax.tree.map(lambda s: jnp.zeros(s.shape[1:], s.dtype), sums)
        _, partial, _ = jax.lax.while_loop(lambda state: state[2], body, (start, partial, any_member(start < end)))
        return write_row(sums, jax.tree.map(jnp.add, read_row(sums, group), partial), group)

    return jax.lax.fori_loop(0, step_ends.shape[0], add_group, sums)
