"""The directory of a run: what is written there, when, and how a run is found again."""

import contextlib
import datetime
import json
import pathlib
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.algorithms.types import Algorithm
from jaxpg.training import checkpoints
from jaxpg.training._describe import (
    about,
    fingerprint,
    from_host,
    generator_of,
    key_from_record,
    key_record,
    state_shapes,
    versions,
)
from jaxpg.training._evaluator import COLUMNS
from jaxpg.training._files import check_manifest, check_writable, locked, remove_folder, replace_file
from jaxpg.training._hosts import any_of, gather, is_writer, local, on_writer
from jaxpg.training._position import Best, Position
from jaxpg.training._records import Records, column, free_name, to_float

__all__ = ["Store"]

SECONDS = 60.0  # Between checkpoints where `checkpoint_every` is not given; more where saving takes long.
MOST_OF_TIME = 0.05  # That saving may take.


class _Packed(NamedTuple):
    """What the other processes have to know of a run that goes on, as plain data."""

    state: list[np.ndarray]
    best: Best | None
    position: Position
    seconds: float
    start: dict[str, Any]
    saved: tuple[int, int] | None
    tried_at: int


class Store:
    """The files of one run, held by a lock while it is open."""

    def __init__(self, path: pathlib.Path, algorithm: Algorithm, every: int | None, keep: int):
        self.path = path
        self._algorithm, self._every, self._keep = algorithm, every, keep
        self._checkpoints, self._best = path / "checkpoints", path / "best"
        self._metrics, self._evaluations = Records(path / "metrics.jsonl"), Records(path / "evaluations.jsonl")
        self._saved: tuple[int, int] | None = None  # Updates and evaluations in the newest checkpoint.
        self._tried_at, self._tried_time, self._save_seconds = 0, time.monotonic(), 0.0
        self._key: Any = None
        self._start: dict[str, Any] = {}
        self._unsaved_best: Best | None = None  # Whose write has failed, or was cut off.

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, directory: Any, algorithm: Algorithm, key: Any, state: Any, every: int | None, keep: int, quick: bool
    ) -> Iterator[tuple["Store", Any, Position | None, float]]:
        """(the store, the run's key, where its newest whole checkpoint stands or None, the seconds until then)."""
        path = checkpoints.as_path("directory", directory)
        with contextlib.ExitStack() as stack:
            store = cls(path, algorithm, every, keep)
            found = on_writer(lambda: store._begin_or_resume(stack, key, state, quick))
            if isinstance(found, _Packed):
                found = store._unpack(found, state)
            if found is None:
                yield store, key, None, 0.0
            else:
                position, seconds = found
                yield store, store._key, position, seconds

    def _begin_or_resume(self, stack: contextlib.ExitStack, key: Any, state: Any, quick: bool) -> Any:
        """(where the newest whole checkpoint stands, the seconds until then), or None where there is none."""
        check_writable(self.path)
        stack.enter_context(locked(self.path))
        self._clean()
        names = checkpoints.checkpoint_names(self._checkpoints)
        if names:
            position, seconds = self._resume(names, key, state)
            self._warn_of_compiling(quick)
            return (position, seconds) if jax.process_count() == 1 else self._pack(position, seconds)
        if (self.path / "sweep.json").exists():
            raise ValueError(f"directory: {self.path} holds a sweep; name another directory")
        if self._metrics.path.exists() and self._metrics.path.stat().st_size:
            raise ValueError(
                f"directory: {self.path} holds {self._metrics.path.name} of a run, but no checkpoint to go on from; "
                f"name another directory, or move the file away"
            )
        self._key = key
        self._start = {
            "key": None if key is None else key_record(key),
            "state": None if state is None else fingerprint(state),
            "generator": generator_of(key if state is None else state),
            "quick_compile": quick,
        }
        return None

    def _pack(self, position: Position, seconds: float) -> "_Packed":
        """What the other processes have to know to go on."""
        best = position.best
        return _Packed(
            state=gather(jax.tree.leaves(position.state)),
            best=None if best is None else best._replace(params=gather(jax.tree.leaves(best.params))),
            position=position._replace(state=None, best=None),
            seconds=seconds,
            start=self._start,
            saved=self._saved,
            tried_at=self._tried_at,
        )

    def _unpack(self, packed: "_Packed", state: Any) -> tuple[Position, float]:
        like = checkpoints.template(self._algorithm, {"start": packed.start}, state)
        self._start, self._saved, self._tried_at = packed.start, packed.saved, packed.tried_at
        self._key = None if packed.start["key"] is None else key_from_record(packed.start["key"])

        def of(arrays: list, like: Any) -> Any:
            leaves, structure = jax.tree.flatten(like)
            return structure.unflatten([from_host(array, leaf) for array, leaf in zip(arrays, leaves)])

        best = None if packed.best is None else packed.best._replace(params=of(packed.best.params, like.params))
        return packed.position._replace(state=of(packed.state, like), best=best), packed.seconds

    def _clean(self) -> None:
        """Removes what saves and removals that were cut off have left; checkpoints have other names."""
        for folder in (self._checkpoints, self._best):
            for path in folder.glob(".*") if folder.is_dir() else ():
                if path.name.startswith((".part-", ".removed-")):
                    shutil.rmtree(path, ignore_errors=True)

    # --- Going on -----------------------------------------------------------------------------------------------------

    def _resume(self, names: list[str], key: Any, state: Any) -> tuple[Position, float]:
        name, damaged = checkpoints.newest_whole(self._checkpoints, names)
        path = self._checkpoints / name
        info = checkpoints.read_info(path)
        self._check_start(info["start"], key, state)
        like = checkpoints.template(self._algorithm, info, state)
        checkpoint = checkpoints.restore(path, info, self._algorithm, like)
        checkpoints.warn_of_versions(info, path)
        for other, problem in damaged.items():
            self._set_aside(self._checkpoints / other, problem, name)

        updates = checkpoint.num_updates
        marks, like = info["records"], _arrays_like(info["metrics"])
        self._metrics, rows, changed = Records.resume(self._metrics.path, marks["metrics"], updates, like)
        self._evaluations, evaluations, also_changed = Records.resume(
            self._evaluations.path, marks["evaluations"], updates, COLUMNS
        )
        best = info["best"]
        self._start = info["start"]
        self._key = None if info["start"]["key"] is None else key_from_record(info["start"]["key"])
        # A checkpoint fits the files that it counts on: where they had been changed, another is due.
        self._saved = None if changed or also_changed else (updates, len(evaluations))
        self._tried_at = checkpoint.num_env_steps
        if not (self.path / "run.json").exists():  # Killed between the first checkpoint and it.
            with self._reported("run.json", self.path / "run.json"):
                self._write_run(info["about"], info["versions"], info["saved"] if updates == 0 else None)
        position = Position(
            state=checkpoint.state,
            blocks=_block_of(rows, like),
            num_updates=updates,
            num_env_steps=checkpoint.num_env_steps,
            evaluations=tuple({k: to_float(v) for k, v in row.items()} for row in evaluations),
            evaluated_at=info["evaluated_at"],
            best=None if best is None else Best(checkpoint.best_params, **best),
        )
        if position.best is not None and not self._has_best(position.best.num_updates):
            self._unsaved_best = position.best
        return position, checkpoint.seconds

    def _check_start(self, start: Mapping[str, Any], key: Any, state: Any) -> None:
        if key is not None and start["key"] != key_record(key):
            raise ValueError(
                f"key: the run in {self.path} was started with {start['key'] or 'a state and no key'}; got "
                f"{key_record(key)}. Give the same or none to go on, or name another directory"
            )
        if state is not None and start["state"] != fingerprint(state):
            begun = "a key" if start["state"] is None else "another state"
            raise ValueError(
                f"state: the run in {self.path} was started with {begun}. Give the same to go on, or name another "
                f"directory"
            )

    def _warn_of_compiling(self, quick: bool) -> None:
        before = self._start.get("quick_compile", False)
        if quick != before:
            warnings.warn(
                f"quick_compile: the run in {self.path} was started with {before} and goes on with {quick}: its "
                f"numbers may differ in rounding from those of an uninterrupted one",
                RuntimeWarning,
                stacklevel=2,
            )

    def _set_aside(self, path: pathlib.Path, problem: str, used: str) -> None:
        aside = free_name(path.with_name(f"{path.name}.damaged"))
        try:
            path.rename(aside)
            where = f"it is now {aside.name}"
        except OSError as error:
            where = f"it could not be renamed: {error}"
        warnings.warn(
            f"checkpoint {path} is damaged: {problem}; {where}, the run goes on from checkpoint {used}",
            RuntimeWarning,
            stacklevel=2,
        )

    # --- Saving -------------------------------------------------------------------------------------------------------

    def begin(self, position: Position) -> None:
        """The first checkpoint, before anything is computed: OSError or ValueError if it cannot be written."""
        trees = self._trees(position)

        def write() -> None:
            self._save(position, trees, 0.0)
            self._write_run(about(self._algorithm), versions(), _now())

        on_writer(write)
        self._saved = (position.num_updates, len(position.evaluations))

    def _trees(self, position: Position) -> dict[str, Any]:
        """What a checkpoint holds, whole in every process; all have to call it."""
        best = position.best
        trees = {"state": position.state} | ({} if best is None else {"best": best.params})
        return trees if jax.process_count() == 1 else {name: local(tree) for name, tree in trees.items()}

    def _write_run(self, what: Mapping[str, Any], found: Mapping[str, str], started: str | None) -> None:
        content = {**what, "start": self._start, "versions": found, "started": started}
        replace_file(self.path / "run.json", (json.dumps(content, indent=1) + "\n").encode())

    def record(self, rows: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> None:
        """Adds rows to metrics.jsonl and evaluations.jsonl."""
        if not is_writer():
            return
        self._metrics.add(rows)
        self._evaluations.add(evaluations)
        with self._reported("the metrics", self._metrics.path):
            self._metrics.flush()
            self._evaluations.flush()

    def next_save(self, num_env_steps: int) -> int | None:
        """The env steps at which a block should end for a checkpoint; None where the time decides."""
        return None if self._every is None else (num_env_steps // self._every + 1) * self._every

    def due(self, num_env_steps: int) -> bool:
        """Whether it is time for a checkpoint."""
        if self._every is not None:
            return num_env_steps // self._every > self._tried_at // self._every
        return any_of(time.monotonic() - self._tried_time > max(SECONDS, self._save_seconds / MOST_OF_TIME))

    def save(self, position: Position, seconds: float) -> None:
        """Writes a checkpoint, if there is anything new, and removes old ones; a failure is a warning."""
        if self._unsaved_best is not None:
            self.save_best(self._unsaved_best)
        newest = (position.num_updates, len(position.evaluations))
        if self._saved == newest:
            return
        trees = self._trees(position)

        def write() -> bool:
            with self._reported("a checkpoint", self._checkpoints / f"{position.num_updates:08d}"):
                self._save(position, trees, seconds)
                return True
            return False

        self._saved = newest if on_writer(write) else None
        self._tried_at, self._tried_time = position.num_env_steps, time.monotonic()

    def save_best(self, best: Best) -> None:
        """Writes the best parameters; a failure is a warning, and the next `save` tries again."""
        if not is_writer():
            return
        self._unsaved_best = best
        with self._reported("the best parameters", self._best / f"{best.num_updates:08d}"):
            if self._has_best(best.num_updates):  # Written before the run was killed and went on from an older one.
                self._unsaved_best = None
                return
            names = checkpoints.checkpoint_names(self._best)
            written = checkpoints.write_checkpoint(
                self._best,
                best.num_updates,
                {"best": best.params},
                {
                    "num_env_steps": best.num_env_steps,
                    "episode_return": best.episode_return,
                    "about": about(self._algorithm),
                    "state": state_shapes(best.params),
                },
            )
            self._unsaved_best = None
            for other in names:
                if other != written.name:
                    remove_folder(self._best / other)

    def _has_best(self, num_updates: int) -> bool:
        """Whether the parameters after that update are there, and whole."""
        names = checkpoints.checkpoint_names(self._best)
        return any(
            checkpoints.update_of(name) == num_updates and check_manifest(self._best / name) is None for name in names
        )

    def _save(self, position: Position, trees: dict[str, Any], seconds: float) -> None:
        self._tried_at, start = position.num_env_steps, time.monotonic()
        try:
            # What the checkpoint counts on is on the disk before it is.
            self._metrics.flush(sync=True)
            self._evaluations.flush(sync=True)
            best = position.best
            checkpoints.write_checkpoint(
                self._checkpoints,
                position.num_updates,
                trees,
                {
                    "num_env_steps": position.num_env_steps,
                    "seconds": seconds,
                    "start": self._start,
                    "about": about(self._algorithm),
                    "state": state_shapes(position.state),
                    "metrics": _kinds(position.blocks),
                    "records": {"metrics": self._metrics.mark(), "evaluations": self._evaluations.mark()},
                    "evaluated_at": position.evaluated_at,
                    "best": None if best is None else {k: v for k, v in best._asdict().items() if k != "params"},
                    "saved": _now(),
                },
            )
            self._saved = (position.num_updates, len(position.evaluations))
        finally:
            self._tried_time = time.monotonic()
            self._save_seconds = self._tried_time - start
        for name in checkpoints.checkpoint_names(self._checkpoints)[: -self._keep]:
            remove_folder(self._checkpoints / name)

    @contextlib.contextmanager
    def _reported(self, what: str, path: pathlib.Path) -> Iterator[None]:
        """Errors of files are warnings. orbax reports some of the system's as ValueError or RuntimeError."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            warnings.warn(
                f"{what} could not be written to {path}: {type(error).__name__}: {error}. The run goes on, what is "
                f"there is kept, and the next time is tried again",
                RuntimeWarning,
                stacklevel=3,
            )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _kinds(blocks: tuple[dict[str, np.ndarray], ...]) -> dict[str, list]:
    """metric -> [dtype, shape at one update]."""
    return {name: [str(x.dtype), list(x.shape[1:])] for block in blocks for name, x in block.items()}


def _arrays_like(kinds: Mapping[str, list]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, jnp.dtype(dtype)) for name, (dtype, shape) in kinds.items()}


def _block_of(rows: list[dict], like: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], ...]:
    """The rows of metrics.jsonl as one block, bit for bit what was written."""
    if not rows:
        return ()
    return ({name: column(rows, name, entry) for name, entry in like.items()},)
