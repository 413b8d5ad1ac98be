"""Meshes of devices: the argument `mesh=`, and the mesh that a program is being traced for.

`train(mesh=…)` traces an algorithm's update inside `over(mesh)`. What plays episodes asks `current()` and lays them
over the mesh's devices, and so does what learns from minibatches with `mean_gradient`; the rest of the program is
partitioned by the compiler. Algorithms need not know.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = [
    "along_devices",
    "as_mesh",
    "constrain",
    "current",
    "divides",
    "gathered",
    "over",
    "replicated",
    "sharded",
    "summed",
]

_current: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("jaxpg_mesh", default=None)
# The axes of the mesh whose devices run what is being traced, each on its own part of one whole.
_together: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("jaxpg_together", default=())


def as_mesh(argument: str, mesh: Any) -> Mesh | None:
    """The mesh with automatic axes; "auto" is all devices of all processes; None for one device, which needs none."""
    if isinstance(mesh, str) and mesh == "auto":
        devices = jax.devices()
        return Mesh(np.array(devices), ("device",)) if len(devices) > 1 else None
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"{argument} must be a jax.sharding.Mesh, 'auto' for all devices, or None; got {type(mesh).__name__} "
            f"({mesh!r:.80})"
        )
    return Mesh(mesh.devices, tuple(mesh.axis_names))


def current() -> Mesh | None:
    """The mesh of the innermost `over`."""
    return _current.get()


@contextlib.contextmanager
def over(mesh: Mesh | None) -> Iterator[None]:
    """What is traced inside is for this mesh."""
    token = _current.set(mesh)
    try:
        yield
    finally:
        _current.reset(token)


def divides(argument: str, number: int) -> None:
    """ValueError unless the devices of the current mesh can share `number` things evenly."""
    mesh = current()
    if mesh is not None and number % mesh.size:
        below = number // mesh.size * mesh.size
        nearest = f"{below} or {below + mesh.size}" if below else str(mesh.size)
        raise ValueError(
            f"{argument} must be a multiple of {mesh.size}, the devices of the mesh; got {number}: the nearest are "
            f"{nearest}"
        )


def constrain(tree: Any, axis: int) -> Any:
    """The leaves, cut along `axis` over the devices of the current mesh where that goes evenly."""
    mesh = current()
    if mesh is None:
        return tree

    def leaf(x: Any) -> Any:
        if x.ndim <= axis or x.shape[axis] % mesh.size:
            return x
        return jax.lax.with_sharding_constraint(x, sharded(mesh, axis))

    return jax.tree.map(leaf, tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device has all of it."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The axis is cut into as many parts as the mesh has devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, tuple(mesh.axis_names)))


def along_devices(
    mesh: Mesh | None, function: Callable, *, cut: dict[int, int], axes: Any = 0, together: bool = False
) -> Callable:
    """`function` run by every device by itself on its part: no device waits for another.

    Args:
      cut: the positions of the arguments that are cut, and the axis along which their leaves are; the others are whole.
      axes: pytree prefix of the results: the axis along which the devices' parts are put together; None for results
        that are the same on every device.
      together: whether the devices work on parts of one whole, which `summed` and `gathered` put together: there alone
        they wait.
    """
    if mesh is None:
        return function
    names = tuple(mesh.axis_names)

    def spec(axis: int) -> PartitionSpec:
        return PartitionSpec(*(None,) * axis, names)

    def call(*args: Any) -> Any:
        specs = tuple(spec(cut[i]) if i in cut else PartitionSpec() for i in range(len(args)))
        out = PartitionSpec() if axes is None else jax.tree.map(spec, axes)
        token = _together.set(names if together else ())
        try:
            with over(None):  # Inside, each device is alone.
                return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)(*args)
        finally:
            _together.reset(token)

    return call


def gathered(tree: Any, axis: int) -> Any:
    """The parts of all devices that run this together, one behind the other along `axis`; else `tree`."""
    names = _together.get()
    return jax.lax.all_gather(tree, names, axis=axis, tiled=True) if names else tree


def summed(tree: Any) -> Any:
    """The sums over all devices that run this together, by one exchange of floats of one dtype; else `tree`."""
    names = _together.get()
    if not names:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.psum(flat, names))
