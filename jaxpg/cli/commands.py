"""What can be typed: one dataclass for a subcommand, its fields the options, their docstrings the help.

`run` does the work, in a module that is imported only then.
"""

import abc
import dataclasses
import pathlib
from typing import Literal

__all__ = ["COMMANDS", "Demo", "EnvironmentName", "Envs", "Gradient", "Train"]


class EnvironmentName(str):
    """A name that `jaxpg envs` lists."""


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
    """The environment; `jaxpg envs` lists them."""
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
    chunk_size: int | None = None
    """Most episodes whose steps are in memory at once; by default from the size of the buffers."""
    max_steps: int | None = None
    """Episode limit in place of the environment's own."""
    seed: int = 0
    """Names the policy's weights and the episodes."""
    devices: int | None = None
    """Devices to lay the episodes over; by default all, which on a CPU is one for each core."""

    def run(self) -> None:
        from jaxpg.cli.gradient import run_gradient

        run_gradient(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train(Command):
    """Train a policy, evaluate it on fresh episodes, and write what the run leaves.

    Example:  jaxpg train CartPole-v1 --target-return 475 --out runs/cartpole

    With --out: config.json (all that was asked, and versions), metrics.csv (one line for each update), result.json,
    learning_curve.png and, where there is a drawing for the environment, policy.gif. Ctrl-C ends the run early and
    keeps what there is.
    """

    env: EnvironmentName
    """The environment; `jaxpg envs` lists them."""
    algorithm: Literal["reinforce"] = "reinforce"
    """How to learn: the gradient of whole episodes (Williams, 1992)."""
    num_env_steps: int = 500_000
    """Environment steps to take: the run ends with the first update that reaches them."""
    target_return: float | None = None
    """End as soon as the mean return of the last 100 episodes gets here."""
    num_episodes: int = 32
    """Whole episodes of an update."""
    learning_rate: float = 0.01
    """Of Adam, for the policy; gradients are clipped to norm 10."""
    baseline: Literal["value", "leave-one-out", "none"] = "value"
    """What is subtracted from the rewards-to-go: a learned value function of the state, the mean over the update's
    other episodes, or nothing."""
    discount: float = 0.99
    """γ of the rewards-to-go."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the policy and of the value function; none at all for linear ones."""
    max_steps: int | None = None
    """Episode limit in place of the environment's own."""
    eval_episodes: int = 100
    """Fresh episodes on which the trained policy is evaluated, actions sampled as in training."""
    seed: int = 0
    """Names all randomness of the run."""
    out: pathlib.Path | None = None
    """Folder for the run's files; by default none are written."""
    overwrite: bool = False
    """Write into --out even if it holds a run already."""

    def run(self) -> None:
        from jaxpg.cli.train import run_train

        run_train(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Envs(Command):
    """List the environments: what is observed, what can be done, how long an episode may last.

    Example:  jaxpg envs
    """

    def run(self) -> None:
        from jaxpg.cli.envs import run_envs

        run_envs(self)


COMMANDS: dict[str, type[Command]] = {"demo": Demo, "gradient": Gradient, "train": Train, "envs": Envs}
