"""`compare`: several estimators of one gradient, on the same episodes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg.comparison import timing
from jaxpg.comparison.moments import cosines, gradient_moments, mean_and_error
from jaxpg.comparison.replicates import (
    Gradient,
    check_problem,
    common_discount,
    estimator_functions,
    find_truth,
    replicates,
)
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Policy
from jaxpg.training.progress import Progress

__all__ = ["compare"]

# Variable: (what it is, unit). Gradients are in the unit of J over that of the parameters, here written g.
DESCRIPTIONS = {
    "bias_squared": ("‖E ĝ − ∇J‖², estimated without bias: near 0, also below it, for an unbiased estimator", "g²"),
    "variance": ("tr Cov(ĝ) of one estimate", "g²"),
    "mean_squared_error": ("E‖ĝ − ∇J‖² = bias² + variance", "g²"),
    "mean_squared_error_ratio": ("mean squared error over that of the first estimator, on the same keys", "1"),
    "cosine_similarity": ("mean cosine of the angle between ĝ and ∇J, 0 for ĝ = 0", "1"),
    "seconds": ("time of one estimate, compiled: median over rounds in which the estimators take turns", "s"),
    "efficiency": ("1 / (mean squared error × seconds): the accuracy that a second buys", "1/(g² s)"),
    "bytes": ("memory that XLA plans for one estimate: temporaries and outputs; NaN where it does not tell", "B"),
    "compile_seconds": ("time to trace and compile", "s"),
    "squared_error": ("‖ĝ − ∇J‖² of each replicate", "g²"),
    "round_seconds": ("time of one estimate in each round", "s"),
}


@hinted
def compare(
    env: Environment,
    policy: Policy,
    params: Any,
    estimators: Mapping[str, Any],
    *,
    num_episodes: int,
    key: Any,
    num_replicates: int = 256,
    truth: Any = None,
    reference_episodes: int = 1_000_000,
    discount: Any = None,
    timing_rounds: int = 7,
    replicates_at_once: int | None = None,
    progress: bool | None = None,
) -> Any:
    """Bias², variance, mean squared error, time and memory of several estimators of ∇J(θ), each with its error.

    Every estimator sees the same replicate keys, and so, if it samples with `policy`, the same episodes: their
    differences are far better known than their values (`mean_squared_error_ratio`, and `squared_error` by replicate).

    Args:
      env, policy, params: the problem. `compare` runs on the host: not under `jit` or `vmap`.
      estimators: name -> either arguments of `policy_gradient` (`{"weight": …, "baseline": …}`; a `num_episodes` there
        stands over the common one), or a function (key, params) -> GradientEstimate, or a pytree like params.
      num_episodes: N, of one estimate.
      key: a random key.
      num_replicates: R, estimates of each estimator, at least 4. Relative errors fall with √R. Memory: R gradients in
        64 bits, of one estimator at a time.
      truth: ∇J, a pytree like params; or a problem that knows it, such as a `FiniteMDP` or `LQR`. None: a reference is
        sampled, reward-to-go with leave-one-out, in 32 independent parts; its own squared error is taken off bias² and
        mean squared error, its uncertainty is part of their errors, and `truth_squared_error` tells it.
      reference_episodes: of the reference; used only without `truth`.
      discount: γ of the reference's J; by default that of the estimators' weights, which must then agree.
      timing_rounds: rounds for `seconds`; 0 leaves time and memory out (NaN).
      replicates_at_once: replicates that are mapped over together; None: as many as have a million steps.
      progress: draw a progress bar; default: where the output is a terminal.
    Returns:
      An `xarray.Dataset` over `estimator` (and `replicate`, `round`): `bias_squared`, `variance`, `mean_squared_error`,
      `mean_squared_error_ratio`, `cosine_similarity`, `seconds`, `efficiency`, each with `…_error`, its standard error;
      `bytes`, `compile_seconds`, `squared_error`, `round_seconds`. With estimated values mean squared error = bias² +
      variance holds exactly. `jaxpg.comparison.table` and `.plot` show it.
    Raises:
      ValueError, TypeError: for arguments out of range, unknown arguments of an estimator, a truth or an estimate that
        is not like params, gradients that are not finite.
    """
    num_episodes = _check.count("num_episodes", num_episodes)
    num_replicates = _check.count("num_replicates", num_replicates, 4)
    timing_rounds = _check.count("timing_rounds", timing_rounds, 0)
    replicates_at_once = _check.optional(_check.count, "replicates_at_once", replicates_at_once)
    _check.optional(_check.boolean, "progress", progress)
    key = check_problem(env, policy, params, key)
    replicate_key, timing_key, reference_key = (jax.random.fold_in(key, i) for i in range(3))
    functions = estimator_functions(env, policy, params, estimators, num_episodes, key)
    keys = jax.random.split(replicate_key, num_replicates)
    sizes = [options.get("num_episodes") for options in estimators.values() if isinstance(options, Mapping)]
    steps_each = max([num_episodes, *(size for size in sizes if isinstance(size, int))]) * (env.max_steps or 1)
    found = {}
    with Progress(f"compare on {env.name}", len(functions) + (truth is None), progress) as bar:
        exact = find_truth(
            env,
            policy,
            params,
            truth,
            reference_key,
            reference_episodes,
            lambda: common_discount(estimators, discount),
            _shown(bar, "reference", 0),
        )
        for place, (name, function) in enumerate(functions.items(), truth is None):
            argument, shown = f"estimators[{name!r}]", _shown(bar, name, place)
            gradients = replicates(argument, function, params, keys, steps_each, replicates_at_once, shown)
            moments = gradient_moments(gradients, exact)
            found[name] = moments._asdict() | _with_error(
                "cosine_similarity", *mean_and_error(cosines(gradients, exact.gradient))
            )
        bar.show(len(functions) + (truth is None), f"{timing_rounds} timing rounds")
        measured = _timed(functions, params, timing_key, timing_rounds)
    rows = list(found.values())
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "squared_errors"}
    squared_errors = np.stack([row["squared_errors"] for row in rows])
    columns |= _ratios(squared_errors)
    columns |= {name: value for name, value in measured.items() if name != "round_seconds"}
    columns |= _efficiency(columns)
    attributes = {
        "environment": env.name,
        "num_episodes": num_episodes,
        "num_replicates": num_replicates,
        "num_parameters": exact.gradient.size,
        "truth": exact.description,
        "truth_squared_norm": float(exact.gradient @ exact.gradient) - exact.squared_error,
        "truth_squared_error": exact.squared_error,
    }
    variables: dict[str, Any] = {name: ("estimator", value) for name, value in columns.items()}
    variables["squared_error"] = (("estimator", "replicate"), squared_errors)
    variables["round_seconds"] = (("estimator", "round"), measured["round_seconds"])
    return labelled(variables, {"estimator": list(functions)}, attributes, DESCRIPTIONS)


def labelled(
    variables: dict[str, Any], coordinates: dict[str, Any], attributes: dict[str, Any], descriptions: Mapping[Any, Any]
) -> Any:
    """The `xarray.Dataset`, its variables with `long_name` and `units`."""
    import xarray

    dataset = xarray.Dataset(variables, coordinates, attributes)
    for name, variable in dataset.data_vars.items():
        known = name if name in descriptions else str(name).removesuffix("_error")
        text, units = descriptions[known]
        variable.attrs = {"long_name": text if known == name else f"standard error of {known}", "units": units}
    return dataset


def _shown(bar: Progress, name: str, place: int) -> Callable[[int, int], None]:
    """Shows how far an estimator is, for which `place` others are done."""
    return lambda done, of: bar.show(place + done / of, f"{name}: {done} of {of} gradients")


def _with_error(name: str, value: Any, error: Any) -> dict[str, Any]:
    return {name: value, f"{name}_error": error}


def _ratios(squared_errors: np.ndarray) -> dict[str, np.ndarray]:
    """Mean squared errors over the first one's; the error by linearising the ratio of paired means."""
    means = squared_errors.mean(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = means / means[0]
        residuals = (squared_errors - ratios[:, None] * squared_errors[0]) / means[0]
    errors = residuals.std(1, ddof=1) / np.sqrt(squared_errors.shape[1])
    return _with_error("mean_squared_error_ratio", ratios, errors)


def _timed(functions: dict[str, Gradient], params: Any, key: jax.Array, rounds: int) -> dict[str, np.ndarray]:
    """Seconds, bytes and compile seconds [estimator], and seconds of each round [estimator, round]."""
    if not rounds:
        nothing = np.full(len(functions), np.nan)
        names = ("seconds", "seconds_error", "bytes", "compile_seconds")
        return dict.fromkeys(names, nothing) | {"round_seconds": np.empty((len(functions), 0))}
    programs = [timing.compile_once(function, key, params) for function in functions.values()]
    seconds = timing.in_turns([program.call for program in programs], key, params, rounds)
    low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75], axis=1)
    # The standard error of a normal sample's median is 1.2533 σ / √n, and its interquartile range is 1.349 σ.
    return _with_error("seconds", median, 1.2533 * (high - low) / 1.349 / np.sqrt(rounds)) | {
        "bytes": np.array([program.bytes for program in programs]),
        "compile_seconds": np.array([program.seconds for program in programs]),
        "round_seconds": seconds,
    }


def _efficiency(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """1 / (mean squared error × seconds); NaN where the estimated error is not above 0."""
    error, seconds = columns["mean_squared_error"], columns["seconds"]
    with np.errstate(invalid="ignore", divide="ignore"):
        efficiency = np.where(error > 0, 1.0 / (error * seconds), np.nan)
        relative = np.hypot(columns["mean_squared_error_error"] / error, columns["seconds_error"] / seconds)
    return _with_error("efficiency", efficiency, efficiency * relative)
