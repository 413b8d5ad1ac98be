"""Weights Ψ_t: what the score ∇ log π(a_t | s_t) of each step is multiplied by.

Every weight here is one backward linear recursion that restarts where an episode ends,

    Ψ_t = x_t + c_t Ψ_{t+1},        Ψ behind the last step = 0,

given by its `increment` x and its `decay` c. Reward-to-go is x = r, c = γ; generalized advantages are x = δ, c = γλ;
the TD residual is x = δ, c = 0; an n-step advantage is the recursion of the TD residuals less the same recursion n
steps on, A_t = δ_t + γ A_{t+1} − γⁿ δ_{t+n}; the total return is the reward-to-go of the first step, given to every
step.

The estimate of ∇J is the mean over episodes of Σ_t w^t ∇ log π(a_t | s_t) (Ψ_t − b_t). For a weight that looks forward
from t the factor is w = γ: J discounts the reward of step t by γ^t, and without the factor the sum is not the gradient
of any objective (Nota & Thomas, 2020). `discount_states=False` leaves it out, as most deep reinforcement learning does.
The total return holds its discounts already: w = 1.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxpg import _check

__all__ = [
    "StepValues",
    "Weight",
    "discounted_returns",
    "gae",
    "generalized_advantages",
    "n_step",
    "reward_to_go",
    "td_residual",
    "total_return",
]


class StepValues(NamedTuple):
    """What a weight may look at, arrays of one shape: r_t, V(s_t), V(s_{t+1}), and how the step ended.

    `next_value` is the value of the observation that the step led to, before any reset. Without a value function
    `value` and `next_value` are None.
    """

    reward: jax.Array
    value: Any
    next_value: Any
    terminated: jax.Array
    truncated: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight Ψ as a backward linear recursion.

    Fields:
      increment: StepValues -> x_t.
      decay: StepValues -> c_t at a step that its episode goes on after; at an episode's end it is taken as 0.
      discount: γ of the objective J = E[Σ_t γ^t r_t] that the weight belongs to.
      state_discount: w, the factor w^t before ∇ log π(a_t | s_t): γ, or 1 where the weight holds it or it is left out.
      value: None, or V as a function (observation, time) -> value.
      whole_episode: give every step of an episode the recursion's first value.
      lookahead: None, or n: subtract γⁿ x_{t+n} of the same episode from the increment, so that the recursion sums n
        steps.
    """

    increment: Callable[[StepValues], jax.Array]
    decay: Callable[[StepValues], jax.Array]
    discount: Any
    state_discount: Any
    value: Callable[[Any, jax.Array], jax.Array] | None = None
    whole_episode: bool = False
    lookahead: int | None = None


def total_return(discount: Any = 0.99) -> Weight:
    """The total return, for every step: Ψ_t = R = Σ_k γ^k r_k. Unbiased; the REINFORCE of Williams (1992).

    Args:
      discount: γ in [0, 1].
    """
    discount = _check.unit("discount", discount)
    return Weight(
        increment=lambda step: step.reward,
        decay=lambda step: jnp.full_like(step.reward, discount),
        discount=discount,
        state_discount=1.0,
        whole_episode=True,
    )


def reward_to_go(discount: Any = 0.99, discount_states: bool = True) -> Weight:
    """The reward-to-go: Ψ_t = Q̂_t = Σ_{k≥t} γ^{k−t} r_k. Unbiased (Baxter & Bartlett, 2001; Sutton et al., 2000).

    Args:
      discount: γ in [0, 1].
      discount_states: keep the factor γ^t before ∇ log π(a_t | s_t), without which the estimate is biased for γ < 1.
    """
    discount = _check.unit("discount", discount)
    return Weight(
        increment=lambda step: step.reward,
        decay=lambda step: jnp.full_like(step.reward, discount),
        discount=discount,
        state_discount=_state_discount(discount, discount_states),
    )


def gae(discount: Any = 0.99, lambda_: Any = 0.95, value: Any = None, discount_states: bool = True) -> Weight:
    """Generalized advantages: Ψ_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γ V(s_{t+1}) − V(s_t) (Schulman et al., 2016).

    V of a terminated step's successor is 0; a truncated step bootstraps from the observation that it led to. Unbiased
    for λ = 1 whatever V; for λ < 1 only where V is the policy's value function.

    Args:
      discount, lambda_: γ and λ in [0, 1].
      value: V, a function of an observation, or of (observation, time).
      discount_states: keep the factor γ^t before ∇ log π(a_t | s_t).
    """
    discount, lambda_ = _check.unit("discount", discount), _check.unit("lambda_", lambda_)
    return Weight(
        increment=_td_error(discount),
        decay=lambda step: jnp.full_like(step.reward, discount * lambda_),
        discount=discount,
        state_discount=_state_discount(discount, discount_states),
        value=value_function("value", value),
    )


def td_residual(discount: Any = 0.99, value: Any = None, discount_states: bool = True) -> Weight:
    """The one-step temporal-difference residual: Ψ_t = r_t + γ V(s_{t+1}) − V(s_t): GAE with λ = 0."""
    return gae(discount, 0.0, value, discount_states)


def n_step(discount: Any = 0.99, n: int = 5, value: Any = None, discount_states: bool = True) -> Weight:
    """The n-step advantage: Ψ_t = Σ_{k<n} γ^k r_{t+k} + γⁿ V(s_{t+n}) − V(s_t), shorter where the episode ends before.

    Unbiased where V is the policy's value function, or n reaches the end of every episode (Sutton & Barto, ch. 7).

    Args:
      discount: γ in [0, 1].
      n: number of rewards, at least 1.
      value: V, a function of an observation, or of (observation, time).
      discount_states: keep the factor γ^t before ∇ log π(a_t | s_t).
    """
    discount = _check.unit("discount", discount)
    return Weight(
        increment=_td_error(discount),
        decay=lambda step: jnp.full_like(step.reward, discount),
        discount=discount,
        state_discount=_state_discount(discount, discount_states),
        value=value_function("value", value),
        lookahead=_check.count("n", n),
    )


def value_function(argument: str, value: Any) -> Callable[[Any, jax.Array], jax.Array]:
    """`value` as a function of (observation, time); one of the observation alone is accepted."""
    import inspect

    if value is None:
        raise TypeError(
            f"{argument} must be a function observation -> value (or (observation, time) -> value); got None"
        )
    _check.callable_(argument, value, "observation -> value (or (observation, time) -> value)")
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # Some built-in callables have no signature.
        return lambda observation, time: _scalar(argument, value(observation))
    required = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    if len(required) == 2:
        return lambda observation, time: _scalar(argument, value(observation, time))
    if len(required) != 1 and not any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TypeError(
            f"{argument} must be a function observation -> value (or (observation, time) -> value); got a "
            f"function of {len(required)} required arguments"
        )
    return lambda observation, time: _scalar(argument, value(observation))


def _scalar(argument: str, result: Any) -> Any:
    if jnp.shape(result) != ():
        raise ValueError(f"{argument} must give a scalar for one observation; got shape {jnp.shape(result)}")
    return result


def _state_discount(discount: Any, discount_states: bool) -> Any:
    if not isinstance(discount_states, bool):
        raise TypeError(f"discount_states must be True or False; got {discount_states!r}")
    return discount if discount_states else 1.0


def _td_error(discount: Any) -> Callable[[StepValues], jax.Array]:
    def td_error(step: StepValues) -> jax.Array:
        return step.reward + discount * jnp.where(step.terminated, 0.0, step.next_value) - step.value

    return td_error


def discounted_returns(rewards: jax.Array, discounts: jax.Array) -> jax.Array:
    """Discounted returns: G_t = r_t + d_t G_{t+1}, with G behind the last step = 0.

    Args:
      rewards: floats, time-major [T, ...].
      discounts: d_t, of the same shape, or a scalar; 0 at the last step of an episode.
    Returns:
      Returns, shaped like `rewards`.
    Source: Sutton & Barto (2018), equation 3.9.
    """
    rewards = _time_major("rewards", rewards)
    discounts = jnp.broadcast_to(discounts, rewards.shape) if jnp.ndim(discounts) == 0 else jnp.asarray(discounts)
    _same_shape(rewards=rewards, discounts=discounts)
    return backward_recursion(rewards, discounts.astype(rewards.dtype))


def generalized_advantages(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    discount: Any,
    lambda_: Any,
) -> jax.Array:
    """Generalized advantage estimates: A_t = δ_t + γλ (1 − ended_t) A_{t+1}.

    δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t). `next_values[t]` is the value of the observation that step t
    led to, before any reset: a truncated step still bootstraps from it, a terminated one does not, and neither passes
    an advantage back from the episode after it.

    Args:
      rewards, values, next_values: floats, time-major [T, ...].
      terminated, truncated: booleans of the same shape.
      discount, lambda_: γ and λ, scalars in [0, 1].
    Returns:
      Advantages, shaped like `rewards`.
    Source: Schulman et al. (2016), equation 16.
    """
    discount, lambda_ = _check.unit("discount", discount), _check.unit("lambda_", lambda_)
    rewards = _time_major("rewards", rewards)
    values, next_values = jnp.asarray(values, rewards.dtype), jnp.asarray(next_values, rewards.dtype)
    terminated, truncated = _flags("terminated", terminated), _flags("truncated", truncated)
    _same_shape(rewards=rewards, values=values, next_values=next_values, terminated=terminated, truncated=truncated)
    step = StepValues(rewards, values, next_values, terminated, truncated)
    deltas = _td_error(discount)(step)
    return backward_recursion(deltas, jnp.where(terminated | truncated, 0.0, discount * lambda_).astype(deltas.dtype))


def backward_recursion(increments: jax.Array, decays: jax.Array) -> jax.Array:
    """Ψ_t = x_t + c_t Ψ_{t+1} along the first axis, with Ψ behind the last step = 0."""
    chex.assert_equal_shape([increments, decays])

    def backward(weight, step):
        increment, decay = step
        weight = increment + decay * weight
        return weight, weight

    _, weights = jax.lax.scan(backward, jnp.zeros_like(increments[0]), (increments, decays), reverse=True)
    return weights


def trajectory_weights(trajectory: Any, weight: Weight, last_value: Any = None) -> jax.Array:
    """Ψ_t for the rows of a `Trajectory`, [step, lane], for a weight that looks forward from each step.

    Rows that are not valid and steps of unfinished episodes hold what the recursion passes through them; with
    `last_value`, [lane], the values of the observations behind the last row, unfinished episodes bootstrap from these.
    """
    if weight.whole_episode or weight.lookahead is not None:
        raise ValueError("weight must be a plain recursion (reward_to_go, gae, td_residual)")
    next_value = None
    if weight.value is not None:
        last = jnp.zeros_like(trajectory.value[0]) if last_value is None else last_value
        next_value = jnp.concatenate([trajectory.value[1:], last[None]])
    steps = StepValues(trajectory.reward, trajectory.value, next_value, trajectory.terminated, trajectory.truncated)
    ended = trajectory.terminated | trajectory.truncated
    increments = jnp.where(trajectory.valid, weight.increment(steps), 0.0)  # What other rows hold is not looked at.
    return backward_recursion(increments, jnp.where(ended, 0.0, weight.decay(steps)).astype(increments.dtype))


def _time_major(argument: str, array: Any) -> jax.Array:
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.result_type(float))
    if array.ndim == 0:
        raise ValueError(f"{argument} must be time-major [T] or [T, ...]; got a scalar")
    if array.shape[0] == 0:
        raise ValueError(f"{argument} must hold at least one step; got shape {array.shape}")
    return array


def _flags(argument: str, array: Any) -> jax.Array:
    array = jnp.asarray(array)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{argument} must be boolean; got dtype {array.dtype}")
    return array


def _same_shape(**arrays: jax.Array) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"{', '.join(shapes)} must have one shape; got "
            f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())}"
        )
