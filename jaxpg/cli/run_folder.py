"""The folder of a run: what the command line writes there, beside what `jaxpg.train` does."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["CONFIG", "RunFolder", "as_json", "holds_run", "is_sweep", "why_not"]

CONFIG = "config.yaml"
# What a run leaves: its own files and those of `train(directory=…)`.
_FILES = (CONFIG, "metrics.csv", "result.json", "learning_curve.png", "policy.gif", "best.gif", "log.csv", "log.jsonl")
_FILES_OF_TRAIN = ("run.json", "metrics.jsonl", "evaluations.jsonl")
_FOLDERS = ("checkpoints", "best", "policy", "tensorboard")


def holds_run(path: pathlib.Path) -> bool:
    """Whether a run has been in the folder."""
    return any((path / name).exists() for name in (CONFIG, "config.json", *_FILES_OF_TRAIN, "checkpoints"))


def is_sweep(path: pathlib.Path) -> bool:
    """Whether it is the directory of a `jaxpg.sweep`."""
    return (path / "sweep.json").is_file()


def why_not(path: pathlib.Path, *files: str) -> str:
    """Why `path`, which has none of `files`, is not the folder of a run, and what could be meant instead."""
    if not path.is_dir():
        return f"{path} is not a folder"
    if is_sweep(path):
        return f"{path} is that of a sweep: the same call of jaxpg.sweep goes on with it, `jaxpg plot {path}` draws it"
    if CONFIG in files and (path / "run.json").is_file():
        return (
            f"{path} has no {CONFIG}, it is that of jaxpg.train in Python: the same call goes on with it, "
            f"`jaxpg plot {path}` draws it"
        )
    lacks = f"{path} has {'neither' if len(files) > 1 else 'no ' + ''.join(files)}"
    if CONFIG not in files and holds_run(path):
        return f"{lacks}: its run has not come to its first update"
    runs = sorted(each for each in path.iterdir() if any(os.path.isfile(each / file) for file in files))
    return f"{lacks}, but there is {_some(runs)}" if runs else lacks


def _some(paths: Sequence[pathlib.Path]) -> str:
    return f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else str(paths[0])


class RunFolder:
    """Writes a run's files into `path`, and remembers which in `written`."""

    def __init__(self, path: pathlib.Path):
        """Makes the folder. ValueError where nothing can be written."""
        path = path.expanduser()
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise ValueError(f"--out: nothing can be written to {path}: {error.strerror or error}") from error
        self.path = path
        self.written: list[pathlib.Path] = []

    def make_room(self, overwrite: bool) -> None:
        """Removes the run that the folder holds, or refuses to; other files stay."""
        if not holds_run(self.path):
            return
        if not overwrite:
            raise ValueError(
                f"--out: {self.path} holds a run already; `jaxpg resume {self.path}` goes on with it. Name another "
                f"folder, or add --overwrite to remove it and begin anew"
            )
        from jaxpg.training._files import locked

        with locked(self.path):  # Not while somebody writes there.
            for name in _FOLDERS:
                if (self.path / name).is_dir():
                    shutil.rmtree(self.path / name)
            for name in (*_FILES, *_FILES_OF_TRAIN, "config.json"):
                (self.path / name).unlink(missing_ok=True)

    def write_config(self, content: Mapping[str, Any]) -> None:
        """config.yaml: what `--config` and `jaxpg resume` read."""
        import yaml

        from jaxpg.training._files import replace_file

        text = yaml.safe_dump(as_json(content), sort_keys=False, allow_unicode=True)
        note = f"# `jaxpg resume {self.path.name}` goes on with this run; `jaxpg train --config` takes this file.\n"
        with self._writing(CONFIG) as path:
            replace_file(path, (note + text).encode())

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        from jaxpg.training._files import replace_file

        text = json.dumps(as_json(content), indent=2, ensure_ascii=False) + "\n"
        with self._writing(name) as path:
            replace_file(path, text.encode())

    def write_metrics(self, name: str, history: Mapping[str, np.ndarray]) -> None:
        """One line for each update; the steps so far and the return come first. What is missing is left empty."""
        from jaxpg.training._files import replace_file

        first = [column for column in ("total_env_steps", "episode_return") if column in history]
        columns = [*first, *(column for column in history if column not in first)]
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["update", *columns])
        for update, row in enumerate(zip(*(history[column].tolist() for column in columns)), start=1):
            writer.writerow([update, *("" if value != value else value for value in row)])
        with self._writing(name) as path:
            replace_file(path, text.getvalue().encode())

    def write_learning_curve(
        self, name: str, steps: Any, returns: Any, title: str, target: float | None = None
    ) -> None:
        """`jaxpg.plot.learning_curves` of the seeds, as a figure of a paper column's width."""
        from jaxpg import plot

        with plot.paper_style():
            figure, axes = plot.paper_figure()
            plot.learning_curves(steps, returns, ax=axes, target=target)
            axes.set_title(title)
            if len(steps) > 1 or target is not None:
                axes.legend(loc="lower right")
            with self._writing(name) as path:
                figure.savefig(path)

    def write_film(self, name: str, env: Any, policy: Any, params: Any, key: Any, deterministic: bool = False) -> None:
        """One episode of the policy, which acts by samples or by the mode of its distribution."""
        from jaxpg.render import render_episode

        with self._writing(name) as path:
            render_episode(env, policy, params, key, path, deterministic=deterministic)

    def write_policy(self, name: str, policy: Any, params: Any, env: Any, metadata: Mapping[str, Any]) -> None:
        """The policy for use elsewhere, `jaxpg.load_policy`."""
        from jaxpg import save_policy

        with self._writing(name) as path:
            save_policy(path, policy, params, env=env, metadata=as_json(metadata), overwrite=True)

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[pathlib.Path]:
        """The path, which is among `written` once it is."""
        path = self.path / name
        yield path
        if path not in self.written:
            self.written.append(path)


def as_json(value: Any) -> Any:
    """`value` in JSON's types: records as dicts, paths and names as strings, arrays as lists, NaN as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_json({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "__array__"):
        return as_json(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
