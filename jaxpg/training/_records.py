"""JSON-lines files that grow with a run and can be cut back to where a checkpoint stands."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpg.training._files import replace_file

__all__ = ["Records", "as_plain", "column", "free_name", "json_line", "to_float"]


def as_plain(value: Any) -> Any:
    """`value` in JSON's types: arrays as lists, NaN as null, infinities as strings, other things by their names."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(entry) for entry in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if value != value:
            return None
        return value if abs(value) != float("inf") else ("Infinity" if value > 0 else "-Infinity")
    if hasattr(value, "tolist"):
        return as_plain(value.tolist())
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))  # Addresses differ from process to process.


def to_float(value: Any) -> Any:
    """The numbers that `as_plain` wrote as null or as strings, as floats; lists entry by entry."""
    if isinstance(value, list):
        return [to_float(entry) for entry in value]
    return float("nan") if value is None else float(value) if isinstance(value, str) else value


def column(rows: Sequence[Mapping[str, Any]], name: str, like: np.ndarray) -> np.ndarray:
    """What the rows have under a name, as an array [row, …]; NaN where one lacks it, and then of float64."""
    values = [to_float(row[name]) if name in row else np.full(like.shape, np.nan) for row in rows]
    return np.asarray(values, like.dtype if all(name in row for row in rows) else np.float64)


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row of a JSON-lines file. Python writes the shortest digits that give a float back exactly."""
    return (json.dumps(as_plain(row), allow_nan=False) + "\n").encode()


def free_name(path: pathlib.Path) -> pathlib.Path:
    """`path`, or `path` with a number behind it if there is such a file."""
    names = (path.with_name(f"{path.name}{'' if i == 0 else f'-{i}'}") for i in range(10**6))
    return next(name for name in names if not name.exists())


class Records:
    """Rows with an "update" that are appended to a file.

    What could not be written is kept and written with the next `flush`; a line that a failed write left in part is
    cut off before.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._pending: list[bytes] = []
        self._size = 0  # Of what is written, in bytes, and its digest.
        self._digest = hashlib.sha256()

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes rows; `flush` writes them."""
        self._pending += [json_line(row) for row in rows]

    def flush(self, sync: bool = False) -> None:
        """Writes what was added; with `sync` down to the disk. OSError if that fails: nothing is lost then."""
        content = b"".join(self._pending)
        if not content and not (sync and self._size):
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        with open(descriptor, "r+b") as file:
            if file.seek(0, os.SEEK_END) > self._size:
                file.truncate(self._size)
                file.seek(0, os.SEEK_END)
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        self._size += len(content)
        self._digest.update(content)
        self._pending = []

    def mark(self) -> dict[str, Any]:
        """Where the file stands, for `resume`."""
        return {"bytes": self._size, "sha256": self._digest.hexdigest()}

    @classmethod
    def resume(
        cls, path: pathlib.Path, mark: Mapping[str, Any], num_updates: int, like: Mapping[str, np.ndarray]
    ) -> tuple["Records", list[dict], bool]:
        """(the file as it was at `mark`, at update `num_updates`, its rows, whether it had been changed since).

        What was written later, and a torn last line, is cut off: the run writes it again. If the file has been changed,
        the rows up to that update that can be read, with the names and the kinds of numbers in `like`, are kept, and
        the changed file beside them.
        """
        data = path.read_bytes() if path.exists() else b""
        head = data[: mark["bytes"]]
        changed = hashlib.sha256(head).hexdigest() != mark["sha256"]
        if not changed:
            rows = [json.loads(line) for line in head.splitlines()]
            if len(data) > len(head):
                os.truncate(path, len(head))
        else:
            rows = _readable(data, num_updates, like)
            head = b"".join(json_line(row) for row in rows)
            aside = None
            if data not in (b"", head):
                aside = free_name(path.with_name(f"{path.name}.damaged"))
                os.replace(path, aside)
                replace_file(path, head)
            warnings.warn(
                f"{path} {'is not as it was written' if data else 'is missing'}: {len(rows)} rows of the updates up to "
                f"{num_updates} are left{f'; the file as it was found is {aside}' if aside else ''}",
                RuntimeWarning,
                stacklevel=2,
            )
        records = cls(path)
        records._size = len(head)
        records._digest = hashlib.sha256(head)
        return records, rows, changed


def _readable(data: bytes, num_updates: int, like: Mapping[str, np.ndarray]) -> list[dict]:
    """The rows that can be read of the updates up to `num_updates`, in their order, one for each."""
    rows: dict[int, dict] = {}
    for line in data.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            row = json.loads(line)
            known = row.keys() - {"update"} == like.keys() - {"update"}
            if not (known and type(row["update"]) is int and 1 <= row["update"] <= num_updates):
                continue
            if all(_fits(row[name], entry) for name, entry in like.items()):
                rows.setdefault(row["update"], row)
    return [rows[update] for update in sorted(rows)]


def _fits(value: Any, like: np.ndarray) -> bool:
    """Whether it can be what was written of an array of that shape and dtype."""
    number = np.asarray(to_float(value))
    kinds = {"b": "b", "i": "iu", "u": "iu"}.get(like.dtype.kind, "fiu")
    return (
        number.shape == like.shape
        and number.dtype.kind in kinds
        and (kinds != "iu" or np.array_equal(number, number.astype(like.dtype)))
    )
