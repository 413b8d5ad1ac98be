"""Compiles and runs the contenders of `gradient.py`, in the process that measures them."""

import dataclasses
import functools
import time

import jax
import numpy as np

import jaxpg
from benchmarks import common, floor, rivals


@dataclasses.dataclass(frozen=True)
class Settings:
    """A workload, and the options of packed."""

    num_episodes: int
    limit: int
    hidden: tuple[int, ...]
    full_length: bool
    num_lanes: int | None = None
    block_size: int | None = None


class Player:
    """A process's contenders, compiled, with the calls that `common.Process` passes on."""

    def __init__(self, settings, num_devices):
        """`num_devices`: the CPU devices that this process gets; None leaves JAX as it is."""
        if num_devices is not None:
            jaxpg.use_cpu_cores(num_devices)
        self._settings = settings
        self._compiled = {}
        self._rates = None

    def describe(self):
        return {
            "backend": jax.default_backend(),
            "devices": [str(device) for device in jax.devices()],
            "device_kind": jax.devices()[0].device_kind,
        }

    def operations_per_step(self):
        return floor.operations_per_step(self._params)

    def prepare(self, name, options):
        """Compiles the contender and runs it once; says how long that took and what memory it plans for."""
        params, function = self._params, self._function(name, options)
        start = time.perf_counter()
        compiled = jax.jit(function).lower(jax.random.key(0), params).compile()
        seconds = time.perf_counter() - start
        self._compiled[name] = compiled
        rss = common.reset_peak_rss()
        jax.block_until_ready(compiled(jax.random.key(0), params))
        return {"compile_seconds": seconds, "memory": common.memory_of(compiled), "rss_compiled": rss}

    def run(self, name, round_, with_gradient=False):
        """One call, timed."""
        key, params, compiled = jax.random.key(round_ + 1), self._params, self._compiled[name]
        jax.block_until_ready((key, params))
        start, start_processor = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(compiled(key, params))
        answer = {
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - start_processor,
            "num_steps": int(result.num_steps),
            "utilization": float(result.utilization),
        }
        if with_gradient:
            answer["gradient"] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result.gradient)])
            answer["trace"] = float(getattr(result, "trace", np.nan))
        return answer

    def tune(self, name, repeats=3):
        """Every candidate's best time, quickest first."""
        tried = []
        for options in rivals.candidates(name, self._settings.num_episodes, jax.default_backend()):
            self.prepare(name, options)
            seconds = min(self.run(name, repeat)["seconds"] for repeat in range(repeats))
            tried.append({**options, "seconds": seconds})
        return sorted(tried, key=lambda candidate: candidate["seconds"])

    def rates(self):
        """What the devices of this process can do, in operations per second."""
        if self._rates is None:
            rows = 512 if jax.default_backend() == "cpu" else 65_536
            self._rates = floor.Rates(rows, max(self._settings.hidden, default=64))
        return self._rates.measure()

    def peak_rss(self):
        return common.peak_rss()

    @functools.cached_property
    def _problem(self):
        s = self._settings
        return rivals.cartpole(s.num_episodes, s.limit, s.hidden, s.full_length)

    @functools.cached_property
    def _params(self):
        return self._problem.policy.init(jax.random.key(0))

    def _function(self, name, options):
        problem = self._problem
        if name in rivals.RIVALS:
            return rivals.RIVALS[name](problem, **options)
        mesh = jax.sharding.Mesh(np.asarray(jax.devices()), ("device",)) if name == "packed_per_core" else None
        return jaxpg.policy_gradient(
            problem.env, problem.policy, num_episodes=problem.num_episodes, mesh=mesh,
            weight=jaxpg.weights.reward_to_go(discount=problem.discount), baseline=jaxpg.baselines.none(),
            num_lanes=self._settings.num_lanes, block_size=self._settings.block_size,
        )  # fmt: skip
