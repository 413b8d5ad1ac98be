"""Distributions at their edges: masks, saturation, overflow, exact integrals, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats

from jaxpg.policies import distributions as D  # noqa: N812
from jaxpg.policies.distributions._log_cosh import expected_log_two_cosh
from jaxpg.policies.distributions.discrete import _inverse_cumulative

MASK = [True, False, True, True]


def draws(distribution, number, seed=0):
    return jax.jit(jax.vmap(distribution.sample))(jax.random.split(jax.random.key(seed), number))


# --- Categorical: masks, extremes, and the draw ----------------------------------------------------------------------


def test_masked_actions_have_probability_exactly_zero():
    logits = jnp.asarray([[0.0, 50.0, 1.0, -2.0], [3.0, 3.0, 3.0, 3.0]])
    distribution = D.Categorical(logits, jnp.asarray(MASK))
    assert (distribution.log_prob(jnp.asarray([1, 1])) == -jnp.inf).all()
    assert (distribution.mode() != 1).all()
    assert not (draws(distribution, 20_000) == 1).any()
    without = D.Categorical(logits[:, jnp.asarray([0, 2, 3])])
    np.testing.assert_allclose(distribution.entropy(), without.entropy(), rtol=1e-6)


@pytest.mark.parametrize("mask", [MASK, [False, True, False, False], [False] * 4, [True] * 4])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
def test_masked_gradients_are_finite(mask, scale):
    """Also of a masked action's log_prob, with one action left, with none, and with logits that overflow exp."""
    other = D.Categorical(jnp.asarray([1.0, -1.0, 0.5, 0.0]), jnp.asarray(mask))

    def check(function):
        gradient = jax.grad(function)(scale * jnp.asarray([0.3, 1.0, -1.0, 0.2]))
        assert jnp.isfinite(gradient).all(), gradient
        if any(mask):
            assert (gradient[~jnp.asarray(mask)] == 0).all(), gradient

    check(lambda logits: D.Categorical(logits, jnp.asarray(mask)).entropy())
    check(lambda logits: D.Categorical(logits, jnp.asarray(mask)).kl_divergence(other))
    check(lambda logits: other.kl_divergence(D.Categorical(logits, jnp.asarray(mask))) / scale)
    for action in range(4):
        check(lambda logits, a=action: jnp.where(mask[a], D.Categorical(logits, jnp.asarray(mask)).log_prob(a), 0))
        gradient = jax.grad(lambda logits, a=action: D.Categorical(logits, jnp.asarray(mask)).log_prob(a))(jnp.ones(4))
        assert jnp.isfinite(gradient).all()


def test_a_mask_that_allows_nothing_is_ignored():
    logits = jnp.asarray([0.1, 0.7, -0.4])
    masked, free = D.Categorical(logits, jnp.zeros(3, bool)), D.Categorical(logits)
    np.testing.assert_array_equal(masked.log_probs(), free.log_probs())
    assert float(masked.entropy()) == float(free.entropy())


def test_logits_of_minus_infinity_exclude_actions():
    logits = jnp.asarray([0.5, -jnp.inf, 1.0])
    distribution = D.Categorical(logits)
    for function in (
        lambda x: D.Categorical(x).entropy(),
        lambda x: D.Categorical(x).log_prob(0),
        lambda x: D.Categorical(x).kl_divergence(distribution),
    ):
        assert jnp.isfinite(function(logits)) and jnp.isfinite(jax.grad(function)(logits)).all()
    assert not (draws(distribution, 10_000) == 1).any()


def test_divergence_is_infinite_where_the_other_excludes():
    p, q = D.Categorical(jnp.zeros(4)), D.Categorical(jnp.zeros(4), jnp.asarray(MASK))
    assert float(p.kl_divergence(q)) == math.inf and np.isfinite(float(q.kl_divergence(p)))


@pytest.mark.parametrize("size", [1, 2, 5, 18, 64, 65, 300])
def test_inverse_cumulative_never_picks_zero_weight(size):
    """At u = 0, at the largest u below 1, and in between, for weights with many zeros and of very different sizes."""
    rng = np.random.default_rng(size)
    weights = np.exp(rng.uniform(-25, 0, (2000, size))) * (rng.uniform(size=(2000, size)) < 0.5)
    weights[np.arange(2000), rng.integers(0, size, 2000)] = 1.0
    u = rng.integers(0, 2**23, 2000) / 2**23
    u[:500], u[500:1000] = 0.0, 1 - 2.0**-23
    index = np.asarray(jax.jit(_inverse_cumulative)(jnp.asarray(weights, jnp.float32), jnp.asarray(u, jnp.float32)))
    assert (index >= 0).all() and (index < size).all()
    assert (weights[np.arange(2000), index].astype(np.float32) > 0).all()
    first = (weights.astype(np.float32) > 0).argmax(1)
    np.testing.assert_array_equal(index[:500], first[:500])
    exact = (np.cumsum(weights, 1) > (u * weights.sum(1))[:, None]).argmax(1)
    assert (index == exact)[1000:].mean() > 0.99


@pytest.mark.parametrize("size", [18, 100])
def test_many_actions_have_their_probabilities(size):
    distribution = D.Categorical(jnp.asarray(np.random.default_rng(0).uniform(-2, 2, size), jnp.float32))
    counts = np.bincount(draws(distribution, 200_000), minlength=size)
    probs = np.exp(np.asarray(distribution.log_probs(), np.float64))
    assert scipy.stats.chisquare(counts, 200_000 * probs / probs.sum()).pvalue > 1e-3


def test_bernoulli_extremes():
    logits = jnp.asarray([-200.0, -30.0, 0.0, 30.0, 200.0])
    for function in (
        lambda x: D.Bernoulli(x).entropy(),
        lambda x: D.Bernoulli(x).log_prob(x > 0),
        lambda x: D.Bernoulli(x).log_prob(x < 0),
        lambda x: D.Bernoulli(x).kl_divergence(D.Bernoulli(-x)),
    ):
        assert jnp.isfinite(function(logits)) and jnp.isfinite(jax.grad(function)(logits)).all()
    expected = 31 * math.exp(-30)  # p (1 − log p) for small p.
    np.testing.assert_allclose(D.Bernoulli(jnp.asarray(30.0), 0).entropy(), expected, rtol=1e-5)


# --- Squashed normals: saturation, integrals, entropy ----------------------------------------------------------------


def test_tanh_normal_is_exact_where_tanh_saturates():
    """log p = log N(u; u, 1) + 2|u| − 2 log 2 − log((high − low)/2), and finite derivatives, where tanh(u) = ±1."""

    def log_prob(mean, log_std, u):
        return D.TanhNormal(mean, log_std, -2.0, 2.0, 0).log_prob(u)

    u = jnp.asarray([-40.0, -20.0, 9.1, 40.0])
    arguments = u, jnp.zeros(4), u
    expected = -0.5 * math.log(2 * math.pi) + 2 * np.abs(u) - 2 * math.log(2) - math.log(2)
    np.testing.assert_allclose(log_prob(*arguments), expected, rtol=1e-6)
    gradients = jax.jit(jax.vmap(jax.grad(log_prob, (0, 1, 2))))(*arguments)
    np.testing.assert_allclose(gradients, (np.zeros(4), -np.ones(4), 2.0 * np.sign(u)), atol=1e-5)
    second = jax.jit(jax.vmap(jax.hessian(log_prob, (0, 1, 2))))(*arguments)
    assert np.isfinite(np.asarray(second)).all()


@pytest.mark.parametrize(
    "distribution",
    [
        lambda: D.TanhNormal(jnp.asarray(0.4), jnp.asarray(-0.3), -0.5, 2.5, 0),
        lambda: D.TanhNormal(jnp.asarray(-1.4), jnp.asarray(0.2), -0.5, 2.5, 0),
        lambda: D.Beta(jnp.asarray(1.7), jnp.asarray(3.1), -0.5, 2.5, 0),
    ],
    ids=["narrow", "wide", "beta"],
)
def test_density_of_the_environment_action(distribution, x64):
    """∫ exp(log_prob) da = 1 and H = −∫ p log p da over the environment's actions a, by their own differences."""
    distribution = distribution()
    edges = jnp.linspace(-25, 25, 200_001)
    widths = np.diff(distribution.to_environment(edges))
    log_density = np.asarray(distribution.log_prob(0.5 * (edges[1:] + edges[:-1])))
    np.testing.assert_allclose((np.exp(log_density) * widths).sum(), 1, atol=1e-7)
    np.testing.assert_allclose(distribution.entropy(), -(np.exp(log_density) * log_density * widths).sum(), atol=1e-6)


def test_expected_log_cosh(x64):
    """Against a sum over 50,001 nodes, for narrow and wide normals near 0 and far out; with the gradient."""
    z = np.linspace(-12, 12, 50_001)
    weight = scipy.stats.norm.pdf(z) * (z[1] - z[0])
    mean, std = map(
        np.ravel,
        np.meshgrid([0.0, 0.3, 1.0, 3.0, 7.0, -10.0, 40.0], [1e-4, 0.01, 0.3, 1.0, 1.6, 3.0, 7.4, 30.0, 1000.0]),
    )
    u = mean[:, None] + std[:, None] * z
    expected = (np.logaddexp(u, -u) * weight).sum(1)
    value = expected_log_two_cosh(jnp.asarray(mean), jnp.asarray(std))
    np.testing.assert_allclose(value, expected, atol=3e-8)
    total = jax.jit(jax.grad(lambda m, s: expected_log_two_cosh(m, s).sum(), (0, 1)))
    by_mean, by_std = total(jnp.asarray(mean), jnp.asarray(std))
    np.testing.assert_allclose(by_mean, (np.tanh(u) * weight).sum(1), atol=2e-7)
    np.testing.assert_allclose(by_std, (np.tanh(u) * z * weight).sum(1), atol=2e-7)


def test_expected_log_cosh_in_single_precision():
    mean, std = jnp.asarray([0.0, 1.0, -3.0, 40.0]), jnp.asarray([0.01, 1.0, 7.0, 0.5])
    single = expected_log_two_cosh(mean, std)
    z = np.linspace(-12, 12, 100_001)
    u = np.asarray(mean)[:, None] + np.asarray(std, np.float64)[:, None] * z
    expected = (np.logaddexp(u, -u) * scipy.stats.norm.pdf(z)).sum(1) * (z[1] - z[0])
    np.testing.assert_allclose(single, expected, rtol=1e-6)


def test_modes_of_bounded_distributions():
    normal = D.TanhNormal(jnp.asarray(0.3), jnp.asarray(0.1), 0.0, 10.0, 0)
    outside = normal.to_environment(draws(normal, 20_000))
    assert abs(float((outside < normal.to_environment(normal.mode())).mean()) - 0.5) < 0.015
    beta = D.Beta(jnp.asarray(2.5), jnp.asarray(1.5), 0.0, 10.0, 0)
    actions = draws(beta, 5000)
    assert float(beta.log_prob(beta.mode())) >= float(beta.log_prob(actions).max())


def test_beta_draws_never_round_to_a_bound():
    """Shapes below 1 crowd the bounds, beyond what floats near 1 resolve; log-odds keep the draw and its density."""
    distribution = D.Beta(jnp.asarray(0.05), jnp.asarray(0.05), event_ndim=0)
    actions = draws(distribution, 5000)
    assert (distribution.to_environment(actions) == 1).any()
    assert jnp.isfinite(distribution.log_prob(actions)).all()


def test_beta_equals_scipy(x64):
    rng = np.random.default_rng(0)
    a, b, c, d = rng.uniform(0.3, 8, (4, 20))
    p, q = D.Beta(jnp.asarray(a), jnp.asarray(b), event_ndim=0), D.Beta(jnp.asarray(c), jnp.asarray(d), event_ndim=0)
    np.testing.assert_allclose(p.entropy(), scipy.stats.beta(a, b).entropy(), rtol=1e-8, atol=1e-9)
    psi, betaln = scipy.special.digamma, scipy.special.betaln
    expected = betaln(c, d) - betaln(a, b) + (a - c) * psi(a) + (b - d) * psi(b) + (c - a + d - b) * psi(a + b)
    np.testing.assert_allclose(p.kl_divergence(q), expected, rtol=1e-9, atol=1e-10)
    peaked = (a > 1) & (b > 1)
    mode = np.asarray(p.to_environment(p.mode()))
    np.testing.assert_allclose(mode, np.where(peaked, (a - 1) / (a + b - 2), a / (a + b)), rtol=1e-10)


# --- What must be refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: D.TanhNormal(jnp.zeros(2), jnp.zeros(2), -math.inf, 1.0), "low and high must be finite"),
        (lambda: D.TanhNormal(jnp.zeros(2), jnp.zeros(2), 1.0, 1.0), "low < high"),
        (lambda: D.Beta(jnp.ones(2), jnp.ones(2), 0.0, math.inf), "low and high must be finite"),
        (lambda: D.MultiDiscrete(jnp.zeros(4), (2, 3)).entropy(), "logits and mask must have 5 entries"),
        (
            lambda: D.MultiDiscrete(jnp.zeros(5), (2, 3), jnp.ones(4, bool)).entropy(),
            "logits and mask must have 5 entries",
        ),
        (
            lambda: D.TanhNormal(jnp.zeros(2), jnp.zeros(2)).kl_divergence(
                D.TanhNormal(jnp.zeros(2), jnp.zeros(2), -2, 2)
            ),
            "other must have the same low and high",
        ),
        (
            lambda: D.Joint((D.Bernoulli(jnp.zeros(2)),)).kl_divergence(D.Joint([D.Bernoulli(jnp.zeros(2))])),
            "other must have the structure",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_traced_bounds_are_refused():
    with pytest.raises(TypeError, match="low must be a concrete number"):
        jax.jit(lambda low: D.TanhNormal(jnp.zeros(2), jnp.zeros(2), low, 1.0).entropy())(-1.0)


def test_to_environment_of_a_foreign_distribution():
    foreign = dist.Normal(0.0, 1.0)
    assert D.is_distribution(foreign) and not D.is_distribution(jnp.zeros(3))
    assert D.to_environment(foreign, 1.5) == 1.5
    joint = D.Joint((foreign, D.TanhNormal(jnp.zeros(1), jnp.zeros(1))))
    assert joint.to_environment((1.5, jnp.full(1, 50.0)))[1] == 1.0
