"""Distributions: one table, and the properties that every row must have. A new distribution is tested by a new row.

Oracles are enumeration of all actions, sample means, numpyro and scipy.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

from jaxpg.policies import distributions as D  # noqa: N812

BATCH = (5,)
MASK = [True, False, True, True]
LOW, HIGH = (-1.0, 0.5, -3.0), (2.0, 0.75, 3.0)


def uniform(seed, shape, low=-1.5, high=1.5):
    """Parameters that are the same in single and double precision."""
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32), jnp.result_type(float))


def build(kind, *parameters, **options):
    """A row: seed and batch axes -> distribution. A parameter is [shape, range], or a constant."""

    def value(parameter, seed, batch):
        if isinstance(parameter, list):
            return uniform(seed, batch + parameter[0], *parameter[1:])
        is_array = isinstance(parameter, np.ndarray) and parameter.dtype != bool
        return jnp.asarray(parameter, jnp.result_type(float)) if is_array else parameter

    def row(seed, batch=BATCH):
        return kind(*(value(p, seed + 50 * k, batch) for k, p in enumerate(parameters)), **options)

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
    "normal": build(D.DiagonalNormal, [(3,)], np.array([-1, 0.5, 0])),
    "normal, clipped": build(D.DiagonalNormal, [(3,)], [(3,), -1, 0.5], LOW, 1.0),
    "normal, one number": build(D.DiagonalNormal, [()], [(), -1, 0.5], event_ndim=0),
    "tanh-normal": build(D.TanhNormal, [(3,)], np.array([-1, 0.5, 0]), LOW, HIGH),
    "tanh-normal, matrix": build(D.TanhNormal, [(2, 2)], [(2, 2), -1, 0.5], -2, 1, event_ndim=2),
    "beta": build(D.Beta, [(3,), 1.2, 6], [(3,), 1.2, 6], LOW, HIGH),
    "joint": lambda *row: D.Joint(
        {"move": TABLE["categorical, masked"](*row), "aim": (TABLE["normal"](*row), TABLE["tanh-normal"](*row))}
    ),
}
DISCRETE = {
    "categorical": list(range(4)),
    "categorical, masked": list(range(4)),
    "categorical, 100 actions": list(range(100)),
    "bernoulli": list(itertools.product([False, True], repeat=3)),
    "bernoulli, one": [False, True],
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


def everything(p, q, action):
    return {
        "log_prob": p.log_prob(action),
        "entropy": p.entropy(),
        "mode": p.mode(),
        "kl": p.kl_divergence(q),
        "environment": p.to_environment(action),
    }


@functools.cache
def sampled(name):
    """20,000 draws from one distribution, their log_prob under it and under another, and their scores."""
    p, q = one(name, 0), one(name, 1)
    values, rebuild = parameters(p)

    def draw(key):
        action = p.sample(key)
        log_prob, score = jax.value_and_grad(lambda v: rebuild(v).log_prob(action))(values)
        return action, log_prob, q.log_prob(action), score

    actions, log_p, log_q, scores = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(7), 20_000))
    scores = np.concatenate([np.asarray(s, np.float64).reshape(20_000, -1) for s in scores], axis=1)
    return actions, np.asarray(log_p, np.float64), np.asarray(log_q, np.float64), scores


def z_score(values, expected):
    return (values.mean() - expected) / (values.std() / math.sqrt(values.size))


# --- What every distribution must do ---------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("double", [False, True])
def test_shapes_and_dtypes(name, double, request):
    if double:
        request.getfixturevalue("x64")
    p, q = TABLE[name](0), TABLE[name](1)
    action = jax.eval_shape(p.sample, jax.random.key(0))
    result = jax.eval_shape(everything, p, q, action)
    for value in (result["log_prob"], result["entropy"], result["kl"]):
        assert value.shape == BATCH and value.dtype == jnp.result_type(float)
    for same in (result["mode"], result["environment"]):
        assert jax.tree.map(lambda x: (x.shape, x.dtype), same) == jax.tree.map(lambda x: (x.shape, x.dtype), action)
    if name in DISCRETE:
        assert action.dtype == (jnp.bool_ if "bernoulli" in name else jnp.int32)


@every
def test_batch_axes_are_independent(name):
    """Two batch axes at once, jax.vmap, and one row by itself give the same."""
    p, q = TABLE[name](0), TABLE[name](1)
    spread = lambda v: v if v.shape[:1] == BATCH else jnp.broadcast_to(v, BATCH + v.shape)  # noqa: E731
    (values, rebuild), (others, rebuild_other) = parameters(p), parameters(q)
    values, others = list(map(spread, values)), list(map(spread, others))
    action = jax.jit(p.sample)(jax.random.key(0))
    methods = jax.jit(lambda v, w, a: everything(rebuild(v), rebuild_other(w), a))
    close = lambda a, b: jax.tree.map(  # noqa: E731
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), a, b
    )
    mapped = jax.vmap(methods)(values, others, action)
    close(jax.tree.map(lambda x: x[2], mapped), methods(*jax.tree.map(lambda x: x[2], (values, others, action))))
    twice = methods(*jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), (values, others, action)))
    close(twice, jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), mapped))
    close(jax.jit(everything)(p, q, action), mapped)


@every
def test_expected_score_is_zero(name):
    """E[∇ log p] = 0: T² = N m̄ᵀ Σ⁺ m̄ over all parameters at once."""
    scores = sampled(name)[3]
    assert np.isfinite(scores).all()
    values, vectors = np.linalg.eigh(np.cov(scores.T).reshape(scores.shape[1], -1))
    kept = values > 1e-5 * values.max()
    statistic = len(scores) * (np.square(scores.mean(0) @ vectors[:, kept]) / values[kept]).sum()
    assert scipy.stats.chi2.sf(statistic, kept.sum()) > 1e-3


@every
def test_entropy_and_divergence_are_expectations(name):
    """H = −E log p and KL(p ‖ q) = E[log p − log q]; KL(p ‖ p) = 0 < KL(p ‖ q)."""
    p, q = one(name, 0), one(name, 1)
    _, log_p, log_q, _ = sampled(name)
    assert np.isfinite(log_p).all()
    entropy, divergence, none = jax.jit(lambda p, q: (p.entropy(), p.kl_divergence(q), p.kl_divergence(p)))(p, q)
    assert abs(z_score(-log_p, float(entropy))) < 4
    assert abs(z_score(log_p - log_q, float(divergence))) < 4
    assert abs(float(none)) < 1e-6 and float(divergence) > 1e-3


@every_discrete
def test_enumeration(name, x64):
    """Probabilities sum to 1; entropy, divergence, expected score and mode, exactly."""
    p, q = one(name, 0), one(name, 1)
    values, rebuild = parameters(p)

    def one_action(action):
        log_prob, score = jax.value_and_grad(lambda v: rebuild(v).log_prob(action))(values)
        return log_prob, q.log_prob(action), score[0]

    log_p, log_q, scores = map(np.asarray, jax.jit(jax.vmap(one_action))(jnp.asarray(DISCRETE[name])))
    entropy, divergence, best = jax.jit(lambda: (p.entropy(), p.kl_divergence(q), p.log_prob(p.mode())))()
    probs = np.exp(log_p)
    possible = probs > 0
    np.testing.assert_allclose(probs.sum(), 1, rtol=1e-13)
    p_, log_p_, log_q_ = probs[possible], log_p[possible], log_q[possible]
    np.testing.assert_allclose(entropy, -(p_ * log_p_).sum(), rtol=1e-12)
    np.testing.assert_allclose(divergence, (p_ * (log_p_ - log_q_)).sum(), rtol=1e-12)
    np.testing.assert_allclose(np.tensordot(probs, scores, 1), 0, atol=1e-13)
    np.testing.assert_allclose(best, log_p.max(), rtol=1e-13)


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


@pytest.mark.slow
@every
def test_transformations(name):
    """jit and scan without leaks, with strict dtypes and key-reuse checks; a pytree all the way."""

    def run(p, q, key):
        action = p.sample(key)
        p, entropies = jax.lax.scan(lambda c, _: (c, c.entropy()), p, length=2)
        return everything(p, q, action), entropies

    with jax.checking_leaks(), jax.debug_key_reuse(True), jax.numpy_dtype_promotion("strict"):
        result, entropies = jax.jit(run)(TABLE[name](0), TABLE[name](1), jax.random.key(1))
    np.testing.assert_array_equal(entropies[0], entropies[1])
    np.testing.assert_allclose(entropies[0], result["entropy"], rtol=1e-6)


@every
def test_environment_action_is_within_bounds(name):
    distribution, actions = one(name), sampled(name)[0]
    outside = jax.vmap(distribution.to_environment)(actions)
    if name == "joint":
        distribution, outside = distribution.distributions["aim"][1], outside["aim"][1]
    if hasattr(distribution, "low"):
        assert (outside >= jnp.asarray(distribution.low)).all() and (outside <= jnp.asarray(distribution.high)).all()
    else:
        np.testing.assert_array_equal(outside, actions)


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
        squash = [
            dist.transforms.ComposeTransform(
                [
                    dist.transforms.AffineTransform(0.0, 2.0),
                    dist.transforms.SigmoidTransform(),
                    dist.transforms.AffineTransform(low, high - low),
                ]
            )
        ]
        base = dist.Normal(d.mean, jnp.exp(d.log_std))
    else:
        squash, base = [dist.transforms.AffineTransform(low, high - low)], dist.Beta(d.alpha, d.beta)
    return dist.TransformedDistribution(base, squash).to_event(d.event_ndim)


WITH_TWIN = [name for name in TABLE if "multi" not in name and name != "joint"]


@pytest.mark.parametrize("name", WITH_TWIN)
@pytest.mark.parametrize("double", [False, True])
def test_log_prob_equals_numpyro(name, double, request):
    if double:
        request.getfixturevalue("x64")

    def both(distribution, key):
        action = distribution.sample(key)
        outside = action.astype(jnp.int32) if action.dtype == jnp.bool_ else action
        if not isinstance(distribution, D.DiagonalNormal):
            outside = distribution.to_environment(outside)
        return distribution.log_prob(action), numpyro_twin(distribution).log_prob(outside)

    ours, theirs = jax.jit(both)(TABLE[name](0), jax.random.key(3))
    tolerance = 1e-9 if double else 1e-4  # Theirs inverts the squash.
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


SIMPLE = ["normal", "normal, one number", "bernoulli", "categorical", "categorical, 100 actions"]


@pytest.mark.parametrize("name", SIMPLE)
def test_entropy_and_divergence_equal_numpyro(name, x64):
    def both(first, second):
        p, q = numpyro_twin(first), numpyro_twin(second)
        # numpyro has no divergence for the discrete ones; enumeration has.
        divergence = dist.kl_divergence(p, q) if "normal" in name else first.kl_divergence(second)
        return (first.entropy(), first.kl_divergence(second)), (p.entropy(), divergence)

    ours, theirs = jax.jit(both)(TABLE[name](0), TABLE[name](1))
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)


def test_multi_discrete_is_a_product_of_categoricals(x64):
    mask = np.random.default_rng(1).uniform(size=(7, 9)) < 0.7
    mask[:, [0, 2, 6]] = True

    @jax.jit
    def both(logits, mask):
        whole = D.MultiDiscrete(logits, (2, 4, 3), mask)
        parts = [D.Categorical(logits[:, a:b], mask[:, a:b]) for a, b in ((0, 2), (2, 6), (6, 9))]
        action = whole.sample(jax.random.key(0))
        log_prob = sum(part.log_prob(action[:, k]) for k, part in enumerate(parts))
        expected = log_prob, sum(part.entropy() for part in parts), jnp.stack([part.mode() for part in parts], -1)
        return (whole.log_prob(action), whole.entropy(), whole.mode()), expected

    ours, expected = both(uniform(0, (7, 9)), mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), ours, expected)


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
