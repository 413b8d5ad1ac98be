"""Parts of a run, from what it is to be."""

import importlib
import inspect
import os
import platform
import sys
from typing import Any

from jaxpg.cli import kinds
from jaxpg.cli.options import Option, algorithm_options, dashed
from jaxpg.cli.settings import Settings

__all__ = ["acts_by_mode", "make_algorithm", "make_environment", "num_parameters", "versions"]


def make_environment(name: str, max_steps: int | None) -> Any:
    """`jaxpg.make`, with a shorter list of names in its error, or what MODULE:NAME is."""
    import jaxpg
    from jaxpg.envs.registry import SUITES

    if ":" in name:
        return _environment_of_module(str(name), max_steps)
    try:
        return jaxpg.make(str(name), max_steps=max_steps)
    except ValueError as error:
        suite = name.partition("/")[0] if "/" in name else ""
        if suite and suite not in SUITES:
            raise
        every = ", ".join(map(repr, jaxpg.envs.available(suite or None)))
        command = f"`jaxpg envs --suite {suite}`" if suite else "`jaxpg envs`"
        short = str(error).replace(f"name must be one of {every}", f"ENV must be a name that {command} lists")
        raise ValueError(short) from error


def _environment_of_module(name: str, max_steps: int | None) -> Any:
    """The Environment called NAME in a module that can be imported here, or what the function of that name makes."""
    import jaxpg
    from jaxpg import _check
    from jaxpg.envs.wrappers import time_limit

    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or not all(module_name.split(".")) or "/" in module_name:
        raise ValueError(f"ENV must be MODULE:NAME, such as my_package.environments:corridor; got {name!r}")
    if module_name.endswith(".py"):
        raise ValueError(f"ENV must be MODULE:NAME, without .py: {module_name.removesuffix('.py')}:{attribute}")
    if os.getcwd() not in sys.path:  # As `python -m` has it: the command's own folder is that of the script.
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise ValueError(
                f"ENV: there is no module {module_name!r} in this folder or among what is installed"
            ) from None
        raise ValueError(f"ENV: module {module_name!r} cannot be imported: {_told(error)}") from error
    if not hasattr(module, attribute):
        near = _check.nearest(attribute, [each for each in vars(module) if not each.startswith("_")])
        raise ValueError(f"ENV: module {module_name!r} has no {attribute!r}{near}")
    env = found = getattr(module, attribute)
    if callable(found) and not isinstance(found, jaxpg.Environment):
        if _needs_arguments(found):
            wanted = "a jaxpg.Environment or a function without arguments that makes one"
            raise TypeError(f"ENV: {name} must be {wanted}; got {_check.described(found)}, which needs arguments")
        try:
            env = found()
        except Exception as error:
            raise ValueError(f"ENV: {name} could not be called: {_told(error)}") from error
    if not isinstance(env, jaxpg.Environment):
        got = f"{name}() gives {_check.described(env)}" if env is not found else f"got {_check.described(env)}"
        raise TypeError(f"ENV: {name} must be a jaxpg.Environment or a function that makes one; {got}")
    return env if max_steps is None else time_limit(env, max_steps)


def _needs_arguments(function: Any) -> bool:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # Of some built-in functions it is not known.
        return False
    try:
        signature.bind()
    except TypeError:
        return True
    return False


def _told(error: Exception) -> str:
    """An error of the user's own code in a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())} (--debug shows where)"


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
