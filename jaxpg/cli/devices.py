"""What has to happen before JAX starts, and which devices there are then."""

import os
from typing import Any

__all__ = ["describe", "mesh_over", "prepare"]


def prepare(num_devices: int | None = None) -> None:
    """Sets XLA's flags and gives the CPU `num_devices` devices, None: one for each core.

    To be called before anything else touches JAX. Counts set by the user (XLA_FLAGS, JAX_NUM_CPU_DEVICES) stand. Where
    JAX runs already, as in a test or a notebook, its devices stay what they are.
    """
    from jaxpg.training.devices import set_xla_flags, use_cpu_cores

    set_xla_flags()
    if "xla_force_host_platform_device_count" in os.environ["XLA_FLAGS"] or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    try:
        use_cpu_cores(num_devices)
    except RuntimeError:
        pass  # Too late; `mesh_over` takes the devices that there are, or refuses.


def mesh_over(num_devices: int | None) -> Any:
    """A mesh over the first `num_devices` devices, None: over all; nothing for one device, which needs no mesh."""
    import jax
    import numpy as np

    devices = jax.devices()
    wanted = len(devices) if num_devices is None else num_devices
    if not 1 <= wanted <= len(devices):
        raise ValueError(f"devices must be from 1 to {len(devices)}, what JAX has here ({describe()}); got {wanted}")
    return jax.sharding.Mesh(np.array(devices[:wanted]), ("episode",)) if wanted > 1 else None


def describe(num_devices: int | None = None) -> str:
    """`2 cpu devices`, `1 NVIDIA H200 device`: so many of those that there are, None: all."""
    import jax

    count = len(jax.devices()) if num_devices is None else num_devices
    return f"{count} {jax.devices()[0].device_kind} device{'s' if count > 1 else ''}"
