"""`jaxpg.comparison`: bias², variance and error against exact values, stated errors, table, picture, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact_problems import DISCOUNT, Problem
from scipy import stats

import jaxpg
from jaxpg import baselines, comparison, weights
from jaxpg.comparison import Truth, gradient_moments, replicates, timing
from jaxpg.comparison.contest import compare
from jaxpg.comparison.moments import _trace_of_square
from jaxpg.comparison.text import binary_size, value_and_error

# --- The statistics, on distributions with known moments --------------------------------------------------------------

ROOT = np.random.default_rng(0).normal(size=(6, 6)) * np.array([1, 0.7, 0.5, 0.3, 0.1, 0])  # Of rank 5.
COVARIANCE = ROOT @ ROOT.T
BIAS = np.array([0.4, -0.2, 0.1, 0.0, 0.3, -0.1])
TRUTH = np.array([1.0, 2.0, -1.0, 0.5, 0.0, 0.0])
PART_SCALE = 1.0
# Replicates, parts of the reference (None: the truth is exact), bias.
SETTINGS = [(r, m, b) for r, m in ((4, None), (12, None), (12, 8), (60, 32)) for b in (0.0 * BIAS, BIAS)]
SETTINGS += [(60, m, 40 * BIAS) for m in (None, 32)]  # Here the noise of bias² is the part that grows with the bias.


def skewed(rng, *shape):
    return (rng.exponential(size=(*shape, 6)) - 1.0) @ ROOT.T


@functools.cache
def drawn_moments(setting, sets=1500):
    """The moments of many sets of replicates, [set, 6]."""
    num_replicates, num_parts, bias = SETTINGS[setting]
    rng = np.random.default_rng(setting + 1)
    rows = []
    for _ in range(sets):
        truth = Truth(TRUTH)
        if num_parts is not None:
            parts = TRUTH + PART_SCALE * skewed(rng, num_parts)
            truth = Truth(parts.mean(0), parts)
        rows.append(gradient_moments(TRUTH + bias + skewed(rng, num_replicates), truth)[:6])
    return np.array(rows)


def test_moments_have_no_bias():
    """The means over sets of (bias², variance) against their exact values: one χ² over all settings."""
    t_squared, dof = 0.0, 0
    for setting, (_, _, bias) in enumerate(SETTINGS):
        found = drawn_moments(setting)[:, [0, 2]]
        difference = found.mean(0) - [bias @ bias, np.trace(COVARIANCE)]
        t_squared += len(found) * difference @ np.linalg.solve(np.cov(found.T), difference)
        dof += 2
    p_value = stats.chi2.sf(t_squared, dof)
    assert p_value > 1e-3, (t_squared, dof)


@pytest.mark.parametrize("setting", range(2, len(SETTINGS)))
def test_stated_errors_are_the_spread(setting):
    """Root mean square of the stated errors over the spread of the estimates; bias² may overstate where it is small."""
    found = drawn_moments(setting)
    num_replicates, _, bias = SETTINGS[setting]
    ratio = np.sqrt((found[:, 1::2] ** 2).mean(0)) / found[:, ::2].std(0)
    assert 0.85 < ratio[0] < (1.2 if bias @ bias > 100 else 1.8)
    assert np.abs(ratio[1:] - 1.0).max() < (0.1 if num_replicates > 50 else 0.2), ratio


def test_trace_of_square_has_no_bias():
    """tr S² from six samples, against its exact value: both |z| below 4."""
    rng = np.random.default_rng(9)
    for copies in (1, 4):  # 6 and 24 parameters: more than samples, so that both Gram matrices are taken.
        samples = np.tile(skewed(rng, 4000, 6), copies)
        found = np.array([_trace_of_square(x - x.mean(0)) for x in samples])
        exact = copies**2 * np.trace(COVARIANCE @ COVARIANCE)
        assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(len(found))


def test_moments_add_up():
    for setting in range(len(SETTINGS)):
        found = drawn_moments(setting)
        np.testing.assert_allclose(found[:, 0] + found[:, 2], found[:, 4], rtol=1e-9, atol=1e-12)


def test_two_replicates_have_moments_without_an_error_of_bias():
    found = gradient_moments(np.array([[1.0, 0.0], [3.0, 2.0]]), Truth(np.zeros(2)))
    np.testing.assert_allclose(found[::2][:3], [5 - 4 / 2, 4, (1 + 13) / 2])
    assert np.isnan(found.bias_squared_error)


# --- The estimators, on finite MDPs -----------------------------------------------------------------------------------


def estimators(value):
    reward_to_go = weights.reward_to_go(DISCOUNT)
    return {
        "reward-to-go": {"weight": reward_to_go},
        "leave-one-out": {"weight": weights.total_return(DISCOUNT), "baseline": baselines.leave_one_out()},
        "undiscounted": {"weight": weights.reward_to_go(DISCOUNT, discount_states=False)},
        "gae": {"weight": weights.gae(DISCOUNT, 0.5, value=lambda s: value[s])},
        "eight episodes": {"weight": reward_to_go, "num_episodes": 8},
    }


FEW = ("reward-to-go", "gae", "eight episodes")


@functools.cache
def compared(seed, names):
    """The comparison on a random MDP, and each estimator's exact (bias², variance)."""
    problem = Problem(seed, horizon=3)
    mdp = problem.mdp()
    env = mdp.environment()
    policy, params = jaxpg.policies.tabular(env), jnp.asarray(problem.logits)
    given = {name: options for name, options in estimators(jnp.asarray(3 * problem.value[0])).items() if name in names}
    dataset = compare(
        env, policy, params, given, num_episodes=4, key=jax.random.key(seed), num_replicates=10_000, truth=mdp,
        timing_rounds=0,
    )  # fmt: skip
    exact = {}
    for name, options in given.items():
        options = {"num_episodes": 4} | options
        bias = mdp.bias(policy, params, **options)
        exact[name] = (float(jnp.sum(bias**2)), float(jnp.trace(mdp.covariance(policy, params, **options))))
    return dataset, exact


ALL = tuple(estimators(np.zeros(3)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "names"), [(2, FEW), *(pytest.param(seed, ALL, marks=pytest.mark.slow) for seed in (2, 6, 7))]
)
def test_columns_against_exact_values(seed, names):
    """Bias², variance and mean squared error of up to five estimators: the largest |z| below 4 (level 1e-3).

    The estimators see the same episodes, so their z are correlated, which a bound on the largest allows for.
    """
    dataset, exact = compared(seed, names)
    assert tuple(dataset.estimator.values) == tuple(name for name in ALL if name in names)
    for name, (bias_squared, variance) in exact.items():
        row = dataset.sel(estimator=name)
        expected = {
            "bias_squared": bias_squared, "variance": variance, "mean_squared_error": bias_squared + variance,
        }  # fmt: skip
        for column, value in expected.items():
            z = (float(row[column]) - value) / float(row[f"{column}_error"])
            assert abs(z) < 4, (name, column, z, value)
    biased = dataset.bias_squared / dataset.bias_squared_error
    assert set(dataset.estimator.values[(biased > 4).values]) == {"undiscounted", "gae"} & set(names), biased
    # And the errors are small enough for that to say something.
    assert (dataset.variance_error < 0.03 * dataset.variance).all()
    assert (dataset.bias_squared_error < 0.01 * dataset.variance + 0.1 * dataset.bias_squared).all()


@pytest.mark.slow
def test_every_replicate_has_its_own_key_and_all_estimators_have_the_same():
    dataset, _ = compared(2, FEW)
    for name in dataset.estimator.values:
        assert len(np.unique(dataset.squared_error.sel(estimator=name))) > 500
    # Eight episodes are the first four and four more: their errors are correlated, by a half for whole gradients.
    pair = np.corrcoef(dataset.squared_error.sel(estimator=["reward-to-go", "eight episodes"]))
    assert pair[0, 1] > 0.2


@pytest.mark.slow
def test_ratio_and_cosine():
    dataset, _ = compared(2, FEW)
    np.testing.assert_allclose(dataset.mean_squared_error_ratio[0], 1.0)
    np.testing.assert_allclose(dataset.mean_squared_error_ratio_error[0], 0.0, atol=1e-12)
    found = dataset.mean_squared_error / dataset.mean_squared_error.sel(estimator="reward-to-go")
    np.testing.assert_allclose(dataset.mean_squared_error_ratio, found)
    # Common random numbers: the ratio is better known than its two parts are.
    pair = dataset.sel(estimator=["reward-to-go", "eight episodes"])
    alone = np.hypot(*(pair.mean_squared_error_error / pair.mean_squared_error).values)
    assert pair.mean_squared_error_ratio_error[1] < 0.9 * alone * pair.mean_squared_error_ratio[1]
    assert (abs(dataset.cosine_similarity) < 1).all()
    assert dataset.cosine_similarity.sel(estimator="eight episodes") > dataset.cosine_similarity[0]


def test_truth_of_a_problem_that_knows_it():
    lqr = jaxpg.exact.LQR([[0.9]], [[1.0]], [[1.0]], [[0.1]], horizon=5)
    env = lqr.environment()
    policy, params = jaxpg.policies.linear_gaussian(env), {"gain": jnp.array([[0.3]]), "log_std": jnp.zeros(1)}
    truth = replicates.find_truth(env, policy, params, lqr, jax.random.key(0), 100, lambda: DISCOUNT)
    exact = lqr.policy_gradient(policy, params)
    np.testing.assert_allclose(truth.gradient, [exact["gain"][0, 0], exact["log_std"][0]], rtol=1e-6)
    assert truth.squared_error == 0 and truth.parts is None


def test_reference_is_unbiased_and_knows_its_error():
    """T² of the reference with the exact covariance is χ²; its stated squared error is tr Cov."""
    problem = Problem(5, horizon=3)
    mdp = problem.mdp()
    env = mdp.environment()
    policy, params = jaxpg.policies.tabular(env), jnp.asarray(problem.logits)
    truth = replicates.find_truth(env, policy, params, None, jax.random.key(3), 32 * 50, lambda: DISCOUNT)
    options = {"weight": weights.reward_to_go(DISCOUNT), "baseline": baselines.leave_one_out(), "num_episodes": 50}
    covariance = np.asarray(mdp.covariance(policy, params, **options), np.float64) / 32
    difference = truth.gradient - np.asarray(mdp.policy_gradient(policy, params), np.float64).ravel()
    eigenvalues, vectors = np.linalg.eigh(covariance)
    kept = eigenvalues > 1e-6 * eigenvalues.max()
    t_squared = np.sum((vectors.T @ difference)[kept] ** 2 / eigenvalues[kept])
    assert stats.chi2.sf(t_squared, kept.sum()) > 1e-3
    assert truth.parts.shape == (32, 6) and "1,600 episodes" in truth.description
    assert 0.5 < truth.squared_error / np.trace(covariance) < 1.7


# --- What needs no engine: estimators that are functions --------------------------------------------------------------


def simple():
    """A problem whose params are a dict, and its exact gradient."""
    env = jaxpg.exact.bandit([0.0, 1.0]).environment()
    policy = jaxpg.policies.tabular(env)
    truth = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(-1.0)}
    return env, policy, jax.tree.map(jnp.zeros_like, truth), truth


def noisy(scale, factor=1.0, wrap=lambda gradient: gradient):
    """Functions (key, params) -> factor × truth + noise of variance scale² in each of 3 coordinates."""
    _, _, _, truth = simple()

    def estimate(key, params):
        noise = scale * jax.random.normal(key, (3,))
        return wrap({"a": factor * truth["a"] + noise[:2], "b": factor * truth["b"] + noise[2]})

    return estimate


def run(given=None, **options):
    env, policy, params, truth = simple()
    given = {"quiet": noisy(0.1), "loud": noisy(0.3), "short": noisy(0.1, 0.8)} if given is None else given
    options = {"num_episodes": 10, "key": jax.random.key(1), "truth": truth, "timing_rounds": 0} | options
    return compare(env, policy, params, given, **options)


def test_functions_as_estimators():
    """Exact: bias² = (1 − factor)² 6 and variance = 3 scale²; the largest of six |z| below 4."""
    dataset = run(num_replicates=1000)
    exact = {"quiet": (0.0, 0.03), "loud": (0.0, 0.27), "short": (0.04 * 6, 0.03)}
    for name, (bias_squared, variance) in exact.items():
        row = dataset.sel(estimator=name)
        assert abs(row.bias_squared - bias_squared) < 4 * row.bias_squared_error
        assert abs(row.variance - variance) < 4 * row.variance_error
    # Equal noise scaled by 3, common random numbers: the ratio of the errors is exact.
    np.testing.assert_allclose(dataset.mean_squared_error_ratio.sel(estimator="loud"), 9.0, rtol=1e-4)
    np.testing.assert_allclose(dataset.mean_squared_error_ratio_error.sel(estimator="loud"), 0.0, atol=1e-3)


def test_a_record_with_a_gradient_is_an_estimator():
    from typing import NamedTuple

    class Record(NamedTuple):
        gradient: object
        other: object = 1.0

    found = run({"plain": noisy(0.1), "record": noisy(0.1, wrap=Record)}, num_replicates=8)
    np.testing.assert_array_equal(found.squared_error[0], found.squared_error[1])


def test_replicates_at_once_change_nothing():
    first, *others = (run(num_replicates=7, replicates_at_once=n) for n in (None, 1, 3, 100))
    for other in others:
        np.testing.assert_allclose(other.squared_error, first.squared_error, rtol=1e-5)


def test_progress_is_shown_where_it_is_wanted(capsys):
    """The bar ends at the last estimator; without it, and where nobody looks, nothing is written."""
    silent = run({"a": noisy(1.0), "b": noisy(2.0)}, progress=False), run({"a": noisy(1.0), "b": noisy(2.0)})
    assert capsys.readouterr() == ("", "")
    shown = run({"a[/b]": noisy(1.0), "b": noisy(2.0)}, progress=True, timing_rounds=2)  # No markup of rich's.
    out, err = capsys.readouterr()
    assert "compare on" in err and "2 timing rounds" in err and not out
    for found in silent:
        np.testing.assert_array_equal(found.variance, shown.variance)


def test_every_batch_of_gradients_is_told():
    told = []
    keys = jax.random.split(jax.random.key(0), 5)
    replicates.replicates("a", lambda key, params: params, jnp.ones(2), keys, 1, 2, lambda *done: told.append(done))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_dataset_is_labelled():
    dataset = run(num_replicates=5, timing_rounds=2)
    assert dict(dataset.sizes) == {"estimator": 3, "replicate": 5, "round": 2}
    assert list(dataset.estimator.values) == ["quiet", "loud", "short"]
    with_error = {
        "bias_squared", "variance", "mean_squared_error", "mean_squared_error_ratio", "cosine_similarity", "seconds",
        "efficiency",
    }  # fmt: skip
    alone = {"bytes", "compile_seconds", "squared_error", "round_seconds"}
    assert set(dataset.data_vars) == with_error | {f"{name}_error" for name in with_error} | alone
    for variable in dataset.data_vars.values():
        assert variable.attrs["long_name"] and variable.attrs["units"]
        assert np.isfinite(variable).all()
    assert dataset.attrs["num_replicates"] == 5 and dataset.attrs["num_parameters"] == 3
    assert dataset.attrs["truth"] == "exact" and dataset.attrs["truth_squared_error"] == 0
    np.testing.assert_allclose(dataset.attrs["truth_squared_norm"], 6.0)
    np.testing.assert_allclose(dataset.efficiency, 1 / (dataset.mean_squared_error * dataset.seconds))
    np.testing.assert_allclose(dataset.seconds, dataset.round_seconds.median("round"))


def test_contenders_take_turns(monkeypatch):
    """Every round has one key and everyone once; who begins changes."""
    monkeypatch.setattr(timing, "SHORTEST_SAMPLE", 0.0)
    calls = []

    def contender(name):
        return lambda key, params: calls.append((name, int(jax.random.bits(key))))

    found = timing.in_turns([contender(name) for name in "abc"], jax.random.key(0), None, 4)
    assert found.shape == (3, 4)
    rounds = [calls[start : start + 3] for start in range(6, len(calls), 3)]  # Two calls each to warm up.
    assert len(rounds) == 4
    assert [[name for name, _ in turn] for turn in rounds] == [list("abc"), list("bca"), list("cab"), list("abc")]
    keys = [{key for _, key in turn} for turn in rounds]
    assert all(len(key) == 1 for key in keys) and len(set.union(*keys)) == 4


# --- Table and picture ------------------------------------------------------------------------------------------------


def test_table():
    text = comparison.table(run(num_replicates=5, timing_rounds=1))
    lines = text.splitlines()
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    titles = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert titles == [
        "estimator", "bias²", "variance", "mean squared error", "ratio", "cosine", "seconds", "bytes", "1/(MSE·s)",
    ]  # fmt: skip
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["quiet", "loud", "short"]
    without_time = comparison.table(run(num_replicates=5))
    assert "seconds" not in without_time and "variance" in without_time


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0123, 0.00042, "0.0123 ± 0.0004"),
        (0.0123, 0.00012, "0.01230 ± 0.00012"),
        (1234.5, 60.0, "1234 ± 60"),
        (1.234e-7, 4e-9, "(1.23 ± 0.04)e-07"),
        (-3e-9, 1.6e-8, "(-0.3 ± 1.6)e-08"),
        (3.0, 0.0, "3"),
        (2.5, float("nan"), "2.5"),
        (float("nan"), 1.0, "–"),
    ],
)
def test_value_and_error(value, error, text):
    assert value_and_error(value, error) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1.02e+03 B"), (1536, "1.5 KiB"), (3 * 2**30, "3 GiB"), (float("nan"), "–")]
)
def test_binary_size(size, text):
    assert binary_size(size) == text


def test_picture(tmp_path):
    dataset = run(num_replicates=20, timing_rounds=2)
    figure = comparison.plot(dataset, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
    panels = figure.axes
    assert len(panels) == 3
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["quiet", "loud", "short"]
    bias, variance = ([bar.get_width() for bar in bars] for bars in panels[0].containers[:2])
    np.testing.assert_allclose(np.add(bias, variance), dataset.mean_squared_error)
    np.testing.assert_allclose(bias, np.maximum(dataset.bias_squared, 0))
    np.testing.assert_allclose([bar.get_width() for bar in panels[1].containers[0]], dataset.seconds)
    assert panels[0].get_ylim()[0] > panels[0].get_ylim()[1]  # The first estimator on top.
    assert len(comparison.plot(run(num_replicates=5)).axes) == 1


# --- Bad input --------------------------------------------------------------------------------------------------------

TWO_DISCOUNTS = {"a": {"weight": weights.reward_to_go(0.9)}, "b": {"weight": weights.reward_to_go(0.8)}}


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ({}, {}, ValueError, "at least one estimator"),
        ([("a", {})], {}, TypeError, "estimators must be a dict.*got list"),
        ({3: {}}, {}, TypeError, "strings as names; got 3"),
        ({"a": 3}, {}, TypeError, r"estimators\['a'\] must be a dict of .*or a function.*got int"),
        ({"a": {"wieght": None}}, {}, ValueError, r"estimators\['a'\].*'wieght'.*did you mean 'weight'"),
        ({"a": {"env": None}}, {}, ValueError, r"estimators\['a'\].*unknown argument 'env'"),
        ({"a": {"weight": 3}}, {}, TypeError, r"estimators\['a'\]: weight must be a Weight"),
        (
            {"a": {"baseline": baselines.leave_one_out()}}, {"num_episodes": 1}, ValueError,
            r"estimators\['a'\]: num_episodes must be at least 2",
        ),
        ({"a": lambda key, params: params["a"]}, {}, ValueError, r"estimators\['a'\] gives a pytree that is not like"),
        ({"a": lambda key, params: {**params, "b": params["a"]}}, {}, ValueError, r"shape \(2,\) at \['b'\].*\(\)"),
        (None, {"truth": jnp.zeros(3)}, ValueError, "truth is a pytree that is not like params"),
        (
            None, {"truth": {"a": jnp.zeros(3), "b": jnp.zeros(())}}, ValueError,
            r"truth is .* shape \(3,\) at \['a'\].*\(2,\)",
        ),
        (None, {"truth": {"a": jnp.zeros(2), "b": jnp.array(jnp.nan)}}, ValueError, "truth must hold finite"),
        (None, {"num_episodes": 0}, ValueError, "num_episodes must be an integer of at least 1"),
        (None, {"num_replicates": 3}, ValueError, "num_replicates must be an integer of at least 4"),
        (None, {"timing_rounds": -1}, ValueError, "timing_rounds must be an integer of at least 0"),
        (None, {"replicates_at_once": 0}, ValueError, "replicates_at_once must be"),
        (None, {"key": 3}, TypeError, "key must be one random key"),
        (None, {"truth": None}, ValueError, "discount must be given.*none that is known"),
        (None, {"truth": None, "discount": 2.0}, ValueError, "discount must be"),
        (None, {"truth": None, "discount": 0.9, "reference_episodes": 10}, ValueError, "reference_episodes must be"),
        (
            {"a": lambda key, params: jax.tree.map(lambda p: p / 0, params)}, {}, ValueError,
            r"estimators\['a'\]: 256 of 256 gradients are not finite",
        ),
    ],
)  # fmt: skip
def test_errors(given, options, error, message):
    with pytest.raises(error, match=message):
        run(given, **options)


def test_a_reference_needs_one_discount():
    assert replicates.common_discount(TWO_DISCOUNTS, 0.7) == 0.7
    assert replicates.common_discount({"a": TWO_DISCOUNTS["a"], "f": run}, None) == 0.9
    assert replicates.common_discount({"a": {}}, None) == 0.99
    with pytest.raises(ValueError, match="one discount in common; they have 0.8, 0.9"):
        replicates.common_discount(TWO_DISCOUNTS, None)


def test_it_runs_on_the_host():
    env, policy, params, truth = simple()
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="params must be known values"):
        jax.jit(
            lambda p: compare(env, policy, p, {"a": noisy(1.0)}, num_episodes=2, key=key, truth=truth).variance.values
        )(params)


@pytest.mark.parametrize("show", [comparison.table, comparison.plot])
def test_only_a_comparison_is_shown(show):
    with pytest.raises(TypeError, match="dataset must be what jaxpg.compare returns; got dict"):
        show({})
