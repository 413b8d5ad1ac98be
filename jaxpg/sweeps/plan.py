"""`plan`: what a sweep will cost, before it runs."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.algorithms.types import Algorithm
from jaxpg.sweeps._job import Job, Pending
from jaxpg.sweeps._memory import available_bytes
from jaxpg.sweeps._program import DONE
from jaxpg.training._hosts import gather

__all__ = ["Part", "Plan", "plan"]

TRIAL_UPDATES = 3


@dataclasses.dataclass(frozen=True)
class Part:
    """The runs that share a compiled program.

    Fields:
      fixed: the hyperparameters that the program is built with.
      num_runs, runs_per_batch, num_batches: how they are cut.
      bytes_per_device: what the program needs at once.
      compile_seconds, update_seconds: measured; an update is one of the whole batch.
      num_updates: of each run, by the steps that the trial updates took.
      seconds: expected, without compiling and evaluations.
    """

    fixed: Mapping[str, Any]
    num_runs: int
    runs_per_batch: int
    num_batches: int
    bytes_per_device: int
    compile_seconds: float
    update_seconds: float
    num_updates: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep will cost; `print` it.

    Fields:
      description: the runs, what is traced and what is looped.
      parts: one for each compiled program.
      num_compiles: programs, and larger ones that did not fit.
      bytes_per_device, available_bytes: the most that a program needs, and what is free.
      history_bytes: of the metrics of all runs, on the host.
      seconds: expected for all, compiling included, evaluations not.
    """

    description: str
    parts: tuple[Part, ...]
    num_compiles: int
    bytes_per_device: int
    available_bytes: int
    history_bytes: int
    seconds: float

    def __str__(self) -> str:
        lines = [
            self.description,
            f"memory    {_bytes(self.bytes_per_device)} of {_bytes(self.available_bytes)} free on each device; "
            f"metrics {_bytes(self.history_bytes)} on the host",
            f"compiles  {self.num_compiles}, {sum(part.compile_seconds for part in self.parts):.1f} s in all",
            f"time      about {_seconds(self.seconds)}, compiling included, evaluations not",
        ]
        for part in self.parts:
            fixed = ", ".join(f"{name}={value!r:.40}" for name, value in part.fixed.items())
            lines.append(
                f"  {fixed or 'one program'}: {part.num_runs} runs in {part.num_batches} batch"
                f"{'es' if part.num_batches > 1 else ''} of {part.runs_per_batch}, about {part.num_updates} updates of "
                f"{part.update_seconds * 1e3:.3g} ms, {_bytes(part.bytes_per_device)}, {_seconds(part.seconds)}"
            )
        return "\n".join(lines)


def plan(
    build: Callable[..., Algorithm],
    hyperparameters: Any,
    *,
    seeds: int | Sequence[int],
    key: Any,
    num_env_steps: int,
    runs_per_batch: int | None = None,
    mesh: Any = None,
    evaluate_every: int | None = None,
    evaluation_episodes: int = 128,
    deterministic_evaluation: bool | None = None,
    nonfinite: str = "stop",
    show: bool = True,
    **of_sweep: Any,
) -> Plan:
    """What `sweep` with these arguments would take: compiles every program, times a few updates of each, and prints.

    Memory is the compiled programs' own figure. The time is that of the first updates: episodes that grow longer while
    policies learn make updates of whole episodes (`reinforce`) fewer and longer, in sum about the same.

    Args:
      show: print the plan.
      of_sweep: `directory`, `save_every`, `return_params` and `progress` change nothing here.
    Returns:
      The plan, whose text is what is printed.
    Raises:
      ValueError, TypeError: as `sweep` does.
    """
    for name in of_sweep:
        if name not in ("directory", "save_every", "return_params", "progress"):
            raise TypeError(f"plan() got an unexpected keyword argument {name!r}: it takes those of sweep, and show")
    job = Job.of(
        build,
        hyperparameters,
        seeds=seeds,
        key=key,
        num_env_steps=num_env_steps,
        runs_per_batch=runs_per_batch,
        mesh=mesh,
        evaluate_every=evaluate_every,
        evaluation_episodes=evaluation_episodes,
        deterministic_evaluation=deterministic_evaluation,
        nonfinite=nonfinite,
    )
    pending: dict[int, list[Pending]] = {}
    for batch in job.batches(job.runs()):
        pending.setdefault(id(batch.compiled), []).append(batch)
    parts, history, compiles = [], 0, 0
    for batches in pending.values():
        compiles += batches[0].compiled.num_compiles
        part, metrics = _measured(job, batches)
        parts.append(part)
        history += part.num_runs * part.num_updates * metrics
    result = Plan(
        description=job.describe(),
        parts=tuple(parts),
        num_compiles=compiles,
        bytes_per_device=max(part.bytes_per_device for part in parts),
        available_bytes=available_bytes(),
        history_bytes=history,
        seconds=sum(part.compile_seconds + part.seconds for part in parts),
    )
    if show:
        print(result)
    return result


def _measured(job: Job, batches: list[Pending]) -> tuple[Part, int]:
    """(the part, bytes of one update's metrics of one run)."""
    batch, compiled = batches[0].batch, batches[0].compiled
    traced, states = batch.traced(), batch.start().states
    left = batch.lay_out(np.full(len(batch.points), 2**31 - 1, np.int32))
    states, _ = compiled.block(traced, states, left, jnp.int32(1))  # What the first call alone does is not counted.
    jax.block_until_ready(states)
    start = time.perf_counter()
    _, metrics = compiled.block(traced, states, left, jnp.int32(TRIAL_UPDATES))
    metrics = gather(metrics)
    seconds = (time.perf_counter() - start) / TRIAL_UPDATES
    done = metrics[DONE]
    steps = metrics["env_steps"][done].mean() if done.any() else 1.0
    num_updates = math.ceil(job.num_env_steps / max(float(steps), 1.0))
    part = Part(
        fixed=batch.group.fixed,
        num_runs=sum(len(pending.runs) for pending in batches),
        runs_per_batch=compiled.num_runs,
        num_batches=len(batches),
        bytes_per_device=compiled.bytes_per_device,
        compile_seconds=compiled.compile_seconds,
        update_seconds=seconds,
        num_updates=num_updates,
        seconds=len(batches) * num_updates * seconds,
    )
    return part, sum(x.nbytes // (x.shape[0] * x.shape[1]) for x in metrics.values())


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB"


def _seconds(number: float) -> str:
    if number < 100:
        return f"{number:.3g} s"
    return f"{number / 60:.3g} min" if number < 6000 else f"{number / 3600:.3g} h"
