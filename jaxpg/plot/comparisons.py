"""The picture of a comparison of estimators."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxpg.plot.style import paper_style, show_in_notebooks
from jaxpg.render_canvas import COLORS

__all__ = ["plot"]


def plot(dataset: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """What `jaxpg.compare` found: bias² and variance as the parts of the mean squared error, time, and efficiency.

    Bars are values, thin lines are ± one standard error; each panel has zero on its left. Without timing rounds only
    the first panel is drawn.

    Args:
      path: where to save the figure, by suffix (.png, .pdf, .svg); None: nowhere.
    Returns:
      The matplotlib `Figure`; it needs no display.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    from jaxpg.comparison.text import check_comparison

    check_comparison(dataset)
    show_in_notebooks()
    timed = not bool(dataset.seconds.isnull().all())
    names = [str(name) for name in dataset.estimator.values]
    places = np.arange(len(names))
    with paper_style():
        figure = Figure((7.0 if timed else 4.2, 0.9 + 0.32 * len(names)), layout="constrained")
        FigureCanvasAgg(figure)
        panels = np.atleast_1d(
            figure.subplots(1, 3 if timed else 1, sharey=True, width_ratios=[2, 1, 1][: 3 if timed else 1])
        )
        _error_bars(panels[0], dataset, places)
        if timed:
            _bars(panels[1], dataset, "seconds", places, COLORS["muted"], EngFormatter("s", sep=" "))
            _bars(panels[2], dataset, "efficiency", places, COLORS["green"], EngFormatter(sep=" "))
            panels[1].set_xlabel("time of an estimate\nshorter is better")
            panels[2].set_xlabel("efficiency 1 / (MSE · s)\nlonger is better")
        panels[0].set_yticks(places, names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)  # The first estimator on top.
        for panel in panels:
            panel.grid(visible=False, axis="y")
            panel.tick_params(axis="y", length=0)
        if path is not None:
            figure.savefig(path)
    return figure


def _error_bars(panel: Any, dataset: Any, places: np.ndarray) -> None:
    """The mean squared error, in two parts. An estimate of bias² below 0 is drawn as none."""
    total = dataset.mean_squared_error.values
    bias = np.clip(dataset.bias_squared.values, 0.0, np.maximum(total, 0.0))
    panel.barh(places, bias, 0.62, color=COLORS["vermillion"], label="bias²")
    panel.barh(places, np.maximum(total, 0.0) - bias, 0.62, left=bias, color=COLORS["sky"], label="variance")
    _whiskers(panel, total, dataset.mean_squared_error_error.values, places, "{:.3g}".format)
    panel.set_xlabel(f"mean squared error, {dataset.attrs['num_episodes']:,} episodes\nshorter is better")
    panel.figure.legend(*panel.get_legend_handles_labels(), loc="outside upper left", ncols=2)


def _bars(panel: Any, dataset: Any, variable: str, places: np.ndarray, color: str, text: Callable[..., str]) -> None:
    values = dataset[variable].values
    panel.barh(places, np.nan_to_num(values), 0.62, color=color)
    panel.xaxis.set_major_formatter(text)
    _whiskers(panel, values, dataset[f"{variable}_error"].values, places, lambda value: text(float(f"{value:.3g}")))


def _whiskers(panel: Any, values: Any, errors: Any, places: np.ndarray, text: Callable[[float], str]) -> None:
    """One standard error to both sides, and the number behind the bar."""
    errors = np.nan_to_num(errors)
    panel.errorbar(values, places, xerr=errors, fmt="none", ecolor=COLORS["ink"], elinewidth=0.8)
    for place, value, error in zip(places, values, errors, strict=True):
        panel.annotate(
            text(value), (np.nanmax([value + error, 0.0]), place), (3, 0), textcoords="offset points", va="center",
            fontsize=6.5, color=COLORS["ink"],
        )  # fmt: skip
    largest = np.nanmax(values + errors, initial=0.0)
    panel.set_xlim(0.0, 1.4 * largest or 1.0)  # With room for the number.
    panel.locator_params(axis="x", nbins=4)
