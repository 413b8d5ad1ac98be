"""PGPE: gradients of the smoothed objective in closed form, pairs that share their episodes, and whole runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from test_trust_region import line, scores

import jaxpg
from jaxpg._threefry import fold_in
from jaxpg.algorithms.pgpe import pgpe, shaped
from jaxpg.envs import Box, Environment, Timestep
from jaxpg.policies import DiagonalNormal
from jaxpg.policies.normalization import normalized
from jaxpg.policies.recurrent import recurrent

CURVATURE, CENTRE, SLOPE = np.array([0.5, 2.0]), np.array([1.0, -0.5]), np.array([0.3, 1.0])
MEAN, STD = np.array([0.2, 0.4]), 0.7


def quadratic(noise=0.0):
    """One step: the reward of action a is −Σ h (a − c)² + g·a, with noise of its own."""

    def reset(key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(key, state, action):
        reward = -jnp.sum(CURVATURE * (action - CENTRE) ** 2) + jnp.sum(SLOPE * action)
        reward = reward + noise * jax.random.normal(key)
        return state, Timestep(jnp.zeros(1), reward, jnp.ones((), bool), jnp.zeros((), bool))

    return Environment(
        reset=reset, step=step, observation_space=Box(-1, 1, (1,)), action_space=Box(-1e3, 1e3, (2,)), max_steps=1
    )


def point():
    """The policy whose mode is its parameters."""
    return jaxpg.Policy(
        init=lambda key: jnp.asarray(MEAN), apply=lambda params, observation: DiagonalNormal(params, jnp.zeros(2))
    )


def ascents(key, replicates=4000, updates=1, noise=0.0, **options):
    """The estimates of (∇_μ, ∇_{log σ}) at μ = MEAN, σ = STD by independent keys, [replicates, 4]."""
    algorithm = pgpe(
        quadratic(noise), point(), initial_std=STD, optimizer=optax.sgd(1.0), std_optimizer=optax.sgd(1.0),
        **{"num_perturbations": 4, "shaping": "none"} | options,
    )  # fmt: skip

    def estimate(key):
        state = start = algorithm.init(key)
        for _ in range(updates):
            before = state._replace(params=start.params, log_std=start.log_std)
            state, metrics = algorithm.step(before)
        change = (state.params - before.params, state.log_std - before.log_std)
        return jnp.concatenate(change), metrics["nonfinite"]

    estimates, nonfinite = jax.jit(jax.vmap(estimate))(jax.random.split(key, replicates))
    assert not np.asarray(nonfinite).any()
    return np.asarray(estimates, np.float64)


def p_value(estimates, truth):
    n, p = estimates.shape
    error = estimates.mean(0) - truth
    t2 = n * error @ np.linalg.solve(np.cov(estimates.T), error)
    return stats.f.sf(t2 * (n - p) / (p * (n - 1)), p, n - p)


TRUTH = np.concatenate([-2 * CURVATURE * (MEAN - CENTRE) + SLOPE, -2 * CURVATURE * STD**2])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"antithetic": False},
        {"baseline": "none"},
        {"antithetic": False, "baseline": "moving", "updates": 3},
        {"noise": 1.0, "episodes_per_perturbation": 2},
    ],
    ids=str,
)
def test_gradients_of_the_smoothed_objective(key, options, x64):
    """J(μ, σ) = −Σ h ((μ − c)² + σ²) + g·μ: the mean over keys, all four coordinates at once."""
    estimates = ascents(key, **options)
    assert p_value(estimates, TRUTH) > 0.01
    assert p_value(estimates, TRUTH * np.array([1, 1, 1, 0.8])) < 1e-3  # The test has power.


@pytest.mark.slow
def test_a_baseline_lowers_the_variance(key, x64):
    """That of ∇_{log σ}, and of ∇_μ where there are no pairs; in pairs ∇_μ does without."""
    for antithetic in (True, False):
        with_, without = (
            ascents(key, 2000, antithetic=antithetic, baseline=b).var(0) for b in ("leave_one_out", "none")
        )
        assert (with_[2:] < without[2:]).all()
        assert np.allclose(with_[:2], without[:2]) if antithetic else (with_[:2] < without[:2]).all()


def test_shaping_is_biased(key, x64):
    """Ranks and standardised returns are not estimates of ∇J, only of a direction like it."""
    for shaping in ("ranks", "standardize"):
        estimates = ascents(key, shaping=shaping)
        assert p_value(estimates, TRUTH) < 1e-6
        assert (np.sign(estimates.mean(0)) == np.sign(TRUTH)).all()


def test_ranks():
    fitness = jnp.array([[3.0, -1.0, 7.0], [7.0, 100.0, 2.0]])
    np.testing.assert_allclose(shaped(fitness, "ranks"), np.array([[2, 0, 3.5], [3.5, 5, 1]]) / 5 - 0.5, rtol=1e-6)
    np.testing.assert_allclose(shaped(jnp.ones((2, 3)), "ranks"), 0.0, atol=1e-7)
    np.testing.assert_allclose(shaped(jnp.ones((2, 3)), "standardize"), 0.0)
    x = np.asarray(shaped(fitness, "standardize"))
    np.testing.assert_allclose([x.mean(), x.std()], [0.0, 1.0], atol=1e-6)


def test_the_two_of_a_pair_play_the_same_episodes(key):
    """Where the policy does not matter their returns are equal, whatever the noise: μ does not move at all."""
    env = quadratic(noise=10.0)
    idle = dataclasses.replace(env, step=lambda k, s, a: env.step(k, s, jnp.zeros(2)))
    state, metrics = moved(idle, key)
    assert np.array_equal(state[0].params, state[1].params) and float(metrics["fitness_std"]) > 1.0
    state, _ = moved(idle, key, antithetic=False)
    assert not np.array_equal(state[0].params, state[1].params)


def moved(env, key, **options):
    algorithm = pgpe(env, point(), shaping="none", optimizer=optax.sgd(1.0), **options)
    state = algorithm.init(key)
    after, metrics = jax.jit(algorithm.step)(state)
    return (state, after), metrics


def test_steps_and_episodes_are_counted(key):
    env = line(5)
    algorithm = pgpe(env, jaxpg.policies.mlp(env, (3,)), num_perturbations=3, episodes_per_perturbation=2, discount=0.9)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(key))
    assert int(metrics["num_episodes"]) == 12 and int(metrics["env_steps"]) == 60
    assert float(metrics["episode_length"]) == 5.0
    assert int(state.update) == 1 and algorithm.config["num_perturbations"] == 3
    assert int(metrics["nonfinite_lane"]) == int(metrics["nonfinite_episode"]) == -1


def test_an_update_that_meets_nan_is_not_applied_and_names_the_episode(key):
    """Some initial states lead to NaN; draws and episodes are named as the docstring says."""
    env = line(3)

    def is_bad(position):
        return position > 1.0

    def step(key, state, action):
        after, timestep = env.step(key, state, action)
        bad = (state[1] == 0) & is_bad(state[0])
        return after, timestep._replace(reward=jnp.where(bad, jnp.nan, timestep.reward))

    broken = dataclasses.replace(env, step=step)
    algorithm = pgpe(broken, jaxpg.policies.mlp(env, (3,)), num_perturbations=3, episodes_per_perturbation=4)
    state = algorithm.init(key)
    after, metrics = jax.jit(algorithm.step)(state)
    episodes = algorithm.episode_key(after)
    bad = [
        (i, j)
        for i in range(3)
        for j in range(4)
        if is_bad(env.reset(fold_in(fold_in(fold_in(episodes, i), j), 0))[0][0])
    ]
    assert bad and int(metrics["nonfinite"]) == 2 * len(bad) + 1  # Both signs, and the gradient.
    assert (int(metrics["nonfinite_lane"]), int(metrics["nonfinite_episode"])) == bad[0]
    jax.tree.map(np.testing.assert_array_equal, after._replace(key=None, update=0), state._replace(key=None, update=0))
    assert int(after.update) == 1


def test_what_is_not_trainable_is_neither_perturbed_nor_changed(key):
    env = quadratic()
    policy = jaxpg.Policy(
        init=lambda key: {"a": jnp.asarray(MEAN, jnp.float32), "b": jnp.zeros(2)},
        apply=lambda params, observation: DiagonalNormal(params["a"] + 1e3 * params["b"], jnp.zeros(2)),
        trainable=lambda params: {"a": True, "b": False},
    )
    algorithm = pgpe(env, policy, initial_std=0.5)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(key))
    assert not state.params["b"].any() and np.allclose(state.log_std["b"], np.log(0.5))
    assert state.params["a"].any() and not np.allclose(state.log_std["a"], np.log(0.5))
    assert float(metrics["fitness_std"]) < 100 and float(metrics["std"]) == pytest.approx(0.5, rel=0.05)


def test_finds_the_optimum(key):
    """a* = c + g / 2h; σ shrinks on the way, as every perturbation costs."""
    algorithm = pgpe(quadratic(), point(), initial_std=0.5, learning_rate=0.05, std_learning_rate=0.02)
    run = jax.jit(lambda key: jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, length=200))
    state, metrics = run(key)
    np.testing.assert_allclose(state.params, CENTRE + SLOPE / (2 * CURVATURE), atol=0.05)
    assert float(metrics["std"][-1]) < 0.2


@pytest.mark.slow
def test_members_of_a_vmap_are_what_they_are_alone(key):
    def run(key, std):
        algorithm = pgpe(quadratic(1.0), point(), initial_std=std, num_perturbations=3)
        return jax.lax.scan(lambda s, _: algorithm.step(s), algorithm.init(key), None, length=3)[0].params

    keys, stds = jax.random.split(key, 2), jnp.array([0.1, 1.0])
    together, alone = jax.jit(jax.vmap(run))(keys, stds), jax.jit(run)(keys[1], stds[1])
    np.testing.assert_allclose(together[1], alone, rtol=1e-4)


@pytest.mark.slow
def test_policies_with_memory_and_with_noise(key):
    env = line(4)
    for policy, options in (
        (recurrent(env, "gru", 3, (4,), head_sizes=()), {}),
        (jaxpg.policies.mlp(env, (3,)), {"deterministic": False, "shaping": "ranks", "baseline": "moving"}),
    ):
        algorithm = pgpe(env, policy, num_perturbations=2, **options)
        _, metrics = jax.jit(algorithm.step)(algorithm.init(key))
        assert int(metrics["nonfinite"]) == 0


@pytest.mark.parametrize(
    "error, argument, options",
    [
        (ValueError, "num_perturbations", dict(num_perturbations=0)),
        (ValueError, "num_perturbations", dict(num_perturbations=1)),
        (ValueError, "episodes_per_perturbation", dict(episodes_per_perturbation=0)),
        (TypeError, "antithetic", dict(antithetic=1)),
        (ValueError, "initial_std", dict(initial_std=0.0)),
        (ValueError, "baseline", dict(baseline="value")),
        (ValueError, "shaping", dict(shaping="rank")),
        (TypeError, "deterministic", dict(deterministic="yes")),
        (ValueError, "std_optimizer", dict(std_optimizer=optax.sgd(1.0), std_learning_rate=1.0)),
        (ValueError, "optimizer", dict(optimizer=optax.sgd(1.0), learning_rate=1.0)),
        (ValueError, "std_learning_rate", dict(std_learning_rate=-1.0)),
    ],
)
def test_errors_name_the_argument(error, argument, options):
    with pytest.raises(error, match=argument):
        pgpe(quadratic(), point(), **options)


def test_policies_it_does_not_take():
    env = line()
    with pytest.raises(ValueError, match="policy"):
        pgpe(env, normalized(jaxpg.policies.mlp(env, (3,)), env))
    with pytest.raises(ValueError, match="max_steps"):
        pgpe(dataclasses.replace(env, max_steps=None), jaxpg.policies.mlp(env, (3,)))


@pytest.mark.slow
@pytest.mark.learning
def test_learns_cartpole():
    """Within 60 updates of 32 episodes, from its defaults; the result acts as it was trained, without noise. All of 16
    runs end at 500."""
    env = jaxpg.make("CartPole-v1")
    returns, steps = scores(pgpe, env, jaxpg.policies.mlp(env), num_updates=60, seeds=4, deterministic=True)
    assert steps <= 60 * 32 * 500
    assert (returns >= 400).all(), returns
