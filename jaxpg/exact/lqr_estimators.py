"""Exact mean and covariance of policy-gradient estimates on a linear-quadratic regulator.

Everything in an episode is a function of the Gaussian vector z = (x_0, ε_0 … ε_{H−1}, ξ_0 … ξ_{H−2}), all standardised:
states and actions are linear, so rewards, values, weights and scores are quadratic forms, whose products `gaussian`
knows the moments of.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.baselines import Baseline
from jaxpg.exact import gaussian, quadratic
from jaxpg.exact.peers import group_coefficients
from jaxpg.weights import StepValues, Weight, reward_to_go

__all__ = ["estimate_moments"]


class Forms(NamedTuple):
    """Quadratic forms zᵀ M z + c: [..., D, D] and [...]."""

    matrix: jax.Array
    constant: jax.Array


def estimate_moments(
    lqr: Any, gain: jax.Array, std: jax.Array, weight: Weight | None, baseline: Baseline | None, num_episodes: int
) -> tuple[jax.Array, jax.Array]:
    """Mean [P] and covariance [P, P] of the average over `num_episodes` episodes; see `LQR.covariance`."""
    num_episodes = _check.count("num_episodes", num_episodes)
    weight = reward_to_go(discount=lqr.discount) if weight is None else weight
    baseline = Baseline() if baseline is None else baseline
    if not isinstance(weight, Weight):
        raise TypeError(f"weight must come from jaxpg.weights; got {type(weight).__name__} ({weight!r})")
    if not isinstance(baseline, Baseline):
        raise TypeError(f"baseline must come from jaxpg.baselines; got {type(baseline).__name__} ({baseline!r})")
    if lqr.horizon is None:
        raise ValueError("the covariance of an estimate on an LQR needs a finite horizon; this one's is None")
    states, actions, scores = _episode(lqr, gain, std)
    psi = _weights(lqr, weight, states, actions)
    scores = scores * _state_discounts(weight, lqr.horizon)[:, None, None, None]
    if baseline.peers is not None:
        return _with_peers(scores, psi, baseline, num_episodes)
    if baseline.function is not None:
        of_state = quadratic.from_function(
            "baseline", baseline.function, lqr.state_size, jnp.arange(lqr.horizon), lqr.A.dtype
        )
        b = _along(of_state, states)
        psi = Forms(psi.matrix - b.matrix, psi.constant - b.constant)
    mean, squared = gaussian.moments(_centred(scores, psi))
    return mean, (squared - jnp.outer(mean, mean)) / num_episodes


@jax.jit
def _episode(lqr: Any, gain: jax.Array, std: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x_t = X_t z and u_t = U_t z as X [H + 1, n, D], U [H, m, D]; and the matrices of the scores ψ_t, [H, P, D, D]."""
    n, m, horizon = lqr.state_size, lqr.action_size, lqr.horizon
    noise = jnp.zeros((n, 0), gain.dtype) if lqr.noise is None else lqr.noise
    initial = jnp.eye(n, dtype=gain.dtype) if lqr.initial is None else lqr.initial
    sizes = [initial.shape[1], horizon * m, (horizon - 1) * noise.shape[1]]
    total = sum(sizes)
    starts = np.cumsum([0, *sizes])
    eye = jnp.eye(total, dtype=gain.dtype)
    x, states, actions, scores = initial @ eye[: sizes[0]], [], [], []
    for t in range(horizon):
        epsilon = eye[starts[1] + t * m : starts[1] + (t + 1) * m]
        u = -gain @ x + std[:, None] * epsilon
        states.append(x)
        actions.append(u)
        scores.append(_score(x, epsilon, std))
        # ξ_{H−1} moves only the state after the end, which nothing looks at.
        start = starts[2] + t * noise.shape[1]
        xi = eye[start : start + noise.shape[1]] if t < horizon - 1 else jnp.zeros((noise.shape[1], total), gain.dtype)
        x = lqr.A @ x + lqr.B @ u + noise @ xi
    return jnp.stack([*states, x]), jnp.stack(actions), jnp.stack(scores)


def _score(x: jax.Array, epsilon: jax.Array, std: jax.Array) -> jax.Array:
    """Matrices of ∂log π/∂K_ij = −ε_i x_j / σ_i and ∂log π/∂log σ_i = ε_i² − 1 (−1 centres it): [P, D, D]."""
    by_gain = -jnp.einsum("ia,jb->ijab", epsilon / std[:, None], x).reshape(-1, *(x.shape[1],) * 2)
    by_std = jnp.einsum("ia,ib->iab", epsilon, epsilon)
    return _symmetric(jnp.concatenate([by_gain, by_std]))


def _weights(lqr: Any, weight: Weight, states: jax.Array, actions: jax.Array) -> Forms:
    """Ψ_t as quadratic forms, [H, D, D] and [H]."""
    horizon = lqr.horizon
    times = jnp.arange(horizon)
    reward = -(
        jnp.einsum("tia,ij,tjb->tab", states[:-1], lqr.Q, states[:-1])
        + jnp.einsum("tia,ij,tjb->tab", actions, lqr.R, actions)
    )
    parts = {"reward": Forms(_symmetric(reward), jnp.zeros(horizon, reward.dtype))}
    if weight.value is not None:
        value = quadratic.from_function("value", weight.value, lqr.state_size, jnp.arange(horizon + 1), lqr.A.dtype)
        along = _along(value, states)
        parts["value"] = Forms(along.matrix[:-1], along.constant[:-1])
        parts["next_value"] = Forms(along.matrix[1:], along.constant[1:])
    constant, slopes, decay = _linear(weight, list(parts), times == horizon - 1)
    matrix, offset = jnp.zeros_like(reward), constant
    for name, slope in slopes.items():
        matrix += slope[:, None, None] * parts[name].matrix
        offset += slope * parts[name].constant
    sums = _sums(decay, horizon, horizon if weight.lookahead is None else weight.lookahead)
    psi = Forms(jnp.einsum("ts,sab->tab", sums, matrix), sums @ offset)
    if weight.whole_episode:
        psi = jax.tree.map(lambda array: jnp.broadcast_to(array[0], array.shape), psi)
    return psi


def _linear(
    weight: Weight, names: list[str], terminated: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """x_t = constant + Σ slope · part, all [H], and the number c: the weight's functions must be linear."""
    zeros = jnp.zeros(terminated.shape)

    def step(parts: dict[str, jax.Array]) -> StepValues:
        return StepValues(
            parts["reward"], parts.get("value"), parts.get("next_value"), terminated, jnp.zeros_like(terminated)
        )

    origin = {name: zeros for name in names}
    constant = weight.increment(step(origin))
    slopes = {name: weight.increment(step({**origin, name: zeros + 1.0})) - constant for name in names}
    probe = {name: zeros + 0.7 * (k + 1) for k, name in enumerate(names)}
    claimed = constant + sum(slopes[name] * probe[name] for name in names)
    actual, decay, decay_probe = weight.increment(step(probe)), weight.decay(step(origin)), weight.decay(step(probe))
    if all(map(_check.is_concrete, (claimed, actual, decay, decay_probe))) and not (
        np.allclose(claimed, actual, 1e-4, 1e-5) and np.allclose(decay[:-1], decay_probe[:1])
    ):
        raise ValueError(
            "weight must be linear in rewards and values, with a decay that is a number, for its moments on an "
            "LQR to be exact; it is not"
        )
    return constant, slopes, decay[0]


def _sums(decay: jax.Array, horizon: int, lags: int) -> jax.Array:
    """C with Ψ_t = Σ_s C_ts x_s, [H, H]: c^(s − t) for t ≤ s < t + lags."""
    steps = jnp.arange(horizon)[None, :] - jnp.arange(horizon)[:, None]
    return jnp.where((steps >= 0) & (steps < lags), decay ** jnp.maximum(steps, 0), 0.0)


def _along(function: quadratic.Quadratic, states: jax.Array) -> Forms:
    """f_t(x_t) as forms of z, for the times that the function has rows for."""
    x = states[: len(function.constant)]
    return Forms(_symmetric(jnp.einsum("tia,tij,tjb->tab", x, function.matrix, x)), function.constant)


def _state_discounts(weight: Weight, horizon: int) -> jax.Array:
    """w^t, [H]."""
    return jnp.asarray(weight.state_discount) ** jnp.arange(horizon)


def _centred(scores: jax.Array, psi: Forms) -> gaussian.Forms:
    return gaussian.Forms(scores, psi.matrix, psi.constant + jnp.trace(psi.matrix, axis1=-2, axis2=-1))


def _with_peers(scores: jax.Array, psi: Forms, baseline: Baseline, num_episodes: int) -> tuple[jax.Array, jax.Array]:
    """Baselines made of the group's other episodes, by the formula of `leave_one_out`: no episode ends early."""
    forms = _centred(scores, psi)
    num_params = scores.shape[1]
    mean, covariance = jnp.zeros(num_params, scores.dtype), jnp.zeros((num_params, num_params), scores.dtype)
    shared = gaussian.shared_moment(forms)
    for size, share, repeats, others, own in group_coefficients(baseline, num_episodes, ends_vary=False):
        typical = others * (size - 1) * forms.mean
        one = forms._replace(weight=(1.0 - own) * forms.weight, mean=(1.0 - own) * forms.mean - typical)
        group_mean, squared = gaussian.moments(one)
        group_covariance = (squared - jnp.outer(group_mean, group_mean)) / size + others**2 * (size - 1) / size * shared
        mean += repeats * share * group_mean
        covariance += repeats * share**2 * group_covariance
    return mean, covariance


def _symmetric(matrix: jax.Array) -> jax.Array:
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))
