"""`jaxpg demo`: one gradient, one solved environment, many seeds, one figure, one film."""

import time
from typing import Any

import numpy as np

from jaxpg.cli import devices
from jaxpg.cli.commands import Demo
from jaxpg.cli.console import console, facts, heading, rate, say_files, seconds
from jaxpg.cli.run_folder import RunFolder

__all__ = ["run_demo", "solve"]

ENVIRONMENT = "CartPole-v1"
SOLVED = 475.0  # Mean return over 100 episodes at which CartPole-v1 counts as solved; the limit is 500.


def run_demo(command: Demo) -> None:
    """Estimates one gradient, trains one policy, then 16 at once; writes the curves and the GIF, and says where."""
    start = time.perf_counter()
    devices.prepare()
    import jax

    import jaxpg
    from jaxpg import _check

    num_seeds = _check.count("seeds", command.seeds)
    num_env_steps = _check.count("num_env_steps", command.num_env_steps)
    max_env_steps = _check.count("max_env_steps", command.max_env_steps)
    folder = RunFolder(command.out)
    output = console()
    env = jaxpg.make(ENVIRONMENT)
    _estimate(output, env, command.seed, command.num_episodes)

    algorithm = jaxpg.reinforce(env, jaxpg.policies.mlp(env), jaxpg.policies.value_mlp(env))
    solve_key, seeds_key, film_key = jax.random.split(jax.random.key(command.seed), 3)
    params = _train_until_solved(output, algorithm, solve_key, max_env_steps)
    runs = _train_seeds(output, algorithm, seeds_key, num_seeds, num_env_steps)

    with output.status("drawing"):
        curves = [runs.isel(seed=i, update=runs.env_steps[i].notnull()) for i in range(num_seeds)]
        steps, returns = ([curve[name].values for curve in curves] for name in ("env_steps", "episode_return"))
        folder.write_learning_curve("learning_curves.png", steps, returns, f"REINFORCE on {env.name}", SOLVED)
        folder.write_film("policy.gif", env, algorithm.policy, params, film_key)
    say_files(output, folder.written)
    output.print(f"\nAll in {seconds(time.perf_counter() - start)}.")


def _estimate(output: Any, env: Any, seed: int, num_episodes: int) -> None:
    import jaxpg
    from jaxpg.cli.gradient import estimate_facts, timed_gradient

    heading(
        output,
        "1  One gradient",
        f"{num_episodes:,} whole episodes of {env.name}, untrained policy, {devices.describe()}",
    )
    with output.status("compiling"):
        result = timed_gradient(
            env, jaxpg.policies.mlp(env), seed, num_episodes=num_episodes, mesh=devices.mesh_over(None)
        )
    facts(output, estimate_facts(result))


def _train_until_solved(output: Any, algorithm: Any, key: Any, max_env_steps: int) -> Any:
    """Says how it went; the policy's parameters."""
    from jaxpg.cli.train import evaluation_fact

    heading(output, "2  Until it is solved", "REINFORCE with a learned value baseline")
    start = time.perf_counter()
    result, scores, num_env_steps = solve(algorithm, key, SOLVED, max_env_steps)
    duration = time.perf_counter() - start
    is_solved = scores.returns.mean() >= SOLVED
    facts(output, [
        ("solved" if is_solved else "not solved", f"{num_env_steps:,} steps",
         f"in {seconds(duration)}, compiling and evaluation included"),
        evaluation_fact(scores),
    ])  # fmt: skip
    return result.params


def solve(algorithm: Any, key: Any, target_return: float, max_env_steps: int) -> tuple[Any, Any, int]:
    """Trains until 100 fresh episodes return `target_return` on average, or `max_env_steps` are taken.

    Returns:
      (the last `TrainResult`, the last `Evaluation`, all environment steps of the training).
    """
    import jax

    import jaxpg

    train_key, evaluation_key = jax.random.split(key)
    start: dict[str, Any] = {"key": train_key}
    taken = attempts = 0
    while True:
        result = jaxpg.train(algorithm, **start, num_env_steps=max_env_steps - taken, target_return=target_return)
        taken += result.num_env_steps
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        attempt_key = jax.random.fold_in(evaluation_key, attempts)
        scores = jaxpg.evaluate(attempt_key, algorithm.env, algorithm.policy, result.params, num_episodes=100)
        if result.stopped != "target" or scores.returns.mean() >= target_return or taken >= max_env_steps:
            return result, scores, taken
        start = {"state": result.state}
        attempts += 1


def _train_seeds(output: Any, algorithm: Any, key: Any, num_seeds: int, num_env_steps: int) -> Any:
    import jaxpg

    heading(output, f"3  {num_seeds} seeds at once", f"{num_env_steps:,} steps each, {devices.describe()}")
    start = time.perf_counter()
    runs = jaxpg.sweep(
        lambda: algorithm, {}, seeds=num_seeds, key=key, num_env_steps=num_env_steps, mesh="auto"
    )  # fmt: skip
    duration, run_seconds = time.perf_counter() - start, float(runs.wall_time.max())
    last = np.array([returns[np.isfinite(returns)][-1] for returns in runs.episode_return.values])
    steps = int(runs.env_steps.max("update").sum())
    facts(output, [
        ("steps", f"{steps:,}", f"{rate(steps, run_seconds)} a second"),
        ("return", f"{last.mean():.1f}", f"mean over the seeds' last updates; {last.min():.1f} to {last.max():.1f}"),
        ("time", seconds(run_seconds), f"and {seconds(duration - run_seconds)} to compile"),
    ])  # fmt: skip
    return runs
