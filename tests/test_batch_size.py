"""`jaxpg.batch_size`: noise scales, the cosine curve and required batch sizes against exact values; bad input."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from auditing import problems, stack
from scipy import stats

import jaxpg
from jaxpg import batch_size, weights
from jaxpg.batch_size import NoiseScale, cosine_similarity_curve, required_episodes, two_batch_noise_scale
from jaxpg.comparison import replicates

PROBLEMS = problems(num_mdps=8)
DISCOUNT = PROBLEMS[0].mdp.discount
WEIGHT = weights.reward_to_go(DISCOUNT)
REPLICATES = 4000
SMALL, LARGE = 3, 12


@functools.cache
def sampled():
    """For each MDP: ‖∇J‖² and tr Σ, exact; estimates of R replicates from n and from N episodes."""
    arrays, logits = stack(PROBLEMS)

    def of_mdp(arrays, logits, key):
        mdp = jaxpg.exact.FiniteMDP(**arrays, discount=DISCOUNT, horizon=PROBLEMS[0].mdp.horizon)
        env = mdp.environment()
        policy = jaxpg.policies.tabular(env)
        truth = (
            jnp.sum(mdp.policy_gradient(policy, logits) ** 2),
            jnp.trace(mdp.covariance(policy, logits, weight=WEIGHT)),
        )
        small, large = (jaxpg.policy_gradient(env, policy, num_episodes=n, weight=WEIGHT) for n in (SMALL, LARGE))
        few, many = (jax.random.split(jax.random.fold_in(key, i), REPLICATES) for i in range(2))
        return truth, jax.vmap(small, (0, None))(few, logits), jax.vmap(large, (0, None))(many, logits)

    keys = jax.random.split(jax.random.key(3), len(PROBLEMS))
    return jax.jit(jax.vmap(of_mdp))(arrays, logits, keys)


def of_mdp(tree, k):
    return jax.tree.map(lambda x: x[k], tree)


def joint_p_value(estimate):
    """χ² of (‖∇J‖², tr Σ) estimates [K, R] against the exact values, over all MDPs."""
    truth, small, large = sampled()
    t_squared = 0.0
    for k in range(len(PROBLEMS)):
        found = np.stack([np.asarray(x, np.float64) for x in estimate(of_mdp(small, k), of_mdp(large, k))])
        difference = found.mean(1) - np.array([float(x[k]) for x in truth])
        t_squared += REPLICATES * difference @ np.linalg.solve(np.cov(found), difference)
    return stats.chi2.sf(t_squared, 2 * len(PROBLEMS))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_batches_have_no_bias():
    def each(small, large):
        pairs = jax.vmap(two_batch_noise_scale)(small, large)  # One pair at a time.
        return pairs.squared_norm, pairs.trace

    assert joint_p_value(each) > 1e-3

    def swapped(small, large):
        pairs = jax.vmap(lambda a, b: two_batch_noise_scale(a.gradient, b.gradient, SMALL, LARGE))(large, small)
        return pairs.squared_norm, pairs.trace

    assert joint_p_value(swapped) < 1e-6


@pytest.mark.slow
def test_one_batch_has_no_bias():
    def each(small, large):
        found = jax.vmap(batch_size.noise_scale)(large)
        return found.squared_norm, found.trace

    assert joint_p_value(each) > 1e-3


@pytest.mark.slow
def test_replicates_are_averaged_before_the_ratio():
    """Pooled noise scales against the exact ones, relative to their linearised errors: one χ² over the MDPs."""
    truth, small, large = sampled()
    for pooled in (lambda k: two_batch_noise_scale(of_mdp(small, k), of_mdp(large, k)),
                   lambda k: batch_size.noise_scale(of_mdp(large, k))):  # fmt: skip
        total = 0.0
        for k in range(len(PROBLEMS)):
            squared_norm, trace = (float(x[k]) for x in truth)
            found = pooled(k)
            np.testing.assert_allclose(found.noise_scale, found.trace / found.squared_norm, rtol=1e-5)
            assert abs(found.squared_norm - squared_norm) < 4.5 * found.squared_norm_error
            assert abs(found.trace - trace) < 4.5 * found.trace_error
            relative = np.hypot(found.squared_norm_error / squared_norm, found.trace_error / trace)
            total += (math.log(found.noise_scale * squared_norm / trace) / relative) ** 2
        assert total < stats.chi2.isf(1e-3, len(PROBLEMS)), total


@pytest.mark.slow
def test_one_estimate_has_the_noise_scale_that_it_states():
    _, _, large = sampled()
    one = of_mdp(of_mdp(large, 0), slice(0, 50))
    found = jax.vmap(batch_size.noise_scale)(one)
    np.testing.assert_allclose(found.noise_scale, one.noise_scale, rtol=1e-3)
    assert np.isnan(found.trace_error).all()


def test_two_batches_by_hand():
    """‖G_n‖² = 9, n = 2; ‖G_N‖² = 4, N = 10: ‖∇J‖² = (40 − 18)/8, tr Σ = 5/(1/2 − 1/10)."""
    small, large = {"a": jnp.array([2.0, 2.0]), "b": jnp.array(1.0)}, {"a": jnp.array([0.0, 2.0]), "b": jnp.array(0.0)}
    found = two_batch_noise_scale(small, large, 2, 10)
    np.testing.assert_allclose(found[:3], [12.5 / 2.75, 2.75, 12.5], rtol=1e-6)
    again = jax.jit(two_batch_noise_scale)(small, large, 2, 10)
    np.testing.assert_allclose(again[:3], found[:3], rtol=1e-6)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), (small, large))
    replicated = two_batch_noise_scale(*twice, 2, 10, replicated=True)
    np.testing.assert_allclose(replicated, [*found[:3], 0.0, 0.0], rtol=1e-6)
    no_signal = two_batch_noise_scale({"a": jnp.ones(4)}, {"a": jnp.full(4, 0.1)}, 2, 10)
    assert no_signal.noise_scale == math.inf and no_signal.squared_norm < 0


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.learning
def test_cosine_curve():
    """For large N: E cos = 1 − (tr Σ − uᵀΣu) / (2N‖∇J‖²) + O(N⁻²), u = ∇J/‖∇J‖; the largest of two |z| below 4."""
    problem = max(PROBLEMS, key=lambda p: np.linalg.norm(p.mdp.reward))
    mdp = jaxpg.exact.FiniteMDP(
        problem.mdp.transition, problem.mdp.reward, problem.mdp.initial, discount=DISCOUNT,
        horizon=problem.mdp.horizon, terminal=problem.mdp.terminal,
    )  # fmt: skip
    env = mdp.environment()
    policy, params = jaxpg.policies.tabular(env), jnp.asarray(problem.logits)
    gradient = np.asarray(mdp.policy_gradient(policy, params), np.float64).ravel()
    covariance = np.asarray(mdp.covariance(policy, params, weight=WEIGHT), np.float64)
    squared_norm = gradient @ gradient
    scale = np.trace(covariance) / squared_norm
    across = scale - gradient @ covariance @ gradient / squared_norm**2
    sizes = [int(50 * scale), int(200 * scale)]
    curve = cosine_similarity_curve(
        env, policy, params, jax.random.key(4), num_episodes=sizes, num_replicates=300, truth=mdp, weight=WEIGHT
    )
    assert list(curve.num_episodes.values) == sizes
    exact = 1 - across / (2 * np.array(sizes))
    z = (curve.cosine_similarity.values - exact) / curve.cosine_similarity_error.values
    assert np.abs(z).max() < 4, z
    assert (curve.cosine_similarity_error < 0.1 * (1 - exact)).all()  # So that it is the angle that is tested.
    np.testing.assert_allclose(1 - curve.prediction_transverse, 1 - exact, rtol=0.1)
    np.testing.assert_allclose(1 - curve.prediction, scale / (2 * np.array(sizes)), rtol=0.1)
    np.testing.assert_allclose(curve.attrs["noise_scale"], scale, rtol=0.1)
    z = (curve.mean_squared_error * sizes - np.trace(covariance)) / (curve.mean_squared_error_error * sizes)
    assert np.abs(z).max() < 4, z
    assert all(variable.attrs["long_name"] for variable in curve.data_vars.values())


def test_cosine_curve_of_gaussian_noise(monkeypatch):
    """ĝ_N = ∇J + N(0, 4 I/N) in 8 dimensions: B = 32/‖∇J‖², B_⊥ = 28/‖∇J‖²; the largest of eight |z| below 4."""
    truth = jnp.arange(8.0).reshape(2, 4) / 4
    squared_norm = float(jnp.sum(truth**2))

    def gradient_function(argument, env, policy, options):
        scale = 2 / math.sqrt(options["num_episodes"])
        return lambda key, params: truth + scale * jax.random.normal(key, (2, 4))

    monkeypatch.setattr(replicates, "gradient_function", gradient_function)
    sizes = (4, 16, 400, 1600)
    found = curve(num_episodes=sizes, num_replicates=1000, truth=truth, params=jnp.zeros((2, 4)))
    assert found.num_episodes.values.tolist() == list(sizes) and found.attrs["num_replicates"] == 1000
    z = (found.mean_squared_error - 32 / found.num_episodes) / found.mean_squared_error_error
    assert np.abs(z).max() < 4, z
    exact = 1 - 28 / squared_norm / (2 * np.array(sizes[2:]))
    z = (found.cosine_similarity[2:] - exact) / found.cosine_similarity_error[2:]
    assert np.abs(z).max() < 4, z
    for name, scale in (("prediction", 32 / squared_norm), ("prediction_transverse", 28 / squared_norm)):
        np.testing.assert_allclose(found[name] ** -2 - 1, scale / np.array(sizes), rtol=0.05)
    assert (np.diff(found.cosine_similarity) > 0).all()
    # Batch sizes do not share their noise.
    np.testing.assert_array_less(1.0, np.abs(np.diff(found.variance * found.num_episodes)) * 1e4)


def test_required_episodes():
    scale = NoiseScale(*(jnp.asarray(x) for x in (50.0, 2.0, 100.0, jnp.nan, jnp.nan)))
    assert required_episodes(scale, target_snr=3) == required_episodes(50, target_snr=3) == 450
    assert required_episodes(scale, target_relative_error=0.1) == 5000
    assert required_episodes(scale, target_snr=1e-6) == 1
    assert required_episodes(math.inf, target_snr=1.0) == math.inf
    assert isinstance(required_episodes(scale, target_snr=2), int)
    _, _, large = sampled()
    estimate = of_mdp(large, 0)
    assert required_episodes(estimate, target_snr=5) == math.ceil(
        25 * float(batch_size.noise_scale(estimate).noise_scale)
    )


def test_required_episodes_reach_the_target():
    """With the exact noise scale, E‖ĝ_N − ∇J‖² is target² ‖∇J‖² at that N."""
    truth, _, _ = sampled()
    squared_norm, trace = float(truth[0][0]), float(truth[1][0])
    n = required_episodes(trace / squared_norm, target_relative_error=0.05)
    assert 0.99 < math.sqrt(trace / n / squared_norm) / 0.05 <= 1.0


ONES = {"a": jnp.ones(2)}


def curve(**options):
    env = jaxpg.exact.bandit([0.0, 1.0]).environment()
    policy = jaxpg.policies.tabular(env)
    options = {"truth": jnp.ones((1, 2))} | options
    params, key = options.pop("params", jnp.zeros((1, 2))), options.pop("key", jax.random.key(0))
    return cosine_similarity_curve(env, policy, params, key, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: two_batch_noise_scale(ONES, ONES, 4, 4), ValueError, "num_small must be below num_large; got 4 and 4"),
        (lambda: two_batch_noise_scale(ONES, ONES, 4), ValueError, "num_large must be given"),
        (lambda: two_batch_noise_scale(ONES, ONES, 0, 4), ValueError, "num_small must be"),
        (lambda: two_batch_noise_scale(ONES, jnp.ones(2), 2, 4), ValueError, "gradients of one structure"),
        (lambda: two_batch_noise_scale(ONES, {"a": jnp.ones(3)}, 2, 4), ValueError, r"\(2,\).*\(3,\)"),
        (lambda: batch_size.noise_scale(ONES), TypeError, "estimate must be a GradientEstimate"),
        (lambda: required_episodes(5.0), ValueError, "one of the two"),
        (lambda: required_episodes(5.0, 1.0, 1.0), ValueError, "one of the two"),
        (lambda: required_episodes(5.0, target_snr=0.0), ValueError, "target_snr must be"),
        (lambda: required_episodes(5.0, target_relative_error=-1), ValueError, "target_relative_error must be"),
        (lambda: required_episodes(ONES, 1.0), TypeError, "estimate must be a GradientEstimate"),
        (lambda: required_episodes(math.nan, 1.0), ValueError, "estimate must have a noise scale; got nan"),
        (lambda: jax.jit(lambda x: required_episodes(x, 1.0))(3.0), TypeError, "known values"),
        (lambda: curve(num_episodes=16), TypeError, "num_episodes must be a sequence"),
        (lambda: curve(num_episodes=()), TypeError, "num_episodes must be a sequence"),
        (lambda: curve(num_episodes=(16, 8)), ValueError, r"num_episodes must rise; got \[16, 8\]"),
        (lambda: curve(num_episodes=(0, 8)), ValueError, r"num_episodes\[0\] must be"),
        (lambda: curve(num_replicates=2), ValueError, "num_replicates must be"),
        (lambda: curve(wieght=WEIGHT), ValueError, "unknown argument 'wieght'.*did you mean 'weight'"),
        (lambda: curve(truth=jnp.ones(3)), ValueError, "truth is a pytree that is not like params"),
        (lambda: curve(key=3), TypeError, "key must be one random key"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
