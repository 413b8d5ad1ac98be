"""`jaxpg train ENV`: a run, its evaluation, and its files."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxpg.cli import devices
from jaxpg.cli.build import make_algorithm, make_environment, num_parameters, versions
from jaxpg.cli.commands import Train
from jaxpg.cli.console import console, facts, heading, rate, say_files, seconds, with_error
from jaxpg.cli.run_folder import RunFolder

__all__ = ["evaluation_fact", "progress_lines", "run_train"]

_REASONS: dict[str, str] = {
    "budget": "the steps asked for are taken",
    "target": "the target return is reached",
    "interrupted": "Ctrl-C",
    "nonfinite": "the parameters are no longer finite; try a smaller --learning-rate",
}


def run_train(command: Train) -> None:
    """Trains, for one seed or several, evaluates, and writes what the run leaves into its folder."""
    devices.prepare(1)
    import jax

    import jaxpg
    from jaxpg import _check

    eval_episodes = _check.count("eval_episodes", command.eval_episodes)
    env = make_environment(command.env, command.max_steps)
    algorithm = make_algorithm(command, env)
    folder = None if command.out is None else RunFolder(command.out, command.overwrite)
    output = console()
    _say_what_runs(output, command, algorithm)
    if folder is not None:
        folder.write_json("config.json", {"command": "train", "options": command, "versions": versions()})

    train_key, evaluation_key, film_key = jax.random.split(jax.random.key(command.seed), 3)
    result = jaxpg.train(
        algorithm, train_key, num_env_steps=command.num_env_steps, target_return=command.target_return,
        callback=None if sys.stderr.isatty() else progress_lines(output, command.num_env_steps),
    )  # fmt: skip
    _say_what_came(output, result)
    if folder is not None and result.num_updates > 0:
        folder.write_metrics("metrics.csv", result.history)
    scores = None
    if result.stopped != "nonfinite":
        with output.status("evaluating"):
            scores = jaxpg.evaluate(evaluation_key, env, algorithm.policy, result.params, num_episodes=eval_episodes)
        facts(output, [evaluation_fact(scores)])
    if folder is not None:
        _write_rest(output, folder, command, algorithm, result, scores, film_key)
        say_files(output, folder.written)
    if result.stopped == "interrupted":
        raise KeyboardInterrupt
    if result.stopped == "nonfinite":
        raise ValueError(f"the run ended at {result.num_env_steps:,} steps: {_REASONS['nonfinite']}")


def _say_what_runs(output: Any, command: Train, algorithm: Any) -> None:
    import jax

    env = algorithm.env
    network = "-".join(map(str, command.hidden_sizes)) or "linear"
    count = num_parameters(jax.eval_shape(algorithm.policy.init, jax.random.key(0)))
    heading(output, f"{command.algorithm.upper()} on {env.name}", f"{devices.describe()}, limit {env.max_steps} steps")
    target = "" if command.target_return is None else f"or to a return of {command.target_return:g}"
    facts(output, [
        ("policy", network, f"{count:,} parameters, {env.observation_space} to {env.action_space}"),
        ("baseline", command.baseline),
        ("update", f"{command.num_episodes} episodes", f"discount {command.discount:g}, learning rate "
                                                       f"{command.learning_rate:g}"),
        ("budget", f"{command.num_env_steps:,} steps", target),
        ("seed", str(command.seed)),
    ])  # fmt: skip


def _say_what_came(output: Any, result: Any) -> None:
    heading(output, "Result", _REASONS.get(result.stopped) or result.stopped)
    per_second = f"{rate(result.num_env_steps, result.seconds)} a second, compiling included"
    rows = [
        ("steps", f"{result.num_env_steps:,}", per_second),
        ("updates", f"{result.num_updates:,}"),
        ("time", seconds(result.seconds)),
    ]
    returns = result.history.get("episode_return", np.array([]))
    if np.isfinite(returns).any():
        rows.append(("last update", f"{returns[np.isfinite(returns)][-1]:.5g}", "mean return of its episodes"))
    facts(output, rows)


def evaluation_fact(scores: Any) -> tuple[str, str, str]:
    """The mean return of evaluation episodes and its error, a line of a report."""
    returns = np.asarray(scores.returns, float)
    error = returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else np.nan
    return (
        "evaluation",
        with_error(returns.mean(), error),
        f"return of {len(returns)} fresh episodes ± standard error; {returns.min():.5g} to {returns.max():.5g}",
    )


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
        output.print(
            f"  {steps:,} of {num_env_steps:,} steps, {now - start:.0f} s, return {block['episode_return'][-1]:.4g}"
        )

    return callback


def _write_rest(
    output: Any, folder: RunFolder, command: Train, algorithm: Any, result: Any, scores: Any, film_key: Any
) -> None:
    """result.json, and the curve and the film where there is something to show."""
    from jaxpg.render import can_render

    folder.write_json("result.json", {
        "stopped": result.stopped, "num_env_steps": result.num_env_steps, "num_updates": result.num_updates,
        "seconds": result.seconds,
        "evaluation": None if scores is None else {"returns": scores.returns, "lengths": scores.lengths},
    })  # fmt: skip
    returns = result.history.get("episode_return", np.array([]))
    if np.isfinite(returns).sum() >= 2:
        title = f"{command.algorithm.upper()} on {algorithm.env.name}"
        folder.write_learning_curve(
            "learning_curve.png", [result.history["total_env_steps"]], [returns], title, command.target_return
        )
    if scores is None:
        return
    if can_render(algorithm.env):
        with output.status("drawing"):
            folder.write_film("policy.gif", algorithm.env, algorithm.policy, result.params, film_key)
    else:
        output.print(f"  no policy.gif: there is no drawing for {algorithm.env.name}", style="dim")
