"""`make`: an environment by its name, of any suite, with its parameters by keyword."""

import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpg import _check, _install
from jaxpg.envs import _gymnax_make
from jaxpg.envs._parameters import Kept
from jaxpg.envs.base import Environment

__all__ = ["SUITES", "Suite", "available", "make", "suite_module"]


class Suite(NamedTuple):
    """A library of environments.

    Fields:
      module: its adapter, which has `available()`, the names; `make(name, max_steps, parameters)` for one of them; and
        `refusal(name)`, why another is not offered, where there are such.
      package: what must be importable for it.
      extra: what `pip install "jaxpg[…] @ …"` calls it.
    """

    module: str
    package: str
    extra: str

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


# An adapter is imported when it is asked for: some of these libraries take seconds to import.
SUITES: Mapping[str, Suite] = {
    "gymnax": Suite("jaxpg.envs._gymnax_make", "gymnax", ""),
    "brax": Suite("jaxpg.envs.brax", "brax", "brax"),
    "craftax": Suite("jaxpg.envs.craftax", "craftax", "craftax"),
    "jumanji": Suite("jaxpg.envs.jumanji", "jumanji", "jumanji"),
    "mujoco_playground": Suite("jaxpg.envs.mujoco_playground", "mujoco_playground", "mujoco-playground"),
    "navix": Suite("jaxpg.envs.navix", "navix", "navix"),
    "pgx": Suite("jaxpg.envs.pgx", "pgx", "pgx"),
    "xminigrid": Suite("jaxpg.envs.xminigrid", "xminigrid", "xminigrid"),
}

_kept = Kept()


def available(suite: str | None = None) -> list[str]:
    """The names that `make` knows: gymnax's, or "suite/name" of another suite, or of all that are installed ("all").

    gymnax's need no import and have no prefix; names registered with gymnax at run time appear once gymnax has been
    imported. Other suites are imported to see what they have.

    Raises:
      ValueError: an unknown suite.
      ImportError: a suite that is not installed; the message has the line that installs it.
    """
    if suite is None or suite == "gymnax":
        return _gymnax_make.available()
    if suite == "all":
        return [name for each, facts in SUITES.items() if facts.is_installed for name in available(each)]
    module = suite_module(_check.named("suite", suite, ["all", *SUITES]))
    return [f"{suite}/{name}" for name in module.available()]


def make(name: str, *, max_steps: int | None = None, **parameters: Any) -> Environment:
    """An environment by name: `make("CartPole-v1")`, `make("Pendulum-v1", max_steps=100, g=9.8)`, `make("brax/ant")`.

    Args:
      name: a name from `available()`, or "suite/name": "gymnax/CartPole-v1", "jumanji/Snake-v1". What each suite
        offers, and how it is adapted: docs/environments.md.
      max_steps: the episode limit in place of the environment's own.
      parameters: the environment's parameters. For gymnax: the fields of its `default_params`, which may be traced
        scalars, and the arguments of its constructor, which may not; CartPole's `total_mass` and `polemass_length`
        follow from the masses and the length unless they are given. For other suites: the arguments of its own
        constructor.

    Equal concrete arguments give the same object, so that compiled functions are found again.

    MountainCarContinuous-v0 follows gymnasium, which stops the car at the left wall; gymnax 1.0 does not
    (`from_gymnax` plays it as gymnax has it).

    Raises:
      ValueError: an unknown name or parameter (the message has the nearest right one), or a value out of range.
      TypeError: a value of the wrong type, or a traced value where a concrete one is needed.
      ImportError: a suite that is not installed; the message has the line that installs it.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string such as 'CartPole-v1'; got {type(name).__name__} ({name!r})")
    max_steps = _check.optional(_check.count, "max_steps", max_steps)
    suite, _, inner = name.partition("/") if "/" in name else ("gymnax", "", name)
    if suite not in SUITES:
        raise ValueError(
            f"name must be one of jaxpg.envs.available() or 'suite/name' with a suite among "
            f"{', '.join(map(repr, SUITES))}; got {name!r}"
            f"{_check.nearest(inner, available()) or _check.nearest(suite, SUITES)}"
        )
    module = suite_module(suite)
    if suite == "gymnax":
        return module.make(inner, max_steps, parameters)  # It keeps what it made by values, some of them arrays.
    if inner not in module.available():
        reason = module.refusal(inner) if hasattr(module, "refusal") else ""
        if reason:
            raise ValueError(f"name {name!r} is not offered: {reason}")
        _check.named("name", name, [f"{suite}/{each}" for each in module.available()])
    # 1, 1.0 and True are equal but mean different things to a constructor.
    given = tuple(sorted((field, type(value).__name__, value) for field, value in parameters.items()))
    key = (name, max_steps, given, jnp.result_type(float))
    return _kept.get(key, lambda: module.make(inner, max_steps, parameters))


def suite_module(suite: str) -> ModuleType:
    """The adapter of a suite, or an ImportError with the line that installs what it needs."""
    facts = SUITES[suite]
    if not facts.is_installed:
        raise ImportError(f"the environments of {suite} need it: {_install.line(facts.extra)}")
    return importlib.import_module(facts.module)
