"""`jaxpg plot DIR…`: the learning curves of runs."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxpg.cli.commands import Plot
from jaxpg.cli.console import console, say_files
from jaxpg.cli.plot_sweep import draw_sweep
from jaxpg.cli.run_folder import CONFIG, is_sweep, why_not

__all__ = ["Curves", "read_curves", "run_plot"]

_X = {"env-steps": ("total_env_steps", "environment steps"), "updates": ("update", "updates")}
_LABELS = {"episode_return": "episode return"}
_COLORS = ("blue", "vermillion", "green", "purple", "orange", "sky")  # Yellow is too faint for lines on white.
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))


class Curves(NamedTuple):
    """Runs that differ in the seed alone: their points, and those of their evaluations, one entry for each run."""

    label: str
    x: list[np.ndarray]
    y: list[np.ndarray]
    evaluations: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # x, mean return, its standard error


def run_plot(command: Plot) -> None:
    """Draws the figure and says where it is."""
    from jaxpg import _check, plot
    from jaxpg.render_canvas import COLORS

    _check.optional(_check.number, "target", command.target)
    path = _check_file(pathlib.Path(command.out).expanduser())
    sweeps = [each for each in (each.expanduser() for each in command.directories) if is_sweep(each)]
    if sweeps:
        with plot.paper_style():
            _save(draw_sweep(command, sweeps[0]), path)
        return
    groups = read_curves(command.directories, command.metric, command.x)
    with plot.paper_style():
        figure, axes = plot.paper_figure(width=5.0, height=3.2)
        for i, group in enumerate(groups):
            color, dashes = COLORS[_COLORS[i % len(_COLORS)]], _DASHES[i // len(_COLORS) % len(_DASHES)]
            plot.learning_curves(group.x, group.y, ax=axes, label=group.label, color=color, show_seeds=len(groups) == 1)
            axes.lines[-1].set_linestyle(dashes)
            for x, mean, error in group.evaluations:
                axes.errorbar(
                    x, mean, error, fmt="o", color=color, markerfacecolor="white", markersize=3.5, markeredgewidth=0.8,
                    elinewidth=0.6, zorder=5,
                )  # fmt: skip
        if command.target is not None:
            axes.axhline(command.target, color=COLORS["muted"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.set_xlabel(_X[command.x][1])
        axes.set_ylabel(_LABELS.get(command.metric, command.metric.replace("_", " ")))
        if any(group.evaluations for group in groups):
            axes.plot([], [], "o", color=COLORS["ink"], markerfacecolor="white", markersize=3.5, label="evaluations")
        labels = {"evaluations", *(group.label for group in groups)}
        shown = [(handle, label) for handle, label in zip(*axes.get_legend_handles_labels()) if label in labels]
        axes.legend(*zip(*shown), loc="best")
        _save(figure, path)


def _save(figure: Any, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    say_files(console(), [path])


def read_curves(directories: Sequence[pathlib.Path], metric: str, x: str = "env-steps") -> list[Curves]:
    """The runs in the folders, in their order, grouped.

    Raises:
      ValueError: a folder that holds no run, or a run without the metric or with too few values of it.
    """
    if not directories:
        raise ValueError("DIR is missing, the folder of a run: `jaxpg plot DIR`")
    groups: dict[str, list[tuple[str, Any, Any, Any]]] = {}
    for name, path in zip(_names(directories), directories):
        path = path.expanduser()
        columns = _rows(path / "metrics.jsonl")
        if metric not in columns:
            from jaxpg import _check

            raise ValueError(
                f"--metric must be one of {', '.join(columns)}, those of {path}; got {metric!r}"
                f"{_check.nearest(metric, columns)}"
            )
        at = columns[_X[x][0]]
        if np.isfinite(columns[metric]).sum() < 2:
            raise ValueError(f"DIR: {path} has fewer than two values of {metric}: there is no curve to draw")
        evaluations: Any = None
        if metric == "episode_return" and (path / "evaluations.jsonl").exists():
            scores = _rows(path / "evaluations.jsonl")
            if scores:
                evaluations = (scores[_X[x][0]], scores["episode_return"], scores["episode_return_error"])
        groups.setdefault(_identity(path), []).append((name, at, columns[metric], evaluations))
    return [
        Curves(
            _label([run[0] for run in runs]), [run[1] for run in runs], [run[2] for run in runs],
            [run[3] for run in runs if run[3] is not None],
        )
        for runs in groups.values()
    ]  # fmt: skip


def _identity(path: pathlib.Path) -> str:
    """What runs of one group have in common: all of config.yaml but the seed; nothing where there is none."""
    import yaml

    try:
        config = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
        return json.dumps(
            {name: value for name, value in config.items() if name not in ("seed", "versions")}, default=str
        )
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return f"folder {path.absolute()}"


def _names(directories: Sequence[pathlib.Path]) -> list[str]:
    """As much of the end of each path as tells it from the others."""
    paths = [path.expanduser().absolute() for path in directories]
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return [str(path) for path in paths]


def _label(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    shown = ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"
    return f"{shown}: mean of {len(names)} seeds and its 95% band"


def _rows(file: pathlib.Path) -> Mapping[str, np.ndarray]:
    """The columns of a JSON-lines file, numbers only; a torn last line is left out."""
    from jaxpg.training._records import to_float

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"DIR must be the folder of a run, the --out of `jaxpg train`; {why_not(file.parent, file.name)}"
        ) from None
    except OSError as error:
        raise ValueError(
            f"DIR must be the folder of a run, the --out of `jaxpg train`; {file}: {error.strerror or error}"
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"DIR: line {number} of {file} is damaged: {error}") from error
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [to_float(row.get(name)) for row in rows] for name in names}
    return {
        name: np.array(values, float)
        for name, values in columns.items()
        if not any(isinstance(value, list) for value in values)
    }


def _check_file(path: pathlib.Path) -> pathlib.Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    endings = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in endings:
        raise ValueError(f"--out must end in one of .{', .'.join(endings)}; got {path.name!r}")
    return path
