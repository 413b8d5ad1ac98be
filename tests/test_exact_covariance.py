"""The exact mean and covariance of every estimator against plain numpy enumeration of trajectories (pairs, triples)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import Problem, expectation, gae, n_step, softmax, to_go

import jaxpg.exact
from jaxpg import baselines, weights
from jaxpg.policies import tabular

LAMBDA, STEPS = 0.6, 2


def value_of(table):
    """V(observation, time) from a table [T, S]."""
    table = jnp.asarray(table)
    return lambda observation, time: table[time, observation]


# name -> (problem -> Weight), (problem, states, rewards -> Ψ_t by its forward definition), w
WEIGHTS = {
    "total_return": (
        lambda p: weights.total_return(p.discount),
        lambda p, s, r: np.full(len(r), to_go(r, p.discount)[0]),
        lambda p: 1.0,
    ),
    "reward_to_go": (
        lambda p: weights.reward_to_go(p.discount),
        lambda p, s, r: to_go(r, p.discount),
        lambda p: p.discount,
    ),
    "undiscounted_states": (
        lambda p: weights.reward_to_go(p.discount, discount_states=False),
        lambda p, s, r: to_go(r, p.discount),
        lambda p: 1.0,
    ),
    "another_discount": (lambda p: weights.reward_to_go(0.5), lambda p, s, r: to_go(r, 0.5), lambda p: 0.5),
    "gae": (
        lambda p: weights.gae(p.discount, LAMBDA, value_of(p.value)),
        lambda p, s, r: gae(r, p.value[range(len(r)), s[: len(r)]], p.discount, LAMBDA),
        lambda p: p.discount,
    ),
    "td_residual": (
        lambda p: weights.td_residual(p.discount, value_of(p.value)),
        lambda p, s, r: n_step(r, p.value[range(len(r)), s[: len(r)]], p.discount, 1),
        lambda p: p.discount,
    ),
    "n_step": (
        lambda p: weights.n_step(p.discount, STEPS, value_of(p.value)),
        lambda p, s, r: n_step(r, p.value[range(len(r)), s[: len(r)]], p.discount, STEPS),
        lambda p: p.discount,
    ),
}
BASELINES = {
    "none": (lambda p: baselines.none(), lambda p, s: np.zeros(len(s) - 1)),
    "constant": (lambda p: baselines.constant(0.7), lambda p, s: np.full(len(s) - 1, 0.7)),
    "time": (lambda p: baselines.time(p.baseline[:, 0]), lambda p, s: p.baseline[: len(s) - 1, 0]),
    "state_time": (lambda p: baselines.value(value_of(p.baseline)), lambda p, s: p.baseline[range(len(s) - 1), s[:-1]]),
}
PROBLEMS = [dict(seed=21, terminal=False, reward_axes=2), dict(seed=22, horizon=4)]


@pytest.fixture(params=PROBLEMS, ids=str)
def problem(request, x64):
    return Problem(**request.param)


def policy_and_params(problem):
    env = problem.mdp().environment(max_steps=9)
    return tabular(env), jnp.asarray(problem.logits)


def estimate(problem, name, states, actions, rewards, b=0.0):
    """Σ_t w^t ψ_t (Ψ_t − b_t) of one trajectory."""
    _, forward, factor = WEIGHTS[name]
    n = len(actions)
    scale = factor(problem) ** np.arange(n) * (forward(problem, states, rewards) - b)
    return scale @ problem.scores(states, actions)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_mean_and_covariance_of_one_episode(problem, weight, baseline):
    make, b = BASELINES[baseline]
    mean, covariance = expectation(
        [(p, estimate(problem, weight, s, a, r, b(problem, s))) for p, s, a, r in problem.paths]
    )
    policy, params = policy_and_params(problem)
    arguments = dict(weight=WEIGHTS[weight][0](problem), baseline=make(problem))
    mdp = problem.mdp()
    np.testing.assert_allclose(np.ravel(mdp.mean(policy, params, **arguments)), mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mdp.covariance(policy, params, **arguments), covariance, rtol=0, atol=1e-12)
    bias = mean - np.ravel(mdp.policy_gradient(policy, params))
    np.testing.assert_allclose(np.ravel(mdp.bias(policy, params, **arguments)), bias, rtol=0, atol=1e-12)
    unbiased = weight in ("total_return", "reward_to_go")
    assert (np.abs(bias).max() < 1e-12) == unbiased


def test_episodes_average(x64):
    problem = Problem(seed=20)
    policy, params = policy_and_params(problem)
    one, seven = (problem.mdp().covariance(policy, params, num_episodes=n) for n in (1, 7))
    np.testing.assert_allclose(seven, one / 7, rtol=1e-12)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("num_episodes", [2, 3])
def test_leave_one_out_over_all_tuples_of_trajectories(x64, weight, num_episodes):
    """Every pair and triple of trajectories of a tiny MDP, through the definition."""
    problem = Problem(seed=30, num_states=2 if num_episodes == 3 else 3, horizon=2)
    _leave_one_out_case(
        problem, weight, num_episodes, lambda psi, i: np.mean(np.delete(psi, i, 0), 0), baselines.leave_one_out()
    )


@pytest.mark.parametrize("weight", ["total_return", "reward_to_go", "gae"])
@pytest.mark.parametrize("name", ["self_included", "scaled"])
def test_other_linear_peers(x64, weight, name):
    """The mean that includes the episode itself, whose bias is −∇J/N; and one that trusts the others by half."""
    problem = Problem(seed=31, horizon=2)
    peers, numpy_peers = {
        "self_included": (lambda total, own, size, count: total / size, lambda psi, i: np.mean(psi, 0)),
        "scaled": (
            lambda total, own, size, count: 0.5 * (total - own) / (size - 1),
            lambda psi, i: 0.5 * np.mean(np.delete(psi, i, 0), 0),
        ),
    }[name]
    mean = _leave_one_out_case(problem, weight, 2, numpy_peers, baselines.Baseline(peers=peers))
    if name == "self_included" and weight != "gae":
        policy, params = policy_and_params(problem)
        np.testing.assert_allclose(mean, 0.5 * np.ravel(problem.mdp().policy_gradient(policy, params)), atol=1e-12)


def test_leave_one_out_with_decays_that_change_with_time(x64):
    """A recursion of one's own: Ψ_t = Σ_k (Π_{t≤l<k} c_l) r_k, w_t changing as well, over all pairs."""
    problem = Problem(seed=44)
    decays, factors = np.array([0.9, 0.3, 0.7]), np.array([0.5, 0.8, 0.6])
    recursion = jaxpg.exact.generic(problem.reward, decays.reshape(3, 1, 1, 1), jnp.asarray(problem.pi),
                                    score_discount=factors.reshape(3, 1, 1, 1))  # fmt: skip
    items = []
    for p, s, a, r in problem.paths:
        n = len(a)
        psi, scores = np.zeros(3), np.zeros((3, problem.pi.size))
        psi[:n] = [sum(np.prod(decays[t:k]) * r[k] for k in range(t, n)) for t in range(n)]
        scores[:n] = problem.scores(s, a) * [[np.prod(factors[:t])] for t in range(n)]
        items.append((p, psi, scores))
    p, psi, scores = (np.array(part) for part in zip(*items, strict=True))
    difference = psi[:, None] - psi[None]  # Ψ_i − Ψ_j
    g = 0.5 * (np.einsum("ijt,itp->ijp", difference, scores) - np.einsum("ijt,jtp->ijp", difference, scores))
    pair = np.outer(p, p)
    mean = np.einsum("ij,ijp->p", pair, g)
    covariance = np.einsum("ij,ijp,ijq->pq", pair, g - mean, g - mean)
    policy, params = policy_and_params(problem)
    arguments = dict(weight=recursion, baseline=baselines.leave_one_out(), num_episodes=2)
    np.testing.assert_allclose(np.ravel(problem.mdp().mean(policy, params, **arguments)), mean, atol=1e-12)
    np.testing.assert_allclose(problem.mdp().covariance(policy, params, **arguments), covariance, atol=1e-12)


def test_time_baseline_of_the_other_episodes_where_none_ends_early(x64):
    problem = Problem(seed=32, terminal=False, horizon=2)
    _leave_one_out_case(problem, "reward_to_go", 2, lambda psi, i: np.mean(np.delete(psi, i, 0), 0), baselines.time())


def _leave_one_out_case(problem, weight, num_episodes, b, baseline):
    _, forward, factor = WEIGHTS[weight]
    h = problem.horizon
    items = []
    for p, s, a, r in problem.paths:
        n = len(a)
        psi = np.full(h, to_go(r, problem.discount)[0]) if weight == "total_return" else np.zeros(h)
        if weight != "total_return":  # An episode counts as 0 after its end.
            psi[:n] = forward(problem, s, r)
        scores = np.zeros((h, problem.pi.size))
        scores[:n] = problem.scores(s, a) * factor(problem) ** np.arange(n)[:, None]
        items.append((p, psi, scores))
    pairs = []
    for group in itertools.product(items, repeat=num_episodes):
        psi = np.array([item[1] for item in group])
        g = sum(item[2].T @ (psi[i] - b(psi, i)) for i, item in enumerate(group)) / num_episodes
        pairs.append((np.prod([item[0] for item in group]), g))
    mean, covariance = expectation(pairs)
    policy, params = policy_and_params(problem)
    arguments = dict(weight=WEIGHTS[weight][0](problem), baseline=baseline, num_episodes=num_episodes)
    np.testing.assert_allclose(np.ravel(problem.mdp().mean(policy, params, **arguments)), mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(problem.mdp().covariance(policy, params, **arguments), covariance, rtol=0, atol=1e-12)
    return mean


def test_leave_one_out_total_return_closed_form(problem):
    """Cov = (1/N)[E(R−J)²GGᵀ − ((N−2)/(N−1)) ∇J∇Jᵀ + Var(R) E[GGᵀ]/(N−1)], for any N."""
    policy, params = policy_and_params(problem)
    p = np.array([p for p, *_ in problem.paths])
    returns = np.array([to_go(r, problem.discount)[0] for *_, r in problem.paths])
    g = np.array([problem.scores(s, a).sum(0) for _, s, a, _ in problem.paths])
    j = p @ returns
    gradient = p * returns @ g
    for n in (2, 5, 64):
        expected = (
            np.einsum("n,np,nq->pq", p * (returns - j) ** 2, g, g)
            - (n - 2) / (n - 1) * np.outer(gradient, gradient)
            + p @ (returns - j) ** 2 * np.einsum("n,np,nq->pq", p, g, g) / (n - 1)
        ) / n
        got = problem.mdp().covariance(
            policy,
            params,
            weight=weights.total_return(problem.discount),
            baseline=baselines.leave_one_out(),
            num_episodes=n,
        )
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_groups_of_leave_one_out_are_independent(x64):
    """7 episodes in groups of 3 are groups of 3 and 4; 8 are 3, 3 and 2; each counts by its size."""
    problem = Problem(seed=33)
    policy, params = policy_and_params(problem)

    def covariance(n, size):
        return problem.mdp().covariance(
            policy,
            params,
            weight=weights.reward_to_go(problem.discount),
            baseline=baselines.leave_one_out(group_size=size),
            num_episodes=n,
        )

    alone = {n: np.asarray(covariance(n, None)) for n in (2, 3, 4)}
    np.testing.assert_allclose(covariance(7, 3), (3 / 7) ** 2 * alone[3] + (4 / 7) ** 2 * alone[4], atol=1e-13)
    np.testing.assert_allclose(covariance(8, 3), 2 * (3 / 8) ** 2 * alone[3] + (2 / 8) ** 2 * alone[2], atol=1e-13)
    np.testing.assert_allclose(covariance(4, 100), alone[4], atol=1e-13)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_importance_weighted_estimates(problem, weight):
    """Trajectories of another policy: one ratio for the whole episode, or one a step, by their forward definitions."""
    behavior = softmax(problem.behavior_logits)
    _, forward, factor = WEIGHTS[weight]
    pairs = []
    for p, s, a, r in problem.enumerate(behavior):
        n = len(a)
        ratios = np.array([problem.pi[x, y] / behavior[x, y] for x, y in zip(s, a, strict=False)])
        b = problem.baseline[range(n), s[:n]]
        psi, scores = forward(problem, s, r), problem.scores(s, a)
        if weight == "total_return":
            pairs.append((p, np.prod(ratios) * (psi - b) @ scores))
            continue
        # Per decision: each increment x_k is weighted by the ratios up to step k, the baseline by those up to its own.
        g = np.zeros(problem.pi.size)
        for t in range(n):
            increments, decay = _increments(problem, weight, s, r)
            last = min(n, t + STEPS) if weight == "n_step" else n
            total = sum(decay ** (k - t) * np.prod(ratios[: k + 1]) * increments[k] for k in range(t, last))
            g += factor(problem) ** t * scores[t] * (total - np.prod(ratios[: t + 1]) * b[t])
        pairs.append((p, g))
    mean, covariance = expectation(pairs)
    policy, params = policy_and_params(problem)
    arguments = dict(weight=WEIGHTS[weight][0](problem), baseline=baselines.value(value_of(problem.baseline)))
    acting = dict(behavior=(policy, jnp.asarray(problem.behavior_logits)))
    mdp = problem.mdp()
    np.testing.assert_allclose(np.ravel(mdp.mean(policy, params, **arguments, **acting)), mean, atol=1e-12)
    np.testing.assert_allclose(
        mdp.covariance(policy, params, **arguments, **acting), covariance, rtol=1e-11, atol=1e-12
    )
    np.testing.assert_allclose(np.ravel(mdp.mean(policy, params, **arguments)), mean, atol=1e-12)


def _increments(problem, weight, states, rewards):
    n = len(rewards)
    if weight in ("reward_to_go", "undiscounted_states"):
        return rewards, problem.discount
    if weight == "another_discount":
        return rewards, 0.5
    delta = n_step(rewards, problem.value[range(n), states[:n]], problem.discount, 1)
    return delta, problem.discount * {"gae": LAMBDA, "td_residual": 0.0, "n_step": 1.0}[weight]


def test_v_trace_as_a_recursion_of_your_own(x64):
    """Ψ_t = ρ̄_t (r + γ v_{t+1} − V_t), v = V + A, A_t = ρ̄_t δ_t + γλ c̄_t A_{t+1}, with both ratios clipped."""
    problem = Problem(seed=34)
    behavior = softmax(problem.behavior_logits)
    ratio = problem.pi / behavior
    rho, trace = np.minimum(ratio, 1.1), np.minimum(ratio, 0.9)
    value, gamma = problem.value[0], problem.discount
    after = np.where(problem.terminal, 0.0, value)
    pairs = []
    for p, s, a, r in problem.enumerate(behavior):
        n = len(a)
        v = np.append(value[s[:n]], 0.0)  # Every end is a termination.
        target = v.copy()
        for t in reversed(range(n)):
            delta = r[t] + gamma * v[t + 1] - v[t]
            later = target[t + 1] - v[t + 1]
            target[t] = v[t] + rho[s[t], a[t]] * delta + gamma * LAMBDA * trace[s[t], a[t]] * later
        psi = [rho[s[t], a[t]] * (r[t] + gamma * target[t + 1] - v[t]) for t in range(n)]
        pairs.append((p, gamma ** np.arange(n) * psi @ problem.scores(s, a)))
    mean, covariance = expectation(pairs)

    mdp = problem.mdp()
    td = problem.reward + gamma * after - value[:, None, None]
    last = problem.reward - value[:, None, None]  # At the horizon's last step nothing follows.

    delta, column = rho[..., None] * np.stack([td, last]), rho[..., None]
    recursion = jaxpg.exact.generic(
        delta, gamma * LAMBDA * trace[..., None], jnp.asarray(behavior), carry=gamma * column, score_discount=gamma
    )
    policy, params = policy_and_params(problem)
    np.testing.assert_allclose(np.ravel(mdp.mean(policy, params, weight=recursion)), mean, atol=1e-12)
    np.testing.assert_allclose(mdp.covariance(policy, params, weight=recursion), covariance, atol=1e-12)


@pytest.mark.parametrize("weight", ["reward_to_go", "another_discount", "gae", "n_step", "td_residual"])
def test_without_a_horizon_moments_are_the_limit_of_long_horizons(x64, weight):
    problem = Problem(seed=35, terminal=False, discount=0.7)
    problem.value = np.broadcast_to(problem.value[0], (121, 3))
    problem.baseline = np.broadcast_to(problem.baseline[0], (120, 3))
    policy, params = policy_and_params(problem)
    arguments = dict(weight=WEIGHTS[weight][0](problem), baseline=BASELINES["state_time"][0](problem))
    infinite, long = problem.mdp(horizon=None), problem.mdp(horizon=120)
    np.testing.assert_allclose(
        infinite.mean(policy, params, **arguments), long.mean(policy, params, **arguments), atol=1e-12
    )
    np.testing.assert_allclose(
        infinite.covariance(policy, params, **arguments), long.covariance(policy, params, **arguments), atol=1e-12
    )


@pytest.mark.parametrize("weight", ["total_return", "undiscounted_states"])
@pytest.mark.parametrize("baseline", ["constant", "state_time"])
def test_without_a_horizon_episodes_that_terminate_need_no_discount(x64, weight, baseline):
    problem = Problem(seed=36, discount=1.0)
    problem.baseline = np.broadcast_to(problem.baseline[0], (600, 3))
    policy, params = policy_and_params(problem)
    arguments = dict(weight=WEIGHTS[weight][0](problem), baseline=BASELINES[baseline][0](problem))
    infinite, long = problem.mdp(horizon=None), problem.mdp(horizon=600)
    np.testing.assert_allclose(
        infinite.mean(policy, params, **arguments), long.mean(policy, params, **arguments), atol=1e-11
    )
    np.testing.assert_allclose(
        infinite.covariance(policy, params, **arguments), long.covariance(policy, params, **arguments), rtol=1e-10
    )
    n = dict(num_episodes=5, baseline=baselines.leave_one_out(), weight=weights.total_return(1.0))
    np.testing.assert_allclose(
        infinite.covariance(policy, params, **n), long.covariance(policy, params, **n), rtol=1e-10
    )


def test_an_action_dependent_baseline_adds_exactly_the_bias_it_should(x64):
    """−Σ_t γ^t E[ψ_t b(s_t, a_t)], here through `direct`; one that ignores the action adds none."""
    problem = Problem(seed=37)
    policy, params = policy_and_params(problem)
    mdp = problem.mdp()
    b = np.random.default_rng(0).normal(size=(3, 2, 1))
    recursion = jaxpg.exact.generic(
        problem.reward,
        problem.discount,
        jnp.asarray(problem.pi),
        direct=problem.reward - b,
        score_discount=problem.discount,
    )
    expected = -sum(
        p * problem.discount**t * problem.scores(s, a)[t] * b[s[t], a[t]]
        for p, s, a, _ in problem.paths
        for t in range(len(a))
    )
    np.testing.assert_allclose(np.ravel(mdp.bias(policy, params, weight=recursion)), expected, atol=1e-12)
    assert np.abs(expected).max() > 0.01


def test_covariance_is_differentiable_and_maps(x64):
    """d tr Cov / db for a constant baseline against finite differences, over MDPs and discounts in one compile."""
    problems = [Problem(seed=seed) for seed in (38, 39)]
    policy, _ = policy_and_params(problems[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p.mdp() for p in problems))
    logits = jnp.stack([jnp.asarray(p.logits) for p in problems])

    @jax.jit
    @jax.vmap
    def slope(mdp, params):
        def trace(b, discount):
            return jnp.trace(
                mdp.covariance(policy, params, weight=weights.reward_to_go(discount), baseline=baselines.constant(b))
            )

        return trace(0.3, 0.6), *jax.grad(trace, argnums=(0, 1))(0.3, 0.6)

    with jax.checking_leaks():
        values, by_baseline, by_discount = slope(stacked, logits)

    def trace(i, b, discount):
        return np.trace(
            problems[i]
            .mdp()
            .covariance(policy, logits[i], weight=weights.reward_to_go(discount), baseline=baselines.constant(b))
        )

    for i in range(2):
        np.testing.assert_allclose(values[i], trace(i, 0.3, 0.6), rtol=1e-12)
        np.testing.assert_allclose(by_baseline[i], (trace(i, 0.3001, 0.6) - trace(i, 0.2999, 0.6)) / 2e-4, rtol=1e-6)
        np.testing.assert_allclose(by_discount[i], (trace(i, 0.3, 0.6001) - trace(i, 0.3, 0.5999)) / 2e-4, rtol=1e-5)


def test_leave_one_out_maps_over_mdps(x64):
    problems = [Problem(seed=seed) for seed in (42, 43)]
    policy, _ = policy_and_params(problems[0])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p.mdp() for p in problems))
    logits = jnp.stack([jnp.asarray(p.logits) for p in problems])
    for weight in (None, weights.total_return(0.8)):
        arguments = dict(weight=weight, baseline=baselines.leave_one_out(), num_episodes=4)
        got = jax.jit(jax.vmap(lambda mdp, x, a=arguments: mdp.covariance(policy, x, **a)))(stacked, logits)
        for i, problem in enumerate(problems):
            np.testing.assert_allclose(got[i], problem.mdp().covariance(policy, logits[i], **arguments), atol=1e-13)


def test_single_precision_is_near():
    problem = Problem(seed=40)
    policy, _ = policy_and_params(problem)
    got = problem.mdp().covariance(policy, jnp.asarray(problem.logits, jnp.float32))
    _, expected = expectation([(p, estimate(problem, "reward_to_go", s, a, r)) for p, s, a, r in problem.paths])
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, atol=3e-6)


def test_errors(x64):
    problem = Problem(seed=41, terminal=False)
    policy, params = policy_and_params(problem)
    mdp, infinite = problem.mdp(), problem.mdp(horizon=None)
    loo = baselines.leave_one_out()
    with pytest.raises(ValueError, match="num_episodes must be at least 2"):
        mdp.covariance(policy, params, baseline=loo)
    with pytest.raises(TypeError, match="weight must come from jaxpg.weights"):
        mdp.covariance(policy, params, weight="gae")
    with pytest.raises(TypeError, match="baseline must come from jaxpg.baselines"):
        mdp.covariance(policy, params, baseline=0.5)
    with pytest.raises(ValueError, match="total_return needs episodes that end"):
        infinite.covariance(policy, params, weight=weights.total_return(0.8))
    with pytest.raises(ValueError, match="moments are infinite"):
        infinite.covariance(policy, params, weight=weights.reward_to_go(0.8, discount_states=False))
    with pytest.raises(ValueError, match="needs a finite horizon"):
        infinite.covariance(policy, params, baseline=loo, num_episodes=4)
    with pytest.raises(ValueError, match="random where the MDP has terminal states"):
        Problem(seed=41).mdp().covariance(policy, params, baseline=baselines.time(), num_episodes=4)
    with pytest.raises(ValueError, match="linear"):
        mdp.covariance(
            policy, params, baseline=baselines.Baseline(peers=lambda t, o, s, c: (t - o) ** 2), num_episodes=4
        )
    with pytest.raises(ValueError, match="behavior must give a positive probability"):
        mdp.covariance(policy, params, behavior=(policy, jnp.full((3, 2), 0.0).at[0, 0].set(-1e9)))
    for weight in (None, weights.total_return(0.8)):
        with pytest.raises(ValueError, match="on-policy"):
            mdp.covariance(policy, params, weight=weight, baseline=loo, num_episodes=4, behavior=(policy, params + 1.0))
