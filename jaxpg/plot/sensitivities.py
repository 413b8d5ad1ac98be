"""Scores against one hyperparameter."""

from typing import Any

import numpy as np

from jaxpg import _check
from jaxpg.plot import _runs
from jaxpg.plot.style import axes_or_own, legend_above, small_text
from jaxpg.render_canvas import COLORS

__all__ = ["sensitivity"]


def sensitivity(
    runs: Any,
    hyperparameter: str,
    *,
    variable: str = "episode_return",
    at: Any = "last",
    statistic: Any = "iqm",
    confidence: float = 0.95,
    diverged_score: float | None = None,
    log: bool | None = None,
    num_bins: int | None = None,
    num_resamples: int = 2000,
    color: str = COLORS["blue"],
    label: str | None = None,
    ax: Any = None,
) -> Any:
    """How much a score depends on one hyperparameter.

    On a grid: the statistic over seeds at each value, its band from `jaxpg.stats.interval`, and every seed as a dot.
    Of a sampled sweep (dimension `sample`): a dot for each sample, its statistic over seeds, and over bins that hold
    equally many samples the median and the middle half. The other hyperparameters vary there, so the spread is theirs.

    Runs that diverged are crosses at the lower edge, on a grid with their number; they are no part of line and band,
    unless `diverged_score` stands for them.

    Args:
      runs: a dataset [seed, hyperparameter, update], or [seed, sample, update] with the hyperparameter along `sample`.
      hyperparameter: its name. Names in the place of numbers are evenly placed.
      variable, at: what is scored and when, as in `heatmap`.
      statistic: over seeds: "iqm", "mean", "median" or a function (array, axis) -> array.
      confidence: of the band.
      diverged_score: what counts as the score of a run that diverged.
      log: a log axis; None: where the values are spread more evenly over one.
      num_bins: of a sampled sweep; None: √samples, at most 12.
      num_resamples: of the bootstrap.
      color, label: of the line; None: the statistic's name.
      ax: matplotlib axes to draw on; None makes some.
    Returns:
      The axes.
    Raises:
      ValueError: unknown names, dimensions left, a log axis for values that are not above 0, or nothing to draw.
      TypeError: `runs` is no dataset.
    """
    sampled = "sample" in getattr(runs, "dims", ()) and hyperparameter in runs.coords and hyperparameter != "sample"
    sampled = sampled and runs[hyperparameter].dims == ("sample",)
    dim = "sample" if sampled else hyperparameter
    runs = _runs.check_runs(runs, variable, keep=(dim,))
    _runs.check_dims(runs, variable, (dim,), "")
    _check.number("confidence", confidence, 0.0, 1.0, exclusive=True)
    name = _runs.statistic_name(statistic)
    final = _runs.final_scores(runs, variable, at, diverged_score)
    scores, diverged = (array.transpose("seed", dim).values for array in (final.scores, final.diverged))
    values = runs[hyperparameter].values if hyperparameter in runs.coords else np.arange(runs.sizes[dim])
    numeric = np.issubdtype(values.dtype, np.number)
    places = values.astype(float) if numeric else np.arange(len(values), dtype=float)
    log = numeric and _runs.is_log_spaced(values) if log is None else _check.boolean("log", log)
    if log and not (numeric and (places > 0).all()):
        raise ValueError(f"log: {hyperparameter} must hold numbers above 0 for a log axis; got {values}")
    order = np.argsort(places, kind="stable")
    places, scores, diverged = places[order], scores[:, order], diverged[:, order]
    own = ax is None
    with axes_or_own(ax) as ax:
        if log:
            ax.set_xscale("log")
        if sampled:
            samples = np.array([_runs.estimate(column, statistic) for column in scores.T])
            _draw_samples(ax, places, samples, log, num_bins, color, label)
        else:
            _draw_grid(ax, places, scores, statistic, confidence, num_resamples, color, label or name)
        if diverged.any() and diverged_score is None:
            _mark_diverged(ax, places, diverged.sum(0), numbers=not sampled)
        _ticks(ax, places, values[order], numeric, log, sampled)
        ax.set_xlabel(_runs.name_of(runs, hyperparameter))
        seeds = _runs.counted(len(scores) - final.missing.transpose("seed", dim).values.sum(0))
        ax.set_ylabel(f"{_runs.score_name(runs, variable, at)}\n{name} of {seeds}")
        if diverged.any():
            text = f"{diverged.sum()} of {diverged.size} runs diverged"
            text += "" if diverged_score is None else f", count as {diverged_score:g}"
            ax.plot([], [], "x" if diverged_score is None else "", color="black", markersize=4, label=text)
        legend_above(ax, grow=own)
    return ax


def _draw_grid(
    ax: Any, places: Any, scores: Any, statistic: Any, confidence: float, num_resamples: int, color: str, label: str
) -> None:
    middle, low, high = _runs.interval(scores, statistic, confidence=confidence, num_resamples=num_resamples)
    if len(scores) > 1:
        ax.fill_between(
            places, low, high, color=color, alpha=0.2, linewidth=0, zorder=2, label=f"{100 * confidence:g}% band"
        )
    many = np.broadcast_to(places, scores.shape)
    ax.plot(
        many.ravel(), scores.ravel(), "o", color=color, markersize=2.2, alpha=0.5, markeredgewidth=0, zorder=3,
        label="seeds",
    )  # fmt: skip
    ax.plot(places, middle, "-o", color=color, linewidth=1.3, markersize=3.5, markeredgecolor="white",
            markeredgewidth=0.5, zorder=4, label=label)  # fmt: skip


def _draw_samples(
    ax: Any, places: Any, samples: Any, log: bool, num_bins: int | None, color: str, label: str | None
) -> None:
    """A dot for each sample; median and quartiles of bins of equally many samples as steps."""
    known = ~np.isnan(samples)
    if not known.any():
        raise ValueError("runs has no sample with a score: every one diverged; give diverged_score=…")
    x, y = places[known], samples[known]
    ax.plot(x, y, "o", color=color, markersize=2.5, alpha=0.5, markeredgewidth=0, zorder=3, label=f"{len(x)} samples")
    num_bins = min(12, max(1, round(len(x) ** 0.5))) if num_bins is None else _check.count("num_bins", num_bins)
    parts = np.array_split(np.arange(len(x)), min(num_bins, len(x)))
    middle = np.sqrt if log else lambda twice: twice / 2
    joined = [middle(x[a[-1]] * x[b[0]] if log else x[a[-1]] + x[b[0]]) for a, b in zip(parts, parts[1:])]
    edges = np.array([x[0], *joined, x[-1]])
    low, median, high = np.array([np.quantile(y[part], [0.25, 0.5, 0.75]) for part in parts]).T

    def steps(values: np.ndarray) -> np.ndarray:
        return np.append(values, values[-1])

    ax.fill_between(
        edges, steps(low), steps(high), step="post", color=COLORS["orange"], alpha=0.25, linewidth=0, zorder=2,
        label="middle half",
    )  # fmt: skip
    ax.step(
        edges, steps(median), where="post", color=COLORS["vermillion"], linewidth=1.3, zorder=4,
        label=label or f"median of {'each' if len(parts) > 1 else 'the'} bin",
    )  # fmt: skip


def _mark_diverged(ax: Any, places: np.ndarray, counts: np.ndarray, numbers: bool) -> None:
    """Crosses in a strip of their own, below all scores."""
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.1 * (high - low), high)
    where = counts > 0
    strip = ax.get_xaxis_transform()
    ax.plot(places[where], np.full(where.sum(), 0.04), "x", color="black", markersize=4, transform=strip, zorder=5)
    if numbers:
        for place, count in zip(places[where], counts[where]):
            ax.annotate(
                str(count), (place, 0.04), (-4, 0), xycoords=strip, textcoords="offset points", ha="right", va="center",
                fontsize=0.85 * small_text(ax),
            )  # fmt: skip


def _ticks(ax: Any, places: np.ndarray, values: np.ndarray, numeric: bool, log: bool, sampled: bool) -> None:
    """The values themselves as ticks, where they are few."""
    if sampled and numeric or len(places) > 8:
        return
    ax.set_xticks(places, [_runs.shown(value) for value in values])
    if log:
        ax.set_xticks([], minor=True)
