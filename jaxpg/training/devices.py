"""Devices: one per CPU core, set up before JAX starts."""

import os

import jax

from jaxpg import _check

__all__ = ["set_xla_flags", "use_cpu_cores"]

# XLA's concurrency-optimised CPU scheduler runs side by side what can block the threads of its pool (batches of
# LAPACK's factorisations, as in the init of vmapped networks of others); the plain one is as fast.
_NO_HANG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"

_THREADS = "PJRT_NPROC"  # XLA looks here for the size of its pool, once, when JAX starts.

_set_here: str | None = None


def set_xla_flags() -> None:
    """Adds the XLA flags that jaxpg runs best with to the environment; they count if JAX has not started yet."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _NO_HANG.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_HANG}".strip()


def use_cpu_cores(num_devices: int | None = None, num_threads: int | None = None) -> int:
    """Gives the CPU one JAX device per core, so that a mesh over `jax.devices()` uses them all.

    To be called before the first computation, also before gymnax is imported, which starts JAX.

    Args:
      num_devices: how many devices; default one for each core that the process may use.
      num_threads: of the pool that all devices share for large operations, at least `num_devices`; default the number
        of cores. `use_cpu_cores(1, num_threads=1)` is the quickest for one small run, whose operations take less time
        than waking another thread does. It is told to XLA, and to processes started from here, by PJRT_NPROC.
    Returns:
      The number of devices.
    Raises:
      ValueError, TypeError: for numbers out of range.
      RuntimeError: if JAX has started already with another number of CPU devices, or of threads.
    """
    if num_devices is None:
        num_devices = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_devices = _check.count("num_devices", num_devices)
    if num_threads is not None and _check.count("num_threads", num_threads) < num_devices:
        raise ValueError(f"num_threads must be at least num_devices, {num_devices}; got {num_threads}")
    set_xla_flags()
    try:
        for number in (num_devices + 1, num_devices):  # Once JAX has started it refuses a change, and a change alone.
            jax.config.update("jax_num_cpu_devices", number)
    except RuntimeError as error:
        found, threads = jax.local_device_count("cpu"), os.environ.get(_THREADS, "as many as cores")
        if found == num_devices and str(num_threads) in ("None", threads):
            return num_devices
        raise RuntimeError(
            f"use_cpu_cores() came too late: JAX has already started, with {found} CPU device(s) and num_threads "
            f"{threads}. Call it before the first JAX computation and before gymnax is imported"
        ) from error
    global _set_here
    if num_threads is not None:
        os.environ[_THREADS] = _set_here = str(num_threads)
    elif _set_here is not None and os.environ.get(_THREADS) == _set_here:  # An earlier call's.
        del os.environ[_THREADS]
        _set_here = None
    return num_devices
