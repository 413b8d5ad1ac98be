"""What every run of `jaxpg train` has, whatever its algorithm and its network; hyperparameters are read from those."""

import pathlib
from collections.abc import Sequence
from typing import Literal

__all__ = ["RunOptions"]


class RunOptions:
    """Names, kinds, defaults and help of the options; `jaxpg.cli.options` reads them, nobody makes one of these."""

    algorithm: Literal["reinforce", "a2c", "ppo", "npg", "trpo", "v_mpo", "impala", "pgpe"] = "ppo"
    """How to learn; `jaxpg train --algorithm NAME --help` lists its hyperparameters."""
    config: pathlib.Path | None = None
    """A YAML or JSON file with options, such as the config.yaml of another run; the command line goes before it."""
    no_preset: bool = False
    """Leave out the hyperparameters that jaxpg keeps for this algorithm in this environment."""
    num_env_steps: int = 500_000
    """Environment steps to take: the run ends with the first update that reaches them."""
    target_return: float | None = None
    """End as soon as the mean return of the last 100 episodes gets here."""
    network: Literal["mlp", "cnn", "recurrent"] = "mlp"
    """The policy, and the critic that is made like it; `--network NAME --help` lists what it takes."""
    normalize_observations: bool = False
    """Bring observations to mean 0 and variance 1, by running statistics."""
    anneal: bool = False
    """Let the learning rate fall to 0 linearly over the run."""
    max_steps: int | None = None
    """Episode limit in place of the environment's own."""
    devices: int = 1
    """Devices to lay the environments over, of which --num-envs must be a multiple; 0 for all. A CPU has one for each
    core."""
    quick_compile: bool = False
    """Compile the updates for a CPU in about a quarter of the time; they take up to five times as long. For short runs,
    and small policies."""
    seed: int = 0
    """Names all randomness of the run."""
    evaluate_every: int | None = None
    """Environment steps between evaluations during the run, which also keep the best parameters."""
    evaluation_episodes: int = 128
    """Fresh episodes of each evaluation, and of the one at the end."""
    deterministic_evaluation: bool | None = None
    """Evaluate and film the mode of the policy's distribution, or samples; by default what the algorithm trains:
    samples, with pgpe the mode where there is one."""
    out: pathlib.Path | None = None
    """Folder for the run's files; by default none are written."""
    overwrite: bool = False
    """Remove the run that --out holds and begin another there."""
    checkpoint_every: int | None = None
    """Environment steps between checkpoints; by default about a minute."""
    keep_checkpoints: int = 3
    """How many checkpoints are kept."""
    loggers: Sequence[Literal["csv", "jsonl", "tensorboard"]] = ()
    """Write each update at once to --out as well: log.csv, log.jsonl, the folder tensorboard."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """When an update met NaN or infinite values and was not applied: end the run there, or go on."""
    debug: bool = False
    """Show the whole traceback of an error, not one line."""
