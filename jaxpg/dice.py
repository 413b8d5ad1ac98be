"""DiCE: a scalar whose derivatives of every order estimate those of the expected return,

    S(θ) = 1/N Σ_i [ Σ_t γ^t r_t  +  Σ_t w^t (□(W_t) − □(V_t)) (Ψ_t − b_t) ],        □(x) = exp(x − stop_gradient(x)),
    W_t = λ W_{t−1} + log π_θ(a_t | s_t),        V_t = λ W_{t−1},        W before an episode's first step = 0.

□, the magic box, is 1, and at λ = 1 its derivatives of every order are those of the likelihood ratio of the actions up
to t between θ and the policy that acted. So S is the mean return of the episodes, and what differentiates it, once or
again and again, differentiates J = E[Σ_t γ^t r_t] without bias.

- Ψ the reward-to-go, b = 0, λ = 1: Σ_t γ^t □(W_t) r_t summed by parts, the DiCE objective of Foerster et al. (2018).
- with a baseline b: the baseline for all orders of Mao et al. (2019).
- with any advantage for Ψ and λ ≤ 1: Loaded DiCE (Farquhar et al., 2019). (That paper's objective lacks the first sum,
  which is a constant: its value is 0 in place of the mean return.)
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check, baselines, rollout, weights
from jaxpg._keywords import hinted
from jaxpg._weigh import peer_groups
from jaxpg.baselines import Baseline
from jaxpg.envs.base import Environment
from jaxpg.lanes import Trajectory, float_dtype
from jaxpg.policies.base import Policy
from jaxpg.stored import check_whole, episode_statistics, number_of_episodes
from jaxpg.weights import Weight

__all__ = ["magic_box", "objective", "surrogate"]


def magic_box(x: jax.Array) -> jax.Array:
    """□(x) = exp(x − stop_gradient(x)): its value is 1, and ∇□(x) = □(x) ∇x, again and again.

    Source: Foerster et al. (2018), "DiCE: The Infinitely Differentiable Monte Carlo Estimator".
    """
    return jnp.exp(x - jax.lax.stop_gradient(x))


def surrogate(
    trajectory: Trajectory,
    policy: Policy,
    params: Any,
    weight: Weight | None = None,
    baseline: Baseline | None = None,
    probabilities: Any = None,
    *,
    lambda_: Any = 1.0,
    num_episodes: int | None = None,
) -> jax.Array:
    """S(θ) = Σ_i p_i Σ_t [γ^t r_t + w^t (□(W_t) − □(V_t)) (Ψ_t − b_t)] of stored episodes, a scalar.

    Its value is the mean return Σ_t γ^t r_t of the steps that were played. Its gradient is the estimate of
    `gradient_from` with the same weight and baseline, whatever λ is. Its derivatives of every order are unbiased

    - for λ = 1 with `reward_to_go` and any baseline, or with `gae` of λ = 1 and any value function (a truncated
      episode's return then goes on with the value of its final observation);
    - for λ = 1 with `td_residual` and `gae` of any λ, if their V is the value function of the policy that acted.

    λ < 1 trades bias for variance, from the second order on: in the Hessian, what two steps k apart have in common
    counts λ^k. Differentiate in `params` alone: the trajectory, Ψ and b are held constant.

    Args:
      trajectory: whole episodes, as for `gradient_from`; collected by `policy` with the same `params`.
      policy, params: π_θ, without memory.
      weight: Ψ and γ: `reward_to_go` (default, γ = 0.99), `gae` or `td_residual`, with `discount_states` left on.
      baseline: b, from `jaxpg.baselines`; default `none()`. One that is close to the value function cuts the variance
        of every order. For baselines made of other episodes the default group is all N.
      probabilities: [N] p_i, of every trajectory of a small problem for instance; None: p_i = 1/N.
      lambda_: λ in [0, 1].
      num_episodes: N; needed where `trajectory` is traced and no probabilities are given.
    Raises:
      ValueError, TypeError: for arguments out of range, other weights, a policy with memory, and episodes that are not
        whole, where that can be seen.
    Source: Foerster et al. (2018); Mao et al. (2019), "A Baseline for Any Order Gradient Estimation in Stochastic
      Computation Graphs"; Farquhar et al. (2019), "Loaded DiCE".
    """
    weight, baseline, lambda_ = _check_options(policy, weight, baseline, lambda_)
    _check.instance("trajectory", trajectory, Trajectory)
    shape = jnp.shape(trajectory.reward)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"trajectory must hold [step, lane] arrays with at least one step; reward has shape {shape}")
    trajectory = _as_arrays(trajectory)
    with jax.ensure_compile_time_eval():  # Stored episodes are checked under `jit`, too.
        num_episodes = number_of_episodes(trajectory, probabilities, num_episodes)
        _check_peers(baseline, num_episodes)
        statistics = episode_statistics(trajectory, num_episodes, 1.0)
    if _check.is_concrete(statistics.length):
        check_whole(trajectory, statistics, weight)
    trajectory = jax.lax.stop_gradient(trajectory)

    with_action, before_action = _cumulative(_log_probs(trajectory, policy, params), trajectory.time, lambda_)
    ratios = magic_box(with_action) - magic_box(before_action)
    discounts, state_discounts = (
        jnp.asarray(factor, float_dtype()) ** trajectory.time for factor in (weight.discount, weight.state_discount)
    )
    advantages = jax.lax.stop_gradient(_advantages(trajectory, weight, baseline, num_episodes))
    terms = discounts * trajectory.reward + state_discounts * ratios * advantages
    if probabilities is None:
        return jnp.sum(jnp.where(trajectory.valid, terms, 0.0)) / num_episodes
    share = jnp.asarray(probabilities, float_dtype())[trajectory.episode]
    return jnp.sum(jnp.where(trajectory.valid, share * terms, 0.0))


@hinted
def objective(
    env: Environment,
    policy: Policy,
    *,
    num_episodes: int,
    weight: Weight | None = None,
    baseline: Baseline | None = None,
    lambda_: Any = 1.0,
    num_lanes: int | None = None,
) -> Callable[[Any, Any], jax.Array]:
    """Builds (key, params) -> S, `surrogate` of `num_episodes` fresh episodes: J's estimate, to be differentiated.

        J = dice.objective(env, policy, num_episodes=1024, weight=jaxpg.weights.reward_to_go(0.99))
        gradient = jax.grad(J, argnums=1)(key, params)
        hessian = jax.hessian(J, argnums=1)(key, params)
        hessian_vector_product = jax.jvp(lambda p: jax.grad(J, argnums=1)(key, p), (params,), (vector,))[1]

    The same key gives the same episodes in all of these. The function may be put under `jit` and `vmap`, over keys,
    params, and what `env`, `weight` and `baseline` hold. All steps are in memory at once, `rollout.collect`'s worst
    case: num_episodes × env.max_steps.

    Args:
      env: needs an episode limit, `env.max_steps`.
      policy, weight, baseline, lambda_: as in `surrogate`.
      num_episodes, num_lanes: as in `rollout.collect`.
    """
    _check.instance("env", env, Environment)
    weight, baseline, lambda_ = _check_options(policy, weight, baseline, lambda_)
    num_episodes = _check.count("num_episodes", num_episodes)
    num_lanes = _check.optional(_check.count, "num_lanes", num_lanes)
    _check_peers(baseline, num_episodes)

    @jax.jit
    def compiled(key, params):
        trajectory, _ = rollout.collect(
            env,
            policy,
            jax.lax.stop_gradient(params),
            key,
            num_episodes=num_episodes,
            num_lanes=num_lanes,
            final_rows=weight.value is not None,
        )
        return surrogate(trajectory, policy, params, weight, baseline, lambda_=lambda_, num_episodes=num_episodes)

    return lambda key, params: compiled(_check.key("key", key), params)


def _check_options(policy: Any, weight: Any, baseline: Any, lambda_: Any) -> tuple[Weight, Baseline, Any]:
    _check.instance("policy", policy, Policy)
    if policy.initial_carry is not None:
        raise ValueError("policy has a memory (initial_carry); jaxpg.dice takes policies without one")
    weight = weights.reward_to_go(discount=0.99) if weight is None else _check.instance("weight", weight, Weight)
    baseline = baselines.none() if baseline is None else _check.instance("baseline", baseline, Baseline)
    if baseline.features is not None or baseline.optimal is not None:
        raise ValueError(
            "baseline must be none, constant, value, time or leave_one_out; got one that is fitted on the episodes"
        )
    return weight, baseline, _check.unit("lambda_", lambda_)


def _check_peers(baseline: Baseline, num_episodes: int) -> None:
    if baseline.peers is not None and num_episodes < 2:
        raise ValueError(
            f"num_episodes must be at least 2 for a baseline made of the other episodes; got {num_episodes}"
        )


def _as_arrays(trajectory: Trajectory) -> Trajectory:
    """What is looked at, as arrays; flags are exclusive."""
    with jax.ensure_compile_time_eval():
        terminated = jnp.asarray(trajectory.terminated, bool)
        return trajectory._replace(
            reward=jnp.asarray(trajectory.reward, float_dtype()),
            terminated=terminated,
            truncated=jnp.asarray(trajectory.truncated, bool) & ~terminated,
            valid=jnp.asarray(trajectory.valid, bool),
            episode=jnp.asarray(trajectory.episode, jnp.int32),
            time=jnp.asarray(trajectory.time, jnp.int32),
            log_prob=None,
            value=None,
            carry=None,
        )


def _log_probs(trajectory: Trajectory, policy: Policy, params: Any) -> jax.Array:
    """log π_θ(a_t | s_t), [step, lane]; 0 in rows that are not steps.

    Those rows may hold anything, and 0 × the derivative of log π there need not be 0: they take the observation and
    action of a step that was played.
    """
    played = jnp.argmax(trajectory.valid.ravel())

    def fill(leaf):
        leaf = jnp.asarray(leaf)
        valid = trajectory.valid.reshape(trajectory.valid.shape + (1,) * (leaf.ndim - 2))
        return jnp.where(valid, leaf, leaf.reshape(-1, *leaf.shape[2:])[played])

    observation, action = jax.tree.map(fill, (trajectory.observation, trajectory.action))
    log_prob = jax.vmap(jax.vmap(lambda o, a: policy.apply(params, o).log_prob(a)))(observation, action)
    if log_prob.shape != trajectory.reward.shape:
        raise ValueError(f"policy must give a scalar log_prob for one action; got shape {log_prob.shape[2:]}")
    return jnp.where(trajectory.valid, log_prob.astype(float_dtype()), 0.0)


def _cumulative(log_prob: jax.Array, time: jax.Array, lambda_: Any) -> tuple[jax.Array, jax.Array]:
    """W_t = λ W_{t−1} + log π_t and V_t = λ W_{t−1} along the lanes, from 0 at the start of each episode."""

    def forward(previous, step):
        log_prob, time = step
        before_action = jnp.where(time == 0, 0.0, lambda_ * previous)
        with_action = before_action + log_prob
        return with_action, (with_action, before_action)

    return jax.lax.scan(forward, jnp.zeros_like(log_prob[0]), (log_prob, time))[1]


def _advantages(trajectory: Trajectory, weight: Weight, baseline: Baseline, num_episodes: int) -> jax.Array:
    """Ψ_t − b_t, [step, lane]."""
    if weight.value is not None:
        values = jax.vmap(jax.vmap(weight.value))(trajectory.observation, trajectory.time)
        trajectory = trajectory._replace(value=values.astype(float_dtype()))
    psi = weights.trajectory_weights(trajectory, weight)
    if baseline.function is not None:
        return psi - jax.vmap(jax.vmap(baseline.function))(trajectory.observation, trajectory.time)
    if baseline.peers is None:
        return psi
    group, size = peer_groups(jnp.asarray(num_episodes), num_episodes, baseline.group_size or num_episodes)
    own_group, time = group[trajectory.episode], trajectory.time
    place = jnp.where(trajectory.valid, own_group, size.shape[0]), time  # Out of range: dropped.
    table = (size.shape[0], psi.shape[0])
    total = jnp.zeros(table, psi.dtype).at[place].add(psi, mode="drop")
    count = jnp.zeros(table, jnp.int32).at[place].add(1, mode="drop")
    return psi - baseline.peers(total[own_group, time], psi, size[own_group], count[own_group, time])
