"""The four derivations of the policy gradient, run: docs/derivations.md has the mathematics, a test each line's name.

What is exact is summed over every trajectory of a small MDP in double precision; what is sampled is audited by χ² over
many MDPs at once.
"""

import functools
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import audit
from jax.flatten_util import ravel_pytree

import jaxpg
from jaxpg import baselines, weights
from jaxpg.exact.enumeration import log_probability
from jaxpg.policies import Policy
from jaxpg.policies.distributions import Categorical

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "derivations.md"
STATES, ACTIONS, HORIZON, DISCOUNT = 3, 2, 3, 0.8


class Problem(NamedTuple):
    """A small MDP, a policy with its parameters, and every trajectory [step, trajectory] with its probability."""

    mdp: Any
    policy: Policy
    params: Any
    paths: Any
    trajectory: Any
    probability: Any

    def log_pi(self, params):
        """log π(a | s), [S, A]."""
        return jax.vmap(lambda s: self.policy.apply(params, s).log_probs())(jnp.arange(STATES))

    def log_p(self, params):
        """log P(τ | θ) of every trajectory, with the model's terms."""
        return log_probability(self.paths, self.log_pi(params))

    def sum_of_log_pi(self, params):
        """Σ_t log π(a_t | s_t) of every trajectory."""
        return jnp.sum(jnp.where(self.paths.valid, self.log_pi(params)[self.paths.state, self.paths.action], 0.0), 0)

    @property
    def pi(self):
        return np.exp(self.log_pi(self.params))

    @property
    def psi(self):
        """ψ(s, a) = ∇ log π(a | s), [S, A, P]."""
        return rows(jax.jacrev(self.log_pi)(self.params), 2)

    @property
    def discounts(self):
        return DISCOUNT ** np.arange(HORIZON)

    @property
    def gradient(self):
        """∇J by automatic differentiation of the recursion for J."""
        return flat(self.mdp.policy_gradient(self.policy, self.params))

    @property
    def occupancy(self):
        """γ^t P(s_t = s), [H, S]."""
        return self.mdp.state_distribution(self.policy, self.params, discounted=True)

    def mean(self, **arguments):
        """The mean of an estimate over every trajectory, by the estimator's own code."""
        return flat(
            jaxpg.gradient_from(
                self.trajectory, self.policy, self.params, probabilities=self.probability, **arguments
            ).gradient
        )

    def each(self, **arguments):
        """Each trajectory's own gradient and score, [N, P] both, by the estimator's own code."""
        number = len(self.probability)
        out = jaxpg.gradient_from(
            self.trajectory, self.policy, self.params, per_episode=True, num_episodes=number, **arguments
        )
        return rows(out.episodes.gradient, 1), rows(out.episodes.score, 1)


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def rows(tree, axes):
    """A pytree with leading axes as an array [..., P]."""
    return np.concatenate([np.reshape(x, (*x.shape[:axes], -1)) for x in jax.tree.leaves(tree)], -1)


def shared_policy():
    """A softmax policy whose states share their parameters, as a network's do."""
    features = np.random.default_rng(8).normal(size=(STATES, 4))

    def apply(params, state):
        hidden = jnp.tanh(jnp.asarray(features)[state] @ params["in"])
        return Categorical(hidden @ params["out"])

    return Policy(init=lambda key: None, apply=apply)


@pytest.fixture(params=["table", "shared parameters"])
def problem(request, x64):
    """State 2 is terminal, so that episodes differ in length."""
    rng = np.random.default_rng(3)
    mdp = jaxpg.exact.FiniteMDP(
        rng.dirichlet(np.ones(STATES), (STATES, ACTIONS)),
        rng.normal(size=(STATES, ACTIONS, STATES)) + 0.5,
        np.append(rng.dirichlet(np.ones(STATES - 1)), 0.0),
        discount=DISCOUNT,
        horizon=HORIZON,
        terminal=np.arange(STATES) == STATES - 1,
    )
    if request.param == "table":
        policy, params = jaxpg.policies.tabular(mdp.environment()), jnp.asarray(rng.normal(size=(STATES, ACTIONS)))
    else:
        policy = shared_policy()
        params = {"in": jnp.asarray(rng.normal(size=(4, 3))), "out": jnp.asarray(rng.normal(size=(3, ACTIONS)))}
    return Problem(mdp, policy, params, jaxpg.exact.trajectories(mdp), *jaxpg.exact.every_episode(mdp, policy, params))


exactly = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)


# 1. From trajectories, without a model.


def test_the_gradient_of_a_probability_is_the_probability_times_the_gradient_of_its_logarithm(problem):
    of_log = rows(jax.jacrev(problem.log_p)(problem.params), 1)
    of_probability = rows(jax.jacrev(lambda p: jnp.exp(problem.log_p(p)))(problem.params), 1)
    exactly(of_probability, np.asarray(problem.probability)[:, None] * of_log)
    exactly(of_probability.sum(0), 0.0)  # Probabilities sum to one whatever θ: the expected score is zero.


def test_the_gradient_of_the_log_probability_of_a_trajectory_is_the_sum_of_the_scores(problem):
    """By automatic differentiation through the model's terms too; the estimator sees states and actions alone."""
    with_the_model = rows(jax.jacrev(problem.log_p)(problem.params), 1)
    _, without = problem.each(weight=weights.total_return(DISCOUNT))
    exactly(without, with_the_model)


def test_the_initial_state_and_transition_terms_do_not_depend_on_the_policy(problem):
    paths, mdp = problem.paths, problem.mdp
    moved = np.where(paths.valid, mdp.transition[paths.state, paths.action, paths.next_state], 1.0)
    terms = np.log(mdp.initial[paths.state[0]]) + np.log(moved).sum(0)
    for change in (0.0, 1.0):
        params = jax.tree.map(lambda x, c=change: x + c * jnp.cos(x), problem.params)
        exactly(problem.log_p(params) - problem.sum_of_log_pi(params), terms)
        exactly(rows(jax.jacrev(lambda p: problem.log_p(p) - problem.sum_of_log_pi(p))(params), 1), 0.0)

    def with_such_a_model(params):
        """log P(τ | θ) where θ tilts the transitions, too."""
        tilted = jnp.log(mdp.transition) + 0.1 * jnp.arange(STATES) * ravel_pytree(params)[0][0]
        moves = jax.nn.log_softmax(tilted)[paths.state, paths.action, paths.next_state]
        return problem.sum_of_log_pi(params) + jnp.sum(jnp.where(paths.valid, moves, 0.0), 0)

    scores = rows(jax.jacrev(problem.sum_of_log_pi)(problem.params), 1)
    assert np.abs(rows(jax.jacrev(with_such_a_model)(problem.params), 1) - scores).max() > 0.01


def test_the_gradient_of_the_expected_return_is_the_expectation_of_return_times_score(problem):
    returns = problem.discounts @ problem.paths.reward
    of_the_expectation = flat(jax.grad(lambda p: jnp.exp(problem.log_p(p)) @ returns)(problem.params))
    scores = rows(jax.jacrev(problem.sum_of_log_pi)(problem.params), 1)
    exactly((problem.probability * returns) @ scores, of_the_expectation)
    exactly(problem.gradient, of_the_expectation)
    exactly(problem.mean(weight=weights.total_return(DISCOUNT)), of_the_expectation)
    assert np.abs(of_the_expectation).max() > 0.01


def test_the_expected_product_of_a_score_and_an_earlier_reward_is_zero(problem):
    """So the total return may be replaced by the rewards to go, discounted from the start: γ^t Q̂_t."""
    scores = np.where(problem.paths.valid[..., None], problem.psi[problem.paths.state, problem.paths.action], 0.0)
    products = np.einsum("n,tnp,kn->tkp", problem.probability, scores, problem.paths.reward)
    earlier = np.arange(HORIZON)[:, None] > np.arange(HORIZON)
    exactly(products[earlier], 0.0)
    assert np.abs(products[~earlier]).max(-1).min() > 1e-3
    exactly(problem.mean(weight=weights.reward_to_go(DISCOUNT)), problem.gradient)


# 2. From states, actions and values.


def test_the_score_is_the_gradient_of_the_policy_over_the_policy(problem):
    ratio = rows(jax.jacrev(lambda p: jnp.exp(problem.log_pi(p)))(problem.params), 2) / problem.pi[..., None]
    exactly(ratio, problem.psi)
    # And it is what the estimator multiplies: one-step episodes from each state with each action.
    states, actions = (jnp.asarray(x.reshape(1, -1)) for x in np.mgrid[:STATES, :ACTIONS])
    ones, ids = jnp.ones(states.shape), jnp.arange(states.size)[None]
    episodes = problem.trajectory._replace(
        observation=states,
        action=actions,
        log_prob=None,
        reward=ones,
        terminated=ones > 0,
        truncated=ones < 0,
        valid=ones > 0,
        episode=ids,
        time=0 * ids,
    )
    terms, scores = problem._replace(trajectory=episodes, probability=ids[0]).each()
    exactly(scores, ratio.reshape(states.size, -1))
    exactly(terms, scores)


def test_the_policy_gradient_is_the_expectation_under_the_discounted_state_distribution_of_score_times_action_value(
    problem,
):
    """Σ_t Σ_s γ^t P(s_t = s) Σ_a π(a | s) ψ(s, a) Q_t(s, a), with d and Q counted from the trajectories, too."""
    paths, p = problem.paths, np.asarray(problem.probability)
    to_go = np.stack([problem.discounts[: HORIZON - t] @ paths.reward[t:] for t in range(HORIZON)])
    visits, sums = np.zeros((2, HORIZON, STATES, ACTIONS))
    times = np.broadcast_to(np.arange(HORIZON)[:, None], paths.state.shape)
    np.add.at(visits, (times, paths.state, paths.action), np.where(paths.valid, p, 0.0))
    np.add.at(sums, (times, paths.state, paths.action), np.where(paths.valid, p * to_go, 0.0))
    q = np.asarray(problem.mdp.action_values(problem.policy, problem.params))
    exactly(sums, visits * q)
    exactly(visits.sum(-1) * problem.discounts[:, None], problem.occupancy)
    exactly(np.einsum("ts,sa,sap,tsa->p", problem.occupancy, problem.pi, problem.psi, q), problem.gradient)
    # The estimator that sums over actions has this mean, too.
    weight = weights.all_action(DISCOUNT, lambda s, t, a: jnp.asarray(q)[t, s, a])
    exactly(problem.mean(weight=weight), problem.gradient)


def test_without_a_horizon_it_holds_with_the_sum_over_all_times(problem):
    mdp = jaxpg.exact.FiniteMDP(
        problem.mdp.transition, problem.mdp.reward, problem.mdp.initial, DISCOUNT, terminal=problem.mdp.terminal
    )
    here = problem._replace(mdp=mdp)
    q = mdp.action_values(problem.policy, problem.params)
    exactly(np.einsum("s,sa,sap,sa->p", here.occupancy, here.pi, here.psi, q), here.gradient)


def test_without_the_discount_of_the_states_it_is_another_vector(problem):
    q = problem.mdp.action_values(problem.policy, problem.params)
    states = problem.mdp.state_distribution(problem.policy, problem.params)
    other = np.einsum("ts,sa,sap,tsa->p", states, problem.pi, problem.psi, q)
    exactly(problem.mean(weight=weights.reward_to_go(DISCOUNT, discount_states=False)), other)
    assert np.abs(other - problem.gradient).max() > 0.01


SIZES = (64, 1024, 8192)


@functools.cache
def sampled(num_mdps=24):
    """Averages over the first N of the episodes of each MDP, for the N in `SIZES`: terms γ^t ψ(s, a) Q(s, a) with exact
    Q, and the estimates from the same episodes' returns; with the exact gradients and covariances of one episode.
    """

    def of_mdp(key):
        mdp = jaxpg.exact.random_mdp(
            jax.random.fold_in(key, 0), STATES, ACTIONS, discount=DISCOUNT, horizon=HORIZON, num_terminal=1
        )
        env = mdp.environment()
        policy, params = jaxpg.policies.tabular(env), jax.random.normal(jax.random.fold_in(key, 1), (STATES, ACTIONS))
        episodes, _ = jaxpg.rollout.collect(
            env, policy, params, jax.random.fold_in(key, 2), num_episodes=SIZES[-1], final_rows=False
        )
        log_pi = lambda p: policy.apply(p, jnp.arange(STATES)).log_probs()  # noqa: E731
        psi = jax.jacrev(log_pi)(params).reshape(STATES, ACTIONS, -1)
        q = mdp.action_values(policy, params)
        s, a, t = episodes.observation, episodes.action, episodes.time
        factors = jnp.where(episodes.valid, mdp.discount**t * q[t, s, a], 0.0)
        by_values = []
        for n in SIZES:
            first = jnp.where(episodes.episode < n, factors, 0.0)
            by_values.append(jnp.einsum("sa,sap->p", jnp.zeros_like(q[0]).at[s, a].add(first), psi) / n)
        weight = weights.total_return(mdp.discount)
        out = jaxpg.gradient_from(episodes, policy, params, weight, num_episodes=SIZES[-1], per_episode=True)
        terms = out.episodes.gradient.reshape(SIZES[-1], -1)
        by_returns = [terms[:n].mean(0) for n in SIZES]
        with_q = jaxpg.exact.generic(
            0.0, 0.0, jnp.exp(log_pi(params)), direct=q[..., None], score_discount=mdp.discount
        )
        covariances = [mdp.covariance(policy, params, weight=w) for w in (with_q, weight)]
        return (by_values, by_returns), mdp.policy_gradient(policy, params).ravel(), covariances

    return jax.jit(jax.vmap(of_mdp))(jax.random.split(jax.random.key(5), num_mdps))


def check_convergence(kind):
    averages, gradient, covariances = sampled()
    detectable = []
    for n, mean in zip(SIZES, averages[kind]):
        verdict = audit(*(np.asarray(x, np.float64) for x in (mean[:, None], gradient, covariances[kind] / n)))
        assert verdict.passed, (n, verdict)
        detectable.append(verdict.detectable)
    assert detectable[-1] < 0.05  # The largest sample would show an error of 5% of the gradient:
    wrong = np.asarray(averages[kind][-1], np.float64)[:, None] * 1.05
    assert not audit(wrong, np.asarray(gradient), np.asarray(covariances[kind]) / SIZES[-1]).passed


@pytest.mark.slow
def test_sampled_states_actions_and_values_converge_to_it():
    check_convergence(0)


@pytest.mark.slow
def test_sampled_returns_and_scores_converge_to_it_without_a_model():
    check_convergence(1)


# 3. Baselines.


def test_the_expected_score_times_a_baseline_of_the_state_is_zero(problem):
    b = np.random.default_rng(0).normal(size=(HORIZON, STATES))
    exactly(np.einsum("sa,sap,ts->tsp", problem.pi, problem.psi, b), 0.0)  # In every state by itself;
    unpaid = problem._replace(trajectory=problem.trajectory._replace(reward=0 * problem.trajectory.reward))
    record = baselines.value(lambda s, t: jnp.asarray(b)[t, s])
    exactly(unpaid.mean(weight=weights.reward_to_go(DISCOUNT), baseline=record), 0.0)  # and so for an episode.


def test_a_constant_and_a_state_baseline_leave_the_mean_and_cut_the_variance(problem):
    """The best constant, and the best function of state and time, which cuts more; and by how much, exactly."""
    mdp, policy, params = problem.mdp, problem.policy, problem.params
    weight = weights.reward_to_go(DISCOUNT)
    constant = jaxpg.exact.optimal_baseline(mdp, policy, params)
    of_state = jaxpg.exact.optimal_baseline(mdp, policy, params, over="state_time")
    shifts = jnp.array([0.0, -0.1, 0.1])[:, None, None]
    tables = jnp.concatenate([0 * of_state[None], constant + shifts + 0 * of_state, of_state + shifts])

    def terms_and_covariance(table):
        """Each trajectory's own gradient, and the exact covariance."""
        record = baselines.value(lambda s, t: table[t, s])
        out = jaxpg.gradient_from(
            problem.trajectory, policy, params, weight, record, per_episode=True, num_episodes=len(problem.probability)
        )
        leaves = jax.tree.leaves(out.episodes.gradient)
        terms = jnp.concatenate([x.reshape(len(x), -1) for x in leaves], -1)
        return terms, mdp.covariance(policy, params, baseline=record)

    terms, covariances = jax.jit(jax.vmap(terms_and_covariance))(tables)
    means = np.einsum("n,bnp->bp", problem.probability, terms)
    exactly(means, np.broadcast_to(problem.gradient, means.shape))
    centred = terms - problem.gradient
    exactly(np.einsum("n,bnp,bnq->bpq", problem.probability, centred, centred), covariances)
    none, best_constant, less, more, best, less_of_state, more_of_state = np.trace(covariances, 0, 1, 2)
    assert best < best_constant < 0.9 * none
    assert best_constant < min(less, more) and best < min(less_of_state, more_of_state)
    exactly(problem.each(weight=weight, baseline=baselines.constant(constant))[0], terms[1])


def seeing_the_action(problem, b):
    """The problem with observations s A + a, and the baseline b_t(s, a), [H, S, A], that reads the action from them."""
    told = problem._replace(
        policy=Policy(init=problem.policy.init, apply=lambda p, o: problem.policy.apply(p, o // ACTIONS)),
        trajectory=problem.trajectory._replace(
            observation=problem.trajectory.observation * ACTIONS + problem.trajectory.action
        ),
    )
    return told, baselines.value(lambda o, t: jnp.asarray(b)[t, o // ACTIONS, o % ACTIONS])


def test_an_action_dependent_baseline_biases_by_exactly_minus_the_expected_score_times_it(problem):
    """−Σ_t γ^t E[ψ(s_t, a_t) b_t(s_t, a_t)]; with b = Q nothing is left of the gradient."""
    weight = weights.reward_to_go(DISCOUNT)
    b = np.random.default_rng(1).normal(size=(HORIZON, STATES, ACTIONS))
    bias = -np.einsum("ts,sa,sap,tsa->p", problem.occupancy, problem.pi, problem.psi, b)
    told, record = seeing_the_action(problem, b)
    exactly(told.mean(weight=weight, baseline=record), problem.gradient + bias)
    assert np.abs(bias).max() > 0.01
    q = problem.mdp.action_values(problem.policy, problem.params)
    told, record = seeing_the_action(problem, q)
    exactly(told.mean(weight=weight, baseline=record), 0.0)


def test_adding_the_expectation_of_an_action_dependent_baseline_over_actions_removes_its_bias(problem):
    b = np.random.default_rng(1).normal(size=(HORIZON, STATES, ACTIONS))
    told, record = seeing_the_action(problem, b)
    added = problem.mean(weight=weights.all_action(DISCOUNT, lambda s, t, a: jnp.asarray(b)[t, s, a]))
    exactly(told.mean(weight=weights.reward_to_go(DISCOUNT), baseline=record) + added, problem.gradient)


@pytest.mark.parametrize("num_episodes", [2, 4])
def test_a_mean_that_includes_the_episode_itself_depends_on_its_actions_and_shrinks_the_gradient(problem, num_episodes):
    def mean(baseline):
        arguments = {"weight": weights.total_return(DISCOUNT), "num_episodes": num_episodes}
        return flat(problem.mdp.mean(problem.policy, problem.params, baseline=baseline, **arguments))

    included = baselines.Baseline(peers=lambda total, own, size, count: total / size)
    exactly(mean(included), (1 - 1 / num_episodes) * problem.gradient)
    exactly(mean(baselines.leave_one_out()), problem.gradient)


# 4. Ascent.


def test_a_small_step_along_the_gradient_raises_the_return_by_its_squared_length(problem):
    start, unravel = ravel_pytree(problem.params)

    def objective(step):
        return problem.mdp.objective(problem.policy, unravel(start + step * problem.gradient))

    slope = (objective(1e-5) - objective(-1e-5)) / 2e-5
    np.testing.assert_allclose(slope, problem.gradient @ problem.gradient, rtol=1e-7)


@pytest.mark.slow
def test_ascending_the_estimate_reaches_the_optimum_of_a_small_mdp():
    """500 steps of 32 episodes on 8 MDPs, θ ← θ + ĝ/√(1 + i/100): within 2% of the way from the uniform policy.

    Episodes that stop with probability 1 − γ after each step have the undiscounted return of mean J, without a limit.
    Softmax policies only tend to deterministic ones, so some of the way is always left.
    """

    def ascend(key):
        mdp = jaxpg.exact.random_mdp(jax.random.fold_in(key, 0), 4, 3, discount=DISCOUNT)
        env = mdp.environment(max_steps=64, geometric_stopping=True)  # 0.8⁶⁴ < 1e-6
        policy = jaxpg.policies.tabular(env)
        gradient = jaxpg.policy_gradient(
            env,
            policy,
            num_episodes=32,
            weight=weights.reward_to_go(1.0),
            baseline=baselines.leave_one_out(),
            num_lanes=32,
        )

        def update(params, i):
            estimate = gradient(jax.random.fold_in(key, i + 1), params)
            return params + estimate.gradient / jnp.sqrt(1 + i / 100), None

        start = policy.init(key)
        end, _ = jax.lax.scan(update, start, jnp.arange(500))
        best = mdp.initial @ mdp.optimal_values()
        return best, mdp.objective(policy, start), mdp.objective(policy, end)

    best, start, end = jax.jit(jax.vmap(ascend))(jax.random.split(jax.random.key(0), 8))
    left = np.asarray((best - end) / (best - start))
    assert left.max() < 0.02, left
    assert left.min() > 0.0, left  # Nothing is better than the optimum.


def test_ascending_the_estimate_reaches_the_optimum_of_lqr():
    """200 steps of 64 episodes on 4 regulators: the gain of Riccati's equation within 0.05, its return within 0.5%.

    The noise of the actions is held: without it there is no estimate, and the best gain does not depend on it. Episodes
    are cut after 16 steps, 0.6¹⁶ < 3e-4; the baseline is a quadratic function fitted to each step's other episodes.
    """
    rng = np.random.default_rng(0)
    number, n, m = 4, 2, 1
    a, b, half_q = rng.normal(size=(number, n, n)), rng.normal(size=(number, n, m)), rng.normal(size=(number, n, n))
    a = 0.9 * a / np.linalg.norm(a, 2, (1, 2))[:, None, None]
    q = half_q @ half_q.swapaxes(1, 2)
    regulators = jax.vmap(lambda *matrices: jaxpg.exact.LQR(*matrices, discount=0.6))(
        *map(jnp.asarray, (a, b, q, 0.5 * np.ones((number, m, m))))
    )

    def ascend(lqr, key):
        env = lqr.environment(max_steps=16)
        policy = jaxpg.policies.linear_gaussian(env)
        with_noise = lambda gain: {"gain": gain, "log_std": jnp.full(m, -1.0)}  # noqa: E731
        gradient = jaxpg.policy_gradient(
            env,
            policy,
            num_episodes=64,
            weight=weights.reward_to_go(lqr.discount),
            baseline=baselines.linear(lambda x: jnp.append(jnp.outer(x, x).ravel(), 1.0)),
            num_lanes=64,
        )

        def update(gain, i):
            uphill = gradient(jax.random.fold_in(key, i), with_noise(gain)).gradient["gain"]
            return gain + 0.2 / (1 + i / 20) * uphill / jnp.maximum(1.0, jnp.linalg.norm(uphill)), None

        start = jnp.zeros((m, n))
        end, _ = jax.lax.scan(update, start, jnp.arange(200))
        best = lqr.optimal_policy()
        return best, end, *(lqr.objective(policy, with_noise(gain)) for gain in (best, start, end))

    found = jax.jit(jax.vmap(ascend))(regulators, jax.random.split(jax.random.key(0), number))
    gain, end, best, first, last = map(np.asarray, found)
    assert np.abs(end - gain).max() < 0.05, end - gain
    assert np.abs(gain).max() > 0.2
    assert np.all((best - last) / np.abs(best) < 0.005) and np.any((best - first) / np.abs(best) > 0.1)


# The page.


def test_the_page_names_every_test_of_this_file_and_no_other():
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
    here = {name for name in globals() if name.startswith("test_") and "page" not in name}
    assert named == here


@pytest.mark.slow
def test_the_pages_python_runs_in_order(capsys):
    names = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        exec(compile(block, f"derivations.md, Python block {number}", "exec"), names)
    assert len(capsys.readouterr().out.splitlines()) == 7
    near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5)
    truth = names["mdp"].policy_gradient(names["policy"], names["params"])
    assert np.abs(truth).max() > 0.01
    near(names["difference"], 0.0)
    near(names["gradient"], truth)
    near(names["theorem"], truth)
    near(names["bias"], names["expected_bias"])
    # 10,000 episodes: a standard error is below 0.01.
    np.testing.assert_allclose(names["sampled"], truth, atol=0.05)
    start, end = (names["small"].objective(names["policy_of_small"], names[name]) for name in ("start", "end"))
    assert 0 < names["optimum"] - end < 0.02 * (names["optimum"] - start)
