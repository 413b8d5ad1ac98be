"""How many runs fit in the memory: told by the compiled program, before it runs."""

import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _mesh
from jaxpg.sweeps._program import Program
from jaxpg.training._hosts import any_of, least

__all__ = ["Compiled", "available_bytes", "compile_within"]

SHARE = 0.8  # Of the free memory that a program may take.


class Compiled(NamedTuple):
    """The compiled functions for `num_runs` runs at a time: a block of updates, and an evaluation or None.

    `bytes_per_device` is what they need at once, arguments and results included. `num_compiles` and `compile_seconds`
    count larger sizes, too, that did not fit.
    """

    program: Program
    block: Callable[..., Any]
    evaluate: Any
    num_runs: int
    bytes_per_device: int
    num_compiles: int
    compile_seconds: float


def available_bytes() -> int:
    """Free memory of each device; on a CPU, whose devices share it, the process's part of it."""
    devices = jax.local_devices()
    found = [device.memory_stats() for device in devices]
    if all(stats and "bytes_limit" in stats for stats in found):
        return min(stats["bytes_limit"] - stats.get("bytes_in_use", 0) for stats in found if stats)
    import psutil

    return min(psutil.virtual_memory().available, _of_container()) // len(devices)


def _of_container() -> int:
    """What the container (a job of SLURM, a pod) has left, where there is one with a limit."""
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return sys.maxsize


def compile_within(
    program: Program, traced: Mapping[str, Any], key: Any, num_runs: int, exactly: bool, evaluates: bool
) -> Compiled:
    """The functions compiled for `num_runs` runs at a time, or, unless `exactly`, for as many as fit in the memory."""
    compiled = _compile(program, traced, key, num_runs, evaluates)
    room, devices = least(int(SHARE * available_bytes())), 1 if program.mesh is None else program.mesh.size
    while not exactly and any_of(compiled.bytes_per_device > room) and compiled.num_runs > devices:
        fewer = least(int(compiled.num_runs * room / max(compiled.bytes_per_device, 1) * 0.9))
        fewer = min(max(fewer // devices, 1) * devices, compiled.num_runs - devices)
        tried, seconds = compiled.num_compiles, compiled.compile_seconds
        compiled = _compile(program, traced, key, fewer, evaluates)
        seconds += compiled.compile_seconds
        compiled = compiled._replace(num_compiles=tried + compiled.num_compiles, compile_seconds=seconds)
    return compiled


def _compile(program: Program, traced: Mapping[str, Any], key: Any, num_runs: int, evaluates: bool) -> Compiled:
    start = time.perf_counter()
    values = {name: jax.ShapeDtypeStruct((num_runs,), x.dtype) for name, x in traced.items()}
    keys = jax.eval_shape(lambda k: jax.random.split(k, num_runs), key)
    states = jax.eval_shape(program.init, values, keys)
    left = jax.ShapeDtypeStruct((num_runs,), jnp.int32)
    most = jax.ShapeDtypeStruct((), jnp.int32)
    if program.mesh is not None:
        cut = _mesh.sharded(program.mesh)
        values, states, left, keys = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut), (values, states, left, keys)
        )
    block = program.block.lower(values, states, left, most).compile()
    evaluate = program.evaluate.lower(values, states.params, keys).compile() if evaluates else None
    size = _bytes(block)
    if evaluate is not None:  # The states stay where they are meanwhile.
        devices = 1 if program.mesh is None else program.mesh.size
        size = max(size, _bytes(evaluate) + sum(map(_size, jax.tree.leaves(states))) // devices)
    return Compiled(program, block, evaluate, num_runs, size, 1, time.perf_counter() - start)


def _size(leaf: Any) -> int:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return leaf.size * (16 if is_key else leaf.dtype.itemsize)


def _bytes(block: Any) -> int:
    """What the program needs at once; 0 where the backend does not tell."""
    found = block.memory_analysis()
    if found is None:
        return 0
    sizes = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return int(sizes - found.alias_size_in_bytes)
