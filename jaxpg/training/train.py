"""`train`: runs an algorithm for a number of environment steps.

The updates run in compiled blocks; between blocks plain Python records, evaluates, logs, saves, draws progress, calls
back and can stop. There are no callbacks inside compiled code, and how a run is cut into blocks changes none of its
numbers.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxpg import _check, _mesh
from jaxpg._keywords import hinted
from jaxpg._show import compact
from jaxpg.algorithms.types import Algorithm
from jaxpg.lanes import strong
from jaxpg.training._evaluator import Evaluator
from jaxpg.training._position import Position, lay_out, start
from jaxpg.training._run import Run
from jaxpg.training._store import Store
from jaxpg.training.interrupt import interruptible
from jaxpg.training.loggers import LoggerGroup
from jaxpg.training.nonfinite import NonFiniteError
from jaxpg.training.progress import Progress, title

__all__ = ["TrainResult", "train"]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run leaves.

    Fields:
      params: the policy's, after the last update; on one device, also after a run with a mesh.
      state: the algorithm's state, with which `train(..., state=…)` goes on; over the mesh of the run.
      history: metric -> numpy array [update]; `total_env_steps` counts up to and including the update.
      num_env_steps, num_updates: what was done, exactly; with a directory, since the run's first start.
      seconds: wall time; the first block includes compiling.
      stopped: "budget", "target", "callback", "interrupted" (Ctrl-C), "terminated" (SIGTERM), or "nonfinite".
      evaluations: "update", "total_env_steps", "episode_return" and its standard error "episode_return_error", and
        "episode_length", each a numpy array [evaluation].
      best_params, best_return: the parameters with the highest mean return of an evaluation, those of after its
        update, and that return; None without evaluations.
      num_nonfinite: how many updates met NaN or infinite values and were not applied.
    """

    params: Any
    state: Any
    history: Mapping[str, np.ndarray]
    num_env_steps: int
    num_updates: int
    seconds: float
    stopped: str
    evaluations: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    best_params: Any = None
    best_return: float | None = None
    num_nonfinite: int = 0

    __repr__ = compact


@hinted
def train(
    algorithm: Algorithm,
    key: Any = None,
    *,
    num_env_steps: int,
    state: Any = None,
    directory: Any = None,
    target_return: float | None = None,
    callback: Callable[[Mapping[str, np.ndarray]], Any] | None = None,
    progress: bool | None = None,
    evaluate_every: int | None = None,
    evaluation_episodes: int = 128,
    deterministic_evaluation: bool | None = None,
    loggers: Any = (),
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 3,
    nonfinite: str = "stop",
    mesh: Any = None,
    quick_compile: bool = False,
) -> TrainResult:
    """Runs `algorithm` until it has taken `num_env_steps` environment steps.

    The budget is met by the fewest whole updates that reach it. Ctrl-C or SIGTERM ends the run after the block that is
    being computed, with a checkpoint where there is a directory; a second Ctrl-C ends it at once. What there is is
    returned.

    **Resuming.** With a directory that holds checkpoints, the run goes on from the newest one that is whole, and ends
    bit for bit like one that was never interrupted (same machine, versions and `quick_compile`): parameters, history,
    evaluations.
    `num_env_steps` then counts from the run's first start; a larger one prolongs a run (whose evaluation at its former
    end stays). Another key, state, configuration, network, or environment of another name, episode limit or spaces is
    refused with the differences. What cannot be compared is taken to be the same: what an optimiser does that was given
    as an object, such as its learning rate (only the shapes of its state are compared), and whatever else of an
    environment is hidden in its functions, such as physical constants. Functions of your own count by their names.

    **Files** in the directory:

        run.json              the algorithm, its configuration, the key and the versions that the run started with
        metrics.jsonl         a line for each update; null is NaN
        evaluations.jsonl     a line for each evaluation
        checkpoints/00000120  the newest `keep_checkpoints`, by update (`jaxpg.load_checkpoint`)
        best/00000090         the parameters with the best evaluation (`jaxpg.training.checkpoints.load_best`)

    That files can be written is tried before anything is computed. Where it fails later (a full disk), a warning says
    so, the run goes on and tries again next time; the checkpoints that are there stay. A damaged checkpoint is renamed
    to `….damaged`, and named in a warning.

    Args:
      algorithm: from `jaxpg.reinforce` and the like.
      key: names the run; not needed with `state` unless for evaluations, nor to go on in a directory.
      num_env_steps: the budget; steps of this call, whatever `state` had taken before.
      state: a state to go on from, `result.state` of an earlier run.
      directory: where the run is kept; made if it is not there. None: nothing is written.
      target_return: stop when `episode_return`, averaged over the updates of the last 100 episodes or more, gets there.
        These are training's returns, with or without evaluations. Judged after updates 1, 2, 4, 8, 16, 24, ….
      callback: called with the metrics of each block, name -> [updates of the block]; a true result stops the run.
      progress: draw a progress bar; default: where the output is a terminal.
      evaluate_every: env steps. The parameters are evaluated after the first update that reaches each multiple of it,
        and at the end. The episodes have keys of their own, others each time: training is the same without.
      evaluation_episodes, deterministic_evaluation: `num_episodes` and `deterministic` of `evaluate`. By default the
        latter is `algorithm.config["deterministic"]`, where there is one (PGPE trains the mode), else False.
      loggers: from `jaxpg.loggers`, or your own.
      checkpoint_every: env steps between checkpoints; default about a minute. There is always one at the end.
      keep_checkpoints: how many are kept.
      nonfinite: what to do when an update met NaN or infinite values and was not applied: "stop" right there, "skip"
        it and go on, or "raise" NonFiniteError, which holds the result. Parameters that are themselves NaN or infinite
        (of algorithms without that guard) end the run in any case.
      mesh: None for one device, "auto" for all, or a `jax.sharding.Mesh`, over whose devices the environments are laid
        (`num_envs` must be a multiple of their number). The episodes are the same on any number of devices, parameters
        up to rounding, and a run may go on with another.
      quick_compile: compile the updates for a CPU in about a quarter of the time; they take up to five times as long,
        and round otherwise. For short runs, and small policies. Nothing else changes: neither tracing nor evaluations,
        nor what runs on other devices. Give the same to go on.
    Raises:
      ValueError, TypeError: for arguments out of range, or a directory that holds something else.
      OSError: if nothing can be written to the directory.
      RuntimeError: if another run is writing to the directory.
      NonFiniteError: with nonfinite="raise".
    """
    _check.instance("algorithm", algorithm, Algorithm)
    num_env_steps = _check.count("num_env_steps", num_env_steps)
    _check.optional(_check.number, "target_return", target_return)
    _check.optional(_check.callable_, "callback", callback, "metrics -> stop?")
    _check.named("nonfinite", nonfinite, ("stop", "skip", "raise"))
    checkpoint_every = _check.optional(_check.count, "checkpoint_every", checkpoint_every)
    if checkpoint_every is not None and directory is None:
        raise ValueError("checkpoint_every needs a directory to write checkpoints to, directory=…")
    _check.optional(_check.boolean, "progress", progress)
    _check.optional(_check.boolean, "deterministic_evaluation", deterministic_evaluation)
    keep_checkpoints = _check.count("keep_checkpoints", keep_checkpoints)
    mesh = _mesh.as_mesh("mesh", mesh)
    quick_compile = _check.boolean("quick_compile", quick_compile)
    group = LoggerGroup(loggers)
    key = _check.optional(_check.key, "key", key)
    if key is None and state is None and directory is None:
        raise TypeError("give either a key, to start, or a state, to go on")
    if key is not None and state is not None and evaluate_every is None:
        raise TypeError("give either a key, to start, or a state, to go on; both only with evaluate_every")
    if state is not None and not hasattr(state, "params"):
        raise TypeError(
            f"state must be one that algorithm.init or TrainResult.state gives, with a field params; got "
            f"{_check.described(state)}"
        )
    if evaluate_every is not None:  # Checked before anything is written.
        Evaluator(algorithm, key, evaluate_every, evaluation_episodes, deterministic_evaluation)

    with contextlib.ExitStack() as stack:
        stack.callback(group.close)
        interrupt = stack.enter_context(interruptible())
        store, position, seconds = None, None, 0.0
        if directory is not None:
            opened = Store.open(directory, algorithm, key, state, checkpoint_every, keep_checkpoints, quick_compile)
            store, key, position, seconds = stack.enter_context(opened)
        evaluator = None
        if evaluate_every is not None:
            if key is None:
                raise TypeError("key: evaluations need one, which names their episodes; with a state, give both")
            evaluator = Evaluator(algorithm, key, evaluate_every, evaluation_episodes, deterministic_evaluation)
        if position is None:
            position = Position(_first_state(algorithm, key, state, mesh))
            if store is not None:
                store.begin(position)
        else:
            position = position._replace(state=lay_out(algorithm, mesh, position.state))
            group.resume(position.num_env_steps)
        bar = stack.enter_context(Progress(title(algorithm), num_env_steps, progress, position.num_env_steps))
        run = Run(
            algorithm=algorithm,
            position=position,
            num_env_steps=num_env_steps,
            target_return=target_return,
            callback=callback,
            nonfinite=nonfinite,
            evaluator=evaluator,
            store=store,
            loggers=group,
            interrupt=interrupt,
            bar=bar,
            seconds_before=seconds,
            mesh=mesh,
            quick_compile=quick_compile,
        )
        run.play()
    result = TrainResult(**run.result())
    if run.stopped == "nonfinite" and nonfinite == "raise":
        raise NonFiniteError(run.problem, result)
    return result


def _first_state(algorithm: Algorithm, key: Any, state: Any, mesh: Mesh | None) -> Any:
    if state is None and key is None:
        raise TypeError("key: the directory holds no checkpoint to go on from; give a key, to start, or a state")
    return start(algorithm, mesh, key) if state is None else lay_out(algorithm, mesh, strong(state))
