"""V-MPO: its losses against plain numpy, its multipliers against their optima, and whole runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize, stats
from test_trust_region import line, scores

import jaxpg
from jaxpg.algorithms import v_mpo as module
from jaxpg.algorithms.v_mpo import better_half, divergences, e_step, v_mpo
from jaxpg.envs import Box, Discrete, Environment, Timestep
from jaxpg.policies import Categorical, DiagonalNormal, TanhNormal
from jaxpg.policies.recurrent import recurrent

SMALL = dict(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2)


# --- The E-step -------------------------------------------------------------------------------------------------------


def half_in_numpy(advantages, valid):
    rows = [i for i in range(advantages.size) if valid.flat[i]]
    rows.sort(key=lambda i: -advantages.flat[i])  # Stable: of equal ones the first.
    best = np.zeros(advantages.size, bool)
    best[rows[: (len(rows) + 1) // 2]] = True
    return best.reshape(advantages.shape)


@pytest.mark.parametrize("num_invalid", [0, 1, 5, 11])
def test_the_better_half_is_of_valid_rows(num_invalid):
    rng = np.random.default_rng(num_invalid)
    advantages = rng.normal(size=(4, 3)).round(1)
    valid = np.ones(12, bool)
    valid[rng.permutation(12)[:num_invalid]] = False
    valid = valid.reshape(4, 3)
    for held in (0.0, 100.0):  # Whatever the other rows hold: zeros among negative advantages would look good.
        given = np.where(valid, advantages - 2.0, held)
        best = np.asarray(better_half(jnp.asarray(given), jnp.asarray(valid)))
        assert np.array_equal(best, half_in_numpy(given, valid))
        assert best.sum() == (12 - num_invalid + 1) // 2 and not (best & ~valid).any()


def test_equal_advantages_are_cut_in_half_too():
    best = np.asarray(better_half(jnp.zeros((3, 2)), jnp.ones((3, 2), bool)))
    assert best.reshape(-1).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("eta", [0.05, 1.0, 20.0])
def test_weights_and_dual(eta, x64):
    advantages = np.random.default_rng(0).normal(size=(4, 5)) * 10
    best = half_in_numpy(advantages, np.ones((4, 5), bool))
    psi, loss = e_step(jnp.asarray(advantages), jnp.asarray(best), jnp.asarray(eta), 0.1)
    exponentials = np.where(best, np.exp(advantages / eta), 0.0)
    np.testing.assert_allclose(psi, exponentials / exponentials.sum(), rtol=1e-10)
    np.testing.assert_allclose(loss, eta * 0.1 + eta * np.log(exponentials.sum() / 10), rtol=1e-10)


def test_small_temperatures_do_not_overflow():
    psi, loss = e_step(jnp.array([1.0, 300.0]), jnp.array([True, True]), jnp.asarray(1e-8), 0.1)
    assert psi.tolist() == [0.0, 1.0] and np.isclose(loss, 300.0)
    slope = jax.grad(lambda eta: e_step(jnp.array([1.0, 300.0]), jnp.array([True, True]), eta, 0.1)[1])(1e-8)
    assert np.isfinite(slope)


@pytest.mark.parametrize("epsilon", [0.01, 0.3])
def test_the_best_temperature_solves_the_dual(epsilon, x64):
    """At the minimum of L_η the weights are ε_η away from uniform: the constraint of the E-step holds with equality."""
    advantages = jnp.asarray(np.random.default_rng(1).normal(size=16) * 3)
    best = better_half(advantages, jnp.ones(16, bool))
    loss = jax.jit(lambda log_eta: e_step(advantages, best, jnp.exp(log_eta), epsilon)[1])
    found = optimize.minimize_scalar(lambda x: float(loss(x)), bounds=(-5.0, 8.0), method="bounded",
                                     options={"xatol": 1e-10})  # fmt: skip
    psi, _ = e_step(advantages, best, jnp.exp(found.x), epsilon)
    weights = np.asarray(psi[best])
    np.testing.assert_allclose(stats.entropy(weights, np.full(8, 1 / 8)), epsilon, rtol=1e-4)
    slope = jax.grad(lambda eta: e_step(advantages, best, eta, epsilon)[1])(jnp.exp(found.x))
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


# --- The M-step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [DiagonalNormal, TanhNormal])
def test_divergences_of_normals_are_decoupled(family, x64):
    mean, other = np.array([0.3, -1.0]), np.array([0.5, 0.2])
    std, other_std = np.array([0.5, 2.0]), np.array([0.4, 3.0])
    old, new = family(jnp.asarray(mean), jnp.log(std)), family(jnp.asarray(other), jnp.log(other_std))
    means, deviations = divergences(old, new)
    np.testing.assert_allclose(means, 0.5 * np.sum((mean - other) ** 2 / std**2), rtol=1e-10)
    np.testing.assert_allclose(
        deviations, 0.5 * np.sum((std / other_std) ** 2 - 1 + 2 * np.log(other_std / std)), rtol=1e-10
    )


def test_divergence_of_others_is_their_own():
    old, new = Categorical(jnp.array([0.0, 1.0])), Categorical(jnp.array([2.0, 0.5]))
    p, q = (np.exp(x.logits) / np.exp(x.logits).sum() for x in (old, new))
    assert len(divergences(old, new)) == 1
    np.testing.assert_allclose(divergences(old, new)[0], np.sum(p * np.log(p / q)), rtol=1e-5)


def one_step(num_envs=16, **options):
    """One gradient step of rate 1 on a one-step problem: (before, after, the batch that it learnt from, metrics)."""
    reward = jnp.array([0.0, 1.0, 3.0])
    env = bandit(reward)
    policy, critic = jaxpg.policies.tabular(env), jaxpg.policies.value_tabular(env)
    algorithm = v_mpo(
        env, policy, critic, num_envs=num_envs, num_steps=1, num_epochs=1, num_minibatches=1, discount=1.0, lambda_=1.0,
        scale_rewards=False, optimizer=optax.sgd(1.0), **options,
    )  # fmt: skip
    before = algorithm.init(jax.random.key(2))._replace(params=jnp.array([[0.3, -0.2, -1.0]]))
    after, metrics = jax.jit(algorithm.step)(before)
    _, segment = jaxpg.segments.segment(env, policy, before.params, before.lanes, 1)
    return before, after, segment.trajectory, metrics


def bandit(rewards):
    def step(key, state, action):
        return state, Timestep(jnp.zeros((), jnp.int32), rewards[action], jnp.ones((), bool), jnp.zeros((), bool))

    start = lambda key: (jnp.zeros(()), jnp.zeros((), jnp.int32))  # noqa: E731
    return Environment(
        reset=start, step=step, observation_space=Discrete(1), action_space=Discrete(len(rewards)), max_steps=1
    )


def test_one_gradient_step_is_that_of_the_paper(x64):
    """At θ = θ_old the divergence has no slope: θ moves by Σ ψ ∇ log π, η and α down the slopes of their losses."""
    eta, alpha, epsilon_eta, epsilon_alpha = 0.7, 2.0, 0.1, 0.05
    before, after, t, metrics = one_step(
        epsilon_eta=epsilon_eta, epsilon_alpha=epsilon_alpha, initial_temperature=eta, initial_alpha=alpha
    )
    action, advantage = np.asarray(t.action[0]), np.asarray(t.reward[0])  # V = 0.
    best = half_in_numpy(advantage, np.ones(16, bool))
    assert len(set(advantage[best])) > 1  # Else ψ would not depend on η.
    psi = np.where(best, np.exp(advantage / eta), 0.0)
    psi /= psi.sum()
    pi = np.exp(before.params[0]) / np.exp(before.params[0]).sum()
    ascent = sum(weight * (np.eye(3)[a] - pi) for weight, a in zip(psi, action))
    np.testing.assert_allclose(after.params[0] - before.params[0], ascent, rtol=1e-6, atol=1e-10)
    np.testing.assert_allclose(metrics["policy_loss"], -np.sum(psi * np.log(pi[action])), rtol=1e-6)
    # dL_η/dη = ε + log mean exp(A/η) − Σ ψ A / η.
    slope = epsilon_eta + np.log(np.mean(np.exp(advantage[best] / eta))) - np.sum(psi * advantage) / eta
    np.testing.assert_allclose(metrics["temperature"], eta - slope, rtol=1e-6)
    np.testing.assert_allclose(metrics["alpha"], alpha - epsilon_alpha, rtol=1e-6)
    np.testing.assert_allclose(after.critic_params[0], np.mean(advantage), rtol=1e-6)


@pytest.mark.slow
def test_multipliers_stay_above_zero():
    _, after, _, metrics = one_step(initial_alpha=0.01, epsilon_alpha=5.0, epsilon_eta=50.0)
    assert float(metrics["alpha"]) == pytest.approx(module.LEAST)
    assert float(metrics["temperature"]) == pytest.approx(module.LEAST)
    assert after.learner.multipliers.temperature.shape == ()


@pytest.mark.slow
def test_alpha_rises_where_the_divergence_is_too_large(key):
    """α falls while the policy keeps within ε_α, and rises, and holds the policy back, where it does not."""
    env = bandit(jnp.array([0.0, 1.0, 3.0]))

    def run(epsilon_alpha, initial_alpha=1.0):
        algorithm = v_mpo(env, jaxpg.policies.tabular(env), num_envs=64, num_steps=1, num_epochs=30, num_minibatches=1,
                          epsilon_alpha=epsilon_alpha, initial_alpha=initial_alpha, learning_rate=0.05)  # fmt: skip
        return jax.jit(algorithm.step)(algorithm.init(key))[1]

    tight, loose = run(1e-4), run(10.0)
    assert float(tight["alpha"]) > 1.0 > float(loose["alpha"])
    assert float(tight["kl"]) < float(loose["kl"])
    assert float(run(1e-4, 100.0)["kl"]) < 0.1 * float(tight["kl"])


# --- Whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "shared value", pytest.param("memory", marks=pytest.mark.slow)])
def test_policies_of_all_kinds(key, kind):
    if kind == "normal":
        env = line(action_space=Box(-1.0, 1.0, (1,)))
        policy = jaxpg.policies.mlp(env, (4,), squash=True)
    else:
        env = line()
        policy = (
            jaxpg.policies.mlp(env, (4,), shared_value=True)
            if kind == "shared value"
            else recurrent(env, "gru", 3, (4,), head_sizes=())
        )
    algorithm = v_mpo(env, policy, **SMALL)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(key))
    assert int(metrics["nonfinite"]) == 0
    assert ({"kl_mean", "kl_std", "alpha_mean", "alpha_std"} <= set(metrics)) == (kind == "normal")
    assert all(np.isfinite(v) for name, v in metrics.items() if name != "episode_return")


@pytest.mark.slow
def test_what_is_not_trainable_stays(key):
    """Of the policy and of the critic, though their losses have slopes there."""
    env = line()

    def frozen(model):
        def trainable(params):
            return {**jax.tree.map(lambda _: True, params), "hidden_0": {"bias": True, "kernel": False}}

        return dataclasses.replace(model, trainable=trainable)

    policy, critic = jaxpg.policies.mlp(env, (4,), head_gain=1.0), jaxpg.policies.value_mlp(env, (4,))
    algorithm = v_mpo(env, frozen(policy), frozen(critic), **SMALL)
    state = algorithm.init(key)
    after, _ = jax.jit(algorithm.step)(state)
    for one, other in ((state.params, after.params), (state.critic_params, after.critic_params)):
        assert np.array_equal(one["hidden_0"]["kernel"], other["hidden_0"]["kernel"])
        assert not np.array_equal(one["hidden_0"]["bias"], other["hidden_0"]["bias"])
        assert not np.array_equal(one["head"]["kernel"], other["head"]["kernel"])


@pytest.mark.slow
@pytest.mark.learning
def test_reaches_the_optimal_value_of_a_gridworld():
    """Within 2% of the exact optimum, and of it alone: from the start the policy is far from it."""
    mdp = jaxpg.exact.gridworld(("S..", ".#.", "..G"), step_reward=-0.1, discount=0.95, horizon=12)
    env = mdp.environment()
    policy = jaxpg.policies.tabular(env)
    algorithm = v_mpo(env, policy, num_envs=32, num_steps=12, num_epochs=4, num_minibatches=1, discount=0.95,
                      learning_rate=0.05, epsilon_alpha=0.1)  # fmt: skip

    def run(key):
        return jax.lax.scan(lambda s, _: (algorithm.step(s)[0], None), algorithm.init(key), None, length=150)[0].params

    params = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 3))
    best = float(jnp.sum(mdp.initial * mdp.optimal_values()[0]))
    values = np.array([mdp.objective(policy, p) for p in params])
    first = float(mdp.objective(policy, policy.init(jax.random.key(0))))
    assert first < best - 0.5
    assert (best - values <= 0.02 * (best - first)).all(), (best, values, first)


@pytest.mark.slow
def test_members_of_a_vmap_are_what_they_are_alone(key):
    env = line()
    policy = jaxpg.policies.mlp(env, (4,))

    def run(key, rate):
        algorithm = v_mpo(env, policy, learning_rate=rate, **SMALL)
        return jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, length=2)[0].params

    keys, rates = jax.random.split(key, 2), jnp.array([1e-3, 1e-2])
    together, alone = jax.jit(jax.vmap(run))(keys, rates), jax.jit(run)(keys[1], rates[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-5), together, alone)


@pytest.mark.parametrize(
    "error, argument, options",
    [
        (ValueError, "epsilon_eta", dict(epsilon_eta=0.0)),
        (ValueError, "epsilon_alpha_std", dict(epsilon_alpha_std=-1.0)),
        (ValueError, "initial_temperature", dict(initial_temperature=0.0)),
        (ValueError, "num_minibatches", dict(num_minibatches=5, num_envs=4, num_steps=8)),
        (ValueError, "num_epochs", dict(num_epochs=0)),
        (ValueError, "optimizer", dict(optimizer=optax.sgd(1.0), learning_rate=1.0)),
    ],
)
def test_errors_name_the_argument(error, argument, options):
    env = line()
    with pytest.raises(error, match=argument):
        v_mpo(env, jaxpg.policies.mlp(env, (4,)), **options)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.learning
def test_learns_cartpole():
    """Within 150,000 steps, from its defaults: 16 of 16 runs end at 500."""
    env = jaxpg.make("CartPole-v1")
    returns, steps = scores(v_mpo, env, jaxpg.policies.mlp(env), num_updates=145)
    assert steps <= 150_000
    assert returns.mean() >= 450, returns
