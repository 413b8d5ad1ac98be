"""Parts of a run, from what it is to be."""

import importlib
import platform
from typing import Any

from jaxpg.cli import kinds
from jaxpg.cli.options import Option, algorithm_options, dashed
from jaxpg.cli.settings import Settings

__all__ = ["acts_by_mode", "make_algorithm", "make_environment", "num_parameters", "versions"]


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


def make_algorithm(settings: Settings) -> Any:
    """The algorithm, its environment and its policy among its fields."""
    from jaxpg.algorithms import presets

    run, options = settings.run, algorithm_options(settings.run["algorithm"])
    env = make_environment(settings.env, run["max_steps"])
    # Everything is given, so that nothing is taken from the presets here: the settings have done that.
    return presets.make(
        run["algorithm"],
        env,
        run["num_env_steps"],
        network=run["network"],
        policy=dict(settings.network),
        normalize_observations=run["normalize_observations"],
        anneal=run["anneal"],
        **{name: _built(options[name], value, env) for name, value in settings.hyperparameters.items()},
    )


def _built(option: Option, value: Any, env: Any) -> Any:
    """The value for Python: calls are made."""
    module = kinds.kind_of(option).calls
    if not module or not isinstance(value, str) or value == kinds.LIKE_THE_POLICY:
        return value
    first = (env,) if module == "jaxpg.policies" else ()
    return kinds.call(dashed(option.name), value, importlib.import_module(module), *first)


def acts_by_mode(algorithm: Any, given: bool | None) -> bool:
    """Whether episodes that show what was learned take the mode: as asked for, else as the algorithm trains."""
    from jaxpg.training._describe import acts_by_mode

    return acts_by_mode(algorithm) if given is None else given


def num_parameters(params: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))


def versions() -> dict[str, str]:
    """What computes: packages, Python, and the kind of device."""
    from importlib.metadata import version

    import jax

    packages = {name: version(name) for name in ("jaxpg", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy")}
    return {**packages, "python": platform.python_version(), "device": jax.devices()[0].device_kind}
