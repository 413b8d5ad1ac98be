"""Which hyperparameters can be traced, and the groups of settings that one program serves."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.algorithms.types import Algorithm
from jaxpg.sweeps.points import Points

__all__ = ["Group", "Settings", "settle"]


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings that share one compiled program.

    Fields:
      fixed: hyperparameters that the program is built with.
      points: the settings' places among all.
      traced: name -> [point] values that the program takes as arrays.
      algorithm: built for the first of the settings, for its names and configuration.
    """

    fixed: Mapping[str, Any]
    points: tuple[int, ...]
    traced: Mapping[str, jax.Array]
    algorithm: Algorithm

    def build(self, build: Callable[..., Algorithm], traced: Mapping[str, Any]) -> Algorithm:
        """The algorithm of one setting, whose traced hyperparameters are given."""
        return build(**self.fixed, **traced)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a sweep.

    Fields:
      traced: the names of those in one program.
      looped: name -> why it cannot be traced.
      groups: in the order of their first settings.
    """

    traced: tuple[str, ...]
    looped: Mapping[str, str]
    groups: tuple[Group, ...]

    def describe(self) -> str:
        """A line for people."""
        parts = []
        if self.traced:
            parts.append(f"traced, all values in one program: {', '.join(self.traced)}")
        for name, reason in self.looped.items():
            parts.append(f"looped, a program for each value: {name} ({reason})")
        return "; ".join(parts) or "seeds alone"


def settle(build: Callable[..., Algorithm], points: Points) -> tuple[Settings, list[Algorithm]]:
    """Builds every setting once, finds what can be traced by trying, and groups the rest: (settings, algorithms).

    Raises:
      What `build` raises, with the setting's name in front; TypeError if it gives no Algorithm.
    """
    algorithms = _build_all(build, points)
    candidates = [name for name in points.names if _varies(points, name) and _is_numeric(points, name)]
    looped = {
        name: "its values are not all numbers"
        for name in points.names
        if _varies(points, name) and not _is_numeric(points, name)
    }
    traced: list[str] = []
    if candidates and _why_not(build, points, candidates) is None:
        traced = candidates
    else:
        for name in candidates:
            reason = _why_not(build, points, [*traced, name])
            if reason is None:
                traced.append(name)
            else:
                looped[name] = reason
    return Settings(tuple(traced), looped, _grouped(points, traced, algorithms)), algorithms


def _grouped(points: Points, traced: Sequence[str], algorithms: list[Algorithm]) -> tuple[Group, ...]:
    places: list[tuple[dict[str, Any], list[int]]] = []
    for i, setting in enumerate(points.settings):
        fixed = {name: value for name, value in setting.items() if name not in traced}
        for other, members in places:
            if all(_same(fixed[name], other[name]) for name in fixed):
                members.append(i)
                break
        else:
            places.append((fixed, [i]))
    return tuple(
        Group(
            fixed=fixed,
            points=tuple(members),
            traced={name: jnp.asarray([points.settings[i][name] for i in members]) for name in traced},
            algorithm=algorithms[members[0]],
        )
        for fixed, members in places
    )


def _build_all(build: Callable[..., Algorithm], points: Points) -> list[Algorithm]:
    if not callable(build):
        raise TypeError(
            f"build must be a function of the hyperparameters that gives an Algorithm; got {type(build).__name__}"
        )
    algorithms = []
    for setting in points.settings:
        try:
            algorithm = build(**setting)
        except (TypeError, ValueError) as error:
            told = ", ".join(f"{name}={value!r:.60}" for name, value in setting.items())
            raise type(error)(f"build({told}): {error}") from error
        if not isinstance(algorithm, Algorithm):
            raise TypeError(
                f"build must give a jaxpg Algorithm; got {type(algorithm).__name__} ({algorithm!r:.80}) for {setting}"
            )
        algorithms.append(algorithm)
    return algorithms


def _why_not(build: Callable[..., Algorithm], points: Points, names: Sequence[str]) -> str | None:
    """Why these hyperparameters cannot be traced together; None if they can."""
    rest = {name: value for name, value in points.settings[0].items() if name not in names}
    values = {name: jnp.asarray([setting[name] for setting in points.settings]) for name in names}

    def update(traced):
        algorithm = build(**rest, **traced)
        return algorithm.step(algorithm.init(jax.random.key(0)))

    try:
        jax.eval_shape(jax.vmap(update), values)
    except Exception as error:  # Whatever code of the user's does with a value that it cannot see.
        return (str(error).strip() or type(error).__name__).splitlines()[0].split("; got")[0][:160]
    return None


def _varies(points: Points, name: str) -> bool:
    first = points.settings[0][name]
    return any(not _same(setting[name], first) for setting in points.settings)


def _is_numeric(points: Points, name: str) -> bool:
    return all(
        isinstance(setting[name], numbers.Real) and not isinstance(setting[name], bool) for setting in points.settings
    )


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, (int, float, str)) and a == b)
