"""Loggers for `train(…, loggers=[…])`: JSON lines, CSV, TensorBoard, Weights & Biases, or anything of your own.

A logger is an object with `log(metrics, step)`: a dict name -> float for each update, and the environment steps so far.
What is missing (the return of an update in which no episode ended) is left out of the dict. Results of evaluations
come under `evaluation/…` with the update that was evaluated. It may have `close()`, called when the run ends, and
`resume(step)`, called when a run goes on from a checkpoint: what was logged behind that step comes again.
"""

import contextlib
import csv as csv_module
import json
import math
import os
import pathlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from jaxpg.training._files import replace_file
from jaxpg.training._records import json_line

__all__ = ["Logger", "csv", "jsonl", "tensorboard", "wandb"]


class Logger(Protocol):
    """What `train` calls; `close()` and `resume(step)` may be there, too."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Takes the metrics of one update."""


def jsonl(path: str | os.PathLike[str]) -> Logger:
    """Appends a line {"step": …, metric: …} for each update; a file that is there is added to."""
    return _JsonLines(_file("path", path))


def csv(path: str | os.PathLike[str]) -> Logger:
    """Appends a line for each update, under a header with `step` and the names of the metrics; missing is empty.

    Where a new metric appears, the file is written anew, at once, with one more column. A file that is there is added
    to.
    """
    return _Csv(_file("path", path))


def tensorboard(directory: str | os.PathLike[str]) -> Logger:
    """Scalars for TensorBoard, through tensorboardX.

    Raises:
      ImportError: without tensorboardX; it names what to install.
    """
    return _TensorBoard(_file("directory", directory))


def wandb(run: Any) -> Logger:
    """Weights & Biases: `run` is what `wandb.init(…)` returned, or any object with `log(dict, step=…)`."""
    if not callable(getattr(run, "log", None)):
        raise TypeError(
            f"run must be a Weights & Biases run, from wandb.init(…); got {type(run).__name__} ({run!r:.80})"
        )
    return _Wandb(run)


def _file(argument: str, path: Any) -> pathlib.Path:
    if not isinstance(path, (str, os.PathLike)) or not str(path):
        raise TypeError(f"{argument} must be a path; got {type(path).__name__} ({path!r:.80})")
    return pathlib.Path(path).expanduser()


class _JsonLines:
    def __init__(self, path: pathlib.Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):  # An unwritable path fails here, not in the run.
            pass

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        with self._path.open("r+b") as file:
            torn = _is_torn(file)
            file.seek(0, os.SEEK_END)
            file.write(b"\n" * torn + json_line({"step": step, **metrics}))

    def resume(self, step: int) -> None:
        def kept(line: bytes) -> bool:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                return json.loads(line)["step"] <= step
            return line.endswith(b"\n") and bool(line.strip())  # Somebody else's line stays; a torn one goes.

        lines = self._path.read_bytes().splitlines(keepends=True)
        replace_file(self._path, b"".join(line for line in lines if kept(line)))


def _is_torn(file: Any) -> bool:
    """Whether the file's last line has no end."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


class _Csv:
    def __init__(self, path: pathlib.Path):
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", newline="", encoding="utf-8"):
            pass
        self._columns = self._rows()[0]
        if self._columns and self._columns[0] != "step":
            raise ValueError(
                f"path: {path} is there and was not written by this logger: its header begins with "
                f"{self._columns[0]!r}, not 'step'. Name another file"
            )

    def _rows(self) -> tuple[list[str], list[list[str]]]:
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = list(csv_module.reader(file))
        return (rows[0], rows[1:]) if rows else ([], [])

    def _write(self, columns: list[str], rows: Iterable[list[str]]) -> None:
        import io

        text = io.StringIO(newline="")
        writer = csv_module.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([*row, *[""] * (len(columns) - len(row))] for row in rows)
        replace_file(self._path, text.getvalue().encode())
        self._columns = columns

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        new = [name for name in metrics if name not in self._columns]
        if new or not self._columns:
            self._write([*(self._columns or ["step"]), *new], self._rows()[1])
        values = {"step": step, **metrics}
        with self._path.open("r+b") as file:
            torn = _is_torn(file)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            file.write("\n" * torn)
            csv_module.writer(file, lineterminator="\n").writerow([values.get(name, "") for name in self._columns])

    def resume(self, step: int) -> None:
        with self._path.open("rb") as file:
            torn = _is_torn(file)
        rows = self._rows()[1]
        if self._columns:
            self._write(self._columns, [row for row in rows[: len(rows) - torn] if row and _at_most(row[0], step)])


def _at_most(cell: str, step: int) -> bool:
    with contextlib.suppress(ValueError):
        return int(cell) <= step
    return True


class _TensorBoard:
    def __init__(self, directory: pathlib.Path):
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise ImportError("loggers.tensorboard needs tensorboardX: pip install tensorboardX") from error
        self._directory = str(directory)
        self._writer: Any = None
        self._purge: int | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._writer is None:
            import tensorboardX

            self._writer = tensorboardX.SummaryWriter(self._directory, purge_step=self._purge)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def resume(self, step: int) -> None:
        self._purge = step + 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class _Wandb:
    def __init__(self, run: Any):
        self._run = run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)


class LoggerGroup:
    """Several loggers, none of which can end a run: the first error of each is a warning, later ones are nothing."""

    def __init__(self, loggers: Any):
        if isinstance(loggers, (str, bytes, Mapping)) or not isinstance(loggers, Iterable):
            raise TypeError(f"loggers must be a list of loggers; got {type(loggers).__name__} ({loggers!r:.80})")
        self._loggers = list(loggers)
        self._warned: set[int] = set()
        for logger in self._loggers:
            if not callable(getattr(logger, "log", None)):
                raise TypeError(
                    f"loggers must be objects with log(metrics, step), such as jaxpg.loggers.csv('metrics.csv'); got "
                    f"{type(logger).__name__} ({logger!r:.80})"
                )

    def __bool__(self) -> bool:
        return bool(self._loggers)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Gives the scalars that are there to all loggers."""
        present = {name: float(value) for name, value in metrics.items() if not math.isnan(value)}
        self._call("log", lambda logger: logger.log(dict(present), step))

    def resume(self, step: int) -> None:
        """Tells those that want to know that the run goes on behind this step."""
        self._call("resume", lambda logger: getattr(logger, "resume", lambda step: None)(step))

    def close(self) -> None:
        """Closes those that can be closed."""
        self._call("close", lambda logger: getattr(logger, "close", lambda: None)())

    def _call(self, what: str, function: Any) -> None:
        for i, logger in enumerate(self._loggers):
            try:
                function(logger)
            except Exception as error:
                if i not in self._warned:
                    self._warned.add(i)
                    warnings.warn(
                        f"the logger {type(logger).__name__} failed in {what}: {type(error).__name__}: {error}; the "
                        f"run goes on, further errors of it are not shown",
                        RuntimeWarning,
                        stacklevel=3,
                    )
