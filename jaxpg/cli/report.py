"""What is told of runs: what they were asked for, and what their policies return."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxpg.cli import devices
from jaxpg.cli.build import acts_by_mode, num_parameters, versions
from jaxpg.cli.console import facts, heading, with_error
from jaxpg.cli.kinds import shown
from jaxpg.cli.options import dashed
from jaxpg.cli.settings import Settings

__all__ = ["evaluation_fact", "interquartile_mean", "say_what_runs"]

_NOT_TOLD = ("algorithm", "config", "no_preset", "debug", "overwrite")


def say_what_runs(output: Any, settings: Settings, algorithm: Any) -> None:
    """The environment, the policy, and every option in effect with where it comes from."""
    import jax

    env, found = algorithm.env, versions()
    where = devices.describe(settings.run["devices"] or None)
    heading(output, f"{algorithm.name} on {env.name}", f"{where}, limit {env.max_steps} steps")
    count = num_parameters(jax.eval_shape(algorithm.policy.init, jax.random.key(0)))
    facts(output, [
        ("environment", env.name, f"{env.observation_space} to {env.action_space}"),
        ("policy", settings.run["network"], f"{count:,} parameters"),
        ("versions", " ".join(f"{name} {found[name]}" for name in ("jaxpg", "jax", "jaxlib"))),
    ])  # fmt: skip
    run = {name: value for name, value in settings.run.items() if name not in _NOT_TOLD}
    # Where the default is to let the algorithm choose, what it chose.
    run["deterministic_evaluation"] = acts_by_mode(algorithm, run["deterministic_evaluation"])
    chosen = {name: algorithm.config.get(name) for name in settings.hyperparameters if name != "critic"}
    hyperparameters = {
        name: chosen.get(name) if value is None else value for name, value in settings.hyperparameters.items()
    }
    for title, values in (
        ("Run", run), (algorithm.name, hyperparameters), (settings.run["network"], settings.network),
    ):  # fmt: skip
        heading(output, title)
        facts(output, _options(values, settings.sources))


def _options(values: Mapping[str, Any], sources: Mapping[str, str]) -> Iterable[tuple[str, str, str]]:
    for name, value in values.items():
        yield dashed(name)[2:], shown(value), "" if sources[name] == "default" else sources[name]


def evaluation_fact(scores: Any, name: str = "evaluation") -> tuple[str, str, str]:
    """The mean return of evaluation episodes and its error, a line of a report."""
    returns = np.asarray(scores.returns, float)
    error = returns.std(ddof=1) / np.sqrt(len(returns)) if len(returns) > 1 else np.nan
    return (
        name,
        with_error(returns.mean(), error),
        f"return of {len(returns)} fresh episodes ± standard error; {returns.min():.5g} to {returns.max():.5g}",
    )


def interquartile_mean(values: Any) -> float:
    """The mean of the middle half: without the lowest and the highest quarter, rounded down to whole values."""
    ordered = np.sort(np.asarray(values, float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())
