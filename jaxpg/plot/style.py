"""How figures look: a paper column's width, colours and line styles for readers with any colour vision."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxpg import _check
from jaxpg.render_canvas import COLORS

__all__ = [
    "LINE_STYLES",
    "PAPER_STYLE",
    "axes_or_own",
    "colorbar",
    "legend_above",
    "own_axes",
    "paper_figure",
    "paper_style",
    "short",
    "show_in_notebooks",
    "small_text",
]

# For a column of 3.4 inches: text as large as the paper's footnotes, thin frames, nothing that does not carry data.
PAPER_STYLE: dict[Any, Any] = {
    "font.size": 8.0, "axes.labelsize": 8.0, "axes.titlesize": 8.5, "legend.fontsize": 7.0,
    "xtick.labelsize": 7.0, "ytick.labelsize": 7.0, "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": "#E4E7EB", "grid.linewidth": 0.5,
    "axes.axisbelow": True, "legend.frameon": False, "lines.solid_capstyle": "round", "savefig.dpi": 300,
    "pdf.fonttype": 42, "figure.facecolor": "white", "axes.facecolor": "white",
}  # fmt: skip

# Colour, dashes and marker change together, so that curves can also be told apart in grey.
LINE_STYLES: tuple[dict[str, Any], ...] = tuple(
    {"color": COLORS[color], "linestyle": dashes, "marker": marker}
    for color, dashes, marker in (
        ("blue", "-", "o"),
        ("vermillion", (0, (5, 1.5)), "s"),
        ("green", (0, (1.5, 1.2)), "^"),
        ("purple", (0, (5, 1.2, 1.2, 1.2)), "D"),
        ("orange", (0, (8, 1.5)), "v"),
        ("sky", (0, (3, 1, 1, 1, 1, 1)), "P"),
        ("ink", (0, (1, 2)), "X"),
        ("muted", "-", "p"),
    )
)


def paper_style() -> Any:
    """A context in which matplotlib uses `PAPER_STYLE`: `with paper_style(): …`, saving the figure included."""
    import matplotlib

    return matplotlib.rc_context(PAPER_STYLE)


def paper_figure(width: float = 3.4, height: float = 2.3) -> tuple[Any, Any]:
    """A figure of a paper column's width (inches) with one pair of axes: (figure, axes). Needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    show_in_notebooks()
    _check.positive("width", width)
    _check.positive("height", height)
    with paper_style():
        figure = Figure((width, height), layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.add_subplot()


def show_in_notebooks() -> None:
    """Has notebooks draw a figure that is a cell's last value: IPython learns to only once pyplot is set up in it."""
    if "IPython" in sys.modules:
        from matplotlib import pyplot

        pyplot.install_repl_displayhook()


def own_axes(height: float = 2.3) -> Any:
    """Axes of a new figure, which a notebook shows by itself."""
    from matplotlib import pyplot

    with paper_style():
        return pyplot.subplots(figsize=(3.4, height), layout="constrained")[1]


@contextlib.contextmanager
def axes_or_own(ax: Any, height: float = 2.3) -> Iterator[Any]:
    """The axes given, in the style that is set; or for None new ones, all of them in the paper's style."""
    if ax is not None:
        yield ax
    else:
        with paper_style():
            yield own_axes(height)


def small_text(ax: Any) -> float:
    """Points, a little less than the axes' labels: also where the axes were made in a style that is over."""
    return 0.875 * ax.xaxis.label.get_fontsize()


def legend_above(ax: Any, handles: Any = None, *, title: str | None = None, grow: bool = False) -> Any:
    """A legend over the axes, where it hides no data, in as many columns as find room; None for no handles.

    Args:
      handles: what it holds; None: all that has a label.
      grow: make the figure higher by it, which is right for a figure with nothing but these axes.
    """
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if not handles:
        return None
    size = small_text(ax)
    lengths = [len(handle.get_label()) for handle in handles]
    for columns in range(min(4, len(handles)), 0, -1):
        parts = np.array_split(lengths, columns)
        widest = [max(part) for part in parts]
        # In units of the text's height a letter is about 0.57 wide, a line with its gaps 3.8.
        if sum(0.57 * length + 3.8 for length in widest) * size / 72 < ax.bbox.width / ax.figure.dpi:
            break
    if grow:
        width, height = ax.figure.get_size_inches()
        ax.figure.set_size_inches(width, height + 1.25 * size / 72 * (len(parts[0]) + (title is not None)))
    return ax.legend(
        handles=handles, title=title, ncols=columns, loc="lower left", bbox_to_anchor=(0.0, 1.0), fontsize=size,
        title_fontsize=size, frameon=False, alignment="left", handlelength=1.8, columnspacing=1.2, handletextpad=0.5,
        borderpad=0.2, borderaxespad=0.2, labelspacing=0.25,
    )  # fmt: skip


def colorbar(ax: Any, colored: Any, label: str) -> Any:
    """A thin colour bar beside the axes, with text of the axes' size."""
    bar = ax.figure.colorbar(colored, ax=ax, fraction=0.06, pad=0.02)
    bar.set_label(label, fontsize=ax.xaxis.label.get_fontsize())
    bar.ax.tick_params(labelsize=small_text(ax), width=0.6, length=2.5)
    bar.outline.set_linewidth(0.6)
    return bar


def short(number: float) -> str:
    """150000 -> '150k'."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{suffix}"
    return f"{number:g}"
