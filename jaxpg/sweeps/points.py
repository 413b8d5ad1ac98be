"""The settings of a sweep: a grid, or samples of ranges.

A grid is a mapping of names to values. `random` and `sobol` draw samples; their ranges are `uniform`, `log_uniform`,
`integers` and `choice`. `samples` takes settings of your own.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxpg import _check

__all__ = [
    "Points",
    "Range",
    "choice",
    "grid",
    "integers",
    "log_uniform",
    "random",
    "samples",
    "sobol",
    "uniform",
]

# Dimensions and variables that every dataset has.
RESERVED = (
    "seed", "update", "sample", "env_steps", "wall_time", "num_updates", "diverged", "finished", "evaluation_return",
    "evaluation_return_error",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Points:
    """The settings of a sweep, each a value for every hyperparameter.

    Fields:
      names: of the hyperparameters.
      settings: one mapping name -> value each. Those of a grid are in C order: the last hyperparameter runs fastest.
      axes: name -> its values, for a grid; None for samples.
    """

    names: tuple[str, ...]
    settings: tuple[Mapping[str, Any], ...]
    axes: Mapping[str, tuple[Any, ...]] | None

    @property
    def dims(self) -> tuple[str, ...]:
        """The dimensions of the settings in a dataset."""
        return ("sample",) if self.axes is None else tuple(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Their sizes."""
        return (len(self.settings),) if self.axes is None else tuple(len(values) for values in self.axes.values())


@dataclasses.dataclass(frozen=True)
class Range:
    """Where samples of a hyperparameter come from: `at(u)` is the value at the quantile u in [0, 1)."""

    at: Callable[[float], Any]


def grid(hyperparameters: Mapping[str, Iterable[Any]]) -> Points:
    """Every combination of the values: the grid that `sweep` makes of a plain mapping.

    Raises:
      TypeError, ValueError: for what is no mapping of names to values, no values, or values that come twice.
    """
    if not isinstance(hyperparameters, Mapping):
        raise TypeError(
            f"hyperparameters must be a mapping of names to values, such as {{'learning_rate': [1e-4, 1e-3]}}, or "
            f"points from jaxpg.sweeps; got {type(hyperparameters).__name__}"
        )
    axes = {name: _values(name, values) for name, values in hyperparameters.items()}
    names = _names(axes)
    settings = tuple(dict(zip(names, row)) for row in itertools.product(*axes.values()))
    return Points(names, settings, axes)


def samples(settings: Iterable[Mapping[str, Any]]) -> Points:
    """Settings of your own: a list of mappings with the same names.

    Raises:
      TypeError, ValueError: for no settings, or other names in some.
    """
    rows = list(settings) if isinstance(settings, Iterable) else [settings]
    if not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(f"settings must be a list of mappings, [{{'learning_rate': 1e-3}}, …]; got {settings!r:.80}")
    if not rows:
        raise ValueError("settings must hold at least one setting; got none")
    names = _names(rows[0])
    for i, row in enumerate(rows):
        if set(row) != set(names):
            raise ValueError(f"settings must have the same names: the first has {list(names)}, number {i} {list(row)}")
    return Points(names, tuple({name: plain(row[name]) for name in names} for row in rows), None)


def random(ranges: Mapping[str, Range], num_samples: int, seed: int = 0) -> Points:
    """Independent samples of the ranges (Bergstra & Bengio, 2012)."""
    uniforms = np.random.default_rng(_check.count("seed", seed, 0)).random((_count(num_samples), len(_ranges(ranges))))
    return _sampled(ranges, uniforms)


def sobol(ranges: Mapping[str, Range], num_samples: int, seed: int = 0) -> Points:
    """The first points of a scrambled Sobol' sequence (Owen, 1998): samples that fill the ranges evenly.

    Best in powers of two.
    """
    from scipy.stats import qmc

    number, dimensions = _count(num_samples), len(_ranges(ranges))
    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(_check.count("seed", seed, 0)))
    uniforms = engine.random_base2(max(number - 1, 0).bit_length())[:number]
    return _sampled(ranges, uniforms)


def uniform(low: float, high: float) -> Range:
    """Numbers between `low` and `high`."""
    low, high = _bounds(low, high)
    return Range(lambda u: low + (high - low) * u)


def log_uniform(low: float, high: float) -> Range:
    """Positive numbers between `low` and `high` whose logarithm is uniform."""
    _check.positive("low", low)
    low, high = _bounds(low, high)
    return Range(lambda u: float(np.exp(np.log(low) + (np.log(high) - np.log(low)) * u)))


def integers(low: int, high: int) -> Range:
    """Integers from `low` to `high`, both included."""
    low, high = _check.count("low", low, None), _check.count("high", high, None)
    _bounds(low, high + 1)
    return Range(lambda u: low + min(int((high - low + 1) * u), high - low))


def choice(values: Sequence[Any]) -> Range:
    """One of the values, each as likely as the other."""
    values = _values("values", values)
    return Range(lambda u: values[min(int(len(values) * u), len(values) - 1)])


def as_points(hyperparameters: Any) -> Points:
    """The points given, or the grid of a mapping."""
    return hyperparameters if isinstance(hyperparameters, Points) else grid(hyperparameters)


def _sampled(ranges: Mapping[str, Range], uniforms: np.ndarray) -> Points:
    return samples({name: r.at(float(u)) for (name, r), u in zip(ranges.items(), row)} for row in uniforms)


def _count(num_samples: Any) -> int:
    return _check.count("num_samples", num_samples)


def _ranges(ranges: Any) -> Mapping[str, Range]:
    if not isinstance(ranges, Mapping) or not ranges or not all(isinstance(r, Range) for r in ranges.values()):
        raise TypeError(
            "ranges must map names to ranges, such as {'learning_rate': jaxpg.sweeps.log_uniform(1e-5, 1e-2)}; got "
            f"{ranges!r:.80}"
        )
    return ranges


def _bounds(low: Any, high: Any) -> tuple[float, float]:
    _check.number("low", low)
    _check.number("high", high)
    if not low < high:
        raise ValueError(f"low must be below high; got low={low}, high={high}")
    return low, high


def _names(mapping: Mapping[str, Any]) -> tuple[str, ...]:
    for name in mapping:
        if not isinstance(name, str) or not name.isidentifier():
            raise TypeError(f"hyperparameters must have names that can be arguments; got {name!r}")
        if name in RESERVED:
            raise ValueError(f"hyperparameters must not be called {name!r}: the dataset has something of that name")
    return tuple(mapping)


def _values(name: str, values: Any) -> tuple[Any, ...]:
    scalar = getattr(values, "shape", None) == ()
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable) or scalar:
        raise TypeError(f"{name} must be a list of values; got {type(values).__name__} ({values!r:.80})")
    found = tuple(plain(value) for value in values)
    if not found:
        raise ValueError(f"{name} must have at least one value; got none")
    for i, value in enumerate(found):
        if any(same(value, other) for other in found[:i]):
            raise ValueError(f"{name} must have different values; got {value!r} more than once")
    return found


def same(a: Any, b: Any) -> bool:
    """Whether two values are one: plain values and tuples of them by what they are, others by identity."""
    if isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
        return all(map(same, a, b))
    simple = (int, float, str, type(None))
    plain = isinstance(a, simple) and isinstance(b, simple) and isinstance(a, bool) == isinstance(b, bool)
    return a is b or (plain and a == b)


def plain(value: Any) -> Any:
    """Numbers of numpy and JAX as Python's own."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value
