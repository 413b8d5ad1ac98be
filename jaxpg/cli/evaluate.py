"""`jaxpg evaluate DIR` and `jaxpg render DIR`: what a trained policy returns, and how it looks."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxpg.cli import devices
from jaxpg.cli.commands import Evaluate, Render
from jaxpg.cli.console import console, facts, heading, say_files, with_error
from jaxpg.cli.report import evaluation_fact, interquartile_mean
from jaxpg.cli.run_folder import CONFIG, why_not

__all__ = ["Trained", "episodes_key", "load_trained", "run_evaluate", "run_render"]


class Trained(NamedTuple):
    """A policy with its parameters, where it plays, in words which one it is, and whether its mode was trained."""

    env: Any
    policy: Any
    params: Any
    which: str
    deterministic: bool


def load_trained(path: pathlib.Path, best: bool) -> Trained:
    """The policy of a run's newest checkpoint, or with its best evaluation, or one of `jaxpg.save_policy`."""
    path = path.expanduser()
    if (path / CONFIG).is_file():
        return _of_run(path, best)
    if path.name in ("policy.json", "policy.safetensors"):
        path = path.parent
    if not (path / "policy.json").is_file():
        raise ValueError(
            f"DIR must be the folder of a run, with {CONFIG}, or of jaxpg.save_policy, with policy.json; "
            f"{why_not(path, CONFIG, 'policy.json')}"
        )
    if best:
        raise ValueError(f"--best is for the folders of runs; {path} holds one policy")
    return _saved(path)


def _of_run(path: pathlib.Path, best: bool) -> Trained:
    import jaxpg
    from jaxpg.cli.build import acts_by_mode, make_algorithm
    from jaxpg.cli.train import settings_of
    from jaxpg.training.checkpoints import load_best

    algorithm = make_algorithm(settings_of(path))
    if best:
        params, info = load_best(path, algorithm.policy)
        which = f"best, after {info['num_env_steps']:,} steps"
    else:
        checkpoint = jaxpg.load_checkpoint(path, algorithm)
        params, which = checkpoint.state.params, f"after {checkpoint.num_env_steps:,} steps"
    deterministic = acts_by_mode(algorithm, None)
    return Trained(algorithm.env, algorithm.policy, params, f"{algorithm.name}, {which}", deterministic)


def _saved(path: pathlib.Path) -> Trained:
    import json

    import jaxpg
    from jaxpg.cli.build import make_environment

    record = json.loads((path / "policy.json").read_text(encoding="utf-8"))
    saved, metadata = record.get("env"), record.get("metadata")
    if saved is None:
        raise ValueError(
            f"DIR: {path} was saved without an environment; load it in Python, jaxpg.load_policy(…, env=…)"
        )
    env = make_environment(saved["name"], saved["max_steps"])
    policy, params = jaxpg.load_policy(path, env)
    # What `jaxpg train` has noted; somebody else's metadata may be anything.
    deterministic = isinstance(metadata, dict) and metadata.get("deterministic") is True
    return Trained(env, policy, params, "saved", deterministic)


def episodes_key(seed: int) -> Any:
    """The key of the seed's episodes, which no run with that seed uses."""
    import jax

    return jax.random.fold_in(jax.random.key(seed), 0x65766173)


def run_evaluate(command: Evaluate) -> None:
    """Prints the mean return with its error, the interquartile mean, the range and the lengths."""
    devices.prepare(1)
    import jaxpg
    from jaxpg import _check

    num_episodes = _check.count("num_episodes", command.num_episodes)
    trained = load_trained(command.directory, command.best)
    output = console()
    deterministic = trained.deterministic if command.deterministic is None else command.deterministic
    acting = "the mode of its distribution" if deterministic else "samples"
    heading(output, f"{trained.env.name}, {trained.which}", f"{command.directory}, actions are {acting}")
    with output.status("evaluating"):
        scores = jaxpg.evaluate(
            episodes_key(command.seed), trained.env, trained.policy, trained.params,
            num_episodes=num_episodes, deterministic=deterministic,
        )  # fmt: skip
    returns, lengths = np.asarray(scores.returns, float), np.asarray(scores.lengths, float)
    error = lengths.std(ddof=1) / np.sqrt(len(lengths)) if len(lengths) > 1 else np.nan
    _, mean, note = evaluation_fact(scores)
    facts(output, [
        ("return", mean, note.partition(";")[0].removeprefix("return ")),
        ("interquartile mean", f"{interquartile_mean(returns):.5g}", "of the returns"),
        ("median", f"{np.median(returns):.5g}"),
        ("range", f"{returns.min():.5g} to {returns.max():.5g}"),
        ("length", with_error(lengths.mean(), error), "steps of an episode"),
    ])  # fmt: skip


def run_render(command: Render) -> None:
    """Writes the GIF of one episode."""
    devices.prepare(1)
    from jaxpg.render import render_episode

    trained = load_trained(command.directory, command.best)
    deterministic = trained.deterministic if command.deterministic is None else command.deterministic
    path = _film(command)
    output = console()
    with output.status("drawing"):
        render_episode(
            trained.env, trained.policy, trained.params, episodes_key(command.seed), path,
            episode=command.episode, deterministic=deterministic,
        )  # fmt: skip
    say_files(output, [path])


def _film(command: Render) -> pathlib.Path:
    if command.out is not None:
        return pathlib.Path(command.out).expanduser()
    path = command.directory.expanduser()
    if (path / CONFIG).is_file():
        return path / ("best.gif" if command.best else "policy.gif")
    folder = path.parent if path.name.startswith("policy.") else path
    return folder.resolve().with_name(f"{folder.resolve().name}.gif")
