"""The picture of a return landscape."""

from typing import Any

import numpy as np

from jaxpg import _check
from jaxpg.plot.style import axes_or_own, colorbar, legend_above
from jaxpg.render_canvas import COLORS

__all__ = ["return_landscape"]

CONFIDENCE = 1.96  # Standard errors to both sides of a line.


def return_landscape(
    landscape: Any, *, kind: str = "contours", num_levels: int = 12, cmap: str = "viridis", ax: Any = None
) -> Any:
    """The returns around parameters θ, which are marked in the middle.

    In two directions a map; in one a line, with its 95% band where the errors are known. Contours interpolate between
    the points and hide how fine the grid is; "cells" shows each point as it is. What is not finite is grey.

    Args:
      landscape: what `jaxpg.return_landscape` gives, or its `episode_return`: a DataArray [beta, alpha] or [alpha].
      kind: "contours" or "cells", of a map.
      num_levels: of the contours.
      cmap: matplotlib's name of a colour map.
      ax: matplotlib axes to draw on; None makes some.
    Returns:
      The axes.
    Raises:
      TypeError, ValueError: no landscape, or one without finite returns.
    """
    _check.named("kind", kind, ("contours", "cells"))
    num_levels = _check.count("num_levels", num_levels, 2)
    returns, errors = _returns_and_errors(landscape)
    if not np.isfinite(returns.values).any():
        raise ValueError("landscape must have finite returns; got none")
    own = ax is None
    with axes_or_own(ax, height=2.7 if returns.ndim == 2 else 2.3) as ax:
        if returns.ndim == 2:
            _draw_map(ax, returns, errors, kind, num_levels, cmap)
        else:
            _draw_line(ax, returns, errors)
            legend_above(ax, grow=own)
    return ax


def _returns_and_errors(landscape: Any) -> tuple[Any, Any]:
    import xarray

    errors = None
    returns = landscape
    if isinstance(landscape, xarray.Dataset):
        _check.named("episode_return", "episode_return", [str(name) for name in landscape.data_vars])
        returns, errors = landscape["episode_return"], landscape.get("episode_return_error")
    if not isinstance(returns, xarray.DataArray):
        raise TypeError(
            f"landscape must be the Dataset of jaxpg.return_landscape, or its episode_return; got "
            f"{type(landscape).__name__}"
        )
    dims = {str(dim) for dim in returns.dims}
    if dims not in ({"alpha"}, {"alpha", "beta"}) or not dims <= set(returns.coords):
        raise ValueError(
            f"landscape must have the dimensions beta and alpha, or alpha, with coordinates; got {returns.dims}"
        )
    order = ("beta", "alpha") if len(dims) == 2 else ("alpha",)
    return returns.transpose(*order), None if errors is None else errors.transpose(*order)


def _draw_map(ax: Any, returns: Any, errors: Any, kind: str, num_levels: int, cmap: str) -> None:
    from matplotlib.ticker import MaxNLocator

    alpha, beta = returns["alpha"].values, returns["beta"].values
    values = np.ma.masked_invalid(returns.values)
    if kind == "contours":
        levels = MaxNLocator(num_levels).tick_values(values.min(), values.max())
        colored = ax.contourf(alpha, beta, values, levels, cmap=cmap)
        ax.contour(alpha, beta, values, levels, colors="white", linewidths=0.3, linestyles="solid", alpha=0.7)
    else:
        colored = ax.pcolormesh(alpha, beta, values, shading="nearest", cmap=cmap)
    ax.set_facecolor("#D5D9DE")
    ax.grid(visible=False)
    ax.plot(0, 0, "o", color="white", markeredgecolor="black", markersize=4.5, markeredgewidth=0.8, zorder=5)
    ax.annotate(
        "θ", (0, 0), (4, 3), textcoords="offset points", color="black", fontsize=ax.xaxis.label.get_fontsize(),
        path_effects=_outline(), zorder=5,
    )  # fmt: skip
    label = "episode return"
    if errors is not None and np.isfinite(errors.values).any():
        label += f" (s.e. {np.nanmedian(errors.values):.2g})"
    colorbar(ax, colored, label).locator = MaxNLocator(6)
    ax.set_xlabel(_axis_name(returns, "alpha"))
    ax.set_ylabel(_axis_name(returns, "beta"))


def _draw_line(ax: Any, returns: Any, errors: Any) -> None:
    alpha, values = returns["alpha"].values, returns.values
    if errors is not None and np.isfinite(errors.values).any():
        half = CONFIDENCE * errors.values
        ax.fill_between(
            alpha, values - half, values + half, color=COLORS["blue"], alpha=0.2, linewidth=0, label="95% band"
        )
    ax.plot(alpha, values, color=COLORS["blue"], linewidth=1.3, label="episode return")
    ax.axvline(0, color=COLORS["muted"], linewidth=0.8, linestyle=(0, (4, 3)), label="parameters θ")
    ax.set_xlabel(_axis_name(returns, "alpha"))
    ax.set_ylabel("episode return")


def _axis_name(returns: Any, dim: str) -> str:
    symbol, number = {"alpha": ("α", 1), "beta": ("β", 2)}[dim]
    attributes = returns[dim].attrs
    name = attributes.get("long_name", f"along direction {number}")
    units = attributes.get("units", "1")
    return f"{symbol}, {name}" + (f" ({units})" if units != "1" else "")


def _outline() -> list[Any]:
    from matplotlib import patheffects

    return [patheffects.withStroke(linewidth=2.0, foreground="white")]
