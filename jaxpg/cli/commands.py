"""What can be typed: one dataclass for a subcommand, its fields the options, their docstrings the help.

`run` does the work, in a module that is imported only then.
"""

from __future__ import annotations

import abc
import dataclasses
import pathlib
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from jaxpg.cli.settings import Settings

__all__ = [
    "COMMANDS",
    "CheckEnv",
    "Demo",
    "EnvironmentName",
    "Envs",
    "Evaluate",
    "FileName",
    "Gradient",
    "Plot",
    "Render",
    "Resume",
    "Train",
]


# Of an option whose text tells what it is by default.
TOLD = tyro.conf.arg(help_behavior_hint="")


class EnvironmentName(str):
    """A name that `jaxpg envs` lists."""


class FileName(str):
    """The name of a file to write."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command(abc.ABC):
    """What all commands share."""

    debug: bool = False
    """Show the whole traceback of an error, not one line."""

    @abc.abstractmethod
    def run(self) -> None:
        """Does what was asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """Estimate a gradient, solve CartPole-v1, train 16 seeds at once, draw a curve and a film: in about a minute.

    Example:  jaxpg demo --out outputs/demo

    What it does:
    1. One policy gradient from many whole episodes of an untrained policy, on all cores (or accelerators).
    2. REINFORCE with a learned value baseline, until 100 fresh episodes return 475 or more on average.
    3. Many seeds of it in one compiled program.
    4. learning_curves.png (every seed, their mean and its 95% confidence band) and policy.gif (the policy of step 2).
    """

    out: pathlib.Path = pathlib.Path("outputs/demo")
    """Where the two files go."""
    num_episodes: int = 65_536
    """Whole episodes of the gradient estimate of step 1."""
    max_env_steps: int = 1_000_000
    """Environment steps after which step 2 gives up."""
    seeds: int = 16
    """Seeds trained at once in step 3."""
    num_env_steps: int = 200_000
    """Environment steps of each seed in step 3: it ends with its first update that reaches them."""
    seed: int = 0
    """Names all randomness of the demo."""

    def run(self) -> None:
        from jaxpg.cli.demo import run_demo

        run_demo(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradient(Command):
    """Estimate one policy gradient of an untrained policy from whole episodes, and say how good the estimate is.

    Example:  jaxpg gradient CartPole-v1 --num-episodes 65536 --weight total-return --baseline leave-one-out

    The policy is a multilayer perceptron with random weights. Weights that hold a value function (n-step, TD residual,
    generalized advantages) need a trained one and are left to the Python interface, jaxpg.policy_gradient.
    """

    env: EnvironmentName
    """The environment: a name that `jaxpg envs` lists, or MODULE:NAME, one of your own (see `jaxpg check-env`)."""
    num_episodes: int = 4_096
    """Whole episodes to average over."""
    weight: Literal["reward-to-go", "total-return"] = "reward-to-go"
    """What multiplies the score of a step: the rewards from it on, or all of its episode."""
    baseline: Literal["none", "leave-one-out", "time"] = "none"
    """What is subtracted from the weight: nothing, the mean over the other episodes of a chunk, or their mean at the
    same time step."""
    discount: float = 0.99
    """γ of the objective, the discounted return."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the policy's hidden layers; none at all for a linear policy."""
    chunk_size: Annotated[int | None, TOLD] = None
    """Most episodes whose steps are in memory at once; by default from the size of the buffers."""
    max_steps: int | None = None
    """Episode limit in place of the environment's own."""
    seed: int = 0
    """Names the policy's weights and the episodes."""
    devices: Annotated[int | None, TOLD] = None
    """Devices to lay the episodes over; by default all, which on a CPU is one for each core."""

    def run(self) -> None:
        from jaxpg.cli.gradient import run_gradient

        run_gradient(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a policy, evaluate it on fresh episodes, and write what the run leaves.

    Example:  jaxpg train CartPole-v1 --algorithm ppo --seed 1 --out runs/cartpole

    `jaxpg train ENV --algorithm NAME --help` lists the algorithm's hyperparameters and those of the network; each is an
    option. What is not typed comes from the file of --config, then from what jaxpg keeps for the algorithm in this
    environment (--no-preset leaves that out), then it is the default. What is a function or an optimiser in Python is
    written as its call: --optimizer "rmsprop(6e-4, decay=0.99)", --learning-rate "linear_schedule(1e-3, 0, 500)".

    With --out: config.yaml (all of that, and versions), metrics.jsonl and metrics.csv (a line for each update),
    evaluations.jsonl, checkpoints, best and policy (`jaxpg.load_policy`), result.json, learning_curve.png and, where
    there is a drawing for the environment, policy.gif. Ctrl-C and SIGTERM end the run early and save it;
    `jaxpg resume DIR` goes on.
    """

    settings: Settings
    """What the words, the file, the presets and the defaults say together."""

    def run(self) -> None:
        from jaxpg.cli.train import run_train

        run_train(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resume(Command):
    """Go on with a run that was interrupted, or prolong it: it ends as if it had never been interrupted.

    Example:  jaxpg resume runs/cartpole

    Everything is as the folder's config.yaml says.
    """

    directory: pathlib.Path
    """The folder, the --out of `jaxpg train`."""
    num_env_steps: Annotated[int | None, TOLD] = None
    """Environment steps in all, those already taken included; by default as many as the run was started for. A learning
    rate that is annealed then falls to 0 over these."""

    def run(self) -> None:
        from jaxpg.cli.train import run_resume

        run_resume(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Play fresh episodes with a trained policy and say what they return.

    Example:  jaxpg evaluate runs/cartpole --num-episodes 1000
    """

    directory: pathlib.Path
    """The folder of a run, whose newest checkpoint is taken, or one of `jaxpg.save_policy`."""
    num_episodes: int = 1_000
    """Whole episodes."""
    deterministic: Annotated[bool | None, TOLD] = None
    """Take the mode of the policy's distribution, or samples; by default what the algorithm trained: samples, with pgpe
    the mode where there is one."""
    best: bool = False
    """Take the parameters with the best evaluation of the run, not the last."""
    seed: int = 0
    """Names the episodes."""

    def run(self) -> None:
        from jaxpg.cli.evaluate import run_evaluate

        run_evaluate(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Render(Command):
    """Play one episode with a trained policy and draw it as a GIF.

    Example:  jaxpg render runs/cartpole --out cartpole.gif
    """

    directory: pathlib.Path
    """The folder of a run, whose newest checkpoint is taken, or one of `jaxpg.save_policy`."""
    out: Annotated[FileName | None, TOLD] = None
    """The file; by default policy.gif (with --best best.gif) in the run's folder, or beside that of a saved policy."""
    deterministic: Annotated[bool | None, TOLD] = None
    """Take the mode of the policy's distribution, or samples; by default what the algorithm trained: samples, with pgpe
    the mode where there is one."""
    best: bool = False
    """Take the parameters with the best evaluation of the run, not the last."""
    episode: int = 0
    """Which of the seed's episodes."""
    seed: int = 0
    """Names the episodes; they are those of `jaxpg evaluate` with the same seed."""

    def run(self) -> None:
        from jaxpg.cli.evaluate import run_render

        run_render(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot(Command):
    """Draw the learning curves of runs. Runs that differ in the seed alone are one curve, their mean with its band.

    Example:  jaxpg plot runs/ppo-* --out curves.png

    Circles are the evaluations of runs that were evaluated. Of a sweep there is a curve for each setting, the
    interquartile mean over its seeds with its band.
    """

    directories: Annotated[tuple[pathlib.Path, ...], TOLD]
    """The folders, the --out of `jaxpg train` or the directory= of jaxpg.train, or the one of a jaxpg.sweep."""
    out: FileName = FileName("learning_curves.png")
    """The file; its ending says the format: png, pdf, svg."""
    metric: str = "episode_return"
    """What is drawn, a name in metrics.jsonl or a variable of the sweep."""
    x: Literal["env-steps", "updates"] = "env-steps"
    """What it is drawn against."""
    target: float | None = None
    """A value to mark by a line."""

    def run(self) -> None:
        from jaxpg.cli.plot import run_plot

        run_plot(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Envs(Command):
    """List the environments that are installed: what is observed, what can be done, how long an episode may last.

    Example:  jaxpg envs --suite brax
    """

    suite: str = "gymnax"
    """Whose: gymnax, brax, craftax, jumanji, mujoco_playground, navix, pgx, xminigrid, or all that are installed: all.
    To tell their spaces they are built, which takes a while for some."""

    def run(self) -> None:
        from jaxpg.cli.envs import run_envs

        run_envs(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckEnv(Command):
    """Play an environment with random actions and see whether it keeps what the rest of jaxpg relies on.

    Example:  jaxpg check-env my_package.my_module:make_environment

    Looked at are structure and dtypes, purity, vmap against a loop, recompilation, spaces and masks, ends of episodes
    and their last observations, hidden resets and time limits. The exit code is 1 if a check fails.
    """

    env: EnvironmentName
    """A name that `jaxpg envs` lists, or MODULE:NAME, where NAME in that module of yours is an Environment, or a
    function without arguments that makes one."""
    num_episodes: int = 16
    """Played side by side."""
    num_steps: Annotated[int | None, TOLD] = None
    """Most steps of each; by default the episode limit, at most 1,000."""
    max_steps: int | None = None
    """Episode limit in place of the environment's own."""
    seed: int = 0
    """Names the episodes and the actions."""

    def run(self) -> None:
        from jaxpg.cli.envs import run_check_env

        run_check_env(self)


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "gradient": Gradient,
    "train": Train,
    "resume": Resume,
    "evaluate": Evaluate,
    "render": Render,
    "plot": Plot,
    "envs": Envs,
    "check-env": CheckEnv,
}
