"""The stratified bootstrap: runs drawn with replacement, within each stratum by itself, and intervals from that.

A statistic is a function (sample, points) -> [sample, point]. It sees each resample as the number of times that every
run was drawn: named statistics then need one sort of the scores for all resamples. All points see the same resamples.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpg import _check
from jaxpg._show import compact

__all__ = ["Interval", "Options", "Sample", "bootstrap", "options"]

POINT_ELEMENTS = 2**20  # Resampled statistics held at once: 8 MiB, of which there are a few copies.


class Interval(NamedTuple):
    """A statistic and its confidence interval: arrays or DataArrays of one shape.

    `to_dataframe()` is a table of all three, for DataArrays: a `pandas.DataFrame` with their coordinates as its index.
    """

    estimate: Any
    low: Any
    high: Any

    __repr__ = compact

    def to_dataframe(self) -> Any:
        """A `pandas.DataFrame` with the columns estimate, low and high.

        Raises:
          TypeError: for arrays without labels.
        """
        import xarray

        if not isinstance(self.estimate, xarray.DataArray):
            raise TypeError(
                f"to_dataframe needs the labels of DataArrays; these are {type(self.estimate).__name__}: give "
                f"`interval` a DataArray of scores, such as a variable of a sweep's dataset"
            )
        columns = xarray.Dataset(self._asdict())
        return (columns if columns.dims else columns.expand_dims("")).to_dataframe()  # One row, of the index 0.


class Options(NamedTuple):
    confidence: float
    num_resamples: int
    method: str
    rng: np.random.Generator


class Sample(NamedTuple):
    """Resamples of m runs.

    Fields:
      counts: [run, sample], how often each run is in each sample.
      indices: [sample, place], the runs themselves.
    """

    counts: np.ndarray
    indices: np.ndarray


Statistic = Callable[[Sample, slice], np.ndarray]


def options(confidence: Any, num_resamples: Any, method: Any, rng: Any) -> Options:
    """The arguments that all intervals share, checked."""
    _check.number("confidence", confidence, 0.0, 1.0, exclusive=True)
    _check.count("num_resamples", num_resamples, 2)
    _check.named("method", method, ("percentile", "basic", "bca"))
    return Options(float(confidence), int(num_resamples), method, _generator(rng))


def _generator(rng: Any) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (int, np.integer)):
        return np.random.default_rng(_check.count("rng", rng, 0))
    import jax

    if isinstance(rng, jax.Array):
        return np.random.default_rng(np.asarray(jax.random.key_data(_check.key("rng", rng))).ravel())
    raise TypeError(
        f"rng must be an integer, a numpy Generator or a random key; got {type(rng).__name__} ({rng!r:.80})"
    )


def bootstrap(
    statistic: Statistic, strata: Sequence[np.ndarray], num_runs: int, num_points: int, given: Options
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(estimate, low, high), [point] each.

    Args:
      statistic: see above.
      strata: for each the runs in it, numbered below `num_runs`; runs in no stratum are never drawn.
      given: its `method` is one of
        percentile: [θ*_(α), θ*_(1−α)], quantiles of the resampled statistic, α = (1 − confidence) / 2;
        basic: [2θ̂ − θ*_(1−α), 2θ̂ − θ*_(α)];
        bca: percentiles at levels corrected for bias and skewness, Efron & Tibshirani (1993), equations 14.10 and 15.36
          for several samples.
    """
    everything = _sample([stratum[None] for stratum in strata], num_runs)
    drawn = _sample([s[given.rng.integers(0, len(s), (given.num_resamples, len(s)))] for s in strata], num_runs)
    left_out = _leave_one_out(strata, num_runs) if given.method == "bca" and drawn.indices.shape[1] > 1 else None
    level = (1.0 - given.confidence) / 2.0
    estimate, low, high = (np.empty(num_points) for _ in range(3))
    size = max(1, POINT_ELEMENTS // max(drawn.counts.shape[1], num_runs))
    for start in range(0, num_points, size):
        points = slice(start, min(start + size, num_points))
        centre = statistic(everything, points)[0]
        resampled = statistic(drawn, points)
        levels = np.full((2, len(centre)), [[level], [1.0 - level]])
        if left_out is not None:
            levels = _corrected(levels, centre, resampled, statistic(left_out, points), [len(s) for s in strata])
        bounds = _quantiles(resampled, levels)
        if given.method == "basic":
            bounds = 2.0 * centre - bounds[::-1]
        estimate[points], (low[points], high[points]) = centre, bounds
    return estimate, low, high


def _sample(drawn: Sequence[np.ndarray], num_runs: int) -> Sample:
    """From the runs drawn in each stratum, [sample, place]."""
    num_samples = drawn[0].shape[0]
    # Signed, for what is subtracted later; small, since counts are what most of the time goes into.
    counts = np.zeros((num_runs, num_samples), np.int16 if num_runs < 2**15 else np.int32)
    for runs in drawn:
        first, last = runs.min(), runs.max() + 1
        places = (runs - first) * num_samples + np.arange(num_samples)[:, None]
        found = np.bincount(places.ravel(), minlength=(last - first) * num_samples)
        counts[first:last] += found.reshape(last - first, num_samples).astype(counts.dtype)
    return Sample(counts, np.concatenate(drawn, axis=1))


def _leave_one_out(strata: Sequence[np.ndarray], num_runs: int) -> Sample:
    """Each run of the strata left out once, in their order."""
    runs = np.concatenate(strata)
    places = np.arange(len(runs))
    others = runs[np.nonzero(places != places[:, None])[1].reshape(len(runs), -1)]
    counts = np.zeros((num_runs, len(runs)), np.int16 if num_runs < 2**15 else np.int32)
    counts[runs] = 1
    counts[runs, places] = 0
    return Sample(counts, others)


def _corrected(
    levels: np.ndarray, centre: np.ndarray, resampled: np.ndarray, left_out: np.ndarray, sizes: list[int]
) -> np.ndarray:
    """Levels Φ(z₀ + (z₀ + z) / (1 − a (z₀ + z))) of the BCa interval."""
    from scipy.special import ndtr, ndtri

    # Equal up to rounding is equal: scores that are all the same must give z₀ = 0.
    tolerance = 1e-12 * np.nanmax(np.abs(resampled), axis=0, initial=0.0)
    difference = resampled - centre
    below, above = ((sign * difference > tolerance).sum(0) for sign in (-1.0, 1.0))
    known = (~np.isnan(resampled)).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        bias = ndtri(0.5 * (1.0 + (below - above) / known))
        cubes, squares = np.zeros(len(centre)), np.zeros(len(centre))
        for values, n in zip(np.split(left_out, np.cumsum(sizes)[:-1]), sizes):
            influence = (n - 1) * (values.mean(0) - values)
            influence[np.abs(influence) <= n * tolerance] = 0.0
            cubes += (influence**3).sum(0) / n**3
            squares += (influence**2).sum(0) / n**2
        acceleration = np.where(squares > 0, cubes / (6.0 * squares**1.5), 0.0)
        shifted = bias + ndtri(levels)
        return ndtr(bias + shifted / (1.0 - acceleration * shifted))


def _quantiles(resampled: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles [level, point] of [sample, point], linear between order statistics; NaN samples are left out."""
    ordered = np.sort(resampled.T, axis=1)  # NaN last.
    last = (~np.isnan(ordered)).sum(1) - 1
    place = levels * last
    undefined = np.isnan(place) | (last < 0)
    place = np.where(undefined, 0.0, place)
    lower = np.floor(place).astype(int)
    upper = np.minimum(lower + 1, np.maximum(last, 0))
    points = np.arange(len(ordered))
    below, above = ordered[points, lower], ordered[points, upper]
    return np.where(undefined, np.nan, below + (place - lower) * (above - below))
