"""A map of scores over two hyperparameters."""

from typing import Any

import numpy as np

from jaxpg.plot import _runs
from jaxpg.plot.style import axes_or_own, colorbar, small_text

__all__ = ["heatmap"]

MOST_NUMBERS = 64  # Cells with their values printed.
NO_VALUE = (0.84, 0.85, 0.87)  # The colour of cells without one.


def heatmap(
    runs: Any,
    x: str,
    y: str,
    *,
    variable: str = "episode_return",
    at: Any = "last",
    statistic: Any = "mean",
    diverged_score: float | None = None,
    numbers: bool | None = None,
    cmap: str = "viridis",
    ax: Any = None,
) -> Any:
    """The score at each pair of two hyperparameters' values: a cell coloured by the statistic over seeds.

    Values are evenly placed, with their numbers as ticks, so log-spaced ones are evenly spaced too. Cells where a run
    diverged are hatched and tell how many did; their colour is that of the other runs (none: grey), unless
    `diverged_score` stands for those that did.

    Args:
      runs: a dataset [seed, hyperparameters…, update]; besides `x` and `y` no other hyperparameter may be left.
      x, y: hyperparameters, to the right and upward.
      variable: what is scored.
      at: a run's score: "last", its last value; "best", its highest; or a number f in (0, 1], the mean over the last
        ⌈f n⌉ of its n updates, of which the last is the last one with a value.
      statistic: over seeds: "mean", "iqm", "median" or a function (array, axis) -> array.
      diverged_score: what counts as the score of a run that diverged.
      numbers: print each cell's value; None: where there are at most 64 cells.
      cmap: matplotlib's name of a colour map.
      ax: matplotlib axes to draw on; None makes some.
    Returns:
      The axes. `ax.collections[0]` has the values as its array [y, x].
    Raises:
      ValueError: unknown names, dimensions left, or no values to draw.
      TypeError: `runs` is no dataset.
    """
    runs = _runs.check_runs(runs, variable, keep=(x, y))
    if x == y:
        raise ValueError(f"x and y must be two hyperparameters; got {x!r} twice")
    _runs.check_dims(runs, variable, (x, y), "")
    name = _runs.statistic_name(statistic)
    final = _runs.final_scores(runs, variable, at, diverged_score)
    scores = final.scores.transpose(y, x, "seed").values
    diverged = final.diverged.transpose(y, x, "seed").values.sum(2)
    cells = np.array([[_runs.estimate(runs_of_cell, statistic) for runs_of_cell in row] for row in scores])
    numbers = cells.size <= MOST_NUMBERS if numbers is None else numbers
    with axes_or_own(ax, height=2.7) as ax:
        rows, columns = cells.shape
        mesh = ax.pcolormesh(
            np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, np.ma.masked_invalid(cells), cmap=cmap
        )
        ax.set_facecolor(NO_VALUE)
        ax.grid(visible=False)
        _hatch(ax, diverged > 0)
        if numbers:
            _print(ax, mesh, cells, diverged, final.scores.sizes["seed"])
        for axis, which, size in ((ax.xaxis, x, columns), (ax.yaxis, y, rows)):
            values = runs[which].values if which in runs.coords else np.arange(size)
            axis.set_ticks(np.arange(size), [_runs.shown(value) for value in values])
            axis.set_label_text(_runs.name_of(runs, which))
        ax.tick_params(length=0)
        seeds = scores.shape[2] - final.missing.transpose(y, x, "seed").values.sum(2)
        colorbar(ax, mesh, f"{_runs.score_name(runs, variable, at)}, {name}")
        ax.set_title(_note(seeds, diverged, final.missing, diverged_score), fontsize=small_text(ax), loc="left")
    return ax


def _hatch(ax: Any, where: np.ndarray) -> None:
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(where):
        ax.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", edgecolor="white", linewidth=0, alpha=0.55
            )
        )


def _print(ax: Any, mesh: Any, cells: np.ndarray, diverged: np.ndarray, num_seeds: int) -> None:
    """Each cell's value, and how many runs diverged: dark on light colours, light on dark ones, over hatching."""
    from matplotlib.patheffects import withStroke

    for (row, column), value in np.ndenumerate(cells):
        count = int(diverged[row, column])
        known = np.isfinite(value)
        lines = ([f"{value:.3g}"] if known else []) + ([f"{count}/{num_seeds} ×"] if count else [])
        cell = mesh.cmap(mesh.norm(value))[:3] if known else NO_VALUE
        dark = np.dot((0.299, 0.587, 0.114), cell) < 0.5
        ax.text(
            column, row, "\n".join(lines), ha="center", va="center", linespacing=1.0, fontsize=0.85 * small_text(ax),
            color="white" if dark else "black", path_effects=[withStroke(linewidth=1.8, foreground=cell)],
        )  # fmt: skip


def _note(seeds: np.ndarray, diverged: np.ndarray, missing: Any, diverged_score: float | None) -> str:
    note = f"{_runs.counted(seeds)} a cell"
    if diverged.any():
        note += f"; hatched: {diverged.sum()} of {seeds.sum()} runs diverged (×)"
        if diverged_score is not None:
            note += f"\nand count as {diverged_score:g}"
    if bool(missing.any()):
        note += f"; {int(missing.sum())} missing"
    return note
