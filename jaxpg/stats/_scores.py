"""Scores by name or by axis, brought to one arrangement: [task, run, point], float64, NaN where missing."""

import sys
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxpg import _check

__all__ = ["Scores", "arrange", "arrange_all", "checked", "is_labelled", "missing_as", "num_points"]


class Scores(NamedTuple):
    """Scores of runs.

    Fields:
      values: [task, run, point], the points being all other dimensions, flattened.
      has_tasks: whether there is a dimension of tasks; without one there is a single task here.
      shape: of the points before they were flattened.
      template: a DataArray with the dimensions and coordinates of the points, or None for arrays.
    """

    values: np.ndarray
    has_tasks: bool
    shape: tuple[int, ...]
    template: Any

    @property
    def pooled(self) -> np.ndarray:
        """[task · run, point], tasks one after the other."""
        num_tasks, num_runs, num_points = self.values.shape
        return self.values.reshape(num_tasks * num_runs, num_points)

    def restore(self, points: np.ndarray, extra: tuple[str, np.ndarray] | None = None) -> Any:
        """[point] as an array or a DataArray of the points' dimensions; `extra`: [point, extra], name and values."""
        result = points.reshape(self.shape + (() if extra is None else extra[1].shape))
        if self.template is None:
            return result[()]  # A number where no dimension is left.
        if extra is None:
            return self.template.copy(data=result)
        name, coordinate = extra
        if name in self.template.dims or name in self.template.coords:
            raise ValueError(f"scores must not have a dimension {name!r}: the result gets one of this name")
        return self.template.expand_dims({name: coordinate}, -1).copy(data=result)


def arrange(argument: str, scores: Any, dim: Any, task_dim: Any, missing: Any) -> Scores:
    """`scores` with one dimension of runs (None: "seed", of an array the first) and perhaps one of tasks."""
    missing = missing_as(missing)
    array, dims = checked(argument, scores)
    dim = ("seed" if is_labelled(scores) else 0) if dim is None else dim
    run = _axis("dim", argument, dim, dims)
    task = None if task_dim is None else _axis("task_dim", argument, task_dim, dims)
    if run == task:
        raise ValueError(f"dim and task_dim must differ; got {dim!r} and {task_dim!r}")
    array = _known(argument, scores, array, dims, (run,) if task is None else (run, task), missing)
    reduced = [run] if task is None else [task, run]
    points = [axis for axis in range(array.ndim) if axis not in reduced]
    values = np.transpose(array, [*reduced, *points])
    shape = values.shape[len(reduced) :]
    template = _without(scores, [dims[axis] for axis in reduced]) if is_labelled(scores) else None
    num_tasks = 1 if task is None else array.shape[task]
    return Scores(values.reshape(num_tasks, array.shape[run], num_points(shape)), task is not None, shape, template)


def arrange_all(argument: str, scores: Any, dim: Any, missing: Any) -> Scores:
    """`scores` with the dimensions `dim` (one, several, or None for all of them) laid together as one of runs."""
    missing = missing_as(missing)
    array, dims = checked(argument, scores)
    several = isinstance(dim, Iterable) and not isinstance(dim, str) and dim not in dims
    chosen = dims if dim is None else list(dim) if several else [dim]
    reduced = list(dict.fromkeys(_axis("dim", argument, each, dims) for each in chosen))
    if not reduced:
        raise ValueError("dim must name at least one dimension; got none")
    array = _known(argument, scores, array, dims, tuple(reduced), missing)
    points = [axis for axis in range(array.ndim) if axis not in reduced]
    shape = tuple(array.shape[axis] for axis in points)
    template = _without(scores, [dims[axis] for axis in reduced]) if is_labelled(scores) else None
    num_runs = num_points(tuple(array.shape[axis] for axis in reduced))
    values = np.transpose(array, [*reduced, *points]).reshape(1, num_runs, num_points(shape))
    return Scores(values, False, shape, template)


def num_points(shape: tuple[int, ...]) -> int:
    """How many points an array of that shape has: reshape cannot infer it where one length is 0."""
    return int(np.prod(shape, dtype=int))


def is_labelled(scores: Any) -> bool:
    """Whether `scores` is a DataArray; xarray is not imported to find out."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(scores, xarray.DataArray)


def missing_as(missing: Any) -> Any:
    """`missing`, one of "raise" and "omit", or a number."""
    if isinstance(missing, str):
        if missing not in ("raise", "omit"):
            raise ValueError(f"missing must be 'raise', 'omit', or the score of a missing run; got {missing!r}")
        return missing
    return float(_check.number("missing", missing))


def checked(argument: str, scores: Any) -> tuple[np.ndarray, list[Hashable]]:
    """The array in double precision, and its dimensions: names, or the axes' numbers."""
    accepted = "an array or an xarray.DataArray of numbers"
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(scores, xarray.Dataset):
        names = ", ".join(map(repr, list(scores.data_vars)[:3])) or "it has none"
        raise TypeError(f"{argument} must be {accepted}; got a Dataset: choose one of its variables ({names})")
    array = np.asarray(scores)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{argument} must be {accepted}; got {type(scores).__name__} of dtype {array.dtype}")
    if not array.ndim:
        raise ValueError(f"{argument} must have a dimension of runs; got a single number, {array}")
    array = array.astype(np.float64)
    if np.isinf(array).any():
        raise ValueError(f"{argument} must be finite, or NaN where missing; got {np.isinf(array).sum()} infinities")
    return array, list(scores.dims) if is_labelled(scores) else list(range(array.ndim))


def _axis(which: str, argument: str, dim: Any, dims: list[Hashable]) -> int:
    if all(isinstance(name, int) for name in dims):
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or not -len(dims) <= dim < len(dims):
            raise ValueError(f"{which} must be an axis of {argument}, which has {len(dims)}; got {dim!r}")
        return int(dim) % len(dims)
    if dim not in dims:
        raise ValueError(f"{which} must be a dimension of {argument}, one of {tuple(dims)}; got {dim!r}")
    return dims.index(dim)


def _known(
    argument: str, scores: Any, array: np.ndarray, dims: list[Hashable], reduced: tuple[int, ...], missing: Any
) -> np.ndarray:
    """`array` as `missing` wants it."""
    if 0 in (array.shape[axis] for axis in reduced):
        raise ValueError(f"{argument} must hold at least one run; got shape {array.shape}")
    unknown = np.isnan(array)
    if missing == "omit" or not unknown.any():
        return array
    if missing != "raise":
        return np.where(unknown, missing, array)
    where = np.argwhere(unknown)[0]
    labels = [scores[d].values[i] if is_labelled(scores) else i for d, i in zip(dims, where)]
    first = ", ".join(f"{d}={label}" for d, label in zip(dims, labels))
    nowhere = int(unknown.all(axis=reduced).sum())
    hint = ""
    if nowhere and len(reduced) < array.ndim:
        hint = f" At {nowhere} points no run has a score: select the others first (a DataArray's dropna(how='all'))."
    raise ValueError(
        f"{argument} must not hold NaN; got {unknown.sum()} of {unknown.size}, the first at ({first}). Where no "
        f"episode ended in an update, take evaluation_return or more updates; where a run diverged, missing=NUMBER "
        f"gives it that score, and missing='omit' leaves it out, which favours those that survived.{hint}"
    )


def _without(scores: Any, dims: list[Hashable]) -> Any:
    """A DataArray without `dims` and without the coordinates that vary along them."""
    varying = [name for name, coordinate in scores.coords.items() if set(dims) & set(coordinate.dims)]
    template = scores.drop_vars(varying).isel({dim: 0 for dim in dims})
    return template.astype(np.float64)
