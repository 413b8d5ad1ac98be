"""One number for many runs, and how sure it is: interquartile mean, optimality gap, bootstrap intervals."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxpg import _check
from jaxpg.stats import _scores
from jaxpg.stats._bootstrap import Interval, Sample, Statistic, bootstrap, options
from jaxpg.stats._scores import Scores

__all__ = ["bounds", "interval", "iqm", "normalize", "optimality_gap", "task_mean"]

STATISTICS = ("iqm", "mean", "median", "optimality_gap")
WORK_ELEMENTS = 2**20  # Numbers of a working array: small enough for a cache, large enough for numpy.


def iqm(scores: Any, dim: Any = None, *, missing: Any = "raise") -> Any:
    """The interquartile mean: of n scores the ⌊n/4⌋ lowest and the ⌊n/4⌋ highest are cut off, the others averaged.

        IQM = 1 / (n − 2k) · Σ_{i=k+1}^{n−k} x_(i),        k = ⌊n/4⌋

    Args:
      scores: an array or a DataArray.
      dim: the dimensions (of an array: axes) that are pooled, one or several; None: all, runs and tasks together.
      missing: as in `interval`.
    Returns:
      The mean over `dim`, as `scipy.stats.trim_mean(…, 0.25)`; NaN where no score is known.
    Source: Agarwal et al. (2021), section 4.3.
    """
    arranged = _scores.arrange_all("scores", scores, dim, missing)
    ones = np.ones((arranged.values.shape[1], 1), np.int64)
    return arranged.restore(_trimmed_mean(arranged.pooled, ones, _quarter)[0])


def optimality_gap(scores: Any, target: Any = 1.0, dim: Any = None, *, missing: Any = "raise") -> Any:
    """By how much the runs fall short of a target, on average: γ − mean(min(x, γ)). Lower is better.

    Args:
      scores, dim, missing: as in `iqm`.
      target: γ; what a run has beyond it does not make up for others. 1 is the usual one for normalised scores.
    Source: Agarwal et al. (2021), section 4.3.
    """
    target = float(_check.number("target", target))
    arranged = _scores.arrange_all("scores", scores, dim, missing)
    ones = np.ones((arranged.values.shape[1], 1), np.int64)
    return arranged.restore(target - task_mean(np.minimum(arranged.values, target), ones)[0])


def normalize(scores: Any, low: Any, high: Any, *, task_dim: Any = None) -> Any:
    """Scores on the scale of their task: (x − low) / (high − low).

    Args:
      scores: an array or a DataArray.
      low, high: what is 0 and what is 1, for example a random policy's score and a good one's. Numbers; arrays that
        broadcast against an array of scores (its last axis is matched first); for a DataArray also DataArrays, or
        mappings {task: score}.
      task_dim: for mappings, the dimension whose coordinates they name.
    Raises:
      ValueError: low is not below high somewhere, or they are not finite, or have not exactly the tasks of the scores.
    """
    array, dims = _scores.checked("scores", scores)
    labelled = _scores.is_labelled(scores)
    if not labelled:
        bottom, top = (np.asarray(bound, np.float64) for bound in (low, high))
        _check_range(bottom, top)
        for name, bound in (("low", bottom), ("high", top)):
            try:
                fits = np.broadcast_shapes(array.shape, bound.shape) == array.shape
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(f"{name} must broadcast to the scores' shape {array.shape}; got shape {bound.shape}")
        return (array - bottom) / (top - bottom)
    import xarray

    bounds = []
    for name, bound in (("low", low), ("high", high)):
        if isinstance(bound, Mapping):
            if task_dim not in dims:
                raise ValueError(f"task_dim must name the scores' dimension of tasks, one of {dims}; got {task_dim!r}")
            tasks = scores[task_dim].values.tolist()
            if set(tasks) != set(bound):
                raise ValueError(f"{name} must have the tasks of the scores, {tasks}; got {list(bound)}")
            bound = xarray.DataArray([float(bound[task]) for task in tasks], {task_dim: tasks}, (task_dim,))
        elif np.ndim(bound) and not _scores.is_labelled(bound):
            raise TypeError(f"{name} must be a number, a DataArray or {{task: score}}; got {type(bound).__name__}")
        bounds.append(bound if _scores.is_labelled(bound) else xarray.DataArray(float(bound)))
    # Without this, arithmetic would keep the tasks that both have, and say nothing.
    _, *bounds = xarray.align(scores, *bounds, join="exact")
    for name, bound in zip(("low", "high"), bounds):
        if set(bound.dims) - set(dims):
            raise ValueError(f"{name} must have no dimension that the scores lack, {tuple(dims)}; got {bound.dims}")
    _check_range(*(bound.values for bound in bounds))
    return ((scores - bounds[0]) / (bounds[1] - bounds[0])).transpose(*dims).rename(scores.name)


def interval(
    scores: Any,
    statistic: str | Callable[..., Any] = "iqm",
    *,
    dim: Any = None,
    task_dim: Any = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    method: str = "percentile",
    missing: Any = "raise",
    target: float = 1.0,
    rng: Any = 0,
) -> Interval:
    """A statistic of the runs with its stratified bootstrap interval.

    Runs are drawn with replacement, as many as there are, within each task by itself; the interval is made of the
    statistic's values on `num_resamples` such draws. Other dimensions (updates, hyperparameters) are kept: every point
    gets its interval, from the same draws; the band holds at each point by itself, not for the whole curve. With few
    runs bootstrap intervals are too short: docs/statistics.md has the measured coverage.

    Args:
      scores: an array or a DataArray with a dimension of runs; averaging over several tasks wants normalised scores.
      statistic: over runs and tasks together
        "iqm": interquartile mean of all scores;
        "mean": mean over tasks of the means over runs;
        "median": with `task_dim`, the median over tasks of the means over runs (the paper's); without, over runs;
        "optimality_gap": `target` − mean of the scores cut off at `target`;
        or a function (array, axis) -> array without that axis, along which runs and tasks are pooled.
      dim: the dimension (of an array: the axis) of runs; None: "seed", of an array the first.
      task_dim: that of tasks, if there are several.
      confidence: of the interval, in (0, 1).
      num_resamples: draws.
      method: "percentile" (the paper's), "basic" or "bca" (bias-corrected and accelerated).
      missing: what NaN means. "raise": an error, since the runs that diverge are not those that do well.
        A number: a missing run has that score, such as the worst possible one. "omit": missing runs are drawn and
        ignored, so the result is about the runs that survive; runs without any score are not drawn.
        Then the estimate is NaN where a task has no run, the bounds where it has fewer than two.
      target: of the optimality gap.
      rng: an integer, a numpy Generator, or a random key.
    Returns:
      `Interval(estimate, low, high)`. One run has an estimate, and NaN for bounds.
    Raises:
      ValueError, TypeError: for arguments out of range, dimensions that the scores lack, and NaN as above.
    Source: Agarwal et al. (2021), section 4.1; Efron & Tibshirani (1993), chapters 13 and 14.
    """
    given = options(confidence, num_resamples, method, rng)
    target = float(_check.number("target", target))
    arranged = _scores.arrange("scores", scores, dim, task_dim, missing)
    function = _statistic(statistic, arranged, target)
    return bounds(arranged, function, given)


def bounds(arranged: Scores, statistic: Statistic, given: Any, extra: tuple[str, np.ndarray] | None = None) -> Interval:
    """`bootstrap` of a statistic of these scores; `extra` names a dimension that it adds to the points."""
    num_tasks, num_runs, num_points = arranged.values.shape
    strata = strata_of(arranged)
    repeats = 1 if extra is None else len(extra[1])
    found = bootstrap(statistic, strata, num_tasks * num_runs, num_points * repeats, given)
    return masked(found, (arranged,), extra)


def strata_of(arranged: Scores, first: int = 0) -> list[np.ndarray]:
    """For each task the runs that have any score, numbered from `first`; all of them where none has."""
    num_runs = arranged.values.shape[1]
    strata = []
    for task, values in enumerate(arranged.values):
        present = np.any(~np.isnan(values), axis=1)
        strata.append(first + task * num_runs + np.flatnonzero(present if present.any() else ~present))
    return strata


def masked(
    found: tuple[Any, ...], sources: tuple[Scores, ...], extra: tuple[str, np.ndarray] | None = None
) -> Interval:
    """The interval, its numbers NaN where too few runs are known."""
    known = np.stack([(~np.isnan(source.values)).sum(1).min(0) for source in sources]).min(0)
    known = np.repeat(known, 1 if extra is None else len(extra[1]))
    estimate, low, high = (np.where(known >= least, part, np.nan) for part, least in zip(found, (1, 2, 2)))
    return Interval(*(sources[0].restore(part, extra) for part in (estimate, low, high)))


def task_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean over tasks of means over runs, [sample, point].

    Args:
      values: [task, run, point].
      counts: [task · run, sample], how often each run counts.
    """
    total = np.zeros((counts.shape[1], values.shape[2]))
    for mean in _means(values, counts):
        total += mean
    return total / len(values)


def task_median(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The median over tasks of means over runs, as `task_mean`."""
    result = np.empty((counts.shape[1], values.shape[2]))
    size = max(1, WORK_ELEMENTS // max(1, len(values) * values.shape[2]))
    for start in range(0, len(result), size):
        samples = slice(start, start + size)
        result[samples] = np.median(np.stack(list(_means(values, counts[:, samples]))), axis=0)
    return result


def _statistic(statistic: Any, arranged: Scores, target: float) -> Statistic:
    """A named statistic or the user's function, as the bootstrap calls it."""
    values, pooled = arranged.values, arranged.pooled
    if not isinstance(statistic, str):
        return _of_function(_check.callable_("statistic", statistic, "(array, axis) -> array, or a name"), pooled)
    name = _check.named("statistic", statistic, STATISTICS)
    if name == "iqm":
        return lambda sample, points: _trimmed_mean(pooled[:, points], sample.counts, _quarter)
    if name == "mean":
        return lambda sample, points: task_mean(values[:, :, points], sample.counts)
    if name == "optimality_gap":
        return lambda sample, points: target - task_mean(np.minimum(values[:, :, points], target), sample.counts)
    if not arranged.has_tasks:
        return lambda sample, points: _trimmed_mean(pooled[:, points], sample.counts, _all_but_the_middle)
    return lambda sample, points: task_median(values[:, :, points], sample.counts)


def _quarter(size: np.ndarray) -> np.ndarray:
    return size // 4


def _all_but_the_middle(size: np.ndarray) -> np.ndarray:
    """Leaves one or two scores: their mean is the median."""
    return np.maximum(size - 1, 0) // 2


def _trimmed_mean(values: np.ndarray, counts: np.ndarray, cut: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Means [sample, point] of what is left when cut(n) scores are taken from each end; [run, point], [run, sample].

    With the scores sorted once and C_i the number of drawn scores among the i lowest, a score's weight after the cut is
    clip(C_i, k, n − k) − clip(C_{i−1}, k, n − k).
    """
    order = np.argsort(values, axis=0)  # NaN last.
    known = (~np.isnan(values)).sum(0)
    means = np.full((values.shape[1], counts.shape[1]), np.nan)
    size = max(1, WORK_ELEMENTS // len(values))
    for point in np.flatnonzero(known):
        rising = order[: known[point], point]
        scores = values[rising, point]
        for start in range(0, counts.shape[1], size):
            below = counts[rising, start : start + size]
            np.cumsum(below, axis=0, dtype=counts.dtype, out=below)
            total = below[-1].copy()
            trimmed = cut(total)
            np.clip(below, trimmed, total - trimmed, out=below)
            weights = np.diff(below, axis=0, prepend=trimmed[None])
            with np.errstate(invalid="ignore"):  # No score at all: 0 / 0.
                means[point, start : start + size] = (scores @ weights) / (total - 2 * trimmed)
    return means.T


def _means(values: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """For each task the means over runs, [sample, point]."""
    for of_task, times in zip(values, np.split(counts, len(values))):
        known = ~np.isnan(of_task)
        times = times.T.astype(np.float64)
        number = times.sum(1, keepdims=True) if known.all() else times @ known
        with np.errstate(invalid="ignore"):
            yield times @ np.where(known, of_task, 0.0) / number


def _of_function(function: Callable[..., Any], pooled: np.ndarray) -> Statistic:
    def resampled(sample: Sample, points: slice) -> np.ndarray:
        values = np.ascontiguousarray(pooled[:, points].T)
        num_samples, num_places = sample.indices.shape
        result = np.empty((num_samples, len(values)))
        size = max(1, WORK_ELEMENTS // max(1, num_places * len(values)))
        for start in range(0, num_samples, size):
            drawn = values[:, sample.indices[start : start + size]]
            found = np.asarray(function(drawn, -1))
            if found.shape != drawn.shape[:-1]:
                raise ValueError(
                    f"statistic must be a function (array, axis) -> array without that axis: of shape "
                    f"{drawn.shape[:-1]} for {drawn.shape}; got {found.shape}"
                )
            result[start : start + size] = found.T
        return result

    return resampled


def _check_range(low: np.ndarray, high: np.ndarray) -> None:
    for name, bound in (("low", low), ("high", high)):
        if not np.isfinite(bound).all():
            raise ValueError(f"{name} must be finite; got {bound}")
    if not np.all(low < high):
        raise ValueError(
            f"low must be below high for every task; got {low} and {high}: where less is better, give all three negated"
        )
