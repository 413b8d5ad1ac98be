"""Weights Ψ_t: what the score ∇ log π(a_t | s_t) of each step is multiplied by.

Every weight here is one backward linear recursion that restarts where an episode ends,

    Ψ_t = x_t + c_t Ψ_{t+1},        Ψ behind the last step = 0,

given by its `increment` x and its `decay` c. Reward-to-go is x = r, c = γ; generalized advantages are x = δ, c = γλ;
the TD residual is x = δ, c = 0; an n-step advantage is the recursion of the TD residuals less the same recursion n
steps on, A_t = δ_t + γ A_{t+1} − γⁿ δ_{t+n}; the total return is the reward-to-go of the first step, given to every
step. V-trace reads its weight from the recursion one step later.

The estimate of ∇J is the mean over episodes of Σ_t w^t ∇ log π(a_t | s_t) (Ψ_t − b_t). For a weight that looks forward
from t the factor is w = γ: J discounts the reward of step t by γ^t, and without the factor the sum is not the gradient
of any objective (Nota & Thomas, 2020). `discount_states=False` leaves it out, as most deep reinforcement learning does.
The total return holds its discounts already: w = 1.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg.returns import backward_recursion, discounted_returns, generalized_advantages

__all__ = [
    "StepValues",
    "Weight",
    "all_action",
    "discounted_returns",
    "gae",
    "generalized_advantages",
    "n_step",
    "reward_to_go",
    "td_residual",
    "total_return",
    "trajectory_weights",
    "v_trace",
]


class StepValues(NamedTuple):
    """What a weight may look at, arrays of one shape: r_t, V(s_t), V(s_{t+1}), how the step ended, and ρ_t.

    `next_value` is the value of the observation that the step led to, before any reset. Without a value function
    `value` and `next_value` are None. `ratio` is ρ_t = π(a_t | s_t) / μ(a_t | s_t), 1 where the policy itself acts.
    """

    reward: jax.Array
    value: Any
    next_value: Any
    terminated: jax.Array
    truncated: jax.Array
    ratio: Any = 1.0


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
      direct, carry: None; or u and k as functions of StepValues, where the weight is not the recursion R_t itself but
        read from the one of the next step: Ψ_t = u_t + k_t R_{t+1}, R behind an episode's last step = 0.
      corrected: the functions use `ratio` themselves, so nothing else corrects the weight for another acting policy.
      action_value: None; or (observation, time, action) -> Q: the estimate sums over all actions, Σ_a ∇π(a | s_t) Q
        (see `all_action`), and the recursion is not used.
      quadrature_points: nodes for each continuous component of an action in that sum.
    """

    increment: Callable[[StepValues], jax.Array]
    decay: Callable[[StepValues], jax.Array]
    discount: Any
    state_discount: Any
    value: Callable[[Any, jax.Array], jax.Array] | None = None
    whole_episode: bool = False
    lookahead: int | None = None
    direct: Callable[[StepValues], jax.Array] | None = None
    carry: Callable[[StepValues], jax.Array] | None = None
    corrected: bool = False
    action_value: Callable[[Any, jax.Array, Any], jax.Array] | None = None
    quadrature_points: int = 8

    def __post_init__(self) -> None:
        for name in ("increment", "decay"):
            _check.callable_(name, getattr(self, name), "of StepValues")
        for name in ("direct", "carry"):
            _check.optional(_check.callable_, name, getattr(self, name), "of StepValues")
        _check.optional(_check.callable_, "value", self.value, "(observation, time) -> value")


@hinted
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


@hinted
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


@hinted
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


@hinted
def td_residual(discount: Any = 0.99, value: Any = None, discount_states: bool = True) -> Weight:
    """The one-step temporal-difference residual: Ψ_t = r_t + γ V(s_{t+1}) − V(s_t): GAE with λ = 0."""
    return gae(discount, 0.0, value, discount_states)


@hinted
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


@hinted
def v_trace(
    discount: Any = 0.99,
    lambda_: Any = 1.0,
    value: Any = None,
    *,
    clip_rho: Any = 1.0,
    clip_c: Any = 1.0,
    discount_states: bool = True,
) -> Weight:
    """V-trace's policy-gradient weight: Ψ_t = ρ̄_t (r_t + γ v_{t+1} − V(s_t)) (Espeholt et al., 2018).

    v_t = V(s_t) + A_t with A_t = ρ̄_t δ_t + γ c_t A_{t+1}, ρ̄_t = min(clip_rho, ρ_t), c_t = λ min(clip_c, ρ_t) and ρ_t =
    π/μ for episodes of another policy μ (`behavior`). Clipped, it leads to the value of a policy between μ and π; the
    states are those that μ visits in any case. On-policy with λ = 1 it is GAE with λ = 1.

    Args:
      discount, lambda_: γ and λ in [0, 1].
      value: V, a function of an observation, or of (observation, time).
      clip_rho, clip_c: the bounds ρ̄ and c̄, positive.
      discount_states: keep the factor γ^t before ∇ log π(a_t | s_t).
    """
    discount, lambda_ = _check.unit("discount", discount), _check.unit("lambda_", lambda_)
    clip_rho, clip_c = _check.positive("clip_rho", clip_rho), _check.positive("clip_c", clip_c)
    td_error = _td_error(discount)

    def clipped_error(step: StepValues) -> jax.Array:
        return jnp.minimum(clip_rho, step.ratio) * td_error(step)

    return Weight(
        increment=clipped_error,
        decay=lambda step: discount * lambda_ * jnp.minimum(clip_c, step.ratio) * jnp.ones_like(step.reward),
        direct=clipped_error,
        carry=lambda step: discount * jnp.minimum(clip_rho, step.ratio) * jnp.ones_like(step.reward),
        corrected=True,
        discount=discount,
        state_discount=_state_discount(discount, discount_states),
        value=value_function("value", value),
    )


@hinted
def all_action(
    discount: Any = 0.99, action_value: Any = None, discount_states: bool = True, quadrature_points: int = 8
) -> Weight:
    """The sum over all actions in the place of the one that was taken: Σ_a ∇π(a | s_t) Q(s_t, a).

    Finitely many actions are enumerated; a normal's expectation is taken by Gauss–Hermite quadrature, exact where Q is
    a polynomial of degree below 2·quadrature_points − 2. The actions' own noise is gone; the bias is that of Q. A
    baseline of the state changes nothing but rounding. Source: Asadi et al. (2017); Ciosek & Whiteson (2018).

    Args:
      discount: γ in [0, 1].
      action_value: Q, a function (observation, action) -> value or (observation, time, action) -> value. The action is
        the distribution's own, before any squashing or clipping on its way to the environment.
      discount_states: keep the factor γ^t.
      quadrature_points: nodes for each continuous component of an action.
    """
    discount = _check.unit("discount", discount)
    return Weight(
        increment=lambda step: jnp.zeros_like(step.reward),
        decay=lambda step: jnp.zeros_like(step.reward),
        discount=discount,
        state_discount=_state_discount(discount, discount_states),
        action_value=_action_value_function(action_value),
        quadrature_points=_check.count("quadrature_points", quadrature_points),
    )


def value_function(argument: str, value: Any, scalar: bool = True) -> Callable[[Any, jax.Array], jax.Array]:
    """`value` as a function of (observation, time); one of the observation alone is accepted.

    Args:
      scalar: whether its result must be a scalar, else a vector.
    """
    what = "observation -> value (or (observation, time) -> value)"
    required = _required_arguments(argument, value, what, (1, 2))

    def function(observation: Any, time: jax.Array) -> jax.Array:
        result = value(observation, time) if required == 2 else value(observation)
        return one_number(argument, result) if scalar else _vector(argument, result)

    return function


def _action_value_function(value: Any) -> Callable[[Any, jax.Array, Any], jax.Array]:
    what = "(observation, action) -> value (or (observation, time, action) -> value)"
    required = _required_arguments("action_value", value, what, (2, 3))
    if required == 3:
        return lambda observation, time, action: one_number("action_value", value(observation, time, action))
    return lambda observation, time, action: one_number("action_value", value(observation, action))


def _required_arguments(argument: str, function: Any, what: str, accepted: tuple[int, int]) -> int:
    """How many arguments a user's function wants, one of the `accepted`; the smaller where that cannot be told."""
    if hasattr(function, "apply") and hasattr(function, "init"):
        raise TypeError(
            f"{argument} must be a function {what}; got {_check.described(function)}: give it with its params, "
            f"lambda observation: critic.apply(critic_params, observation)"
        )
    _check.callable_(argument, function, what)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Some built-in callables have no signature.
        return accepted[0]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if positional and positional[0].name == "params":
        raise TypeError(
            f"{argument} must be a function {what}; got one of params, too: fix them, "
            f"lambda observation: critic.apply(critic_params, observation)"
        )
    if any(p.name == "time" for p in positional):  # Also where it has a default.
        return accepted[1]
    required = sum(p.default is p.empty for p in positional)
    if required in accepted:
        return required
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return accepted[0]
    raise TypeError(f"{argument} must be a function {what}; got a function of {required} required arguments")


def one_number(argument: str, result: Any) -> Any:
    """`result`, if it is one number, as `argument` must give it for one observation."""
    if jnp.shape(_check.array(f"what {argument} gives", result)) != ():
        raise ValueError(f"{argument} must give a scalar for one observation; got shape {jnp.shape(result)}")
    return result


def _vector(argument: str, result: Any) -> Any:
    if jnp.ndim(_check.array(f"what {argument} gives", result)) != 1:
        raise ValueError(f"{argument} must give a vector for one observation; got shape {jnp.shape(result)}")
    return result


def _state_discount(discount: Any, discount_states: bool) -> Any:
    return discount if _check.boolean("discount_states", discount_states) else 1.0


def _td_error(discount: Any) -> Callable[[StepValues], jax.Array]:
    def td_error(step: StepValues) -> jax.Array:
        return step.reward + discount * jnp.where(step.terminated, 0.0, step.next_value) - step.value

    return td_error


def trajectory_weights(trajectory: Any, weight: Weight, last_value: Any = None) -> jax.Array:
    """Ψ_t for the rows of a `Trajectory`, [step, lane], for a weight that looks forward from each step.

    Rows that are not valid and steps of unfinished episodes hold what the recursion passes through them; with
    `last_value`, [lane], the values of the observations behind the last row, unfinished episodes bootstrap from these.
    """
    for name in ("reward", "value", "terminated", "truncated", "valid"):
        if not hasattr(trajectory, name):
            raise TypeError(
                f"trajectory must be a Trajectory, the first of the pair that collect gives; got "
                f"{_check.described(trajectory)}"
            )
    _check.instance("weight", weight, Weight)
    plain = (weight.lookahead, weight.direct, weight.action_value) == (None, None, None) and not weight.whole_episode
    if not plain:
        raise ValueError("weight must be a plain recursion (reward_to_go, gae, td_residual)")
    next_value = None
    if weight.value is not None:
        last = jnp.zeros_like(trajectory.value[0]) if last_value is None else last_value
        next_value = jnp.concatenate([trajectory.value[1:], last[None]])
    steps = StepValues(trajectory.reward, trajectory.value, next_value, trajectory.terminated, trajectory.truncated)
    ended = trajectory.terminated | trajectory.truncated
    increments = jnp.where(trajectory.valid, weight.increment(steps), 0.0)  # What other rows hold is not looked at.
    return backward_recursion(increments, jnp.where(ended, 0.0, weight.decay(steps)).astype(increments.dtype))
