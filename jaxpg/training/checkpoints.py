"""Checkpoints: folders that hold everything a run needs to go on, and that show when they have been damaged.

    DIRECTORY/checkpoints/00000120/arrays/…         every array of the algorithm's state and the best parameters (orbax)
                                   checkpoint.json  counters, the run's key, configuration, shapes, versions
                                   manifest.json    the SHA-256 of every file, written last

The number is that of the update. A checkpoint is written under another name and renamed when all of it is on the disk:
a run that is killed leaves whole ones only.
"""

import json
import os
import pathlib
import re
import shutil
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxpg import _check
from jaxpg._show import compact
from jaxpg.algorithms.types import Algorithm
from jaxpg.policies.base import Policy
from jaxpg.training._describe import about, differences, from_host, is_key, leaves_of, state_shapes, to_host, versions
from jaxpg.training._files import check_manifest, sync_folder, write_file, write_manifest

__all__ = ["Checkpoint", "load_best", "load_checkpoint"]

FORMAT = 1
_NAME = re.compile(r"(\d{8,})(?:\.(\d+))?")


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Fields:
      state: the algorithm's state, as it was; `state.params` are the policy's parameters.
      best_params: the parameters with the best evaluation so far; None before the first.
      num_updates, num_env_steps, seconds: what the run had done.
      info: all of checkpoint.json: the run's key, evaluations, algorithm and configuration, versions.
      path: the checkpoint's folder.
    """

    state: Any
    best_params: Any
    num_updates: int
    num_env_steps: int
    seconds: float
    info: Mapping[str, Any]
    path: pathlib.Path

    __repr__ = compact


def load_checkpoint(directory: Any, algorithm: Algorithm, update: int | None = None) -> Checkpoint:
    """The newest whole checkpoint of a run, or the one of an update; nothing in the directory is changed.

    Args:
      directory: that of `train(…, directory=…)`.
      algorithm: built as the run's was.
      update: the number of a checkpoint; default the newest that is not damaged. A damaged one is named in a warning.
    Raises:
      FileNotFoundError: if there is no such checkpoint.
      ValueError: if none is whole, or the algorithm is another; the differences are listed.
    """
    _check.instance("algorithm", algorithm, Algorithm)
    path = as_path("directory", directory)
    names = checkpoint_names(path / "checkpoints")
    if not names:
        raise FileNotFoundError(f"directory: there is no checkpoint in {path / 'checkpoints'}")
    if update is not None:
        update = _check.count("update", update, 0)
        numbers = [update_of(name) for name in names]
        if update not in numbers:
            raise FileNotFoundError(f"update must be one of {sorted(set(numbers))}, those of {path}; got {update}")
        names = [name for name, number in zip(names, numbers) if number == update]
    name, damaged = newest_whole(path / "checkpoints", names)
    for other, problem in damaged.items():
        warnings.warn(f"checkpoint {path / 'checkpoints' / other} is damaged: {problem}", RuntimeWarning, stacklevel=2)
    info = read_info(path / "checkpoints" / name)
    return restore(path / "checkpoints" / name, info, algorithm, template(algorithm, info))


def load_best(directory: Any, policy: Policy) -> tuple[Any, Mapping[str, Any]]:
    """The policy's parameters with the best evaluation of a run, and what is known of them.

    Returns:
      (params, info): `info` has "num_updates", "num_env_steps" and "episode_return", the evaluation's mean return.
    Raises:
      FileNotFoundError: if the run has not been evaluated.
      ValueError: if the files are damaged, or belong to another policy.
    """
    _check.instance("policy", policy, Policy)
    folder = as_path("directory", directory) / "best"
    names = checkpoint_names(folder)
    if not names:
        raise FileNotFoundError(f"directory: there are no best parameters in {folder}: the run has not been evaluated")
    name, _ = newest_whole(folder, names)
    info = read_info(folder / name)
    like = jax.eval_shape(policy.init, jax.random.key(0))
    _refuse(differences(info["state"], state_shapes(like)), folder / name, "the parameters are those of another policy")
    return _tree(read_arrays(folder / name), "best", like), info


def as_path(argument: str, value: Any) -> pathlib.Path:
    """The folder as an absolute path."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise TypeError(f"{argument} must be the path of a folder; got {type(value).__name__} ({value!r:.80})")
    return pathlib.Path(value).expanduser().absolute()


def template(algorithm: Algorithm, info: Mapping[str, Any], state: Any = None) -> Any:
    """The structure, shapes and dtypes of the algorithm's state, with keys of the generator that the run has."""
    if state is None:
        return jax.eval_shape(lambda: algorithm.init(jax.random.key(0, impl=info["start"].get("generator"))))
    return jax.eval_shape(lambda: state)


def checkpoint_names(folder: pathlib.Path) -> list[str]:
    """The names of the checkpoints in a folder, the oldest first."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    matches = [match for match in map(_NAME.fullmatch, names) if match is not None]
    return [m.group() for m in sorted(matches, key=lambda m: (int(m.group(1)), int(m.group(2) or 0)))]


def update_of(name: str) -> int:
    """The number of the update that the checkpoint of that name stands behind."""
    return int(name.split(".")[0])


def newest_whole(folder: pathlib.Path, names: list[str]) -> tuple[str, dict[str, str]]:
    """(the newest of the checkpoints that is not damaged, what is wrong with those that are newer)."""
    damaged: dict[str, str] = {}
    for name in reversed(names):
        problem = check_manifest(folder / name)
        if problem is None:
            return name, damaged
        damaged[name] = problem
    listed = "".join(f"\n  {name}: {problem}" for name, problem in damaged.items())
    raise ValueError(f"directory: every checkpoint in {folder} is damaged:{listed}")


def write_checkpoint(
    folder: pathlib.Path, num_updates: int, trees: Mapping[str, Any], info: dict[str, Any]
) -> pathlib.Path:
    """Writes the trees and `info` as the folder's newest checkpoint; a failure leaves those before as they are."""
    arrays = {k: to_host(leaf) for label, tree in trees.items() for k, leaf in leaves_of(tree, label).items()}
    return write_arrays(folder, num_updates, arrays, info)


def write_arrays(
    folder: pathlib.Path, number: int, arrays: Mapping[str, np.ndarray], info: dict[str, Any]
) -> pathlib.Path:
    """Writes the arrays and `info` under a number, as `write_checkpoint` does; arrays without entries are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    sync_folder(folder.parent)
    taken = [name for name in checkpoint_names(folder) if update_of(name) == number]
    name = f"{number:08d}" + (f".{int(_NAME.fullmatch(taken[-1]).group(2) or 0) + 1}" if taken else "")  # type: ignore
    part = folder / f".part-{name}"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        # orbax refuses arrays without entries; their shapes say all that there is to know.
        arrays = {k: array for k, array in arrays.items() if array.size}
        if arrays:
            _checkpointer().save(part / "arrays", arrays)
        content = {"format": FORMAT, "num_updates": number, **info, "versions": versions()}
        write_file(part / "checkpoint.json", json.dumps(content, indent=1).encode())
        write_manifest(part)
        os.replace(part, folder / name)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(folder)
    return folder / name


def read_info(path: pathlib.Path) -> dict[str, Any]:
    """checkpoint.json."""
    info = json.loads((path / "checkpoint.json").read_bytes())
    if info["format"] != FORMAT:
        raise ValueError(
            f"directory: {path} has the format {info['format']}; this jaxpg reads {FORMAT}. It was written by jaxpg "
            f"{info.get('versions', {}).get('jaxpg')}"
        )
    return info


def restore(path: pathlib.Path, info: Mapping[str, Any], algorithm: Algorithm, like: Any) -> Checkpoint:
    """The checkpoint, if the algorithm is the one it was written for, with a state like `like`."""
    lines = differences(info["about"], about(algorithm)) + differences(info["state"], state_shapes(like))
    _refuse(lines, path, "the checkpoint is that of another configuration")
    arrays = read_arrays(path)
    return Checkpoint(
        state=_tree(arrays, "state", like),
        best_params=None if info["best"] is None else _tree(arrays, "best", like.params),
        num_updates=info["num_updates"],
        num_env_steps=info["num_env_steps"],
        seconds=info["seconds"],
        info=info,
        path=path,
    )


def warn_of_versions(info: Mapping[str, Any], path: pathlib.Path) -> None:
    """A warning if the checkpoint was written with other versions or on another kind of device."""
    lines = differences(info["versions"], versions())
    if lines:
        warnings.warn(
            f"{path}: the run goes on with other versions, so its numbers may differ from those of an uninterrupted "
            f"one; {'; '.join(lines)}",
            RuntimeWarning,
            stacklevel=2,
        )


def _refuse(lines: list[str], path: pathlib.Path, what: str) -> None:
    if lines:
        listed = "".join(f"\n  {line}" for line in lines)
        raise ValueError(
            f"directory: {what} ({path}):{listed}\nGo on with the same as before, or name another directory"
        )


def _tree(arrays: Mapping[str, Any], label: str, like: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    names = list(leaves_of(like, label))
    found = [arrays[name] if 0 not in leaf.shape else _no_entries(leaf) for name, leaf in zip(names, leaves)]
    return structure.unflatten([from_host(array, leaf) for array, leaf in zip(found, leaves)])


def _no_entries(like: Any) -> np.ndarray:
    words = jax.eval_shape(jax.random.key_data, like) if is_key(like) else like
    return np.zeros(words.shape, words.dtype)


def read_arrays(path: pathlib.Path) -> Mapping[str, Any]:
    """The arrays of a folder, by name."""
    return _checkpointer().restore(path / "arrays") if (path / "arrays").exists() else {}


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    # One process reads and writes, by itself: orbax would wait for the others.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="jaxpg"
    )
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=alone), multiprocessing_options=alone)
