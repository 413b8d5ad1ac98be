"""A sweep, checked and cut into batches of runs that one compiled program plays."""

import collections
import dataclasses
import functools
import json
import math
import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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
from jaxpg.sweeps.points import Points, as_points
from jaxpg.training._describe import about, acts_by_mode, key_record
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
        _check.count("evaluation_episodes", options["evaluation_episodes"])
        options["mesh"] = _mesh.as_mesh("mesh", options["mesh"])
        points = as_points(hyperparameters)
        settings, algorithms = settle(build, points)
        if options["evaluate_every"] is not None:
            chosen = options["evaluation_episodes"], options["deterministic_evaluation"]
            Evaluator(algorithms[0], keys[0], options["evaluate_every"], *chosen)
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
        return {
            "key": key_record(self.key),
            "num_env_steps": self.num_env_steps,
            "evaluate_every": self.evaluate_every,
            "evaluation_episodes": self.evaluation_episodes if self.evaluate_every is not None else None,
            "deterministic_evaluation": self.deterministic_evaluation,
            "nonfinite": self.nonfinite,
        }

    def config(self) -> dict[str, Any]:
        """The sweep's own configuration, for the dataset."""
        start = {name: value for name, value in self.start().items() if value is not None}
        return {**start, "traced": list(self.settings.traced), "looped": dict(self.settings.looped)}

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """A name for every setting; settings that look alike are numbered."""
        told = [json.dumps({name: label(value) for name, value in s.items()}) for s in self.points.settings]
        seen: collections.Counter[str] = collections.Counter()
        names = []
        for text in told:
            seen[text] += 1
            names.append(text if seen[text] == 1 else f"{text} #{seen[text]}")
        return tuple(names)

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
            most = len(runs) if self.runs_per_batch is None else min(self.runs_per_batch, len(runs))
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

    def resumed(self, runs: list[tuple[int, int]], size: int) -> Pending | None:
        """The batch of these runs, with the size of program that it had; None if they are of several groups."""
        group = self._group_of(runs[0][0])
        devices = 1 if self.mesh is None else self.mesh.size
        if size % devices or not all(setting in group.points for setting, _ in runs):
            return None
        return self._pending(group, self._compile(group, size, exactly=True), runs)

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
        )
        return Pending(batch, compiled, [(column, *run) for column, run in enumerate(runs)])

    def _evenly(self, number: int, most: int) -> int:
        """The size of batches of at most `most` runs that needs the least filling; a multiple of the devices."""
        devices = 1 if self.mesh is None else self.mesh.size
        size = math.ceil(number / math.ceil(number / most))
        return math.ceil(size / devices) * devices

    def _compile(self, group: Group, size: int, exactly: bool) -> Compiled:
        given = self.deterministic_evaluation
        program = Program(
            build=functools.partial(group.build, self.build),
            mesh=self.mesh,
            num_episodes=self.evaluation_episodes,
            deterministic=acts_by_mode(group.algorithm) if given is None else given,
            halt=self.nonfinite == "stop",
        )
        return compile_within(program, group.traced, self.keys[0], size, exactly)


def _keys(key: Any, seeds: tuple[int, ...]) -> tuple[Any, Any]:
    """(the key or keys as given, the seeds' own [seed])."""
    if getattr(key, "ndim", 0) == 1 and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if len(key) != len(seeds):
            raise ValueError(f"key must be one key, or one for each of the {len(seeds)} seeds; got {len(key)}")
        return key, key
    key = _check.key("key", key)
    return key, jax.vmap(lambda seed: fold_in(key, seed))(jnp.asarray(seeds, jnp.uint32))


def _seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, numbers.Integral) and not isinstance(seeds, bool):
        return tuple(range(_check.count("seeds", seeds)))
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, (Sequence, np.ndarray, range)):
        raise TypeError(f"seeds must be a number of seeds, or a list of them; got {type(seeds).__name__} ({seeds!r})")
    found = tuple(_check.count("seeds", seed, 0) for seed in seeds)
    if not found:
        raise ValueError("seeds must have at least one seed; got none")
    if len(set(found)) < len(found) or max(found) >= 2**32:
        raise ValueError(f"seeds must be different and below 2³²; got {seeds!r:.80}")
    return found
