"""Statistics of runs: numbers by hand, the published definitions written out, SciPy, and coverage by simulation."""

import itertools
import math
import pathlib
import re

import jax
import numpy as np
import pytest
import xarray
from scipy import stats as scipy_stats

from benchmarks import coverage
from jaxpg import stats

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "statistics.md"


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def labelled(*shape):
    """[task, seed, rate, update], with coordinates of all kinds."""
    tasks, seeds, rates, updates = shape
    return xarray.DataArray(
        normal(*shape),
        {
            "task": [f"task {i}" for i in range(tasks)],
            "seed": np.arange(seeds) + 100,
            "rate": np.geomspace(1e-4, 1e-2, rates),
            "env_steps": (("seed", "update"), np.arange(seeds * updates).reshape(seeds, updates)),
            "epoch": ("update", np.arange(updates) // 2),
        },
        ("task", "seed", "rate", "update"),
        name="episode_return",
        attrs={"units": "points"},
    )


# The definitions of Agarwal et al. (2021), for scores [run, task], as plainly as they can be written.


def published_iqm(scores):
    ordered = sorted(x for run in scores for x in run)
    cut = math.floor(len(ordered) / 4)
    kept = ordered[cut : len(ordered) - cut]
    return sum(kept) / len(kept)


def published_task_means(scores):
    return [sum(run[task] for run in scores) / len(scores) for task in range(len(scores[0]))]


def published_mean(scores):
    means = published_task_means(scores)
    return sum(means) / len(means)


def published_median(scores):
    means = sorted(published_task_means(scores))
    middle = len(means) // 2
    return means[middle] if len(means) % 2 else (means[middle - 1] + means[middle]) / 2


def published_gap(scores, target=1.0):
    cut = [min(x, target) for run in scores for x in run]
    return target - sum(cut) / len(cut)


def published_improvement(x, y):
    chances = []
    for task in range(len(x[0])):
        points = [1.0 if a[task] > b[task] else 0.5 if a[task] == b[task] else 0.0 for a in x for b in y]
        chances.append(sum(points) / len(points))
    return sum(chances) / len(chances)


def published_profile(scores, threshold):
    fractions = [sum(run[task] > threshold for run in scores) / len(scores) for task in range(len(scores[0]))]
    return sum(fractions) / len(fractions)


PUBLISHED = {"iqm": published_iqm, "mean": published_mean, "median": published_median, "optimality_gap": published_gap}


def test_numbers_by_hand():
    assert stats.iqm([1.0, 2.0, 3.0, 5.0]) == 2.5
    assert stats.iqm([0.0, 1.0, 2.0, 3.0, 4.0, 1000.0]) == 2.5  # ⌊6/4⌋ = 1 of each end
    assert stats.iqm([[-50.0, 1.0], [2.0, 90.0]]) == 1.5
    assert stats.iqm([7.0, 8.0, 12.0]) == 9.0  # nothing to cut
    assert stats.optimality_gap([0.5, 0.9, 3.0]) == pytest.approx(0.2)
    assert stats.optimality_gap([1.0, 2.0, 9.0], 4.0) == pytest.approx(4 - 7 / 3)
    assert stats.probability_of_improvement([1.0, 2.0, 3.0], [2.0, 0.0]) == pytest.approx((1 + 1.5 + 2) / 6)
    profile = stats.performance_profile([1.0, 2.0, 2.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(profile.estimate, [1.0, 0.75, 0.25, 0.25, 0.0])
    assert stats.interval([1.0, 9.0, 2.0], "median").estimate == 2.0
    assert stats.interval([1.0, 9.0, 2.0, 4.0], "median").estimate == 3.0


@pytest.mark.parametrize("runs, tasks", [(1, 1), (2, 3), (3, 1), (5, 4), (8, 2), (10, 5)])
def test_estimates_are_those_of_the_paper(runs, tasks):
    x, y = normal(runs, tasks, seed=runs).round(1), normal(runs + 2, tasks, seed=50 + runs).round(1)
    assert stats.iqm(x) == pytest.approx(published_iqm(x), abs=1e-12)
    assert stats.iqm(x) == pytest.approx(scipy_stats.trim_mean(x, 0.25, axis=None), abs=1e-12)
    assert stats.optimality_gap(x, 0.3) == pytest.approx(published_gap(x, 0.3), abs=1e-12)
    for name, definition in PUBLISHED.items():
        result = stats.interval(x, name, task_dim=1, num_resamples=2)
        assert result.estimate == pytest.approx(definition(x), abs=1e-12), name
    gap = stats.interval(x, "optimality_gap", task_dim=1, target=0.3, num_resamples=2)
    assert gap.estimate == pytest.approx(published_gap(x, 0.3), abs=1e-12)
    chance = stats.probability_of_improvement(x, y, task_dim=1)
    assert chance == pytest.approx(published_improvement(x, y), abs=1e-12)
    mann_whitney = [scipy_stats.mannwhitneyu(x[:, t], y[:, t]).statistic / (runs * (runs + 2)) for t in range(tasks)]
    assert chance == pytest.approx(np.mean(mann_whitney), abs=1e-12)
    profile = stats.performance_profile(x, [-1.0, 0.1, 0.3], task_dim=1, num_resamples=2)
    np.testing.assert_allclose(profile.estimate, [published_profile(x, t) for t in (-1.0, 0.1, 0.3)], atol=1e-12)


# Named statistics count how often a run is drawn; a function gets the drawn scores themselves.
AS_FUNCTIONS = {
    "iqm": lambda x, axis: scipy_stats.trim_mean(x, 0.25, axis=axis),
    "mean": np.mean,
    "optimality_gap": lambda x, axis: 1.0 - np.minimum(x, 1.0).mean(axis),
}


@pytest.mark.parametrize("method", ["percentile", "basic", "bca"])
@pytest.mark.parametrize("name", [*AS_FUNCTIONS, "median"])
def test_counted_resamples_are_the_drawn_ones(name, method):
    scores = normal(7, 3, 4) + 10 * np.arange(3)[:, None]
    if name == "median":
        function = np.median  # over runs: tasks are points here
        options = {"method": method}
    else:
        function, options = AS_FUNCTIONS[name], {"method": method, "task_dim": 1}
    for ours, drawn in zip(stats.interval(scores, name, **options), stats.interval(scores, function, **options)):
        np.testing.assert_allclose(ours, drawn, rtol=1e-12)


def test_the_median_over_tasks_is_that_of_resampled_means():
    """With the tasks drawn as the function sees them: pooled, one after the other."""
    scores = normal(6, 4)

    def of_tasks(pooled, axis):
        return np.median(pooled.reshape(*pooled.shape[:-1], 4, 6).mean(-1), axis)

    for ours, drawn in zip(stats.interval(scores, "median", task_dim=1), stats.interval(scores, of_tasks, task_dim=1)):
        np.testing.assert_allclose(ours, drawn, rtol=1e-12)


def resamples(scores, **options):
    """What the bootstrap draws, [sample, task · run]."""
    seen = []

    def spy(drawn, axis):
        seen.append(drawn)
        return drawn.mean(axis)

    stats.interval(scores, spy, **options)
    return np.concatenate([drawn[0] for drawn in seen[1:]])


def test_resampling_is_stratified_and_independent_between_tasks():
    runs, tasks = 4, 3
    scores = 10.0 * np.arange(tasks) + np.arange(runs)[:, None]  # 10 · task + run
    drawn = resamples(scores, task_dim=1, num_resamples=4000)
    task, run = np.divmod(drawn, 10)
    assert drawn.shape == (4000, runs * tasks)
    for which in range(tasks):
        assert ((task == which).sum(1) == runs).all()
    counts = np.stack([((task == t) & (run == 0)).sum(1) for t in range(tasks)])  # of run 0 of each task
    assert abs(np.corrcoef(counts)[np.triu_indices(tasks, 1)]).max() < 4 / math.sqrt(4000)
    # Every run equally often: χ² with 9 degrees of freedom, of 16,000 draws a task.
    frequency = np.stack([[((task == t) & (run == i)).sum() for i in range(runs)] for t in range(tasks)])
    assert scipy_stats.chi2.sf(((frequency - 4000) ** 2 / 4000).sum(), tasks * (runs - 1)) > 1e-3
    # A run is drawn Binomial(4, 1/4) times, also never.
    assert (
        scipy_stats.chisquare(np.bincount(counts[0], minlength=5), 4000 * scipy_stats.binom.pmf(range(5), 4, 0.25))[1]
        > 1e-3
    )


def test_the_interval_of_the_mean_is_as_wide_as_strata_make_it():
    """Tasks far apart: resampling the pooled scores, or all tasks by the same runs, gives another width."""
    runs, tasks = 40, 4
    common = normal(runs, 1, seed=3)  # What run i has in every task would add up if tasks were drawn together.
    scores = common + 0.5 * normal(runs, tasks, seed=4) + 100 * np.arange(tasks)
    result = stats.interval(scores, "mean", task_dim=1, num_resamples=20_000)
    error = math.sqrt((scores.var(0) / runs).sum()) / tasks
    assert (result.high - result.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.03)
    jointly = scores.mean(1).std() / math.sqrt(runs)
    assert jointly > 1.5 * error and scores.std() / math.sqrt(runs * tasks) > 10 * error


@pytest.mark.parametrize("method", ["percentile", "basic", "bca"])
@pytest.mark.parametrize("name", ["iqm", "mean"])
def test_intervals_agree_with_scipy(name, method):
    """SciPy draws each of several samples by itself: those are the tasks."""
    scores = np.exp(normal(9, 3, seed=1)) * [1.0, 2.0, 3.0]
    function = {"iqm": AS_FUNCTIONS["iqm"], "mean": np.mean}[name]

    def statistic(*tasks, axis):
        return function(np.concatenate(tasks, axis=axis), axis)

    options = {"method": method, "n_resamples": 40_000, "batch": 5000, "confidence_level": 0.9, "random_state": 0}
    expected = scipy_stats.bootstrap(tuple(scores.T), statistic, **options).confidence_interval
    low, high = stats.interval(scores, name, task_dim=1, method=method, num_resamples=40_000, confidence=0.9)[1:]
    scale = expected.high - expected.low
    np.testing.assert_allclose([low, high], expected, atol=0.02 * scale)


def test_bca_levels_are_exact_where_all_resamples_are_known():
    """Efron & Tibshirani's formulas on the 27 resamples of three runs, weighed as the draws came out."""
    x = np.array([0.0, 1.0, 5.0])
    spied = resamples(x, num_resamples=3000).mean(1)
    everything = np.array([np.mean(drawn) for drawn in itertools.product(x, repeat=3)])
    assert set(spied.round(9)) == set(everything.round(9))
    z0 = scipy_stats.norm.ppf(np.mean(spied < 2 - 1e-9) + 0.5 * np.mean(abs(spied - 2) < 1e-9))
    jackknife = np.array([3.0, 2.5, 0.5])
    away = jackknife.mean() - jackknife
    a = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    z = z0 + scipy_stats.norm.ppf([0.1, 0.9])
    levels = scipy_stats.norm.cdf(z0 + z / (1 - a * z))
    result = stats.interval(x, np.mean, num_resamples=3000, method="bca", confidence=0.8)
    np.testing.assert_allclose([result.low, result.high], np.quantile(spied, levels), atol=1e-9)


@pytest.mark.parametrize("method", ["percentile", "basic", "bca"])
def test_intervals_move_with_the_scores(method):
    scores = normal(9, 2, 5)
    options = {"task_dim": 1, "method": method, "missing": "raise"}
    original = stats.interval(scores, **options)
    for ours, moved in zip(original, stats.interval(3.0 * scores - 7.0, **options)):
        np.testing.assert_allclose(moved, 3.0 * ours - 7.0, rtol=1e-9)
    mirrored = stats.interval(-scores, **options)
    np.testing.assert_allclose(-mirrored.estimate, original.estimate, rtol=1e-9)
    np.testing.assert_allclose(-mirrored.high, original.low, rtol=1e-9, atol=1e-9)


def test_the_order_of_runs_and_tasks_does_not_matter():
    scores, rivals = normal(9, 4, 3), normal(6, 4, 3, seed=8)
    runs, tasks = np.random.default_rng(0).permutation(9), [2, 0, 3, 1]
    shuffled = scores[runs][:, tasks]
    for name in PUBLISHED:
        here, there = (stats.interval(x, name, task_dim=1) for x in (scores, shuffled))
        np.testing.assert_allclose(here.estimate, there.estimate, rtol=1e-12)
        np.testing.assert_allclose(here.low, there.low, atol=0.1)  # other draws
    here = stats.probability_of_improvement(scores, rivals, task_dim=1)
    np.testing.assert_allclose(here, stats.probability_of_improvement(shuffled, rivals[:, tasks], task_dim=1))
    np.testing.assert_allclose(here, 1 - stats.probability_of_improvement(rivals, scores, task_dim=1))
    np.testing.assert_allclose(  # Only the order of the scores counts.
        here, stats.probability_of_improvement(np.exp(scores), np.exp(rivals), task_dim=1)
    )


@pytest.mark.parametrize("statistic", ["iqm", "mean", "median", np.mean])
def test_points_share_their_draws_and_chunks_change_nothing(statistic, monkeypatch):
    scores = normal(6, 2, 7)
    whole = stats.interval(scores, statistic, task_dim=1)
    for point in (0, 6):
        alone = stats.interval(scores[:, :, point], statistic, task_dim=1)
        np.testing.assert_allclose([part[point] for part in whole], alone, rtol=1e-12)
    monkeypatch.setattr("jaxpg.stats._bootstrap.POINT_ELEMENTS", 6000)
    monkeypatch.setattr("jaxpg.stats.aggregate.WORK_ELEMENTS", 500)
    np.testing.assert_allclose(np.stack(stats.interval(scores, statistic, task_dim=1)), np.stack(whole), rtol=1e-12)


def test_improvement_intervals_are_those_of_resampled_runs():
    """Against one resample at a time, drawn here."""
    x, y = normal(6, 2, seed=1).round(1) + 0.4, normal(8, 2, seed=2).round(1)
    rng = np.random.default_rng(5)
    for paired in (False, True):
        other = y[:6] if paired else y
        found = []
        for _ in range(3000):
            drawn_x, drawn_y = np.empty_like(x), np.empty_like(other)
            for task in range(2):
                i = rng.integers(0, 6, 6)
                j = i if paired else rng.integers(0, 8, 8)
                drawn_x[:, task], drawn_y[:, task] = x[i, task], other[j, task]
            found.append((drawn_x[:, None] > drawn_y[None]).mean() + 0.5 * (drawn_x[:, None] == drawn_y[None]).mean())
        result = stats.improvement_interval(x, other, task_dim=1, paired=paired, num_resamples=20_000)
        assert result.estimate == pytest.approx(published_improvement(x, other), abs=1e-12)
        np.testing.assert_allclose([result.low, result.high], np.quantile(found, [0.025, 0.975]), atol=0.015)


def test_pairs_are_drawn_together():
    """Runs that depend on their seed alone: X always wins by a little, and the seeds' spread must not hide it."""
    seeds = 10.0 * normal(20)
    x, y = seeds + normal(20, seed=1), seeds - 0.5
    paired, alone = (stats.improvement_interval(x, y, paired=paired) for paired in (True, False))
    assert paired.estimate == alone.estimate
    assert paired.high - paired.low < 0.4 * (alone.high - alone.low)


def test_a_profile_is_the_mean_of_what_lies_above():
    scores = labelled(3, 5, 2, 2)
    thresholds = [-0.5, 0.0, 0.7]
    profile = stats.performance_profile(scores, thresholds, task_dim="task", method="basic")
    assert profile.estimate.dims == ("rate", "update", "threshold")
    for threshold in thresholds:
        expected = stats.interval((scores > threshold).astype(float), "mean", task_dim="task", method="basic")
        for ours, theirs in zip(profile, expected):
            xarray.testing.assert_allclose(ours.sel(threshold=threshold, drop=True), theirs)
    for_arrays = stats.performance_profile(scores.values, thresholds, dim=1, task_dim=0, method="basic")
    np.testing.assert_array_equal(for_arrays.low, profile.low)


def test_what_comes_in_comes_back():
    scores = labelled(2, 5, 3, 4)
    result = stats.interval(scores, task_dim="task")
    arrays = stats.interval(scores.values, dim=1, task_dim=-4)
    moved = stats.interval(scores.transpose("update", "seed", "rate", "task"), task_dim="task")
    for part, array, other in zip(result, arrays, moved):
        assert part.dims == ("rate", "update") and part.name == "episode_return" and part.attrs == {"units": "points"}
        assert set(part.coords) == {"rate", "epoch"}  # Not env_steps, which differ from seed to seed.
        assert type(array) is np.ndarray
        np.testing.assert_array_equal(part.values, array)
        assert other.dims == ("update", "rate")
        np.testing.assert_array_equal(part.values, other.values.T)
    assert stats.iqm(scores).dims == () and stats.iqm(scores, "seed").dims == ("task", "rate", "update")
    xarray.testing.assert_allclose(stats.iqm(scores, ["seed", "task"]), result.estimate)
    np.testing.assert_allclose(stats.iqm(scores.values, (0, 1)), arrays.estimate)
    assert isinstance(stats.iqm([1.0, 2.0]), float) and isinstance(stats.interval([1.0, 2.0]).low, float)
    one = stats.probability_of_improvement(scores, scores.isel(rate=0), task_dim="task")
    assert one.dims == ("rate", "update") and (one.isel(rate=0) == 0.5).all()
    assert float(stats.interval(scores > 0, "mean", task_dim="task").estimate.mean()) == pytest.approx(
        float((scores > 0).mean())
    )


def test_the_same_rng_gives_the_same_interval():
    scores = normal(9)
    default = stats.interval(scores)
    assert stats.interval(scores, rng=np.random.default_rng(0)) == default == stats.interval(scores, rng=np.int64(0))
    assert stats.interval(scores, rng=1) != default
    keyed = [stats.interval(scores, rng=jax.random.key(seed)) for seed in (0, 0, 1)]
    assert keyed[0] == keyed[1] != keyed[2]


def test_missing_scores():
    scores = labelled(2, 6, 2, 3)
    broken = scores.copy()
    broken[0, 2, 1, 1:] = np.nan  # diverged
    with pytest.raises(
        ValueError, match=r"scores must not hold NaN; got 2 of 72, the first at \(task=task 0, seed=102"
    ):
        stats.interval(broken, task_dim="task")
    filled = stats.interval(broken, task_dim="task", missing=-5)
    expected = stats.interval(broken.fillna(-5.0), task_dim="task")
    for ours, theirs in zip(filled, expected):
        xarray.testing.assert_equal(ours, theirs)
    assert stats.iqm(broken, missing=-5.0) == stats.iqm(broken.fillna(-5.0))

    omitted = stats.interval(broken, task_dim="task", missing="omit")
    pooled = broken.values[:, :, 1, 2].ravel()
    assert omitted.estimate[1, 2] == pytest.approx(scipy_stats.trim_mean(pooled[~np.isnan(pooled)], 0.25))
    complete = stats.interval(scores, task_dim="task")
    for ours, theirs in zip(omitted, complete):
        np.testing.assert_array_equal(ours[0], theirs[0])  # The same draws elsewhere.
    means = stats.interval(broken, "mean", task_dim="task", missing="omit").estimate
    np.testing.assert_allclose(means, broken.mean("seed").mean("task"))
    gap = stats.optimality_gap(broken, missing="omit")
    assert gap == pytest.approx(float(1 - broken.clip(max=1).mean()))


def test_omitted_runs_are_ignored_in_every_resample():
    """Named statistics against functions that leave NaN out."""
    scores = normal(9, 4)
    scores[[1, 2, 5], [0, 0, 3]] = np.nan
    ours = {
        "mean": np.nanmean,
        "median": np.nanmedian,
        "iqm": lambda x, axis: scipy_stats.trim_mean(x, 0.25, axis=axis, nan_policy="omit"),
    }
    if np.lib.NumpyVersion(__import__("scipy").__version__) < "1.15.0":
        del ours["iqm"]
    for name, function in ours.items():
        for method in ("percentile", "bca"):
            options = {"missing": "omit", "method": method, "num_resamples": 200}
            here, there = (stats.interval(scores, statistic, **options) for statistic in (name, function))
            np.testing.assert_allclose(np.stack(here), np.stack(there), rtol=1e-9)


def test_improvement_over_known_runs():
    x, y = normal(7, 2), normal(5, 2, seed=1)
    x[[0, 3], [0, 1]], y[2, 1] = np.nan, np.nan
    known = [published_improvement(*([[a] for a in s[:, t] if a == a] for s in (x, y))) for t in range(2)]
    options = {"task_dim": 1, "missing": "omit"}
    assert stats.probability_of_improvement(x, y, **options) == pytest.approx(np.mean(known), abs=1e-12)
    result = stats.improvement_interval(x, y, **options)
    assert result.estimate == pytest.approx(np.mean(known), abs=1e-12) and 0 <= result.low < result.high <= 1
    # Points of the same runs: where all are known, what is missing elsewhere changes nothing.
    both = [np.stack([s, np.nan_to_num(s)], -1) for s in (x, y)]
    for paired in (False, True):
        some = [s[:5] for s in both] if paired else both
        here = stats.improvement_interval(*some, paired=paired, **options)
        there = stats.improvement_interval(*(s[..., 1] for s in some), paired=paired, task_dim=1)
        np.testing.assert_array_equal([part[1] for part in here], there)


def test_resamples_without_any_score_do_not_count():
    """One of 27 resamples of three runs holds the broken one alone."""
    scores = np.array([[1.0, np.nan], [2.0, 3.0], [6.0, 4.0]])
    everything = [np.nanmean(drawn) for drawn in itertools.product(scores[:, 1], repeat=3) if not np.isnan(drawn).all()]
    assert len(everything) == 26
    result = stats.interval(scores, "mean", missing="omit", num_resamples=20_000)
    np.testing.assert_allclose(
        [result.low[1], result.high[1]], np.quantile(everything, [0.025, 0.975], method="inverted_cdf")
    )


def test_tasks_with_fewer_runs_are_filled_up():
    """A run without any score is not drawn: each task's interval is that of its own runs."""
    scores = np.full((9, 2), np.nan)
    scores[:, 0], scores[:4, 1] = normal(9), normal(4, seed=1) + 50
    result = stats.interval(scores, "mean", task_dim=1, missing="omit", num_resamples=20_000)
    assert result.estimate == pytest.approx((scores[:, 0].mean() + scores[:4, 1].mean()) / 2)
    error = math.sqrt(scores[:, 0].var() / 9 + scores[:4, 1].var() / 4) / 2
    assert (result.high - result.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.05)
    spied = resamples(scores, task_dim=1, missing="omit")
    assert spied.shape[1] == 13 and not np.isnan(spied).any()


def test_too_few_runs_have_no_bounds():
    single = stats.interval([[3.0, 4.0]])
    np.testing.assert_array_equal(single.estimate, [3.0, 4.0])
    assert np.isnan(single.low).all() and np.isnan(single.high).all()
    assert np.isnan(stats.interval([3.0], np.mean, method="bca").low)
    scores = np.array([[1.0, np.nan, 1.0], [2.0, np.nan, np.nan], [4.0, np.nan, np.nan]])
    for method in ("percentile", "bca"):
        some = stats.interval(scores, "mean", missing="omit", method=method)
        np.testing.assert_array_equal(np.isnan(np.stack(some)), [[0, 1, 0], [0, 1, 1], [0, 1, 1]])
    chance = stats.improvement_interval(scores, scores, missing="omit")
    np.testing.assert_array_equal(np.isnan(np.stack(chance)), [[0, 1, 0], [0, 1, 1], [0, 1, 1]])
    assert np.isnan(stats.iqm([np.nan, np.nan], missing="omit"))


@pytest.mark.parametrize("value", [500.0, 0.1, -1 / 3])
@pytest.mark.parametrize("method", ["percentile", "basic", "bca"])
def test_equal_scores_have_an_interval_of_no_width(value, method):
    for statistic in ("iqm", "mean", np.mean):
        np.testing.assert_allclose(stats.interval(np.full((7, 3), value), statistic, task_dim=1, method=method), value)


def test_normalized_scores():
    scores = np.array([[1.0, 10.0], [3.0, 40.0]])
    np.testing.assert_allclose(stats.normalize(scores, 1.0, [3.0, 41.0]), [[0, 9 / 40], [1, 39 / 40]])
    named = xarray.DataArray(scores, {"task": ["a", "b"]}, ("seed", "task"), name="score")
    by_mapping = stats.normalize(named, {"b": 10.0, "a": 1.0}, {"a": 3.0, "b": 40.0}, task_dim="task")
    np.testing.assert_allclose(by_mapping, [[0.0, 0.0], [1.0, 1.0]])
    assert by_mapping.dims == ("seed", "task") and by_mapping.name == "score"
    low = xarray.DataArray([1.0, 10.0], {"task": ["a", "b"]}, ("task",))
    xarray.testing.assert_identical(stats.normalize(named, low, low + [2.0, 30.0]), by_mapping)
    with pytest.raises(ValueError, match="low must have the tasks"):
        stats.normalize(named, {"a": 1.0}, 2.0, task_dim="task")
    with pytest.raises(ValueError, match="task"):
        stats.normalize(named, low.isel(task=[0]), 2.0)
    for bounds in ((1.0, 1.0), ([0.0, 1.0], [1.0, 1.0]), (2.0, 1.0), ([0.0, 2.0], [1.0, 1.0])):
        with pytest.raises(ValueError, match="low must be below high"):
            stats.normalize(scores, *bounds)
    with pytest.raises(ValueError, match="high must broadcast"):
        stats.normalize(scores, 0.0, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="low must be finite"):
        stats.normalize(scores, np.nan, 1.0)


GOOD, NAMED = np.ones((3, 2)), labelled(1, 2, 1, 1)
ERRORS = [
    (TypeError, "choose one of its variables .'episode_return'", lambda: stats.interval(NAMED.to_dataset())),
    (TypeError, "scores must be an array .* of dtype <U1", lambda: stats.iqm(["a", "b"])),
    (ValueError, "scores must have a dimension of runs", lambda: stats.interval(1.0)),
    (ValueError, "scores must be finite, or NaN where missing; got 1", lambda: stats.interval([1.0, np.inf])),
    (ValueError, "at least one run", lambda: stats.interval(np.ones((0, 3)))),
    (ValueError, "dim must be a dimension of scores, one of .*'task'", lambda: stats.interval(NAMED, dim="run")),
    (ValueError, "dim must be an axis of scores, which has 2; got 'seed'", lambda: stats.interval(GOOD, dim="seed")),
    (ValueError, "task_dim must be an axis of scores", lambda: stats.interval(GOOD, task_dim=2)),
    (ValueError, "dim and task_dim must differ", lambda: stats.interval(GOOD, task_dim=-2)),
    (ValueError, "dim must name at least one", lambda: stats.iqm(GOOD, ())),
    (ValueError, "statistic must be one of .*did you mean 'mean'", lambda: stats.interval(GOOD, "meen")),
    (TypeError, "statistic must be a function", lambda: stats.interval(GOOD, 3)),
    (ValueError, "statistic must be a function .* without that axis", lambda: stats.interval(GOOD, lambda x, axis: x)),
    (ValueError, "confidence must be", lambda: stats.interval(GOOD, confidence=95)),
    (ValueError, "num_resamples must be", lambda: stats.interval(GOOD, num_resamples=1)),
    (ValueError, "method must be one of 'percentile'", lambda: stats.interval(GOOD, method="t")),
    (ValueError, "missing must be 'raise', 'omit'", lambda: stats.interval(GOOD, missing="drop")),
    (TypeError, "missing must be a finite real number", lambda: stats.interval(GOOD, missing=None)),
    (TypeError, "rng must be an integer", lambda: stats.interval(GOOD, rng="0")),
    (ValueError, "rng must be an integer of at least 0", lambda: stats.interval(GOOD, rng=-1)),
    (ValueError, "At 1 points no run has a score", lambda: stats.interval([[1.0, np.nan], [2.0, np.nan]])),
    (ValueError, "thresholds must be a vector", lambda: stats.performance_profile(GOOD, 0.5)),
    (TypeError, "x and y must both be", lambda: stats.probability_of_improvement(GOOD, NAMED)),
    (ValueError, "x and y must have the same tasks", lambda: stats.probability_of_improvement(GOOD, np.ones((3, 4)))),
    (ValueError, "x and y must have the same runs", lambda: stats.improvement_interval(GOOD, GOOD[:2], paired=True)),
    (ValueError, "y must not hold NaN", lambda: stats.probability_of_improvement([1.0], [np.nan])),
    (ValueError, "seed", lambda: stats.improvement_interval(labelled(1, 3, 1, 1), labelled(1, 2, 1, 1), paired=True)),
    (ValueError, "task", lambda: stats.probability_of_improvement(labelled(1, 3, 1, 1), labelled(2, 3, 1, 1))),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_mistakes_are_named(case):
    kind, message, call = ERRORS[case]
    with pytest.raises(kind, match=message):
        call()


def test_the_page_s_examples_run():
    names = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, "docs/statistics.md", "exec"), names)
    assert names["curve"].low.dims == ("learning_rate", "update")
    assert not np.isnan(names["curve"].low).any()


# Coverage. The page states a rate for each case, measured on 10,000 data sets; fresh ones must agree with it.


def stated(tasks, runs, distribution):
    """{column: rate} of a row of the page's table."""
    row = re.search(rf"\| {tasks} \| {runs} \| {distribution} \| (.*) \|", PAGE.read_text(encoding="utf-8"))
    return dict(zip(coverage.COLUMNS, (float(cell) / 100 for cell in row[1].split(" | "))))


def check_coverage(tasks, runs, distribution, column, num_datasets, seed):
    nominal = stated(tasks, runs, distribution)[column]
    rate = coverage.coverage(distribution, tasks, runs, *coverage.COLUMNS[column], num_datasets, seed)
    # The page's own error counts, too: it is a rate of 10,000.
    error = math.sqrt(nominal * (1 - nominal) * (1 / num_datasets + 1 / 10_000))
    assert abs(rate - nominal) < scipy_stats.norm.ppf(0.9995) * error + 0.0005, (rate, nominal)
    return rate


@pytest.mark.parametrize("distribution", coverage.DISTRIBUTIONS)
@pytest.mark.parametrize("tasks, runs", [(1, 64), (5, 10)])
def test_coverage_is_what_the_page_states(tasks, runs, distribution):
    check_coverage(tasks, runs, distribution, "IQM, percentile", 1000, seed=1)


def test_student_s_interval_covers_normal_means():
    """A check of the simulation itself: this interval is exact."""
    rate = check_coverage(1, 5, "normal", "mean, Student's t", 4000, seed=1)
    assert abs(rate - 0.95) < 3.3 * math.sqrt(0.95 * 0.05 / 4000)


@pytest.mark.slow
@pytest.mark.parametrize("column", coverage.COLUMNS)
def test_coverage_of_every_row(column):
    for (tasks, runs), distribution in itertools.product(coverage.SHAPES, coverage.DISTRIBUTIONS):
        check_coverage(tasks, runs, distribution, column, 1000, seed=2)


def test_true_values():
    """Of the lognormal's middle half, E[X | q₁ < X < q₃] = 2 √e (Φ(q − 1) − Φ(−q − 1)), q = Φ⁻¹(3/4)."""
    q = scipy_stats.norm.ppf(0.75)
    middle = 2 * math.sqrt(math.e) * (scipy_stats.norm.cdf(q - 1) - scipy_stats.norm.cdf(-q - 1))
    assert coverage.truth("lognormal", 1, "iqm") == pytest.approx(middle, abs=1e-5)
    assert coverage.truth("lognormal", 1, "mean") == pytest.approx(math.sqrt(math.e), abs=1e-3)
    assert coverage.truth("normal", 5, "iqm") == pytest.approx(1.0, abs=1e-6)
    assert coverage.truth("bimodal", 1, "iqm") == pytest.approx(0.5, abs=1e-6)


def test_the_coverage_benchmark_writes_its_result(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(coverage, "PAGE", tmp_path / "not written.md")
    assert coverage.main(["--datasets", "2", "--quick", "--out", str(tmp_path / "coverage.json")]) == 0
    assert (tmp_path / "coverage.json").exists() and "| 1 | 5 | bimodal |" in capsys.readouterr().out
    assert not coverage.PAGE.exists()
    page = "before\n<!-- coverage -->\nold\n<!-- end -->\nafter\n"
    assert coverage.with_table(page, "| new |\n") == "before\n<!-- coverage -->\n| new |\n<!-- end -->\nafter\n"


def test_intervals_as_a_table():
    scores = xarray.DataArray(np.arange(24.0).reshape(3, 8), {"rate": [1, 2, 3]}, ("rate", "seed"))
    interval = stats.interval(scores, "iqm", dim="seed")
    table = interval.to_dataframe()
    assert list(table.columns) == ["estimate", "low", "high"] and list(table.index) == [1, 2, 3]
    np.testing.assert_array_equal(table["low"], interval.low)
    assert stats.interval(scores.isel(rate=0, drop=True), "iqm", dim="seed").to_dataframe().shape == (1, 3)
    with pytest.raises(TypeError, match="labels of DataArrays"):
        stats.interval(scores.values, "iqm", dim=1).to_dataframe()
