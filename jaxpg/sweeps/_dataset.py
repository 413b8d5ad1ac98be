"""The labelled results of a sweep."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpg.algorithms.types import Algorithm
from jaxpg.sweeps._batch import Results
from jaxpg.sweeps._program import DONE
from jaxpg.sweeps.points import Points
from jaxpg.training._describe import versions

__all__ = ["dataset", "label", "labels"]

# Metrics that name an episode of one update; of use only with the run's state.
LEFT_OUT = {DONE, "env_steps", "nonfinite_lane", "nonfinite_episode"}
NAMES = {
    "episode_return": ("mean return of the episodes that ended in the update", ""),
    "episode_length": ("mean length of the episodes that ended in the update", "steps"),
    "num_episodes": ("episodes that ended in the update", ""),
    "evaluation_return": ("mean return of the evaluation after the update", ""),
    "evaluation_return_error": ("standard error of evaluation_return", ""),
    "env_steps": ("environment steps up to and including the update", "steps"),
    "wall_time": ("time up to and including the update, of all runs of the batch together, without compiling", "s"),
    "kl": ("Kullback–Leibler divergence of the new policy from the one that acted", "nat"),
    "entropy": ("mean entropy of the policy", "nat"),
    "gradient_norm": ("norm of the gradient, before clipping", ""),
    "snr": ("signal-to-noise ratio of the gradient", ""),
    "diverged": ("whether the run ended because something was NaN or infinite", ""),
    "finished": ("whether the run took all its steps, or diverged; False only where a sweep was interrupted", ""),
    "num_updates": ("updates of the run", ""),
}


def dataset(
    points: Points,
    seeds: Sequence[int],
    played: Sequence[tuple[list[tuple[int, int, int]], Results]],
    about: Mapping[str, Any],
    algorithm: Algorithm,
) -> Any:
    """The xarray.Dataset of all runs.

    Args:
      played: for each batch its runs, (column, setting, seed's place), and its results.
      about: the sweep, for the attributes.
    """
    import xarray

    shape, dims = points.shape, points.dims
    num_settings, num_seeds = len(points.settings), len(seeds)
    num_updates = np.zeros((num_seeds, num_settings), np.int64)
    diverged, complete = np.zeros((2, num_seeds, num_settings), bool)
    for runs, results in played:
        for column, setting, seed in runs:
            num_updates[seed, setting] = results.rows[DONE][:, column].sum()
            diverged[seed, setting], complete[seed, setting] = results.diverged[column], results.finished[column]
    most = int(num_updates.max(initial=0))

    columns: dict[str, np.ndarray] = {}

    def put(name: str, setting: int, seed: int, values: np.ndarray) -> None:
        if name not in columns:
            kind = np.float32 if values.dtype in (np.float16, np.float32) else np.float64
            columns[name] = np.full((num_seeds, num_settings, most), np.nan, kind)
        columns[name][seed, setting, : len(values)] = values

    for runs, results in played:
        for column, setting, seed in runs:
            done = results.rows[DONE][:, column]
            for name, rows in results.rows.items():
                if name not in LEFT_OUT and rows.ndim == 2:
                    put(_variable(name, points), setting, seed, rows[done, column])
            put("wall_time", setting, seed, results.seconds[done])

    def variable(name: str, values: np.ndarray, extra: tuple[str, ...]) -> Any:
        described, units = NAMES.get(name, (name.replace("_", " "), ""))
        attributes = {"long_name": described, **({"units": units} if units else {})}
        return ("seed", *dims, *extra), values.reshape(num_seeds, *shape, *values.shape[2:]), attributes

    variables = {name: variable(name, values, ("update",)) for name, values in columns.items()}
    variables["num_updates"] = variable("num_updates", num_updates, ())
    variables["diverged"] = variable("diverged", diverged, ())
    variables["finished"] = variable("finished", complete, ())
    coordinates: dict[str, Any] = {
        "seed": ("seed", np.asarray(seeds, np.int64)),
        "update": ("update", np.arange(1, most + 1), {"long_name": "number of the update"}),
    }
    if points.axes is not None:
        coordinates |= {name: (name, labels(values)) for name, values in points.axes.items()}
    else:
        coordinates["sample"] = ("sample", np.arange(num_settings))
        for name in points.names:
            coordinates[name] = ("sample", labels([setting[name] for setting in points.settings], distinct=False))
    attributes = {
        "algorithm": algorithm.name,
        "environment": algorithm.env.name if algorithm.env is not None else "",
        **{name: value if isinstance(value, (int, float, str)) else json.dumps(value) for name, value in about.items()},
        "versions": json.dumps(versions()),
    }
    return xarray.Dataset(variables, coordinates, attributes)


def _variable(metric: str, points: Points) -> str:
    """What the dataset calls a metric."""
    if metric == "total_env_steps":
        return "env_steps"
    return f"{metric}_measured" if metric in points.names else metric


def labels(values: Sequence[Any], distinct: bool = True) -> np.ndarray:
    """The values as a coordinate: numbers as they are, what is neither number nor text by its name."""
    names = [label(value) for value in values]
    kinds = {type(name) for name in names}
    if kinds <= {int, float} or kinds == {bool}:
        return np.array(names)
    texts = [str(name) for name in names]
    if distinct and len(set(texts)) < len(texts):
        texts = [f"{text} ({i})" for i, text in enumerate(texts)]
    return np.array(texts)


def label(value: Any) -> Any:
    """A number, a truth value or a text as it is; a name for anything else."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if value is None:
        return "None"
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # An optax optimiser, for example.
        return type(value).__name__
    if isinstance(value, (tuple, list)):
        return f"({', '.join(str(label(entry)) for entry in value)})"
    return str(getattr(value, "name", None) or getattr(value, "__name__", None) or type(value).__name__)
