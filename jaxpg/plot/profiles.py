"""Performance profiles: how many runs do better than τ, for every τ."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpg import stats
from jaxpg.plot import _runs
from jaxpg.plot.style import LINE_STYLES, axes_or_own, legend_above

__all__ = ["performance_profiles"]


def performance_profiles(
    scores_by_name: Mapping[str, Any],
    *,
    thresholds: Any = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    xlabel: str = "normalised score τ",
    ax: Any = None,
) -> Any:
    """The fraction of runs whose score is above τ, averaged over tasks, against τ (Agarwal et al., 2021).

    A curve that lies above another everywhere is stochastically better. Where it crosses 1/2 is the median. Values and
    bands are those of `jaxpg.stats.performance_profile`.

    Args:
      scores_by_name: name -> scores [run, task] or [run] of one algorithm: arrays, or DataArrays with the dimension
        "seed" or "run", and "task". At most 8. Scores of several tasks must be normalised.
      thresholds: rising τ; None: 201 from the lowest score of all to the highest.
      confidence, num_resamples: of the bands, by a bootstrap of runs within each task.
      xlabel: of the axis of τ.
      ax: matplotlib axes to draw on; None makes some.
    Returns:
      The axes.
    Raises:
      ValueError, TypeError: scores of another shape or with NaNs (decide first what a failed run's score is).
    """
    if not isinstance(scores_by_name, Mapping):
        raise TypeError(f"scores_by_name must be a dict of name -> scores; got {type(scores_by_name).__name__}")
    if not 0 < len(scores_by_name) <= len(LINE_STYLES):
        raise ValueError(f"scores_by_name must have 1 to {len(LINE_STYLES)} entries; got {len(scores_by_name)}")
    scores = {str(name): _run_and_task(f"scores_by_name[{name!r}]", given) for name, given in scores_by_name.items()}
    thresholds = _thresholds(thresholds, scores)
    own = ax is None
    with axes_or_own(ax) as ax:
        for style, (name, array) in zip(LINE_STYLES, scores.items()):
            profile, low, high = stats.performance_profile(
                array, thresholds, dim=0, task_dim=1, confidence=confidence, num_resamples=num_resamples
            )
            if len(array) > 1:
                ax.fill_between(thresholds, low, high, color=style["color"], alpha=0.2, linewidth=0, zorder=3)
            # Over many tasks the numbers of runs may differ from those of another name: each tells its own.
            ax.plot(
                thresholds, profile, color=style["color"], linestyle=style["linestyle"], linewidth=1.3, zorder=4,
                label=f"{name} ({_size(array)})",
            )  # fmt: skip
        ax.set_xlabel(xlabel)
        ax.set_ylabel("fraction of runs\nwith a score above τ")
        ax.set_ylim(-0.02, 1.02)
        ax.set_xlim(thresholds[0], thresholds[-1])
        banded = any(len(array) > 1 for array in scores.values())
        legend_above(ax, title=f"{100 * confidence:g}% bands" if banded else None, grow=own)
    return ax


def _run_and_task(argument: str, given: Any) -> np.ndarray:
    """[run, task]."""
    import xarray

    if isinstance(given, xarray.DataArray):
        runs = [dim for dim in given.dims if dim in ("seed", "run")]
        others = [str(dim) for dim in given.dims if dim not in ("seed", "run", "task")]
        if len(runs) != 1 or others:
            raise ValueError(
                f"{argument} must have the dimensions seed (or run) and task; got {[str(dim) for dim in given.dims]}"
            )
        given = given.transpose(*runs, ...).values
    array = np.asarray(given, float)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{argument} must be scores [run, task] or [run]; got shape {np.shape(given)}")
    if not np.isfinite(array).all():
        raise ValueError(
            f"{argument} must have a score for each run; got {int((~np.isfinite(array)).sum())} not finite. Give runs "
            f"that diverged the score that a failure is worth: a profile without them would flatter"
        )
    return array


def _thresholds(thresholds: Any, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    if thresholds is None:
        low, high = min(array.min() for array in scores.values()), max(array.max() for array in scores.values())
        margin = 0.02 * (high - low) or 1.0  # So that every curve is seen to begin at 1.
        return np.linspace(low - margin, high, 201)
    thresholds = np.asarray(thresholds, float)
    if thresholds.ndim != 1 or thresholds.size < 2 or not (np.diff(thresholds) > 0).all():
        raise ValueError(f"thresholds must be at least two rising numbers; got {thresholds}")
    return thresholds


def _size(array: np.ndarray) -> str:
    runs, tasks = array.shape
    text = _runs.counted(runs, "run")
    return text if tasks == 1 else f"{text} × {_runs.counted(tasks, 'task')}"
