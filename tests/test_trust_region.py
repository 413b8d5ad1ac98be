"""NPG and TRPO: against exact natural gradients, dense Fisher matrices, and divergences recomputed in plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from scipy import stats

import jaxpg
from jaxpg import natural
from jaxpg.algorithms import _trust_region
from jaxpg.algorithms._batch import Batch
from jaxpg.algorithms.npg import npg
from jaxpg.algorithms.trpo import line_search, trpo
from jaxpg.envs import Box, Discrete, Environment, Timestep
from jaxpg.exact import random_mdp
from jaxpg.policies.normalization import normalized
from jaxpg.policies.recurrent import recurrent

SMALL = dict(num_envs=4, num_steps=8, critic_epochs=1, critic_minibatches=2)


def line(max_steps=5, action_space=None, scale=1.0):
    """A point on a line, pushed left and right; episodes are truncated after `max_steps` steps."""
    action_space = action_space or Discrete(2)

    def observe(state):
        return jnp.stack([state[0], state[1] / max_steps])

    def reset(key):
        state = (jax.random.normal(key), jnp.zeros(()))
        return state, observe(state)

    def step(key, state, action):
        push = action * 2.0 - 1.0 if isinstance(action_space, Discrete) else action[0]
        position = state[0] + 0.3 * push + 0.1 * jax.random.normal(key)
        state = (position, state[1] + 1)
        never = jnp.zeros((), bool)
        return state, Timestep(observe(state), -scale * position**2, never, never)

    return Environment(
        reset=reset, step=step, observation_space=Box(-10, 10, (2,)), action_space=action_space, max_steps=max_steps
    )


def same(got, want, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, want)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


# --- The direction ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_npg_is_the_exact_natural_gradient_in_expectation(key, x64):
    """γ = λ = 1, V = 0, whole episodes of H steps: ĝ and F̂ are means over steps, 1/H of those over episodes.

    x = (F/H + λI)⁻¹ g/H = (F + HλI)⁻¹ g, up to a bias of order 1/N. The means of x over 120 replicates of 3,000
    episodes are held against it by Hotelling's T² over the coordinates that are free (the rows of x sum to 0).
    """
    horizon, damping, replicates, num_envs = 3, 0.02, 120, 3000
    mdp = random_mdp(jax.random.key(5), 3, 2, discount=1.0, horizon=horizon)
    env = mdp.environment()
    policy, critic = jaxpg.policies.tabular(env), jaxpg.policies.value_tabular(env)
    params = jax.random.normal(jax.random.key(6), (3, 2))
    algorithm = npg(
        env, policy, critic, num_envs=num_envs, num_steps=horizon, discount=1.0, lambda_=1.0, step_size=1.0,
        damping=damping, cg_iterations=8, cg_tolerance=1e-12, normalize_advantages=False, critic_epochs=1,
        critic_minibatches=1,
    )  # fmt: skip

    def direction(key):
        state, metrics = algorithm.step(algorithm.init(key)._replace(params=params))
        return (state.params - params, metrics["cg_residual"])

    x, residual = jax.jit(jax.vmap(direction))(jax.random.split(key, replicates))
    assert float(jnp.max(residual)) < 1e-8
    np.testing.assert_allclose(jnp.sum(x, -1), 0.0, atol=1e-8)
    free = np.asarray(x[..., 0])
    truth = np.asarray(mdp.natural_gradient(policy, params, damping=damping * horizon))[:, 0]

    def p_value(expected):
        error = free.mean(0) - expected
        t2 = replicates * error @ np.linalg.solve(np.cov(free.T), error)
        p = len(error)
        return stats.f.sf(t2 * (replicates - p) / (p * (replicates - 1)), p, replicates - p)

    assert p_value(truth) > 0.01
    # The test has power: without the factor H in the damping, or along the plain gradient, it fails.
    assert p_value(np.asarray(mdp.natural_gradient(policy, params, damping=damping))[:, 0]) < 1e-6
    assert p_value(np.asarray(mdp.policy_gradient(policy, params))[:, 0]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["discrete", "normal"])
def test_the_direction_solves_the_dense_system(key, kind, x64):
    """(F + λI) x = g with F and g of the valid rows alone, F from `natural` and g from the scores."""
    env = line(3, None if kind == "discrete" else Box(-1.0, 1.0, (1,)))
    policy = jaxpg.policies.mlp(env, (3,), head_gain=1.0)
    params = policy.init(key)
    _, segment = jaxpg.segments.segment(env, policy, params, jaxpg.segments.start_segments(env, policy, key, 3), 9)
    t = segment.trajectory
    assert 0 < int(t.valid.sum()) < t.valid.size
    advantages = jnp.where(t.valid, jax.random.normal(jax.random.key(1), t.valid.shape), 0.0)
    batch = Batch(
        t.observation, t.action, t.log_prob, t.reward, t.terminated, t.truncated, t.valid, t.time == 0, None, None,
        None, None,
    )  # fmt: skip
    change = _trust_region.surrogate(policy, params, batch, advantages)
    solution, gradient = _trust_region.natural_direction(policy, change, params, 0.1, 60, 1e-14)

    observations, weights = t.observation.reshape(-1, 2), (t.valid / t.valid.sum()).reshape(-1)
    flat, unravel = ravel_pytree(params)

    def product(vector):
        return ravel_pytree(
            natural.fisher_vector_product(policy, params, observations, unravel(vector), weights=weights)
        )[0]

    fisher = jax.vmap(product)(jnp.eye(len(flat)))

    def objective(theta):
        log_prob = jax.vmap(jax.vmap(lambda o, a: policy.apply(theta, o).log_prob(a)))(t.observation, t.action)
        return jnp.sum(jnp.where(t.valid, log_prob * advantages, 0.0)) / t.valid.sum()

    g = ravel_pytree(jax.grad(objective)(params))[0]
    x = np.linalg.solve(fisher + 0.1 * np.eye(len(flat)), g)
    np.testing.assert_allclose(ravel_pytree(gradient)[0], g, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ravel_pytree(solution.direction)[0], x, rtol=1e-7, atol=1e-10)
    np.testing.assert_allclose(solution.quadratic_form, x @ fisher @ x, rtol=1e-8)
    alpha = _trust_region.length_of_step(0.01, solution)
    np.testing.assert_allclose(alpha**2 * (x @ fisher @ x) / 2, 0.01, rtol=1e-8)


@pytest.mark.slow
def test_the_divergence_of_a_short_step_is_max_kl(key, x64):
    env = line()
    policy = jaxpg.policies.mlp(env, (4,), head_gain=1.0)
    algorithm = npg(env, policy, max_kl=1e-8, **SMALL)
    _, metrics = jax.jit(algorithm.step)(algorithm.init(key))
    np.testing.assert_allclose(metrics["kl"], 1e-8, rtol=1e-3)
    assert float(metrics["policy_loss"]) < 0


@pytest.mark.slow
def test_what_is_not_trainable_stays(key):
    env = line()
    policy = jaxpg.policies.mlp(env, (4,), head_gain=1.0)
    frozen = dataclasses.replace(
        policy, trainable=lambda p: {**jax.tree.map(lambda _: True, p), "hidden_0": {"bias": True, "kernel": False}}
    )
    algorithm = npg(env, frozen, jaxpg.policies.value_mlp(env, (4,)), max_kl=0.05, **SMALL)
    state = algorithm.init(key)
    after, metrics = jax.jit(algorithm.step)(state)
    assert np.array_equal(after.params["hidden_0"]["kernel"], state.params["hidden_0"]["kernel"])
    assert not np.array_equal(after.params["hidden_0"]["bias"], state.params["hidden_0"]["bias"])
    np.testing.assert_allclose(metrics["kl"], 0.05, rtol=0.3)

    algorithm = trpo(env, normalized(policy, env), normalized(jaxpg.policies.value_mlp(env, (4,)), env), **SMALL)
    state = algorithm.init(key)
    for _ in range(3):
        state, metrics = jax.jit(algorithm.step)(state)
        assert int(metrics["nonfinite"]) == 0
    # Counted once a row, with the steps alone moving the rest.
    assert float(state.params["observations"]["count"]) > 0


# --- The line search --------------------------------------------------------------------------------------------------


def parabola(best, curvature=1.0, gain=1.0):
    """A change along a line: the improvement is largest at α = best and negative beyond 2 best; KL = curvature α²."""

    def change(alpha):
        return _trust_region.Change(gain * alpha * (2 * best - alpha), curvature * alpha**2, jnp.zeros(()))

    return change


def search(change, first=1.0, max_kl=1.0, most=10, factor=0.5):
    return line_search(change, jnp.asarray(first), max_kl, most, factor)


def test_line_search_takes_the_first_step_that_is_within_and_better():
    found = search(parabola(best=10.0))
    assert bool(found.accepted) and float(found.step_size) == 1.0 and int(found.tried) == 1
    found = search(parabola(best=10.0), max_kl=0.1)  # α = ½ has KL ¼, α = ¼ has 1/16.
    assert bool(found.accepted) and float(found.step_size) == 0.25 and int(found.tried) == 3
    found = search(parabola(best=0.2))  # α = ½ is past 2 best = 0.4.
    assert bool(found.accepted) and float(found.step_size) == 0.25


def test_line_search_refuses_what_does_not_improve():
    for change in (
        parabola(best=-1.0),
        parabola(best=1.0, gain=0.0),  # Equal is not better.
        parabola(best=1.0, gain=jnp.nan),
        parabola(best=1.0, curvature=jnp.nan),
        parabola(best=1.0, curvature=1e9),
    ):
        found = search(change)
        assert not bool(found.accepted) and float(found.step_size) == 0.0 and int(found.tried) == 10


def test_line_search_under_vmap():
    best = jnp.array([10.0, 0.2, -1.0, 0.01, 0.5])
    together = jax.vmap(lambda b: search(parabola(b)))(best)
    for index, b in enumerate(best):
        same(jax.tree.map(lambda x: x[index], together), search(parabola(b)), rtol=1e-6)  # noqa: B023


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["discrete", "normal", *(pytest.param(k, marks=pytest.mark.slow) for k in ("squashed", "memory"))]
)
def test_the_divergence_of_every_accepted_step_is_within_max_kl(key, kind):
    """Recomputed from the distributions before and after, in plain numpy."""
    env = line(4, None if kind in ("discrete", "memory") else Box(-1.0, 1.0, (1,)))
    if kind == "memory":
        policy = recurrent(env, "gru", 3, (4,), head_sizes=(), head_gain=1.0)
    else:
        policy = jaxpg.policies.mlp(env, (4,), head_gain=1.0, squash=kind == "squashed")
    # Big steps and little damping: at α the quadratic model is wrong often.
    algorithm = trpo(env, policy, max_kl=0.3, damping=1e-3, backtrack_factor=0.7, **SMALL)
    step, tried = jax.jit(algorithm.step), []
    play = jax.jit(lambda state: jaxpg.segments.segment(env, policy, state.params, state.lanes, 8)[1].trajectory)
    measure = jax.jit(lambda *arguments: distributions(policy, *arguments))
    for seed in range(2):
        state = algorithm.init(jax.random.key(seed))
        for _ in range(12):
            t = play(state)
            after, metrics = step(state)
            kl = divergence(*(measure(p, state.lanes.lanes.carry, t) for p in (state.params, after.params)), t.valid)
            np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-3, atol=1e-6)
            assert kl <= 0.3 * (1 + 1e-3)
            if int(metrics["accepted"]):
                assert kl > 0 and float(metrics["improvement"]) > 0
            else:
                same(after.params, state.params, rtol=0)
            tried.append(int(metrics["line_search_step"]))
            state = after
    assert min(tried) == 0 and max(tried) > 0, tried  # Both the whole step and shorter ones were taken.


def distributions(policy, params, carry, trajectory):
    """Those of all rows, [step, lane]."""
    if policy.initial_carry is None:
        return jax.vmap(jax.vmap(lambda o: policy.apply(params, o)))(trajectory.observation)

    def lane(observations, starts, carry):
        return policy.unroll(params, observations, starts, carry)[0]

    return jax.vmap(lane, (1, 1, 0), 1)(trajectory.observation, trajectory.time == 0, carry)


def divergence(old, new, valid):
    """The mean of KL(old ‖ new) over valid rows, in plain numpy."""
    if hasattr(old, "logits"):
        first, second = log_softmax(old.logits), log_softmax(new.logits)
        kl = (np.exp(first) * (first - second)).sum(-1)
    else:
        mean, std, other_mean, other_std = (
            np.asarray(x, np.float64) for x in (old.mean, np.exp(old.log_std), new.mean, np.exp(new.log_std))
        )
        kl = (np.log(other_std / std) + (std**2 + (mean - other_mean) ** 2) / (2 * other_std**2) - 0.5).sum(-1)
    return kl[np.asarray(valid)].mean()


@pytest.mark.slow
def test_no_gradient_no_step(key):
    env = line(scale=0.0)
    for make in (npg, trpo):
        algorithm = make(env, jaxpg.policies.mlp(env, (4,)), zero_critic(env), **SMALL)
        state = algorithm.init(key)
        after, metrics = jax.jit(algorithm.step)(state)
        assert int(metrics["nonfinite"]) == 0
        same(after.params, state.params, rtol=0)
        assert all(np.isfinite(v) for k, v in metrics.items() if k not in ("episode_return", "explained_variance"))
    assert int(metrics["accepted"]) == 0 and int(metrics["line_search_step"]) == 10


def zero_critic(env):
    return jaxpg.Critic(init=lambda key: {"w": jnp.zeros(())}, apply=lambda params, observation: params["w"])


# --- Whole algorithms -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", [npg, trpo])
def test_members_of_a_vmap_are_what_they_are_alone(key, make):
    """Over keys and a traced max_kl at once."""
    env = line()
    policy = jaxpg.policies.mlp(env, (4,), head_gain=1.0)

    def run(key, max_kl):
        algorithm = make(env, policy, max_kl=max_kl, damping=0.1, **SMALL)
        return jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, length=3)

    keys, kls = jax.random.split(key, 3), jnp.array([0.001, 0.5, 0.02])
    states, metrics = jax.jit(jax.vmap(run))(keys, kls)
    alone, alone_metrics = jax.jit(run)(keys[1], kls[1])
    same(jax.tree.map(lambda x: x[1], states.params), alone.params, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["kl"][1], alone_metrics["kl"], rtol=2e-2, atol=1e-6)


def test_a_run_that_meets_nan_keeps_its_parameters(key):
    good = line()

    def step(key, state, action):
        after, timestep = good.step(key, state, action)
        return after, timestep._replace(reward=jnp.where(state[1] == 3, jnp.nan, timestep.reward))

    env = dataclasses.replace(good, step=step)
    algorithm = trpo(env, jaxpg.policies.mlp(env, (4,)), **SMALL)
    state = algorithm.init(key)
    after, metrics = jax.jit(algorithm.step)(state)
    assert int(metrics["nonfinite"]) > 0 and int(metrics["nonfinite_lane"]) == 0
    same((after.params, after.critic_params, after.learner), (state.params, state.critic_params, state.learner), rtol=0)


@pytest.mark.slow
def test_the_critic_is_fitted_in_whole_lanes_where_it_has_a_memory(key):
    env = line()
    policy = recurrent(env, "gru", 3, (4,), head_sizes=())
    algorithm = npg(env, policy, num_envs=4, num_steps=8, critic_epochs=20, critic_minibatches=2,
                    critic_learning_rate=0.01, step_size=1e-9)  # fmt: skip
    state, losses = algorithm.init(key), []
    for _ in range(8):
        state, metrics = jax.jit(algorithm.step)(state)
        losses.append(float(metrics["value_loss"]))
        assert int(metrics["nonfinite"]) == 0
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3]), losses


@pytest.mark.parametrize(
    "error, argument, make",
    [
        (ValueError, "max_kl", lambda e, p: npg(e, p, max_kl=0.01, step_size=0.1)),
        (ValueError, "max_kl", lambda e, p: trpo(e, p, max_kl=0.0)),
        (ValueError, "step_size", lambda e, p: npg(e, p, step_size=-1.0)),
        (ValueError, "damping", lambda e, p: npg(e, p, damping=-0.1)),
        (ValueError, "backtrack_factor", lambda e, p: trpo(e, p, backtrack_factor=1.0)),
        (ValueError, "line_search_steps", lambda e, p: trpo(e, p, line_search_steps=0)),
        (ValueError, "cg_iterations", lambda e, p: npg(e, p, cg_iterations=0)),
        (ValueError, "critic_minibatches", lambda e, p: npg(e, p, num_envs=3, num_steps=5, critic_minibatches=4)),
        (ValueError, "critic_optimizer", lambda e, p: npg(e, p, critic_optimizer=optax.sgd(1), critic_learning_rate=1)),
        (TypeError, "critic_optimizer", lambda e, p: npg(e, p, critic_optimizer="adam")),
        (TypeError, "normalize_advantages", lambda e, p: trpo(e, p, normalize_advantages="batch")),
        (ValueError, "shared_value", lambda e, p: trpo(e, jaxpg.policies.mlp(e, (4,), shared_value=True))),
        (TypeError, "policy", lambda e, p: npg(e, None)),
        (TypeError, "env", lambda e, p: npg(None, p)),
    ],
)
def test_errors_name_the_argument(error, argument, make):
    env = line()
    with pytest.raises(error, match=argument):
        make(env, jaxpg.policies.mlp(env, (4,)))


def test_distributions_without_a_divergence_are_refused(key):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Odd:
        p: jax.Array

        def sample(self, key):
            return jax.random.bernoulli(key, self.p).astype(jnp.int32)

        def log_prob(self, action):
            return jnp.log(jnp.where(action == 1, self.p, 1 - self.p))

    env = line()
    policy = jaxpg.Policy(init=lambda key: jnp.zeros(2), apply=lambda params, o: Odd(jax.nn.sigmoid(o @ params)))
    algorithm = npg(env, policy, jaxpg.policies.value_mlp(env, (4,)), **SMALL)
    with pytest.raises(TypeError, match="kl_divergence"):
        algorithm.step(algorithm.init(key))


def scores(make, env, policy, num_updates, seeds=8, deterministic=False):
    """The mean returns of evaluated policies, [seeds], and the steps that each run took."""
    algorithm = make(env, policy)

    def run(key):
        state, metrics = jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, length=num_updates)
        return state.params, jnp.sum(metrics["env_steps"])

    params, steps = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))
    keys = jax.random.split(jax.random.key(1), seeds)
    returns = jax.vmap(
        lambda k, p: jaxpg.evaluate(k, env, policy, p, num_episodes=64, deterministic=deterministic).returns.mean()
    )(keys, params)
    return np.asarray(returns), int(jnp.max(steps))


@pytest.mark.slow
@pytest.mark.learning
@pytest.mark.parametrize("make", [npg, trpo])
def test_learns_cartpole(make):
    """Within 60,000 steps, from its defaults: a mean of 484 (NPG, one of 16 below 450) and 497 (TRPO)."""
    env = jaxpg.make("CartPole-v1")
    returns, steps = scores(make, env, jaxpg.policies.mlp(env), num_updates=58)
    assert steps <= 60_000
    assert returns.mean() >= 430, returns
