"""How many runs fit in the memory: told by the compiled program, before it runs."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _mesh
from jaxpg.sweeps._program import Program
from jaxpg.training._hosts import least

__all__ = ["Compiled", "available_bytes", "compile_within"]

SHARE = 0.8  # Of the free memory that a program may take.


class Compiled(NamedTuple):
    """A compiled block of updates for `num_runs` runs at a time.

    `bytes_per_device` is what the program needs at once, its arguments and results included.
    """

    program: Program
    block: Callable[..., Any]
    num_runs: int
    bytes_per_device: int
    compile_seconds: float


def available_bytes() -> int:
    """Free memory of each device; on a CPU, whose devices share it, the process's part of it."""
    devices = jax.local_devices()
    found = [device.memory_stats() for device in devices]
    if all(stats and "bytes_limit" in stats for stats in found):
        return min(stats["bytes_limit"] - stats.get("bytes_in_use", 0) for stats in found if stats)
    import psutil

    return psutil.virtual_memory().available // len(devices)


def compile_within(program: Program, traced: Mapping[str, Any], key: Any, num_runs: int, exactly: bool) -> Compiled:
    """The block compiled for `num_runs` runs at a time, or, unless `exactly`, for as many as fit in the memory."""
    compiled = _compile(program, traced, key, num_runs)
    room = least(int(SHARE * available_bytes()))
    while not exactly and compiled.bytes_per_device > room and compiled.num_runs > _devices(program):
        fewer = int(compiled.num_runs * room / compiled.bytes_per_device * 0.9)
        fewer = max(fewer // _devices(program), 1) * _devices(program)
        compiled = _compile(program, traced, key, min(fewer, compiled.num_runs - _devices(program)))
    return compiled


def _devices(program: Program) -> int:
    return 1 if program.mesh is None else program.mesh.size


def _compile(program: Program, traced: Mapping[str, Any], key: Any, num_runs: int) -> Compiled:
    start = time.perf_counter()
    values = {name: jax.ShapeDtypeStruct((num_runs,), x.dtype) for name, x in traced.items()}
    keys = jax.eval_shape(lambda k: jax.random.split(k, num_runs), key)
    states = jax.eval_shape(program.init, values, keys)
    left = jax.ShapeDtypeStruct((num_runs,), jnp.int32)
    most = jax.ShapeDtypeStruct((), jnp.int32)
    if program.mesh is not None:
        cut = _mesh.sharded(program.mesh)
        values, states, left = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut), (values, states, left)
        )
    block = program.block.lower(values, states, left, most).compile()
    return Compiled(program, block, num_runs, _bytes(block), time.perf_counter() - start)


def _bytes(block: Any) -> int:
    """What the program needs at once; 0 where the backend does not tell."""
    found = block.memory_analysis()
    if found is None:
        return 0
    sizes = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return int(sizes - found.alias_size_in_bytes)
