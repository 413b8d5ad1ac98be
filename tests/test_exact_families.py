"""Families of MDPs, MDPs read from environments, and optimal baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import Problem, to_go

import jaxpg
import jaxpg.exact
from jaxpg import baselines, weights
from jaxpg.policies import tabular


def as_arrays(mdp):
    """P with terminal rows zeroed, r(s, a, s') where it can happen, initial, terminal: what makes MDPs equal."""
    terminal = np.zeros(mdp.num_states, bool) if mdp.terminal is None else np.asarray(mdp.terminal)
    transition = np.asarray(mdp.transition) * ~terminal[:, None, None]
    reward = np.asarray(mdp.reward if mdp.reward.ndim == 3 else mdp.reward[..., None])
    return transition, np.where(transition > 0, reward, 0.0), np.asarray(mdp.initial), terminal


def assert_same(mdp, other):
    for ours, theirs in zip(as_arrays(mdp), as_arrays(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_random_mdps_are_valid_and_as_asked():
    mdp = jaxpg.exact.random_mdp(jax.random.key(0), 6, 3, branching=2, num_terminal=2, horizon=5)
    assert mdp.transition.shape == (6, 3, 6) and mdp.horizon == 5
    np.testing.assert_array_equal((np.asarray(mdp.transition) > 0).sum(-1), 2)
    np.testing.assert_array_equal(mdp.terminal, [False] * 4 + [True] * 2)
    np.testing.assert_array_equal(np.asarray(mdp.initial) > 0, [True] * 4 + [False] * 2)
    many = jax.vmap(lambda key: jaxpg.exact.random_mdp(key, 4, 2))(jax.random.split(jax.random.key(1), 2000))
    assert many.transition.shape == (2000, 4, 2, 4) and many.terminal is None
    np.testing.assert_allclose(many.transition.sum(-1), 1.0, atol=1e-5)
    # Dirichlet(1, 1, 1, 1): every entry has mean 1/4 and variance 3/80.
    np.testing.assert_allclose(many.transition.mean((0, 1, 2)), 0.25, atol=0.01)
    np.testing.assert_allclose(many.transition.var((0, 1, 2)), 3 / 80, atol=0.002)
    with pytest.raises(ValueError, match="branching must be at most"):
        jaxpg.exact.random_mdp(jax.random.key(0), 3, 2, branching=4)
    with pytest.raises(ValueError, match="num_terminal must be below"):
        jaxpg.exact.random_mdp(jax.random.key(0), 3, 2, num_terminal=3)


def test_gridworld_by_hand():
    """S.G over #.H with slip 0.2: states S 0, . 1, G 2, . 3, H 4."""
    mdp = jaxpg.exact.gridworld(("S.G", "#.H"), slip=0.2, goal_reward=5.0, hole_reward=-3.0, step_reward=-0.5)
    np.testing.assert_allclose(mdp.initial, [1, 0, 0, 0, 0])
    np.testing.assert_array_equal(mdp.terminal, [False, False, True, False, True])
    np.testing.assert_allclose(mdp.transition[0, 1], [0.2, 0.8, 0, 0, 0], atol=1e-7)  # Right; up and down stay.
    np.testing.assert_allclose(mdp.transition[1, 1], [0, 0.1, 0.8, 0.1, 0], atol=1e-7)  # Right; up stays, down to 3.
    np.testing.assert_allclose(mdp.transition[3, 0], [0, 0.8, 0, 0.1, 0.1], atol=1e-7)  # Up; left is a wall, right H.
    np.testing.assert_allclose(mdp.reward[1, 1], [-0.5, -0.5, 5.0, -0.5, -3.0])
    certain = jaxpg.exact.gridworld(("S.G", "#.H"), discount=0.5)
    np.testing.assert_array_equal(certain.optimal_policy()[:2], [1, 1])
    np.testing.assert_allclose(certain.optimal_values(), [0.5, 1.0, 0.0, 0.5, 0.0], atol=1e-6)
    for layout, message in ((("S.", "G"), "one length"), (("..G",), "at least one S"), (("S?G",), "characters")):
        with pytest.raises(ValueError, match=message):
            jaxpg.exact.gridworld(layout)


def test_chain_by_hand():
    mdp = jaxpg.exact.chain(3, slip=0.1, small=2.0, large=10.0)
    np.testing.assert_allclose(mdp.transition[2], [[0.1, 0, 0.9], [0.9, 0, 0.1]], atol=1e-7)
    np.testing.assert_allclose(mdp.transition[0], [[0.1, 0.9, 0], [0.9, 0.1, 0]], atol=1e-7)
    np.testing.assert_allclose(mdp.reward[0, 0], [2, 0, 0])
    np.testing.assert_allclose(mdp.reward[2, 1, [0, 2]], [2, 10])


def test_two_state_chain_rewards():
    """Where the last state follows the first, going on earns nothing until it is the last state's own."""
    mdp = jaxpg.exact.chain(2, slip=0.0)
    np.testing.assert_allclose(mdp.reward[0, 0], [2, 0])
    np.testing.assert_allclose(mdp.reward[1, 0], [2, 10])


@pytest.mark.slow
def test_bandits(x64):
    means = [0.2, 0.7, 0.5]
    plain, bernoulli = jaxpg.exact.bandit(means), jaxpg.exact.bandit(means, bernoulli=True)
    logits = np.array([[0.3, -0.2, 0.1]])
    pi = np.exp(logits[0]) / np.exp(logits[0]).sum()
    for mdp in (plain, bernoulli):
        policy, params = tabular(mdp.environment()), jnp.asarray(np.repeat(logits, mdp.num_states, 0))
        np.testing.assert_allclose(mdp.objective(policy, params), pi @ means, rtol=1e-12)
        np.testing.assert_allclose(mdp.policy_gradient(policy, params)[0], pi * (means - pi @ means), rtol=1e-12)
    # The Bernoulli reward's own variance adds E[r² − mean²] ψψᵀ.
    policy = tabular(plain.environment())
    extra = sum(pi[a] * means[a] * (1 - means[a]) * np.outer(np.eye(3)[a] - pi, np.eye(3)[a] - pi) for a in range(3))
    got = bernoulli.covariance(tabular(bernoulli.environment()), jnp.asarray(np.repeat(logits, 3, 0)))[:3, :3]
    np.testing.assert_allclose(got - plain.covariance(policy, jnp.asarray(logits)), extra, atol=1e-12)
    with pytest.raises(ValueError, match="means must be probabilities"):
        jaxpg.exact.bandit([2.0], bernoulli=True)


def test_cliff_is_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make("CliffWalking-v1")
    assert_same(jaxpg.exact.from_environment(env), jaxpg.exact.cliff())
    np.testing.assert_allclose(jaxpg.exact.cliff(discount=1.0).optimal_values()[36], -13.0, atol=1e-4)


@pytest.mark.parametrize("map_name", ["4x4", "8x8"])
@pytest.mark.parametrize("is_slippery", [True, False])
def test_frozen_lake_is_the_same_from_gymnax_gymnasium_and_text(map_name, is_slippery):
    """gymnax's actions are left, down, right, up, as gymnasium's; the text gridworld's are up, right, down, left."""
    gymnasium = pytest.importorskip("gymnasium")
    from gymnax.environments.misc.frozen_lake import FrozenLake

    table = jaxpg.exact.from_environment(gymnasium.make("FrozenLake-v1", map_name=map_name, is_slippery=is_slippery))
    read = jaxpg.exact.from_environment(FrozenLake(map_name=map_name, is_slippery=is_slippery))
    assert_same(read, table)
    rows = [
        "".join(c.decode() for c in row).replace("F", ".")
        for row in gymnasium.make("FrozenLake-v1", map_name=map_name).unwrapped.desc
    ]
    ours = jaxpg.exact.gridworld(rows, slip=2 / 3 if is_slippery else 0.0)
    order = jnp.array([3, 2, 1, 0])  # left, down, right, up
    reordered = jaxpg.exact.FiniteMDP(
        ours.transition[:, order], ours.reward[:, order], ours.initial, terminal=ours.terminal
    )
    assert_same(read, reordered)


def test_frozen_lake_transitions_match_the_environments_own_steps():
    """20,000 of its steps from each of some states and actions, to 4.5 standard deviations in every cell."""
    from gymnax.environments.misc.frozen_lake import FrozenLake

    env = FrozenLake(success_rate=0.7)
    mdp = jaxpg.exact.from_environment(env)
    _, state = env.reset_env(jax.random.key(0), env.default_params)
    keys = jax.random.split(jax.random.key(1), 20_000)
    for position, action in ((0, 1), (6, 2), (14, 2), (14, 3), (10, 0)):
        _, following, reward, done, _ = jax.vmap(
            lambda key, p=position, a=action: env.step_env(
                key, state.replace(position=jnp.int32(p)), a, env.default_params
            )
        )(keys)
        p = np.asarray(mdp.transition[position, action], np.float64)
        counts = np.bincount(following.position, minlength=16)
        assert np.all(np.abs(counts - 20_000 * p) <= 4.5 * np.sqrt(20_000 * p * (1 - p)) + 1e-2)
        np.testing.assert_array_equal(done, np.asarray(mdp.terminal)[following.position])
        np.testing.assert_allclose(reward, mdp.reward[position, action][following.position])


def test_from_environment_refuses_what_it_cannot_read():
    with pytest.raises(TypeError, match="env must be a gymnasium environment with a table"):
        jaxpg.exact.from_environment(jaxpg.exact.chain().environment(max_steps=3))

    class Twice:
        """Two rewards for one move."""

        P = {0: {0: [(0.5, 0, 1.0, False), (0.5, 0, 2.0, False)]}}
        initial_state_distrib = np.ones(1)

        @property
        def unwrapped(self):
            return self

    with pytest.raises(ValueError, match="different rewards for the same move"):
        jaxpg.exact.from_environment(Twice())


def test_enumerated_states_of_a_deterministic_environment():
    """A gridworld without slip, found by search: the reachable part of the same MDP, and the same optimal return."""
    mdp = jaxpg.exact.gridworld(discount=0.9)
    found, states = jaxpg.exact.enumerate_states(mdp.environment(max_steps=100), discount=0.9)
    index = np.asarray(states.index)
    assert len(set(index.tolist())) == found.num_states == len(index)
    transition, reward, initial, terminal = as_arrays(mdp)
    ours = as_arrays(found)
    np.testing.assert_allclose(ours[0], transition[index][:, :, index], atol=1e-6)
    np.testing.assert_allclose(ours[1].sum(-1), reward.sum(-1)[index], atol=1e-6)  # One successor: Σ_s' picks it.
    np.testing.assert_array_equal(ours[3], terminal[index])
    np.testing.assert_allclose(found.initial @ found.optimal_values(), mdp.initial @ mdp.optimal_values(), rtol=1e-5)


def test_enumerated_states_of_gymnax_catch():
    """bsuite's Catch: 5 columns to fall from, equally likely; the best policy catches every ball."""
    pytest.importorskip("gymnax")
    env = jaxpg.make("Catch-bsuite")
    mdp, states = jaxpg.exact.enumerate_states(env, discount=1.0, initial="uniform", num_keys=64)
    assert (np.asarray(mdp.initial) > 0).sum() == 5
    np.testing.assert_allclose(mdp.initial @ mdp.optimal_values(), 1.0, atol=1e-6)
    assert jax.tree.leaves(states)[0].shape[0] == mdp.num_states
    with pytest.raises(ValueError, match='pass initial="uniform"'):
        jaxpg.exact.enumerate_states(env)
    with pytest.raises(ValueError, match="limit=7 states"):
        jaxpg.exact.enumerate_states(env, initial="uniform", limit=7)


def test_random_steps_are_refused():
    with pytest.raises(ValueError, match="steps are random"):
        jaxpg.exact.enumerate_states(jaxpg.exact.gridworld(slip=0.5).environment(max_steps=9))
    with pytest.raises(TypeError, match="env must be a jaxpg Environment"):
        jaxpg.exact.enumerate_states("FrozenLake")


# Optimal baselines ----------------------------------------------------------------------------------------------------


def test_optimal_constant_of_the_total_return_is_the_classic_ratio(x64):
    problem = Problem(seed=50)
    policy, params = tabular(problem.mdp().environment()), jnp.asarray(problem.logits)
    p = np.array([p for p, *_ in problem.paths])
    g = np.array([problem.scores(s, a).sum(0) for _, s, a, _ in problem.paths])
    returns = np.array([to_go(r, problem.discount)[0] for *_, r in problem.paths])
    weight = weights.total_return(problem.discount)
    best = jaxpg.exact.optimal_baseline(problem.mdp(), policy, params, weight=weight)
    np.testing.assert_allclose(best, p * returns @ (g**2).sum(1) / (p @ (g**2).sum(1)), rtol=1e-11)
    best = jaxpg.exact.optimal_baseline(problem.mdp(), policy, params, weight=weight, per_coordinate=True)
    np.testing.assert_allclose(best, p * returns @ g**2 / (p @ g**2 + 1e-300), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "weight, over",
    [
        *((weights.reward_to_go(0.8), over) for over in ("constant", "time", "state", "state_time")),
        (weights.total_return(0.8), "state_time"),
        (weights.reward_to_go(0.8, discount_states=False), "time"),
    ],
)
def test_optimal_baselines_have_the_least_variance(x64, over, weight):
    """The variance's gradient vanishes there, and 20 perturbations are all worse."""
    problem = Problem(seed=51)
    mdp = problem.mdp()
    policy, params = tabular(mdp.environment()), jnp.asarray(problem.logits)
    best = jaxpg.exact.optimal_baseline(mdp, policy, params, weight=weight, over=over)
    assert best.shape == {"constant": (), "time": (3,), "state": (3,), "state_time": (3, 3)}[over]

    @jax.jit
    def trace(b):
        table = jnp.broadcast_to({"time": b[..., None]}.get(over, b), (3, 3))
        baseline = baselines.value(lambda observation, time: table[time, observation])
        return jnp.trace(mdp.covariance(policy, params, weight=weight, baseline=baseline))

    np.testing.assert_allclose(jax.grad(trace)(best), 0.0, atol=1e-11)
    least = trace(best)
    for seed in range(20):
        assert trace(best + 0.3 * np.random.default_rng(seed).normal(size=best.shape)) > least


def test_optimal_baseline_off_policy_and_without_a_horizon(x64):
    problem = Problem(seed=52, terminal=False, discount=0.7)
    policy, params = tabular(problem.mdp().environment()), jnp.asarray(problem.logits)
    behavior = (policy, jnp.asarray(problem.behavior_logits) * 0.3)
    for mdp in (problem.mdp(), problem.mdp(horizon=None)):
        best = jaxpg.exact.optimal_baseline(mdp, policy, params, behavior=behavior)

        def trace(b, mdp=mdp):
            return jnp.trace(mdp.covariance(policy, params, baseline=baselines.constant(b), behavior=behavior))

        np.testing.assert_allclose(jax.grad(trace)(best), 0.0, atol=1e-10)
    with pytest.raises(ValueError, match="needs a finite horizon"):
        jaxpg.exact.optimal_baseline(problem.mdp(horizon=None), policy, params, over="time")
    with pytest.raises(ValueError, match="over must be one of"):
        jaxpg.exact.optimal_baseline(problem.mdp(), policy, params, over="action")
