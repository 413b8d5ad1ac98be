"""`sweep`: seeds times hyperparameters, as many runs as fit in one compiled program."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg.algorithms.types import Algorithm
from jaxpg.sweeps._batch import Position
from jaxpg.sweeps._dataset import dataset
from jaxpg.sweeps._job import Job, Pending, Run
from jaxpg.sweeps._params import RunParams
from jaxpg.sweeps._store import SweepStore
from jaxpg.training._hosts import any_of
from jaxpg.training._run import lost
from jaxpg.training.interrupt import Interrupt, interruptible
from jaxpg.training.progress import Progress
from jaxpg.training.progress import title as algorithm_title

__all__ = ["sweep"]


@hinted
def sweep(
    build: Callable[..., Algorithm],
    hyperparameters: Any,
    *,
    seeds: int | Sequence[int],
    key: Any,
    num_env_steps: int,
    directory: Any = None,
    runs_per_batch: int | None = None,
    mesh: Any = None,
    evaluate_every: int | None = None,
    evaluation_episodes: int = 128,
    deterministic_evaluation: bool | None = None,
    nonfinite: str = "stop",
    save_every: float | None = None,
    return_params: bool = False,
    progress: bool | None = None,
) -> Any:
    """Trains every setting with every seed and gives the labelled results.

        runs = jaxpg.sweep(
            lambda learning_rate: jaxpg.ppo(env, policy, learning_rate=learning_rate),
            {"learning_rate": [1e-4, 3e-4, 1e-3]}, seeds=64, key=jax.random.key(0), num_env_steps=500_000,
        )
        runs.episode_return.mean("seed").sel(learning_rate=3e-4)

    Hyperparameters that `build` takes as traced numbers are vmapped: all their values, and all seeds, run in one
    compiled program. Those that fix shapes (numbers of environments, layers), or that are no numbers, are looped over,
    with a program for each value. Which is which is found by trying, printed, and kept in `runs.attrs`. The run of a
    seed is that of `train(build(…), jax.random.fold_in(key, seed), …)` up to rounding, which training amplifies: after
    some updates another action is drawn, and from there the two are different runs with the same expectation. All
    settings begin with the same episodes: differences between settings are those of paired runs.

    Ctrl-C or SIGTERM ends the sweep after the block that is being computed; what there is is returned, with a warning.

    **Resuming.** With a directory, finished runs are written as their batch ends, and where the others stand about
    every minute. A sweep that was killed goes on from there. More seeds, more values or another `runs_per_batch` may be
    given then; what is finished is not played again. Another key, number of steps, or algorithm is refused. As with
    `train`, functions and optimisers count by their names.

    Args:
      build: hyperparameters, as keyword arguments -> `Algorithm`.
      hyperparameters: name -> values, for a grid, `{}` for seeds alone; or `jaxpg.sweeps.random`, `sobol`, `samples`.
      seeds: how many, from 0; or which.
      key: the sweep's; or an array of keys, one for each seed, which are then the runs' own.
      num_env_steps: of each run: the fewest whole updates that reach it.
      directory: where the sweep is kept; None: nothing is written.
      runs_per_batch: most runs at a time; default as many as fit in the memory, by the compiled program's own figures.
      mesh: None for one device, "auto" for all, or a `jax.sharding.Mesh`: the runs are laid over its devices.
      evaluate_every, evaluation_episodes, deterministic_evaluation: as of `train`.
      nonfinite: what happens to a run whose update met NaN or infinite values and was not applied: "stop", or "skip"
        the update. Other runs go on in any case.
      save_every: seconds between two saves of where the runs stand; default a minute, or more where saving takes long.
      return_params: give (runs, params): `params(seed=…, learning_rate=…)` are the last parameters of a run,
        `params.stacked()` those of all.
      progress: draw a progress bar, and print what is traced; default: where the output is a terminal.
    Returns:
      An `xarray.Dataset` with the dimensions `seed`, each hyperparameter (or `sample`, along which they are
      coordinates), and `update`. `episode_return`, losses and all other scalar metrics of the algorithm (a metric with
      the name of a hyperparameter is called `…_measured`), `evaluation_return`
      where there was an evaluation, `env_steps` so far and `wall_time` have all of them; updates that a run did not
      have are NaN. `diverged`, `finished` and `num_updates` have no `update`. Attributes hold the configuration and the
      versions.
    Raises:
      ValueError, TypeError: for arguments out of range; what `build` raises, with the setting named.
    """
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
    _check.boolean("return_params", return_params)
    _check.optional(_check.number, "save_every", save_every, 0.0)
    played: list = []
    problem: BaseException | None = None
    with contextlib.ExitStack() as stack:
        interrupt = stack.enter_context(interruptible())
        store = None
        if directory is not None:
            store = stack.enter_context(SweepStore.open(directory, job, save_every))
        title = f"{algorithm_title(job.settings.groups[0].algorithm)} · {job.num_runs} runs"
        bar = stack.enter_context(Progress(title, job.num_runs * job.num_env_steps, progress))
        bar.note(f"sweep: {job.describe()}")
        try:
            _play(job, store, interrupt, bar, played)
        except KeyboardInterrupt:  # A second Ctrl-C.
            pass
        except Exception as error:
            problem = error
        if store is not None:
            store.save_unsaved()
    if problem is not None and not played:
        raise problem
    runs = dataset(job.points, job.seeds, played, job.config(), job.settings.groups[0].algorithm)
    if problem is not None:
        problem.runs = runs  # type: ignore[attr-defined]
        problem.add_note("what the sweep had finished is error.runs of this exception")
        if jax.process_count() > 1:
            problem.add_note(lost(store))
        raise problem
    if not bool(runs.finished.all()):
        runs.attrs["stopped"] = "interrupted"
        kept = "" if store is None else f"; {store.path} holds what was done: sweep again to go on"
        warnings.warn(
            f"the sweep was interrupted by signal {interrupt.signal}: {int(runs.finished.sum())} of {job.num_runs} "
            f"runs are finished, the others are missing or cut{kept}",
            RuntimeWarning,
            stacklevel=2,
        )
    elif store is not None:
        store.save_dataset(runs)
    return (runs, RunParams(job.points, job.seeds, played)) if return_params else runs


def _play(job: Job, store: SweepStore | None, interrupt: Interrupt, bar: Progress, played: list) -> None:
    """Plays what is not finished and adds to `played`: for each batch (column, setting, seed's place), and results."""
    played += [] if store is None else store.finished(job)
    left = job.runs()
    for runs, _ in played:
        for _, setting, seed in runs:
            left.pop(job.run_of(setting, seed))
    for pending in _pending(job, left, store):
        batch, before = pending.batch, job.num_runs - len(left)

        def after_block(position: Position, pending: Pending = pending, before: int = before) -> bool:
            _show(bar, job, pending, position, before)
            leave = any_of(interrupt.requested)
            if store is not None and position.going.any() and (leave or store.due()):
                store.save_playing(job, pending, position)
            return leave

        position = batch.start() if pending.position is None else pending.position
        batch.play(position, pending.compiled.block, after_block)
        results, is_over = batch.results(position), not position.going.any()
        played.append((pending.runs, results))
        if not is_over:
            return
        if store is not None:
            store.save_finished(job, pending.runs, results)
        for _, setting, seed in pending.runs:
            left.pop(job.run_of(setting, seed))
        if any_of(interrupt.requested):
            return
        del position, results  # Or their memory would be held while the next batch begins.


def _pending(job: Job, left: dict[Run, tuple[int, int]], store: SweepStore | None) -> Iterator[Pending]:
    """What is left to play: first what was being played, then the rest."""
    if store is not None:
        yield from store.playing(job, left)
    yield from job.batches(dict(left))


def _show(bar: Progress, job: Job, pending: Pending, position: Position, before: int) -> None:
    most = job.num_env_steps
    steps = position.env_steps[: len(pending.runs)].clip(max=most)
    steps = np.where(position.going[: len(pending.runs)], steps, most).sum()
    returns = position.rows["episode_return"][-1][-1] if "episode_return" in position.rows else np.empty(0)
    returns = returns[np.isfinite(returns)]
    shown = [{"episode_return": returns.mean(keepdims=True)}] if returns.size else []
    bar.update(before * most + int(steps), shown)
