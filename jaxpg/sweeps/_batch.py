"""Playing a batch of runs: blocks of updates, evaluations between them, and what is kept."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _mesh
from jaxpg._threefry import fold_in
from jaxpg.sweeps._program import BAD, DONE, MAX_BLOCK, Program
from jaxpg.sweeps._settings import Group
from jaxpg.training._evaluator import STREAM
from jaxpg.training._hosts import agree, gather, put

__all__ = ["Batch", "Position", "Results"]

BLOCK_SECONDS = 1.0  # Between two looks of the host.
MOST_LEFT = 2**31 - 1  # What a 32-bit counter holds.


@dataclasses.dataclass
class Position:
    """Where the runs of a batch stand.

    Fields:
      states: [run], on the devices.
      env_steps, num_updates: [run] so far.
      going: [run] whether the run goes on.
      diverged: [run] whether it ended because something was NaN or infinite.
      evaluated_at: [run] env steps at the newest evaluation.
      last_row: [run] where in the rows each run's newest update lies.
      rows: metric -> list of [update, run] arrays, one for each block; `DONE` tells which runs took part.
      seconds: list of [update] arrays, the wall time since the start without compiling.
      evaluations: (row, run, mean return, its standard error) of each evaluation.
    """

    states: Any
    env_steps: np.ndarray
    num_updates: np.ndarray
    going: np.ndarray
    diverged: np.ndarray
    evaluated_at: np.ndarray
    last_row: np.ndarray
    rows: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)
    seconds: list[np.ndarray] = dataclasses.field(default_factory=list)
    evaluations: list[tuple[int, int, float, float]] = dataclasses.field(default_factory=list)

    _counters: ClassVar = ("env_steps", "num_updates", "going", "diverged", "evaluated_at", "last_row")

    @property
    def num_rows(self) -> int:
        """Updates so far of the run with the most."""
        return sum(len(x) for x in self.seconds)

    def arrays(self) -> dict[str, Any]:
        """Everything but the states, as arrays."""
        return {
            **{name: getattr(self, name) for name in self._counters},
            "evaluations": np.array(self.evaluations, np.float64).reshape(-1, 4),
            "seconds": np.concatenate([np.zeros(0), *self.seconds]),
            "rows": {name: np.concatenate(blocks) for name, blocks in self.rows.items()},
        }

    @classmethod
    def of(cls, states: Any, arrays: Mapping[str, Any]) -> "Position":
        """What `arrays` wrote down."""
        return cls(
            states=states,
            **{name: arrays[name] for name in cls._counters},
            rows={name: [rows] for name, rows in arrays["rows"].items()},
            seconds=[arrays["seconds"]] if len(arrays["seconds"]) else [],
            evaluations=[(int(a), int(b), float(c), float(d)) for a, b, c, d in arrays["evaluations"]],
        )

    def take(self, columns: np.ndarray, num_real: int) -> "Position":
        """Some of the runs; those behind the first `num_real` are filling."""
        real = np.arange(len(columns)) < num_real
        counters = {name: getattr(self, name)[columns] for name in self._counters}
        place = {int(run): i for i, run in enumerate(columns[:num_real])}
        return Position(
            states=jax.tree.map(lambda x: x[columns], self.states),
            **{**counters, "going": counters["going"] & real},
            rows={name: [rows[:, columns] for rows in blocks] for name, blocks in self.rows.items()},
            seconds=list(self.seconds),
            evaluations=[(row, place[run], mean, error) for row, run, mean, error in self.evaluations if run in place],
        )


@dataclasses.dataclass(frozen=True)
class Results:
    """What runs leave.

    Fields:
      rows: metric -> [update, run].
      seconds: [update] the wall time.
      diverged, finished: [run].
      params: [run] their last parameters.
    """

    rows: Mapping[str, np.ndarray]
    seconds: np.ndarray
    diverged: np.ndarray
    finished: np.ndarray
    params: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Some runs of a group, of which the last may be there only to fill the program's [run] axis.

    Fields:
      group: whose settings they are.
      program: compiled for `len(points)` runs.
      points: [run] places of the settings in the group.
      keys: [run] the runs' keys.
      num_real: how many are no filling.
      num_env_steps: of each run.
      evaluate_every: env steps, or None.
      evaluate: the compiled evaluation.
    """

    group: Group
    program: Program
    points: np.ndarray
    keys: Any
    num_real: int
    num_env_steps: int
    evaluate_every: int | None
    evaluate: Callable[..., Any]

    def traced(self) -> dict[str, jax.Array]:
        """name -> [run] values."""
        return self.lay_out({name: values[self.points] for name, values in self.group.traced.items()})

    def start(self) -> Position:
        """The first position."""
        number = len(self.points)
        states = self.program.init(self.traced(), self.lay_out(self.keys))
        zeros, no = np.zeros(number, np.int64), np.zeros(number, bool)
        going = np.arange(number) < self.num_real
        return Position(states, zeros, zeros, going, diverged=no, evaluated_at=zeros, last_row=zeros - 1)

    def laid_out(self, position: Position) -> Position:
        """The position with its states over the devices."""
        return dataclasses.replace(position, states=self.lay_out(position.states))

    def play(self, position: Position, compiled: Callable, after_block: Callable[[Position], bool]) -> None:
        """Takes the runs to their ends; `after_block` may say that it is time to leave."""
        traced, most = self.traced(), 1
        while position.going.any():
            played, seconds = self._play_block(position, compiled, traced, most)
            if self.evaluate_every is not None:
                self._evaluate(position, traced, self.evaluate_every)
            # What depends on the clock must not differ between processes; it changes none of the numbers.
            seconds = agree(seconds)
            most = int(np.clip(played * BLOCK_SECONDS / max(seconds, 1e-3), 1, min(2 * most, MAX_BLOCK)))
            if after_block(position):
                return

    def results(self, position: Position) -> Results:
        """What there is, without the filling."""
        arrays = position.arrays()
        rows = {name: x[:, : self.num_real] for name, x in arrays["rows"].items()}
        values = np.full((2, *rows[DONE].shape), np.nan)
        for row, run, mean, error in position.evaluations:
            values[:, row, run] = mean, error
        rows |= {"evaluation_return": values[0], "evaluation_return_error": values[1]} if self.evaluate_every else {}
        params = jax.tree.map(lambda x: x[: self.num_real], gather(position.states.params))
        diverged, going = position.diverged[: self.num_real], position.going[: self.num_real]
        return Results(rows, arrays["seconds"], diverged, ~going, params)

    def _play_block(self, position: Position, compiled: Callable, traced: Any, most: int) -> tuple[int, float]:
        """Plays a block: (its updates, its seconds)."""
        ends = np.full(len(self.points), self.num_env_steps)
        if self.evaluate_every is not None:  # A run pauses where it is evaluated.
            ends = np.minimum(ends, (position.env_steps // self.evaluate_every + 1) * self.evaluate_every)
        left = np.where(position.going, np.minimum(ends - position.env_steps, MOST_LEFT), 0).astype(np.int32)
        start = time.perf_counter()
        position.states, metrics = compiled(traced, position.states, self.lay_out(left), jnp.int32(most))
        metrics = gather(metrics)
        seconds = time.perf_counter() - start

        count = int(metrics[DONE].any(axis=1).sum())
        metrics = {name: values[:count] for name, values in metrics.items()}
        done, bad = metrics[DONE], metrics.pop(BAD)
        steps = np.where(done, metrics["env_steps"], 0)
        metrics["total_env_steps"] = position.env_steps + np.cumsum(steps, axis=0, dtype=np.int64)
        newest = position.num_rows + count - 1 - np.argmax(done[::-1], axis=0)
        position.last_row = np.where(done.any(axis=0), newest, position.last_row)
        position.env_steps = position.env_steps + steps.sum(axis=0, dtype=np.int64)
        position.num_updates = position.num_updates + done.sum(axis=0)
        position.diverged = position.diverged | bad.any(axis=0)
        position.going = position.going & (position.env_steps < self.num_env_steps) & ~position.diverged
        for name, values in metrics.items():
            position.rows.setdefault(name, []).append(values)
        before = position.seconds[-1][-1] if position.seconds else 0.0
        position.seconds.append(before + seconds * np.arange(1, count + 1) / count)
        return count, seconds

    def _evaluate(self, position: Position, traced: Any, every: int) -> None:
        """Evaluates the runs that have reached a multiple of `every` steps, and those that are at their end."""
        reached = position.env_steps // every > position.evaluated_at // every
        at_end = ~position.going & (position.env_steps > position.evaluated_at)
        due = (reached | at_end) & ~position.diverged
        due[self.num_real :] = False
        if not due.any():
            return
        keys = jax.vmap(lambda key, update: fold_in(fold_in(key, STREAM), update))(
            self.keys, jnp.asarray(position.num_updates, jnp.int32)
        )
        mean, error = gather(self.evaluate(traced, position.states.params, self.lay_out(keys)))
        for run in np.flatnonzero(due):
            position.evaluations.append((int(position.last_row[run]), int(run), float(mean[run]), float(error[run])))
        position.evaluated_at = np.where(due, position.env_steps, position.evaluated_at)

    def lay_out(self, tree: Any) -> Any:
        """[run] arrays over the devices."""
        mesh = self.program.mesh
        return tree if mesh is None else put(tree, _mesh.sharded(mesh))
