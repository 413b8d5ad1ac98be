"""Curves of a sweep: one for each value of a hyperparameter."""

from typing import Any, NamedTuple

import numpy as np

from jaxpg import _check
from jaxpg.plot import _runs
from jaxpg.plot.curves import on_common_steps
from jaxpg.plot.style import LINE_STYLES, axes_or_own, legend_above, short

__all__ = ["sweep_curves"]


class _Group(NamedTuple):
    """The runs of one curve: values [seed, point] on common steps, NaN from where a run diverged."""

    steps: np.ndarray
    values: np.ndarray
    ends: list[tuple[float, float]]  # The last point of each run that diverged.
    num_seeds: int
    num_diverged: int
    num_missing: int


def sweep_curves(
    runs: Any,
    variable: str = "episode_return",
    *,
    by: str | None = None,
    x: str = "env_steps",
    statistic: Any = "iqm",
    confidence: float = 0.95,
    diverged_score: float | None = None,
    show_seeds: bool = False,
    num_points: int = 200,
    num_resamples: int = 2000,
    ax: Any = None,
) -> Any:
    """A variable along training: for each value of a hyperparameter the statistic over seeds and its band.

    The seeds of a curve are brought to common steps, as in `learning_curves`; line and band are `jaxpg.stats.interval`
    there, point by point, so the band is not one of whole curves. A run that diverged ends in a cross and is counted in
    the legend. From there on the curve is of the other runs, which flatters it, unless `diverged_score` stands for the
    run. One seed is drawn without a band.

    Args:
      runs: a dataset [seed, hyperparameters…, update]. NaNs are updates without a value.
      variable: what is drawn.
      by: a hyperparameter's dimension (or "sample"), of at most 8 values. The dataset may have no other left, unless of
        length 1: select one value of each.
      x: what it is drawn against: "update", or a variable that rises along it, such as "env_steps" or "wall_time".
      statistic: over seeds: "iqm", "mean", "median" or a function (array, axis) -> array, which must
        leave NaNs out where runs diverged.
      confidence: of the bands.
      diverged_score: what counts as a diverged run's value from where it ended.
      show_seeds: draw the seeds, too, thin.
      num_points, num_resamples: common steps of a curve, and resamples of the bootstrap.
      ax: matplotlib axes to draw on; None makes some.
    Returns:
      The axes.
    Raises:
      ValueError: unknown names, dimensions left, more than 8 curves, or no values to draw.
      TypeError: `runs` is no dataset.
    """
    runs = _runs.check_runs(runs, variable, keep=() if by is None else (by,))
    advice = "" if by else " (or draw a curve for each by by=…)"
    _runs.check_dims(runs, variable, () if by is None else (by,), advice)
    if "update" not in runs[variable].dims:
        raise ValueError(f"runs[{variable!r}] has no curve: it lacks the dimension 'update'")
    _check.number("confidence", confidence, 0.0, 1.0, exclusive=True)
    _check.optional(_check.number, "diverged_score", diverged_score)
    name = _runs.statistic_name(statistic)
    along = _along(runs, variable, x)
    parts = [(None, runs, along)]
    if by is not None:
        labels = runs[by].values if by in runs.coords else np.arange(runs.sizes[by])
        if len(labels) > len(LINE_STYLES):
            raise ValueError(
                f"by: {by} has {len(labels)} values; at most {len(LINE_STYLES)} curves can be told apart: select some"
            )
        parts = [(label, runs.isel({by: i}), along.isel({by: i})) for i, label in enumerate(labels)]
    groups = [(label, _group(part, variable, steps, diverged_score, num_points)) for label, part, steps in parts]
    own = ax is None
    with axes_or_own(ax) as ax:
        for style, (label, group) in zip(LINE_STYLES, groups):
            text = name if by is None else _runs.shown(label)
            only = by is None
            _draw(ax, group, text, style, statistic, confidence, num_resamples, show_seeds, only)
        if any(group.ends for _, group in groups):
            low, high = ax.get_ylim()
            for style, (_, group) in zip(LINE_STYLES, groups):
                # In view, also where a run had run away before it ended.
                for step, value in group.ends:
                    ax.plot(
                        step, np.clip(value, low, high), "x", color=style["color"], markersize=4, zorder=5,
                        clip_on=False,
                    )  # fmt: skip
            ax.set_ylim(low, high)  # Not without crosses: fixed limits would cut the curves of axes that share them.
        seeds = _runs.counted([group.num_seeds for _, group in groups])
        ax.set_xlabel(_runs.name_of(runs, x))
        ax.set_ylabel(f"{_runs.name_of(runs, variable)}\n{name} of {seeds}")
        ax.xaxis.set_major_formatter(lambda value, _: short(value))
        ax.margins(x=0.01)
        title = None
        if by is not None:
            banded = any(group.num_seeds > 1 for _, group in groups)
            title = _runs.name_of(runs, by) + (f" ({100 * confidence:g}% bands)" if banded else "")
        handles = _handles(ax, any(group.num_diverged for _, group in groups))
        legend_above(ax, handles, title=title, grow=own)
    return ax


def _along(runs: Any, variable: str, x: str) -> Any:
    """The steps [seed, …, update], shaped as the variable."""
    if x == "update" and x not in runs.variables:
        runs = runs.assign_coords(update=np.arange(1, runs.sizes["update"] + 1))
    if x not in runs.variables or "update" not in runs[x].dims:
        known = [str(name) for name in runs.variables if "update" in runs[name].dims]
        raise ValueError(f"x must be 'update' or one of {', '.join(known)}; got {x!r}{_check.nearest(x, known)}")
    along = runs[x].astype(float)
    if extra := [dim for dim in along.dims if dim not in runs[variable].dims]:
        raise ValueError(f"x: {x!r} has the dimension {extra[0]!r}, which {variable!r} has not")
    return along.broadcast_like(runs[variable])


def _group(runs: Any, variable: str, along: Any, diverged_score: float | None, num_points: int) -> _Group:
    """The seeds on common steps, those that diverged up to their ends."""
    values, steps = (array.transpose("seed", "update").values.astype(float) for array in (runs[variable], along))
    diverged = _runs.diverged_runs(runs, variable).values
    known = np.isfinite(values) & np.isfinite(steps)
    curves = [(x[k], y[k], d) for x, y, k, d in zip(steps, values, known, diverged)]
    whole = [(x, y) for x, y, d in curves if not d and len(x) > 1]
    ended = [(x, y) for x, y, d in curves if d and len(x)]
    num_diverged = int(diverged.sum())
    # A run that diverged does not end the others' curves: it is carried on flat, and taken away again.
    reach = min((x[-1] for x, _ in whole), default=max((x[-1] for x, _ in ended), default=np.nan))
    carried = [
        (np.append(x, reach), np.append(y, y[-1])) if x[-1] < reach else (x, y) for x, y in ended if x[0] < reach
    ]
    if not whole and not num_diverged:
        raise ValueError(f"runs[{variable!r}] has fewer than two values in every run: there is no curve to draw")
    if whole or carried:
        grid, found = on_common_steps(*zip(*whole, *carried), num_points=num_points)
        last = [np.inf] * len(whole) + [x[-1] for x, _ in ended if x[0] < reach]
        found = np.where(grid > np.array(last)[:, None], np.nan, found)
    else:
        grid, found = np.empty(0), np.empty((0, 0))
    missing = len(curves) - len(whole) - num_diverged
    silent = np.full((num_diverged - len(carried), grid.size), np.nan)  # They ended before the common steps begin.
    found = np.concatenate([found, silent])
    if diverged_score is not None:
        found = np.where(np.isnan(found), diverged_score, found)
    ends = [(float(x[-1]), float(y[-1])) for x, y in ended]
    return _Group(grid, found, ends, len(whole) + num_diverged, num_diverged, missing)


def _draw(
    ax: Any,
    group: _Group,
    label: str,
    style: dict,
    statistic: Any,
    confidence: float,
    resamples: int,
    seeds: bool,
    only: bool,
) -> None:
    color = style["color"]
    if group.num_diverged:
        label += f", {group.num_diverged} of {group.num_seeds} ×"
    if group.num_missing:
        label += f", {group.num_missing} missing"
    middle, low, high = _runs.interval(group.values, statistic, confidence=confidence, num_resamples=resamples)
    if group.num_seeds > 1:
        band = f"{100 * confidence:g}% band" if only else None
        ax.fill_between(group.steps, low, high, color=color, alpha=0.2, linewidth=0, zorder=3, label=band)
        if seeds:
            lines = ax.plot(group.steps, group.values.T, color=color, alpha=0.35, linewidth=0.5, zorder=2)
            lines[0].set_label("seeds" if only else None)
    ax.plot(group.steps, middle, color=color, linestyle=style["linestyle"], linewidth=1.3, zorder=4, label=label)


def _handles(ax: Any, any_diverged: bool) -> list[Any]:
    handles = ax.get_legend_handles_labels()[0]
    if any_diverged:
        from matplotlib.lines import Line2D

        handles.append(Line2D([], [], color="black", marker="x", linestyle="none", markersize=4, label="run diverged"))
    return handles
