"""A finite Markov decision process whose return, gradient, curvature and estimators are known exactly."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.exact import checks, covariance, environment, evaluation, gradients, planning
from jaxpg.exact.precision import precise

__all__ = ["FiniteMDP"]

_LEAVES = ("transition", "reward", "initial", "terminal", "discount")


@dataclasses.dataclass(frozen=True)
class FiniteMDP:
    """States 0…S−1, actions 0…A−1, and the objective J(θ) = E[Σ_{t<H} γ^t r_t] of a policy π_θ(a | s).

    Fields:
      transition: [S, A, S], P(s' | s, a). Each row is a distribution.
      reward: [S, A], or [S, A, S] where it depends on the state that is entered.
      initial: [S], the distribution of s_0.
      terminal: None, or booleans [S]. An episode ends, `terminated`, on entering a terminal state; nothing is earned
        there, so these states' rows of `transition` and `reward` are never used. None may be initial.
      discount: γ in [0, 1].
      horizon: H, the number of steps after which an episode ends, `terminated` (it is part of the problem, so the
        value beyond it is zero); or None: no limit, which needs γ < 1 or terminal states that every policy reaches.

    The fields may be traced arrays (all but `horizon`), so MDPs can be mapped over with `jax.vmap` and differentiated;
    the MDP is a pytree with the arrays as leaves. Values are checked where they are concrete.

    What every method expects: `policy.apply(params, observation)` with an integer scalar observation (the state's
    index) gives a distribution with `log_prob(action)` for integer actions; the policy has no memory. Arrays over
    parameters ([P], [P, P]) are in the order of `jax.flatten_util.ravel_pytree(params)`.

    Raises:
      ValueError: shapes that do not fit, rows that are not distributions, numbers that are not finite, initial
        probability on a terminal state, γ = 1 without a horizon or terminal states.
    """

    transition: Any
    reward: Any
    initial: Any
    discount: Any = 0.9
    horizon: int | None = None
    terminal: Any = None

    def __post_init__(self) -> None:
        dtype = jnp.result_type(float)
        for name in ("transition", "reward", "initial"):
            object.__setattr__(self, name, checks.float_array(name, getattr(self, name), dtype))
        object.__setattr__(self, "discount", jnp.asarray(_check.unit("discount", self.discount), dtype))
        object.__setattr__(self, "horizon", _check.optional(_check.count, "horizon", self.horizon))
        if self.terminal is not None:
            object.__setattr__(self, "terminal", checks.boolean_array("terminal", self.terminal))
        checks.check_shapes(self)
        checks.check_values(self)

    @property
    def num_states(self) -> int:
        """S."""
        return self.transition.shape[0]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transition.shape[1]

    @property
    def alive(self) -> jax.Array:
        """[S] floats: 1 where the state is not terminal, else 0."""
        if self.terminal is None:
            return jnp.ones(self.num_states, self.transition.dtype)
        return 1.0 - self.terminal.astype(self.transition.dtype)

    def environment(self, *, max_steps: int | None = None, geometric_stopping: bool = False) -> Environment:
        """The same MDP as an `Environment`: observation the state's index, actions `Discrete(A)`.

        Args:
          max_steps: the length at which episodes are `truncated`; required where `horizon` is None.
          geometric_stopping: each step ends the episode, `terminated`, with probability 1 − γ. The undiscounted return
            of such episodes has mean J, so an infinite horizon can be sampled without bias.
        """
        return environment.make(self, max_steps=max_steps, geometric_stopping=geometric_stopping)

    @precise
    def objective(self, policy: Any, params: Any, *, temperature: Any = None) -> jax.Array:
        """J(θ) = E[Σ_t γ^t r_t], a scalar; with a temperature α, E[Σ_t γ^t (r_t − α log π(a_t | s_t))]."""
        pi = evaluation.probabilities(self, policy, params)
        return evaluation.objective(evaluation.soft(self, policy, params, temperature), pi)

    @precise
    def values(self, policy: Any, params: Any, *, temperature: Any = None) -> jax.Array:
        """V_t(s) = E[Σ_{k≥t} γ^{k−t} r_k | s_t = s]: [H, S], or [S] without a horizon. Zero at terminal states.

        With a temperature α the reward is r − α log π(a | s), as in `objective`.
        """
        pi = evaluation.probabilities(self, policy, params)
        return evaluation.values(evaluation.soft(self, policy, params, temperature), pi)

    @precise
    def action_values(self, policy: Any, params: Any, *, temperature: Any = None) -> jax.Array:
        """Q_t(s, a) = E[Σ_{k≥t} γ^{k−t} r_k | s_t = s, a_t = a]: [H, S, A], or [S, A] without a horizon.

        With a temperature α the reward, also that of step t, is r − α log π(a | s), as in `objective`.
        """
        pi = evaluation.probabilities(self, policy, params)
        return evaluation.action_values(evaluation.soft(self, policy, params, temperature), pi)

    @precise
    def state_distribution(self, policy: Any, params: Any, *, discounted: bool = False) -> jax.Array:
        """Where the policy acts: P(s_t = s, the episode has not ended), [H, S]; `discounted` multiplies by γ^t.

        Without a horizon it is the discounted distribution Σ_t γ^t P(s_t = s), [S], which is not normalised: it sums
        to 1 / (1 − γ) where no state is terminal.
        """
        return evaluation.state_distribution(self, evaluation.probabilities(self, policy, params), discounted)

    @precise
    def policy_gradient(self, policy: Any, params: Any, *, method: str = "autodiff", temperature: Any = None) -> Any:
        """∇J(θ), a pytree like `params`; with a temperature, of the soft objective.

        Args:
          method: "autodiff" through the recursion or linear solve for J; "occupancy", the policy gradient theorem
            Σ_t γ^t d_t(s) π(a | s) ∇log π(a | s) Q_t(s, a); or "enumeration", E[R Σ_t ∇log π(a_t | s_t)] over every
            trajectory, for tiny horizons. The three agree.
        """
        return gradients.policy_gradient(self, policy, params, method, temperature)

    @precise
    def hessian(self, policy: Any, params: Any, *, temperature: Any = None) -> jax.Array:
        """∇²J(θ), [P, P]; with a temperature, of the soft objective."""
        return gradients.hessian(self, policy, params, temperature)

    @precise
    def fisher(self, policy: Any, params: Any, *, discounted: bool = False) -> jax.Array:
        """E[G Gᵀ] over an episode, G = Σ_t ψ_t, ψ_t = ∇log π(a_t | s_t): [P, P].

        Scores of different steps are uncorrelated, so this is Σ_t E[ψ_t ψ_tᵀ]. `discounted` gives Σ_t γ^t E[ψ_t ψ_tᵀ],
        which is E[G Gᵀ] of an episode that continues with probability γ after each step, and the metric of the
        discounted state distribution (Kakade 2001; Bagnell & Schneider 2003). Without a horizon it is always that one.
        """
        return gradients.fisher(self, policy, params, discounted)

    @precise
    def natural_gradient(self, policy: Any, params: Any, *, damping: Any = 0.0, discounted: bool = False) -> Any:
        """(F + λI)⁻¹ ∇J with F = `fisher(discounted=…)` and λ = `damping`, a pytree like `params`.

        With λ = 0 the pseudo-inverse is used: F is singular for a softmax over logits. Source: Kakade (2001).
        """
        return gradients.natural_gradient(self, policy, params, damping, discounted)

    @precise
    def mean(self, policy: Any, params: Any, **estimator: Any) -> Any:
        """E[ĝ] of an estimate, a pytree like `params`; the other arguments are those of `covariance`."""
        mean, _ = covariance.estimate_moments(self, policy, params, **estimator)
        return ravel_pytree(params)[1](mean)

    @precise
    def bias(self, policy: Any, params: Any, **estimator: Any) -> Any:
        """E[ĝ] − ∇J of an estimate, a pytree like `params`; the other arguments are those of `covariance`."""
        truth = self.policy_gradient(policy, params, temperature=estimator.get("temperature"))
        return jax.tree.map(jnp.subtract, self.mean(policy, params, **estimator), truth)

    @precise
    def covariance(
        self,
        policy: Any,
        params: Any,
        *,
        weight: Any = None,
        baseline: Any = None,
        num_episodes: int = 1,
        behavior: tuple[Any, Any] | None = None,
        entropy_coefficient: Any = None,
        temperature: Any = None,
    ) -> jax.Array:
        """Cov(ĝ) of the estimate ĝ, the average of Σ_t w^t ψ_t (Ψ_t − b_t) over `num_episodes` episodes: [P, P].

        Exact, by a recursion for the moments over states (no sampling, no enumeration), in O(H (S² A P + S A P²)).

        Args:
          weight: Ψ, from `jaxpg.weights`, or a `jaxpg.exact.Recursion`; None: `reward_to_go` with the MDP's discount.
            Without a horizon a value function is called with time 0.
          baseline: b, from `jaxpg.baselines`; None: none. Baselines made of other episodes (`leave_one_out`) need
            `num_episodes` of at least 2; their group is by default all of the episodes. A time baseline made of the
            episodes that reach a step is available where no state is terminal.
          num_episodes: N.
          behavior: None, or (policy, params) of the policy that acts; every step is then weighted by its importance
            ratio, and the mean stays what it is on-policy. V-trace uses the ratios its own way.
          entropy_coefficient, temperature: as in `jaxpg.policy_gradient`.
        Raises:
          ValueError: no exact moments for this combination, or (without a horizon) infinite ones.
        """
        return covariance.estimate_moments(
            self, policy, params, weight, baseline, num_episodes, behavior, entropy_coefficient, temperature
        )[1]

    @precise
    def optimal_values(self) -> jax.Array:
        """V*_t(s) by backward induction, [H, S]; by policy iteration without a horizon, [S]."""
        return planning.optimal(self)[0]

    @precise
    def optimal_policy(self) -> jax.Array:
        """An optimal deterministic policy's actions, [H, S]; [S] without a horizon. Ties go to the first action."""
        return planning.optimal(self)[1]

    def __repr__(self) -> str:
        return (
            f"FiniteMDP(num_states={self.num_states}, num_actions={self.num_actions}, discount={self.discount}, "
            f"horizon={self.horizon}, terminal={'None' if self.terminal is None else '[S] booleans'})"
        )


def _flatten_with_keys(mdp: FiniteMDP) -> tuple[tuple[Any, ...], Any]:
    return tuple((jax.tree_util.GetAttrKey(name), getattr(mdp, name)) for name in _LEAVES), mdp.horizon


def _unflatten(horizon: int | None, leaves: Any) -> FiniteMDP:
    # Without __init__: tree transformations put tracers, None and placeholders at the leaves.
    mdp = object.__new__(FiniteMDP)
    for name, leaf in zip(_LEAVES, leaves, strict=True):
        object.__setattr__(mdp, name, leaf)
    object.__setattr__(mdp, "horizon", horizon)
    return mdp


jax.tree_util.register_pytree_with_keys(FiniteMDP, _flatten_with_keys, _unflatten)
