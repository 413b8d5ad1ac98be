"""DiCE: derivatives of its surrogate against exact ones, by enumeration, by sampling, and for two players."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import audit, problems, stack
from enumeration import rewards_to_go, softmax
from exact_problems import Problem, gae, to_go
from scipy import stats

import jaxpg
from jaxpg import baselines, dice, weights
from jaxpg.lanes import Trajectory

# --- Every trajectory of small MDPs -----------------------------------------------------------------------------------

GAMMA = 0.8  # Of all `Problem`s.
JUNK = {"state": 0, "action": 1, "reward": 1000.0, "terminated": True, "truncated": True, "time": 1, "valid": False}


def pack(paths, horizon, num_lanes, cut=False):
    """Paths (probability, states, actions, rewards) as a `Trajectory`, back to back in the lanes.

    Rows that are not steps hold junk. With `cut`, episodes of full length are truncated and followed by a row with
    their final observation, as `rollout.collect` leaves them.
    """
    lanes = [[] for _ in range(num_lanes)]
    for i, (_, states, actions, rewards) in enumerate(paths):
        lane = min(lanes, key=len)
        for t, (s, a, r) in enumerate(zip(states, actions, rewards, strict=False)):
            last = t == len(actions) - 1
            truncated = last and cut and len(actions) == horizon
            step = {"state": s, "action": a, "reward": r, "time": t, "valid": True, "episode": i}
            lane.append(step | {"terminated": last and not truncated, "truncated": truncated})
        if lane[-1]["truncated"]:
            lane.append(JUNK | {"state": states[-1], "time": len(actions), "episode": i})
    rows = max(map(len, lanes))
    lanes = [lane + [JUNK | {"episode": lane[-1]["episode"]}] * (rows - len(lane)) for lane in lanes]
    column = {name: np.array([[lane[row][name] for lane in lanes] for row in range(rows)]) for name in lanes[0][0]}
    column = {name: jnp.asarray(x.astype(np.int32) if x.dtype == np.int64 else x) for name, x in column.items()}
    return Trajectory(observation=column.pop("state"), log_prob=None, value=None, carry=None, **column)


def test_packing_leaves_several_episodes_in_a_lane():
    problem = Problem(0)
    trajectory = pack(problem.paths, 3, 4, cut=True)
    assert np.sum(trajectory.valid) == sum(len(actions) for _, _, actions, _ in problem.paths)
    assert (np.sum(np.asarray(trajectory.valid) & (np.asarray(trajectory.time) == 0), axis=0) > 20).all()
    assert len(set(np.asarray(trajectory.time)[np.asarray(trajectory.terminated & trajectory.valid)].tolist())) > 1


class Tables:
    """Several problems whose trajectories are the same but for rewards and probabilities, stacked for `vmap`."""

    def __init__(self, num_problems=3, num_lanes=7, cut=False, **options):
        self.problems = [Problem(seed, **options) for seed in range(num_problems)]
        packed = [pack(p.paths, p.horizon, num_lanes, cut) for p in self.problems]
        self.trajectory = packed[0]
        self.arrays = {
            "reward_row": jnp.stack([t.reward for t in packed]),
            "probability": jnp.asarray([[path[0] for path in p.paths] for p in self.problems]),
            "logits": jnp.asarray([p.logits for p in self.problems]),
            "wrong": jnp.asarray([p.value for p in self.problems]),
            "transition": jnp.asarray([p.transition for p in self.problems]),
            "reward": jnp.asarray([p.reward for p in self.problems]),
            "initial": jnp.asarray([p.initial for p in self.problems]),
        }

    def map(self, function):
        """`function(mdp, policy, arrays, trajectory)` for all problems."""

        def one(arrays):
            mdp = jaxpg.exact.FiniteMDP(
                arrays["transition"],
                arrays["reward"],
                arrays["initial"],
                discount=GAMMA,
                horizon=self.problems[0].horizon,
                terminal=self.problems[0].terminal,
            )
            policy = jaxpg.policies.tabular(mdp.environment())
            return function(mdp, policy, arrays, self.trajectory._replace(reward=arrays["reward_row"]))

        return jax.jit(jax.vmap(one))(self.arrays)


def derivatives(function, params, order=3):
    """The value, the gradient, the Hessian, … of a function of one array."""
    found = [function(params)]
    for _ in range(order):
        function = jax.jacrev(function) if len(found) == 1 else jax.jacfwd(function)
        found.append(function(params))
    return found


def exact_values(mdp, policy, arrays):
    """V(s, t) of the policy that acts, which is what makes GAE unbiased, as a function."""
    table = mdp.values(policy, arrays["logits"])
    table = jnp.concatenate([table, jnp.zeros_like(table[:1])])
    return lambda s, t: table[t, s]


def wrong_values(mdp, policy, arrays):
    return lambda s, t: arrays["wrong"][t, s]


RIGHT, WRONG = exact_values, wrong_values
UNBIASED = {  # Name: value function, weight from it, baseline from it.
    "DiCE": (WRONG, lambda v: weights.reward_to_go(GAMMA), lambda v: baselines.none()),
    "a baseline of states": (WRONG, lambda v: weights.reward_to_go(GAMMA), baselines.value),
    "a baseline of times": (WRONG, lambda v: weights.reward_to_go(GAMMA), lambda v: baselines.time([1.0, -2.0, 3.0])),
    "Loaded DiCE, returns, any V": (WRONG, lambda v: weights.gae(GAMMA, 1.0, value=v), lambda v: baselines.none()),
    "Loaded DiCE, GAE, exact V": (RIGHT, lambda v: weights.gae(GAMMA, 0.6, value=v), lambda v: baselines.none()),
    "Loaded DiCE, TD residual, exact V": (
        RIGHT, lambda v: weights.td_residual(GAMMA, value=v), lambda v: baselines.constant(0.4)),
}  # fmt: skip


def errors(case, order, tables=None, **options):
    """The largest error of each derivative, relative to the size of what it should be."""
    values, weight, baseline = UNBIASED[case]

    def one(mdp, policy, arrays, trajectory):
        v = values(mdp, policy, arrays)
        found = lambda logits: dice.surrogate(  # noqa: E731
            trajectory, policy, logits, weight(v), baseline(v), arrays["probability"], **options
        )
        want = lambda logits: mdp.objective(policy, logits)  # noqa: E731
        return derivatives(found, arrays["logits"], order), derivatives(want, arrays["logits"], order)

    found, want = (tables or Tables()).map(one)
    return [float(jnp.abs(f - w).max() / jnp.abs(w).max()) for f, w in zip(found, want, strict=True)]


SLOW = ("a baseline of times", "Loaded DiCE, TD residual, exact V")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in UNBIASED])
def test_every_order_is_exact(case, x64):
    """Value, gradient, Hessian (and for two all third derivatives) from every trajectory with its probability."""
    third = case in ("DiCE", "Loaded DiCE, GAE, exact V")
    assert max(errors(case, order=3 if third else 2)) < 1e-10


def test_a_truncated_episode_goes_on_with_its_final_observations_value(x64):
    """J is then E[Σ γ^t r_t + γ^H V(s_H)], for any V: differentiated through the trajectories' probabilities."""
    tables = Tables(cut=True)
    paths = tables.problems[0].paths
    cut = np.array([len(actions) == 3 for _, _, actions, _ in paths])
    final = np.array([states[-1] for _, states, _, _ in paths])

    def one(mdp, policy, arrays, trajectory):
        valid, episode = trajectory.valid, trajectory.episode
        returns = jnp.zeros(len(paths)).at[episode].add(jnp.where(valid, GAMMA**trajectory.time * trajectory.reward, 0))
        returns = returns + GAMMA**3 * jnp.where(cut, arrays["wrong"][3, final], 0.0)
        start = jax.nn.log_softmax(arrays["logits"])[trajectory.observation, trajectory.action]

        def want(logits):
            log_ratio = jax.nn.log_softmax(logits)[trajectory.observation, trajectory.action] - start
            log_ratio = jnp.zeros(len(paths)).at[episode].add(jnp.where(valid, log_ratio, 0.0))
            return jnp.sum(arrays["probability"] * jnp.exp(log_ratio) * returns)

        weight = weights.gae(GAMMA, 1.0, value=wrong_values(mdp, policy, arrays))
        found = lambda p: dice.surrogate(trajectory, policy, p, weight, None, arrays["probability"])  # noqa: E731
        return derivatives(found, arrays["logits"], 2)[1:], derivatives(want, arrays["logits"], 2)[1:]

    for found, want in zip(*tables.map(one), strict=True):
        np.testing.assert_allclose(found, want, atol=1e-12)


@pytest.mark.slow
def test_leave_one_out_is_exact_over_all_pairs(x64):
    """Episodes 2k and 2k + 1 are a pair, with the probability of both: groups of two give each the other's return."""
    problem = Problem(3, horizon=2, num_states=2)
    pairs = [(p * q / 2, one, other) for p, *one in problem.paths for q, *other in problem.paths]
    paths = [(p, *half) for p, one, other in pairs for half in (one, other)]
    mdp = problem.mdp()
    policy = jaxpg.policies.tabular(mdp.environment())
    trajectory, probability = pack(paths, 2, 5), np.array([p for p, *_ in paths])
    logits = jnp.asarray(problem.logits)
    for baseline in (baselines.leave_one_out(group_size=2), baselines.time(group_size=2)):
        surrogate = functools.partial(
            dice.surrogate, trajectory, policy, weight=weights.reward_to_go(GAMMA), probabilities=probability
        )
        found = jax.jit(lambda p, b=baseline, f=surrogate: derivatives(lambda q: f(q, baseline=b), p, 2))(logits)
        for f, w in zip(found, derivatives(lambda p: mdp.objective(policy, p), logits, 2), strict=True):
            np.testing.assert_allclose(f, w, atol=1e-10)


def test_it_is_the_objective_of_the_paper(x64):
    """Σ_t γ^t □(Σ_{k≤t} log π_k) r_t, written down for padded episodes: the same Hessian for each set of episodes."""
    problem = Problem(1)
    paths = [problem.paths[i] for i in (5, 0, 17, 3, 3, 90, 41)]
    states, actions, rewards = (np.zeros((7, 3), t) for t in (int, int, float))
    for i, (_, s, a, r) in enumerate(paths):
        states[i, : len(a)], actions[i, : len(a)], rewards[i, : len(a)] = s[: len(a)], a, r

    def padded(logits):
        cumulative = jnp.cumsum(jax.nn.log_softmax(logits)[states, actions], axis=1)
        return jnp.mean(jnp.sum(GAMMA ** np.arange(3) * dice.magic_box(cumulative) * rewards, axis=1))

    policy = jaxpg.policies.tabular(problem.mdp().environment())
    trajectory, logits = pack(paths, 3, 2), jnp.asarray(problem.logits)
    packed = lambda p: dice.surrogate(trajectory, policy, p, weights.reward_to_go(GAMMA))  # noqa: E731
    for found, want in zip(
        *(jax.jit(lambda p, f=f: derivatives(f, p, 2))(logits) for f in (packed, padded)), strict=True
    ):
        np.testing.assert_allclose(found, want, atol=1e-12)


# --- λ < 1, and the policy gradient -----------------------------------------------------------------------------------


def by_definition(scores, curvatures, advantages, discount, lambda_):
    """One episode's gradient [P] and Hessian [P, P] from ψ_t, ∇² log π_t and Ψ_t − b_t, written out."""
    gradient, hessian = np.zeros(len(scores[0])), np.zeros_like(curvatures[0])
    for t, (psi, curvature, advantage) in enumerate(zip(scores, curvatures, advantages, strict=True)):
        earlier = np.sum([lambda_ ** (t - k) * scores[k] for k in range(t)], axis=0) * np.ones_like(psi)
        crossed = np.outer(earlier, psi)
        gradient = gradient + discount**t * advantage * psi
        hessian = hessian + discount**t * advantage * (np.outer(psi, psi) + curvature + crossed + crossed.T)
    return gradient, hessian


def curvature(policy, state):
    """∇² log π(a | s) for the logits in row-major order, the same for all actions."""
    size = policy.size
    out = np.zeros((size, size))
    place = slice(state * policy.shape[1], (state + 1) * policy.shape[1])
    out[place, place] = np.outer(policy[state], policy[state]) - np.diag(policy[state])
    return out


@pytest.mark.parametrize("kind", ["returns", "gae"])
def test_lambda_weighs_what_steps_have_in_common(kind, x64):
    """The gradient does not depend on λ; in the Hessian cross terms between steps k apart count λ^k, so it is biased.
    With GAE and a wrong V both have the known bias of that advantage."""
    tables, lambdas = Tables(num_problems=2), jnp.array([0.0, 0.5, 1.0])

    def one(mdp, policy, arrays, trajectory):
        v = wrong_values(mdp, policy, arrays)
        weight = weights.gae(GAMMA, 0.6, value=v) if kind == "gae" else weights.reward_to_go(GAMMA)

        def of(lambda_):
            surrogate = lambda p: dice.surrogate(  # noqa: E731
                trajectory, policy, p, weight, probabilities=arrays["probability"], lambda_=lambda_
            )
            return derivatives(surrogate, arrays["logits"], 2)[1:]

        return jax.vmap(of)(lambdas), (
            mdp.policy_gradient(policy, arrays["logits"]),
            mdp.hessian(policy, arrays["logits"]),
        )

    (gradients, hessians), (true_gradient, true_hessian) = tables.map(one)
    for i, problem in enumerate(tables.problems):
        for j, lambda_ in enumerate((0.0, 0.5, 1.0)):
            gradient, hessian = np.zeros(6), np.zeros((6, 6))
            for p, states, actions, rewards in problem.paths:
                values = [problem.value[t, s] for t, s in enumerate(states)]
                psi = gae(rewards, values, GAMMA, 0.6) if kind == "gae" else to_go(rewards, GAMMA)
                curved = [curvature(problem.pi, s) for s in states[: len(actions)]]
                g, h = by_definition(problem.scores(states, actions), curved, psi, GAMMA, lambda_)
                gradient, hessian = gradient + p * g, hessian + p * h
            np.testing.assert_allclose(gradients[i, j].ravel(), gradient, atol=1e-12)
            np.testing.assert_allclose(hessians[i, j].reshape(6, 6), hessian, atol=1e-12)
            unbiased = kind == "returns"
            assert (np.abs(gradients[i, j] - true_gradient[i]).max() < 1e-12) == unbiased
            assert (np.abs(hessians[i, j].reshape(6, 6) - true_hessian[i]).max() < 1e-12) == (unbiased and lambda_ == 1)
            assert unbiased or np.abs(gradients[i, j] - true_gradient[i]).max() > 1e-3
            assert (unbiased and lambda_ == 1) or np.abs(hessians[i, j].reshape(6, 6) - true_hessian[i]).max() > 1e-3


@pytest.mark.parametrize(
    ("weight", "baseline"),
    [
        (lambda v: weights.reward_to_go(GAMMA), lambda v: baselines.leave_one_out(group_size=5)),
        (lambda v: weights.gae(GAMMA, 0.7, value=v), lambda v: baselines.value(lambda s: 1.0 + s)),
        (lambda v: weights.td_residual(GAMMA, value=v, discount_states=False), lambda v: baselines.time(group_size=5)),
    ],
    ids=["returns", "gae", "td"],
)
def test_gradient_is_that_of_gradient_from(weight, baseline, x64):
    """For each set of episodes, at any λ: so the baseline is subtracted, and truncated episodes bootstrap alike."""
    problem = Problem(2)
    trajectory = pack(problem.paths[:101], 3, 4, cut=True)
    policy, logits = jaxpg.policies.tabular(problem.mdp().environment()), jnp.asarray(problem.logits)
    wrong = jnp.asarray(problem.value)

    w, b = weight(lambda s, t: wrong[t, s]), baseline(None)
    estimate = jaxpg.gradient_from(trajectory, policy, logits, w, b)
    surrogate = lambda p: dice.surrogate(trajectory, policy, p, w, b, lambda_=0.3)  # noqa: E731
    found, gradient = jax.jit(jax.value_and_grad(surrogate))(logits)
    np.testing.assert_allclose(gradient, estimate.gradient, atol=1e-12)
    np.testing.assert_allclose(found, estimate.objective, rtol=1e-12)


def test_a_value_function_that_shares_the_parameters_is_held_constant(x64):
    """What it would add to a derivative shows from the second order on only."""
    problem = Problem(2)
    trajectory, logits = pack(problem.paths[:31], 3, 4, cut=True), jnp.asarray(problem.logits)
    policy = jaxpg.policies.tabular(problem.mdp().environment())

    def surrogate(params, shared):
        value = lambda s: jnp.sum(shared[s] ** 2)  # noqa: E731
        return dice.surrogate(
            trajectory, policy, params, weights.gae(GAMMA, 0.7, value=value), baselines.value(lambda s: shared[s, 0])
        )

    hessians = jax.jit(lambda p: [jax.hessian(f)(p) for f in (lambda q: surrogate(q, q), lambda q: surrogate(q, p))])
    np.testing.assert_allclose(*hessians(logits), atol=1e-12)


# --- Mistakes that the enumeration must see ---------------------------------------------------------------------------


def without_restart(log_prob, time, lambda_):
    with_action = jnp.cumsum(log_prob, axis=0)
    return with_action, with_action - log_prob


MISTAKES = {
    "cumulative sums run on into the next episode": lambda patch: patch.setattr(dice, "_cumulative", without_restart),
    "no stop_gradient": lambda patch: patch.setattr(dice, "magic_box", jnp.exp),
    "a surrogate that is good for one derivative": lambda patch: patch.setattr(
        dice, "magic_box", lambda x: 1.0 + x - jax.lax.stop_gradient(x)
    ),
    "no γ^t": lambda patch: patch.setitem(
        UNBIASED, "DiCE", (WRONG, lambda v: weights.reward_to_go(GAMMA, discount_states=False), UNBIASED["DiCE"][2])
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake, monkeypatch, x64):
    MISTAKES[mistake](monkeypatch)
    assert max(errors("DiCE", order=2, tables=Tables(num_problems=1))) > 1e-3


# --- Sampled ----------------------------------------------------------------------------------------------------------

REPLICATES = 2500
UPPER = np.triu_indices(6)


def sampled(items, values, num_episodes, lambdas):
    """Gradients and upper triangles of Hessians, [K, R, 6 + 21] for each λ, from episodes back to back in two lanes."""
    arrays, logits = stack(items)

    def of_mdp(arrays, logits, values, key, lambda_):
        env = jaxpg.exact.FiniteMDP(**arrays, discount=GAMMA, horizon=3).environment()
        objective = dice.objective(
            env,
            jaxpg.policies.tabular(env),
            num_episodes=num_episodes,
            num_lanes=2,
            weight=weights.reward_to_go(GAMMA),
            baseline=baselines.value(lambda s: values[s]),
            lambda_=lambda_,
        )

        def estimate(key):
            _, gradient, hessian = derivatives(lambda p: objective(key, p), logits, 2)
            return jnp.concatenate([gradient.ravel(), hessian.reshape(6, 6)[UPPER]])

        return jax.vmap(estimate)(jax.random.split(key, REPLICATES))

    keys = jax.random.split(jax.random.key(11), len(items))
    run = jax.jit(jax.vmap(of_mdp, (0, 0, 0, 0, None)))
    return [np.asarray(run(arrays, logits, jnp.asarray(values), keys, x), np.float64) for x in lambdas]


def exact_moments(problem, values, num_episodes):
    """Exact mean and covariance of the unbiased estimate, from the enumerated trajectories in plain numpy."""
    mdp, paths = problem.mdp, problem.trajectories
    pi = softmax(problem.logits)
    advantages = rewards_to_go(mdp, paths.rewards) - values[paths.states[:, :-1]]
    terms = []
    for i, n in enumerate(paths.length):
        curved = [curvature(pi, s) for s in paths.states[i, :n]]
        g, h = by_definition(paths.scores[i, :n], curved, advantages[i, :n], GAMMA, 1.0)
        terms.append(np.concatenate([g, h[UPPER]]))
    terms = np.array(terms)
    mean = paths.probability @ terms
    return mean, (terms - mean).T @ ((terms - mean) * paths.probability[:, None]) / num_episodes


@pytest.mark.slow
def test_sampled_gradients_and_hessians(record_property):
    """A χ² audit with the exact covariance over 12 random MDPs; it must reject the Hessian that λ = 1/2 biases."""
    items = problems(seed=4, num_mdps=12)
    values = np.random.default_rng(5).normal(size=(12, 3))
    moments = [exact_moments(problem, value, 6) for problem, value in zip(items, values, strict=True)]
    means, covariances = [mean for mean, _ in moments], [covariance for _, covariance in moments]
    right, decayed = (audit(found, means, covariances) for found in sampled(items, values, 6, (1.0, 0.5)))
    record_property("detectable relative bias", right.detectable)
    assert right.passed, right
    assert right.detectable < 0.05, right.detectable
    assert not decayed.passed, decayed


# --- Two players: the iterated prisoner's dilemma ---------------------------------------------------------------------

# Actions 2 a_1 + a_2, 0 to cooperate: CC, CD, DC, DD. States: the start, then the last joint action.
PAYOFFS = {"player_1": np.array([-1.0, -3.0, 0.0, -2.0]), "player_2": np.array([-1.0, 0.0, -3.0, -2.0])}


def dilemma(player, horizon, discount):
    transition = np.zeros((5, 4, 5))
    transition[:, np.arange(4), 1 + np.arange(4)] = 1.0
    reward = np.broadcast_to(PAYOFFS[player], (5, 4))
    return jaxpg.exact.FiniteMDP(transition, reward, np.eye(5)[0], discount=discount, horizon=horizon)


def both_players():
    """Memory-one strategies: each player cooperates with probability σ(logit of the state)."""
    from jaxpg.policies.distributions import Categorical

    def apply(params, state):
        one, two = (
            jnp.stack([jax.nn.log_sigmoid(params[name][state]), jax.nn.log_sigmoid(-params[name][state])])
            for name in ("player_1", "player_2")
        )
        return Categorical((one[:, None] + two).ravel())

    return jaxpg.Policy(init=lambda key: {"player_1": jnp.zeros(5), "player_2": jnp.zeros(5)}, apply=apply)


def closed_form(player, theta, horizon, discount):
    """The player's return in plain numpy: linear algebra over the five states. `theta` [10]: both players' logits."""
    cooperate = 1.0 / (1.0 + np.exp(-np.asarray(theta, np.float64).reshape(2, 5)))
    joint = np.stack([cooperate[0] * cooperate[1], cooperate[0] * (1 - cooperate[1]),
                      (1 - cooperate[0]) * cooperate[1], (1 - cooperate[0]) * (1 - cooperate[1])], axis=1)  # fmt: skip
    step = discount * np.concatenate([np.zeros((5, 1)), joint], axis=1)
    values = np.linalg.solve(np.eye(5) - step, joint @ PAYOFFS[player])
    if horizon is not None:
        values = values - np.linalg.matrix_power(step, horizon) @ values
    return values[0]


def finite_differences(function, theta, h=1e-3):
    """Gradient and Hessian by central differences of fourth order: errors below 1e-9."""
    size = len(theta)
    shift = np.eye(size) * h
    stencil = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))
    derivative = lambda f, i: lambda x: sum(c * f(x + k * shift[i]) for k, c in stencil) / h  # noqa: E731
    gradient = np.array([derivative(function, i)(theta) for i in range(size)])
    hessian = [[derivative(derivative(function, i), j)(theta) for j in range(size)] for i in range(size)]
    return gradient, np.array(hessian)


THETA = np.array([0.5, 1.0, -0.5, 0.3, -1.0, -0.2, 0.8, 0.4, -0.6, 0.1])


def as_params(theta):
    return {"player_1": theta[:5], "player_2": theta[5:]}


@pytest.mark.parametrize("player", ["player_1", pytest.param("player_2", marks=pytest.mark.slow)])
def test_prisoners_dilemma_enumerated(player, x64):
    """Gradient and Hessian of each player's return in both players' parameters, from all 256 games of four rounds."""
    mdp, policy = dilemma(player, 4, 0.9), both_players()
    paths = jaxpg.exact.trajectories(mdp)
    theta = jnp.asarray(THETA)
    log_pi = jax.vmap(lambda s: policy.apply(as_params(theta), s).log_prob(jnp.arange(4)))(jnp.arange(5))
    probability = np.exp(np.asarray(log_pi)[paths.state, paths.action].sum(0))
    games = zip(probability, *(np.asarray(x).T for x in (paths.state, paths.action, paths.reward)), strict=True)
    trajectory = pack(list(games), 4, 6)
    surrogate = jax.jit(lambda theta: derivatives(
        lambda x: dice.surrogate(trajectory, policy, as_params(x), weights.reward_to_go(0.9), None, probability),
        theta, 2))  # fmt: skip
    value, gradient, hessian = surrogate(theta)
    want = lambda x: closed_form(player, x, 4, 0.9)  # noqa: E731
    np.testing.assert_allclose(value, want(THETA), rtol=1e-12)
    for found, exact in zip((gradient, hessian), finite_differences(want, THETA), strict=True):
        np.testing.assert_allclose(found, exact, atol=1e-8)
    assert np.abs(hessian[:5, 5:]).max() > 0.05  # What one player's learning does to the other's gradient.


@pytest.mark.slow
@pytest.mark.exhaustive
def test_prisoners_dilemma_without_end_sampled():
    """Games that end each round with probability 1 − γ, against the linear solve for γ: Hotelling's T² over gradient
    and Hessian, with the covariance of the replicates."""
    discount, replicates = 0.75, 4000
    mdp, policy = dilemma("player_1", None, discount), both_players()
    env = mdp.environment(geometric_stopping=True, max_steps=48)  # Longer games: 1e-6 of them.
    values = mdp.values(policy, as_params(jnp.asarray(THETA)))
    objective = dice.objective(
        env, policy, num_episodes=24, num_lanes=6, weight=weights.reward_to_go(1.0),
        baseline=baselines.value(lambda s: values[s]),
    )  # fmt: skip
    # The first round is played once: there ψ² + ∇² log π = (1 − 2p) ψ for a logit with p = σ(logit), so two entries on
    # the diagonal are multiples of the gradient's and have no spread of their own.
    upper = tuple(np.array([(i, j) for i in range(10) for j in range(i, 10) if not i == j in (0, 5)]).T)

    def estimate(key):
        _, gradient, hessian = derivatives(lambda x: objective(key, as_params(x)), jnp.asarray(THETA, jnp.float32), 2)
        return jnp.concatenate([gradient, hessian[upper]])

    keys = jax.random.split(jax.random.key(3), replicates)
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(estimate, keys, batch_size=500))(keys), np.float64)
    gradient, hessian = finite_differences(lambda x: closed_form("player_1", x, None, discount), THETA)
    exact = np.concatenate([gradient, hessian[upper]])
    inverse = np.linalg.inv(np.cov(found.T))
    size = len(exact)
    scale = replicates * (replicates - size) / (size * (replicates - 1))

    def p_value(mean):
        difference = found.mean(0) - mean
        return stats.f.sf(scale * difference @ inverse @ difference, size, replicates - size)

    assert p_value(exact) > 1e-3
    assert p_value(1.1 * exact) < 1e-6  # It would see a tenth.
    between_players = np.where((upper[0] < 5) & (upper[1] >= 5), 0.0, 1.0)
    assert p_value(np.concatenate([gradient, between_players * hessian[upper]])) < 1e-6


# --- As a function ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_objective_under_transformations(key):
    """Its gradient is `policy_gradient`'s, also where episodes are cut; a Hessian-vector product; keys are mapped."""
    env = Problem(0).mdp().environment(max_steps=2)
    policy, params = jaxpg.policies.tabular(env), jnp.asarray(Problem(0).logits, jnp.float32)
    weight, baseline = weights.gae(0.95, 0.8, value=lambda s: jnp.cos(s) + 3.0), baselines.constant(0.5)
    options = {"num_episodes": 10, "weight": weight, "baseline": baseline}
    objective = dice.objective(env, policy, num_lanes=3, **options)
    estimate = jaxpg.policy_gradient(env, policy, **options)(key, params)
    found, gradient = jax.value_and_grad(objective, argnums=1)(key, params)
    np.testing.assert_allclose(found, estimate.objective, rtol=1e-5)
    np.testing.assert_allclose(gradient, estimate.gradient, rtol=1e-4, atol=1e-5)

    def product(key, vector):
        return jax.jvp(lambda p: jax.grad(objective, argnums=1)(key, p), (params,), (vector,))[1]

    vector = jnp.arange(6.0).reshape(3, 2)
    hessian = jax.hessian(objective, argnums=1)(key, params).reshape(6, 6)
    mapped = jax.jit(jax.vmap(product, (0, None)))(jnp.stack([jax.random.key(7), key]), vector)
    np.testing.assert_allclose(mapped[1].ravel(), hessian @ vector.ravel(), rtol=1e-4, atol=1e-4)
    assert np.abs(mapped[0] - mapped[1]).max() > 1e-2


def test_rows_that_are_not_steps_do_not_reach_the_derivatives():
    """Where no step was played, log π of what lies there may be infinite."""
    trajectory = pack(Problem(0).paths[:9], 3, 2)
    trajectory = trajectory._replace(
        observation=jnp.where(trajectory.valid, trajectory.observation + 1.0, 0.0), action=trajectory.action
    )
    from jaxpg.policies.distributions import Categorical

    policy = jaxpg.Policy(
        init=lambda key: jnp.ones(2), apply=lambda params, o: Categorical(params * jnp.sqrt(jnp.log(o + 0.5)))
    )
    found = jax.jit(jax.hessian(lambda p: dice.surrogate(trajectory, policy, p)))(jnp.ones(2))
    assert not trajectory.valid.all() and np.isfinite(found).all()


def stored(problem=None, trajectory=None, **options):
    problem = problem or Problem(0)
    policy = options.pop("policy", None) or jaxpg.policies.tabular(problem.mdp().environment())
    trajectory = pack(problem.paths[:5], 3, 2) if trajectory is None else trajectory
    return dice.surrogate(trajectory, policy, jnp.zeros((3, 2)), **options)


def built(env: Any = None, policy: Any = None, **options: Any):
    env = env or jaxpg.make("CartPole-v1")
    arguments: dict[str, Any] = {"num_episodes": 4} | options
    return dice.objective(env, policy or jaxpg.policies.mlp(env, (4,)), **arguments)


def test_ids_and_times_may_be_64_bits_wide(x64, recwarn):
    """As arrays made with 64-bit integers on are."""
    narrow = pack(Problem(0).paths[:5], 3, 2)
    wide = narrow._replace(episode=narrow.episode.astype(jnp.int64), time=narrow.time.astype(jnp.int64))
    assert stored(trajectory=wide) == stored(trajectory=narrow)
    assert not [w for w in recwarn if issubclass(w.category, FutureWarning)]


BAD = {
    "a lambda above 1": (ValueError, "lambda_", lambda: stored(lambda_=1.5)),
    "a lambda in words": (TypeError, "lambda_", lambda: built(lambda_="1")),
    "a number for a weight": (TypeError, "weight", lambda: stored(weight=0.9)),
    "a total return": (ValueError, "weight", lambda: stored(weight=weights.total_return(0.9))),
    "a function for a baseline": (TypeError, "baseline", lambda: built(baseline=lambda s: 0.0)),
    "a function for a policy": (TypeError, "policy", lambda: stored(policy=lambda p, o: 0)),
    "a dictionary for a trajectory": (TypeError, "trajectory", lambda: stored(trajectory={})),
    "a flat trajectory": (ValueError, "trajectory", lambda: stored(
        trajectory=jax.tree.map(lambda x: x[:, 0], pack(Problem(0).paths[:5], 3, 2)))),
    "episodes that are not whole": (ValueError, "whole", lambda: stored(
        trajectory=jax.tree.map(lambda x: x[1:], pack(Problem(0).paths[:5], 3, 2)))),
    "too few probabilities": (ValueError, "probabilities", lambda: stored(probabilities=np.ones(3), num_episodes=5)),
    "a fitted baseline": (ValueError, "baseline", lambda: built(baseline=baselines.optimal())),
    "no other episode": (ValueError, "num_episodes", lambda: built(num_episodes=1,
                                                                   baseline=baselines.leave_one_out())),
    "no episodes": (ValueError, "num_episodes", lambda: built(num_episodes=0)),
    "no lanes": (ValueError, "num_lanes", lambda: built(num_lanes=0)),
    "a name for an environment": (TypeError, "env", lambda: built(env="CartPole-v1", policy="mlp")),
    "a seed for a key": (TypeError, "key", lambda: built()(0, {})),
    "a policy with memory": (ValueError, "memory", lambda: stored(
        policy=jaxpg.Policy(init=lambda k: {}, apply=lambda p, o, c: (None, c), initial_carry=jnp.zeros(2)))),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_clear_error(case):
    kind, word, call = BAD[case]
    with pytest.raises(kind, match=word):
        call()


def test_what_bad_input_was_changed_from_is_good():
    assert np.isfinite(stored()) and callable(built())


def test_stored_episodes_are_counted_and_checked_under_jit():
    """A trajectory that is known when the function is compiled needs no `num_episodes`."""
    trajectory = pack(Problem(0).paths[:5], 3, 2)
    broken = jax.tree.map(lambda x: x[1:], trajectory)
    assert np.isclose(jax.jit(lambda c: c * stored(trajectory=trajectory))(1.0), stored())
    with pytest.raises(ValueError, match="whole"):
        jax.jit(lambda c: c * stored(trajectory=broken))(1.0)
    with pytest.raises(ValueError, match="num_episodes"):
        jax.jit(lambda t: stored(trajectory=t))(trajectory)
    assert np.isclose(jax.jit(lambda t: stored(trajectory=t, num_episodes=5))(trajectory), stored())
