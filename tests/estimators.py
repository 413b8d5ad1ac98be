"""The table of estimators: each row goes through the enumeration oracle and through the audit, without code of its own.

A row says how the estimate is made (arguments of `policy_gradient` and `gradient_from`) and what its mean is. A new
estimator is a new row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import baselines, weights


class Given(NamedTuple):
    """What an estimator may be given: arrays of one MDP, all but the first two wrong values."""

    discount: Any
    exact_q: Any  # [H, S, A], of the policy, by the MDP's own answer
    exact_v: Any  # [H, S]
    v: Any  # [S]
    q: Any  # [S, A]
    times: Any  # [H]


class Row(NamedTuple):
    """An estimator.

    Fields:
      weight, baseline: functions of `Given` that make the records.
      terms: entropy_coefficient and temperature, as in `policy_gradient`.
      importance: None: the policy itself acts; else how the other policy's episodes are corrected.
      group: 1; or the number of episodes whose terms depend on each other: the oracle takes all tuples of so many.
      unbiased: the mean is ∇J (with a temperature, of the soft objective).
      known: the MDP knows the estimate's mean and covariance.
    """

    weight: Callable[[Given], Any]
    baseline: Callable[[Given], Any] = lambda g: baselines.none()
    terms: dict = {}
    importance: str | None = None
    group: int = 1
    unbiased: bool = True
    known: bool = True


def _rtg(g):
    return weights.reward_to_go(g.discount)


def _total(g):
    return weights.total_return(g.discount)


def _gae(g):
    return weights.gae(g.discount, 0.7, value=lambda s: g.v[s])


def _n_step(g):
    return weights.n_step(g.discount, 2, value=lambda s: g.v[s])


def _v_trace(lambda_, **clips):
    return lambda g: weights.v_trace(g.discount, lambda_, value=lambda s: g.v[s], **clips)


def _constant(g):
    return baselines.constant(0.7)


def _value(g):
    return baselines.value(lambda s, t: g.v[s] + 0.3 * t)


def _time(g):
    return baselines.time(g.times)


def _linear(g):
    return baselines.linear(lambda s, t: jnp.append(jax.nn.one_hot(s, g.v.shape[0]), t), ridge=1e-3)


ESTIMATORS = {
    "total return": Row(_total),
    "total return, constant": Row(_total, _constant),
    "total return, value function": Row(_total, _value),
    "total return, leave-one-out": Row(_total, lambda g: baselines.leave_one_out(), group=2),
    "total return, optimal constant": Row(_total, lambda g: baselines.optimal(), group=2, known=False),
    "total return, optimal per coordinate": Row(_total, lambda g: baselines.optimal(True), group=2, known=False),
    "total return, linear fit": Row(_total, _linear, group=2, known=False),
    "reward-to-go": Row(_rtg),
    "reward-to-go, constant": Row(_rtg, _constant),
    "reward-to-go, time": Row(_rtg, _time),
    "reward-to-go, value function": Row(_rtg, _value),
    "reward-to-go, leave-one-out": Row(_rtg, lambda g: baselines.leave_one_out(), group=2),
    "reward-to-go, time mean of the others": Row(_rtg, lambda g: baselines.time(), group=2, known=False),
    "reward-to-go, optimal constant": Row(_rtg, lambda g: baselines.optimal(), group=2, known=False),
    "reward-to-go, linear fit": Row(_rtg, _linear, group=2, known=False),
    "reward-to-go, undiscounted states": Row(
        lambda g: weights.reward_to_go(g.discount, discount_states=False), _value, unbiased=False
    ),
    "GAE, λ = 1, wrong values": Row(lambda g: weights.gae(g.discount, 1.0, value=lambda s: g.v[s])),
    "GAE, λ = 0.7, wrong values": Row(_gae, unbiased=False),
    "GAE, λ = 0.7, exact values": Row(
        lambda g: weights.gae(g.discount, 0.7, value=lambda s, t: jnp.append(g.exact_v, 0 * g.exact_v[:1], 0)[t, s])
    ),
    "GAE, leave-one-out": Row(_gae, lambda g: baselines.leave_one_out(), group=2, unbiased=False),
    "TD residual, wrong values": Row(
        lambda g: weights.td_residual(g.discount, value=lambda s: g.v[s]), _time, unbiased=False
    ),
    "n-step, wrong values": Row(_n_step, _constant, unbiased=False),
    "n-step, n ≥ horizon": Row(lambda g: weights.n_step(g.discount, 50, value=lambda s: g.v[s])),
    "all actions, exact values": Row(
        lambda g: weights.all_action(g.discount, lambda s, t, a: g.exact_q[t, s, a]), _constant
    ),
    "all actions, wrong values": Row(lambda g: weights.all_action(g.discount, lambda s, a: g.q[s, a]), unbiased=False),
    "entropy bonus": Row(_rtg, _value, {"entropy_coefficient": 0.4}, unbiased=False),
    "soft policy gradient": Row(_rtg, _value, {"temperature": 0.4}),
    "soft policy gradient, total return": Row(_total, _constant, {"temperature": 0.4}),
    "off-policy, per decision": Row(_rtg, importance="per_decision"),
    "off-policy, per decision, value function": Row(_rtg, _value, importance="per_decision"),
    "off-policy, per decision, total return": Row(_total, _constant, importance="per_decision"),
    "off-policy, per decision, n-step": Row(_n_step, importance="per_decision", unbiased=False),
    "off-policy, per decision, GAE λ = 1": Row(
        lambda g: weights.gae(g.discount, 1.0, value=lambda s: g.v[s]), importance="per_decision"
    ),
    "off-policy, per decision, entropy bonus": Row(
        _rtg, _constant, {"entropy_coefficient": 0.4}, importance="per_decision", unbiased=False
    ),
    "off-policy, all actions": Row(
        lambda g: weights.all_action(g.discount, lambda s, t, a: g.exact_q[t, s, a]), importance="per_decision"
    ),
    "off-policy, per decision, optimal constant": Row(
        _rtg, lambda g: baselines.optimal(), importance="per_decision", group=2, known=False
    ),
    "off-policy, trajectory": Row(_rtg, _value, importance="trajectory", known=False),
    "off-policy, self-normalised": Row(
        _rtg, _constant, importance="self_normalized", group=2, unbiased=False, known=False
    ),
    "V-trace, on-policy, λ = 1": Row(_v_trace(1.0)),
    "V-trace, off-policy": Row(_v_trace(0.8, clip_rho=1.1, clip_c=0.9), importance="per_decision", unbiased=False),
}


def given(mdp, policy, params, temperature=None, seed=5) -> Given:
    """The values of an MDP, and wrong ones that are the same for every MDP of its size."""
    rng = np.random.default_rng(seed)
    states, actions = mdp.num_states, mdp.num_actions
    return Given(
        mdp.discount,
        mdp.action_values(policy, params, temperature=temperature),
        mdp.values(policy, params, temperature=temperature),
        jnp.asarray(rng.normal(size=states)),
        jnp.asarray(rng.normal(size=(states, actions))),
        jnp.asarray(rng.normal(size=mdp.horizon)),
    )


def options(row: Row, info: Given, behavior=None) -> dict:
    """The row's arguments of `policy_gradient`."""
    out = {"weight": row.weight(info), "baseline": row.baseline(info), **row.terms}
    return out if row.importance is None else {**out, "behavior": behavior, "importance_sampling": row.importance}


def exact_options(row: Row, info: Given, behavior=None) -> dict:
    """The row's arguments of `FiniteMDP.mean` and `.covariance`."""
    out = options(row, info, behavior)
    out.pop("importance_sampling", None)
    return out
