"""The estimators of the canon through `policy_gradient` itself: the same numbers as from stored episodes however they
are played, and their errors, stopping rule and diagnostics against closed forms, exact values and replicates.

That the means are exact is the table's task (`test_oracle.py`, `test_audit.py`).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

import jaxpg
from jaxpg import baselines, rollout, sampling, weights
from jaxpg.envs import Box, Discrete, Environment, MultiDiscrete, Timestep
from jaxpg.policies import distributions as D  # noqa: N812

GAMMA = 0.9
slow = pytest.mark.slow


def close(found, wanted, rtol, atol=1e-12):
    """Whole pytrees, relative to the size of each leaf's largest entry."""
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        y = np.asarray(y)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * float(np.abs(y).max(initial=0.0)) + atol)


def flat(tree, lead=0):
    """A pytree whose leaves have `lead` leading axes, as one float64 array."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(*x.shape[:lead], -1) for x in leaves], axis=-1)


def cartpole(max_steps=15):
    """Episodes of 8 steps and more, some terminated, some truncated; the policy, its params, and another that acts."""
    env = jaxpg.make("CartPole-v1", max_steps=max_steps)
    policy, other = jaxpg.policies.mlp(env, (8,)), jaxpg.policies.mlp(env, (4,))
    params, others = policy.init(jax.random.key(1)), other.init(jax.random.key(2))
    # Fresh networks are all but uniform policies, whose ratios would be 1.
    return env, policy, perturbed(params, 3), (other, perturbed(others, 4))


def perturbed(params, seed):
    numbers, structure = ravel_pytree(params)
    return structure(numbers + 0.2 * jax.random.normal(jax.random.key(seed), numbers.shape))


def small(horizon=3, seed=11):
    """Two states, two actions: the MDP, its environment and policy, logits, and those of another policy that acts."""
    rng = np.random.default_rng(seed)
    transition, reward = rng.dirichlet(np.ones(2), (2, 2)), rng.normal(size=(2, 2, 2)) + 1.5
    mdp = jaxpg.exact.FiniteMDP(transition, reward, np.array([0.6, 0.4]), discount=GAMMA, horizon=horizon)
    logits = jnp.asarray(rng.normal(size=(2, 2)))
    env = mdp.environment()
    return mdp, env, jaxpg.policies.tabular(env), logits, logits + 0.5 * jnp.asarray(rng.normal(size=(2, 2)))


def replicates(gradient, params, number, seed=1):
    """Estimates with a leading axis of `number` keys, a batch of them at a time."""
    keys = jax.random.split(jax.random.key(seed), number)
    return jax.jit(lambda keys: jax.lax.map(lambda key: gradient(key, params), keys, batch_size=250))(keys)


def variance_and_error(samples):
    """Variance over replicates [R, …], and its standard error, from the samples' fourth moment."""
    centred = samples - samples.mean(0)
    second, fourth = np.mean(centred**2, 0), np.mean(centred**4, 0)
    return second * len(samples) / (len(samples) - 1), np.sqrt((fourth - second**2) / len(samples))


def deviations_of_reported(samples, reported, exact=None):
    """(mean reported variance − variance of the samples) in standard deviations; with an `exact` one, of both."""
    variance, error = variance_and_error(samples)
    mean, mean_error = reported.mean(0), reported.std(0) / np.sqrt(len(reported))
    if exact is None:
        return (mean - variance) / np.hypot(error, mean_error)
    return np.stack([(variance - exact) / error, (mean - exact) / mean_error])


def limit(number, level=1e-3):
    """What none of so many standard normal numbers exceeds in size, but for a probability of `level`."""
    return stats.norm.isf(level / 2 / number)


# --- Sampled and stored episodes --------------------------------------------------------------------------------------


def value(o, t):
    return jnp.sum(jnp.sin(o)) + 0.1 * t


RTG = weights.reward_to_go(GAMMA)
V = baselines.value(value)
STORED = {
    "per decision": {"weight": RTG, "baseline": V, "importance_sampling": "per_decision"},
    "per decision, n-step": {
        "weight": weights.n_step(GAMMA, 3, value=value), "baseline": V, "importance_sampling": "per_decision"},
    "trajectory": {"weight": RTG, "baseline": V, "importance_sampling": "trajectory"},
    "self-normalised": {"weight": RTG, "baseline": V, "importance_sampling": "self_normalized"},
    "self-normalised, optimal": {
        "weight": RTG, "baseline": baselines.optimal(True), "importance_sampling": "self_normalized",
        "per_episode": True},
    "V-trace": {
        "weight": weights.v_trace(GAMMA, 0.9, value=value, clip_rho=1.1), "importance_sampling": "per_decision"},
    "all actions": {"weight": weights.all_action(GAMMA, lambda o, t, a: value(o, t) * (a + 0.5))},
    "entropy": {"weight": weights.total_return(GAMMA), "baseline": V, "entropy_coefficient": 0.3},
    "temperature": {"weight": RTG, "baseline": baselines.leave_one_out(10), "temperature": 0.4},
    "optimal": {"weight": RTG, "baseline": baselines.optimal(), "per_episode": True},
    "optimal per coordinate": {"weight": weights.total_return(GAMMA), "baseline": baselines.optimal(True)},
    "linear": {"weight": RTG, "baseline": baselines.linear(group_size=15)},
}  # fmt: skip
FAST = ("self-normalised, optimal", "V-trace", "temperature")
FIELDS = ("gradient", "variance", "objective", "objective_error", "effective_sample_size", "gradient_norm_error",
          "episode_length", "num_steps", "num_groups", "episodes")  # fmt: skip
NUM_EPISODES = 30


@pytest.fixture(scope="module")
def collected():
    """Episodes of the policy and of the other one, by the same key."""
    env, policy, params, other = cartpole()
    return {
        who: rollout.collect(env, *acting, jax.random.key(0), num_episodes=NUM_EPISODES)
        for who, acting in (("policy", (policy, params)), ("other", other))
    }


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else slow) for n in STORED])
def test_played_episodes_and_stored_ones_give_the_same(name, collected, key):
    env, policy, params, other = cartpole()
    options = STORED[name]
    behavior = {"behavior": other} if "importance_sampling" in options else {}
    played = jaxpg.policy_gradient(
        env, policy, num_episodes=NUM_EPISODES, num_lanes=4, chunk_size=15, num_groups=10, **options, **behavior
    )(key, params)
    trajectory, statistics = collected["other" if behavior else "policy"]
    options = dict(options)
    if "temperature" in options:
        trajectory = trajectory._replace(reward=trajectory.reward - options.pop("temperature") * trajectory.log_prob)
    stored = jax.jit(
        lambda params: jaxpg.gradient_from(
            trajectory, policy, params, num_episodes=NUM_EPISODES, num_groups=10, **options
        )
    )(params)
    for field in FIELDS:
        close(getattr(played, field), getattr(stored, field), 1e-3 if field == "variance" else 1e-4)
    assert float(jnp.max(jnp.abs(ravel_pytree(played.gradient)[0]))) > 0.01
    ended = trajectory.valid & trajectory.terminated
    assert 3 < int(jnp.sum(ended)) < 28  # Both ends happen.
    np.testing.assert_allclose(played.episode_return, np.mean(statistics.returns), rtol=1e-5)
    assert behavior or float(played.effective_sample_size) == NUM_EPISODES


@slow
def test_played_and_stored_in_double_precision(x64, key):
    mdp, env, policy, logits, acting = small()
    options = {"weight": RTG, "baseline": baselines.optimal(), "importance_sampling": "self_normalized"}
    played = jaxpg.policy_gradient(
        env, policy, num_episodes=64, behavior=(policy, acting), num_lanes=7, chunk_size=13, block_size=5, **options
    )(key, logits)
    trajectory, _ = rollout.collect(env, policy, acting, key, num_episodes=64)
    stored = jaxpg.gradient_from(trajectory, policy, logits, **options)
    assert played.gradient.dtype == played.objective_error.dtype == jnp.float64
    for field in FIELDS:
        close(getattr(played, field), getattr(stored, field), 1e-11)


@pytest.mark.slow
def test_lanes_chunks_blocks_and_cut_buffers_change_rounding_only(key):
    """Importance weights, the optimal baseline, single episodes and pairs at once; a buffer of one longest episode's
    rows cuts others short, which are played again."""
    env, policy, params, other = cartpole(40)
    options = {
        "num_episodes": NUM_EPISODES, "weight": RTG, "baseline": baselines.optimal(), "behavior": other,
        "importance_sampling": "trajectory", "per_episode": True, "num_groups": 6,
        "sampling": sampling.antithetic(),
    }  # fmt: skip
    reference = jaxpg.policy_gradient(env, policy, **options)(key, params)
    lane_row = 16 + 4 + 4 + 4 + 1 + 1 + 4 + 4 + 1 + 8  # Bytes of a lane's row.
    for changes in (
        {"num_lanes": 1, "chunk_size": 7, "block_size": 5},
        {"num_lanes": 4, "buffer_bytes": 4 * 40 * lane_row},
    ):
        estimate = jaxpg.policy_gradient(env, policy, **options, **changes)(key, params)
        for field in FIELDS:
            close(getattr(estimate, field), getattr(reference, field), 1e-3 if field == "variance" else 5e-5)
    # One buffer would leave no more room unused than a longest episode in each lane.
    assert float(estimate.num_steps / estimate.utilization - estimate.num_steps) > 4 * 40


# --- Single episodes --------------------------------------------------------------------------------------------------


def test_single_episodes_are_their_own_gradients(collected, key):
    """g_i = Σ_t γ^t ψ_t (Q̂_t − V_t) and D_i = Σ_t γ^t ψ_t, step by step in numpy from `jax.grad` of single steps."""
    env, policy, params, _ = cartpole()
    trajectory, statistics = collected["policy"]
    score = jax.grad(lambda p, o, a: policy.apply(p, o).log_prob(a))
    flat_score = lambda o, a: ravel_pytree(score(params, o, a))[0]  # noqa: E731
    scores = np.asarray(jax.jit(jax.vmap(jax.vmap(flat_score)))(trajectory.observation, trajectory.action), np.float64)
    g, d, returns = np.zeros((30, scores.shape[-1])), np.zeros((30, scores.shape[-1])), np.zeros(30)
    for row, lane in np.argwhere(np.asarray(trajectory.valid)):
        i, t = int(trajectory.episode[row, lane]), int(trajectory.time[row, lane])
        left = int(statistics.length[i]) - t
        to_go = sum(GAMMA**k for k in range(left))  # Every reward is 1.
        b = np.sin(np.asarray(trajectory.observation[row, lane])).sum() + 0.1 * t
        g[i] += GAMMA**t * scores[row, lane] * (to_go - b)
        d[i] += GAMMA**t * scores[row, lane]
        returns[i] += GAMMA**t
    options = {"num_episodes": 30, "weight": RTG, "baseline": V, "num_groups": 30}
    estimate = jaxpg.policy_gradient(env, policy, num_lanes=4, chunk_size=9, per_episode=True, **options)(key, params)
    order = lambda tree: np.stack([ravel_pytree(jax.tree.map(lambda x, i=i: x[i], tree))[0] for i in range(30)])  # noqa: E731
    close(order(estimate.episodes.gradient), g, 1e-4)
    close(order(estimate.episodes.score), d, 1e-4)
    close(estimate.episodes.discounted_return, returns, 1e-5)
    close(ravel_pytree(estimate.gradient)[0], g.mean(0), 1e-4)
    close(ravel_pytree(estimate.variance)[0], g.var(0, ddof=1) / 30, 1e-3)
    # They cost 2 N times the params, and nothing where they are not asked for.
    count = lambda per_episode: sum(  # noqa: E731
        x.size
        for x in jax.tree.leaves(
            jax.eval_shape(jaxpg.policy_gradient(env, policy, per_episode=per_episode, **options), key, params)
        )
    )
    assert count(True) - count(False) == 30 * (2 * scores.shape[-1] + 1)
    assert jax.eval_shape(jaxpg.policy_gradient(env, policy, **options), key, params).episodes is None


@pytest.mark.parametrize("importance", ["per_decision", pytest.param("trajectory", marks=slow)])
def test_scores_of_another_policys_episodes_have_mean_zero(importance, x64):
    """Σ P(τ) D(τ) = 0 over every trajectory, whoever acts: else the optimal baseline times D would be a bias."""
    mdp, _, policy, logits, acting = small()
    trajectory, probabilities = jaxpg.exact.every_episode(mdp, policy, logits, acting)
    options = {"importance_sampling": importance, "per_episode": True, "num_episodes": len(probabilities)}
    single = jaxpg.gradient_from(trajectory, policy, logits, RTG, **options).episodes
    assert np.abs(single.score).max() > 0.1
    np.testing.assert_allclose(np.einsum("i,isa->sa", probabilities, single.score), 0, atol=1e-12)


# --- The optimal constant ---------------------------------------------------------------------------------------------


def cross_fitted(g, d, num_groups, coordinates):
    """1/N Σ_g (g_g − b_{−g} D_g); one b for each of the slices in `coordinates`."""
    group = np.arange(len(g)) * num_groups // len(g)
    out = g.mean(0)
    for k in range(num_groups):
        others, own = group != k, group == k
        for part in coordinates:
            b = np.sum(d[others, part] * g[others, part]) / np.sum(d[others, part] ** 2)
            out[part] -= b * d[own, part].sum(0) / len(g)
    return out


@pytest.mark.parametrize("per_coordinate", [False, pytest.param(True, marks=slow)])
def test_optimal_constant_is_fitted_on_the_other_groups(per_coordinate, key):
    """From the single episodes in numpy. Scalar mode has one constant for all leaves of a network's params."""
    env, policy, params, _ = cartpole()
    estimate = jaxpg.policy_gradient(
        env, policy, num_episodes=40, num_groups=8, weight=RTG, per_episode=True,
        baseline=baselines.optimal(per_coordinate),
    )(key, params)  # fmt: skip
    g, d = flat(estimate.episodes.gradient, 1), flat(estimate.episodes.score, 1)
    size = g.shape[1]
    ends = np.cumsum([x.size for x in jax.tree.leaves(params)])
    kinds = {
        "all": [slice(0, size)],
        "leaves": [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)],
        "coordinates": [slice(k, k + 1) for k in range(size)],
    }
    wanted = {kind: cross_fitted(g, d, 8, parts) for kind, parts in kinds.items()}
    right = "coordinates" if per_coordinate else "all"
    close(flat(estimate.gradient), wanted[right], 1e-3)
    for kind in set(kinds) - {right}:
        assert np.abs(wanted[kind] - wanted[right]).max() > 0.05 * np.abs(wanted[right]).max()


def exact_variances(mdp, policy, logits, weight):
    """Exact variances of one episode's term: with no baseline, the best constant, and the best of each coordinate."""
    variance = lambda b: jnp.diag(mdp.covariance(policy, logits, weight=weight, baseline=baselines.constant(b)))  # noqa: E731
    scalar = jaxpg.exact.optimal_baseline(mdp, policy, logits, weight=weight)
    each = jaxpg.exact.optimal_baseline(mdp, policy, logits, weight=weight, per_coordinate=True)
    return scalar, each, variance(0.0), variance(scalar), jnp.diag(jax.vmap(variance)(each))


@slow
@pytest.mark.parametrize("kind", ["reward_to_go", "total_return"])
def test_optimal_constants_found_are_the_exact_ones(kind, key):
    """b̂ = Σ D·g / Σ D·D of 20,000 episodes, with the error of a ratio by the delta method."""
    mdp, env, policy, logits, _ = small()
    weight = getattr(weights, kind)(GAMMA)
    single = jaxpg.policy_gradient(env, policy, num_episodes=20_000, weight=weight, per_episode=True)(key, logits)
    g, d = flat(single.episodes.gradient, 1), flat(single.episodes.score, 1)
    scalar, each, none, best, best_each = exact_variances(mdp, policy, logits, weight)
    found = []
    for product, square, exact in ((g * d, d * d, each), ((g * d).sum(1), (d * d).sum(1), scalar)):
        b = product.mean(0) / square.mean(0)
        error = (product - b * square).std(0) / np.sqrt(len(g)) / square.mean(0)
        found += list(np.ravel((b - exact) / error))
        assert np.all(error < 0.05 * np.abs(exact)), error  # So a wrong constant would be seen.
    assert np.abs(found).max() < limit(len(found))
    assert best_each.sum() < best.sum() < none.sum()
    assert np.ptp(each) > 1


@slow
@pytest.mark.parametrize("per_coordinate", [False, True])
def test_variance_with_the_optimal_constant_is_the_exact_one(per_coordinate):
    """That b̂ is fitted costs a share E[D²(g − bD)²] / (E[D²] E[(g − bD)²]) / N of the variance: 4/N at most here, a
    quarter of the error that 1,000 replicates have."""
    mdp, env, policy, logits, _ = small()
    _, _, none, best, best_each = exact_variances(mdp, policy, logits, RTG)
    exact = np.asarray(best_each if per_coordinate else best) / 2048
    gradient = jaxpg.policy_gradient(
        env, policy, num_episodes=2048, weight=RTG, baseline=baselines.optimal(per_coordinate)
    )
    found = replicates(gradient, logits, 1000)
    z = deviations_of_reported(flat(found.gradient, 1), flat(found.variance, 1), exact)
    assert np.abs(z).max() < limit(z.size), z
    assert exact.sum() < 0.8 * none.sum() / 2048


# --- The sum over all actions -----------------------------------------------------------------------------------------


def one_step(action_space, observe=lambda key: jnp.ones(1), size=1):
    """One step from an observation that `observe` draws; no reward."""
    flag = jnp.ones((), bool)
    return Environment(
        reset=lambda key: (observe(key),) * 2,
        step=lambda key, state, action: (state, Timestep(state, jnp.float32(0), flag, ~flag)),
        observation_space=Box(-9, 9, (size,)),
        action_space=action_space,
        max_steps=1,
    )


@pytest.mark.parametrize("points", [3, pytest.param(2, marks=slow)])
def test_all_actions_of_a_normal_are_exact_for_a_quadratic(points, key):
    """A linear-quadratic regulator of one step, Q(x, u) = −(xᵀQx + uᵀRu): ∇ E[Q | x] in closed form at the sampled x.

    Quadrature is exact for a degree below 2·points − 2: 3 nodes do; 2 nodes do not see how the spread matters.
    """
    cost, price = jnp.array([[1.0, 0.2], [0.2, 0.5]]), jnp.array([[0.5, 0.1], [0.1, 0.3]])
    lqr = jaxpg.exact.LQR(jnp.eye(2), jnp.eye(2), cost, price, discount=1.0, horizon=1)
    env = lqr.environment()
    policy = jaxpg.policies.linear_gaussian(env)
    params = {"gain": jnp.array([[0.4, -0.2], [0.1, 0.3]]), "log_std": jnp.array([-0.5, 0.2])}
    weight = weights.all_action(1.0, lambda x, u: -(x @ cost @ x + u @ price @ u), quadrature_points=points)
    estimate = jaxpg.policy_gradient(env, policy, num_episodes=50, weight=weight)(key, params)
    trajectory, _ = rollout.collect(env, policy, params, key, num_episodes=50)
    x = trajectory.observation[0]

    def expectation(params):
        u = x @ params["gain"].T
        spread = jnp.sum(jnp.exp(2 * params["log_std"]) * jnp.diag(price))
        return -jnp.mean(jnp.einsum("ni,ij,nj->n", u, price, u)) - spread

    wanted = jax.grad(expectation)(params)
    close(estimate.gradient["gain"], wanted["gain"], 1e-5)
    if points == 3:
        close(estimate.gradient["log_std"], wanted["log_std"], 1e-5)
    else:
        assert np.abs(estimate.gradient["log_std"] - wanted["log_std"]).max() > 0.1


def test_all_actions_of_a_joint_distribution_are_those_counted_by_hand(key):
    """A multi-discrete, a Bernoulli, a masked categorical and a normal part: ∇ Σ_a π(a) Q(a) by loops.

    The action that is masked out has Q = −∞, as an action value for what cannot be done may.
    """
    space = {"m": MultiDiscrete((2, 3)), "b": MultiDiscrete((2, 2)), "c": Discrete(3), "n": Box(-9, 9, (1,))}
    env = one_step(space)
    mask = jnp.array([True, False, True])

    def apply(params, observation):
        del observation
        return D.Joint({
            "m": D.MultiDiscrete(params["m"], (2, 3)),
            "b": D.Bernoulli(params["b"]),
            "c": D.Categorical(params["c"], mask),
            "n": D.DiagonalNormal(params["n"], jnp.zeros(1) - 0.5),
        })  # fmt: skip

    def q(action):
        product = (1 + action["m"][0]) * jnp.cos(action["m"][1] + 2.0 * action["b"][0] - action["b"][1])
        return jnp.where(mask[action["c"]], product * (action["c"] + 1) + action["n"][0] ** 2, -jnp.inf)

    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.normal(size=n), jnp.float32) for k, n in (("m", 5), ("b", 2), ("c", 3), ("n", 1))}

    def expectation(params):
        m = [jax.nn.softmax(params["m"][:2]), jax.nn.softmax(params["m"][2:])]
        b, c = jax.nn.sigmoid(params["b"]), jax.nn.softmax(params["c"][jnp.array([0, 2])])
        total = params["n"][0] ** 2
        for i, j, k, n, which in itertools.product(range(2), range(3), range(2), range(2), range(2)):
            p = m[0][i] * m[1][j] * jnp.where(k, b[0], 1 - b[0]) * jnp.where(n, b[1], 1 - b[1]) * c[which]
            total += p * (1 + i) * jnp.cos(j + 2.0 * k - n) * (2 * which + 1)
        return total

    policy = jaxpg.Policy(init=lambda key: params, apply=apply)
    estimate = jaxpg.policy_gradient(
        env, policy, num_episodes=4, weight=weights.all_action(1.0, lambda o, a: q(a)), entropy_coefficient=0.0
    )(key, params)
    wanted = jax.grad(expectation)(params)
    close(estimate.gradient, wanted, 1e-4)
    assert min(float(jnp.abs(wanted[k]).max()) for k in params) > 0.01
    assert float(estimate.gradient["c"][1]) == 0.0
    close(estimate.variance, jax.tree.map(jnp.zeros_like, params), 1e-6, 1e-10)  # The actions' own noise is gone.


# --- num_episodes="auto" ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("acting", [None, pytest.param("self_normalized", marks=slow)])
def test_auto_stops_where_its_target_is_met(acting, key):
    """256 · 2^k episodes, the least with √trace ≤ target or snr ≥ target; under `vmap` each member stops by itself."""
    mdp, env, policy, logits, other = small()
    options = {"weight": RTG}
    if acting is not None:
        options |= {"behavior": (policy, other), "importance_sampling": acting}
    trace = float(jnp.trace(mdp.covariance(policy, logits, weight=RTG)))

    def estimate(key, target_snr, target_error):
        return jaxpg.policy_gradient(
            env, policy, num_episodes="auto", target_snr=target_snr, target_error=target_error, max_episodes=5000,
            **options,
        )(key, logits)  # fmt: skip

    # A signal-to-noise ratio; the error of 512 episodes, give or take a factor √√2; what is never met; either of two.
    snr = jnp.array([5.0, 1e9, 1e9, 1.0])
    error = jnp.array([1e-9, 1.19 * np.sqrt(trace / 512), 1e-9, 0.01])
    keys = jax.random.split(key, 4)
    mapped = jax.jit(jax.vmap(estimate))(keys, snr, error)
    numbers = np.asarray(mapped.num_episodes)
    met = (mapped.snr >= snr) | (jnp.sqrt(mapped.trace) <= error)
    assert met.tolist() == [True, True, False, True], (mapped.snr, mapped.trace)
    assert set(numbers.tolist()) <= {256 * 2**k for k in range(5)} and numbers[2] == 4096 and numbers[3] == 256
    if acting is None:
        assert numbers[1] == 512 and numbers[0] in (512, 1024)
    single = jax.jit(estimate)
    for i in range(4):
        one = single(keys[i], snr[i], error[i])
        close(jax.tree.map(lambda x, i=i: x[i], mapped)._replace(utilization=0), one._replace(utilization=0), 2e-4)
    # They are the episodes 0 … N − 1.
    fixed = jaxpg.policy_gradient(env, policy, num_episodes=int(numbers[0]), **options)(keys[0], logits)
    for field in ("gradient", "objective", "episode_return", "effective_sample_size", "num_steps"):
        close(jax.tree.map(lambda x: x[0], getattr(mapped, field)), getattr(fixed, field), 2e-5)
    np.testing.assert_allclose(mapped.trace[0], fixed.trace, rtol=0.7)  # By other groups of episodes.


@slow
def test_auto_with_other_episodes_and_single_ones(key):
    """A baseline of groups of episodes and an optimal one, both with targets; single episodes fill N places of all."""
    _, env, policy, logits, _ = small()
    auto = {"num_episodes": "auto", "weight": RTG, "target_error": 0.1, "max_episodes": 4096}
    for baseline in (baselines.leave_one_out(8), baselines.leave_one_out(), baselines.linear(
        lambda s: jax.nn.one_hot(s, 2), group_size=8)):  # fmt: skip
        found = jaxpg.policy_gradient(env, policy, baseline=baseline, **auto)(key, logits)
        number = int(found.num_episodes)
        assert 256 < number < 4096 and float(jnp.sqrt(found.trace)) <= 0.1
        if baseline.group_size is not None:
            fixed = jaxpg.policy_gradient(env, policy, baseline=baseline, weight=RTG, num_episodes=number)(key, logits)
            close(found.gradient, fixed.gradient, 2e-5)
    found = jaxpg.policy_gradient(env, policy, baseline=baselines.optimal(), per_episode=True, **auto)(key, logits)
    number = int(found.num_episodes)
    g, d = (flat(x, 1) for x in (found.episodes.gradient, found.episodes.score))
    assert np.all(np.abs(g[:number]).sum(1) > 0) and not g[number:].any() and not d[number:].any()
    # Groups are unions of one range of each doubling: in the numpy twin, sorted by their group.
    group = np.concatenate([np.arange(256) * 32 // 256] + [
        np.arange(n) * 32 // n for n in (256 * 2**k for k in range(20)) if 2 * n <= number])  # fmt: skip
    order = np.argsort(group, kind="stable")
    close(flat(found.gradient), cross_fitted(g[order], d[order], 32, [slice(0, 4)]), 1e-4)


def test_stopping_on_the_sample_is_documented_as_a_bias():
    assert "biases the estimate" in " ".join((jaxpg.policy_gradient.__doc__ or "").split())


# --- Antithetic and quasi-Monte Carlo sampling ------------------------------------------------------------------------

K, SIGMA2, COST, PRICE = 0.4, np.exp(-1.0), 1.0, 0.5


def regulator():
    """One step, one number: x ~ N(0, 1), u = −Kx + σz, r = −(x² + u²/2). All moments are closed forms."""
    lqr = jaxpg.exact.LQR([[1.0]], [[1.0]], [[COST]], [[PRICE]], discount=1.0, horizon=1)
    env = lqr.environment()
    params = {"gain": jnp.array([[K]]), "log_std": jnp.array([-0.5])}
    return lqr, env, jaxpg.policies.linear_gaussian(env), params


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["antithetic", "quasi"])
def test_dependent_episodes_report_their_variance(scheme):
    """The reported variances are those of the replicates; for pairs, of the closed form, too.

    With c = Q + RK², d = Rσ²: a pair's mean is −2RK x²z² for the gain and −(z² − 1)(cx² + dz²) for log σ. Both episodes
    of a pair start alike, so their returns agree in x: the objective's variance is that of −(cx² + dz²), for a pair.
    """
    lqr, env, policy, params = regulator()
    chosen = {"antithetic": sampling.antithetic(), "quasi": sampling.quasi_monte_carlo(8)}[scheme]
    options = {"num_episodes": 128, "weight": weights.reward_to_go(1.0)}
    found = replicates(jaxpg.policy_gradient(env, policy, sampling=chosen, **options), params, 4000)
    samples = np.append(flat(found.gradient, 1), np.asarray(found.objective, np.float64)[:, None], 1)
    reported = np.append(flat(found.variance, 1), np.asarray(found.objective_error, np.float64)[:, None] ** 2, 1)
    c, d = COST + PRICE * K**2, PRICE * SIGMA2
    pairs = np.array([32 * (PRICE * K) ** 2, 6 * c**2 + 20 * c * d + 74 * d**2, 2 * c**2 + 2 * d**2]) / 64
    z = deviations_of_reported(samples, reported, pairs if scheme == "antithetic" else None)
    assert np.abs(z).max() < limit(z.size), z
    means = np.append(flat(lqr.policy_gradient(policy, params)), lqr.objective(policy, params))
    z = (samples.mean(0) - means) / samples.std(0) * np.sqrt(len(samples))
    assert stats.chi2.sf(np.sum(z**2), z.size) > 1e-3
    gains = np.diag(lqr.covariance(policy, params, num_episodes=128)) / samples[:, :2].var(0)
    if scheme == "antithetic":
        assert gains[0] > 20 and gains[1] < 0.7  # What is even in the noise cancels for the gain; the rest doubles.
    else:
        assert gains[0] > 0.9 and gains[1] > 1.2  # The gain's variance is all but that of x.


# --- Importance sampling ----------------------------------------------------------------------------------------------


def test_self_normalised_estimates_are_their_definition(collected):
    """Σ_i w_i g_i / Σ_i w_i, its variance and the objective's by the delta method over groups, and (Σw)²/Σw², in numpy
    from stored episodes' ratios."""
    _, policy, params, _ = cartpole()
    trajectory, statistics = collected["other"]
    log_prob = jax.vmap(jax.vmap(lambda o, a: policy.apply(params, o).log_prob(a)))
    logs = np.asarray(log_prob(trajectory.observation, trajectory.action) - trajectory.log_prob, np.float64)
    valid = np.asarray(trajectory.valid)
    w = np.exp(np.bincount(np.asarray(trajectory.episode)[valid], logs[valid]))
    options = {"importance_sampling": "self_normalized", "num_groups": 10, "per_episode": True}
    found = jax.jit(
        lambda params: jaxpg.gradient_from(trajectory, policy, params, RTG, num_episodes=NUM_EPISODES, **options)
    )(params)
    returns = np.array([sum(GAMMA**t for t in range(length)) for length in np.asarray(statistics.length)])
    terms = np.append(flat(found.episodes.gradient, 1), (w * returns)[:, None], 1)  # w_i g_i and w_i R_i.
    mean = terms.sum(0) / w.sum()
    sums = (terms - w[:, None] * mean).reshape(10, 3, -1).sum(1)
    variance = (sums**2).sum(0) / 3 * NUM_EPISODES / 9 / w.sum() ** 2
    close(np.append(flat(found.gradient), found.objective), mean, 1e-4)
    close(flat(found.variance), variance[:-1], 1e-3)
    np.testing.assert_allclose(found.objective_error, np.sqrt(variance[-1]), rtol=1e-3)
    np.testing.assert_allclose(found.effective_sample_size, w.sum() ** 2 / (w**2).sum(), rtol=1e-4)
    assert w.std() > 0.5 * w.mean()


CORRECTIONS = {
    "per_decision": {"weight": RTG, "importance_sampling": "per_decision"},
    "trajectory": {"weight": weights.total_return(GAMMA), "importance_sampling": "per_decision"},
    "self_normalized": {"weight": RTG, "importance_sampling": "self_normalized"},
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=slow) for n in CORRECTIONS])
def test_errors_of_another_policys_episodes(name):
    """Objective and gradient have their exact means, and the reported variances are those of the replicates.

    Self-normalised estimates have a bias of the order of 1/N, a share 1/√N of their error, in which 1,500 replicates
    would see it for N below about 1,000: it is checked by its size. Their variances are by the delta method.
    """
    mdp, env, policy, logits, acting = small(horizon=2)
    number, repeats = 512, 1500
    gradient = jaxpg.policy_gradient(env, policy, num_episodes=number, behavior=(policy, acting), **CORRECTIONS[name])
    found = replicates(gradient, logits, repeats)
    samples = np.append(flat(found.gradient, 1)[:, [0, 2]], np.asarray(found.objective, np.float64)[:, None], 1)
    reported = np.append(
        flat(found.variance, 1)[:, [0, 2]], np.asarray(found.objective_error, np.float64)[:, None] ** 2, 1
    )
    z = deviations_of_reported(samples, reported)
    assert np.abs(z).max() < limit(z.size), z
    exact = np.append(flat(mdp.policy_gradient(policy, logits))[[0, 2]], mdp.objective(policy, logits))
    difference, error = samples.mean(0) - exact, samples.std(0) / np.sqrt(repeats)
    if name == "self_normalized":
        assert np.all(np.abs(difference) < limit(3) * error + 5 * samples.std(0) / np.sqrt(number)), difference
    else:
        assert np.abs(difference / error).max() < limit(3), difference / error
    assert np.all(error < 0.05 * np.abs(exact)), (error, exact)


# --- Transformations --------------------------------------------------------------------------------------------------

MAPPED = {
    "soft": (
        lambda env, policy, x: {"weight": RTG, "temperature": x, "entropy_coefficient": 2 * x},
        jnp.array([0.0, 0.3, 0.7]),
    ),
    "other policy": (
        lambda env, policy, x: {
            "weight": weights.v_trace(GAMMA, value=lambda s: 0.1 * s, clip_rho=0.5 + x, clip_c=0.4 + x),
            "behavior": (policy, x * jnp.array([[1.0, -1.0], [0.5, 0.0]])),
        },
        jnp.array([0.1, 0.6, 1.5]),
    ),
    "fitted": (
        lambda env, policy, x: {"weight": weights.reward_to_go(x), "baseline": baselines.linear(
            lambda s: jax.nn.one_hot(s, 2), ridge=x, group_size=4)},
        jnp.array([0.2, 0.6, 0.9]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=slow) for n in MAPPED])
def test_vmap_over_hyperparameters_is_a_loop(name, key):
    _, env, policy, logits, _ = small()
    options, values = MAPPED[name]

    def estimate(x):
        return jaxpg.policy_gradient(env, policy, num_episodes=24, num_lanes=5, **options(env, policy, x))(key, logits)

    mapped, single = jax.jit(jax.vmap(estimate))(values), jax.jit(estimate)
    for i, x in enumerate(values):
        close(
            jax.tree.map(lambda x, i=i: x[i], mapped)._replace(utilization=0), single(x)._replace(utilization=0), 1e-4
        )
    assert np.abs(np.diff(np.asarray(mapped.gradient), axis=0)).reshape(2, -1).max(1).min() > 1e-3


@slow
def test_no_leaks_and_no_key_reuse():
    _, env, policy, logits, acting = small()
    options = {
        "num_episodes": 8, "num_groups": 2, "weight": RTG, "baseline": baselines.optimal(),
        "behavior": (policy, acting), "sampling": sampling.antithetic(), "importance_sampling": "self_normalized",
        "per_episode": True,
    }  # fmt: skip
    with jax.checking_leaks():
        jaxpg.policy_gradient(env, policy, **options)(jax.random.key(0), logits)
    with jax.debug_key_reuse(True):
        jaxpg.policy_gradient(env, policy, **options)(jax.random.key(7), logits)


# --- Devices ----------------------------------------------------------------------------------------------------------

DEVICES = """
import jax, jax.numpy as jnp, numpy as np, jaxpg
from jaxpg import baselines, sampling, weights
env = jaxpg.make("CartPole-v1", max_steps=15)
policy = jaxpg.policies.mlp(env, (8,))
params, other = policy.init(jax.random.key(1)), policy.init(jax.random.key(2))
mesh = jax.make_mesh((2,), ("episodes",))
weight = weights.reward_to_go(0.9)
cases = {
    "auto": dict(num_episodes="auto", target_error=0.6, max_episodes=2048, behavior=(policy, other),
                 importance_sampling="self_normalized"),
    "optimal": dict(num_episodes=66, baseline=baselines.optimal(), sampling=sampling.antithetic(), per_episode=True),
}
for name, options in cases.items():
    one, two = (jaxpg.policy_gradient(env, policy, weight=weight, mesh=m, **options)(jax.random.key(3), params)
                for m in (None, mesh))
    print(name, int(one.num_episodes))
    for field in one._fields:
        if field in ("utilization", "noise_scale"):
            continue
        for x, y in zip(jax.tree.leaves(getattr(two, field)), jax.tree.leaves(getattr(one, field)), strict=True):
            x, y = np.asarray(x), np.asarray(y)
            rtol = 1e-3 if field in ("variance", "snr", "trace") else 1e-4
            np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.abs(y).max(), err_msg=f"{name} {field}")
"""


@slow
def test_two_devices_give_the_same_estimate(run_in_subprocess):
    printed = run_in_subprocess(DEVICES, devices=2).split()
    assert printed[0] == "auto" and 256 < int(printed[1]) < 2048, printed
    assert printed[2:] == ["optimal", "66"]


@pytest.mark.slow
def test_shares_of_devices_are_ranges_for_every_number_of_episodes():
    """Ids are 32 bits wide; products with the number of devices are wider."""
    from jaxpg._play import _shares

    for number, group_size in ((10**9, 1), (2**31 - 1, 1), (2**31 - 1, 10), (1001, 10), (5, 2)):
        wanted = _shares(0, number, group_size, 64)  # Python's integers do not overflow.
        found = jax.jit(lambda last, n=group_size: jnp.stack(_shares(jnp.int32(0), last, n, 64)))(jnp.int32(number))
        assert found.tolist() == [int(x) for x in wanted]
        assert np.all(np.diff(wanted) >= 0) and wanted[-1] == number
