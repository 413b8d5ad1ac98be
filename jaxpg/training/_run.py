"""The loop of a run: what happens between two blocks, and why it ends."""

import dataclasses
import signal
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxpg.algorithms.types import Algorithm
from jaxpg.training._evaluator import Evaluator, as_arrays
from jaxpg.training._hosts import agree, any_of, is_writer, local, on_writer
from jaxpg.training._position import MAX_BLOCK, Position, all_finite, history, play_block, recent_return
from jaxpg.training._store import Store
from jaxpg.training.interrupt import Interrupt
from jaxpg.training.loggers import LoggerGroup
from jaxpg.training.nonfinite import describe_params, describe_refused, refused_updates
from jaxpg.training.progress import Progress

__all__ = ["Run"]

BLOCK_SECONDS = 0.5  # Between two looks of the host.
TARGET_BLOCK = 8  # Updates between two looks at the target: the same on every machine, wherever the run was resumed.


@dataclasses.dataclass(kw_only=True)
class Run:
    """One call of `train`."""

    algorithm: Algorithm
    position: Position
    num_env_steps: int
    target_return: float | None
    callback: Callable | None
    nonfinite: str
    evaluator: Evaluator | None
    store: Store | None
    loggers: LoggerGroup
    interrupt: Interrupt
    bar: Progress
    seconds_before: float
    mesh: Mesh | None = None
    quick_compile: bool = False
    stopped: str = ""
    problem: str = ""  # Why a run that stopped as "nonfinite" did.

    def __post_init__(self) -> None:
        self._start = time.perf_counter()
        self._limit = 1  # Updates of the next block.
        self._called_stop = self._refused = False  # What the last block brought.
        self._warned = False
        self._logged = len(self.position.blocks), len(self.position.evaluations)

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self._start

    def play(self) -> None:
        """Plays blocks until there is a reason to stop."""
        try:
            while not self.stopped:
                # All that is decided here follows from the position: a resumed run decides the same.
                reason = self._why_stop()
                self._evaluate(reason)
                self._log()
                if self.store is not None and (reason or self.store.due(self.position.num_env_steps)):
                    self.store.save(self.position, self.seconds)
                self.stopped = reason
                if not reason:
                    self._play_block()
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        except Exception as error:
            if jax.process_count() > 1:  # The others may be gone: nothing can be done together any more.
                error.add_note(lost(self.store))
                raise
            # Somebody's callback, a device without memory: the error goes on, what there is is kept.
            if self.store is not None:
                self._log()
                self.store.save(self.position, self.seconds)
            raise
        if self.stopped == "nonfinite" and self.nonfinite != "raise":
            warnings.warn(self.problem, RuntimeWarning, stacklevel=3)

    def _why_stop(self) -> str:
        position = self.position
        if self._refused and self.nonfinite != "skip":
            return "nonfinite"
        if not all_finite(local(position.state.params)):
            self.problem = describe_params(position.num_updates)
            return "nonfinite"
        spent = position.num_env_steps >= self.num_env_steps
        looks = spent or position.num_updates == _next_look(position.num_updates - 1)
        if self.target_return is not None and looks and recent_return(position.blocks) >= self.target_return:
            return "target"
        if self._called_stop:
            return "callback"
        if spent:
            return "budget"
        if not any_of(self.interrupt.requested):
            return ""
        return "terminated" if any_of(self.interrupt.signal == signal.SIGTERM) else "interrupted"

    def _evaluate(self, reason: str) -> None:
        """Evaluates where that is due, and at the end of the run, but not where it has to leave and will go on."""
        position = self.position
        if self.evaluator is None or reason in ("interrupted", "terminated", "nonfinite"):
            return
        last = position.evaluations[-1]["update"] if position.evaluations else 0
        at_end = bool(reason) and last != position.num_updates
        if not at_end and not self.evaluator.due(position):
            return
        self.position = self.evaluator.play(position)
        best = self.position.best
        if self.store is not None and best is not None and best is not position.best:
            self.store.save_best(best)

    def _log(self) -> None:
        """Gives what is new to the files and the loggers."""
        position, (num_blocks, num_evaluations) = self.position, self._logged
        new_blocks, evaluations = position.blocks[num_blocks:], list(position.evaluations[num_evaluations:])
        self._logged = len(position.blocks), len(position.evaluations)
        if not new_blocks and not evaluations:
            return
        rows = _rows(new_blocks, position.num_updates)
        if self.store is not None:
            self.store.record(rows, evaluations)
        self.bar.update(position.num_env_steps, position.blocks, next(iter(position.evaluations[-1:]), None))
        if not self.loggers or not is_writer():
            return
        extra = {row["update"]: row for row in evaluations}
        for row in rows or [{"update": position.num_updates, "total_env_steps": position.num_env_steps}]:
            found = {name: value for name, value in row.items() if np.ndim(value) == 0}
            for name, value in extra.get(row["update"], {}).items():
                if name not in ("update", "total_env_steps"):
                    found[f"evaluation/{name}"] = value
            self.loggers.log(found, row["total_env_steps"])

    def _play_block(self) -> None:
        position = self.position
        ends = [self.num_env_steps]
        if self.evaluator is not None:
            ends.append(self.evaluator.next_multiple(position.num_env_steps))
        if self.store is not None and (save := self.store.next_save(position.num_env_steps)) is not None:
            ends.append(save)
        limit = self._limit
        if self.target_return is not None:
            limit = _next_look(position.num_updates) - position.num_updates
        before = time.perf_counter()
        left = min(ends) - position.num_env_steps
        self.position = position = play_block(
            self.algorithm, position, left, limit, self.nonfinite != "skip", self.mesh, self.quick_compile
        )
        seconds = time.perf_counter() - before
        seconds = agree(seconds)  # What depends on the clock must not differ between processes.
        self._limit = int(np.clip(limit * BLOCK_SECONDS / max(seconds, 1e-3), 1, min(2 * limit, MAX_BLOCK)))
        self._look_for_refused()
        if self.callback is not None:
            callback = self.callback
            self._called_stop = on_writer(lambda: bool(callback(position.blocks[-1])))

    def _look_for_refused(self) -> None:
        block = self.position.blocks[-1]
        refused = refused_updates(block)
        self._refused = refused.size > 0
        if not self._refused or self._warned:
            return
        update = self.position.num_updates - len(block["env_steps"]) + int(refused[0]) + 1
        self.problem = describe_refused(self.algorithm, block, int(refused[0]), update, self.nonfinite != "skip")
        if self.nonfinite == "skip":
            self._warned = True
            message = f"{self.problem}. Further ones are counted (result.num_nonfinite), not shown"
            warnings.warn(message, RuntimeWarning, stacklevel=4)

    def result(self) -> dict[str, Any]:
        """The fields of `TrainResult`."""
        position, best = self.position, self.position.best
        return {
            "params": local(position.state.params),
            "state": position.state,
            "history": history(position.blocks),
            "num_env_steps": position.num_env_steps,
            "num_updates": position.num_updates,
            "seconds": self.seconds,
            "stopped": self.stopped,
            "evaluations": as_arrays(position.evaluations),
            "best_params": None if best is None else best.params,
            "best_return": None if best is None else best.episode_return,
            "num_nonfinite": sum(len(refused_updates(block)) for block in position.blocks),
        }


def lost(store: Any) -> str:
    """What to do about an error in a job of several processes."""
    kept = "it starts anew" if store is None else f"it goes on from its newest checkpoint in {store.path}"
    return (
        f"process {jax.process_index()} of {jax.process_count()}: if another process of the job has died, its own "
        f"output says why; start the whole job again: {kept}"
    )


def _next_look(num_updates: int) -> int:
    """The next of the updates 1, 2, 4, 8, 16, 24, 32, … at which the target is judged."""
    for look in (1, 2, 4):
        if num_updates < look:
            return look
    return (num_updates // TARGET_BLOCK + 1) * TARGET_BLOCK


def _rows(blocks: tuple[dict[str, np.ndarray], ...], num_updates: int) -> list[dict[str, Any]]:
    """A row for each update of the blocks, of which the last is `num_updates`."""
    rows = []
    update = num_updates - sum(len(block["total_env_steps"]) for block in blocks)
    for block in blocks:
        columns = {"total_env_steps": block["total_env_steps"].tolist()}
        columns |= {name: values.tolist() for name, values in block.items()}
        for i in range(len(block["total_env_steps"])):
            update += 1
            rows.append({"update": update, **{name: values[i] for name, values in columns.items()}})
    return rows
