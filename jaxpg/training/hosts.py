"""Several processes, on one machine or on many: one call, before the first computation, and the same script."""

import inspect
import os
from typing import Any

import jax

from jaxpg import _check
from jaxpg.training.devices import set_xla_flags, use_cpu_cores

__all__ = ["use_hosts"]

HEARTBEAT_SECONDS = 30


def use_hosts(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    cpu_devices: int | None = None,
    heartbeat_timeout_seconds: int = HEARTBEAT_SECONDS,
    **options: Any,
) -> int:
    """Joins the processes of a job: afterwards `jax.devices()` and `mesh="auto"` are the devices of all of them.

    To be called by every process before its first computation, also before gymnax is imported. All run the same
    script; the first one writes files, draws the progress bar and calls loggers and callbacks. Under SLURM, Open MPI,
    Kubernetes and on Cloud TPU the arguments are found by JAX; elsewhere give the first three. On CPUs the processes
    talk through gloo.

    A process that dies ends the others within `heartbeat_timeout_seconds` or a little more, with a message. The job
    that is started again goes on from the newest checkpoint of its directory, on as many processes as there are then.

    Args:
      coordinator_address: "host:port" of the first process, reachable by all.
      num_processes, process_id: how many, and which one this is, from 0.
      cpu_devices: devices of this process where there is no accelerator; default 1.
      heartbeat_timeout_seconds: how long a process may be silent before the job ends.
      options: further ones of `jax.distributed.initialize`.
    Returns:
      The number of processes.
    Raises:
      ValueError: for arguments out of range, or some of the first three without the others.
      RuntimeError: if JAX has started already.
    """
    given = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < 3:
        raise ValueError(f"give coordinator_address, num_processes and process_id, or none of them; {missing} missing")
    if not missing:
        if not isinstance(coordinator_address, str) or ":" not in coordinator_address:
            raise ValueError(f'coordinator_address must be "host:port"; got {coordinator_address!r}')
        number = _check.count("num_processes", num_processes)
        if _check.count("process_id", process_id, 0) >= number:
            raise ValueError(f"process_id must be from 0 to {number - 1}; got {process_id}")
    timeout = _check.count("heartbeat_timeout_seconds", heartbeat_timeout_seconds)
    set_xla_flags()
    if jax.config.jax_platforms in (None, "", "cpu"):  # type: ignore[attr-defined]
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        if "xla_force_host_platform_device_count" not in os.environ["XLA_FLAGS"]:
            use_cpu_cores(cpu_devices or 1)
    if "shutdown_timeout_seconds" in inspect.signature(jax.distributed.initialize).parameters:
        # A process that has raised an error waits for the others before it ends.
        options.setdefault("shutdown_timeout_seconds", timeout)
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=timeout, **options)
    except ValueError as error:
        if given["coordinator_address"] is not None:
            raise
        raise ValueError(
            "no SLURM, Open MPI, Kubernetes or Cloud TPU job was found around this process: give coordinator_address, "
            f"num_processes and process_id ({error})"
        ) from error
    except RuntimeError as error:
        if "before" not in str(error):
            raise
        raise RuntimeError(
            "use_hosts() came too late: JAX has already started. Call it before the first JAX computation and before "
            "gymnax is imported"
        ) from error
    return jax.process_count()
