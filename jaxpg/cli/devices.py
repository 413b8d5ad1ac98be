"""What has to happen before JAX starts, which devices there are then, and where compiled programs are kept."""

import hashlib
import os
import pathlib
import platform
import sys
import tempfile
from typing import Any

__all__ = ["describe", "mesh_over", "prepare", "use_compilation_cache"]


def prepare(num_devices: int | None = None) -> None:
    """Sets XLA's flags, gives the CPU `num_devices` devices, None: one for each core, and sets up the cache.

    To be called before anything else touches JAX. Counts set by the user (XLA_FLAGS, JAX_NUM_CPU_DEVICES) stand. Where
    JAX runs already, as in a test or a notebook, its devices stay what they are.
    """
    from jaxpg.training.devices import set_xla_flags, use_cpu_cores

    set_xla_flags()
    use_compilation_cache()
    if "xla_force_host_platform_device_count" in os.environ["XLA_FLAGS"] or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    try:
        use_cpu_cores(num_devices)
    except RuntimeError:
        pass  # Too late; `mesh_over` takes the devices that there are, or refuses.


def use_compilation_cache() -> pathlib.Path | None:
    """Keeps what takes long to compile for the next run, in the user's cache folder; the folder, or None.

    JAXPG_COMPILATION_CACHE=off turns it off. Where the user has set JAX's own (JAX_COMPILATION_CACHE_DIR), that stands.
    A folder that cannot be written is not used.
    """
    import jax

    off = os.environ.get("JAXPG_COMPILATION_CACHE", "").lower() in ("off", "0", "false", "no", "none")
    if off or jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return None
    try:
        folder = _cache_folder() / "compiled" / _machine()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: there is no home.
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def _cache_folder() -> pathlib.Path:
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return pathlib.Path(local) / "jaxpg" / "cache"
    if sys.platform == "darwin":
        return pathlib.Path.home() / "Library" / "Caches" / "jaxpg"
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return (pathlib.Path(chosen) if os.path.isabs(chosen) else pathlib.Path.home() / ".cache") / "jaxpg"


def _machine() -> str:
    """A name for processors of this kind: a shared home must not give one machine another's programs."""
    features = platform.processor()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
        features += next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    return f"{platform.machine() or 'machine'}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"


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
