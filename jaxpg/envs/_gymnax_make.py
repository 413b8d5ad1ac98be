"""gymnax's environments by name, with their parameters by keyword."""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs._gymnax_corrections import corrected_bounds, corrected_rules
from jaxpg.envs._later import imported_later
from jaxpg.envs._parameters import Kept, check_names
from jaxpg.envs.base import Environment
from jaxpg.envs.gymnax import from_gymnax

__all__ = ["available", "import_gymnax", "make"]

# Kept here so that `available()` need not import gymnax, which takes seconds.
_GYMNAX = (
    "CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0",
    "Asterix-MinAtar", "Breakout-MinAtar", "Freeway-MinAtar", "Seaquest-MinAtar", "SpaceInvaders-MinAtar",
    "Catch-bsuite", "DeepSea-bsuite", "MemoryChain-bsuite", "UmbrellaChain-bsuite", "DiscountingChain-bsuite",
    "SimpleBandit-bsuite",
    "FourRooms-misc", "MetaMaze-misc", "PointRobot-misc", "BernoulliBandit-misc", "GaussianBandit-misc",
    "Reacher-misc", "Swimmer-misc", "Pong-misc", "FrozenLake-misc",
)  # fmt: skip
_REFUSED = {
    "MNISTBandit-bsuite": "it downloads its images when it is built; build it with gymnax.make and pass it "
    "through jaxpg.envs.from_gymnax"
}
_LIMIT = "max_steps_in_episode"

# Parameters that are functions of others: given a pole's length alone, its mass times length follows.
_DERIVED: Mapping[str, Mapping[str, tuple[tuple[str, ...], Callable[..., Any]]]] = {
    "CartPole-v1": {
        "total_mass": (("masscart", "masspole"), lambda masscart, masspole: masscart + masspole),
        "polemass_length": (("masspole", "length"), lambda masspole, length: masspole * length),
    },
}

_kept = Kept()


def available() -> list[str]:
    """gymnax's names. Those registered with gymnax at run time appear once gymnax has been imported."""
    return list(_GYMNAX) + [name for name in _registered_at_run_time() if name not in _GYMNAX]


def make(name: str, max_steps: int | None, parameters: dict[str, Any]) -> Environment:
    """The environment that `jaxpg.make` gives: see there."""
    _check_gymnax_name(name)
    prototype, defaults = _prototype(name, jnp.result_type(float))
    fields = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    arguments = [
        p.name
        for p in inspect.signature(type(prototype)).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    check_names(name, parameters, [*fields, *arguments], limit=_LIMIT)

    built_with = {
        key: _constructor_argument(f"{name}: {key}", value) for key, value in parameters.items() if key in arguments
    }
    given = {
        key: _parameter(f"{name}: {key}", value, fields[key]) for key, value in parameters.items() if key in fields
    }

    def build() -> Environment:
        environment, default = _built(name, built_with) if built_with else (prototype, defaults)
        with jax.ensure_compile_time_eval():
            values = {
                field: jnp.asarray(value) if isinstance(value, np.ndarray) else value
                for field, value in {**given, **_derived(name, given, fields)}.items()
            }
        result = from_gymnax(environment, dataclasses.replace(default, **values), max_steps=max_steps, name=name)
        return dataclasses.replace(result, observation_space=corrected_bounds(name, result.observation_space))

    return _kept.get(_key(name, max_steps, built_with, given), build)


def _registered_at_run_time() -> list[str]:
    registered = getattr(sys.modules.get("gymnax"), "registered_envs", ())
    return [name for name in registered if name not in _REFUSED]


def _check_gymnax_name(name: str) -> None:
    if name in _GYMNAX:
        return
    if name in _REFUSED:
        raise ValueError(f"name {name!r} is not offered: {_REFUSED[name]}")
    import_gymnax()  # It may know more: a newer version, or one registered at run time.
    _check.named("name", name, available())


def import_gymnax() -> Any:
    """gymnax, whose modules make arrays when imported: inside a trace those would be tracers, and stay."""
    # Two thirds of the time of the import are those of what three of its environments draw with.
    with jax.ensure_compile_time_eval(), imported_later("seaborn", "matplotlib.pyplot"):
        import gymnax
    return gymnax


@functools.cache
def _prototype(name: str, float_dtype: Any) -> tuple[Any, Any]:
    """The environment with the constructor's defaults; one for each float dtype, since its arrays follow x64."""
    del float_dtype
    return _built(name, {})


def _built(name: str, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """gymnax's environment, with gymnasium's rules, and its default parameters."""
    gymnax = import_gymnax()
    with jax.ensure_compile_time_eval():
        try:
            environment, _ = gymnax.make(name, **arguments)
        except (AssertionError, TypeError, ValueError) as error:
            given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
            raise ValueError(f"{name} cannot be built with {given}: {error or type(error).__name__}") from error
        environment = corrected_rules(name, environment)
        return environment, environment.default_params


def _constructor_argument(argument: str, value: Any) -> Any:
    if any(not _check.is_concrete(leaf) for leaf in jax.tree.leaves(value)):
        raise TypeError(f"{argument} fixes the environment's structure and cannot be traced; got {value}")
    return tuple(value) if isinstance(value, list) else value


def _parameter(argument: str, value: Any, default: Any) -> Any:
    """`value` in the type of the parameter's default; a traced scalar in the default dtype of that kind."""
    if isinstance(default, bool):
        return _flag(argument, value)
    if isinstance(default, int):
        return _integer(argument, value)
    if isinstance(default, float):
        value = _check.number(argument, value)
        return float(value) if _check.is_concrete(value) else value.astype(jnp.result_type(float))
    if not _check.is_concrete(value):
        return value.astype(default.dtype)
    array = np.asarray(value)
    if array.ndim != default.ndim or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise ValueError(f"{argument} must be finite numbers of shape {default.shape}; got {value!r}")
    return array.astype(default.dtype)


def _flag(argument: str, value: Any) -> Any:
    if not _check.is_concrete(value) and value.shape == () and value.dtype == jnp.bool_:
        return value
    if not _check.is_concrete(value) or np.asarray(value).shape != () or np.asarray(value).dtype.kind != "b":
        raise TypeError(f"{argument} must be True or False; got {type(value).__name__} ({value!r})")
    return bool(value)


def _integer(argument: str, value: Any) -> Any:
    value = _check.number(argument, value)
    kind = value.dtype.kind if not _check.is_concrete(value) else np.asarray(value).dtype.kind
    if kind not in "iu":
        raise TypeError(f"{argument} must be an integer; got {type(value).__name__} ({value!r})")
    return int(value) if _check.is_concrete(value) else value.astype(jnp.result_type(int))


def _derived(name: str, given: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from `given` for parameters that are functions of others and were not given themselves."""
    values = {**fields, **given}
    return {
        derived: function(*(values[source] for source in sources))
        for derived, (sources, function) in _DERIVED.get(name, {}).items()
        if derived not in given and any(source in given for source in sources)
    }


def _key(name: str, max_steps: int | None, built_with: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """What the environment depends on, or None where that holds traced values."""
    if any(not _check.is_concrete(value) for value in given.values()):
        return None
    frozen = tuple(
        sorted((field, value.tobytes() if isinstance(value, np.ndarray) else value) for field, value in given.items())
    )
    # 1, 1.0 and True are equal but mean different things to a constructor.
    arguments = tuple(sorted((field, type(value).__name__, value) for field, value in built_with.items()))
    return name, max_steps, frozen, arguments, jnp.result_type(float)
