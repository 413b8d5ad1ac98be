"""Learning curves of one set of runs: seeds, mean and band."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxpg import _check
from jaxpg.plot.style import own_axes, short
from jaxpg.render_canvas import COLORS

__all__ = ["learning_curves", "mean_and_interval", "on_common_steps"]


def learning_curves(
    steps: Any,
    returns: Any,
    *,
    ax: Any = None,
    label: str | None = None,
    color: str = COLORS["blue"],
    confidence: float = 0.95,
    num_points: int = 200,
    show_seeds: bool = True,
    target: float | None = None,
) -> Any:
    """Episode return against environment steps: every seed thin, their mean, and its confidence band.

    The seeds are brought to common steps (`on_common_steps`); mean and band are those of `mean_and_interval` there. The
    band is that of the mean at each step by itself, not of a whole curve, and not of the seeds' spread. One
    seed is drawn as it is.

    Args:
      steps: for each seed its environment steps so far, rising: sequences that may differ in length, or an array
        [seed, update].
      returns: the returns there, shaped likewise; NaN where no episode ended.
      ax: matplotlib axes to draw on; None makes some.
      label: of the mean, for the legend; None for "mean of … seeds", and "" for none.
      color: of seeds, mean and band.
      confidence: of the band.
      num_points: of the common steps.
      show_seeds: draw the seeds, too.
      target: a return to mark by a line.
    Returns:
      The axes.
    Raises:
      ValueError: arguments that do not match; fewer than two points of a seed, or no steps that all seeds share.
    """
    grid, curves = on_common_steps(steps, returns, num_points=num_points)
    mean, low, high = mean_and_interval(curves, confidence=confidence)
    if len(curves) == 1:
        grid, mean = _seeds(steps, returns)[0]  # Nothing to average: its own points.
    ax = own_axes() if ax is None else ax
    num_seeds = len(curves)
    if target is not None:
        _check.number("target", target)
        dashed = (0, (4, 3))
        ax.axhline(target, color=COLORS["muted"], linewidth=0.8, linestyle=dashed, zorder=1, label=f"target {target:g}")
    if num_seeds > 1 and show_seeds:
        for place, (seed_steps, seed_returns) in enumerate(_seeds(steps, returns)):
            ax.plot(
                seed_steps,
                seed_returns,
                color=color,
                alpha=0.35,
                linewidth=0.6,
                zorder=2,
                label=f"{num_seeds} seeds" if place == 0 else None,
            )
    if num_seeds > 1:
        ax.fill_between(
            grid,
            low,
            high,
            color=color,
            alpha=0.25,
            linewidth=0,
            zorder=3,
            label=f"{100 * confidence:g}% confidence of the mean",
        )
    if label is None:
        label = f"mean of {num_seeds} seeds" if num_seeds > 1 else "return"
    ax.plot(grid, mean, color=color, linewidth=1.4 if num_seeds > 1 else 1.0, zorder=4, label=label or None)
    ax.set_xlabel("environment steps")
    ax.set_ylabel("episode return")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(lambda value, _: short(value))
    ax.margins(x=0.01)
    return ax


def mean_and_interval(curves: Any, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and its Student-t interval, point by point: x̄ ± t_{(1+c)/2, n−1} s / √n.

    Args:
      curves: [seed, point].
      confidence: c in (0, 1).
    Returns:
      (mean, low, high), [point] each; low and high are NaN for one seed.
    """
    from scipy.special import stdtrit  # jax depends on scipy.

    _check.number("confidence", confidence, 0.0, 1.0, exclusive=True)
    curves = np.asarray(curves, float)
    if curves.ndim != 2 or 0 in curves.shape:
        raise ValueError(f"curves must be an array [seed, point]; got shape {curves.shape}")
    num_seeds = curves.shape[0]
    mean = curves.mean(axis=0)
    if num_seeds == 1:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stdtrit(num_seeds - 1, 0.5 + confidence / 2) * curves.std(axis=0, ddof=1) / np.sqrt(num_seeds)
    return mean, mean - half, mean + half


def on_common_steps(steps: Any, returns: Any, *, num_points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Curves at the same environment steps, by linear interpolation, where every seed has data on both sides.

    Args:
      steps, returns: as in `learning_curves`.
    Returns:
      (steps [num_points], returns [seed, num_points]): evenly from the last seed's first point to the first seed's
      last point.
    """
    num_points = _check.count("num_points", num_points, 2)
    seeds = _seeds(steps, returns)
    first, last = max(x[0] for x, _ in seeds), min(x[-1] for x, _ in seeds)
    if not first < last:
        raise ValueError(f"steps: the seeds have no stretch in common; one begins at {first:g}, one ends at {last:g}")
    grid = np.linspace(first, last, num_points)
    return grid, np.stack([np.interp(grid, x, y) for x, y in seeds])


def _seeds(steps: Sequence[Any], returns: Sequence[Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each seed's points without those where no episode ended."""
    counts = [len(x) if isinstance(x, Sequence) or np.ndim(x) > 0 else 0 for x in (steps, returns)]
    if counts[0] != counts[1] or 0 in counts:
        raise ValueError(
            f"steps and returns must be sequences with one entry for each seed, as many of each; got "
            f"{counts[0]} and {counts[1]}"
        )
    seeds = []
    for seed, (x, y) in enumerate(zip(steps, returns)):
        x, y = _check.numbers_array(f"steps[{seed}]", x), _check.numbers_array(f"returns[{seed}]", y)
        if x.ndim != 1 or x.shape != y.shape:
            raise ValueError(
                f"steps[{seed}] and returns[{seed}] must be vectors of one length; got {x.shape} and {y.shape}"
            )
        known = np.isfinite(y)
        x, y = x[known], y[known]
        if len(x) < 2 or not (np.diff(x) > 0).all():
            raise ValueError(
                f"steps[{seed}] must hold at least two rising numbers where returns[{seed}] is known; got {x}"
            )
        seeds.append((x, y))
    return seeds
