"""`jaxpg plot DIR` of a sweep: a curve for each of its settings."""

import pathlib
from typing import Any

from jaxpg.cli.commands import Plot

__all__ = ["draw_sweep"]

_MOST = 8  # Curves that can be told apart.
_X = {"env-steps": "env_steps", "updates": "update"}


def draw_sweep(command: Plot, path: pathlib.Path) -> Any:
    """The figure.

    Raises:
      ValueError: a sweep that is not finished, that has more settings than curves can be told apart, or a metric that
        it does not have.
    """
    import xarray

    from jaxpg import _check, plot
    from jaxpg.render_canvas import COLORS

    if len(command.directories) > 1:
        raise ValueError(f"DIR: {path} is that of a sweep, which is drawn alone: `jaxpg plot {path}`")
    file = path / "runs.nc"
    if not file.is_file():
        raise ValueError(f"DIR: the sweep in {path} is not finished: the same call of jaxpg.sweep goes on with it")
    with xarray.open_dataset(file, engine="h5netcdf") as opened:
        runs = opened.load()
    metrics = [str(name) for name in runs.data_vars if "update" in runs[name].dims]
    if command.metric not in metrics:
        raise ValueError(
            f"--metric must be one of {', '.join(metrics)}, those of {path}; got {command.metric!r}"
            f"{_check.nearest(command.metric, metrics)}"
        )
    runs, by = _by_setting(runs, command.metric)
    if by is not None and runs.sizes[by] > _MOST:
        raise ValueError(
            f"DIR: the sweep in {path} has {runs.sizes[by]} settings, and at most {_MOST} curves can be told apart; "
            f'in Python, jaxpg.plot.heatmap or sensitivity draws xarray.open_dataset("{file}")'
        )
    axes = plot.sweep_curves(runs, command.metric, by=by, x=_X[command.x])
    if command.target is not None:
        axes.axhline(command.target, color=COLORS["muted"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    return axes.figure


def _by_setting(runs: Any, metric: str) -> tuple[Any, str | None]:
    """(the dataset with at most one dimension besides seeds and updates, and which)."""
    dims = [str(dim) for dim in runs[metric].dims if dim not in ("seed", "update") and runs.sizes[dim] > 1]
    if len(dims) < 2:
        return runs, dims[0] if dims else None
    name = ", ".join(dims)
    stacked = runs.squeeze([d for d in runs[metric].dims if d not in (*dims, "seed", "update")]).stack({name: dims})
    labels = [", ".join(map(str, each)) for each in stacked[name].values]
    return stacked.drop_vars([name, *dims]).assign_coords({name: labels}), name
