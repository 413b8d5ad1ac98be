"""How records that hold arrays are shown: a line a field, arrays by type, shape and a few numbers.

    class Evaluation(NamedTuple):
        ...
        __repr__ = compact

Nothing is computed on a device, and what is traced, lies on other hosts or is deleted is shown by type and shape alone.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxpg import _check

__all__ = ["compact"]

MOST_NUMBERS = 2**20  # Larger arrays are not looked into.
FEW = 6  # Numbers that are shown each by itself.
WIDTH = 100
# Fields with a number for each episode: their mean and its standard error say more than their range.
SAMPLES = ("returns", "lengths", "length", "discounted_return", "discounted_returns")


def compact(self: Any) -> str:
    """`Name(field=…, …)` of a named tuple or dataclass, on one line where that is short."""
    names = getattr(self, "_fields", None) or tuple(self.__dataclass_fields__)
    parts = [f"{name}={_value(getattr(self, name), name in SAMPLES)}" for name in names]
    line = f"{type(self).__name__}({', '.join(parts)})"
    if len(line) <= WIDTH and "\n" not in line:
        return line
    lines = "".join(f"  {part},\n".replace("\n", "\n  ").rstrip(" ") for part in parts)
    return f"{type(self).__name__}(\n{lines})"


def _value(value: Any, sample: bool = False) -> str:
    try:
        return _shown(value, sample)
    except Exception:  # Of whatever users put into a record: to show it must not fail.
        return f"<{type(value).__name__}>"


def _shown(value: Any, sample: bool) -> str:
    if isinstance(value, type):
        return repr(value)
    if type(value).__repr__ is compact or isinstance(value, (str, bytes)) or value is None:
        return repr(value)
    if isinstance(value, (bool, int, float)):
        return repr(value) if isinstance(value, (bool, int)) else f"{value:.6g}"
    if hasattr(value, "dims") and hasattr(value, "values"):  # A DataArray.
        sizes = ", ".join(f"{name}: {size}" for name, size in zip(value.dims, value.shape))
        text = _array(value.values, sample)
        return f"DataArray({sizes}) {text}" if sizes else text
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _array(value, sample)
    if isinstance(value, Mapping) and (columns := _columns(value)):
        return columns
    leaves = jax.tree.leaves(value)
    if leaves and all(hasattr(leaf, "dtype") and hasattr(leaf, "shape") for leaf in leaves):
        kind = "" if isinstance(value, (Mapping, list)) or type(value) is tuple else f"{type(value).__name__} of "
        number = sum(int(np.prod(leaf.shape)) for leaf in leaves)
        return f"<{kind}{number:,} numbers in {len(leaves)} array{'s' if len(leaves) > 1 else ''}>"
    text = " ".join(repr(value).split())
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 1]}…"


def _columns(table: Mapping[Any, Any]) -> str:
    """Arrays of one length by name: <3 columns of 12: a, b, c>; an empty string for anything else."""
    shapes = {np.shape(column) if isinstance(column, np.ndarray) else None for column in table.values()}
    shape = shapes.pop() if len(shapes) == 1 else None
    if shape is None or len(shape) != 1:
        return ""
    names = ", ".join(map(str, table))
    return f"<{len(table)} columns of {shape[0]}: {names if len(names) <= WIDTH else names[: WIDTH - 1] + '…'}>"


def _array(array: Any, sample: bool) -> str:
    """float32[128]: mean 21.5 ± 0.9, 9 to 58; a known scalar as its number."""
    kind = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    if not _check.is_concrete(array):
        return f"{kind} traced"
    if isinstance(array, jax.Array):
        if array.is_deleted():
            return f"{kind} deleted"
        if not (array.is_fully_addressable or array.is_fully_replicated):
            return kind
    elif not isinstance(array, (np.ndarray, np.generic)):  # A shape without values.
        return kind
    numeric = array.dtype == bool or jax.numpy.issubdtype(array.dtype, np.integer)
    if not (numeric or jax.numpy.issubdtype(array.dtype, np.floating)) or not 0 < array.size <= MOST_NUMBERS:
        return kind
    values = np.asarray(array)
    if values.ndim == 0:
        return str(values.item()) if numeric else f"{float(values):.6g}"
    if values.dtype == bool:
        return f"{kind}: {int(values.sum()):,} true"
    values = values.astype(np.float64)
    known = values[~np.isnan(values)]
    text = [f"{values.size - known.size:,} NaN"] if known.size < values.size else []
    if values.ndim == 1 and values.size <= FEW and not sample:
        return f"{kind}: {' '.join(f'{x:.5g}' for x in values)}"
    if known.size:
        low, high = f"{known.min():.5g}", f"{known.max():.5g}"
        text.insert(0, f"{low} to {high}" if low != high else f"all {low}")
    if sample and values.ndim == 1 and np.isfinite(values).all():
        error = f" ± {values.std(ddof=1) / np.sqrt(values.size):.2g}" if values.size > 1 else ""
        text.insert(0, f"mean {values.mean():.5g}{error}")
    return f"{kind}: {', '.join(text)}"
