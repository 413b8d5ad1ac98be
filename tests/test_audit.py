"""Each weight with each baseline against its exact mean and covariance, on random MDPs; and the audit's own teeth."""

import functools

import enumeration as en
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import audit, audit_of_row, problems, sample, sample_row
from estimators import ESTIMATORS

import jaxpg
from jaxpg import _weigh, baselines, lanes, rollout, weights

PROBLEMS = problems()
DISCOUNT = PROBLEMS[0].mdp.discount
VALUES = np.random.default_rng(5).normal(size=(len(PROBLEMS), 3))  # A wrong V for each MDP.
REPLICATES = 5000  # For each of 24 MDPs: 120,000 estimates a case.

WEIGHTS = {
    "total_return": (lambda v: weights.total_return(DISCOUNT), {}),
    "reward_to_go": (lambda v: weights.reward_to_go(DISCOUNT), {}),
    "reward_to_go, undiscounted states": (lambda v: weights.reward_to_go(DISCOUNT, discount_states=False), {}),
    "n_step": (lambda v: weights.n_step(DISCOUNT, n=2, value=lambda s: v[s]), {"n": 2}),
    "td_residual": (lambda v: weights.td_residual(DISCOUNT, value=lambda s: v[s]), {}),
    "gae": (lambda v: weights.gae(DISCOUNT, 0.7, value=lambda s: v[s]), {"lambda_": 0.7}),
}
TIME_VALUES = np.array([1.5, -0.5, 0.25])
BASELINES = {
    "none": lambda v: baselines.none(),
    "constant": lambda v: baselines.constant(0.7),
    "value": lambda v: baselines.value(lambda s: v[s]),
    "time": lambda v: baselines.time(TIME_VALUES),
    "leave_one_out": lambda v: baselines.leave_one_out(),
}


def exact(problem, value, weight, baseline, num_episodes):
    """Exact mean and covariance of the estimate, from the enumerated trajectories."""
    mdp, traj = problem.mdp, problem.trajectories
    kind = weight.split(",")[0]
    psi = en.episode_weights(mdp, traj, kind, value=value, **WEIGHTS[weight][1])
    state_discount = 1.0 if weight in ("total_return", "reward_to_go, undiscounted states") else mdp.discount
    if baseline == "leave_one_out":
        return en.pair_mean_and_covariance(mdp, traj, psi, state_discount, num_episodes, kind == "total_return")
    b = {
        "none": np.zeros(psi.shape),
        "constant": np.full(psi.shape, 0.7),
        "value": value[traj.states[:, :-1]],
        "time": np.broadcast_to(TIME_VALUES, psi.shape),
    }[baseline]
    mean, covariance = en.mean_and_covariance(traj, en.terms(mdp, traj, psi, state_discount, b))
    return mean, covariance / num_episodes


def true_gradient(problem):
    """∇J by the score of the whole trajectory: Σ_τ P(τ) R(τ) Σ_t ∇ log π."""
    mdp, traj = problem.mdp, problem.trajectories
    returns = en.rewards_to_go(mdp, traj.rewards)[:, 0]
    return np.einsum("m,m,mhp->p", traj.probability, returns, traj.scores)


def judge(weight, baseline, num_episodes=4, against_truth=False, seed=1, **options):
    found = sample(PROBLEMS, REPLICATES, num_episodes, WEIGHTS[weight][0], BASELINES[baseline], VALUES, seed, **options)
    moments = [exact(p, v, weight, baseline, num_episodes) for p, v in zip(PROBLEMS, VALUES, strict=True)]
    means = [true_gradient(p) for p in PROBLEMS] if against_truth else [m for m, _ in moments]
    return audit(found, means, [c for _, c in moments])


# --- Every estimator of the table -------------------------------------------------------------------------------------

FAST = (
    "reward-to-go, leave-one-out",
    "off-policy, per decision",
    "V-trace, off-policy",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in ESTIMATORS]
)
def test_mean_is_the_exact_mean(name, record_property):
    verdict = audit_of_row(ESTIMATORS[name])
    record_property("detectable relative bias", verdict.detectable)
    print(
        f"{name}: uniformity p = {verdict.uniformity:.3f}, smallest p × K = {verdict.smallest:.3f}, "
        f"detectable relative bias {verdict.detectable:.1%}"
    )
    assert len(verdict.p_values) >= 100
    assert verdict.passed, verdict
    assert verdict.detectable < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [pytest.param("antithetic"), pytest.param("quasi", marks=pytest.mark.slow)])
def test_dependent_episodes_have_the_same_mean(scheme):
    sampling = {"antithetic": jaxpg.sampling.antithetic(), "quasi": jaxpg.sampling.quasi_monte_carlo(4)}[scheme]
    assert audit_of_row(ESTIMATORS["reward-to-go, value function"], sampling=sampling).passed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reward-to-go", "total return, leave-one-out", "GAE, λ = 0.7, wrong values"])
def test_sampled_covariance_is_the_exact_one(name):
    """Each diagonal entry within what its kurtosis allows, over all MDPs and coordinates together."""
    from scipy import stats

    found, _, covariance = sample_row(ESTIMATORS[name])
    exact_variance = np.diagonal(covariance, axis1=1, axis2=2)
    centred = found - found.mean(1, keepdims=True)
    variance, fourth = (centred**2).mean(1), (centred**4).mean(1)
    error = np.sqrt((fourth - variance**2) / found.shape[1])
    kept = exact_variance > 1e-9
    z = ((variance - exact_variance) / np.where(kept, error, 1.0))[kept]
    assert stats.kstest(z, "norm").pvalue > 1e-4 and np.abs(z).max() < stats.norm.isf(1e-4 / z.size)
    assert np.abs((variance[kept] / exact_variance[kept]).mean() - 1) < 0.01


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("weight", ["total_return", "reward_to_go"])
def test_exact_mean_of_unbiased_estimators_is_the_gradient(weight, baseline):
    for problem, value in zip(PROBLEMS, VALUES, strict=True):
        mean, _ = exact(problem, value, weight, baseline, num_episodes=4)
        np.testing.assert_allclose(mean, true_gradient(problem), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("num_episodes", [2, 3])
def test_time_baseline_of_the_other_episodes(num_episodes):
    """b_{i,t} is the mean over the others that reach step t: unbiased, by enumeration of all pairs and triples."""
    rng = np.random.default_rng(3)
    mdp = en.random_mdp(rng, num_states=2, horizon=2)
    logits = rng.normal(size=(2, 2))
    traj = en.enumerate_trajectories(mdp, logits)
    psi = en.rewards_to_go(mdp, traj.rewards)
    w = mdp.discount ** np.arange(mdp.horizon)
    m = len(traj.probability)
    groups = np.stack(np.meshgrid(*[np.arange(m)] * num_episodes, indexing="ij"), -1).reshape(-1, num_episodes)
    probability = np.prod(traj.probability[groups], axis=1)
    estimates = np.zeros((len(groups), 4))
    for i in range(num_episodes):
        own = groups[:, i]
        others = np.delete(groups, i, axis=1)
        reach = traj.valid[others].sum(1)
        b = np.where(reach > 0, np.where(traj.valid[others], psi[others], 0.0).sum(1) / np.maximum(reach, 1), 0.0)
        scaled = np.where(traj.valid[own], w * (psi[own] - b), 0.0)
        estimates += np.einsum("gh,ghp->gp", scaled, traj.scores[own]) / num_episodes
    mean = probability @ estimates
    covariance = (estimates - mean).T @ ((estimates - mean) * probability[:, None])
    from auditing import Problem

    problem = Problem(mdp, logits, traj)
    np.testing.assert_allclose(mean, true_gradient(problem), atol=1e-12)
    found = sample(
        [problem], 100_000, num_episodes, lambda _: weights.reward_to_go(mdp.discount), lambda _: baselines.time()
    )
    verdict = audit(found, [mean], [covariance])
    assert verdict.p_values[0] > 1e-4, verdict


# --- The audit must reject what is wrong ------------------------------------------------------------------------------


@pytest.mark.slow
def test_rejects_a_missing_state_discount(monkeypatch):
    monkeypatch.setattr(weights, "_state_discount", lambda discount, discount_states: 1.0)
    assert not judge("reward_to_go", "none").passed


@pytest.mark.parametrize(
    "num_episodes", [2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_rejects_a_self_included_mean(monkeypatch, num_episodes):
    self_included = baselines.Baseline(peers=lambda total, own, size, count: total / size)
    monkeypatch.setitem(BASELINES, "leave_one_out", lambda v: self_included)
    assert not judge("total_return", "leave_one_out", num_episodes).passed


@pytest.mark.slow
def test_rejects_episodes_that_share_a_key(monkeypatch):
    """The mean stays right; the spread of the estimate shows that pairs of episodes are the same."""
    ids = rollout.Queue.ids
    monkeypatch.setattr(rollout.Queue, "ids", lambda queue, slots: ids(queue, slots) // 2)
    assert not judge("reward_to_go", "none").passed


@pytest.mark.slow
def test_rejects_one_key_for_action_and_environment(monkeypatch):
    monkeypatch.setattr(lanes, "key_for_environment", lambda key: key)
    assert not judge("reward_to_go", "none").passed


@pytest.mark.slow
def test_rejects_a_leak_across_episode_ends(monkeypatch):
    monkeypatch.setattr(_weigh, "recursion", lambda x, c, ended, following: x + c * following)
    # One lane, so that episodes lie behind each other.
    assert not judge("reward_to_go", "none", num_lanes=1).passed


@pytest.mark.slow
def test_passes_on_one_lane_and_in_small_chunks():
    assert judge("reward_to_go", "none", num_lanes=1, seed=2).passed
    assert judge("reward_to_go", "value", chunk_size=1, seed=3).passed


# --- Sampled variances against exact ones -----------------------------------------------------------------------------


@pytest.mark.slow
def test_reported_variance_is_unbiased():
    """E[variance] = diag Cov exactly, for groups of equal and of unequal size, and one episode a group."""
    problem, value = PROBLEMS[0], VALUES[0]
    for num_episodes, num_groups in ((12, 4), (11, 4), (6, 6)):
        mdp = jaxpg.exact.FiniteMDP(
            problem.mdp.transition,
            problem.mdp.reward,
            problem.mdp.initial,
            discount=DISCOUNT,
            horizon=problem.mdp.horizon,
            terminal=problem.mdp.terminal,
        )
        env = mdp.environment()
        gradient = jaxpg.policy_gradient(
            env,
            jaxpg.policies.tabular(env),
            num_episodes=num_episodes,
            num_groups=num_groups,
            weight=weights.reward_to_go(DISCOUNT),
        )
        run = functools.partial(gradient, params=jnp.asarray(problem.logits, jnp.float32))
        keys = jax.random.split(jax.random.key(8), 40_000)
        found = jax.jit(jax.vmap(run))(keys)
        _, covariance = exact(problem, value, "reward_to_go", "none", num_episodes)
        variances = np.asarray(found.variance, np.float64).reshape(len(keys), -1)
        error = variances.std(0) / np.sqrt(len(keys))
        z = (variances.mean(0) - np.diag(covariance)) / np.where(error > 0, error, 1)
        assert np.abs(z).max() < 4.5, (num_episodes, num_groups, z)
        assert np.all(error[:4] > 0) and np.abs(z[:4]).max() > 0
        # The return's mean and its error, too.
        returns = en.rewards_to_go(problem.mdp, problem.trajectories.rewards)[:, 0]
        p = problem.trajectories.probability
        variance = p @ (returns - p @ returns) ** 2
        squared = np.asarray(found.objective_error, np.float64) ** 2
        assert abs(squared.mean() - variance / num_episodes) < 4.5 * squared.std() / np.sqrt(len(keys))
