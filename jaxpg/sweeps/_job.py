"""A sweep, checked and cut into batches of runs that one compiled program plays."""

import collections
import dataclasses
import functools
import json
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check, _mesh
from jaxpg._threefry import fold_in
from jaxpg.algorithms.types import Algorithm
from jaxpg.sweeps._batch import Batch, Position
from jaxpg.sweeps._dataset import label
from jaxpg.sweeps._memory import Compiled, compile_within
from jaxpg.sweeps._program import Program
from jaxpg.sweeps._settings import Group, Settings, settle
from jaxpg.sweeps.points import Points, as_points, same
from jaxpg.training._describe import about, acts_by_mode, flat, key_record
from jaxpg.training._evaluator import Evaluator

__all__ = ["Job", "Pending", "Run"]

# (setting's name, seed): how a run is known in files.
Run = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Pending:
    """A batch to play, and of which runs it is: (column, setting, seed's place) each, without the filling."""

    batch: Batch
    compiled: Compiled
    runs: list[tuple[int, int, int]]
    position: Position | None = None


class Saved(NamedTuple):
    """Runs of a group that were being played, and the shapes of their states."""

    group: Group
    runs: list[tuple[int, int]]
    states: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is swept. `about` tells for each setting what its algorithm is; `keys` are the seeds' [seed]."""

    build: Callable[..., Algorithm]
    points: Points
    settings: Settings
    about: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]
    key: Any
    keys: Any
    num_env_steps: int
    runs_per_batch: int | None
    mesh: jax.sharding.Mesh | None
    evaluate_every: int | None
    evaluation_episodes: int
    deterministic_evaluation: bool | None
    nonfinite: str

    @classmethod
    def of(cls, build: Any, hyperparameters: Any, *, seeds: Any, key: Any, **options: Any) -> "Job":
        """The job, with every argument checked and every setting built once."""
        seeds = _seeds(seeds)
        key, keys = _keys(key, seeds)
        _check.named("nonfinite", options["nonfinite"], ("stop", "skip"))
        options["num_env_steps"] = _check.count("num_env_steps", options["num_env_steps"])
        for name in ("runs_per_batch", "evaluate_every"):
            options[name] = _check.optional(_check.count, name, options[name])
        options["evaluation_episodes"] = _check.count("evaluation_episodes", options["evaluation_episodes"])
        given = options["deterministic_evaluation"]
        options["deterministic_evaluation"] = _check.optional(_check.boolean, "deterministic_evaluation", given)
        options["mesh"] = _mesh.as_mesh("mesh", options["mesh"])
        points = as_points(hyperparameters)
        settings, algorithms = settle(build, points)
        if options["evaluate_every"] is not None:
            chosen = options["evaluation_episodes"], options["deterministic_evaluation"]
            for algorithm in algorithms:
                Evaluator(algorithm, keys[0], options["evaluate_every"], *chosen)
        described = tuple(about(algorithm) for algorithm in algorithms)
        return cls(
            build=build, points=points, settings=settings, about=described, seeds=seeds, key=key, keys=keys, **options
        )  # fmt: skip

    @property
    def num_runs(self) -> int:
        """Settings times seeds."""
        return len(self.points.settings) * len(self.seeds)

    def describe(self) -> str:
        """A line for people."""
        axes = self.points.axes
        counted = [f"{len(values)} {name}" for name, values in axes.items()] if axes is not None else []
        if axes is None:
            counted = [f"{len(self.points.settings)} samples"]
        sizes = " × ".join([*counted, f"{len(self.seeds)} seeds"])
        return f"{self.num_runs} runs = {sizes}; {self.settings.describe()}"

    def start(self) -> dict[str, Any]:
        """What a sweep that goes on has to have in common with its start."""
        one, evaluated = self.key is not None, self.evaluate_every is not None
        return {
            "key": key_record(self.key) if one else None,
            "keys": None if one else {str(seed): key_record(key) for seed, key in zip(self.seeds, self.keys)},
            "num_env_steps": self.num_env_steps,
            "evaluate_every": self.evaluate_every,
            "evaluation_episodes": self.evaluation_episodes if evaluated else None,
            "deterministic_evaluation": self.deterministic_evaluation if evaluated else None,
            "nonfinite": self.nonfinite,
        }

    def config(self) -> dict[str, Any]:
        """The sweep's own configuration, for the dataset."""
        start = {name: value for name, value in self.start().items() if value is not None}
        configs = [flat(described.get("config") or {}) for described in self.about]
        full = {
            name: value if all(config.get(name) == value for config in configs) else "differs between settings"
            for name, value in configs[0].items()
        }
        return {"config": full, **start, "traced": list(self.settings.traced), "looped": dict(self.settings.looped)}

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """A name for every setting, by which files know it; settings that are called alike are numbered."""
        seen: collections.Counter[str] = collections.Counter()
        names = []
        for setting in self.points.settings:
            name = json.dumps({name: label(value) for name, value in setting.items()})
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
        return tuple(names)

    def check_names(self) -> None:
        """ValueError where different settings are called alike: files could not tell them apart."""
        first = dict(zip(self.names, self.points.settings))
        for name, setting in first.items():
            alike = first[name.partition(" #")[0]]
            if not all(same(value, alike[argument]) for argument, value in setting.items()):
                raise ValueError(
                    f"directory: two settings are both called {name.partition(' #')[0]}, and could not be told apart "
                    f"when the sweep goes on; give functions and optimisers a __name__ of their own, or take their "
                    f"numbers or names as the hyperparameters"
                )

    def runs(self) -> dict[Run, tuple[int, int]]:
        """(setting's name, seed) -> (setting, seed's place), of all runs."""
        return {
            (name, seed): (setting, place)
            for setting, name in enumerate(self.names)
            for place, seed in enumerate(self.seeds)
        }

    def run_of(self, setting: int, place: int) -> Run:
        """How a run is known in files."""
        return self.names[setting], self.seeds[place]

    def batches(self, left: Mapping[Run, tuple[int, int]]) -> Iterator[Pending]:
        """The runs that are left, group by group, in batches of one size."""
        for group in self.settings.groups:
            members = set(group.points)
            runs = [(setting, place) for setting, place in left.values() if setting in members]
            if not runs:
                continue
            most = self._full(len(runs)) if self.runs_per_batch is None else min(self.runs_per_batch, len(runs))
            compiled = self._compile(group, self._evenly(len(runs), most), exactly=self.runs_per_batch is not None)
            size = self._evenly(len(runs), compiled.num_runs)
            if size != compiled.num_runs:
                compiled = self._compile(group, size, exactly=True)
            for first in range(0, len(runs), size):
                yield self._pending(group, compiled, runs[first : first + size])

    def params_like(self, setting: int) -> Any:
        """Shapes of the parameters of a setting's runs."""
        group = self._group_of(setting)
        return jax.eval_shape(lambda key: group.algorithm.init(key).params, self.keys[0])

    def _group_of(self, setting: int) -> Group:
        return next(group for group in self.settings.groups if setting in group.points)

    def saved(self, runs: list[tuple[int, int]], size: int) -> "Saved | None":
        """What was being played: these runs, and filling up to `size`; None if they are of several groups."""
        group = self._group_of(runs[0][0])
        if not all(setting in group.points for setting, _ in runs):
            return None
        program = self._program(group)
        traced = {name: jax.ShapeDtypeStruct((size,), x.dtype) for name, x in group.traced.items()}
        keys = jax.eval_shape(lambda key: jax.random.split(key, size), self.keys[0])
        alone = dataclasses.replace(program, mesh=None)  # The shapes are the same, and fit any number of runs.
        return Saved(group, runs, jax.eval_shape(alone.init, traced, keys))

    def resumed(self, saved: "Saved", position: Position) -> Iterator[Pending]:
        """The batches in which what was being played goes on."""
        number = len(saved.runs)
        most = len(position.going) if self.runs_per_batch is None else self.runs_per_batch
        size = self._evenly(number, min(most, number)) if most < number else self._full(max(most, number))
        compiled = self._compile(saved.group, size, exactly=True)
        for first in range(0, number, size):
            pending = self._pending(saved.group, compiled, saved.runs[first : first + size])
            columns = np.minimum(first + np.arange(size), number - 1)
            taken = position.take(columns, len(pending.runs))
            yield dataclasses.replace(pending, position=pending.batch.laid_out(taken))

    def _pending(self, group: Group, compiled: Compiled, runs: list[tuple[int, int]]) -> Pending:
        filled = runs + [runs[-1]] * (compiled.num_runs - len(runs))
        places = {setting: i for i, setting in enumerate(group.points)}
        batch = Batch(
            group=group,
            program=compiled.program,
            points=np.array([places[setting] for setting, _ in filled]),
            keys=self.keys[np.array([place for _, place in filled])],
            num_real=len(runs),
            num_env_steps=self.num_env_steps,
            evaluate_every=self.evaluate_every,
            evaluate=compiled.evaluate,
        )
        return Pending(batch, compiled, [(column, *run) for column, run in enumerate(runs)])

    def _evenly(self, number: int, most: int) -> int:
        """The size of batches of at most `most` runs that needs the least filling; a multiple of the devices."""
        most = max(most // self._devices, 1) * self._devices
        return self._full(math.ceil(number / math.ceil(number / most)))

    def _full(self, number: int) -> int:
        """`number`, or the next multiple of the devices."""
        return math.ceil(number / self._devices) * self._devices

    @property
    def _devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    def _compile(self, group: Group, size: int, exactly: bool) -> Compiled:
        evaluates = self.evaluate_every is not None
        return compile_within(self._program(group), group.traced, self.keys[0], size, exactly, evaluates)

    def _program(self, group: Group) -> Program:
        given = self.deterministic_evaluation
        return Program(
            build=functools.partial(group.build, self.build),
            mesh=self.mesh,
            num_episodes=self.evaluation_episodes,
            deterministic=acts_by_mode(group.algorithm) if given is None else given,
            halt=self.nonfinite == "stop",
        )


def _keys(key: Any, seeds: tuple[int, ...]) -> tuple[Any, Any]:
    """(the key or keys as given, the seeds' own [seed])."""
    if getattr(key, "ndim", 0) == 1 and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if len(key) != len(seeds):
            raise ValueError(f"key must be one key, or one for each of the {len(seeds)} seeds; got {len(key)}")
        return None, key
    if isinstance(key, (jax.Array, np.ndarray)) and key.dtype == np.uint32 and key.ndim == 2:
        return _keys(jax.random.wrap_key_data(jnp.asarray(key)), seeds)
    key = _check.key("key", key)
    return key, jax.vmap(lambda seed: fold_in(key, seed))(jnp.asarray(seeds, jnp.uint32))


def _seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, numbers.Integral) and not isinstance(seeds, bool):
        return tuple(range(_check.count("seeds", seeds)))
    if isinstance(seeds, (np.ndarray, jax.Array)):
        seeds = np.asarray(seeds).tolist()
        if not isinstance(seeds, list):
            return _seeds(seeds)
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, Sequence):
        raise TypeError(f"seeds must be a number of seeds, or a list of them; got {type(seeds).__name__} ({seeds!r})")
    found = tuple(_check.count("seeds", seed, 0) for seed in seeds)
    if not found:
        raise ValueError("seeds must have at least one seed; got none")
    if len(set(found)) < len(found) or max(found) >= 2**32:
        raise ValueError(f"seeds must be different and below 2³²; got {seeds!r:.80}")
    return found
