"""`jaxpg train ENV` and `jaxpg resume DIR`: a run, its evaluation, and its files."""

import contextlib
import pathlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxpg.cli import devices
from jaxpg.cli.build import acts_by_mode, make_algorithm, versions
from jaxpg.cli.commands import Resume, Train
from jaxpg.cli.console import console, facts, heading, rate, say_files, seconds
from jaxpg.cli.report import evaluation_fact, say_what_runs
from jaxpg.cli.run_folder import CONFIG, RunFolder, why_not
from jaxpg.cli.settings import Settings, resolve

__all__ = ["progress_lines", "run_resume", "run_train", "settings_of"]

_REASONS: dict[str, str] = {
    "budget": "the steps asked for are taken",
    "target": "the target return is reached",
    "interrupted": "Ctrl-C",
    "terminated": "SIGTERM",
    "nonfinite": "an update met NaN or infinite values",
}
_EXIT_CODES = {"interrupted": 130, "terminated": 143}  # 128 and the signal's number, as shells have it.


def run_train(command: Train) -> None:
    """Trains, evaluates, and writes what the run leaves into its folder."""
    settings = command.settings
    run = settings.run
    devices.prepare(_devices(run))
    if run["loggers"] and run["out"] is None:
        raise ValueError(f"--loggers {' '.join(run['loggers'])} write to the folder of --out; give one")
    algorithm = make_algorithm(settings)
    _check_run(run)
    folder = None
    if run["out"] is not None:
        _check_traces(algorithm)
        folder = RunFolder(pathlib.Path(run["out"]))
        folder.make_room(run["overwrite"])
    output = console()
    say_what_runs(output, settings, algorithm)
    if folder is not None:
        folder.write_config({"command": "train", **settings.values, "versions": versions()})
    _run(output, settings, algorithm, folder)


def run_resume(command: Resume) -> None:
    """Goes on with the run in a folder, as its config.yaml says."""
    path = command.directory.expanduser()
    settings = settings_of(path)
    devices.prepare(_devices(settings.run))
    from jaxpg import _check
    from jaxpg.training._files import locked

    budget_before = settings.run["num_env_steps"]
    if command.num_env_steps is not None:
        num_env_steps = _check.count("num_env_steps", command.num_env_steps)
        settings = settings._replace(run={**settings.run, "num_env_steps": num_env_steps})
    algorithm = make_algorithm(settings)
    _check_run(settings.run)
    folder = RunFolder(path)
    output = console()
    where = devices.describe(_devices(settings.run))
    heading(output, f"{algorithm.name} on {settings.env} goes on", f"{path}, {where}")
    if settings.run["anneal"] and settings.run["num_env_steps"] != budget_before:
        _warn_of_annealing(budget_before, settings.run["num_env_steps"])
    if command.num_env_steps is not None:
        with locked(path):  # Not while somebody else goes on with it.
            folder.write_config({"command": "train", **settings.values, "versions": versions()})
    _run(output, settings, algorithm, folder)


def settings_of(path: pathlib.Path) -> Settings:
    """What the run in a folder was started with."""
    if not (path / CONFIG).is_file():
        raise ValueError(f"DIR must be the folder of a run, the --out of `jaxpg train`; {why_not(path, CONFIG)}")
    return resolve(None, {"config": [str(path / CONFIG)], "no_preset": ["true"]})


def _check_run(run: Mapping[str, Any]) -> None:
    """Refuses what `train` would refuse, before anything is written or removed."""
    from jaxpg import _check

    for name in ("num_env_steps", "evaluation_episodes", "keep_checkpoints"):
        _check.count(name, run[name])
    for name in ("evaluate_every", "checkpoint_every"):
        _check.optional(_check.count, name, run[name])
    _check.optional(_check.number, "target_return", run["target_return"])
    if "tensorboard" in run["loggers"]:
        from jaxpg import loggers

        loggers.tensorboard(pathlib.Path(run["out"] or "."))  # Opens nothing yet: ImportError without its package.


def _check_traces(algorithm: Any) -> None:
    """Refuses what the algorithm would refuse only when it is compiled."""
    import jax

    jax.eval_shape(algorithm.step, jax.eval_shape(algorithm.init, jax.random.key(0)))


def _warn_of_annealing(before: int, now: int) -> None:
    warnings.warn(
        f"anneal: the learning rate was to fall to 0 over {before:,} steps and now falls over {now:,}: it jumps "
        f"{'up' if now > before else 'down'} where the run goes on",
        RuntimeWarning,
        stacklevel=2,
    )


def _run(output: Any, settings: Settings, algorithm: Any, folder: RunFolder | None) -> None:
    """The run from where it stands to its end, and what it leaves."""
    import jax

    import jaxpg

    run = settings.run
    train_key, evaluation_key, film_key = jax.random.split(jax.random.key(run["seed"]), 3)
    deterministic = acts_by_mode(algorithm, run["deterministic_evaluation"])
    result = jaxpg.train(
        algorithm,
        train_key,
        num_env_steps=run["num_env_steps"],
        directory=None if folder is None else folder.path,
        target_return=run["target_return"],
        evaluate_every=run["evaluate_every"],
        evaluation_episodes=run["evaluation_episodes"],
        deterministic_evaluation=deterministic,
        checkpoint_every=run["checkpoint_every"],
        keep_checkpoints=run["keep_checkpoints"],
        nonfinite=run["nonfinite"],
        mesh=devices.mesh_over(_devices(run)),
        quick_compile=run["quick_compile"],
        loggers=[] if folder is None else _loggers(run["loggers"], folder.path),
        callback=None if sys.stderr.isatty() else progress_lines(output, run["num_env_steps"]),
    )
    _say_what_came(output, result)
    is_over = result.stopped not in _EXIT_CODES
    scores: dict[str, Any] = {}
    if is_over and result.stopped != "nonfinite":
        with output.status("evaluating"):
            for name, params in (("evaluation", result.params), ("best", result.best_params)):
                if params is not None:
                    scores[name] = jaxpg.evaluate(
                        evaluation_key, algorithm.env, algorithm.policy, params,
                        num_episodes=run["evaluation_episodes"], deterministic=deterministic,
                    )  # fmt: skip
        facts(output, [evaluation_fact(score, name) for name, score in scores.items()])
    if folder is not None:
        _write(folder, settings, algorithm, result, scores)
        if is_over:
            _draw(output, folder, settings, algorithm, result, film_key if scores else None)
        say_files(output, folder.written)
    if not is_over:
        _leave(result.stopped, folder)
    if result.stopped == "nonfinite":
        raise ValueError(
            f"the run ended at {result.num_env_steps:,} steps: {_REASONS['nonfinite']}; a smaller --learning-rate may "
            f"help, and --nonfinite skip goes on"
        )


def _devices(run: Mapping[str, Any]) -> int | None:
    """How many devices to use; None for all."""
    from jaxpg import _check

    return _check.count("devices", run["devices"], 0) or None


def _leave(stopped: str, folder: RunFolder | None) -> None:
    from jaxpg.cli import _say_error

    kept = f"`jaxpg resume {folder.path}` goes on from here" if folder is not None else "without --out nothing is kept"
    _say_error(f"{stopped} ({_REASONS[stopped]}); {kept}")
    raise SystemExit(_EXIT_CODES[stopped])


def _loggers(names: Any, path: pathlib.Path) -> list[Any]:
    from jaxpg import loggers

    make = {
        "csv": lambda: loggers.csv(path / "log.csv"),
        "jsonl": lambda: loggers.jsonl(path / "log.jsonl"),
        "tensorboard": lambda: loggers.tensorboard(path / "tensorboard"),
    }
    return [make[name]() for name in dict.fromkeys(names)]


def _say_what_came(output: Any, result: Any) -> None:
    heading(output, "Result", _REASONS.get(result.stopped) or result.stopped)
    rows = [
        (
            "steps",
            f"{result.num_env_steps:,}",
            f"{rate(result.num_env_steps, result.seconds)} a second, compiling included",
        ),
        ("updates", f"{result.num_updates:,}"),
        ("time", seconds(result.seconds)),
    ]
    if result.num_nonfinite:
        rows.append(("not applied", f"{result.num_nonfinite:,}", "updates that met NaN or infinite values"))
    returns = result.history.get("episode_return", np.array([]))
    if np.isfinite(returns).any():
        rows.append(
            ("last return", f"{returns[np.isfinite(returns)][-1]:.5g}", "of training, mean of an update's episodes")
        )
    facts(output, rows)


def progress_lines(output: Any, num_env_steps: int, interval: float = 10.0) -> Callable[[Mapping[str, Any]], None]:
    """A callback that says every `interval` seconds how far a run is: for logs, where no bar can be drawn."""
    last = start = time.perf_counter()

    def callback(block: Mapping[str, Any]) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last < interval:
            return
        last = now
        steps = int(block["total_env_steps"][-1])
        returns = block["episode_return"][np.isfinite(block["episode_return"])]
        told = f"return {returns[-1]:.4g}" if returns.size else "no episode has ended"
        output.print(f"  {steps:,} of {num_env_steps:,} steps, {now - start:.0f} s, {told}")

    return callback


def _write(folder: RunFolder, settings: Settings, algorithm: Any, result: Any, scores: Mapping[str, Any]) -> None:
    """The policy, result.json and metrics.csv: what is worth most comes first, in case the disk is full."""
    metadata = {"num_env_steps": result.num_env_steps, **settings.values}
    metadata["deterministic"] = acts_by_mode(algorithm, None)  # What `jaxpg evaluate` goes by.
    with _going_on(folder, "policy"):
        folder.write_policy("policy", algorithm.policy, result.params, algorithm.env, metadata)
    with _going_on(folder, "result.json"):
        folder.write_json("result.json", {
            "stopped": result.stopped, "num_env_steps": result.num_env_steps, "num_updates": result.num_updates,
            "num_nonfinite": result.num_nonfinite, "seconds": result.seconds,
            "evaluation": None, "best": None,
            **{name: {"returns": score.returns, "lengths": score.lengths} for name, score in scores.items()},
        })  # fmt: skip
    if result.num_updates > 0:
        with _going_on(folder, "metrics.csv"):
            folder.write_metrics("metrics.csv", result.history)


def _draw(output: Any, folder: RunFolder, settings: Settings, algorithm: Any, result: Any, film_key: Any) -> None:
    """The curve and the film, where there is something to show."""
    from jaxpg.render import can_render

    returns = result.history.get("episode_return", np.array([]))
    if np.isfinite(returns).sum() >= 2:
        title = f"{algorithm.name} on {algorithm.env.name}"
        steps = result.history["total_env_steps"]
        with _going_on(folder, "learning_curve.png"):
            folder.write_learning_curve("learning_curve.png", [steps], [returns], title, settings.run["target_return"])
    if film_key is None:
        return
    if can_render(algorithm.env):
        deterministic = acts_by_mode(algorithm, settings.run["deterministic_evaluation"])
        with output.status("drawing"), _going_on(folder, "policy.gif"):
            folder.write_film("policy.gif", algorithm.env, algorithm.policy, result.params, film_key, deterministic)
    else:
        output.print(f"  no policy.gif: there is no drawing for {algorithm.env.name}", style="dim")


@contextlib.contextmanager
def _going_on(folder: RunFolder, name: str) -> Iterator[None]:
    """A file that cannot be written is a warning: there are others, and the run is over."""
    try:
        yield
    except OSError as error:
        message = f"{folder.path / name} could not be written: {error.strerror or error}"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
