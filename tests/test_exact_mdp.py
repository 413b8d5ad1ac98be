"""Finite MDPs: J, ∇J, ∇²J, Fisher, values and planning against plain numpy enumeration; the environment; errors."""

import dataclasses
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import Problem, softmax, to_go

import jaxpg.exact
from jaxpg.exact import enumeration, evaluation
from jaxpg.policies import mlp, tabular

CASES = [dict(seed=0), dict(seed=1, terminal=False), dict(seed=2, reward_axes=2, horizon=4), dict(seed=3, discount=1.0)]


@pytest.fixture(params=CASES, ids=str)
def problem(request, x64):
    return Problem(**request.param)


def policy_of(mdp):
    return tabular(mdp.environment(max_steps=5))


def numpy_objective(problem, logits):
    return sum(p * to_go(rewards, problem.discount)[0] for p, _, _, rewards in problem.enumerate(softmax(logits)))


def test_objective_is_the_mean_return_of_all_trajectories(problem):
    mdp = problem.mdp()
    got = mdp.objective(policy_of(mdp), jnp.asarray(problem.logits))
    np.testing.assert_allclose(got, numpy_objective(problem, problem.logits), rtol=1e-12)


@pytest.mark.parametrize("method", ["autodiff", "occupancy", "enumeration"])
def test_policy_gradient_is_the_score_weighted_return(problem, method):
    mdp = problem.mdp()
    expected = sum(
        p * to_go(rewards, problem.discount)[0] * problem.scores(states, actions).sum(0)
        for p, states, actions, rewards in problem.paths
    )
    got = mdp.policy_gradient(policy_of(mdp), jnp.asarray(problem.logits), method=method)
    assert got.shape == problem.logits.shape
    np.testing.assert_allclose(np.ravel(got), expected, rtol=0, atol=1e-12)


def test_policy_gradient_matches_finite_differences(problem):
    mdp, step = problem.mdp(), 1e-5
    difference = np.zeros_like(problem.logits)
    for index in np.ndindex(difference.shape):
        bump = np.zeros_like(difference)
        bump[index] = step
        difference[index] = (
            numpy_objective(problem, problem.logits + bump) - numpy_objective(problem, problem.logits - bump)
        ) / (2 * step)
    got = mdp.policy_gradient(policy_of(mdp), jnp.asarray(problem.logits))
    np.testing.assert_allclose(got, difference, atol=1e-9)


def test_hessian_is_the_expectation_over_all_trajectories(problem):
    """∇²J = E[R (G Gᵀ + Σ_t ∇² log π)], with ∇² log π = −(diag π − π πᵀ) for a softmax."""
    mdp, num_actions = problem.mdp(), problem.pi.shape[1]
    expected = np.zeros((problem.pi.size, problem.pi.size))
    for p, states, actions, rewards in problem.paths:
        g = problem.scores(states, actions).sum(0)
        curvature = np.outer(g, g)
        for s in states[: len(actions)]:
            block = slice(s * num_actions, (s + 1) * num_actions)
            curvature[block, block] -= np.diag(problem.pi[s]) - np.outer(problem.pi[s], problem.pi[s])
        expected += p * to_go(rewards, problem.discount)[0] * curvature
    got = mdp.hessian(policy_of(mdp), jnp.asarray(problem.logits))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_fisher_is_the_second_moment_of_the_episode_score(problem):
    mdp, policy, params = problem.mdp(), policy_of(problem.mdp()), jnp.asarray(problem.logits)
    plain, discounted = np.zeros((2, problem.pi.size, problem.pi.size))
    for p, states, actions, _ in problem.paths:
        psi = problem.scores(states, actions)
        plain += p * np.outer(psi.sum(0), psi.sum(0))
        discounted += p * np.einsum("t,tp,tq->pq", problem.discount ** np.arange(len(psi)), psi, psi)
    np.testing.assert_allclose(mdp.fisher(policy, params), plain, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mdp.fisher(policy, params, discounted=True), discounted, rtol=0, atol=1e-12)


def test_values_action_values_and_state_distribution(problem):
    mdp, policy, params = problem.mdp(), policy_of(problem.mdp()), jnp.asarray(problem.logits)
    num_states, num_actions = problem.pi.shape
    visits = np.zeros((problem.horizon, num_states))
    returns = np.zeros((problem.horizon, num_states, num_actions))
    acted = np.zeros((problem.horizon, num_states, num_actions))
    for p, states, actions, rewards in problem.paths:
        for t, q in enumerate(to_go(rewards, problem.discount)):
            visits[t, states[t]] += p
            acted[t, states[t], actions[t]] += p
            returns[t, states[t], actions[t]] += p * q
    seen = acted > 0
    q_values, values = mdp.action_values(policy, params), mdp.values(policy, params)
    np.testing.assert_allclose(np.asarray(q_values)[seen], returns[seen] / acted[seen], rtol=1e-11)
    np.testing.assert_allclose(values, np.sum(problem.pi * np.asarray(q_values), -1), atol=1e-12)
    np.testing.assert_array_equal(np.asarray(values)[:, problem.terminal], 0.0)
    np.testing.assert_allclose(mdp.state_distribution(policy, params), visits, atol=1e-12)
    discounts = problem.discount ** np.arange(problem.horizon)
    np.testing.assert_allclose(
        mdp.state_distribution(policy, params, discounted=True), discounts[:, None] * visits, atol=1e-12
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_without_a_horizon_everything_is_the_limit_of_long_horizons(x64, terminal):
    problem = Problem(seed=4, terminal=terminal)
    infinite, long = problem.mdp(horizon=None), problem.mdp(horizon=300)
    policy, params = policy_of(infinite), jnp.asarray(problem.logits)
    np.testing.assert_allclose(infinite.objective(policy, params), long.objective(policy, params), rtol=1e-12)
    for method in ("autodiff", "occupancy"):
        np.testing.assert_allclose(
            infinite.policy_gradient(policy, params, method=method), long.policy_gradient(policy, params), atol=1e-12
        )
    np.testing.assert_allclose(infinite.hessian(policy, params), long.hessian(policy, params), atol=1e-11)
    np.testing.assert_allclose(
        infinite.fisher(policy, params), long.fisher(policy, params, discounted=True), atol=1e-12
    )
    np.testing.assert_allclose(infinite.values(policy, params), long.values(policy, params)[0], atol=1e-12)
    np.testing.assert_allclose(
        infinite.action_values(policy, params), long.action_values(policy, params)[0], atol=1e-12
    )
    np.testing.assert_allclose(
        infinite.state_distribution(policy, params),
        long.state_distribution(policy, params, discounted=True).sum(0),
        atol=1e-12,
    )
    np.testing.assert_allclose(infinite.optimal_values(), long.optimal_values()[0], atol=1e-11)
    np.testing.assert_array_equal(infinite.optimal_policy(), long.optimal_policy()[0])


def test_undiscounted_return_without_a_horizon_where_every_policy_terminates(x64):
    problem = Problem(seed=5, discount=1.0)
    infinite, long = problem.mdp(horizon=None), problem.mdp(horizon=2000)
    policy, params = policy_of(infinite), jnp.asarray(problem.logits)
    np.testing.assert_allclose(infinite.objective(policy, params), long.objective(policy, params), rtol=1e-12)
    np.testing.assert_allclose(infinite.optimal_values(), long.optimal_values()[0], rtol=1e-11)


def test_optimal_values_beat_every_deterministic_policy(problem):
    """All maps from (t, s) to actions are enumerated for H = 2; for longer horizons, all stationary ones."""
    mdp = problem.mdp()
    best = mdp.initial @ mdp.optimal_values()[0]
    stationary = [
        evaluation.objective(mdp, jax.nn.one_hot(jnp.array(actions), 2))
        for actions in itertools.product(range(2), repeat=3)
    ]
    assert best >= max(stationary) - 1e-12
    short = problem.mdp(horizon=2)
    reward, survival = evaluation.expected_reward(short), evaluation.survival(short)
    returns = []
    for first, second in itertools.product(itertools.product(range(2), repeat=3), repeat=2):
        states = np.arange(3)
        value = reward[states, np.array(second)]
        value = reward[states, np.array(first)] + short.discount * survival[states, np.array(first)] @ value
        returns.append(short.initial @ value)
    np.testing.assert_allclose(short.initial @ short.optimal_values()[0], max(returns), rtol=1e-12)


def test_policy_iteration_finds_the_best_stationary_policy(x64):
    for seed in range(5):
        mdp = Problem(seed=seed, terminal=False).mdp(horizon=None)
        returns = {
            actions: evaluation.objective(mdp, jax.nn.one_hot(jnp.array(actions), 2))
            for actions in itertools.product(range(2), repeat=3)
        }
        assert tuple(mdp.optimal_policy().tolist()) == max(returns, key=returns.get)
        np.testing.assert_allclose(mdp.initial @ mdp.optimal_values(), max(returns.values()), rtol=1e-12)


def test_natural_gradient_solves_the_fisher_system(problem):
    mdp, policy, params = problem.mdp(), policy_of(problem.mdp()), jnp.asarray(problem.logits)
    gradient = np.ravel(mdp.policy_gradient(policy, params))
    fisher = np.asarray(mdp.fisher(policy, params))
    natural = np.ravel(mdp.natural_gradient(policy, params))
    np.testing.assert_allclose(fisher @ natural, gradient, atol=1e-10)  # ∇J lies in the range of F.
    np.testing.assert_allclose(natural, np.linalg.pinv(fisher) @ gradient, atol=1e-9)
    damped = np.ravel(mdp.natural_gradient(policy, params, damping=0.1))
    np.testing.assert_allclose(fisher @ damped + 0.1 * damped, gradient, atol=1e-12)


def test_network_policies_of_any_parameter_tree(x64):
    """A network's gradient is the chain rule through the table of its own logits."""
    problem = Problem(seed=6)
    mdp = problem.mdp()
    policy = mlp(mdp.environment(), hidden_sizes=(4,))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), policy.init(jax.random.key(0)))
    gradients = [mdp.policy_gradient(policy, params, method=m) for m in ("autodiff", "occupancy", "enumeration")]
    assert jax.tree.structure(gradients[0]) == jax.tree.structure(params)
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), gradients[0], other)


def test_maps_over_mdps_and_differentiates_through_them(x64):
    """One compiled function for many MDPs, whose arrays are then traced; dJ/dr is the discounted occupancy."""
    problems = [Problem(seed=seed) for seed in range(4)]
    mdps = [p.mdp() for p in problems]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *mdps)
    logits = jnp.stack([jnp.asarray(p.logits) for p in problems])
    policy = policy_of(mdps[0])
    for method in ("autodiff", "occupancy", "enumeration"):
        got = jax.jit(jax.vmap(lambda m, x, method=method: m.policy_gradient(policy, x, method=method)))(
            stacked, logits
        )
        for i, mdp in enumerate(mdps):
            np.testing.assert_allclose(got[i], mdp.policy_gradient(policy, logits[i]), atol=1e-12)
    built = jax.vmap(
        lambda P, r, i, t, g: jaxpg.exact.FiniteMDP(P, r, i, discount=g, horizon=3, terminal=t).objective(
            policy, logits[0]
        )
    )(stacked.transition, stacked.reward, stacked.initial, stacked.terminal, stacked.discount)
    np.testing.assert_allclose(built[1], mdps[1].objective(policy, logits[0]), rtol=1e-12)
    with jax.checking_leaks():
        gradient = jax.grad(lambda m: m.objective(policy, logits[0]), allow_int=True)(mdps[0])
    occupancy = mdps[0].state_distribution(policy, logits[0], discounted=True).sum(0)[:, None] * problems[0].pi
    np.testing.assert_allclose(gradient.reward, occupancy[..., None] * problems[0].transition, atol=1e-12)


def test_enumerated_trajectories_are_all_of_them(problem):
    paths = enumeration.trajectories(problem.mdp())
    pi = jnp.asarray(problem.pi)
    probability = np.exp(enumeration.log_probability(paths, jnp.log(pi)))
    assert len(probability) == len(problem.paths)
    np.testing.assert_allclose(probability.sum(), 1.0, rtol=1e-12)
    mine = {(tuple(states), tuple(actions)): p for p, states, actions, _ in problem.paths}
    for n, p in enumerate(probability):
        length = int(paths.valid[:, n].sum())
        states = (*np.asarray(paths.state)[:length, n].tolist(), int(np.asarray(paths.next_state)[length - 1, n]))
        np.testing.assert_allclose(p, mine[states, tuple(np.asarray(paths.action)[:length, n].tolist())], rtol=1e-12)
        assert paths.terminated[:, n].tolist() == [t == length - 1 for t in range(problem.horizon)]


# The environment ------------------------------------------------------------------------------------------------------


def test_environment_draws_from_the_rows():
    """Every transition and initial state by its probability: multinomial z-scores over all cells, and none of p = 0."""
    problem = Problem(seed=7)
    problem.transition[0, 0] = [0.0, 1.0, 0.0]
    problem.transition[1, 1] = [0.25, 0.0, 0.75]
    env, draws = problem.mdp().environment(), 20_000
    assert env.max_steps == problem.horizon
    states, observations = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), draws))
    np.testing.assert_array_equal(states.index, observations)
    _near(np.bincount(observations, minlength=3), problem.initial, draws)
    keys = jax.random.split(jax.random.key(2), draws)
    for s, a in itertools.product(range(3), range(2)):
        state = states._replace(index=jnp.full(draws, s), time=jnp.zeros(draws, jnp.int32))
        after, step = jax.vmap(lambda k, x, a=a: env.step(k, x, jnp.array(a)))(keys, state)
        np.testing.assert_array_equal(after.index, step.observation)
        _near(np.bincount(step.observation, minlength=3), problem.transition[s, a], draws)
        np.testing.assert_allclose(step.reward, problem.reward[s, a][np.asarray(step.observation)], rtol=1e-6)
        np.testing.assert_array_equal(step.terminated, problem.terminal[np.asarray(step.observation)])


def _near(counts, probability, draws):
    assert not counts[probability == 0].any()
    spread = np.sqrt(draws * probability * (1 - probability)) + 1e-9
    assert np.all(np.abs(counts - draws * probability) <= 4.5 * spread + 1e-3)


def test_environment_ends_at_the_horizon_or_its_limit():
    problem = Problem(seed=8, terminal=False)

    def ends(env, steps):
        state, _ = env.reset(jax.random.key(0))
        flags = []
        for t in range(steps):
            state, step = env.step(jax.random.key(t), state, jnp.array(0))
            flags.append((bool(step.terminated), bool(step.truncated)))
        return flags

    assert ends(problem.mdp().environment(), 3) == [(False, False), (False, False), (True, False)]
    assert ends(problem.mdp().environment(max_steps=2), 2) == [(False, False), (False, True)]
    assert ends(problem.mdp(horizon=None).environment(max_steps=2), 2) == [(False, False), (False, True)]
    with pytest.raises(ValueError, match="max_steps is required"):
        problem.mdp(horizon=None).environment()


def test_geometric_stopping_makes_the_undiscounted_return_unbiased():
    """P(length ≥ t + 1) = γ^t, and the mean undiscounted return of 40,000 episodes is J to 4.5 standard errors."""
    problem = Problem(seed=9, terminal=False)
    mdp = problem.mdp(horizon=None)
    env = mdp.environment(max_steps=150, geometric_stopping=True)
    pi = jnp.asarray(problem.pi)

    def play(key):
        def body(carry, step_key):
            state, alive, total = carry
            action_key, env_key = jax.random.split(step_key)
            state, step = env.step(env_key, state, jax.random.categorical(action_key, jnp.log(pi[state.index])))
            total += alive * step.reward
            return (state, alive & ~step.terminated, total), alive

        state, _ = env.reset(jax.random.fold_in(key, 0))
        (_, _, total), alive = jax.lax.scan(body, (state, jnp.array(True), 0.0), jax.random.split(key, 150))
        return total, alive.sum()

    returns, lengths = jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(3), 40_000))
    exact = mdp.objective(tabular(env), jnp.asarray(problem.logits, jnp.float32))
    assert abs(returns.mean() - exact) < 4.5 * returns.std() / 200
    assert abs((np.asarray(lengths) >= 4).mean() - problem.discount**3) < 0.011


# Errors ---------------------------------------------------------------------------------------------------------------

GOOD = Problem(seed=10)


def _arrays(**changes):
    return {**dict(transition=GOOD.transition, reward=GOOD.reward, initial=GOOD.initial), **changes}


@pytest.mark.parametrize(
    "arrays, error, message",
    [
        (
            _arrays(transition=GOOD.transition * 0.9),
            ValueError,
            r"transition must sum to 1 .* row \(0, 0\) sums to 0.9",
        ),
        (
            _arrays(transition=GOOD.transition - 2 * np.eye(3)[:, None] * [0.5, 0, 0]),
            ValueError,
            "transition must hold prob",
        ),
        (_arrays(transition=GOOD.transition[0]), ValueError, r"transition must have shape \[S, A, S\]"),
        (_arrays(transition=GOOD.transition[None]), ValueError, "jax.vmap"),
        (_arrays(reward=np.zeros((3, 3))), ValueError, "reward must have shape"),
        (_arrays(reward=GOOD.reward * np.nan), ValueError, "reward must hold finite"),
        (_arrays(reward="none"), TypeError, "reward must be an array of numbers"),
        (_arrays(initial=np.ones(3)), ValueError, "initial must sum to 1 .* it sums to 3"),
        (_arrays(initial=np.ones(2) / 2), ValueError, "initial must have shape"),
        (_arrays(terminal=np.array([True, False, False])), ValueError, "no probability on a terminal state.* state 0"),
        (_arrays(terminal=np.zeros(3)), TypeError, "terminal must be an array of booleans"),
        (_arrays(terminal=np.zeros(2, bool)), ValueError, "terminal must have shape"),
        (_arrays(discount=1.2), ValueError, "discount"),
        (_arrays(discount=1.0), ValueError, "discount must be below 1"),
        (_arrays(horizon=0), ValueError, "horizon"),
        (_arrays(horizon=2.5), TypeError, "horizon"),
    ],
)
def test_errors_name_the_argument(arrays, error, message):
    with pytest.raises(error, match=message):
        jaxpg.exact.FiniteMDP(**arrays)


def test_errors_of_policies_and_methods():
    mdp = GOOD.mdp()
    policy = policy_of(mdp)
    with pytest.raises(ValueError, match="did you mean 'occupancy'"):
        mdp.policy_gradient(policy, jnp.zeros((3, 2)), method="occupancies")
    with pytest.raises(ValueError, match="finite horizon"):
        GOOD.mdp(horizon=None).policy_gradient(policy, jnp.zeros((3, 2)), method="enumeration")
    with pytest.raises(ValueError, match="limit=10 trajectories"):
        enumeration.trajectories(mdp, limit=10)
    three_actions = jaxpg.exact.FiniteMDP(np.full((3, 3, 3), 1 / 3), np.zeros((3, 3)), np.ones(3) / 3, horizon=2)
    with pytest.raises(ValueError, match=re.escape("shape [S, A] = (3, 2)")):
        mdp.objective(policy_of(three_actions), jnp.zeros((3, 3)))
    flat = dataclasses.replace(policy, apply=lambda params, s: policy.apply(params.reshape(3, 2), s))
    assert mdp.objective(flat, jnp.zeros(6)) == mdp.objective(policy, jnp.zeros((3, 2)))  # Its params are its own.
    three = jaxpg.Policy(init=policy.init, apply=lambda params, observation: jaxpg.policies.Categorical(params))
    with pytest.raises(ValueError, match="each of the 2 actions a probability"):
        mdp.objective(three, jnp.zeros(3))
    with pytest.raises(ValueError, match="memory"):
        mdp.objective(jaxpg.policies.Policy(init=policy.init, apply=policy.apply, initial_carry=0), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="damping"):
        mdp.natural_gradient(policy, jnp.zeros((3, 2)), damping=-1.0)


def test_the_mdp_is_a_pytree_and_prints():
    mdp = GOOD.mdp()
    leaves, structure = jax.tree.flatten(mdp)
    again = jax.tree.unflatten(structure, leaves)
    assert again.horizon == mdp.horizon and again.terminal is mdp.terminal and len(leaves) == 5
    assert "num_states=3" in repr(mdp) and "horizon=3" in repr(mdp)
