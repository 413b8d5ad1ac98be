"""`jaxpg.landscape`: returns on planes through parameters against exact ones; the directions' lengths and angles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxpg
from jaxpg import policies
from jaxpg.landscape import _STREAM, random_directions, return_landscape

MDP = jaxpg.exact.random_mdp(jax.random.key(7), 4, 3, discount=1.0, horizon=4)
ENV = MDP.environment()
POLICY = policies.tabular(ENV)
PARAMS = jax.random.normal(jax.random.key(8), (4, 3))
KEY = jax.random.key(9)
DIRECTIONS = random_directions(jax.random.key(10), POLICY, PARAMS)
CARTPOLE = jaxpg.make("CartPole-v1", max_steps=20)


def at(params, directions, *steps):
    """θ + α d₁ + β d₂."""
    return jax.tree.map(lambda leaf, *ds: leaf + sum(s * d for s, d in zip(steps, ds)), params, *directions)


def hotelling(samples, mean):
    """The p-value of "the samples [n, p] have this mean", for correlated columns: T² = n (x̄ − μ)ᵀ S⁻¹ (x̄ − μ)."""
    n, p = samples.shape
    difference = samples.mean(0) - mean
    squared = n * difference @ np.linalg.solve(np.cov(samples.T), difference)
    return stats.f.sf(squared * (n - p) / (p * (n - 1)), p, n - p)


def landscape(key=KEY, **options):
    """Nine points; all that takes the defaults here shares one compiled program."""
    options = {"directions": DIRECTIONS, "num_points": 3, "extent": 2.0, "batch_size": 9, **options}
    return return_landscape(key, ENV, POLICY, PARAMS, **options)


@pytest.fixture(scope="module")
def landscapes():
    """Landscapes with 60 keys on the same plane: returns and errors [key, beta, alpha]."""
    found = [landscape(key) for key in jax.random.split(KEY, 60)]
    names = ("episode_return", "episode_return_error")
    return [np.stack([x[name].values for x in found]).astype(float) for name in names]


def test_returns_are_those_of_the_exact_objective(landscapes):
    """Nine points, correlated since they play the same episodes, so by Hotelling's T²."""
    returns, _ = landscapes
    grid = [(alpha, beta) for beta in (-2.0, 0.0, 2.0) for alpha in (-2.0, 0.0, 2.0)]
    exact = np.array([float(MDP.objective(POLICY, at(PARAMS, DIRECTIONS, *steps))) for steps in grid])
    assert np.ptp(exact) > 0.5  # A plain would not tell one point from another.
    samples = returns.reshape(len(returns), 9)
    assert hotelling(samples, exact) > 1e-3
    # The test has teeth: axes exchanged, a sign, a step of another length.
    swapped = exact.reshape(3, 3).T.ravel()
    mirrored = exact.reshape(3, 3)[:, ::-1].ravel()
    assert hotelling(samples, swapped) < 1e-9 and hotelling(samples, mirrored) < 1e-9


def test_errors_are_the_spread_over_keys(landscapes):
    """At each point Σ (x − x̄)² over the mean squared error reported is χ² of 59 degrees."""
    returns, errors = landscapes
    ratio = (len(returns) - 1) * returns.var(0, ddof=1) / (errors**2).mean(0)
    p = 2 * np.minimum(stats.chi2.sf(ratio, len(returns) - 1), stats.chi2.cdf(ratio, len(returns) - 1))
    assert p.min() > 1e-3, p


def test_every_point_is_an_evaluation_with_the_same_key():
    found = landscape(extent=0.5)
    assert found.episode_return.dims == ("beta", "alpha")
    np.testing.assert_allclose(found.alpha, [-0.5, 0.0, 0.5])
    for alpha, beta in ((0.0, 0.0), (0.5, 0.0), (0.0, -0.5), (-0.5, 0.5)):
        params = at(PARAMS, DIRECTIONS, alpha, beta)
        returns = np.asarray(jaxpg.evaluate(KEY, ENV, POLICY, params, num_episodes=64).returns, float)
        point = found.sel(alpha=alpha, beta=beta)
        np.testing.assert_allclose(point.episode_return, returns.mean(), rtol=1e-5)
        np.testing.assert_allclose(point.episode_return_error, returns.std(ddof=1) / np.sqrt(64), rtol=1e-4)
    # Four points at a time: the last batch is filled up.
    np.testing.assert_allclose(landscape(extent=0.5, batch_size=4).episode_return, found.episode_return, rtol=1e-5)


def test_random_directions_come_from_the_key():
    first, again = (landscape(directions=None) for _ in range(2))
    np.testing.assert_array_equal(first.episode_return, again.episode_return)
    named = landscape(directions=random_directions(jax.random.fold_in(KEY, _STREAM), POLICY, PARAMS))
    np.testing.assert_array_equal(first.episode_return, named.episode_return)
    assert first.alpha.attrs == {"long_name": "along direction 1", "units": "filter norms"}


def test_a_line_along_the_gradient_rises_as_the_exact_objective():
    gradient = MDP.policy_gradient(POLICY, PARAMS)
    line = return_landscape(KEY, ENV, POLICY, PARAMS, directions=gradient, num_points=3, num_episodes=4096)
    assert line.episode_return.dims == ("alpha",)
    exact = [float(MDP.objective(POLICY, PARAMS + a * gradient)) for a in (-1.0, 0.0, 1.0)]
    assert exact[0] < exact[1] < exact[2]
    z = (line.episode_return.values - exact) / line.episode_return_error.values
    assert (z**2 < stats.chi2.isf(1e-3 / 3, 1)).all(), z
    listed = return_landscape(KEY, ENV, POLICY, PARAMS, directions=[gradient], num_points=3, num_episodes=4096)
    np.testing.assert_array_equal(listed.episode_return, line.episode_return)


def test_the_mode_of_the_policy():
    """Noise-free feedback from one start: J = −Σ_t xᵀ (Q + Kᵀ R K) x, without sampling error."""
    lqr = jaxpg.exact.LQR(
        [[0.9, 0.2], [0.0, 0.8]], [[0.0], [1.0]], np.eye(2), [[0.1]], discount=1.0, horizon=5, initial=[[1.0], [0.5]]
    )
    env = lqr.environment()
    policy = policies.linear_gaussian(env, log_std_init=0.3)
    params = {"gain": jnp.array([[0.1, 0.3]]), "log_std": jnp.array([0.3])}
    direction = {"gain": jnp.array([[0.2, -0.1]]), "log_std": jnp.array([5.0])}
    line = return_landscape(
        KEY, env, policy, params, directions=direction, num_points=3, num_episodes=512, deterministic=True
    )
    quiet = [{"gain": params["gain"] + a * direction["gain"], "log_std": jnp.array([-30.0])} for a in (-1.0, 0.0, 1.0)]
    exact = np.array([float(lqr.objective(policy, point)) for point in quiet])
    z = (line.episode_return.values - exact) / line.episode_return_error.values
    assert (z**2 < stats.chi2.isf(1e-3 / 3, 1)).all(), z


# --- directions -------------------------------------------------------------------------------------------------------


def blocks(direction, normalization):
    """The parts that are scaled by themselves, as vectors."""
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(direction)]
    if normalization == "unit":
        return [np.concatenate([leaf.ravel() for leaf in leaves])]
    if normalization == "leaf":
        return [leaf.ravel() for leaf in leaves]
    return [
        column
        for leaf in leaves
        for column in (leaf.reshape(-1, leaf.shape[-1]).T if leaf.ndim > 1 else [leaf.ravel()])
    ]


@pytest.mark.parametrize("normalization", ["filter", "leaf", "unit"])
def test_directions_are_orthogonal_and_as_long_as_the_parameters(normalization):
    policy = policies.mlp(CARTPOLE, (5, 3))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), jax.eval_shape(policy.init, KEY))
    first, second = random_directions(KEY, policy, params, normalization=normalization)
    assert jax.tree.structure(first) == jax.tree.structure(second) == jax.tree.structure(params)
    parts = list(zip(*(blocks(x, normalization) for x in (params, first, second)), strict=True))
    assert len(parts) == {"filter": 5 + 3 + 2 + 3, "leaf": 6, "unit": 1}[normalization]
    for of_params, one, two in parts:
        length = 1.0 if normalization == "unit" else np.linalg.norm(of_params)
        np.testing.assert_allclose([np.linalg.norm(one), np.linalg.norm(two)], length, rtol=1e-5)
        assert abs(one @ two) < 1e-5 * length**2
    # Within a block nothing else is rescaled: columns are as long as their parameters for "filter" alone.
    columns = [[np.linalg.norm(column) for column in blocks(x, "filter")] for x in (params, first)]
    assert np.allclose(*columns, rtol=1e-5) is (normalization == "filter")
    again, _ = random_directions(KEY, policy, params, normalization=normalization)
    other, _ = random_directions(jax.random.key(1), policy, params, normalization=normalization)
    jax.tree.map(np.testing.assert_array_equal, again, first)
    assert not np.allclose(*(jax.tree.leaves(x)[-1] for x in (first, other)))


def test_directions_are_isotropic_within_a_block():
    """Of a vector with two numbers the first direction's angle is uniform, the second's a quarter turn from it."""
    policy = dataclasses.replace(POLICY, init=lambda key: jnp.zeros(2))
    pairs = [random_directions(key, policy, jnp.array([3.0, 4.0])) for key in jax.random.split(KEY, 60)]
    one, two = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 5.0, rtol=1e-5)
    np.testing.assert_allclose((one * two).sum(1), 0.0, atol=1e-4)
    assert stats.kstest(np.arctan2(*one.T) / (2 * np.pi) + 0.5, "uniform").pvalue > 1e-3


def test_numbers_by_themselves_move_along_the_first_direction_only():
    params = {"gain": jnp.array([[1.0, 2.0]]), "log_std": jnp.array([-0.5])}
    first, second = random_directions(KEY, POLICY, params)
    assert abs(float(first["log_std"][0])) == 0.5 and second["log_std"].tolist() == [0.0]
    np.testing.assert_allclose(np.linalg.norm(first["gain"]), np.sqrt(5.0), rtol=1e-5)  # One number to an output.
    assert abs(float(jnp.sum(first["gain"] * second["gain"]))) < 1e-5


def test_what_is_not_trained_stays():
    policy = policies.normalized(policies.mlp(CARTPOLE, (3,)), CARTPOLE)
    params = jax.tree.map(lambda x: x + 0.5, policy.init(jax.random.key(0)))
    for normalization in ("filter", "leaf", "unit"):
        for direction in random_directions(KEY, policy, params, normalization=normalization):
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(direction["observations"]))
            assert any(np.any(leaf) for leaf in jax.tree.leaves(direction["model"]))
    counts = {"table": PARAMS, "count": jnp.int32(3)}
    first, second = random_directions(KEY, POLICY, counts)
    assert first["count"] == second["count"] == 0 and first["count"].dtype == jnp.int32


@pytest.mark.parametrize("options, kind, words", [
    ({"num_points": 4}, ValueError, "num_points must be odd"),
    ({"num_points": 1}, ValueError, "num_points must be an integer of at least 3"),
    ({"extent": 0.0}, ValueError, "extent must be"),
    ({"num_episodes": 0}, ValueError, "num_episodes must be"),
    ({"batch_size": 0}, ValueError, "batch_size must be"),
    ({"deterministic": 1}, TypeError, "deterministic must be True or False"),
    ({"normalization": "filters"}, ValueError, "did you mean 'filter'"),
    ({"normalization": "none", "directions": PARAMS}, ValueError, "normalization must be one of"),
    ({"params": jnp.zeros((4, 3))}, ValueError, "a random direction with normalization='filter': their norms"),
    ({"directions": {"table": PARAMS}}, ValueError, "directions must be a pytree like params, or one or two"),
    ({"directions": [PARAMS] * 3}, ValueError, "directions must be a pytree like params, or one or two"),
    ({"directions": [PARAMS, PARAMS[:2]]}, ValueError, r"directions\[1\] must be a pytree like params"),
    ({"env": dataclasses.replace(ENV, max_steps=None)}, ValueError, "no episode limit"),
    ({"policy": None}, TypeError, "policy must be a Policy"),
])  # fmt: skip
def test_bad_arguments(options, kind, words):
    given = {"env": ENV, "policy": POLICY, "params": PARAMS, **options}
    with pytest.raises(kind, match=words):
        return_landscape(KEY, given.pop("env"), given.pop("policy"), given.pop("params"), **given)


def test_it_runs_on_the_host():
    with pytest.raises(TypeError, match="params must be known values"):
        jax.jit(lambda params: return_landscape(KEY, ENV, POLICY, params))(PARAMS)


def test_a_single_number_has_no_second_direction():
    with pytest.raises(ValueError, match="a second, orthogonal direction"):
        random_directions(KEY, POLICY, jnp.ones(1))
