"""The directory of a sweep: what is finished, and where the batch that is being played stands.

    sweep.json            what is swept, and with which key and versions it was started
    finished/00000003     a batch of finished runs: metrics, last parameters, and which runs they are
    playing/00000120      where the runs stand that were played last (the newest two are kept)
    runs.nc               the dataset, when all runs are finished

A run is known by its setting and seed, not by its place: a sweep goes on with other batches, more seeds or more values.
"""

import contextlib
import datetime
import json
import pathlib
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxpg.sweeps._batch import Position, Results
from jaxpg.sweeps._job import Job, Pending, Run
from jaxpg.training import checkpoints
from jaxpg.training._describe import differences, from_host, state_shapes, versions
from jaxpg.training._files import check_writable, locked, remove_folder, replace_file
from jaxpg.training._hosts import any_of, gather, is_writer, on_writer
from jaxpg.training._records import free_name

__all__ = ["SweepStore"]

SECONDS = 60.0  # Between two looks at where the runs stand; more where saving takes long.
MOST_OF_TIME = 0.05  # That saving may take.
KEPT = 2
PART = ".runs.nc.part"
EMPTY = "empty"  # Arrays without entries are told by their shapes.


class SweepStore:
    """The files of one sweep, held by a lock while it is open."""

    def __init__(self, path: pathlib.Path, every: float | None):
        self.path = path
        self._finished, self._playing = path / "finished", path / "playing"
        self._every = every
        self._tried, self._save_seconds = time.monotonic(), 0.0
        self._unsaved: list[tuple[dict[str, Any], dict[str, Any]]] = []  # Whose writes have failed.

    @classmethod
    @contextlib.contextmanager
    def open(cls, directory: Any, job: Job, every: float | None) -> Iterator["SweepStore"]:
        """The store; the job has to be that of the sweep whose directory it is."""
        path = checkpoints.as_path("directory", directory)
        job.check_names()
        with contextlib.ExitStack() as stack:
            store = cls(path, every)
            on_writer(lambda: store._begin(stack, job.start()))
            yield store

    def _begin(self, stack: contextlib.ExitStack, start: dict[str, Any]) -> None:
        check_writable(self.path)
        stack.enter_context(locked(self.path))
        path = self.path / "sweep.json"
        if (self.path / "checkpoints").exists() or (self.path / "run.json").exists():
            raise ValueError(f"directory: {self.path} holds a run of train; name another directory")
        if not path.exists():
            self._write_start(path, start)
            return
        try:
            saved = json.loads(path.read_bytes())
            keys, were = start.pop("keys"), saved.pop("keys")
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                f"directory: {path} is damaged ({error}); move it away to go on with what is finished there"
            ) from None
        lines = differences({k: v for k, v in saved.items() if k in start}, start)
        if keys is not None and were is not None:  # Each seed's own: others may come, none may change.
            both = keys.keys() & were.keys()
            lines += differences({k: were[k] for k in both}, {k: keys[k] for k in both}, "keys")
        if lines:
            listed = "".join(f"\n  {line}" for line in lines)
            raise ValueError(
                f"directory: the sweep in {self.path} is another:{listed}\nGo on with the same, or name another "
                f"directory"
            )
        checkpoints.warn_of_versions(saved, path)
        if keys is not None and were is not None and not keys.keys() <= were.keys():
            self._write_start(path, {**start, "keys": {**were, **keys}}, saved["started"])
        for folder in (self._finished, self._playing):
            for left in folder.glob(".*") if folder.is_dir() else ():  # By saves and removals that were cut off.
                shutil.rmtree(left, ignore_errors=True)
        (self.path / PART).unlink(missing_ok=True)

    def _write_start(self, path: pathlib.Path, start: dict[str, Any], started: str | None = None) -> None:
        now = started or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        replace_file(path, json.dumps({**start, "versions": versions(), "started": now}, indent=1).encode())

    # --- Finished runs ------------------------------------------------------------------------------------------------

    def finished(self, job: Job) -> list[tuple[list[tuple[int, int, int]], Results]]:
        """What there is: for each batch its runs, (column, setting, seed's place), and its results."""
        wanted, found = job.runs(), []
        for path in _folders(self._finished):
            arrays, info = self._read(path)
            runs = [(i, *wanted.pop(run)) for i, run in enumerate(_runs(info)) if run in wanted]
            if not runs:
                continue
            for _, setting, _ in runs:
                self._check_same(info, path, job, setting)
            like = jax.tree.leaves(job.params_like(runs[0][1]))
            structure = jax.tree.structure(job.params_like(runs[0][1]))
            results = Results(
                rows={k.removeprefix("rows."): v for k, v in arrays.items() if k.startswith("rows.")},
                seconds=arrays["seconds"],
                diverged=arrays["diverged"],
                finished=arrays["finished"],
                params=structure.unflatten([arrays[f"params.{i:06d}"] for i in range(len(like))]),
            )
            found.append((runs, results))
        return found

    def save_finished(self, job: Job, runs: list[tuple[int, int, int]], results: Results) -> None:
        """Writes a batch of finished runs, and forgets where they stood; what fails is tried again with the next."""
        if not is_writer():
            return
        arrays = {f"rows.{name}": rows for name, rows in results.rows.items()}
        arrays |= {"seconds": results.seconds, "diverged": results.diverged, "finished": results.finished}
        arrays |= {f"params.{i:06d}": leaf for i, leaf in enumerate(jax.tree.leaves(results.params))}
        self._unsaved.append((arrays, _info(job, runs)))
        self.save_unsaved()

    def save_unsaved(self) -> None:
        """Writes the finished runs that are not written yet."""
        while self._unsaved:
            with self._reported("finished runs", self._finished):
                _write(self._finished, *self._unsaved[0])
                self._unsaved.pop(0)
                continue
            return
        for name in checkpoints.checkpoint_names(self._playing):
            remove_folder(self._playing / name)

    # --- Where the runs stand -----------------------------------------------------------------------------------------

    def due(self) -> bool:
        """Whether it is time to write down where the runs stand."""
        every = max(SECONDS, self._save_seconds / MOST_OF_TIME) if self._every is None else self._every
        return any_of(time.monotonic() - self._tried >= every)

    def save_playing(self, job: Job, pending: Pending, position: Position) -> None:
        """Writes where the runs of a batch stand; all processes have to call it."""
        start, states = time.monotonic(), position.states
        leaves = {f"state.{i:06d}": leaf for i, leaf in enumerate(jax.tree.leaves(gather(states)))}
        if is_writer():
            arrays = position.arrays()
            rows = {f"rows.{name}": rows for name, rows in arrays.pop("rows").items()}
            info = {**_info(job, pending.runs), "size": pending.compiled.num_runs, "state": state_shapes(states)}
            with self._reported("where the runs stand", self._playing):
                _write(self._playing, {**leaves, **rows, **arrays}, info)
                for name in checkpoints.checkpoint_names(self._playing)[:-KEPT]:
                    remove_folder(self._playing / name)
        self._tried = time.monotonic()
        self._save_seconds = self._tried - start

    def playing(self, job: Job, left: Mapping[Run, tuple[int, int]]) -> list[Pending]:
        """The batches, smaller ones if they are to be, of what was being played; none if not all of it is left."""
        for path in reversed(_folders(self._playing)):
            arrays, info = self._read(path)
            runs = _runs(info)
            if not runs or not all(run in left for run in runs):
                continue
            for setting, _ in (left[run] for run in runs):
                self._check_same(info, path, job, setting)
            saved = job.saved([left[run] for run in runs], info["size"])
            if saved is None or info["state"] != state_shapes(saved.states):
                continue
            leaves, structure = jax.tree.flatten(saved.states)
            states = structure.unflatten([from_host(arrays.pop(f"state.{i:06d}"), x) for i, x in enumerate(leaves)])
            rows = {k.removeprefix("rows."): arrays.pop(k) for k in list(arrays) if k.startswith("rows.")}
            return list(job.resumed(saved, Position.of(states, {**arrays, "rows": rows})))
        return []

    def _check_same(self, info: Mapping[str, Any], path: pathlib.Path, job: Job, setting: int) -> None:
        lines = differences(info["about"][job.names[setting]], job.about[setting])
        if lines:
            listed = "".join(f"\n  {line}" for line in lines)
            raise ValueError(
                f"directory: the runs in {path} are those of another algorithm:{listed}\nGo on with the same, or name "
                f"another directory"
            )

    # --- Files --------------------------------------------------------------------------------------------------------

    def _read(self, path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """(arrays, info) of a folder; nothing of a damaged one."""
        return on_writer(lambda: self._read_here(path))

    def _read_here(self, path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        problem = checkpoints.check_manifest(path)
        if problem is not None:
            aside = free_name(path.with_name(f"{path.name}.damaged"))
            with contextlib.suppress(OSError):
                path.rename(aside)
            warnings.warn(
                f"{path} is damaged: {problem}; it is now {aside.name}, and its runs are played again",
                RuntimeWarning,
                stacklevel=2,
            )
            return {}, {}
        info = checkpoints.read_info(path)
        arrays = {k: np.asarray(v) for k, v in checkpoints.read_arrays(path).items()}
        for name, (dtype, shape) in info[EMPTY].items():
            arrays[name] = np.zeros(shape, dtype)
        return arrays, info

    def save_dataset(self, runs: Any) -> None:
        """Writes runs.nc."""
        if is_writer():
            with self._reported("the dataset", self.path / "runs.nc"):
                part = self.path / PART
                runs.to_netcdf(part, engine="h5netcdf")
                part.replace(self.path / "runs.nc")

    @contextlib.contextmanager
    def _reported(self, what: str, path: pathlib.Path) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # The results in memory must not be lost for it.
            warnings.warn(
                f"{what} could not be written to {path}: {type(error).__name__}: {error}. The sweep goes on",
                RuntimeWarning,
                stacklevel=4,
            )


def _info(job: Job, runs: list[tuple[int, int, int]]) -> dict[str, Any]:
    """Which runs, and what their algorithms are."""
    settings = {job.names[setting]: job.about[setting] for _, setting, _ in runs}
    return {"runs": [job.run_of(setting, seed) for _, setting, seed in runs], "about": settings}


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """What has been written to the folder, the oldest first."""
    return on_writer(lambda: [folder / name for name in checkpoints.checkpoint_names(folder)])


def _runs(info: Mapping[str, Any]) -> list[Run]:
    return [(name, seed) for name, seed in info.get("runs", ())]


def _write(folder: pathlib.Path, arrays: Mapping[str, Any], info: dict[str, Any]) -> None:
    """Writes them under the folder's next number."""
    number = 1 + max((checkpoints.update_of(name) for name in checkpoints.checkpoint_names(folder)), default=-1)
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    empty = {name: (str(value.dtype), list(value.shape)) for name, value in arrays.items() if not value.size}
    checkpoints.write_arrays(folder, number, arrays, {**info, EMPTY: empty})
