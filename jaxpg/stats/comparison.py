"""Runs against runs, and against thresholds: probability of improvement, performance profiles."""

from typing import Any

import numpy as np

from jaxpg import _check
from jaxpg.stats import _scores
from jaxpg.stats._bootstrap import Interval, Sample, bootstrap, options
from jaxpg.stats._scores import Scores
from jaxpg.stats.aggregate import bounds, masked, strata_of, task_mean

__all__ = ["improvement_interval", "performance_profile", "probability_of_improvement"]


def probability_of_improvement(x: Any, y: Any, *, dim: Any = None, task_dim: Any = None, missing: Any = "raise") -> Any:
    """How likely a run of X is better than a run of Y on a task drawn at random, ties counted half:

        P = 1/T · Σ_t 1/(n m) · Σ_i Σ_j [x_ti > y_tj] + ½ [x_ti = y_tj],

    the Mann–Whitney statistic U over n m. It says how often X wins, not by how much, and needs no normalised scores.

    Args:
      x, y: scores, both arrays or both DataArrays. The numbers of runs may differ; tasks and other dimensions may not,
        but DataArrays are broadcast over dimensions that one of them lacks.
      dim, task_dim, missing: as in `interval`. With "omit" a task's pairs are those of known runs.
    Returns:
      P over the other dimensions. All pairs are compared, also where x and y share seeds: P is that of independent
      runs. For the probability that X wins with the same seed, take the mean of `(x > y) + 0.5 * (x == y)`.
    Source: Agarwal et al. (2021), section 4.3; Mann & Whitney (1947).
    """
    x, y = _pair(x, y, dim, task_dim, missing, paired=False)
    ones = np.ones((x.values.shape[0] * (x.values.shape[1] + y.values.shape[1]), 1), np.int64)
    return masked((_wins(x.values, y.values, *_split(x, ones))[0],) * 3, (x, y)).estimate


def improvement_interval(
    x: Any,
    y: Any,
    *,
    dim: Any = None,
    task_dim: Any = None,
    paired: bool = False,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    method: str = "percentile",
    missing: Any = "raise",
    rng: Any = 0,
) -> Interval:
    """`probability_of_improvement` with its stratified bootstrap interval.

    Args:
      x, y, dim, task_dim: as in `probability_of_improvement`.
      paired: what is drawn. False: the runs of x and those of y, each by themselves, within each task; right for runs
        with seeds of their own. True: pairs (x_i, y_i), within each task; right where run i of both has the same seed,
        since it keeps their dependence (runs of one sweep share seeds over its hyperparameters). Then both have the
        same runs, DataArrays the same coordinates along `dim`. The estimate is the same either way.
      confidence, num_resamples, method, missing, rng: as in `interval`.
    Returns:
      `Interval(estimate, low, high)`.
    """
    paired = _check.boolean("paired", paired)
    given = options(confidence, num_resamples, method, rng)
    x, y = _pair(x, y, dim, task_dim, missing, paired)
    if paired:
        # A pair with one run missing is drawn as long as the other run has a score.
        both = x._replace(values=np.where(np.isnan(x.values), y.values, x.values))
        strata, num_runs = strata_of(both), x.pooled.shape[0]
    else:
        strata = strata_of(x) + strata_of(y, first=x.pooled.shape[0])
        num_runs = x.pooled.shape[0] + y.pooled.shape[0]

    def wins(sample: Sample, points: slice) -> np.ndarray:
        counts = (sample.counts, sample.counts) if paired else _split(x, sample.counts)
        return _wins(x.values[:, :, points], y.values[:, :, points], *counts)

    return masked(bootstrap(wins, strata, num_runs, x.values.shape[2], given), (x, y))


def performance_profile(
    scores: Any,
    thresholds: Any,
    *,
    dim: Any = None,
    task_dim: Any = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    method: str = "percentile",
    missing: Any = "raise",
    rng: Any = 0,
) -> Interval:
    """The fraction of runs above each threshold, averaged over tasks (the run-score distribution), and its band:

        F(τ) = 1/T · Σ_t 1/n · Σ_i [x_ti > τ].

    Where one curve lies above another everywhere, its runs are stochastically better. The band is that of each
    threshold by itself.

    Args:
      scores, dim, task_dim, confidence, num_resamples, method, missing, rng: as in `interval`.
      thresholds: τ, a vector.
    Returns:
      `Interval(estimate, low, high)` with a last dimension "threshold".
    Source: Agarwal et al. (2021), section 4.2.
    """
    given = options(confidence, num_resamples, method, rng)
    levels = _check.numbers_array("thresholds", thresholds)
    if levels.ndim != 1 or not levels.size or not np.isfinite(levels).all():
        raise ValueError(f"thresholds must be a vector of finite numbers; got {thresholds!r:.80}")
    arranged = _scores.arrange("scores", scores, dim, task_dim, missing)

    def above(sample: Sample, points: slice) -> np.ndarray:
        point, level = np.divmod(np.arange(points.start, points.stop), len(levels))
        values = arranged.values[:, :, point]
        return task_mean(np.where(np.isnan(values), np.nan, values > levels[level]), sample.counts)

    return bounds(arranged, above, given, extra=("threshold", levels))


def _pair(x: Any, y: Any, dim: Any, task_dim: Any, missing: Any, paired: bool) -> tuple[Scores, Scores]:
    """Both arranged alike."""
    if _scores.is_labelled(x) != _scores.is_labelled(y):
        raise TypeError(
            f"x and y must both be DataArrays or both be arrays; got {type(x).__name__}, {type(y).__name__}"
        )
    if _scores.is_labelled(x):
        import xarray

        runs = "seed" if dim is None else dim
        for name, scores in (("x", x), ("y", y)):
            if runs not in scores.dims:
                raise ValueError(f"dim must be a dimension of {name}, one of {scores.dims}; got {runs!r}")
        # What only one of them has must not be dropped in silence.
        x, y = xarray.align(x, y, join="exact", exclude=() if paired else (runs,))
        x, y = xarray.broadcast(x, y, exclude=(runs,))
    x, y = _scores.arrange("x", x, dim, task_dim, missing), _scores.arrange("y", y, dim, task_dim, missing)
    if x.shape != y.shape or len(x.values) != len(y.values):
        raise ValueError(
            f"x and y must have the same tasks and other dimensions; got {len(x.values)} and {len(y.values)} tasks, "
            f"and other dimensions of shape {x.shape} and {y.shape}"
        )
    if paired and x.values.shape != y.values.shape:
        raise ValueError(
            f"x and y must have the same runs if paired; got {x.values.shape[1]} and {y.values.shape[1]} of them"
        )
    return x, y


def _split(x: Scores, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts of x's runs and of y's."""
    return counts[: x.pooled.shape[0]], counts[x.pooled.shape[0] :]


def _wins(x: np.ndarray, y: np.ndarray, times_x: np.ndarray, times_y: np.ndarray) -> np.ndarray:
    """P, [sample, point]; x and y [task, run, point], how often each run was drawn [task · run, sample].

    With y sorted and C_k the number of drawn runs among its k lowest, a run x_i beats C_l and is not beaten by C_h of
    them, l the number of y below x_i and h that of y up to x_i: U = Σ_i c_i (C_l + C_h) / 2.
    """
    num_tasks, _, num_points = x.shape
    mean = np.zeros((num_points, times_x.shape[1]))
    for of_x, of_y, cx, cy in zip(x, y, np.split(times_x, num_tasks), np.split(times_y, num_tasks)):
        cx, cy = cx.astype(np.int64), cy.astype(np.int64)
        for point in range(num_points):
            known_x = ~np.isnan(of_x[:, point])
            values, drawn = of_x[known_x, point], cx[known_x]
            order = np.argsort(of_y[:, point])  # NaN last.
            rivals = of_y[order, point]
            rivals = rivals[~np.isnan(rivals)]
            below = np.zeros((len(rivals) + 1, cy.shape[1]), np.int64)
            np.cumsum(cy[order[: len(rivals)]], axis=0, out=below[1:])
            lower, upper = (np.searchsorted(rivals, values, side) for side in ("left", "right"))
            doubled = (drawn * (below[lower] + below[upper])).sum(0)
            with np.errstate(invalid="ignore"):  # No pair at all: 0 / 0.
                mean[point] += doubled / (2 * drawn.sum(0) * below[-1]) / num_tasks
    return mean.T
