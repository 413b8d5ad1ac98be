"""Parts of a run, from the options of a command."""

import platform
from typing import Any

from jaxpg.cli.commands import Train

__all__ = ["make_algorithm", "make_environment", "num_parameters", "versions"]


def make_environment(name: str, max_steps: int | None) -> Any:
    """`jaxpg.make`, with a shorter list of names in its error."""
    import jaxpg

    try:
        return jaxpg.make(str(name), max_steps=max_steps)
    except ValueError as error:
        every = ", ".join(map(repr, jaxpg.envs.available()))
        raise ValueError(
            str(error).replace(f"name must be one of {every}", "ENV must be a name that `jaxpg envs` lists")
        ) from error


def make_algorithm(command: Train, env: Any) -> Any:
    """The algorithm that the options describe."""
    import optax

    import jaxpg
    from jaxpg import _check

    learning_rate = _check.positive("learning_rate", command.learning_rate)
    critic = jaxpg.policies.value_mlp(env, command.hidden_sizes) if command.baseline == "value" else None
    baseline = {
        "value": lambda: None, "leave-one-out": jaxpg.baselines.leave_one_out, "none": jaxpg.baselines.none,
    }[command.baseline]()  # fmt: skip
    return jaxpg.reinforce(
        env,
        jaxpg.policies.mlp(env, command.hidden_sizes),
        critic,
        num_episodes=command.num_episodes,
        weight=jaxpg.weights.reward_to_go(command.discount, discount_states=False),
        baseline=baseline,
        optimizer=optax.chain(optax.clip_by_global_norm(10.0), optax.adam(learning_rate)),
    )


def num_parameters(params: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))


def versions() -> dict[str, str]:
    """What computes: packages, Python, and the kind of device."""
    from importlib.metadata import version

    import jax

    packages = {name: version(name) for name in ("jaxpg", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy")}
    return {**packages, "python": platform.python_version(), "device": jax.devices()[0].device_kind}
