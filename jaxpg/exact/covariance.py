"""Exact mean and covariance of a policy-gradient estimate on a finite MDP, for jaxpg's weights and baselines.

A `Weight` is a backward linear recursion already, so it is put on arrays over (s, a, s') and handed to the moments:
`moments` for weights that differ from step to step, `whole_episode` for the total return, `leave_one_out` where the
baseline is made of other episodes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.baselines import Baseline
from jaxpg.exact import evaluation, leave_one_out, moments, whole_episode
from jaxpg.exact.peers import group_coefficients
from jaxpg.exact.recursion import Coefficients, Recursion, check_converges
from jaxpg.weights import StepValues, Weight, reward_to_go

__all__ = ["baseline_table", "estimate_moments", "recursion"]


def estimate_moments(
    mdp: Any,
    policy: Any,
    params: Any,
    weight: Weight | Recursion | None = None,
    baseline: Baseline | None = None,
    num_episodes: int = 1,
    behavior: tuple[Any, Any] | None = None,
    entropy_coefficient: Any = None,
    temperature: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Mean [P] and covariance [P, P] of the average over `num_episodes` episodes; see `FiniteMDP.covariance`."""
    num_episodes = _check.count("num_episodes", num_episodes)
    if temperature is not None and behavior is not None:
        raise ValueError("temperature is available where the policy itself acts, not with behavior")
    mdp = evaluation.soft(mdp, policy, params, temperature)
    baseline = _check_baseline(baseline)
    psi = evaluation.scores(mdp, policy, params)
    if isinstance(weight, Recursion):
        estimator = weight
    else:
        estimator = recursion(mdp, policy, params, weight, baseline, behavior)
    if entropy_coefficient is not None:
        estimator = _with_entropy(mdp, policy, params, estimator, entropy_coefficient)
    if mdp.horizon is None and estimator.whole_episode and mdp.terminal is None:
        raise ValueError(
            "total_return needs episodes that end: give the MDP a horizon or terminal states, or use reward_to_go"
        )
    check_converges(mdp, estimator)
    if baseline.peers is not None:
        return _grouped_moments(mdp, estimator, psi, baseline, num_episodes)
    mean, squared = (whole_episode if estimator.whole_episode else moments).moments(mdp, estimator, psi)
    return mean, (squared - jnp.outer(mean, mean)) / num_episodes


def recursion(
    mdp: Any,
    policy: Any,
    params: Any,
    weight: Weight | None,
    baseline: Baseline | None = None,
    behavior: tuple[Any, Any] | None = None,
) -> Recursion:
    """A weight and a baseline (a function, or none) as a `Recursion` on the MDP.

    With a `behavior` policy that acts in the policy's place, every step is corrected by its ratio ρ = π/μ, so that the
    mean stays what it is on-policy: x → ρx, c → ρc, w → ρw (per-decision importance sampling; Precup, 2000), and for a
    weight of the whole episode one product of all ratios.
    """
    weight = reward_to_go(discount=mdp.discount) if weight is None else weight
    if not isinstance(weight, Weight):
        raise TypeError(
            f"weight must come from jaxpg.weights, or be a jaxpg.exact.Recursion; got "
            f"{type(weight).__name__} ({weight!r})"
        )
    if weight.whole_episode and weight.lookahead is not None:
        raise ValueError("weight has both whole_episode and lookahead; its exact moments are not available")
    if baseline is not None and (baseline.features is not None or baseline.optimal is not None):
        raise ValueError(
            "the exact moments of a baseline that is fitted to the other episodes are not available; a constant's are: "
            "jaxpg.exact.optimal_baseline gives the best one"
        )
    if weight.corrected and behavior is not None and baseline not in (None, Baseline()):
        raise ValueError("baseline: V-trace with behavior has its own, V, and takes no other")
    pi = evaluation.probabilities(mdp, policy, params)
    acting, ratio = pi, None
    if behavior is not None:
        acting = evaluation.probabilities(mdp, *behavior)
        ratio = _ratio(pi, acting)
    # In a sum over all actions a baseline of the state is nothing: Σ_a π ψ b = 0, without noise.
    function = None if baseline is None or weight.action_value is not None else baseline.function
    table = baseline_table(mdp, function)
    corrected = None if weight.whole_episode or weight.corrected else ratio
    term = None if weight.action_value is None else _all_action_term(mdp, policy, params, pi, weight)
    return Recursion(
        coefficients=_coefficients(mdp, weight, corrected, ratio),
        baseline=table,
        acting=acting,
        lags=weight.lookahead,
        whole_episode=weight.whole_episode,
        episode_ratio=ratio if weight.whole_episode else None,
        state_term=term,
    )


def _all_action_term(mdp: Any, policy: Any, params: Any, pi: jax.Array, weight: Weight) -> jax.Array:
    """h_t(s) = Σ_a ∇π(a | s) Q(s, t, a), [H, S, P]; without a horizon Q is called with time 0."""
    psi = evaluation.scores(mdp, policy, params)
    states, actions = jnp.arange(mdp.num_states), jnp.arange(mdp.num_actions)

    def values(time: jax.Array) -> jax.Array:
        table = jax.vmap(lambda s: jax.vmap(lambda a: jnp.asarray(weight.action_value(s, time, a)))(actions))(states)  # type: ignore
        return table.astype(mdp.transition.dtype)

    times = jnp.arange(1 if mdp.horizon is None else mdp.horizon)
    return jnp.einsum("sa,sap,tsa->tsp", pi, psi, jax.vmap(values)(times))


def _with_entropy(mdp: Any, policy: Any, params: Any, estimator: Recursion, coefficient: Any) -> Recursion:
    """The estimator with β ∇H(π(· | s_t)) added at every step."""
    if estimator.whole_episode:
        raise ValueError("entropy_coefficient: the exact moments are not available for a weight of the whole episode")
    slopes = coefficient * evaluation.entropy_slopes(mdp, policy, params)[None]
    term = slopes if estimator.state_term is None else estimator.state_term + slopes
    return dataclasses.replace(estimator, state_term=term)


def baseline_table(mdp: Any, function: Callable[[Any, jax.Array], jax.Array] | None) -> jax.Array:
    """b_t(s) for every t and s as [H, S, 1]; [1, S, 1] without a horizon, where the time passed is 0."""
    dtype = mdp.transition.dtype
    if function is None:
        return jnp.zeros((1, 1, 1), dtype)
    times = jnp.arange(1 if mdp.horizon is None else mdp.horizon)
    return jax.vmap(lambda time: _state_values(mdp, function, time))(times)[..., None].astype(dtype)


def _coefficients(mdp: Any, weight: Weight, corrected: jax.Array | None, known: jax.Array | None) -> Coefficients:
    """A weight's coefficients: increment, decay and score discount times the ratio to be `corrected` by.

    Args:
      known: the ratio that the weight's own functions may use.
    """
    shape, dtype, horizon = mdp.transition.shape, mdp.transition.dtype, mdp.horizon
    ratio = jnp.ones((1, 1, 1), dtype) if corrected is None else corrected[..., None]
    seen = jnp.broadcast_to(jnp.ones((), dtype) if known is None else known[..., None], shape)
    reward = jnp.broadcast_to(evaluation.transition_reward(mdp), shape)
    ended = jnp.broadcast_to(jnp.zeros((), bool) if mdp.terminal is None else mdp.terminal, shape)

    def one(time: jax.Array) -> list[jax.Array]:
        value = next_value = None
        if weight.value is not None:
            value = jnp.broadcast_to(_state_values(mdp, weight.value, time)[:, None, None], shape)
            later = time if horizon is None else time + 1
            next_value = jnp.broadcast_to(_state_values(mdp, weight.value, later), shape)
        terminated = ended if horizon is None else ended | (time == horizon - 1)
        step = StepValues(reward, value, next_value, terminated, jnp.zeros(shape, bool), seen)
        functions = (weight.increment, weight.decay, weight.direct or weight.increment, weight.carry or weight.decay)
        return [ratio * jnp.broadcast_to(jnp.asarray(f(step), dtype), shape) for f in functions]

    # Without a value function time enters by the last step alone: two rows are enough.
    num_rows = 1 if horizon is None else horizon if weight.value is not None else min(2, horizon)
    rows = jax.vmap(one)(jnp.arange(num_rows) + (0 if horizon is None else horizon - num_rows))
    increment, decay, direct, carry = rows
    score_discount = ratio * jnp.asarray(weight.state_discount, dtype)
    return Coefficients(increment, decay, direct, carry, score_discount[None], ratio[None])


def _state_values(mdp: Any, function: Callable[[Any, jax.Array], jax.Array], time: jax.Array) -> jax.Array:
    """A function of (observation, time) at every state: [S]."""
    values = jax.vmap(lambda state: jnp.asarray(function(state, time)))(jnp.arange(mdp.num_states))
    if values.ndim != 1:
        raise ValueError(f"a value or baseline function must give a scalar for one observation; got {values.shape[1:]}")
    return values.astype(mdp.transition.dtype)


def _ratio(pi: jax.Array, acting: jax.Array) -> jax.Array:
    """ρ = π/μ, [S, A]; 0 where neither acts. Raises ValueError where the target acts and the behaviour never does."""
    if _check.is_concrete(pi) and _check.is_concrete(acting):
        missing = np.argwhere((np.asarray(acting) <= 0) & (np.asarray(pi) > 0))
        if missing.size:
            state, action = (int(i) for i in missing[0])
            raise ValueError(
                f"behavior must give a positive probability to every action that the policy takes; in state "
                f"{state} it never takes action {action}"
            )
    return jnp.where(acting > 0, pi / jnp.where(acting > 0, acting, 1.0), 0.0)


def _check_baseline(baseline: Any) -> Baseline:
    if baseline is None:
        return Baseline()
    if not isinstance(baseline, Baseline):
        raise TypeError(f"baseline must come from jaxpg.baselines; got {type(baseline).__name__} ({baseline!r})")
    return baseline


def _grouped_moments(
    mdp: Any, estimator: Recursion, psi: jax.Array, baseline: Baseline, num_episodes: int
) -> tuple[jax.Array, jax.Array]:
    """Moments with a baseline made of a group's other episodes: groups are independent, and count by their size."""
    ends_vary = mdp.terminal is not None and not estimator.whole_episode
    groups = group_coefficients(baseline, num_episodes, ends_vary=ends_vary)
    estimator = _with_numbers(mdp, estimator)
    mean, covariance = jnp.zeros(psi.shape[-1:], psi.dtype), jnp.zeros(psi.shape[-1:] * 2, psi.dtype)
    for size, share, repeats, others, own in groups:
        group_mean, group_covariance = leave_one_out.group_moments(mdp, estimator, psi, size, others, own)
        mean += repeats * share * group_mean
        covariance += repeats * share**2 * group_covariance
    return mean, covariance


def _with_numbers(mdp: Any, estimator: Recursion) -> Recursion:
    """The recursion with its decay and score discount as [K, 1, 1, 1]; they must not vary with state and action."""
    coefficients = estimator.coefficients
    varying = (coefficients.decay, coefficients.score_discount, coefficients.baseline_factor)
    known = [np.asarray(array) for array in varying if _check.is_concrete(array)]
    same = all((array == array[:, :1, :1, :1]).all() for array in known)
    if estimator.episode_ratio is not None or not same:
        raise ValueError(
            "a baseline made of other episodes is available on-policy, and where the weight's decay is a "
            "number; here there is a behavior policy, or the decay varies with state and action"
        )
    if estimator.whole_episode:
        return estimator
    if mdp.horizon is None:
        raise ValueError(
            "a baseline made of other episodes' weights at the same time step needs a finite horizon; this "
            "MDP's horizon is None. With total_return it does not"
        )
    numbers = {name: getattr(coefficients, name)[:, :1, :1, :1] for name in ("decay", "carry", "score_discount")}
    return dataclasses.replace(estimator, coefficients=coefficients._replace(**numbers))
