"""Which hyperparameters can be traced, and the groups of settings that one program serves."""

import dataclasses
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg.algorithms.types import Algorithm
from jaxpg.lanes import strong
from jaxpg.sweeps.points import Points, same

__all__ = ["Group", "Settings", "settle"]

MOST_EXACT = 2**24  # Integers that a float32 holds.


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
    varying = [name for name in points.names if _varies(points, name)]
    looped = {name: reason for name in varying if (reason := _why_never(points, name)) is not None}
    candidates = [name for name in varying if name not in looped]
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
    return tuple(
        Group(
            fixed=fixed,
            points=tuple(members),
            traced={name: _as_array(points, name, members) for name in traced},
            algorithm=algorithms[members[0]],
        )
        for fixed, members in _places(points, traced)
    )


def _places(points: Points, traced: Sequence[str]) -> list[tuple[dict[str, Any], list[int]]]:
    """(the other hyperparameters' values, which settings have them), of all that there are."""
    places: list[tuple[dict[str, Any], list[int]]] = []
    for i, setting in enumerate(points.settings):
        fixed = {name: value for name, value in setting.items() if name not in traced}
        for other, members in places:
            if all(same(fixed[name], other[name]) for name in fixed):
                members.append(i)
                break
        else:
            places.append((fixed, [i]))
    return places


def _build_all(build: Callable[..., Algorithm], points: Points) -> list[Algorithm]:
    if not callable(build):
        raise TypeError(
            f"build must be a function of the hyperparameters that gives an Algorithm; got {type(build).__name__}"
        )
    algorithms = []
    for setting in points.settings:
        try:
            algorithm = build(**setting)
        except Exception as error:
            told = "build(" + ", ".join(f"{name}={value!r:.60}" for name, value in setting.items()) + ")"
            if type(error) in (TypeError, ValueError):
                raise type(error)(f"{told}: {error}") from error
            error.add_note(f"in {told}")
            raise
        if not isinstance(algorithm, Algorithm):
            raise TypeError(
                f"build must give a jaxpg Algorithm; got {type(algorithm).__name__} ({algorithm!r:.80}) for {setting}"
            )
        algorithms.append(algorithm)
    return algorithms


def _why_not(build: Callable[..., Algorithm], points: Points, names: Sequence[str]) -> str | None:
    """Why these hyperparameters cannot be traced together, whatever the others are; None if they can."""
    for fixed, members in _places(points, names):
        try:
            values = {name: _as_array(points, name, members) for name in names}
            jax.eval_shape(jax.vmap(lambda traced, fixed=fixed: _update(build(**fixed, **traced))), values)
        except Exception as error:  # Whatever code of the user's does with a value that it cannot see.
            return (str(error).strip() or type(error).__name__).splitlines()[0].split("; got")[0][:160]
    return None


def _update(algorithm: Algorithm) -> Any:
    """One update, which must leave a state of the kinds that it found."""
    before = strong(algorithm.init(jax.random.key(0)))
    after = strong(algorithm.step(before)[0])
    kinds = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)] for tree in (before, after)]
    if kinds[0] != kinds[1]:
        raise TypeError("traced, it changes the dtypes of the algorithm's state")
    return after


def _as_array(points: Points, name: str, members: Sequence[int]) -> jax.Array:
    """The values as floats: arithmetic on integers of 32 bits is not Python's, 10 ** -2 is 0 there."""
    return jnp.asarray([float(points.settings[i][name]) for i in members], jnp.result_type(float))


def _varies(points: Points, name: str) -> bool:
    first = points.settings[0][name]
    return any(not same(setting[name], first) for setting in points.settings)


def _why_never(points: Points, name: str) -> str | None:
    """Why the hyperparameter is not even tried to be traced."""
    values = [setting[name] for setting in points.settings]
    if not all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in values):
        return "its values are not all numbers"
    if any(isinstance(value, numbers.Integral) and abs(int(value)) > MOST_EXACT for value in values):
        return f"integers above {MOST_EXACT:,} are not exact as floats"
    return None
