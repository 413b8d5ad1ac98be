"""Sampling schemes: single episodes have the right law, groups the right dependence, and their means the variance that
theory gives: closed forms for a Gaussian bandit, Owen's exact variance for quasi-Monte Carlo.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.stats import qmc

from jaxpg import sampling
from jaxpg.policies import distributions as D  # noqa: N812

MASK = jnp.array([True, False, True, True])
SCHEMES = {
    "independent": sampling.independent,
    "antithetic": sampling.antithetic,
    "quasi": lambda: sampling.quasi_monte_carlo(8, max_dimension=5),
}
every_scheme = pytest.mark.parametrize("name", SCHEMES)


def numbers(scheme, num_episodes, num, times=(0,), key=None, first=0):
    """The scheme's uniforms [episode, time, num], as lanes ask for them: everything traced, under `vmap` and `jit`."""
    key = jax.random.key(1) if key is None else key

    def of_lane(key, episode, time):
        return scheme.uniforms(key, episode, time, num)

    of_lanes = jax.vmap(jax.vmap(of_lane, (None, None, 0)), (None, 0, None))
    ids = first + jnp.arange(num_episodes, dtype=jnp.int32)
    return np.asarray(jax.jit(of_lanes)(key, ids, jnp.asarray(times, jnp.int32)))


def chi_squared(statistic, freedom, level=1e-3):
    """Whether a χ² statistic is neither too large nor too small."""
    return level < stats.chi2.sf(statistic, freedom) < 1 - level


# Distributions.


def table():
    rng = np.random.default_rng(0)
    x = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.result_type(float))  # noqa: E731
    return {
        "categorical": D.Categorical(x(4)),
        "masked": D.Categorical(x(4), MASK),
        "100 actions": D.Categorical(x(100)),
        "low precision": D.Categorical(x(4).astype(jnp.bfloat16), MASK[::-1].at[3].set(False)),
        "multi-discrete": D.MultiDiscrete(x(9), (2, 4, 3)),
        "bernoulli": D.Bernoulli(x(3)),
        "one switch": D.Bernoulli(x(), event_ndim=0),
        "normal": D.DiagonalNormal(x(3), x(3)),
        "one number": D.DiagonalNormal(x(), x(), event_ndim=0),
        "tanh-normal": D.TanhNormal(x(2, 2), x(2, 2), event_ndim=2),
        "joint": D.Joint({"a": D.Categorical(x(4)), "b": (D.DiagonalNormal(x(2), x(2)), D.Bernoulli(x(2)))}),
    }


COUNTS = dict(zip(table(), (1, 1, 1, 1, 3, 3, 1, 3, 1, 4, 5), strict=True))


@pytest.mark.parametrize("name", COUNTS)
def test_from_uniforms_has_the_shape_and_dtype_of_a_draw(name):
    distribution = table()[name]
    assert distribution.num_uniforms() == D.num_uniforms(distribution) == COUNTS[name]
    drawn = jax.eval_shape(distribution.sample, jax.random.key(0))
    mapped = jax.eval_shape(distribution.from_uniforms, jnp.full(COUNTS[name], 0.5))
    assert jax.tree.structure(drawn) == jax.tree.structure(mapped)
    for ours, theirs in zip(jax.tree.leaves(mapped), jax.tree.leaves(drawn)):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


@pytest.mark.parametrize("name", ["categorical", "masked", "100 actions", "low precision", "multi-discrete"])
def test_a_grid_of_uniforms_counts_out_the_probabilities(name):
    distribution, size = table()[name], 20_000
    grid = (jnp.arange(size) + 0.5) / size
    columns = jnp.stack([jnp.roll(grid, 777 * k) for k in range(COUNTS[name])], axis=-1)
    actions = np.asarray(jax.vmap(distribution.from_uniforms)(columns)).reshape(size, -1)
    entries = distribution._entries() if name == "multi-discrete" else distribution
    probabilities = np.exp(np.asarray(entries.log_probs(), np.float64)).reshape(actions.shape[1], -1)
    for entry, expected in zip(actions.T, probabilities):
        counts = np.bincount(entry, minlength=expected.size)
        # Each end of an action's interval cuts off less than one grid point, up to rounding (of 8 bits in bfloat16).
        tolerance = 100 if name == "low precision" else 1.1
        np.testing.assert_allclose(counts, size * expected, atol=tolerance)
        assert not counts[expected == 0].any()


def test_switches_are_on_as_often_as_their_probability():
    distribution, size = table()["bernoulli"], 20_000
    grid = jnp.broadcast_to(((jnp.arange(size) + 0.5) / size)[:, None], (size, 3))
    counts = np.asarray(jax.vmap(distribution.from_uniforms)(grid)).sum(0)
    np.testing.assert_allclose(counts, size * np.asarray(jax.nn.sigmoid(distribution.logits)), atol=1.1)


def check_normals(rtol):
    rng = np.random.default_rng(1)
    uniforms = jnp.asarray(rng.uniform(size=(2000, 4)), jnp.result_type(float))
    for distribution in (table()["normal"], table()["tanh-normal"]):
        uniforms_ = uniforms[:, : distribution.num_uniforms()]
        actions = jax.vmap(distribution.from_uniforms)(uniforms_)
        mean, std = (np.asarray(x, np.float64) for x in (distribution.mean, jnp.exp(distribution.log_std)))
        exact = mean + std * stats.norm.ppf(np.asarray(uniforms_, np.float64)).reshape(-1, *mean.shape)
        np.testing.assert_allclose(actions, exact, rtol=rtol, atol=rtol)


def test_normals_are_scipys_inverse():
    check_normals(1e-5)


def test_normals_are_scipys_inverse_in_double_precision(x64):
    check_normals(1e-12)


@pytest.mark.slow
def test_every_uniform_gives_an_allowed_finite_action():
    """Also the ends of the closed interval, and the last floats before them."""
    ends = jnp.array([0.0, 1e-45, 2.0**-24, 1 - 2.0**-24, 1.0], jnp.float32)
    for name, distribution in table().items():
        actions = jax.vmap(lambda u: distribution.from_uniforms(jnp.full(COUNTS[name], u)))(ends)  # noqa: B023
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(actions)), name
        assert np.isfinite(jax.vmap(distribution.log_prob)(actions)).all(), name
    # In range the inverse is odd, exactly, so that mirrored uniforms give mirrored actions.
    normal = D.DiagonalNormal(jnp.zeros(1), jnp.zeros(1))
    inside = jnp.concatenate([ends[2:4], (2 * jax.random.randint(jax.random.key(0), (5000,), 0, 2**23) + 1) * 2.0**-24])
    below, above = (jax.vmap(normal.from_uniforms)(u[:, None]) for u in (inside, 1 - inside))
    np.testing.assert_array_equal(below, -above)
    assert np.abs(below).max() > 5.2


def test_discrete_draws_are_those_from_their_own_uniforms():
    key = jax.random.key(4)
    for name in ("categorical", "masked", "100 actions", "multi-discrete", "bernoulli"):
        distribution = table()[name]
        shape = () if COUNTS[name] == 1 else (COUNTS[name],)
        uniforms = jax.random.uniform(key, shape).reshape(COUNTS[name])
        np.testing.assert_array_equal(distribution.sample(key), distribution.from_uniforms(uniforms))


def test_joint_gives_each_leaf_its_own_uniforms():
    joint = table()["joint"]
    uniforms = jnp.array([0.3, 0.9, 0.2, 0.6, 0.1])
    a, (b, c) = joint.distributions["a"], joint.distributions["b"]
    expected = {
        "a": a.from_uniforms(uniforms[:1]),
        "b": (b.from_uniforms(uniforms[1:3]), c.from_uniforms(uniforms[3:])),
    }
    jax.tree.map(np.testing.assert_array_equal, joint.from_uniforms(uniforms), expected)


def test_from_uniforms_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match=r"uniforms must be floats of shape \(3,\)"):
        table()["normal"].from_uniforms(jnp.full(2, 0.5))
    with pytest.raises(ValueError, match="uniforms must be floats of shape"):
        table()["joint"].from_uniforms(jnp.full(6, 0.5))
    with pytest.raises(ValueError, match="dtype int32"):
        table()["categorical"].from_uniforms(jnp.ones(1, int))
    beta = D.Beta(jnp.ones(2), jnp.ones(2))
    assert beta.num_uniforms() == 2
    for distribution in (beta, D.Joint((table()["normal"], beta))):
        with pytest.raises(TypeError, match="incomplete beta"):
            distribution.from_uniforms(jnp.full(distribution.num_uniforms(), 0.5))
    with pytest.raises(TypeError, match="Normal cannot be drawn from given uniforms"):
        D.Joint((dist.Normal(0, 1),)).num_uniforms()


# All schemes.


@every_scheme
def test_single_episodes_have_independent_uniform_numbers(name):
    """One episode of each group: for these every scheme is plain sampling, over times, coordinates and groups."""
    scheme, groups = SCHEMES[name](), 2000
    values = numbers(scheme, groups * scheme.group_size, 2, times=(0, 1, 4))
    for member in sorted({0, scheme.group_size - 1}):
        own = values[member :: scheme.group_size].reshape(groups, -1)
        p_values = [stats.kstest(column, "uniform").pvalue for column in own.T]
        assert min(p_values) * len(p_values) > 1e-3
        # Products of two different ones, standardised, have mean 0 and variance 1 and are uncorrelated.
        z = (own - 0.5) * np.sqrt(12)
        k = z.shape[1]
        within = (z.T @ z / groups)[np.triu_indices(k, 1)]
        between = z[:-1].T @ z[1:] / (groups - 1)
        assert chi_squared(groups * (np.sum(within**2) + np.sum(between**2)), k * (k - 1) // 2 + k**2, 1e-4)


@every_scheme
def test_numbers_are_functions_of_their_names(name):
    scheme = SCHEMES[name]()
    key = jax.random.key(1)
    assert scheme.name and isinstance(scheme.group_size, int)
    values = numbers(scheme, 20, 3, times=(0, 1, 2))
    for episode, time in ((0, 0), (7, 1), (9, 2), (19, 2)):
        np.testing.assert_array_equal(scheme.uniforms(key, episode, time, 3), values[episode, time])
    np.testing.assert_array_equal(numbers(scheme, 4, 3, (1,), first=16)[:, 0], values[16:, 1])
    assert not np.isin(values, numbers(scheme, 20, 3, (0, 1, 2), key=jax.random.key(2))).any()


@every_scheme
def test_episode_keys(name):
    scheme, key = SCHEMES[name](), jax.random.key(3)
    ids = jnp.arange(6, dtype=jnp.int32)
    keys = jax.random.key_data(jax.vmap(lambda i: scheme.episode_key(key, i))(ids))
    sources = ids // 2 if name == "antithetic" else ids
    np.testing.assert_array_equal(keys, jax.random.key_data(jax.vmap(lambda i: jax.random.fold_in(key, i))(sources)))
    assert sampling._SCRAMBLE_STREAM > np.iinfo(np.int32).max  # The key of the scrambling is that of no episode.


@every_scheme
@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_numbers_lie_inside_the_open_interval_on_its_grid(name, generator):
    values = numbers(SCHEMES[name](), 64, 3, times=(0, 3), key=jax.random.key(0, impl=generator))
    assert values.dtype == np.float32
    scaled = values.astype(np.float64) * 2**24
    np.testing.assert_array_equal(scaled % 2, 1)
    assert (values > 0).all() and (values < 1).all()


def test_the_outermost_words_give_numbers_inside(request):
    words = jnp.array([0, 2**32 - 1], jnp.uint32)
    values = np.asarray(sampling._open_unit(words, words))
    np.testing.assert_array_equal(values, np.float32([2.0**-24, 1 - 2.0**-24]))
    assert np.isfinite(D.DiagonalNormal(jnp.zeros(2), jnp.zeros(2)).from_uniforms(values)).all()
    request.getfixturevalue("x64")
    values = np.asarray(sampling._open_unit(words, words))
    np.testing.assert_array_equal(values, [2.0**-53, 1 - 2.0**-53])


@every_scheme
def test_double_precision_refines_the_same_numbers(name, request):
    single = numbers(SCHEMES[name](), 16, 3, times=(0, 2))
    request.getfixturevalue("x64")
    double = numbers(SCHEMES[name](), 16, 3, times=(0, 2))
    assert double.dtype == np.float64
    np.testing.assert_array_equal((double * 2.0**53) % 2, 1)
    np.testing.assert_array_equal(np.floor(double * 2**23), np.floor(single.astype(np.float64) * 2**23))
    assert np.unique(np.floor(double * 2**53) % 2**20).size == double.size  # The low bits are random, too.
    if name == "antithetic":
        np.testing.assert_array_equal(double[::2] + double[1::2], 1)


def test_draw():
    key, normal = jax.random.key(5), table()["normal"]
    assert sampling.draw(sampling.independent(), key) is None
    scheme = sampling.antithetic()
    action = sampling.draw(scheme, key)
    np.testing.assert_array_equal(action(normal, 3, 2), normal.from_uniforms(scheme.uniforms(key, 3, 2, 3)))
    np.testing.assert_allclose(action(normal, 2, 2) + action(normal, 3, 2), 2 * normal.mean, rtol=1e-6)
    with pytest.raises(TypeError, match="Normal cannot be drawn"):
        action(dist.Normal(0, 1), 0, 0)
    with pytest.raises(TypeError, match="sampling must be a Sampling"):
        sampling.draw("antithetic", key)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "points must be a power of two from 2 to 1,048,576; got 12", {"points": 12}),
        (ValueError, "points must be a power of two", {"points": 2**21}),
        (ValueError, "points must be an integer of at least 2; got 1", {"points": 1}),
        (TypeError, "points must be an integer", {"points": 8.0}),
        (ValueError, "max_dimension must be an integer of at least 1", {"points": 8, "max_dimension": 0}),
        (ValueError, "max_dimension must be at most 21201", {"points": 8, "max_dimension": 30_000}),
    ],
)
def test_quasi_monte_carlo_refuses(error, message, arguments):
    with pytest.raises(error, match=message):
        sampling.quasi_monte_carlo(**arguments)


# Antithetic pairs.


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_pairs_are_exact_complements(generator):
    values = numbers(sampling.antithetic(), 200, 3, times=(0, 1), key=jax.random.key(0, impl=generator))
    np.testing.assert_array_equal(values[::2] + values[1::2], np.float32(1))
    assert np.unique(values).size == values.size


def gaussian_bandit(scheme, num_episodes, reward, mean, log_std):
    """Score estimates ∇_mean log π(a) r(a) of one-step episodes, [episode, action]."""
    distribution = D.DiagonalNormal(jnp.asarray(mean), jnp.asarray(log_std))

    def estimate(key, episode):
        action = distribution.from_uniforms(scheme.uniforms(key, episode, 0, distribution.num_uniforms()))
        score = jax.grad(lambda m: D.DiagonalNormal(m, distribution.log_std).log_prob(action))(distribution.mean)
        return score * reward(action)

    ids = jnp.arange(num_episodes, dtype=jnp.int32)
    return np.asarray(jax.jit(jax.vmap(estimate, (None, 0)))(jax.random.key(6), ids), np.float64)


def deviation_of_variance(samples, variance):
    """The sampled variance minus the exact one, in standard deviations, which the samples' fourth moment gives."""
    centred = samples - samples.mean(0)
    second, fourth = np.mean(centred**2, 0), np.mean(centred**4, 0)
    return (second - variance) / np.sqrt((fourth - second**2) / len(samples))


def test_pairs_in_a_gaussian_bandit_with_a_linear_reward():
    """r(a) = c·a, a = μ + σz: a pair's mean is z (c·(σz))/σ, in which μ does not appear.

    Its mean is c, and its variance 2c_k² + Σ_{j≠k} (c_j σ_j/σ_k)²; two independent episodes' adds (c·μ)²/(2σ_k²).
    """
    c, mean, log_std = (np.array(x) for x in ([1.0, -0.5], [3.0, 1.0], [0.2, -0.4]))
    std = np.exp(log_std)
    ratios = (c * std)[None, :] / std[:, None]
    noise = (ratios**2).sum(1) + np.diag(ratios) ** 2
    reward = lambda a: jnp.asarray(c, a.dtype) @ a  # noqa: E731
    pairs = gaussian_bandit(sampling.antithetic(), 400_000, reward, mean, log_std).reshape(-1, 2, 2).mean(1)
    plain = gaussian_bandit(sampling.independent(), 400_000, reward, mean, log_std).reshape(-1, 2, 2).mean(1)
    for samples, variance in ((pairs, noise), (plain, (noise + (c @ mean) ** 2 / std**2) / 2)):
        t = np.sqrt(len(samples)) * (samples.mean(0) - c) / np.sqrt(variance)
        worst = np.abs(np.concatenate([t, deviation_of_variance(samples, variance)])).max()
        assert worst < 3.7  # 8 numbers at 2e-4 each.


def test_pairs_in_a_gaussian_bandit_with_a_quadratic_reward():
    """r(a) = −(a − b)²/2 = r₀ + r₁z + r₂z²: of the score estimate r z/σ a pair's mean keeps r₁z²/σ, variance 2r₁²/σ².

    The gradient is r₁/σ. An independent pair has (r₀² + 2r₁² + 15r₂² + 6r₀r₂)/(2σ²). At the optimum, r₁ = 0, pairs have
    no variance at all.
    """
    mean, log_std = 1.0, -0.3
    std = np.exp(log_std)
    for b in (0.2, 1.0, 4.0):
        r0, r1, r2 = -0.5 * (mean - b) ** 2, -(mean - b) * std, -0.5 * std**2
        reward = lambda a, b=b: -0.5 * jnp.sum((a - b) ** 2)  # noqa: E731
        both = (
            gaussian_bandit(scheme(), 400_000, reward, [mean], [log_std])[:, 0].reshape(-1, 2).mean(1)
            for scheme in (sampling.antithetic, sampling.independent)
        )
        variances = 2 * r1**2 / std**2, (r0**2 + 2 * r1**2 + 15 * r2**2 + 6 * r0 * r2) / (2 * std**2)
        for samples, variance in zip(both, variances):
            if variance == 0:
                np.testing.assert_allclose(samples, 0, atol=1e-4)
                continue
            t = np.sqrt(len(samples)) * (samples.mean() - r1 / std) / np.sqrt(variance)
            assert max(abs(t), abs(deviation_of_variance(samples, variance))) < 3.9  # 10 numbers at 1e-4 each.


# Quasi-Monte Carlo.


@functools.cache
def replicates(points, num_replicates, num=8, max_dimension=16):
    """[replicate, point, coordinate] of the first two times."""
    scheme = sampling.quasi_monte_carlo(points, max_dimension=max_dimension)
    values = numbers(scheme, points * num_replicates, num, times=(0, 1))
    return values.reshape(num_replicates, points, 2 * num)


def test_without_scrambling_the_points_are_scipys():
    points, dimensions = 64, 40
    directions = sampling._directions(6, dimensions)
    assert directions.dtype == np.uint32
    indices = np.arange(points)
    coordinates = jnp.arange(dimensions)
    digits = np.stack([sampling._sobol(directions, coordinates, i) for i in indices ^ (indices >> 1)])
    exact = qmc.Sobol(dimensions, scramble=False, bits=32).random(points)
    np.testing.assert_array_equal(digits / 2.0**32, exact)
    # The identity in the place of L, and no shift, leave the digits as they are.
    identity = jnp.broadcast_to(np.uint32(2**31) >> np.arange(6, dtype=np.uint32), (dimensions, 6))
    unscrambled = sampling._scramble(jnp.asarray(digits[5]), identity, jnp.zeros(dimensions, jnp.uint32))
    np.testing.assert_array_equal(unscrambled, digits[5])


@pytest.mark.parametrize("points", [2, 64])
def test_every_replicate_is_a_net(points):
    values = replicates(points, 50)
    bins = np.sort(np.floor(values * points), axis=1)
    np.testing.assert_array_equal(bins, np.broadcast_to(np.arange(points)[:, None], bins.shape))
    # t = 0 for the first two coordinates: one point in each box of area 1/M, whatever its proportions.
    digits = points.bit_length() - 1
    for k in range(digits + 1):
        boxes = np.floor(values[..., 0] * 2**k) * 2 ** (digits - k) + np.floor(values[..., 1] * 2 ** (digits - k))
        np.testing.assert_array_equal(np.sort(boxes, axis=1), np.broadcast_to(np.arange(points), boxes.shape))


def test_the_shift_alone_makes_every_point_uniform():
    """y = L x ⊕ s: s enters as it came. The 2⁸ values of eight of its bits take a point to 2⁸ different intervals."""
    key, digits = jax.random.key(0), jnp.array([5 << 29, 1 << 31], jnp.uint32)
    columns, shift = sampling._scrambling(key, jnp.arange(2), 3)
    shifts = (jnp.arange(256, dtype=jnp.uint32) << 24)[:, None] ^ shift
    moved = np.asarray(jax.vmap(lambda s: sampling._scramble(digits, columns, s))(shifts))
    np.testing.assert_array_equal(moved, sampling._scramble(digits, columns, jnp.zeros(2, jnp.uint32)) ^ shifts)
    np.testing.assert_array_equal(np.sort(moved >> 24, axis=0), np.arange(256)[:, None] * [1, 1])


def test_every_point_is_uniform_over_replicates():
    """Counts in 16 equal intervals for each point and coordinate, χ² with 15 degrees of freedom each."""
    values, bins = replicates(16, 4000), 16
    counts = np.stack([(np.floor(values * bins) == k).sum(0) for k in range(bins)])
    expected = len(values) / bins
    p_values = stats.chi2.sf(np.sum((counts - expected) ** 2 / expected, axis=0), bins - 1).ravel()
    assert p_values.min() * p_values.size > 1e-3  # Bonferroni: points of a replicate are dependent.
    # The low digits behind the stratified ones, and the means, coordinate by coordinate.
    fine = stats.kstest((values[:, 3] * bins % 1).ravel(), "uniform").pvalue
    assert fine > 1e-3


SUBSETS = [s for size in (1, 2, 3) for s in itertools.combinations(range(6), size)]


def owen_variances(points):
    """Var of the M-point mean of Π_{j∈S} (u_j − ½) under nested uniform scrambling, for each S in SUBSETS.

    Two points with l common digits, a different one next and independent ones behind have covariance
    ρ(l) = (1 − 4⁻ˡ)/12 − 4⁻ˡ/16 in a coordinate; l = ∞ gives 1/12. Var = M⁻² Σ_{i,k} Π_j ρ(l_j(i, k)).
    """
    digits = np.round(qmc.Sobol(6, scramble=False, bits=32).random(points) * 2**32).astype(np.int64)
    common = 32 - np.ceil(np.log2((digits[:, None] ^ digits[None, :]) + 1))
    same = np.eye(points, dtype=bool)[..., None]
    rho = np.where(same, 1 / 12, (1 - 4.0**-common) / 12 - 4.0**-common / 16)
    return np.array([rho[..., list(s)].prod(-1).sum() for s in SUBSETS]) / points**2


@pytest.mark.parametrize("points", [4, 32])
def test_means_are_unbiased_with_the_exact_variance_of_owens_scrambling(points):
    """Means of products of coordinates: their mean, their variance, and their independence over replicates.

    Products over different sets are uncorrelated, so each sum of squares is χ² with as many degrees of freedom as there
    are sets, but for the excess kurtosis, which is estimated.
    """
    variances = owen_variances(points)
    if points == 32:
        np.testing.assert_allclose(variances[0], 1 / (12 * 32**3))  # One uniform number in each of 32 intervals.
    values = replicates(points, 4000, num=3).astype(np.float64) - 0.5
    means = np.stack([values[..., list(s)].prod(-1).mean(1) for s in SUBSETS], axis=-1) / np.sqrt(variances)
    number = len(means)
    assert chi_squared(number * np.sum(means.mean(0) ** 2), len(SUBSETS), 1e-4)
    # Neighbouring replicates: products of independent variables of variance 1.
    products = means[::2] * means[1::2]
    assert chi_squared(number / 2 * np.sum(products.mean(0) ** 2), len(SUBSETS), 1e-4)
    squares = means**2
    z = np.sqrt(number) * (squares.mean(0) - 1) / squares.std(0)
    assert np.abs(z).max() < stats.norm.isf(1e-4 / len(SUBSETS))


def test_the_error_of_a_smooth_mean_falls_faster_than_that_of_independent_numbers():
    """f(u) = exp(Σ_{j<4} u_j/2): the variance of an M-point mean against Var f / M.

    With 300 replicates a ratio of variances is known within a fifth (three deviations, kurtosis 3).
    """
    moment = lambda c: (np.exp(c) - 1) / c  # noqa: E731
    mean = moment(0.5) ** 4
    variance = moment(1.0) ** 4 - mean**2
    ratios = []
    for points in (16, 256):
        means = np.exp(0.5 * replicates(points, 300, num=2).astype(np.float64).sum(-1)).mean(1)
        t = np.sqrt(300) * (means.mean() - mean) / means.std()
        assert abs(t) < 3.9  # two numbers at 1e-4 each
        ratios.append(means.var() / (variance / points))
    assert ratios[1] < 0.01  # Measured: 0.00013, after 0.016 with 16 points.
    assert ratios[1] < ratios[0] / 32  # A rate of M⁻²·²⁵ at least, where M⁻³ is the limit.


def test_coordinates_go_on_over_time_and_then_independent():
    scheme = sampling.quasi_monte_carlo(8, max_dimension=5)
    steps, flat = numbers(scheme, 24, 2, times=(0, 1, 2, 3)), numbers(scheme, 24, 8)
    plain = numbers(sampling.independent(), 24, 2, times=(0, 1, 2, 3))
    np.testing.assert_array_equal(steps.reshape(24, 8)[:, :5], flat[:, 0, :5])
    np.testing.assert_array_equal(steps.reshape(24, 8)[:, 5:], plain.reshape(24, 8)[:, 5:])
    assert not np.isin(steps.reshape(24, 8)[:, :5], plain).any()
    # Steps so late that time·num passes 2³¹.
    late = (2**30, 2**31 - 2)
    np.testing.assert_array_equal(numbers(scheme, 4, 4, late), numbers(sampling.independent(), 4, 4, late))
