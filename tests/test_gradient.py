"""`policy_gradient` as a function: the same episodes give the same estimate however they are played."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumeration import enumerate_trajectories, random_mdp

import jaxpg
from jaxpg import baselines, rollout, weights

WEIGHTS = {
    "total_return": lambda: weights.total_return(0.95),
    "reward_to_go": lambda: weights.reward_to_go(0.95),
    "n_step": lambda: weights.n_step(0.95, 3, value=lambda o: jnp.sum(jnp.sin(o))),
    "td_residual": lambda: weights.td_residual(0.95, value=lambda o: jnp.sum(jnp.sin(o))),
    "gae": lambda: weights.gae(0.95, 0.8, value=lambda o, t: jnp.sum(jnp.sin(o)) + 0.01 * t),
}
BASELINES = {
    "none": baselines.none,
    "constant": lambda: baselines.constant(3.0),
    "leave_one_out": lambda: baselines.leave_one_out(group_size=10),
    "time": lambda: baselines.time(group_size=10),
    "value": lambda: baselines.value(lambda o: jnp.sum(jnp.cos(o))),
}


def cartpole(max_steps=40):
    env = jaxpg.make("CartPole-v1", max_steps=max_steps)
    policy = jaxpg.policies.mlp(env, (16,))
    return env, policy, policy.init(jax.random.key(1))


def close(a, b, rtol):
    """Whole pytrees, relative to the size of the largest entry."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * float(np.abs(y).max()) + 1e-12)


def by_definition(trajectory, scores, weight, baseline, num_episodes, discount):
    """Σ_i Σ_t … in plain Python from the collected steps and their flat scores; for `total_return`, `reward_to_go`."""
    reward, observation = np.asarray(trajectory.reward, np.float64), np.asarray(trajectory.observation, np.float64)
    steps = {}
    for row, lane in np.argwhere(np.asarray(trajectory.valid)):
        steps.setdefault(int(trajectory.episode[row, lane]), {})[int(trajectory.time[row, lane])] = (row, lane)
    to_go = {}
    for i, episode in steps.items():
        running = 0.0
        for t in sorted(episode, reverse=True):
            running = reward[episode[t]] + discount * running
            to_go[i, t] = running
    total = 0.0
    for i, episode in steps.items():
        group = range(i // 10 * 10, min(i // 10 * 10 + 10, num_episodes))
        for t, place in episode.items():
            others = [j for j in group if j != i]
            if weight == "total_return":
                psi, factor = to_go[i, 0], 1.0
                peers = [to_go[j, 0] for j in others]
            else:
                psi, factor = to_go[i, t], discount**t
                peers = [to_go.get((j, t), 0.0) for j in others]
            if baseline == "time" and weight == "reward_to_go":
                peers = [to_go[j, t] for j in others if (j, t) in to_go]
            b = {
                "none": 0.0,
                "constant": 3.0,
                "value": np.cos(observation[place]).sum(),
                "leave_one_out": np.mean(peers) if peers else 0.0,
                "time": np.mean(peers) if peers else 0.0,
            }[baseline]
            total = total + factor * (psi - b) * scores[place]
    return total / num_episodes


@pytest.fixture(scope="module")
def collected():
    env, policy, params = cartpole(12)
    trajectory, statistics = rollout.collect(env, policy, params, jax.random.key(0), num_episodes=20)
    score = jax.grad(lambda p, o, a: policy.apply(p, o).log_prob(a))
    flat = lambda o, a: jnp.concatenate([x.ravel() for x in jax.tree.leaves(score(params, o, a))])  # noqa: E731
    scores = jax.jit(jax.vmap(jax.vmap(flat)))(trajectory.observation, trajectory.action)
    return trajectory, statistics, np.asarray(scores, np.float64)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("weight", ["total_return", "reward_to_go"])
def test_estimate_is_its_definition(weight, baseline, collected, key):
    env, policy, params = cartpole(12)
    trajectory, statistics, scores = collected
    gradient = jaxpg.policy_gradient(
        env, policy, num_episodes=20, weight=WEIGHTS[weight](), baseline=BASELINES[baseline](), num_lanes=3
    )
    estimate = gradient(key, params)
    found = np.concatenate([np.ravel(x) for x in jax.tree.leaves(estimate.gradient)])
    close(found, by_definition(trajectory, scores, weight, baseline, 20, 0.95), 1e-4)
    returns = np.asarray(statistics.returns)
    np.testing.assert_allclose(estimate.episode_return, returns.mean(), rtol=1e-5)
    assert int(estimate.num_steps) == int(np.asarray(statistics.length).sum())
    assert int(estimate.num_episodes) == 20


FAST = [("gae", "time")]
SLOW = (
    [("total_return", "leave_one_out"), ("n_step", "value")]
    + [("reward_to_go", b) for b in BASELINES]
    + [(w, "none") for w in WEIGHTS if w != "reward_to_go"]
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "baseline"), [*FAST, *(pytest.param(w, b, marks=pytest.mark.slow) for w, b in SLOW)]
)
def test_lanes_chunks_blocks_and_buffers_change_rounding_only(weight, baseline, key):
    env, policy, params = cartpole()
    options = {"num_episodes": 100, "weight": WEIGHTS[weight](), "baseline": BASELINES[baseline]()}
    reference = jaxpg.policy_gradient(env, policy, **options)(key, params)
    small = 45 * 4 * 60  # Bytes for four lanes at most.
    for changes in (
        {"num_lanes": 1, "chunk_size": 100},
        {"num_lanes": 100, "chunk_size": 10, "block_size": 7},
        {"num_lanes": 64, "chunk_size": 20},
        {
            "num_lanes": 4,
            "buffer_bytes": 40 * small if baseline in ("leave_one_out", "time") else small,
            "chunk_size": 20,
        },
    ):
        estimate = jaxpg.policy_gradient(env, policy, **options, **changes)(key, params)
        close(estimate.gradient, reference.gradient, 2e-5)
        close(estimate.variance, reference.variance, 1e-3)
        assert int(estimate.num_steps) == int(reference.num_steps)
        np.testing.assert_allclose(estimate.objective, reference.objective, rtol=1e-6)
        np.testing.assert_allclose(estimate.objective_error, reference.objective_error, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("chunks", "num_lanes"), [(1, 1), (7, 64), (100, 700)])
def test_chunks_and_lanes_in_double_precision(x64, chunks, num_lanes, key):
    env, policy, params = cartpole()
    assert params["hidden_0"]["kernel"].dtype == jnp.float64
    options = {"num_episodes": 700, "weight": weights.reward_to_go(0.99)}
    reference = jaxpg.policy_gradient(env, policy, **options)(key, params)
    estimate = jaxpg.policy_gradient(env, policy, chunk_size=700 // chunks, num_lanes=num_lanes, **options)(key, params)
    close(estimate.gradient, reference.gradient, 1e-12)
    assert int(estimate.num_steps) == int(reference.num_steps)


@pytest.mark.slow
def test_a_remainder_of_one_joins_the_group_before(key):
    """21 episodes in groups of ten are groups of 10 and 11, in one chunk or two."""
    env, policy, params = cartpole(12)
    trajectory, _ = rollout.collect(env, policy, params, key, num_episodes=21)
    score = jax.grad(lambda p, o, a: policy.apply(p, o).log_prob(a))
    flat = lambda o, a: jnp.concatenate([x.ravel() for x in jax.tree.leaves(score(params, o, a))])  # noqa: E731
    scores = jax.jit(jax.vmap(jax.vmap(flat)))(trajectory.observation, trajectory.action)
    sums = np.where(trajectory.valid, trajectory.reward * 0.9**trajectory.time, 0.0)
    returns = np.bincount(np.asarray(trajectory.episode).ravel(), sums.ravel(), 21)
    group = np.minimum(np.arange(21) // 10, 1)
    total = np.bincount(group, returns)
    b = (total[group] - returns) / (np.bincount(group)[group] - 1)
    scale = np.where(trajectory.valid, (returns - b)[np.asarray(trajectory.episode)], 0.0)
    want = np.einsum("rl,rlp->p", scale, np.asarray(scores, np.float64)) / 21
    options = {"weight": weights.total_return(0.9), "baseline": baselines.leave_one_out(group_size=10)}
    for chunk_size in (None, 10):
        estimate = jaxpg.policy_gradient(env, policy, num_episodes=21, chunk_size=chunk_size, **options)(key, params)
        found = np.concatenate([np.ravel(x) for x in jax.tree.leaves(estimate.gradient)])
        close(found, want, 1e-4)


def line_walk(limit):
    """Counts up from a random start; ends when it passes 9, or is cut at the limit: both happen."""
    from jaxpg.envs import Box, Discrete, Environment, Timestep

    def reset(key):
        start = jax.random.randint(key, (), 0, 9)
        return start, start.astype(jnp.float32)[None]

    def step(key, state, action):
        state = state + 1
        observation = state.astype(jnp.float32)[None]
        return state, Timestep(observation, 1.0 + state, state > 9, jnp.zeros((), bool))

    return Environment(reset=reset, step=step, observation_space=Box(0, 99, (1,)), action_space=Discrete(2),
                       max_steps=limit, name="walk")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["gae", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("td_residual", "n_step"))]
)
def test_truncation_bootstraps_and_cut_buffers_lose_nothing(kind, key):
    """Against the forward definition: V of the final observation where the limit cut, 0 where the task ended."""
    env, limit, gamma, lambda_, n = line_walk(5), 5, 0.9, 0.7, 2
    policy = jaxpg.policies.mlp(env, (8,))
    params = policy.init(jax.random.key(1))
    value = lambda o: jnp.sin(o[0]) + 2.0  # noqa: E731
    trajectory, statistics = rollout.collect(env, policy, params, key, num_episodes=60)
    score = jax.grad(lambda p, o, a: policy.apply(p, o).log_prob(a))
    flat = lambda o, a: jnp.concatenate([x.ravel() for x in jax.tree.leaves(score(params, o, a))])  # noqa: E731
    scores = np.asarray(jax.jit(jax.vmap(jax.vmap(flat)))(trajectory.observation, trajectory.action), np.float64)
    where = {}
    for row, lane in np.argwhere(np.asarray(trajectory.valid)):
        where.setdefault(int(trajectory.episode[row, lane]), {})[int(trajectory.time[row, lane])] = (row, lane)
    want, cuts = 0.0, 0
    for i, steps in where.items():
        length = int(statistics.length[i])
        o = np.array([float(trajectory.observation[steps[t]][0]) for t in range(length)])
        terminated = bool(trajectory.terminated[steps[length - 1]])
        cuts += not terminated
        v = np.append(np.sin(o) + 2.0, 0.0 if terminated else np.sin(o[-1] + 1) + 2.0)
        r = 2.0 + o

        def n_steps(t, k, v=v, r=r, length=length):
            k = min(k, length - t)
            return sum(gamma**j * r[t + j] for j in range(k)) + gamma**k * v[t + k] - v[t]

        for t in range(length):
            left = length - t
            psi = {
                "td_residual": n_steps(t, 1),
                "n_step": n_steps(t, n),
                "gae": sum((1 - lambda_) * lambda_ ** (k - 1) * n_steps(t, k) for k in range(1, left))
                + lambda_ ** (left - 1) * n_steps(t, left),
            }[kind]
            want = want + gamma**t * psi * scores[steps[t]] / 60
    assert 5 < cuts < 55
    weight = {
        "gae": weights.gae(gamma, lambda_, value=value),
        "td_residual": weights.td_residual(gamma, value=value),
        "n_step": weights.n_step(gamma, n, value=value),
    }[kind]
    lane_row = 4 + 4 + 4 + 1 + 1 + 4 + 4 + 4 + 1 + 8  # Bytes of a lane's row.
    for rows in (None, limit + 1, 2 * (limit + 1), 3 * (limit + 1)):
        buffer_bytes = None if rows is None else lane_row * 4 * rows
        gradient = jaxpg.policy_gradient(
            env, policy, num_episodes=60, num_lanes=4, weight=weight, buffer_bytes=buffer_bytes
        )
        found = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient(key, params).gradient)])
        close(found, want, 1e-4)


@pytest.mark.parametrize(("num_episodes", "group_size", "groups"), [(2, None, 1), (8, 2, 4), (9, 2, 4)])
def test_variance_with_leave_one_out_is_that_of_independent_groups(num_episodes, group_size, groups, key):
    """A bandit: groups of the baseline are independent, episodes within one are not."""
    mdp = jaxpg.exact.FiniteMDP(jnp.ones((1, 2, 1)), jnp.array([[0.0, 1.0]]), jnp.ones(1), discount=1.0, horizon=1)
    env = mdp.environment()
    gradient = jaxpg.policy_gradient(
        env, jaxpg.policies.tabular(env), num_episodes=num_episodes, weight=weights.total_return(1.0),
        baseline=baselines.leave_one_out(group_size),
    )  # fmt: skip
    found = jax.jit(jax.vmap(gradient, (0, None)))(jax.random.split(key, 20_000), jnp.zeros((1, 2)))
    assert int(found.num_groups[0]) == groups
    reported = np.asarray(found.variance)[:, 0, 0]
    if groups == 1:
        assert np.isnan(reported).all()
        return
    true = np.asarray(found.gradient)[:, 0, 0].var()
    assert abs(reported.mean() / true - 1) < 0.06 + 0.1 * (num_episodes % group_size), (reported.mean(), true)


@pytest.mark.slow
def test_half_precision_params_are_summed_in_single_precision(key):
    env, policy, params = cartpole(20)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    exact_half = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    options = {"num_episodes": 2000, "num_groups": 1, "block_size": 8}
    a = jaxpg.policy_gradient(env, policy, **options)(key, half)
    b = jaxpg.policy_gradient(env, policy, **options)(key, exact_half)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(a.gradient))
    np.testing.assert_allclose(a.gradient_norm, b.gradient_norm, rtol=0.05)


def test_gradient_points_uphill(key):
    """A bandit whose second arm pays: its logit's gradient is positive, and exact."""
    mdp = jaxpg.exact.FiniteMDP(jnp.ones((1, 2, 1)), jnp.array([[0.0, 1.0]]), jnp.ones(1), discount=0.9, horizon=1)
    env = mdp.environment()
    policy = jaxpg.policies.tabular(env)
    estimate = jaxpg.policy_gradient(env, policy, num_episodes=20_000, baseline=baselines.constant(0.5))(
        key, jnp.zeros((1, 2))
    )
    np.testing.assert_allclose(estimate.gradient, [[-0.25, 0.25]], atol=1e-6)  # (±0.5)(±0.5) with that baseline.


# --- Errors of the estimate -------------------------------------------------------------------------------------------


def test_statistics_against_every_episodes_own_gradient(collected, key):
    env, policy, params = cartpole(12)
    n, discount = 20, 0.95
    options = {"num_episodes": n, "weight": weights.reward_to_go(discount)}
    trajectory, statistics, scores = collected
    each = []
    for i in range(n):
        one = trajectory._replace(valid=trajectory.valid & (trajectory.episode == i))
        each.append(n * by_definition(one, scores, "reward_to_go", "none", n, discount))
    each = np.stack(each)
    estimate = jaxpg.policy_gradient(env, policy, num_groups=n, **options)(key, params)
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])  # noqa: E731
    mean, variance = each.mean(0), each.var(0, ddof=1) / n
    np.testing.assert_allclose(flat(estimate.gradient), mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(flat(estimate.variance), variance, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(estimate.trace, variance.sum(), rtol=1e-3)
    norm = np.linalg.norm(mean)
    along = (each - mean) @ mean / norm
    np.testing.assert_allclose(estimate.gradient_norm, norm, rtol=1e-4)
    np.testing.assert_allclose(estimate.gradient_norm_error, np.sqrt(along.var(ddof=1) / n), rtol=1e-3)
    signal = max(norm**2 - variance.sum(), 0.0)
    np.testing.assert_allclose(estimate.snr, np.sqrt(signal / variance.sum()), rtol=1e-2)
    np.testing.assert_allclose(estimate.noise_scale, n * variance.sum() / signal, rtol=1e-2)
    factors = discount ** np.arange(12)
    returns = np.array([factors[:length].sum() for length in np.asarray(statistics.length)])  # Every reward is 1.
    np.testing.assert_allclose(estimate.objective, returns.mean(), rtol=1e-5)
    np.testing.assert_allclose(estimate.objective_error, returns.std(ddof=1) / np.sqrt(n), rtol=1e-4)
    # Groups of four: sums of groups in place of episodes.
    grouped = jaxpg.policy_gradient(env, policy, num_groups=5, **options)(key, params)
    sums = each.reshape(5, 4, -1).mean(1)
    np.testing.assert_allclose(flat(grouped.variance), sums.var(0, ddof=1) / 5, rtol=1e-3, atol=1e-6)


def test_one_episode_has_no_variance(key):
    env, policy, params = cartpole()
    estimate = jaxpg.policy_gradient(env, policy, num_episodes=1)(key, params)
    assert np.isfinite(estimate.objective) and np.isnan(estimate.objective_error) and np.isnan(estimate.snr)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(estimate.variance))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(estimate.gradient))


# --- Transformations --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_vmap_over_keys_and_params_is_a_loop(key):
    env, policy, params = cartpole()
    gradient = jaxpg.policy_gradient(
        env, policy, num_episodes=50, num_lanes=8, baseline=baselines.leave_one_out(), chunk_size=20
    )
    keys = jax.random.split(key, 3)
    mapped = jax.jit(jax.vmap(gradient, (0, None)))(keys, params)
    many = jax.vmap(policy.init)(jax.random.split(jax.random.key(5), 3))
    both = jax.jit(jax.vmap(gradient))(keys, many)
    for i in range(3):
        one = gradient(keys[i], params)
        close(jax.tree.map(lambda x, i=i: x[i], mapped)._replace(utilization=0), one._replace(utilization=0), 1e-4)
        one = gradient(keys[i], jax.tree.map(lambda x, i=i: x[i], many))
        close(jax.tree.map(lambda x, i=i: x[i], both)._replace(utilization=0), one._replace(utilization=0), 1e-4)


@pytest.mark.slow
def test_vmap_over_hyperparameters(key):
    """Discounts, environment parameters, baselines and captured network constants may all be mapped."""

    def estimate(discount, length, scale):
        env = jaxpg.make("CartPole-v1", max_steps=30, length=length)
        base = jaxpg.policies.mlp(env, (8,))
        policy = jaxpg.Policy(init=base.init, apply=lambda p, o: base.apply(p, o * scale))
        gradient = jaxpg.policy_gradient(
            env,
            policy,
            num_episodes=30,
            weight=weights.gae(discount, 0.9, value=lambda o: scale * o[0]),
            baseline=baselines.constant(scale),
        )
        return gradient(key, base.init(jax.random.key(2)))

    values = (jnp.array([0.5, 0.9, 1.0]), jnp.array([0.3, 0.5, 0.8]), jnp.array([1.0, 2.0, 0.5]))
    mapped = jax.jit(jax.vmap(estimate))(*values)
    for i in range(3):
        one = estimate(*(v[i] for v in values))
        close(jax.tree.map(lambda x, i=i: x[i], mapped)._replace(utilization=0), one._replace(utilization=0), 1e-4)
    assert len(set(np.asarray(mapped.num_steps).tolist())) > 1


@pytest.mark.slow
def test_no_leaks_and_no_key_reuse(key):
    env, policy, params = cartpole(10)
    with jax.checking_leaks():
        jaxpg.policy_gradient(env, policy, num_episodes=6, baseline=baselines.leave_one_out())(key, params)
    with jax.debug_key_reuse(True):
        fresh = jax.random.key(7)
        jaxpg.policy_gradient(env, policy, num_episodes=6)(fresh, params)


def test_a_second_call_does_not_trace_again(key):
    env, policy, params = cartpole(10)
    traces = []
    counted = jaxpg.Policy(init=policy.init, apply=lambda p, o: (traces.append(1), policy.apply(p, o))[1])
    gradient = jaxpg.policy_gradient(env, counted, num_episodes=6)
    gradient(key, params)
    before = len(traces)
    gradient(jax.random.key(9), jax.tree.map(lambda x: x + 1, params))
    assert len(traces) == before


def test_integer_rewards_legacy_keys_and_pytree_observations(key):
    from jaxpg.envs import Box, Discrete, Environment, Timestep

    def observe(state):
        return {"position": state.astype(jnp.float32)[None], "step": state}

    def step(key, state, action):
        state = state + 1
        flag = jnp.zeros((), bool)
        return state, Timestep(observe(state), action, state >= 4, flag)

    env = Environment(
        reset=lambda key: (jnp.zeros((), jnp.int32), observe(jnp.zeros((), jnp.int32))),
        step=step,
        max_steps=9,
        observation_space={"position": Box(0, 9, (1,)), "step": Discrete(10)},
        action_space=Discrete(3),
    )
    policy = jaxpg.policies.mlp(env, (8,))
    gradient = jaxpg.policy_gradient(env, policy, num_episodes=40)
    params = policy.init(key)
    new, old = gradient(jax.random.key(3), params), gradient(jax.random.PRNGKey(3), params)
    close(new, old, 1e-6)
    assert float(new.episode_length) == 4.0


def test_memory_does_not_grow_with_the_number_of_episodes(key):
    env, policy, params = cartpole()
    sizes = []
    for num_episodes in (100_000, 10_000_000):
        gradient = jaxpg.policy_gradient(env, policy, num_episodes=num_episodes)
        sizes.append(jax.jit(gradient).lower(key, params).compile().memory_analysis().temp_size_in_bytes)
    assert 0 < sizes[1] <= 1.01 * sizes[0], sizes


@pytest.mark.slow
def test_a_million_short_episodes(key):
    rng = np.random.default_rng(0)
    small = random_mdp(rng, horizon=3)
    logits = rng.normal(size=(3, 2))
    mdp = jaxpg.exact.FiniteMDP(
        small.transition, small.reward, small.initial, discount=small.discount, horizon=3, terminal=small.terminal
    )
    env = mdp.environment()
    estimate = jaxpg.policy_gradient(
        env, jaxpg.policies.tabular(env), num_episodes=1_000_000, weight=weights.reward_to_go(small.discount)
    )(key, jnp.asarray(logits, jnp.float32))
    traj = enumerate_trajectories(small, logits)
    length = traj.probability @ traj.length
    assert int(estimate.num_episodes) == 1_000_000
    np.testing.assert_allclose(estimate.episode_length, length, rtol=0.01)
    want = mdp.policy_gradient(jaxpg.policies.tabular(env), jnp.asarray(logits, jnp.float32))
    z = (np.asarray(estimate.gradient) - np.asarray(want))[:2] / np.sqrt(np.asarray(estimate.variance))[:2]
    assert np.abs(z).max() < 5


# --- Devices ----------------------------------------------------------------------------------------------------------

DEVICES = """
import jax, numpy as np, jaxpg
from jaxpg import baselines
env = jaxpg.make("CartPole-v1", max_steps=40)
policy = jaxpg.policies.mlp(env, (16,))
params = policy.init(jax.random.key(1))
devices = jax.devices()
meshes = [None, jax.make_mesh((2,), ("episodes",), devices=devices[:2]), jax.make_mesh((4, 2), ("a", "b"))]
for baseline in (baselines.none(), baselines.leave_one_out(group_size=10)):  # 211 leaves a remainder of one.
    estimates = [jaxpg.policy_gradient(env, policy, num_episodes=211, baseline=baseline, mesh=mesh)(
        jax.random.key(3), params) for mesh in meshes]
    for other in estimates[1:]:
        for name in ("gradient", "variance", "objective", "objective_error", "episode_return", "num_steps",
                     "num_episodes", "gradient_norm_error"):
            for x, y in zip(jax.tree.leaves(getattr(other, name)), jax.tree.leaves(getattr(estimates[0], name))):
                x, y = np.asarray(x), np.asarray(y)
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * np.abs(y).max(), err_msg=name)
keys = jax.random.split(jax.random.key(0), 2)
gradient = jaxpg.policy_gradient(env, policy, num_episodes=32, mesh=meshes[1])
mapped = jax.jit(jax.vmap(gradient, (0, None)))(keys, params)
one = gradient(keys[1], params)
for x, y in zip(jax.tree.leaves(mapped.gradient), jax.tree.leaves(one.gradient)):
    np.testing.assert_allclose(np.asarray(x)[1], np.asarray(y), rtol=1e-4, atol=1e-5)
for n, group_size in ((20, 10), (3, 2), (9, 4), (31, 10)):
    options = dict(num_episodes=n, baseline=baselines.leave_one_out(group_size))
    one = jaxpg.policy_gradient(env, policy, **options)(keys[0], params)
    many = jaxpg.policy_gradient(env, policy, mesh=meshes[2], **options)(keys[0], params)
    assert int(many.num_episodes) == n
    np.testing.assert_allclose(many.gradient_norm, one.gradient_norm, rtol=1e-4)
scaled = jax.jit(lambda c: jaxpg.policy_gradient(env, policy, num_episodes=32, mesh=meshes[1],
                 baseline=baselines.constant(c))(keys[1], params))(2.0)
print("same", len(devices))
"""


@pytest.mark.slow
def test_devices_give_the_same_estimate(run_in_subprocess):
    assert "same 8" in run_in_subprocess(DEVICES, devices=8)


WEIGHTS_BY_DISCOUNT = {
    "total return": lambda discount, value, q: weights.total_return(discount),
    "reward-to-go": lambda discount, value, q: weights.reward_to_go(discount),
    "gae": lambda discount, value, q: weights.gae(discount, 0.7, value),
    "n-step": lambda discount, value, q: weights.n_step(discount, 2, value),
    "all actions": lambda discount, value, q: weights.all_action(discount, q),
}


@pytest.mark.parametrize("name", list(WEIGHTS_BY_DISCOUNT))
def test_derivative_in_the_discount(name, x64):
    """Forward mode gives the estimate's own derivative: that of finite differences of the same episodes."""
    env = jaxpg.exact.chain(3, horizon=4).environment()
    policy = jaxpg.policies.tabular(env)
    params = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))

    def gradient(discount):
        weight = WEIGHTS_BY_DISCOUNT[name](discount, lambda s: 0.3 * s, lambda s, a: 0.2 * s - a)
        return jaxpg.policy_gradient(env, policy, num_episodes=16, weight=weight)(jax.random.key(0), params).gradient

    found = jax.jvp(gradient, (0.8,), (1.0,))[1]
    want = (gradient(0.8 + 1e-5) - gradient(0.8 - 1e-5)) / 2e-5
    assert np.abs(want).max() > 1e-2
    np.testing.assert_allclose(found, want, atol=1e-7)
