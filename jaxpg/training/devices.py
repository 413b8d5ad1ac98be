"""Devices: one per CPU core, set up before JAX starts."""

import os

import jax

from jaxpg import _check

__all__ = ["set_xla_flags", "use_cpu_cores"]

# XLA's concurrency-optimised CPU scheduler runs side by side what can block the threads of its pool (batches of
# LAPACK's factorisations, as in the init of vmapped networks of others); the plain one is as fast.
_NO_HANG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def set_xla_flags() -> None:
    """Adds the XLA flags that jaxpg runs best with to the environment; they count if JAX has not started yet."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _NO_HANG.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_HANG}".strip()


def use_cpu_cores(num_devices: int | None = None) -> int:
    """Gives the CPU one JAX device per core, so that a mesh over `jax.devices()` uses them all.

    To be called before the first computation, also before gymnax is imported, which starts JAX.

    Args:
      num_devices: how many devices; default one for each core that the process may use.
    Returns:
      The number of devices.
    Raises:
      RuntimeError: if JAX has started already with another number of CPU devices.
    """
    if num_devices is None:
        num_devices = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_devices = _check.count("num_devices", num_devices)
    set_xla_flags()
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError as error:
        found = jax.local_device_count("cpu")
        if found == num_devices:
            return num_devices
        raise RuntimeError(
            f"use_cpu_cores() came too late: JAX has already started, with {found} CPU device(s). Call it before the "
            f"first JAX computation and before gymnax is imported"
        ) from error
    return num_devices
