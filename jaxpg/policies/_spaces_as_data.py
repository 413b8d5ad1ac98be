"""Spaces as plain data, for files: what JSON can hold, with infinite bounds as the strings "Infinity", "-Infinity"."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete, Space

__all__ = ["difference", "space_as_data"]


def space_as_data(space: Space) -> dict[str, Any]:
    """A space as a dict with an entry "space" that names its kind."""
    if isinstance(space, Discrete):
        return {"space": "Discrete", "n": space.n, "dtype": np.dtype(space.dtype).name}
    if isinstance(space, MultiDiscrete):
        return {"space": "MultiDiscrete", "nvec": list(space.nvec), "dtype": np.dtype(space.dtype).name}
    if isinstance(space, Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"space": "Box", **bounds, "shape": list(space.shape), "dtype": np.dtype(space.dtype).name}
    if isinstance(space, Mapping):
        return {"space": "dict", "entries": {str(name): space_as_data(entry) for name, entry in space.items()}}
    return {"space": "tuple", "entries": [space_as_data(entry) for entry in space]}


def _bound(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_bound(entry) for entry in value]
    return float(value) if np.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def difference(name: str, saved: Any, given: Any) -> str | None:
    """Where two pieces of plain data first differ, in words; None where they are equal."""
    if isinstance(saved, Mapping) and isinstance(given, Mapping):
        for key in [*saved, *(key for key in given if key not in saved)]:
            place = f"{name}[{key!r}]"
            if key not in given or key not in saved:
                return f"{place} is {'missing' if key in saved else 'new'}"
            if found := difference(place, saved[key], given[key]):
                return found
        return None
    return None if saved == given else f"{name} is {given!r}, and {saved!r} in the file"
