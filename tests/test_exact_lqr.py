"""LQR against scipy, and Gauss–Hermite quadrature, which is exact for the polynomials that estimates are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from exact_problems import expectation, gae, n_step, to_go

import jaxpg.exact
from jaxpg import baselines, weights
from jaxpg.policies import linear_gaussian, mlp

DISCOUNT, LAMBDA = 0.8, 0.6
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(5)  # Exact up to degree 9; an estimate's square has 8.


class Regulator:
    """A random stabilised system, and quadrature over all of its noise: numpy only."""

    def __init__(self, seed=0, n=1, m=1, horizon=2, noise=True, initial=False):
        rng = np.random.default_rng(seed)
        self.n, self.m, self.horizon = n, m, horizon
        self.A, self.B = 0.6 * rng.normal(size=(n, n)), rng.normal(size=(n, m))
        half_q, half_r = rng.normal(size=(n, n)), rng.normal(size=(m, m))
        self.Q, self.R = half_q @ half_q.T + 0.3 * np.eye(n), half_r @ half_r.T + 0.2 * np.eye(m)
        self.F = 0.4 * rng.normal(size=(n, 1)) if noise else None
        self.G = np.tril(rng.normal(size=(n, n))) if initial else None
        self.K, self.log_std = 0.3 * rng.normal(size=(m, n)), rng.uniform(-0.7, 0.2, m)
        self.M, self.c = [f(size=s) for f, s in ((rng.normal, (horizon + 1, n, n)), (rng.normal, horizon + 1))]

    def lqr(self, horizon="own"):
        return jaxpg.exact.LQR(
            self.A,
            self.B,
            self.Q,
            self.R,
            discount=DISCOUNT,
            noise=self.F,
            initial=self.G,
            horizon=self.horizon if horizon == "own" else horizon,
        )

    def policy_and_params(self):
        params = {"gain": jnp.asarray(self.K), "log_std": jnp.asarray(self.log_std)}
        return linear_gaussian(self.lqr().environment(max_steps=5)), params

    def episodes(self, gain=None, log_std=None, only=None):
        """(probabilities [N], states [N, H + 1, n], rewards [N, H], scores [N, H, P]) of the quadrature's nodes."""
        gain, std = self.K if gain is None else gain, np.exp(self.log_std if log_std is None else log_std)
        k = 0 if self.F is None else 1
        size = self.n + self.horizon * self.m + (self.horizon - 1) * k
        z = np.array(list(itertools.product(NODES, repeat=size)))
        p = np.prod(np.array(list(itertools.product(NODE_WEIGHTS / NODE_WEIGHTS.sum(), repeat=size))), 1)
        x = z[:, : self.n] if self.G is None else z[:, : self.n] @ self.G.T
        states, rewards, scores, at = [x], [], [], self.n
        for t in range(self.horizon):
            epsilon = z[:, at : at + self.m]
            at += self.m
            u = -x @ gain.T + epsilon * std
            rewards.append(-np.einsum("ni,ij,nj->n", x, self.Q, x) - np.einsum("ni,ij,nj->n", u, self.R, u))
            by_gain = -np.einsum("ni,nj->nij", epsilon / std, x).reshape(len(z), -1)
            scores.append(np.concatenate([by_gain, epsilon**2 - 1], 1))
            x = x @ self.A.T + u @ self.B.T
            if k and t < self.horizon - 1:
                x = x + z[:, at : at + k] @ self.F.T
                at += k
            states.append(x)
        return p, np.stack(states, 1), np.stack(rewards, 1), np.stack(scores, 1)

    def value(self, x, time):
        """Some quadratic V(x, t), a wrong one."""
        return x @ jnp.asarray(self.M)[time] @ x + jnp.asarray(self.c)[time]

    def values_along(self, states):
        return np.einsum("nti,tij,ntj->nt", states, self.M, states) + self.c


CASES = [dict(seed=0, horizon=3), dict(seed=1, n=2, noise=False), dict(seed=2, m=2, initial=True)]


@pytest.fixture(params=CASES, ids=str)
def regulator(request, x64):
    return Regulator(**request.param)


def ravel(params):
    return np.concatenate([np.ravel(params["gain"]), np.ravel(params["log_std"])])


def returns_of(rewards):
    return rewards @ DISCOUNT ** np.arange(rewards.shape[1])


def test_objective_gradient_and_fisher(regulator):
    lqr, (policy, params) = regulator.lqr(), regulator.policy_and_params()
    p, _, rewards, scores = regulator.episodes()
    returns, g = returns_of(rewards), scores.sum(1)
    np.testing.assert_allclose(lqr.objective(policy, params), p @ returns, rtol=1e-12)
    for method in ("autodiff", "occupancy"):
        gradient = lqr.policy_gradient(policy, params, method=method)
        assert jax.tree.structure(gradient) == jax.tree.structure(params)
        np.testing.assert_allclose(ravel(gradient), p * returns @ g, rtol=1e-11)
    np.testing.assert_allclose(lqr.fisher(policy, params), np.einsum("n,np,nq->pq", p, g, g), atol=1e-11)
    discounted = np.einsum("n,t,ntp,ntq->pq", p, DISCOUNT ** np.arange(regulator.horizon), scores, scores)
    np.testing.assert_allclose(lqr.fisher(policy, params, discounted=True), discounted, atol=1e-11)
    natural = ravel(lqr.natural_gradient(policy, params))
    np.testing.assert_allclose(np.asarray(lqr.fisher(policy, params)) @ natural, p * returns @ g, rtol=1e-9)


def test_hessian_matches_finite_differences_of_the_gradient(regulator):
    lqr, (policy, params) = regulator.lqr(), regulator.policy_and_params()
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    step = 1e-5
    rows = [
        (
            ravel(lqr.policy_gradient(policy, unravel(flat + step * e)))
            - ravel(lqr.policy_gradient(policy, unravel(flat - step * e)))
        )
        / (2 * step)
        for e in np.eye(len(flat))
    ]
    np.testing.assert_allclose(lqr.hessian(policy, params), rows, rtol=1e-6, atol=1e-7)


def test_values_and_state_distribution(regulator):
    """E[Σ_{k≥t} γ^{k−t} r_k] = E[V_t(x_t)] = E[Q_t(x_t, u_t)], and Q at one (x, u) by one more step of quadrature."""
    lqr, (policy, params) = regulator.lqr(), regulator.policy_and_params()
    p, states, rewards, _ = regulator.episodes()
    values, q_values = lqr.values(policy, params), lqr.action_values(policy, params)
    covariances = np.einsum("n,nti,ntj->tij", p, states, states)[:-1]
    np.testing.assert_allclose(lqr.state_distribution(policy, params), covariances, atol=1e-12)
    np.testing.assert_allclose(
        lqr.state_distribution(policy, params, discounted=True),
        covariances * DISCOUNT ** np.arange(regulator.horizon)[:, None, None],
        atol=1e-12,
    )
    for t in range(regulator.horizon):
        expected = p @ rewards[:, t:] @ DISCOUNT ** np.arange(regulator.horizon - t)
        np.testing.assert_allclose(p @ jax.vmap(lambda x, t=t: values(x, t))(states[:, t]), expected, rtol=1e-11)
    x, u = np.linspace(-1, 1, regulator.n), np.linspace(0.5, 2, regulator.m)
    noise = 0.0 if regulator.F is None else np.trace(np.asarray(values.matrix[1]) @ regulator.F @ regulator.F.T)
    following = regulator.A @ x + regulator.B @ u
    expected = -x @ regulator.Q @ x - u @ regulator.R @ u + DISCOUNT * (values(following, 1) + noise)
    np.testing.assert_allclose(q_values(jnp.concatenate([x, u]), 0), expected, rtol=1e-12)
    assert values(jnp.asarray(x), regulator.horizon) == 0.0


def test_without_a_horizon_everything_is_the_limit_of_long_horizons(regulator):
    policy, params = regulator.policy_and_params()
    infinite, long = regulator.lqr(horizon=None), regulator.lqr(horizon=400)
    np.testing.assert_allclose(infinite.objective(policy, params), long.objective(policy, params), rtol=1e-11)
    for method in ("autodiff", "occupancy"):
        np.testing.assert_allclose(
            ravel(infinite.policy_gradient(policy, params, method=method)),
            ravel(long.policy_gradient(policy, params)),
            rtol=1e-10,
        )
    np.testing.assert_allclose(
        infinite.fisher(policy, params), long.fisher(policy, params, discounted=True), atol=1e-10
    )
    np.testing.assert_allclose(infinite.hessian(policy, params), long.hessian(policy, params), rtol=1e-8, atol=1e-9)
    for name in ("values", "action_values"):
        ours, limit = getattr(infinite, name)(policy, params), getattr(long, name)(policy, params)
        np.testing.assert_allclose(ours.matrix, limit.matrix[0], atol=1e-11)
        np.testing.assert_allclose(ours.constant, limit.constant[0], rtol=1e-11)
    np.testing.assert_allclose(infinite.optimal_values().constant, long.optimal_values().constant[0], atol=1e-11)


def test_optimal_gain(regulator):
    """Infinite horizon: scipy's Riccati solver. Finite: the gradient vanishes at K* where all K_t agree (H = 1), no
    perturbation of the time-varying gains of H = 2 does better."""
    infinite = regulator.lqr(horizon=None)
    scale = np.sqrt(DISCOUNT)
    expected = scipy.linalg.solve_discrete_are(scale * regulator.A, scale * regulator.B, regulator.Q, regulator.R)
    np.testing.assert_allclose(-infinite.optimal_values().matrix, expected, rtol=1e-10)
    policy, params = regulator.policy_and_params()
    quiet = {"gain": infinite.optimal_policy(), "log_std": jnp.full(regulator.m, -30.0)}
    np.testing.assert_allclose(infinite.policy_gradient(policy, quiet)["gain"], 0.0, atol=1e-11)
    np.testing.assert_allclose(
        infinite.objective(policy, quiet),
        -np.trace(expected @ np.asarray(infinite.initial_covariance)) + infinite.optimal_values().constant,
        rtol=1e-10,
    )

    short = regulator.lqr(horizon=2)

    def cost(gains):
        """J of u = −K_t x without action noise, by hand."""
        sigma, total = np.asarray(short.initial_covariance), 0.0
        for t, gain in enumerate(gains):
            total -= DISCOUNT**t * np.trace((regulator.Q + gain.T @ regulator.R @ gain) @ sigma)
            closed = regulator.A - regulator.B @ gain
            sigma = closed @ sigma @ closed.T + np.asarray(short.noise_covariance)
        return total

    gains, values = np.asarray(short.optimal_policy()), short.optimal_values()
    best = np.trace(np.asarray(values.matrix[0] @ short.initial_covariance)) + float(values.constant[0])
    np.testing.assert_allclose(cost(gains), best, rtol=1e-12)
    for seed in range(10):
        assert cost(gains + 0.05 * np.random.default_rng(seed).normal(size=gains.shape)) < best


WEIGHTS = {
    "total_return": (
        lambda r: weights.total_return(DISCOUNT),
        lambda r, v: np.full(len(r), to_go(r, DISCOUNT)[0]),
        1.0,
    ),
    "reward_to_go": (lambda r: weights.reward_to_go(DISCOUNT), lambda r, v: to_go(r, DISCOUNT), DISCOUNT),
    "undiscounted_states": (
        lambda r: weights.reward_to_go(DISCOUNT, discount_states=False),
        lambda r, v: to_go(r, DISCOUNT),
        1.0,
    ),
    "gae": (lambda r: weights.gae(DISCOUNT, LAMBDA, r.value), lambda r, v: gae(r, v, DISCOUNT, LAMBDA), DISCOUNT),
    "n_step": (lambda r: weights.n_step(DISCOUNT, 2, r.value), lambda r, v: n_step(r, v, DISCOUNT, 2), DISCOUNT),
}


def weights_along(regulator, name, states, rewards):
    """Ψ [N, H]."""
    values = regulator.values_along(states)
    return np.array([WEIGHTS[name][1](r, v) for r, v in zip(rewards, values, strict=True)])


@pytest.mark.parametrize("baseline", ["none", "constant", "state_time"])
@pytest.mark.parametrize("weight", WEIGHTS)
def test_mean_and_covariance_of_one_episode(x64, weight, baseline):
    for case in (dict(seed=3), dict(seed=4, n=2, noise=False)):
        regulator = Regulator(**case)
        policy, params = regulator.policy_and_params()
        p, states, rewards, scores = regulator.episodes()
        b = {"none": 0.0, "constant": -1.5, "state_time": regulator.values_along(states)[:, :-1]}[baseline]
        record = {
            "none": baselines.none(),
            "constant": baselines.constant(-1.5),
            "state_time": baselines.value(regulator.value),
        }[baseline]
        factors = WEIGHTS[weight][2] ** np.arange(regulator.horizon)
        g = np.einsum("nt,ntp->np", factors * (weights_along(regulator, weight, states, rewards) - b), scores)
        mean, covariance = expectation(list(zip(p, g, strict=True)))
        lqr, arguments = regulator.lqr(), dict(weight=WEIGHTS[weight][0](regulator), baseline=record)
        np.testing.assert_allclose(ravel(lqr.mean(policy, params, **arguments)), mean, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(lqr.covariance(policy, params, **arguments), covariance, rtol=1e-10, atol=1e-10)
        bias = mean - ravel(lqr.policy_gradient(policy, params))
        np.testing.assert_allclose(ravel(lqr.bias(policy, params, **arguments)), bias, atol=1e-10)


def test_covariance_over_three_steps_with_noise(x64):
    regulator = Regulator(seed=5, horizon=3)
    policy, params = regulator.policy_and_params()
    p, states, rewards, scores = regulator.episodes()
    g = np.einsum(
        "nt,ntp->np", DISCOUNT ** np.arange(3) * weights_along(regulator, "reward_to_go", states, rewards), scores
    )
    _, covariance = expectation(list(zip(p, g, strict=True)))
    np.testing.assert_allclose(regulator.lqr().covariance(policy, params), covariance, rtol=1e-11)
    np.testing.assert_allclose(regulator.lqr().covariance(policy, params, num_episodes=3), covariance / 3, rtol=1e-11)


@pytest.mark.parametrize("weight", ["total_return", "reward_to_go", "gae"])
@pytest.mark.parametrize("own", [False, True])
def test_baselines_of_the_other_episodes_over_all_pairs(x64, weight, own):
    regulator = Regulator(seed=6, noise=False)
    policy, params = regulator.policy_and_params()
    p, states, rewards, scores = regulator.episodes()
    scaled = scores * (WEIGHTS[weight][2] ** np.arange(2))[:, None]
    psi = weights_along(regulator, weight, states, rewards)
    i, j = np.meshgrid(np.arange(len(p)), np.arange(len(p)), indexing="ij")
    i, j = i.ravel(), j.ravel()
    share = 0.5 if own else 1.0  # Ψ_i − (Ψ_i + Ψ_j)/2 = (Ψ_i − Ψ_j)/2
    g = (
        0.5
        * share
        * (np.einsum("nt,ntp->np", psi[i] - psi[j], scaled[i]) + np.einsum("nt,ntp->np", psi[j] - psi[i], scaled[j]))
    )
    mean = p[i] * p[j] @ g
    covariance = (g - mean).T @ ((g - mean) * (p[i] * p[j])[:, None])
    record = baselines.Baseline(peers=lambda t, o, s, c: t / s) if own else baselines.leave_one_out()
    arguments = dict(weight=WEIGHTS[weight][0](regulator), baseline=record, num_episodes=2)
    np.testing.assert_allclose(ravel(regulator.lqr().mean(policy, params, **arguments)), mean, rtol=1e-10)
    np.testing.assert_allclose(regulator.lqr().covariance(policy, params, **arguments), covariance, rtol=1e-10)


def test_maps_over_regulators_and_differentiates(x64):
    regulators = [Regulator(seed=seed, n=2) for seed in (7, 8)]
    policy, params = regulators[0].policy_and_params()
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(r.lqr() for r in regulators))
    group = dict(baseline=baselines.leave_one_out(), num_episodes=3)
    with jax.checking_leaks():
        traces = jax.jit(jax.vmap(lambda lqr: jnp.trace(lqr.covariance(policy, params, **group))))(stacked)
    for trace, regulator in zip(traces, regulators, strict=True):
        np.testing.assert_allclose(trace, jnp.trace(regulator.lqr().covariance(policy, params, **group)), rtol=1e-12)

    def trace(b):
        return jnp.trace(regulators[0].lqr().covariance(policy, params, baseline=baselines.constant(b)))

    np.testing.assert_allclose(jax.grad(trace)(0.3), (trace(0.301) - trace(0.299)) / 2e-3, rtol=1e-8)


@pytest.mark.slow
def test_environment_is_the_same_problem():
    """Sampled states and rewards against the exact moments, to 4.5 standard errors, with and without process noise."""
    for case in (dict(seed=9, n=2, m=2, horizon=3), dict(seed=10, noise=False, initial=True)):
        regulator = Regulator(**case)
        lqr, (policy, params) = regulator.lqr(), regulator.policy_and_params()
        params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
        env, draws = lqr.environment(), 50_000

        def play(key, env=env, policy=policy, params=params, regulator=regulator):
            state, x = env.reset(jax.random.fold_in(key, 0))
            total, seen = 0.0, []
            for t in range(regulator.horizon):
                seen.append(x)
                action = policy.apply(params, x).sample(jax.random.fold_in(key, 2 * t + 1))
                state, step = env.step(jax.random.fold_in(key, 2 * t + 2), state, action)
                x, total = step.observation, total + DISCOUNT**t * step.reward
            return total, jnp.stack(seen), step.terminated, step.truncated

        returns, states, terminated, truncated = jax.vmap(play)(jax.random.split(jax.random.key(0), draws))
        assert terminated.all() and not truncated.any()
        assert abs(returns.mean() - lqr.objective(policy, params)) < 4.5 * returns.std() / np.sqrt(draws)
        products = jnp.einsum("nti,ntj->ntij", states, states)
        error = products.mean(0) - lqr.state_distribution(policy, params)
        assert np.all(np.abs(error) < 4.5 * products.std(0) / np.sqrt(draws) + 1e-6)
    env = Regulator(seed=9).lqr(horizon=None).environment(max_steps=1)
    _, step = env.step(jax.random.key(0), env.reset(jax.random.key(1))[0], jnp.zeros(1))
    assert step.truncated and not step.terminated and env.max_steps == 1


GOOD = Regulator(seed=11, n=2)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (dict(A=np.ones((2, 3))), ValueError, "A must have shape"),
        (dict(B=np.ones((3, 1))), ValueError, r"B must have shape \[2, 1\]"),
        (dict(Q=np.array([[1.0, 0.5], [0.0, 1.0]])), ValueError, "Q must be symmetric"),
        (dict(R=np.eye(2)), ValueError, "R must have shape"),
        (dict(A=np.full((2, 2), np.nan)), ValueError, "A must hold finite"),
        (dict(Q="cost"), TypeError, "Q must be a matrix of numbers"),
        (dict(R=2.0), ValueError, "R must be a matrix"),
        (dict(noise=np.ones((3, 1))), ValueError, "noise must have shape"),
        (dict(discount=1.0, horizon=None), ValueError, "discount must be below 1"),
        (dict(discount=-0.1), ValueError, "discount"),
    ],
)
def test_errors_name_the_argument(changes, error, message):
    with pytest.raises(error, match=message):
        jaxpg.exact.LQR(**{**dict(A=GOOD.A, B=GOOD.B, Q=GOOD.Q, R=GOOD.R, horizon=3), **changes})


def test_errors_of_methods():
    lqr, (policy, params) = GOOD.lqr(), GOOD.policy_and_params()
    infinite = GOOD.lqr(horizon=None)
    with pytest.raises(ValueError, match="did you mean 'occupancy'"):
        lqr.policy_gradient(policy, params, method="occupancies")
    with pytest.raises(ValueError, match="does not stabilise"):
        jaxpg.exact.LQR(3 * np.eye(2), GOOD.B, GOOD.Q, GOOD.R).objective(policy, {**params, "gain": jnp.zeros((1, 2))})
    with pytest.raises(ValueError, match="finite horizon"):
        infinite.covariance(policy, params)
    with pytest.raises(TypeError, match="params must be"):
        lqr.objective(policy, jnp.zeros(3))
    with pytest.raises(ValueError, match="params must hold gain"):
        lqr.objective(policy, {**params, "gain": jnp.zeros((2, 2))})
    with pytest.raises(ValueError, match="policy must be jaxpg.policies.linear_gaussian"):
        network = mlp(lqr.environment(), hidden_sizes=(2,))
        network_params = network.init(jax.random.key(0))
        other = jaxpg.policies.Policy(init=network.init, apply=lambda _, x: network.apply(network_params, x))
        lqr.objective(other, params)
    with pytest.raises(ValueError, match="baseline must be a quadratic function"):
        lqr.covariance(policy, params, baseline=baselines.value(lambda x: jnp.abs(x[0])))
    with pytest.raises(ValueError, match="value must be a quadratic function"):
        lqr.covariance(policy, params, weight=weights.gae(0.8, 0.5, lambda x: x[0]))
    with pytest.raises(ValueError, match="weight must be linear"):
        squared = weights.reward_to_go(0.8)
        lqr.covariance(
            policy,
            params,
            weight=weights.Weight(
                increment=lambda step: step.reward**2, decay=squared.decay, discount=0.8, state_discount=0.8
            ),
        )
    with pytest.raises(ValueError, match="R must be positive definite"):
        jaxpg.exact.LQR(GOOD.A, GOOD.B, GOOD.Q, -np.eye(1)).optimal_policy()
    with pytest.raises(ValueError, match="max_steps is required"):
        infinite.environment()


def test_the_lqr_is_a_pytree_and_prints():
    lqr = GOOD.lqr()
    leaves, structure = jax.tree.flatten(lqr)
    assert jax.tree.unflatten(structure, leaves).horizon == lqr.horizon
    assert "state_size=2" in repr(lqr)
