"""Algorithms and their states as plain data, to tell whether a checkpoint belongs to them."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxpg.algorithms.types import Algorithm
from jaxpg.training._records import as_plain

__all__ = [
    "about",
    "acts_by_mode",
    "differences",
    "fingerprint",
    "flat",
    "from_host",
    "generator_of",
    "is_key",
    "key_from_record",
    "key_record",
    "leaves_of",
    "state_shapes",
    "to_host",
    "versions",
]

# Their versions decide the numbers of a run, or whether its files can be read.
PACKAGES = ("jaxpg", "jax", "jaxlib", "flax", "optax", "gymnax", "numpy", "orbax-checkpoint")
MOST_SHOWN = 12


def about(algorithm: Algorithm) -> dict[str, Any]:
    """What is trained on what: a run goes on only with the same."""
    env, policy = algorithm.env, algorithm.policy
    environment = None
    if env is not None:
        spaces = {"observation_space": repr(env.observation_space), "action_space": repr(env.action_space)}
        environment = {"name": env.name, "max_steps": env.max_steps, **spaces}
    return as_plain({
        "algorithm": algorithm.name,
        "config": algorithm.config,
        "environment": environment,
        "policy": None if policy is None else policy.description,
    })  # fmt: skip


def acts_by_mode(algorithm: Algorithm) -> bool:
    """Whether the algorithm trains the mode of its policy, as its `config` tells under "deterministic"."""
    found = algorithm.config.get("deterministic", False)
    return isinstance(found, (bool, np.bool_)) and bool(found)


def state_shapes(state: Any) -> dict[str, str]:
    """Where in the state which array lies: path -> dtype[shape]."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {f"state{jax.tree_util.keystr(path)}": f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested mappings as one, under names with dots."""

    def entries(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping) and value:
            for key, entry in value.items():
                yield from entries(entry, f"{path}.{key}" if path else str(key))
        else:
            yield path, value

    return dict(entries(value, path))


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line for each entry that differs: "config.num_episodes: 4 in the checkpoint, 8 now"."""
    old, new = flat(saved, prefix), flat(now, prefix)
    lines = []
    for path in [*old, *(path for path in new if path not in old)]:
        if path not in new:
            lines.append(f"{path}: {old[path]!r} in the checkpoint, not there now")
        elif path not in old:
            lines.append(f"{path}: not in the checkpoint, {new[path]!r} now")
        elif old[path] != new[path]:
            lines.append(f"{path}: {old[path]!r} in the checkpoint, {new[path]!r} now")
    if len(lines) > MOST_SHOWN:
        lines = [*lines[:MOST_SHOWN], f"and {len(lines) - MOST_SHOWN} more"]
    return lines


def is_key(leaf: Any) -> bool:
    """Whether the leaf is an array of typed random keys."""
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_host(leaf: Any) -> np.ndarray:
    """The leaf as a numpy array, keys as their words."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def from_host(array: np.ndarray, like: Any) -> jax.Array:
    """The leaf of `like`'s dtype (an array or what `eval_shape` gives) that `to_host` made the array of."""
    if not is_key(like):
        return jax.numpy.asarray(array)
    impl: list[Any] = []
    jax.eval_shape(lambda leaf: (impl.append(jax.random.key_impl(leaf)), leaf)[1], like)
    return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=impl[0])


def generator_of(tree: Any) -> str | None:
    """The generator of the first typed key in the tree; None where there is none."""
    keys = (leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype") and is_key(leaf))
    return next((str(jax.random.key_impl(key)) for key in keys), None)


def leaves_of(tree: Any, name: str) -> dict[str, Any]:
    """The leaves under names that sort in their order."""
    return {f"{name}.{i:06d}": leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


def fingerprint(tree: Any) -> str:
    """A digest of all values of the tree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = to_host(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def key_record(key: Any) -> dict[str, Any]:
    """The key as plain data."""
    return {"words": np.asarray(jax.random.key_data(key)).tolist(), "generator": str(jax.random.key_impl(key))}


def key_from_record(record: Mapping[str, Any]) -> jax.Array:
    """The key that `key_record` wrote down."""
    return jax.random.wrap_key_data(jax.numpy.asarray(record["words"], jax.numpy.uint32), impl=record["generator"])


def versions() -> dict[str, str]:
    """What the run was computed with."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return {**found, "python": platform.python_version(), "device": jax.devices()[0].device_kind}
