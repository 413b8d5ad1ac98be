"""Distributions: one table, and the properties that every row must have; then what is particular to each.

Oracles are numpyro and scipy, enumeration of all actions, and numerical integration.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

from jaxpg.policies import distributions as D  # noqa: N812
from jaxpg.policies.distributions._log_cosh import expected_log_two_cosh
from jaxpg.policies.distributions.discrete import _inverse_cumulative

BATCH = (5,)
MASK = [True, False, True, True]
LOW, HIGH = (-1.0, 0.5, -3.0), (2.0, 0.75, 3.0)


def uniform(seed, shape, low=-1.5, high=1.5):
    """Parameters that are the same in single and double precision."""
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32), jnp.result_type(float))


def build(kind, *parameters, **options):
    """A row: seed and batch axes -> distribution. A parameter is a shape with its range, or taken as it is."""

    def row(seed, batch=BATCH):
        values = [uniform(seed + 50 * k, batch + p[0], *p[1:]) if isinstance(p, list) else p
                  for k, p in enumerate(parameters)]
        return kind(*values, **options)

    return row


# Shapes without batch axes; the standard deviations of the first two rows that have them are shared by the batch.
TABLE = {
    "categorical": build(D.Categorical, [(4,)]),
    "categorical, masked": build(D.Categorical, [(4,)], np.array(MASK)),
    "categorical, 100 actions": build(D.Categorical, [(100,)]),
    "bernoulli": build(D.Bernoulli, [(3,)]),
    "bernoulli, one": build(D.Bernoulli, [()], event_ndim=0),
    "multi-discrete": build(D.MultiDiscrete, [(9,)], (2, 4, 3)),
    "multi-discrete, equal": build(D.MultiDiscrete, [(6,)], (3, 3)),
    "multi-discrete, masked": build(D.MultiDiscrete, [(6,)], (2, 4), np.array([True, True, *MASK])),
    "normal": build(D.DiagonalNormal, [(3,)], np.array([-1, 0.5, 0], np.float32)),
    "normal, clipped": build(D.DiagonalNormal, [(3,)], [(3,), -1, 0.5], LOW, 1.0),
    "normal, one number": build(D.DiagonalNormal, [()], [(), -1, 0.5], event_ndim=0),
    "tanh-normal": build(D.TanhNormal, [(3,)], np.array([-1, 0.5, 0], np.float32), LOW, HIGH),
    "tanh-normal, matrix": build(D.TanhNormal, [(2, 2)], [(2, 2), -1, 0.5], -2, 1, event_ndim=2),
    "beta": build(D.Beta, [(3,), 1.2, 6], [(3,), 1.2, 6], LOW, HIGH),
    "joint": lambda seed, batch=BATCH: D.Joint({"move": TABLE["categorical, masked"](seed, batch),
                                                "aim": (TABLE["normal"](seed, batch), TABLE["beta"](seed, batch))}),
}
DISCRETE = {
    "categorical": list(range(4)), "categorical, masked": list(range(4)), "categorical, 100 actions": list(range(100)),
    "bernoulli": list(itertools.product([False, True], repeat=3)), "bernoulli, one": [False, True],
    "multi-discrete": list(itertools.product(range(2), range(4), range(3))),
    "multi-discrete, equal": list(itertools.product(range(3), range(3))),
    "multi-discrete, masked": list(itertools.product(range(2), range(4))),
}
every = pytest.mark.parametrize("name", TABLE)
every_discrete = pytest.mark.parametrize("name", DISCRETE)


def parameters(distribution):
    """The float leaves, and a function that puts others in their place."""
    leaves, structure = jax.tree_util.tree_flatten(distribution)
    where = [k for k, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def rebuild(values):
        new = list(leaves)
        for k, value in zip(where, values):
            new[k] = value
        return structure.unflatten(new)

    return [leaves[k] for k in where], rebuild


def one(name, seed=0):
    """A distribution for a single observation."""
    return TABLE[name](seed, ())


def draws(distribution, number, seed=0):
    return jax.jit(jax.vmap(distribution.sample))(jax.random.split(jax.random.key(seed), number))


def z_score(values, expected):
    values = np.asarray(values, np.float64)
    return (values.mean() - expected) / (values.std() / math.sqrt(values.size))


# --- What every distribution must do ---------------------------------------------------------------------------------


@every
def test_shapes_and_dtypes(name):
    distribution = TABLE[name](0)
    action = distribution.sample(jax.random.key(0))
    floats = jnp.result_type(float)
    for method in (lambda: distribution.log_prob(action), distribution.entropy,
                   lambda: distribution.kl_divergence(TABLE[name](1))):
        value = method()
        assert value.shape == BATCH and value.dtype == floats
        assert bool(jnp.isfinite(value).all())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), distribution.mode()) == jax.tree.map(
        lambda x: (x.shape, x.dtype), action)
    if name in DISCRETE:
        assert action.dtype == (jnp.bool_ if "bernoulli" in name else jnp.int32)


@every
def test_double_precision(name, x64):
    test_shapes_and_dtypes(name)


@every
def test_one_by_one_equals_batch(name):
    """Under vmap, row by row, and with two batch axes at once."""
    first, second = TABLE[name](0), TABLE[name](1)
    values, rebuild = parameters(first)
    other_values, other_rebuild = parameters(second)
    values, other_values = ([jnp.broadcast_to(v, BATCH + v.shape) if v.shape[:1] != BATCH else v for v in vs]
                            for vs in (values, other_values))
    action = first.sample(jax.random.key(0))

    def all_methods(values, other_values, action):
        p, q = rebuild(values), other_rebuild(other_values)
        return p.log_prob(action), p.entropy(), p.mode(), p.kl_divergence(q), p.to_environment(action)

    batched = (first.log_prob(action), first.entropy(), first.mode(), first.kl_divergence(second),
               first.to_environment(action))
    mapped = jax.jit(jax.vmap(all_methods))(values, other_values, action)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), mapped, batched)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6),
                 [jax.tree.map(lambda x: x[2], mapped)],
                 [all_methods(*jax.tree.map(lambda x: x[2], (values, other_values, action)))])
    doubled = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), (values, other_values, action))
    twice = all_methods(*doubled)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=2e-5, atol=2e-6), twice, batched)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b[::-1], rtol=2e-5, atol=2e-6), twice, batched)


@every
def test_expected_score_is_zero(name):
    """E[∇ log p] = 0: T² = N m̄ᵀ Σ⁺ m̄ over all parameters at once, from 20,000 draws."""
    distribution = one(name)
    values, rebuild = parameters(distribution)
    actions = draws(distribution, 20_000)
    scores = jax.jit(jax.vmap(jax.grad(lambda v, a: rebuild(v).log_prob(a)), (None, 0)))(values, actions)
    scores = np.concatenate([np.asarray(s, np.float64).reshape(len(s), -1) for s in scores], axis=1)
    assert np.isfinite(scores).all()
    covariance = np.cov(scores.T).reshape(scores.shape[1], -1)
    rank = np.linalg.matrix_rank(covariance, tol=1e-6 * np.trace(covariance))
    assert rank >= 1
    mean = scores.mean(0)
    statistic = len(scores) * mean @ np.linalg.pinv(covariance, rcond=1e-6, hermitian=True) @ mean
    assert scipy.stats.chi2.sf(statistic, rank) > 1e-3


@every
def test_entropy_and_divergence_are_expectations(name):
    """H = −E log p and KL(p ‖ q) = E[log p − log q], from 20,000 draws; KL(p ‖ p) = 0 ≤ KL(p ‖ q)."""
    p, q = one(name, 0), one(name, 1)
    actions = draws(p, 20_000, seed=1)
    log_p, log_q = (jax.jit(jax.vmap(d.log_prob))(actions) for d in (p, q))
    assert abs(z_score(-log_p, float(p.entropy()))) < 4
    assert abs(z_score(log_p - log_q, float(p.kl_divergence(q)))) < 4
    assert abs(float(p.kl_divergence(p))) < 1e-6
    assert float(p.kl_divergence(q)) > 1e-3


@every_discrete
def test_enumeration(name, x64):
    """Probabilities sum to 1; entropy, divergence, expected score and mode, exactly."""
    p, q = one(name, 0), one(name, 1)
    actions = jnp.asarray(DISCRETE[name])
    values, rebuild = parameters(p)
    log_p, log_q = jax.vmap(p.log_prob)(actions), jax.vmap(q.log_prob)(actions)
    probs = np.exp(log_p)
    possible = probs > 0
    np.testing.assert_allclose(probs.sum(), 1, rtol=1e-13)
    np.testing.assert_allclose(p.entropy(), -(probs * log_p)[possible].sum(), rtol=1e-12)
    np.testing.assert_allclose(p.kl_divergence(q), (probs * (log_p - log_q))[possible].sum(), rtol=1e-12)
    scores = jax.vmap(jax.grad(lambda v, a: rebuild(v).log_prob(a)), (None, 0))(values, actions)
    np.testing.assert_allclose(np.tensordot(probs, scores[0], 1), 0, atol=1e-13)
    assert float(p.log_prob(p.mode())) == log_p.max()


@pytest.mark.parametrize("name", [n for n in DISCRETE if "100" not in n])
def test_draws_have_their_probabilities(name):
    distribution = one(name)
    actions = jnp.asarray(DISCRETE[name])
    probs = np.exp(np.asarray(jax.vmap(distribution.log_prob)(actions), np.float64))
    sample = np.asarray(draws(distribution, 100_000)).reshape(100_000, -1)
    counts = np.array([(sample == np.reshape(a, -1)).all(1).sum() for a in np.asarray(actions)])
    assert counts.sum() == 100_000 and (counts[probs == 0] == 0).all()
    possible = probs > 0
    assert scipy.stats.chisquare(counts[possible], 100_000 * probs[possible] / probs.sum()).pvalue > 1e-3


@every
def test_transformations(name):
    """jit without leaks, strict dtypes, key-reuse checks, and a pytree that survives flattening."""
    distribution = TABLE[name](0)

    def everything(d, key):
        action = d.sample(key)
        return action, d.log_prob(action), d.entropy(), d.mode(), d.kl_divergence(d), d.to_environment(action)

    expected = everything(distribution, jax.random.key(1))
    with jax.checking_leaks(), jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        result = jax.jit(everything)(distribution, jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), result, expected)
    scanned = jax.jit(lambda d: jax.lax.scan(lambda c, _: (c, c.entropy()), d, length=2))(distribution)[1]
    np.testing.assert_allclose(scanned[1], expected[2], rtol=2e-5)


@every
def test_environment_action_is_within_bounds(name):
    distribution = TABLE[name](0)
    actions = draws(distribution, 2000)
    leaves = distribution.distributions if name == "joint" else {"move": distribution}
    if name == "joint":
        inside = distribution.to_environment(actions)["aim"][1]
        assert (inside >= jnp.asarray(LOW)).all() and (inside <= jnp.asarray(HIGH)).all()
    elif hasattr(leaves["move"], "low"):
        inside = jax.vmap(distribution.to_environment)(actions)
        assert (inside >= jnp.asarray(distribution.low)).all() and (inside <= jnp.asarray(distribution.high)).all()
    else:
        np.testing.assert_array_equal(jax.vmap(distribution.to_environment)(actions), actions)


# --- Against numpyro and scipy ---------------------------------------------------------------------------------------


def numpyro_twin(d):
    if isinstance(d, D.Categorical):
        return dist.Categorical(logits=jnp.maximum(d.log_probs(), -1e30))
    if isinstance(d, D.Bernoulli):
        return dist.Bernoulli(logits=d.logits).to_event(d.event_ndim)
    if isinstance(d, D.DiagonalNormal):
        return dist.Normal(d.mean, jnp.exp(d.log_std)).to_event(d.event_ndim)
    low, high = jnp.asarray(d.low), jnp.asarray(d.high)
    if isinstance(d, D.TanhNormal):
        squash = [dist.transforms.ComposeTransform([dist.transforms.AffineTransform(0.0, 2.0),
                                                    dist.transforms.SigmoidTransform(),
                                                    dist.transforms.AffineTransform(low, high - low)])]
        base = dist.Normal(d.mean, jnp.exp(d.log_std))
    else:
        squash, base = [dist.transforms.AffineTransform(low, high - low)], dist.Beta(d.alpha, d.beta)
    return dist.TransformedDistribution(base, squash).to_event(d.event_ndim)


WITH_TWIN = [name for name in TABLE if "multi" not in name and name != "joint"]


@pytest.mark.parametrize("name", WITH_TWIN)
def test_log_prob_equals_numpyro(name, x64):
    distribution = TABLE[name](0)
    twin = numpyro_twin(distribution)
    action = distribution.sample(jax.random.key(3))
    outside = action.astype(jnp.int32) if action.dtype == jnp.bool_ else action
    if not isinstance(distribution, D.DiagonalNormal):
        outside = distribution.to_environment(outside)
    np.testing.assert_allclose(distribution.log_prob(action), twin.log_prob(outside), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in WITH_TWIN if "tanh" not in n and n != "beta" and "masked" not in n])
def test_entropy_and_divergence_equal_numpyro(name, x64):
    first, second = TABLE[name](0), TABLE[name](1)
    p, q = numpyro_twin(first), numpyro_twin(second)
    np.testing.assert_allclose(first.entropy(), p.entropy(), rtol=1e-12)
    np.testing.assert_allclose(first.kl_divergence(second), dist.kl_divergence(p, q), rtol=1e-11)


@pytest.mark.parametrize("name", ["normal", "bernoulli", "categorical"])
def test_single_precision_equals_numpyro(name):
    distribution = TABLE[name](0)
    action = distribution.sample(jax.random.key(3))
    twin = numpyro_twin(distribution)
    outside = action.astype(jnp.int32) if action.dtype == jnp.bool_ else action
    np.testing.assert_allclose(distribution.log_prob(action), twin.log_prob(outside), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(distribution.entropy(), twin.entropy(), rtol=2e-6, atol=1e-6)


def test_multi_discrete_is_a_product_of_categoricals(x64):
    logits, mask = uniform(0, (7, 9)), np.random.default_rng(1).uniform(size=(7, 9)) < 0.7
    mask[:, [0, 2, 6]] = True
    distribution = D.MultiDiscrete(logits, (2, 4, 3), mask)
    parts = [D.Categorical(logits[:, a:b], mask[:, a:b]) for a, b in ((0, 2), (2, 6), (6, 9))]
    action = distribution.sample(jax.random.key(0))
    expected = sum(part.log_prob(action[:, k]) for k, part in enumerate(parts))
    np.testing.assert_allclose(distribution.log_prob(action), expected, rtol=1e-13)
    np.testing.assert_allclose(distribution.entropy(), sum(part.entropy() for part in parts), rtol=1e-13)
    np.testing.assert_array_equal(distribution.mode(), jnp.stack([part.mode() for part in parts], -1))


def test_multi_discrete_entries_are_independent():
    """Two entries drawn from one number would move together."""
    sample = np.asarray(draws(D.MultiDiscrete(jnp.zeros(6), (3, 3)), 20_000))
    table = np.zeros((3, 3))
    np.add.at(table, tuple(sample.T), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_joint_leaves_are_independent():
    leaf = D.DiagonalNormal(jnp.zeros(1), jnp.zeros(1))
    first, second = draws(D.Joint((leaf, leaf)), 10_000)
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.04


@pytest.mark.parametrize("name", ["normal", "tanh-normal", "beta"])
def test_real_draws_follow_their_distribution(name):
    distribution = one(name)
    sample = np.asarray(draws(distribution, 20_000), np.float64)
    for k in range(3):
        if name == "beta":
            reference = scipy.stats.beta(float(distribution.alpha[k]), float(distribution.beta[k]))
            outside = np.asarray(distribution.to_environment(sample))[:, k]
            values = (outside - LOW[k]) / (HIGH[k] - LOW[k])
        else:
            reference = scipy.stats.norm(float(distribution.mean[k]), float(jnp.exp(distribution.log_std)[k]))
            values = sample[:, k]
        assert scipy.stats.kstest(values, reference.cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(sample.T) - np.eye(3)).max() < 0.04


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
    for function in (lambda x: D.Categorical(x).entropy(), lambda x: D.Categorical(x).log_prob(0),
                     lambda x: D.Categorical(x).kl_divergence(distribution)):
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
    distribution = D.Categorical(uniform(0, (size,), -2, 2))
    counts = np.bincount(draws(distribution, 200_000), minlength=size)
    probs = np.exp(np.asarray(distribution.log_probs(), np.float64))
    assert scipy.stats.chisquare(counts, 200_000 * probs / probs.sum()).pvalue > 1e-3


def test_bernoulli_extremes():
    logits = jnp.asarray([-200.0, -30.0, 0.0, 30.0, 200.0])
    for function in (lambda x: D.Bernoulli(x).entropy(), lambda x: D.Bernoulli(x).log_prob(x > 0),
                     lambda x: D.Bernoulli(x).log_prob(x < 0), lambda x: D.Bernoulli(x).kl_divergence(D.Bernoulli(-x))):
        assert jnp.isfinite(function(logits)) and jnp.isfinite(jax.grad(function)(logits)).all()
    expected = 31 * math.exp(-30)  # p (1 − log p) for small p.
    np.testing.assert_allclose(D.Bernoulli(jnp.asarray(30.0), 0).entropy(), expected, rtol=1e-5)


# --- Squashed normals: saturation, integrals, entropy ----------------------------------------------------------------


@pytest.mark.parametrize("u", [-40.0, -20.0, 9.1, 40.0])
def test_tanh_normal_is_exact_where_tanh_saturates(u):
    """log p = log N(u; u, 1) + 2|u| − 2 log 2 − log((high − low)/2), and finite derivatives, where tanh(u) = ±1."""
    log_prob = lambda mean, log_std, u: D.TanhNormal(mean, log_std, -2.0, 2.0, 0).log_prob(u)  # noqa: E731
    arguments = jnp.asarray(u), jnp.asarray(0.0), jnp.asarray(u)
    expected = -0.5 * math.log(2 * math.pi) + 2 * abs(u) - 2 * math.log(2) - math.log(2)
    np.testing.assert_allclose(log_prob(*arguments), expected, rtol=1e-6)
    gradients = jax.grad(log_prob, (0, 1, 2))(*arguments)
    np.testing.assert_allclose(gradients, (0.0, -1.0, 2.0 * np.sign(u)), atol=1e-5)
    second = jax.hessian(log_prob, (0, 1, 2))(*arguments)
    assert np.isfinite(np.asarray(second)).all()
    assert abs(D.TanhNormal(*arguments[:2], -2.0, 2.0, 0).to_environment(arguments[2])) <= 2.0


@pytest.mark.parametrize(("build", "to_sample"), [
    (lambda: D.TanhNormal(jnp.asarray(0.4), jnp.asarray(-0.3), -0.5, 2.5, 0), lambda x: np.arctanh(2 * x - 1)),
    (lambda: D.TanhNormal(jnp.asarray(-1.4), jnp.asarray(0.9), -0.5, 2.5, 0), lambda x: np.arctanh(2 * x - 1)),
    (lambda: D.Beta(jnp.asarray(1.7), jnp.asarray(3.1), -0.5, 2.5, 0), lambda x: np.log(x) - np.log1p(-x)),
])
def test_density_of_the_environment_action(build, to_sample, x64):
    """∫ exp(log_prob) da = 1 over the environment's actions a, and H = −∫ p log p da."""
    distribution = build()
    log_density = lambda a: float(distribution.log_prob(jnp.asarray(to_sample((a + 0.5) / 3))))  # noqa: E731
    integrate = lambda f: scipy.integrate.quad(f, -0.5, 2.5, limit=200, epsabs=1e-9)[0]  # noqa: E731
    np.testing.assert_allclose(integrate(lambda a: math.exp(log_density(a))), 1, atol=1e-7)
    entropy = -integrate(lambda a: math.exp(log_density(a)) * log_density(a))
    np.testing.assert_allclose(distribution.entropy(), entropy, atol=1e-6)


def test_expected_log_cosh(x64):
    """Against a sum over 200,001 nodes, for narrow and wide normals near 0 and far out; with the gradient."""
    z = np.linspace(-12, 12, 200_001)
    weight = scipy.stats.norm.pdf(z) * (z[1] - z[0])
    mean, std = map(np.ravel, np.meshgrid([0.0, 0.3, 1.0, 3.0, 7.0, -10.0, 40.0],
                                          [1e-4, 0.01, 0.3, 1.0, 1.6, 3.0, 7.4, 30.0, 1000.0]))
    u = mean[:, None] + std[:, None] * z
    expected = (np.logaddexp(u, -u) * weight).sum(1)
    value = expected_log_two_cosh(jnp.asarray(mean), jnp.asarray(std))
    np.testing.assert_allclose(value, expected, atol=3e-8)
    by_mean, by_std = jax.grad(lambda m, s: expected_log_two_cosh(m, s).sum(), (0, 1))(jnp.asarray(mean), jnp.asarray(std))
    np.testing.assert_allclose(by_mean, (np.tanh(u) * weight).sum(1), atol=2e-7)
    np.testing.assert_allclose(by_std, (np.tanh(u) * z * weight).sum(1), atol=2e-7)


def test_expected_log_cosh_in_single_precision():
    mean, std = jnp.asarray([0.0, 1.0, -3.0, 40.0]), jnp.asarray([0.01, 1.0, 7.0, 0.5])
    single = expected_log_two_cosh(mean, std)
    z = np.linspace(-12, 12, 100_001)
    u = np.asarray(mean)[:, None] + np.asarray(std, np.float64)[:, None] * z
    np.testing.assert_allclose(single, (np.logaddexp(u, -u) * scipy.stats.norm.pdf(z)).sum(1) * (z[1] - z[0]), rtol=1e-6)


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


# --- What must be refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "message"), [
    (lambda: D.TanhNormal(jnp.zeros(2), jnp.zeros(2), -math.inf, 1.0), "low and high must be finite"),
    (lambda: D.TanhNormal(jnp.zeros(2), jnp.zeros(2), 1.0, 1.0), "low < high"),
    (lambda: D.Beta(jnp.ones(2), jnp.ones(2), 0.0, math.inf), "low and high must be finite"),
    (lambda: D.MultiDiscrete(jnp.zeros(4), (2, 3)).entropy(), "logits and mask must have 5 entries"),
    (lambda: D.MultiDiscrete(jnp.zeros(5), (2, 3), jnp.ones(4, bool)).entropy(), "logits and mask must have 5 entries"),
    (lambda: D.TanhNormal(jnp.zeros(2), jnp.zeros(2)).kl_divergence(D.TanhNormal(jnp.zeros(2), jnp.zeros(2), -2, 2)),
     "other must have the same low and high"),
    (lambda: D.Joint((TABLE["normal"](0),)).kl_divergence(D.Joint({"a": TABLE["normal"](0)})), "other must have the str"),
])
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
