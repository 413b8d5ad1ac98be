"""Hyperparameters that solve named environments: one table, and `make`, which builds an algorithm from a line of it.

`python -m benchmarks returns` measures what each line reaches; docs/returns.md has the results.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from jaxpg import _check
from jaxpg.algorithms.types import Algorithm
from jaxpg.envs.base import Environment

__all__ = ["PRESETS", "make", "names"]

# What a line may hold besides the algorithm's own arguments:
#   num_env_steps: the budget; `anneal`: the learning rate falls to 0 linearly over it.
#   network: the policy, by the name of a builder in `jaxpg.policies`, default "mlp", with `policy`: its arguments.
#   normalize_observations: wrap policy and critic in `policies.normalized`.
_CLASSIC = dict(num_envs=16, num_steps=64, num_epochs=10, num_minibatches=8, learning_rate=1e-3, anneal=True)
_MINATAR = dict(
    num_envs=64, num_steps=128, num_epochs=4, num_minibatches=8, learning_rate=5e-3, anneal=True,
    entropy_coefficient=0.01, num_env_steps=10_000_000, policy=dict(hidden_sizes=(64, 64), activation="relu"),
)  # fmt: skip

_PHYSICS = dict(
    num_envs=64, num_steps=64, num_epochs=10, num_minibatches=16, learning_rate=1e-3, anneal=True, discount=0.995,
    scale_rewards=True, normalize_observations=True,
)  # fmt: skip
_TILES = dict(
    num_envs=64, num_steps=64, num_epochs=4, num_minibatches=8, learning_rate=1e-3, anneal=True,
    entropy_coefficient=0.01, num_env_steps=500_000, policy=dict(hidden_sizes=(64, 64), activation="relu"),
)  # fmt: skip

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ppo": {
        "CartPole-v1": dict(**_CLASSIC, num_env_steps=200_000),
        "Acrobot-v1": dict(**_CLASSIC, num_env_steps=500_000),
        "Pendulum-v1": dict(
            num_envs=16, num_steps=128, num_epochs=10, num_minibatches=16, learning_rate=1e-3, anneal=True,
            discount=0.95, scale_rewards=True, num_env_steps=500_000,
        ),
        "Breakout-MinAtar": _MINATAR,
        "Asterix-MinAtar": _MINATAR,
        "Freeway-MinAtar": _MINATAR,
        "SpaceInvaders-MinAtar": _MINATAR,
        # Of other suites. "one-hot": by `jaxpg.envs.wrappers.one_hot`.
        "brax/inverted_pendulum": {**_PHYSICS, "num_envs": 32, "num_env_steps": 100_000},
        "brax/reacher": {**_PHYSICS, "num_epochs": 8, "discount": 0.95, "num_env_steps": 1_000_000},
        # All episodes are of one age, for none ends early: from short segments the policy learns that age, and forgets.
        "mujoco_playground/CartpoleBalance": {
            **_PHYSICS, "num_envs": 32, "num_steps": 500, "num_minibatches": 32, "num_epochs": 5,
            "num_env_steps": 1_000_000,
        },
        "craftax/Craftax-Classic-Symbolic-v1": {
            **_TILES, "discount": 0.95, "lambda_": 0.8, "num_env_steps": 1_000_000,
            "policy": dict(hidden_sizes=(128, 64), activation="relu"),
        },
        "jumanji/Game2048-v1, one-hot": {
            **_TILES, "num_steps": 128, "learning_rate": 2e-3, "scale_rewards": True, "num_env_steps": 3_000_000,
            "policy": dict(hidden_sizes=(128, 64), activation="relu"),
        },
        "navix/Navix-DoorKey-5x5-v0, one-hot": _TILES,
        "pgx/minatar-breakout": {**_MINATAR, "num_env_steps": 3_000_000},
        "xminigrid/MiniGrid-DoorKey-5x5, one-hot": _TILES,
        "MemoryChain-bsuite": dict(
            num_envs=64, num_steps=32, num_epochs=4, num_minibatches=4, learning_rate=1e-3, num_env_steps=500_000,
            network="recurrent", entropy_coefficient=0.01,
        ),
    },
    "a2c": {
        "CartPole-v1": dict(
            num_envs=16, num_steps=8, learning_rate=2e-3, anneal=True, entropy_coefficient=0.01,
            normalize_advantages=True, num_env_steps=500_000,
        ),
    },
    "reinforce": {
        "CartPole-v1": dict(num_env_steps=500_000, critic="like the policy"),
    },
    "trpo": {
        "Pendulum-v1": dict(
            num_envs=16, num_steps=256, discount=0.95, max_kl=0.02, scale_rewards=True, num_env_steps=500_000,
        ),
    },
    "pgpe": {
        # Exploration is in the parameters: a linear policy with gains of about ±100 rocks the car out of the valley in
        # some of the draws, which noise in the actions does not.
        "MountainCarContinuous-v0": dict(
            num_perturbations=512, initial_std=100.0, learning_rate=5.0, std_learning_rate=0.02,
            num_env_steps=150_000_000, policy=dict(hidden_sizes=()),
        ),
    },
}  # fmt: skip

_ALGORITHMS = ("a2c", "impala", "npg", "pgpe", "ppo", "reinforce", "trpo", "v_mpo")


def names() -> list[tuple[str, str]]:
    """The (algorithm, environment) pairs of the table."""
    return [(algorithm, env) for algorithm, rows in PRESETS.items() for env in rows]


def make(algorithm: str, env: Environment, num_env_steps: int | None = None, **changes: Any) -> Algorithm:
    """The algorithm with the hyperparameters that the table has for `env.name`; its own defaults for other names.

    Args:
      algorithm: "ppo" and so on.
      num_env_steps: the budget that an annealed learning rate falls to 0 over (see `annealed`); default the table's. It
        is not noted in the algorithm's `config`: a run goes on with another one, and its rate then falls over that.
      changes: arguments in the place of the table's; `policy` (a dict) and `network` are the policy's.
    """
    _check.named("algorithm", algorithm, _ALGORITHMS)
    from jaxpg import policies

    line = {**PRESETS.get(algorithm, {}).get(_check.instance("env", env, Environment).name, {}), **changes}
    default_budget = line.pop("num_env_steps", 1_000_000)
    budget = _check.count("num_env_steps", default_budget if num_env_steps is None else num_env_steps)
    policy = getattr(policies, line.pop("network", "mlp"))(env, **line.pop("policy", {}))
    if line.pop("normalize_observations", False):
        policy = policies.normalized(policy, env)
        if isinstance(line.get("critic"), policies.Critic):
            line["critic"] = policies.normalized(line["critic"], env)
    if line.get("critic") == "like the policy":
        line["critic"] = None if policy.critic is None else policy.critic()
    if line.get("critic") is None:
        line.pop("critic", None)
    anneal = line.pop("anneal", False)
    function = getattr(importlib.import_module(f"jaxpg.algorithms.{algorithm}"), algorithm)
    made = function(env, policy, **line)
    if not anneal:
        return made
    if line.get("optimizer") is not None:
        raise ValueError("anneal: the optimizer has a learning rate of its own; give it a schedule, or leave out one")
    falling = function(env, policy, **{**line, "learning_rate": annealed(made, budget, line.get("learning_rate"))})
    return dataclasses.replace(falling, config={**made.config, "anneal": True})


def annealed(algorithm: Algorithm, budget: int, learning_rate: Any = None) -> Any:
    """A learning rate that falls to 0 linearly over the ⌈budget / (num_envs · num_steps)⌉ updates that are planned.

    The last of these is still made with a rate above 0. Rows that hold the final observation of a truncated episode are
    no steps, so a run may take a few updates more than planned, by about one in the steps of an episode: those are made
    with a rate of 0.

    Args:
      algorithm: with the number of environments and the steps of a segment in its configuration.
      budget: environment steps.
      learning_rate: the rate at first, which may be traced; default the algorithm's.
    """
    import optax

    config = algorithm.config
    for name, lack in (("learning_rate", "has no learning rate"), ("num_envs", "plays whole episodes of any length")):
        if name not in config:
            raise ValueError(
                f"anneal needs a learning rate and a known number of updates; {algorithm.name} {lack}: leave it out, "
                f"or give a schedule such as optax.linear_schedule in the place of a number"
            )
    first = config["learning_rate"] if learning_rate is None else learning_rate
    if callable(first):
        raise ValueError("anneal: learning_rate is a schedule already; leave out one of the two")
    updates = -(-budget // (config["num_envs"] * config["num_steps"]))
    return optax.linear_schedule(_check.positive("learning_rate", first), 0.0, updates)
