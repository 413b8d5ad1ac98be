"""What plots read from the dataset of a sweep: the values of runs, which of them diverged, and how they are called.

A run that diverged has no values from then on. It is never left out without a word: it is counted in labels and marked,
or a score that the caller names stands for it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpg import _check, stats

__all__ = [
    "FinalScores",
    "check_dims",
    "check_runs",
    "counted",
    "diverged_runs",
    "estimate",
    "final_scores",
    "interval",
    "is_log_spaced",
    "name_of",
    "score_name",
    "shown",
    "statistic_name",
]

RUN_DIMS = ("seed", "update")
NAMES = {
    "entropy": "entropy (nats)",
    "env_steps": "environment steps",
    "kl": "KL divergence (nats)",
    "snr": "gradient signal-to-noise ratio",
    "update": "updates",
    "wall_time": "wall time (s)",
}
STATISTICS = {"iqm": "IQM", "mean": "mean", "median": "median"}
Statistic = str | Callable[..., Any]


class FinalScores(NamedTuple):
    """One number for each run.

    Fields:
      scores: DataArray [seed, hyperparameters…]; NaN where a run diverged (unless a score stands for those) or is
        missing.
      diverged, missing: DataArrays of booleans, shaped likewise.
    """

    scores: Any
    diverged: Any
    missing: Any


def check_runs(runs: Any, variable: str, *, keep: Sequence[str] = ()) -> Any:
    """The dataset with a seed dimension, and without other dimensions of length 1 than those to `keep`."""
    import xarray

    if not isinstance(runs, xarray.Dataset):
        raise TypeError(
            f"runs must be the xarray.Dataset of a sweep, with the dimensions seed, each hyperparameter and update; "
            f"got {type(runs).__name__}"
        )
    _check.named("variable", variable, [str(name) for name in runs.data_vars])
    if "seed" not in runs.dims:
        runs = runs.drop_vars("seed", errors="ignore").expand_dims("seed")
    single = [dim for dim, size in runs.sizes.items() if size == 1 and dim not in (*RUN_DIMS, *keep)]
    runs = runs.squeeze(single)
    if "finished" in runs and not bool(runs["finished"].all()):  # An interrupted sweep: what was cut is missing.
        runs = runs.copy()
        runs[variable] = runs[variable].where(runs["finished"].astype(bool))
    if 0 in runs[variable].shape:
        raise ValueError(f"runs must hold runs; got none: {dict(runs[variable].sizes)}")
    return runs


def check_dims(runs: Any, variable: str, wanted: Sequence[str], advice: str) -> None:
    """Raises unless `variable` has the dimensions `wanted` (hyperparameters) and no others but seed and update."""
    dims = [str(dim) for dim in runs[variable].dims if dim not in RUN_DIMS]
    for name in wanted:
        if name in dims:
            continue
        if name in runs.coords and runs[name].dims == ("sample",):
            raise ValueError(
                f"{name} is sampled, not on a grid: runs has it along the dimension sample. jaxpg.plot.sensitivity "
                f"draws sampled sweeps; runs.isel(sample=…) selects runs"
            )
        raise ValueError(f"runs[{variable!r}] must have the dimension {name!r}; got {dims}{_check.nearest(name, dims)}")
    if left := [dim for dim in dims if dim not in wanted]:
        sizes = ", ".join(f"{dim} ({runs.sizes[dim]} values)" for dim in left)
        how = "runs.isel(sample=0)" if left[0] == "sample" else f"runs.sel({left[0]}={_first(runs, left[0])})"
        raise ValueError(
            f"runs[{variable!r}] has {sizes} left besides {', '.join((*wanted, *RUN_DIMS))}: select one value of each, "
            f"such as {how}{advice}"
        )


def diverged_runs(runs: Any, variable: str) -> Any:
    """Booleans [seed, hyperparameters…]: marked as diverged, or with an infinite value."""
    values = runs[variable]
    infinite = np.isinf(values.astype(float))
    if "update" in infinite.dims:
        infinite = infinite.any("update")
    if "diverged" not in runs:
        return infinite
    return infinite | (runs["diverged"].fillna(0).astype(bool))


def final_scores(runs: Any, variable: str, at: Any, diverged_score: float | None = None) -> FinalScores:
    """One score for each run.

    Args:
      at: "last", the value of the last update that has one; "best", the highest; or a number f in (0, 1], the mean over
        the last ⌈f n⌉ of the run's n updates. A run that diverged has no last value, but it has a best one.
      diverged_score: stands for the runs that diverged.
    """
    import xarray

    if isinstance(at, str):
        _check.named("at", at, ("last", "best"))
    else:
        at = _check.number("at", at, 0.0, 1.0)
        if not at:
            raise ValueError("at must be 'last', 'best', or a fraction of the updates in (0, 1]; got 0")
    _check.optional(_check.number, "diverged_score", diverged_score)
    values, diverged = runs[variable].astype(float), diverged_runs(runs, variable)
    values = values.where(np.isfinite(values))
    if "update" not in values.dims:
        scores = values
    elif at == "best":
        scores = values.max("update")
    else:
        # Runs of one length in environment steps may differ in updates: each counts back from its own last value.
        number = xarray.DataArray(np.arange(1, values.sizes["update"] + 1), dims="update")
        length = number.where(values.notnull()).max("update")
        window = 1 if at == "last" else np.ceil(at * length * (1 - 1e-12))
        scores = values.where(number > length - window).mean("update")
    if at != "best":
        scores = scores.where(~diverged)
    missing = scores.isnull() & ~diverged
    if bool(missing.all()):
        raise ValueError(f"runs[{variable!r}] has no value for at={at!r}: everything there is missing")
    if diverged_score is not None:
        scores = scores.where(~diverged, float(diverged_score))
    dims = ("seed", *(dim for dim in scores.dims if dim != "seed"))
    return FinalScores(scores.transpose(*dims), diverged.transpose(*dims), missing.transpose(*dims))


def estimate(scores: Any, statistic: Statistic) -> float:
    """The statistic of the scores that are known; NaN for none."""
    scores = np.asarray(scores, float)
    scores = scores[~np.isnan(scores)]
    if not scores.size:
        return math.nan
    named = {"iqm": lambda x, axis: stats.iqm(x, axis), "mean": np.mean, "median": np.median}
    return float((named[statistic] if isinstance(statistic, str) else statistic)(scores, -1))


def interval(
    scores: np.ndarray, statistic: Statistic, *, confidence: float = 0.95, num_resamples: int = 2000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(estimate, low, high), [point] each, of scores [run, point] whose NaNs are left out; NaN bounds for one run."""
    return stats.interval(scores, statistic, dim=0, confidence=confidence, num_resamples=num_resamples, missing="omit")


def statistic_name(statistic: Statistic) -> str:
    """As it is written in labels."""
    if isinstance(statistic, str):
        return STATISTICS[_check.named("statistic", statistic, STATISTICS)]
    return getattr(_check.callable_("statistic", statistic, "(array, axis) -> array"), "__name__", "statistic")


def name_of(runs: Any, variable: str) -> str:
    """`learning_rate` -> "learning rate", with its unit."""
    if variable in NAMES:
        return NAMES[variable]
    units = runs[variable].attrs.get("units", "1") if variable in runs.variables else "1"
    return variable.replace("_", " ") + (f" ({units})" if units not in ("", "1") else "")


def score_name(runs: Any, variable: str, at: Any) -> str:
    """What `final_scores` holds: "final episode return"."""
    name = name_of(runs, variable)
    if "update" not in runs[variable].dims:
        return name
    if isinstance(at, str):
        return f"{'final' if at == 'last' else 'best'} {name}"
    return f"{name}, last {100 * at:.3g}% of updates"


def counted(numbers: Any, noun: str = "seed") -> str:
    """ "8 seeds", or "6–8 seeds" where the numbers differ."""
    low, high = int(np.min(numbers)), int(np.max(numbers))
    return f"{low if low == high else f'{low}–{high}'} {noun}{'' if high == 1 else 's'}"


def shown(value: Any) -> str:
    """A hyperparameter's value as a label: 0.0003 -> "0.0003", 3e-05 -> "3e-5"."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        return str(value)
    text = f"{value:.4g}"
    if "e" in text:
        digits, exponent = text.split("e")
        text = f"{digits}e{int(exponent)}"
    return text


def is_log_spaced(values: Any) -> bool:
    """Whether numbers are spread more evenly over a log axis than over a linear one."""
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.number) or values.size < 2 or not (values > 0).all():
        return False
    values = np.unique(values.astype(float))
    if values.size < 3:
        return bool(values[-1] >= 5 * values[0])

    def unevenness(x: np.ndarray) -> float:
        # Against the even spacing between its ends; unlike gaps it is as good for random numbers.
        return float(np.abs((x - x[0]) / (x[-1] - x[0]) - np.linspace(0, 1, x.size)).mean())

    return unevenness(np.log(values)) < unevenness(values) - 1e-9


def _first(runs: Any, dim: str) -> Any:
    return runs[dim].values[0].item() if dim in runs.coords else 0
