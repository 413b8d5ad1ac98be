"""Plots of sweeps, profiles, gradients and landscapes: what is drawn equals numbers computed here."""

import pathlib
import re

import matplotlib
import matplotlib.pyplot
import numpy as np
import pytest
import scipy.stats
import xarray
from matplotlib.colors import to_rgb

from jaxpg import GradientEstimate, plot, stats
from jaxpg.plot import _runs

RATES, CLIPS = np.array([1e-4, 1e-3, 1e-2]), np.array([0.1, 0.2])


@pytest.fixture(autouse=True)
def no_display():
    from matplotlib import pyplot

    matplotlib.use("Agg")
    yield
    pyplot.close("all")


def make_runs(num_seeds=4, num_updates=5):
    """[seed, learning_rate, clip, update] without a run that diverged; 100 steps an update."""
    rng = np.random.default_rng(0)
    dims = ("seed", "learning_rate", "clip")
    values = rng.normal(size=(num_seeds, 3, 2, num_updates)).cumsum(-1)
    updates = np.arange(1, num_updates + 1)
    steps = np.broadcast_to(100.0 * updates, values.shape)
    return xarray.Dataset(
        {
            "episode_return": ((*dims, "update"), values),
            "env_steps": ((*dims, "update"), steps),
            "wall_time": ((*dims, "update"), steps / 1000, {"units": "s"}),
            "diverged": (dims, np.zeros(values.shape[:-1], bool)),
        },
        {"seed": np.arange(num_seeds), "learning_rate": RATES, "clip": CLIPS, "update": updates},
    )


def diverge(runs, seed, rate, clip, num_updates):
    """The run has `num_updates` updates, then it diverges."""
    runs = runs.copy(deep=True)
    for name in ("episode_return", "env_steps", "wall_time"):
        runs[name].values[seed, rate, clip, num_updates:] = np.nan
    runs["diverged"].values[seed, rate, clip] = True
    return runs


def values_of(runs):
    return runs.episode_return.values


def drawn(ax, label):
    """The line whose label begins so."""
    (line,) = [line for line in ax.get_lines() if line.get_label().startswith(label)]
    return line


def edges(band, x):
    """(low, high) of a filled band at each x."""
    vertices = np.concatenate([path.vertices for path in band.get_paths()])
    here = [vertices[np.isclose(vertices[:, 0], place), 1] for place in x]
    return np.array([y.min() for y in here]), np.array([y.max() for y in here])


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# --- curves -----------------------------------------------------------------------------------------------------------


def test_curves_are_statistics_over_seeds():
    runs = make_runs().sel(clip=0.2)
    _, ax = plot.paper_figure()
    assert plot.sweep_curves(runs, by="learning_rate", ax=ax, num_points=5) is ax
    assert legend_texts(ax) == ["0.0001", "0.001", "0.01"]
    assert ax.get_legend().get_title().get_text() == "learning rate (95% bands)"
    assert ax.get_xlabel() == "environment steps" and ax.get_ylabel() == "episode return\nIQM of 4 seeds"
    for i, text in enumerate(legend_texts(ax)):
        scores = values_of(runs)[:, i]
        x, y = drawn(ax, text).get_data()
        np.testing.assert_allclose(x, 100 * runs["update"].values)
        np.testing.assert_allclose(y, np.sort(scores, axis=0)[1:3].mean(0))  # Of four the middle two.
        _, low, high = stats.interval(scores, "iqm", dim=0)
        np.testing.assert_allclose(edges(ax.collections[i], x), (low, high))
    assert len({to_rgb(line.get_color()) for line in ax.get_lines()}) == 3
    assert len({str(line._dash_pattern) for line in ax.get_lines()}) == 3  # Told apart in grey, too.


def test_one_curve_of_another_statistic_against_time():
    runs = make_runs().isel(clip=[1], learning_rate=1)  # A dimension of length 1 needs no selection.
    ax = plot.sweep_curves(
        runs, x="wall_time", statistic="mean", confidence=0.8, num_points=9, show_seeds=True, num_resamples=300
    )
    x, y = drawn(ax, "mean").get_data()
    np.testing.assert_allclose(x, np.linspace(0.1, 0.5, 9))
    np.testing.assert_allclose(y[::2], values_of(runs)[:, 0].mean(0))
    np.testing.assert_allclose(y[1::2], (y[:-1:2] + y[2::2]) / 2)  # Between updates the line is straight.
    _, low, high = stats.interval(values_of(runs)[:, 0], "mean", dim=0, confidence=0.8, num_resamples=300)
    np.testing.assert_allclose(edges(ax.collections[0], x[::2]), (low, high))
    assert legend_texts(ax) == ["80% band", "seeds", "mean"] and ax.get_xlabel() == "wall time (s)"
    np.testing.assert_allclose([line.get_ydata()[::2] for line in ax.get_lines()[:4]], values_of(runs)[:, 0])


def test_a_run_that_diverged_is_marked_and_counted_and_does_not_end_the_curve():
    runs = diverge(make_runs(), 2, 1, 0, 3).sel(clip=0.1)
    values = values_of(runs)[:, 1]
    options = {"by": "learning_rate", "num_points": 5, "statistic": "mean"}
    ax = plot.sweep_curves(runs, **options)
    x, y = drawn(ax, "0.001").get_data()
    assert x[-1] == 500
    np.testing.assert_allclose(y[:3], values[:, :3].mean(0))
    np.testing.assert_allclose(y[3:], values[[0, 1, 3], 3:].mean(0))
    assert legend_texts(ax) == ["0.0001", "0.001, 1 of 4 ×", "0.01", "run diverged"]
    (cross,) = [line for line in ax.get_lines() if line.get_marker() == "x"]
    np.testing.assert_allclose(np.ravel(cross.get_data()), [300, values[2, 2]])
    assert cross.get_color() == drawn(ax, "0.001").get_color()
    # A score in its place.
    x, y = drawn(plot.sweep_curves(runs, **options, diverged_score=-50.0), "0.001").get_data()
    np.testing.assert_allclose(y[:3], values[:, :3].mean(0))
    np.testing.assert_allclose(y[3:], (values[[0, 1, 3], 3:].sum(0) - 50) / 4)


def test_runs_that_diverged_in_many_ways():
    runs = make_runs()
    for seed, updates in ((0, 0), (1, 1), (2, 2), (3, 4)):
        runs = diverge(runs, seed, 0, 0, updates)
    values = values_of(runs)[:, 0, 0]
    ax = plot.sweep_curves(runs.isel(clip=0), by="learning_rate", num_points=4, statistic="mean")
    x, y = drawn(ax, "0.0001, 4 of 4 ×").get_data()
    np.testing.assert_allclose(x, [100, 200, 300, 400])  # As far as the last of them.
    np.testing.assert_allclose(y, [values[1:, 0].mean(), values[2:, 1].mean(), values[3, 2], values[3, 3]])
    crosses = [line.get_xdata() for line in ax.get_lines() if line.get_marker() == "x"]
    assert sorted(np.ravel(crosses)) == [100, 200, 400]  # The one that never had a value is in the count alone.
    for seed in (1, 2, 3):
        runs = diverge(runs, seed, 0, 0, 0)
    ax = plot.sweep_curves(runs.isel(clip=0), by="learning_rate")
    assert legend_texts(ax)[0] == "0.0001, 4 of 4 ×" and drawn(ax, "0.0001").get_xdata().size == 0
    runs = diverge(make_runs(1), 0, 1, 0, 3)
    ax = plot.sweep_curves(runs.isel(clip=0, learning_rate=1))
    assert drawn(ax, "IQM, 1 of 1 ×").get_xdata()[-1] == 300 and not ax.collections


def test_axes_that_share_their_scale_are_not_cut():
    runs = make_runs()
    high = runs.assign(episode_return=10 * runs.episode_return)
    _, (left, right) = matplotlib.pyplot.subplots(1, 2, sharey=True)
    for ax, part in ((left, runs), (right, high)):
        plot.sweep_curves(part.isel(clip=0), by="learning_rate", ax=ax)
    tallest = max(line.get_ydata().max() for line in right.lines)
    assert left.get_ylim() == right.get_ylim() and right.get_ylim()[1] >= tallest


def test_infinite_values_are_divergence_and_gaps_are_not():
    runs = make_runs().isel(clip=0, learning_rate=0).drop_vars("diverged")
    runs.episode_return.values[0, 2] = np.nan
    ax = plot.sweep_curves(runs, statistic="mean", num_points=5)
    values = values_of(runs).copy()
    values[0, 2] = (values[0, 1] + values[0, 3]) / 2
    np.testing.assert_allclose(drawn(ax, "mean").get_ydata(), values.mean(0))
    runs.episode_return.values[3, 4] = np.inf
    ax = plot.sweep_curves(runs, statistic="mean", num_points=5)
    np.testing.assert_allclose(drawn(ax, "mean, 1 of 4 ×").get_ydata()[4], values[:3, 4].mean())


def test_missing_runs_are_counted():
    runs = make_runs()
    runs.episode_return.values[1, 2] = np.nan
    ax = plot.sweep_curves(runs.isel(clip=0), by="learning_rate")
    assert legend_texts(ax) == ["0.0001", "0.001", "0.01, 1 missing"]
    assert ax.get_ylabel().endswith("IQM of 3–4 seeds")


def test_one_seed_and_updates():
    runs = make_runs().isel(clip=0, learning_rate=0, seed=3)
    ax = plot.sweep_curves(runs, x="update", num_points=5)
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_data(), (np.arange(1, 6), values_of(runs)))
    assert not ax.collections and ax.get_ylabel().endswith("IQM of 1 seed") and ax.get_xlabel() == "updates"


SAMPLED = xarray.Dataset(
    {"episode_return": (("seed", "sample", "update"), np.ones((2, 4, 3)))},
    {"learning_rate": ("sample", [1e-4, 1e-3, 1e-2, 1e-1]), "update": [1, 2, 3]},
)


@pytest.mark.parametrize("runs, options, kind, words", [
    (make_runs(), {}, ValueError, r"learning_rate \(3 values\), clip \(2 values\) left .*learning_rate=0.0001"),
    (make_runs(), {"by": "clip"}, ValueError, r"has learning_rate \(3 values\) left besides clip, seed, update"),
    (make_runs(), {"by": "clips"}, ValueError, "must have the dimension 'clips'; .* did you mean 'clip'"),
    (make_runs(), {"variable": "return"}, ValueError, "variable must be one of 'episode_return'"),
    (make_runs().sel(clip=0.1), {"by": "learning_rate", "x": "env_step"}, ValueError, "x must be 'update' or one of"),
    (make_runs().sel(clip=0.1), {"by": "learning_rate", "statistic": "iqr"}, ValueError, "did you mean 'iqm'"),
    (make_runs().sel(clip=0.1), {"by": "learning_rate", "confidence": 95}, ValueError, "confidence must be"),
    (make_runs().isel(clip=0, learning_rate=0), {"variable": "diverged"}, ValueError, "lacks the dimension 'update'"),
    (make_runs().isel(seed=[]), {}, ValueError, "must hold runs"),
    (SAMPLED, {"x": "update"}, ValueError, r"sample \(4 values\) left .* runs.isel\(sample=0\)"),
    (SAMPLED, {"x": "update", "by": "learning_rate"}, ValueError, "learning_rate is sampled, not on a grid"),
    (make_runs().to_array(), {}, TypeError, "runs must be the xarray.Dataset of a sweep"),
    (make_runs().isel(clip=0, learning_rate=0).where(False), {}, ValueError, "no curve to draw"),
    (xarray.concat([make_runs().isel(clip=0)] * 3, "learning_rate"), {"by": "learning_rate"}, ValueError, "at most 8"),
])  # fmt: skip
def test_curves_that_cannot_be_drawn(runs, options, kind, words):
    with pytest.raises(kind, match=words):
        plot.sweep_curves(runs, **options)


def test_samples_as_curves():
    ax = plot.sweep_curves(SAMPLED, by="sample", x="update")
    assert legend_texts(ax) == ["0", "1", "2", "3"]


# --- heat maps --------------------------------------------------------------------------------------------------------


def test_cells_are_means_over_seeds():
    runs = make_runs()
    ax = plot.heatmap(runs, "clip", "learning_rate")
    np.testing.assert_allclose(ax.collections[0].get_array(), values_of(runs)[..., -1].mean(0))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0.0001", "0.001", "0.01"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "0.2"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("clip", "learning rate")
    assert ax.figure.axes[1].get_ylabel() == "final episode return, mean"
    assert ax.get_title(loc="left") == "4 seeds a cell" and not ax.patches
    printed = {text.get_position(): text.get_text() for text in ax.texts}
    assert printed[(1, 2)] == f"{values_of(runs)[:, 2, 1, -1].mean():.3g}" and len(printed) == 6
    (row, column) = 2, 1  # Its place on the axes: evenly spaced, upward and to the right.
    corners = ax.collections[0].get_paths()[row * 2 + column].vertices
    np.testing.assert_allclose(corners.min(0), [0.5, 1.5])


@pytest.mark.parametrize("at, expected", [
    ("last", lambda x: x[..., -1]),
    ("best", lambda x: x.max(-1)),
    (0.4, lambda x: x[..., -2:].mean(-1)),
    (0.41, lambda x: x[..., -3:].mean(-1)),  # Rounded up.
    (1.0, lambda x: x.mean(-1)),
])  # fmt: skip
def test_scores_of_runs(at, expected):
    runs = make_runs(8)
    ax = plot.heatmap(runs, "clip", "learning_rate", at=at, statistic="iqm")
    scores = expected(values_of(runs))
    np.testing.assert_allclose(ax.collections[0].get_array(), scipy.stats.trim_mean(scores, 0.25, axis=0))


def test_updates_without_a_value_do_not_count():
    runs = make_runs()
    runs.episode_return.values[..., -1] = np.nan
    values = values_of(runs)
    runs.episode_return.values[2, :, :, 3] = (
        np.nan
    )  # Each run counts back from its own end: this one has three updates.
    runs.episode_return.values[3, :, :, 2] = np.nan  # A gap.
    last, half = values[..., 3].copy(), values[..., 2:4].mean(-1)
    last[2], half[2], half[3] = values[2, ..., 2], values[2, ..., 1:3].mean(-1), values[3, ..., 3]
    for at, expected in (("last", last), (0.5, half), ("best", np.nanmax(values, axis=-1))):
        ax = plot.heatmap(runs, "clip", "learning_rate", at=at)
        np.testing.assert_allclose(ax.collections[0].get_array(), expected.mean(0))


def test_cells_where_runs_diverged_are_hatched_and_counted():
    runs = diverge(diverge(make_runs(2), 0, 1, 0, 3), 1, 2, 1, 2)
    runs = diverge(diverge(runs, 0, 0, 1, 1), 1, 0, 1, 0)
    values = values_of(runs)
    expected = values[..., -1].mean(0)
    expected[1, 0], expected[2, 1] = values[1, 1, 0, -1], values[0, 2, 1, -1]
    ax = plot.heatmap(runs, "clip", "learning_rate")
    cells = ax.collections[0].get_array()
    assert cells.mask.tolist() == [[False, True], [False, False], [False, False]]  # Both diverged: no value.
    np.testing.assert_allclose(cells.compressed(), expected[~np.isnan(expected)])
    assert sorted(patch.get_xy() for patch in ax.patches) == [(-0.5, 0.5), (0.5, -0.5), (0.5, 1.5)]
    assert all(patch.get_hatch() for patch in ax.patches)
    printed = {text.get_position(): text.get_text() for text in ax.texts}
    assert printed[(1, 0)] == "2/2 ×" and printed[(0, 1)] == f"{expected[1, 0]:.3g}\n1/2 ×"
    assert ax.get_title(loc="left") == "2 seeds a cell; hatched: 4 of 12 runs diverged (×)"
    ax = plot.heatmap(runs, "clip", "learning_rate", diverged_score=-9.0)
    cells = ax.collections[0].get_array()
    assert cells[0, 1] == -9 and len(ax.patches) == 3 and "count as -9" in ax.get_title(loc="left")
    np.testing.assert_allclose(cells[1, 0], (values[1, 1, 0, -1] - 9) / 2)
    ax = plot.heatmap(runs, "clip", "learning_rate", at="best")  # It was good before it diverged.
    np.testing.assert_allclose(ax.collections[0].get_array()[2, 1], np.nanmax(values[:, 2, 1], axis=1).mean())
    assert len(ax.patches) == 3


def test_cells_with_missing_runs_and_many_cells():
    runs = make_runs()
    runs.episode_return.values[1, 2, 0] = np.nan
    ax = plot.heatmap(runs, "clip", "learning_rate", numbers=False)
    assert ax.get_title(loc="left") == "3–4 seeds a cell; 1 missing" and not ax.texts and not ax.patches
    many = xarray.concat([make_runs()] * 11, "clip")
    assert not plot.heatmap(many, "clip", "learning_rate").texts  # 66 cells.


@pytest.mark.parametrize("runs, arguments, options, words", [
    (make_runs(), ("clip", "clip"), {}, "must be two hyperparameters"),
    (make_runs(), ("clip", "rate"), {}, "must have the dimension 'rate'"),
    (make_runs().expand_dims(batch=[1, 2]), ("clip", "learning_rate"), {}, r"has batch \(2 values\) left"),
    (make_runs(), ("clip", "learning_rate"), {"at": "first"}, "at must be one of 'last', 'best'"),
    (make_runs(), ("clip", "learning_rate"), {"at": 0.0}, r"a fraction of the updates in \(0, 1\]"),
    (make_runs(), ("clip", "learning_rate"), {"at": 1.5}, "at must be a finite real number in"),
    (make_runs(), ("clip", "learning_rate"), {"diverged_score": np.inf}, "diverged_score must be"),
    (SAMPLED, ("sample", "learning_rate"), {}, "is sampled, not on a grid"),
    (make_runs().where(False), ("clip", "learning_rate"), {"variable": "wall_time"}, "everything there is missing"),
])  # fmt: skip
def test_maps_that_cannot_be_drawn(runs, arguments, options, words):
    with pytest.raises(ValueError, match=words):
        plot.heatmap(runs, *arguments, **options)


# --- sensitivity ------------------------------------------------------------------------------------------------------


def test_scores_against_a_hyperparameter():
    runs = make_runs().sel(clip=0.1)
    _, ax = plot.paper_figure()
    assert plot.sensitivity(runs, "learning_rate", ax=ax, confidence=0.9) is ax
    scores = values_of(runs)[..., -1]
    x, y = drawn(ax, "IQM").get_data()
    np.testing.assert_allclose(x, RATES)
    np.testing.assert_allclose(y, np.sort(scores, axis=0)[1:3].mean(0))
    x, y = drawn(ax, "seeds").get_data()
    np.testing.assert_allclose(sorted(zip(x, y)), sorted(zip(np.tile(RATES, 4), scores.ravel())))
    _, low, high = stats.interval(scores, "iqm", dim=0, confidence=0.9)
    np.testing.assert_allclose(edges(ax.collections[0], RATES), (low, high))
    assert ax.get_xscale() == "log" and ax.get_xlabel() == "learning rate"
    assert ax.get_ylabel() == "final episode return\nIQM of 4 seeds"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.0001", "0.001", "0.01"]
    ax = plot.sensitivity(make_runs().isel(learning_rate=0), "clip", log=False, at=0.4, statistic="mean")
    assert ax.get_xscale() == "linear" and ax.get_ylabel().startswith("episode return, last 40% of updates\nmean")


def test_runs_that_diverged_are_crosses():
    runs = diverge(diverge(make_runs(), 0, 2, 0, 3), 1, 2, 0, 0).sel(clip=0.1)
    scores = values_of(runs)[..., -1]
    ax = plot.sensitivity(runs, "learning_rate", statistic="mean")
    np.testing.assert_allclose(drawn(ax, "mean").get_ydata()[2], scores[2:, 2].mean())
    (cross,) = [line for line in ax.get_lines() if line.get_marker() == "x" and len(line.get_xdata())]
    assert cross.get_xdata().tolist() == [0.01] and [text.get_text() for text in ax.texts] == ["2"]
    assert legend_texts(ax)[-1] == "2 of 12 runs diverged"
    lowest = np.nanmin(scores)
    assert ax.transData.transform((0.01, lowest))[1] > ax.transAxes.transform((0, 0.05))[1]  # In a strip of their own.
    ax = plot.sensitivity(runs, "learning_rate", statistic="mean", diverged_score=-7.0)
    np.testing.assert_allclose(drawn(ax, "mean").get_ydata()[2], (scores[2:, 2].sum() - 14) / 4)
    assert legend_texts(ax)[-1] == "2 of 12 runs diverged, count as -7"


def test_names_are_evenly_placed_and_numbers_sorted():
    runs = make_runs().isel(clip=0).assign_coords(learning_rate=["slow", "fast", "none"])
    ax = plot.sensitivity(runs, "learning_rate")
    assert drawn(ax, "IQM").get_xdata().tolist() == [0, 1, 2]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["slow", "fast", "none"]
    runs = make_runs().isel(clip=0, learning_rate=[2, 0, 1])
    x, y = drawn(plot.sensitivity(runs, "learning_rate", statistic="mean"), "mean").get_data()
    np.testing.assert_allclose(x, RATES)
    np.testing.assert_allclose(y, values_of(make_runs())[:, :, 0, -1].mean(0))


def sampled_runs(num_samples=40):
    rng = np.random.default_rng(3)
    rates = 10 ** rng.uniform(-5, -1, num_samples)
    values = rng.normal(size=(3, num_samples, 2))
    return xarray.Dataset(
        {
            "episode_return": (("seed", "sample", "update"), values),
            "diverged": (("seed", "sample"), np.zeros((3, num_samples), bool)),
        },
        {"learning_rate": ("sample", rates), "width": ("sample", rng.integers(1, 5, num_samples))},
    )


def test_samples_are_dots_with_medians_of_bins():
    runs = sampled_runs()
    ax = plot.sensitivity(runs, "learning_rate", statistic="mean", num_bins=4)
    order = np.argsort(runs.learning_rate.values)
    rates = runs.learning_rate.values[order]
    scores = values_of(runs)[..., -1].mean(0)[order]
    np.testing.assert_allclose(drawn(ax, "40 samples").get_data(), (rates, scores))
    x, y = drawn(ax, "median of each bin").get_data()
    np.testing.assert_allclose(y[:-1], np.median(scores.reshape(4, 10), axis=1))  # Ten samples in each.
    np.testing.assert_allclose(x[[0, -1]], rates[[0, -1]])
    np.testing.assert_allclose(x[1:-1], np.sqrt(rates[9:39:10] * rates[10:40:10]))
    middles = np.sqrt(x[:-1] * x[1:])
    assert ax.get_xscale() == "log" and len(middles) == 4
    vertices = ax.collections[0].get_paths()[0].vertices
    assert {round(v, 6) for v in vertices[:, 1]} == {
        round(v, 6) for v in np.quantile(scores.reshape(4, 10), [0.25, 0.75], axis=1).ravel()
    }
    assert ax.get_ylabel() == "final episode return\nmean of 3 seeds"


def test_samples_that_diverged():
    runs = sampled_runs()
    runs.diverged.values[:, 5] = True
    runs.diverged.values[0, 6] = True
    ax = plot.sensitivity(runs, "learning_rate", statistic="mean")
    rates = runs.learning_rate.values
    x, y = drawn(ax, "39 samples").get_data()
    assert rates[5] not in x
    np.testing.assert_allclose(y[x == rates[6]], values_of(runs)[1:, 6, -1].mean())
    (crosses,) = [line for line in ax.get_lines() if line.get_marker() == "x" and len(line.get_xdata())]
    assert sorted(crosses.get_xdata()) == sorted(rates[[5, 6]])
    assert legend_texts(ax)[-1] == "4 of 120 runs diverged"
    runs.diverged.values[:] = True
    with pytest.raises(ValueError, match="every one diverged"):
        plot.sensitivity(runs, "learning_rate")


def test_sensitivities_that_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"clip \(2 values\) left besides learning_rate"):
        plot.sensitivity(make_runs(), "learning_rate")
    zero = make_runs().isel(clip=0).assign_coords(learning_rate=[0.0, 0.1, 1.0])
    with pytest.raises(ValueError, match="must hold numbers above 0 for a log axis"):
        plot.sensitivity(zero, "learning_rate", log=True)
    with pytest.raises(ValueError, match="must have the dimension 'rate'"):
        plot.sensitivity(sampled_runs(), "rate")
    with pytest.raises(TypeError, match="runs must be the xarray.Dataset"):
        plot.sensitivity({}, "rate")


# --- performance profiles ---------------------------------------------------------------------------------------------


def test_profiles_are_fractions_of_runs():
    rng = np.random.default_rng(1)
    scores = {"PPO": rng.uniform(size=(6, 3)), "A2C": rng.uniform(size=(4, 3)) ** 2}
    thresholds = np.linspace(0, 1, 11)
    labelled = {"PPO": scores["PPO"], "A2C": xarray.DataArray(scores["A2C"].T, dims=("task", "seed"))}
    ax = plot.performance_profiles(labelled, thresholds=thresholds, num_resamples=200)
    for i, (name, text) in enumerate((("PPO", "PPO (6 runs × 3 tasks)"), ("A2C", "A2C (4 runs × 3 tasks)"))):
        x, y = drawn(ax, text).get_data()
        np.testing.assert_allclose(x, thresholds)
        np.testing.assert_allclose(y, [(scores[name] > threshold).mean() for threshold in thresholds])
        band = stats.performance_profile(scores[name], thresholds, dim=0, task_dim=1, num_resamples=200)
        np.testing.assert_allclose(edges(ax.collections[i], thresholds), band[1:])
    assert ax.get_xlabel() == "normalised score τ" and ax.get_ylabel() == "fraction of runs\nwith a score above τ"


def test_profiles_of_one_task_begin_at_one_and_end_at_zero():
    ax = plot.performance_profiles({"PPO": [1.0, 2.0, 4.0]}, xlabel="return")
    line = drawn(ax, "PPO (3 runs)")
    assert line.get_ydata()[[0, -1]].tolist() == [1.0, 0.0] and ax.get_xlabel() == "return"


@pytest.mark.parametrize("scores, options, kind, words", [
    ([1.0], {}, TypeError, "must be a dict"),
    ({}, {}, ValueError, "1 to 8 entries; got 0"),
    ({"a": np.ones((2, 3, 4))}, {}, ValueError, r"must be scores \[run, task\]"),
    ({"a": [1.0, np.nan]}, {}, ValueError, "1 not finite. Give runs that diverged the score"),
    ({"a": xarray.DataArray(np.ones((2, 2)), dims=("seed", "clip"))}, {}, ValueError, "dimensions seed .* and task"),
    ({"a": [1.0, 2.0]}, {"thresholds": [1.0, 0.0]}, ValueError, "at least two rising numbers"),
])  # fmt: skip
def test_profiles_that_cannot_be_drawn(scores, options, kind, words):
    with pytest.raises(kind, match=words):
        plot.performance_profiles(scores, **options)


# --- gradients --------------------------------------------------------------------------------------------------------


def estimate(num_episodes, squared_norm, trace):
    """An estimate of ‖ĝ‖² and tr Σ / N, a number each, or a vector of replicates."""
    squared_norm, trace = np.broadcast_arrays(squared_norm, trace)
    counts = np.full(trace.shape, num_episodes)
    fields = dict.fromkeys(GradientEstimate._fields, np.zeros(trace.shape))
    return GradientEstimate(**fields | {"gradient_norm": np.sqrt(squared_norm), "trace": trace, "num_episodes": counts})


def test_signal_to_noise_against_episodes():
    """‖∇J‖² = 4 and tr Σ = 64: B = 16."""
    sizes = [256, 4, 16, 64]
    ax = plot.snr_against_batch_size([estimate(n, 4 + 64 / n, 64 / n) for n in sizes])
    x, y = drawn(ax, "estimates (B = 16)").get_data()
    np.testing.assert_allclose((x, y), ([4, 16, 64, 256], [0.5, 1, 2, 4]))
    guide = ax.get_lines()[0].get_data()
    np.testing.assert_allclose(guide, ([4, 256], [0.5, 4]))
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "episodes N")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["4", "16", "64", "256"]
    assert ax.get_ylabel() == "gradient signal-to-noise ratio"
    assert legend_texts(ax) == ["estimates (B = 16)", "√(N / B)"]
    ax = plot.snr_against_batch_size([estimate(n, 4 + 64 / n, 64 / n) for n in sizes], quantity="noise_scale")
    np.testing.assert_allclose(drawn(ax, "estimates").get_ydata(), 16)
    assert ax.get_ylabel() == "noise scale B (episodes)" and legend_texts(ax) == ["estimates (B = 16)"]


def test_the_guide_is_that_of_the_largest_batch():
    ax = plot.snr_against_batch_size([estimate(4, 3.0, 1.0), estimate(100, 5.0, 1.0), estimate(400, 1.0, 2.0)])
    np.testing.assert_allclose(drawn(ax, "estimates (B = 25)").get_data(), ([4, 100], [np.sqrt(2), 2]))
    np.testing.assert_allclose(ax.get_lines()[0].get_data(), ([4, 400], [0.4, 4]))  # The largest that saw a signal.


def test_replicates_are_averaged_before_the_ratio():
    norms, traces = np.array([3.0, 9.0]), np.array([1.0, 3.0])  # Signals 2 and 6, noises 1 and 3.
    together = {"a": [estimate(8, norms, traces)], "b": [estimate(8, norms[0], traces[0]), estimate(8, 9.0, 3.0)]}
    ax = plot.snr_against_batch_size(together, guide=False)
    for label in ("a (B = 4)", "b (B = 4)"):
        np.testing.assert_allclose(drawn(ax, label).get_data(), ([8], [np.sqrt(2)]))
    dots = ax.get_lines()[0]
    np.testing.assert_allclose(dots.get_data(), ([8, 8], np.sqrt([2, 2])))


def test_estimates_without_a_signal_are_at_the_edge():
    ax = plot.snr_against_batch_size([estimate(10, 1.0, 2.0), estimate(1000, 2.0, 1.0)])
    assert drawn(ax, "no signal seen").get_data()[0].tolist() == [10]
    assert drawn(ax, "estimates (B = 1k)").get_data()[0].tolist() == [1000]
    ax = plot.snr_against_batch_size(estimate(10, 1.0, 2.0), quantity="noise_scale")  # Nothing else to draw.
    assert drawn(ax, "no signal seen").get_ydata().tolist() == [1.0]


@pytest.mark.parametrize("estimates, options, kind, words", [
    ([1.0], {}, TypeError, r"estimates\[0\] must be a GradientEstimate"),
    (3.0, {}, TypeError, "must be GradientEstimates"),
    ([], {}, ValueError, "at least one GradientEstimate"),
    ({}, {}, ValueError, "1 to 8 labels"),
    ([estimate(4, 1.0, np.nan)], {}, ValueError, "one group of episodes"),
    ([estimate(4, 1.0, 1.0)], {"quantity": "noise"}, ValueError, "did you mean 'noise_scale'"),
])  # fmt: skip
def test_estimates_that_cannot_be_drawn(estimates, options, kind, words):
    with pytest.raises(kind, match=words):
        plot.snr_against_batch_size(estimates, **options)


# --- landscapes -------------------------------------------------------------------------------------------------------

STEPS = np.array([-1.0, 0.0, 1.0])
PLANE = xarray.Dataset(
    {
        "episode_return": (("beta", "alpha"), np.arange(9.0).reshape(3, 3)),
        "episode_return_error": (("beta", "alpha"), np.full((3, 3), 0.25)),
    },
    {"alpha": ("alpha", STEPS, {"long_name": "along direction 1", "units": "filter norms"}), "beta": STEPS},
)


def test_a_map_has_the_parameters_in_its_middle():
    ax = plot.return_landscape(PLANE, kind="cells")
    np.testing.assert_allclose(ax.collections[0].get_array(), PLANE.episode_return)
    (middle,) = ax.get_lines()
    np.testing.assert_array_equal(middle.get_xydata(), [[0, 0]])
    assert ax.get_xlabel() == "α, along direction 1 (filter norms)" and ax.get_ylabel() == "β, along direction 2"
    assert ax.figure.axes[1].get_ylabel() == "episode return (s.e. 0.25)"
    turned = PLANE.episode_return.transpose("alpha", "beta")
    cells = plot.return_landscape(turned, kind="cells").collections[0]
    np.testing.assert_allclose(cells.get_array(), PLANE.episode_return)
    ax = plot.return_landscape(turned, num_levels=4)
    contours = ax.collections[0]
    assert contours.levels[0] <= 0 and contours.levels[-1] >= 8
    # Level sets of α + 3β + 4: the line of the level 4 passes through the middle, and 3 to the right of 1 down.
    ax = plot.return_landscape(PLANE, num_levels=2)
    lines = ax.collections[1]
    at_four = lines.get_paths()[list(lines.levels).index(4.0)].vertices
    np.testing.assert_allclose(at_four[:, 0] + 3 * at_four[:, 1], 0.0, atol=1e-9)


def test_a_line_with_its_band():
    line = PLANE.isel(beta=1, drop=True)
    ax = plot.return_landscape(line)
    np.testing.assert_allclose(drawn(ax, "episode return").get_data(), (STEPS, [3, 4, 5]))
    low, high = edges(ax.collections[0], STEPS)
    np.testing.assert_allclose((low, high), (np.array([3, 4, 5]) - 0.49, np.array([3, 4, 5]) + 0.49))
    assert legend_texts(ax) == ["95% band", "episode return", "parameters θ"]
    assert not plot.return_landscape(line.episode_return).collections


def test_landscapes_with_gaps_and_plains():
    gaps = PLANE.episode_return.copy()
    gaps[0, 0] = np.nan
    cells = plot.return_landscape(gaps, kind="cells").collections[0].get_array()
    assert cells.mask.sum() == 1
    plot.return_landscape(gaps)
    plot.return_landscape(PLANE.episode_return * 0)


@pytest.mark.parametrize("landscape, options, kind, words", [
    (np.ones((3, 3)), {}, TypeError, "landscape must be the Dataset"),
    (PLANE.rename(episode_return="returns"), {}, ValueError, "episode_return must be one of"),
    (PLANE.rename(beta="gamma"), {}, ValueError, "dimensions beta and alpha"),
    (PLANE.episode_return.drop_vars("alpha"), {}, ValueError, "with coordinates"),
    (PLANE * np.nan, {}, ValueError, "finite returns; got none"),
    (PLANE, {"kind": "surface"}, ValueError, "kind must be one of"),
])  # fmt: skip
def test_landscapes_that_cannot_be_drawn(landscape, options, kind, words):
    with pytest.raises(kind, match=words):
        plot.return_landscape(landscape, **options)


# --- words and spacing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values, expected", [
    ([1e-4, 1e-3, 1e-2], True), ([1e-4, 3e-4, 1e-3], True), ([1, 2, 3], False), ([32, 64, 128], True), ([1, 10], True),
    ([1, 2], False), ([0.0, 0.1, 1.0], False), ([-1.0, 10.0], False), (["a", "b"], False), ([5], False),
    ([0.9, 0.99, 0.999], False), (10 ** np.random.default_rng(0).uniform(-5, -1, 50), True),
    (np.random.default_rng(0).uniform(0.1, 1, 50), False), ([2.0, 2.0], False),
])  # fmt: skip
def test_log_spacing_is_seen(values, expected):
    assert _runs.is_log_spaced(values) is expected


@pytest.mark.parametrize("value, text", [
    (1e-5, "1e-5"), (3e-4, "0.0003"), (64, "64"), (True, "True"), ("adam", "adam"), (np.float32(0.1), "0.1"),
    (1e6, "1e6"), (np.int64(100000), "1e5"),
])  # fmt: skip
def test_values_as_labels(value, text):
    assert _runs.shown(value) == text


def test_every_figure_can_be_saved(tmp_path):
    """In given axes and its own, with the legend inside the picture."""
    runs = diverge(make_runs(), 0, 2, 0, 3)
    for draw in (
        lambda ax: plot.sweep_curves(runs.sel(clip=0.1), by="learning_rate", ax=ax),
        lambda ax: plot.heatmap(runs, "clip", "learning_rate", ax=ax),
        lambda ax: plot.sensitivity(runs.sel(clip=0.1), "learning_rate", ax=ax),
        lambda ax: plot.return_landscape(PLANE, ax=ax),
    ):
        for ax in (None, plot.paper_figure()[1]):
            ax = draw(ax)
            ax.figure.savefig(tmp_path / "figure.png")
            assert np.isclose(ax.figure.get_size_inches()[0], 3.4)
            box = ax.get_tightbbox()
            assert box.x0 > -1 and box.y0 > -1
            assert box.x1 < ax.figure.bbox.x1 + 1 and box.y1 < ax.figure.bbox.y1 + 1
            assert ax.get_window_extent().width > 0.55 * ax.figure.bbox.width  # Room is left for the data.


# --- the documentation ------------------------------------------------------------------------------------------------

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "plots.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SLOW = [i for i, block in enumerate(BLOCKS) if "import jax, jaxpg" in block]  # They compile much.


def run_blocks(which):
    """The page's blocks, in order."""
    names = {}
    for i in which:
        exec(compile(BLOCKS[i], f"docs/plots.md, Python block {i}", "exec"), names)


def test_the_page_runs_and_names_every_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks([i for i in range(len(BLOCKS)) if i not in SLOW])
    functions = {name for name in plot.__all__ if name.islower()}
    assert functions <= set(re.findall(r"plot\.(\w+)", "".join(BLOCKS)))
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / target).stat().st_size < 60_000


@pytest.mark.slow
def test_the_slow_parts_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(SLOW)
