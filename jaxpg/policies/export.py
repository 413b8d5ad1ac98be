"""Policies in files, for use elsewhere: the numbers as safetensors, and what they mean as JSON.

path/policy.safetensors    the leaves of params by name, "hidden_0/kernel"
path/policy.json           the policy's description; names, shapes and dtypes of the leaves; the environment's name,
                           episode limit and spaces; versions; metadata; the checksum of the other file
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.envs.registry import make
from jaxpg.envs.spaces import shape_dtype
from jaxpg.policies._folder import write_folder
from jaxpg.policies._leaves import leaf_names, named_arrays
from jaxpg.policies._spaces_as_data import difference, space_as_data
from jaxpg.policies.base import Policy, check_environment
from jaxpg.policies.description import from_description

__all__ = ["load_policy", "save_policy"]

FORMAT, VERSION = "jaxpg policy", 1
NUMBERS, MEANING = "policy.safetensors", "policy.json"
# The names that the safetensors format has for the types of numbers.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
}  # fmt: skip


def save_policy(
    path: str | os.PathLike[str],
    policy: Policy,
    params: Any,
    *,
    env: Environment | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a policy and its parameters into a folder.

    The folder appears under its name when it is complete. Where a policy is overwritten, the old one is kept aside
    until then. safetensors and NumPy are enough to read the parameters; running statistics of observations are among
    them.

    Args:
      path: the folder; its parents are made.
      policy, params: one policy, params as `policy.init` gives them (of several seeds, pick one).
      env: the environment it is for; its name, episode limit and spaces are noted, not its parameters.
      metadata: anything that JSON can hold, kept under "metadata".
      overwrite: replace a saved policy. Folders that hold anything else are never touched.

    Returns: the folder.
    Raises:
      ValueError: params that are not the policy's, a policy that does not fit env, or a path that is taken.
      TypeError: params that are no arrays, or metadata that JSON has no words for.
      OSError: the folder cannot be written; nothing is left of it then, and what was there before still is.
    """
    path = _path(path)
    _check.instance("policy", policy, Policy)
    arrays = named_arrays(params)
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES.values():
            raise TypeError(f"params must hold {', '.join(DTYPES.values())}; {name!r} is {array.dtype.name}")
    shapes = {name: array.shape for name, array in arrays.items()}
    _check_params("params", shapes, policy, "pick one of several seeds by jax.tree.map(lambda x: x[i], params)")
    if env is not None:
        _check_fits(check_environment(env), policy, params)
    _check.boolean("overwrite", overwrite)

    from safetensors.numpy import save

    numbers = save(arrays)
    record = {
        "format": FORMAT,
        "format_version": VERSION,
        "description": None if policy.description is None else dict(policy.description),
        "has_memory": policy.initial_carry is not None,
        "has_value": policy.has_value,
        "params": {name: {"shape": list(a.shape), "dtype": a.dtype.name} for name, a in arrays.items()},
        "structure": str(jax.tree_util.tree_structure(params)),
        "env": None if env is None else _env_as_data(env),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "numpy", "safetensors")}
        | {"jaxpg": _version()},
        "metadata": _metadata(metadata),
        "sha256": hashlib.sha256(numbers).hexdigest(),
    }
    meaning = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_folder(path, {NUMBERS: numbers, MEANING: meaning.encode("utf-8")}, overwrite)
    return path


def load_policy(
    path: str | os.PathLike[str], env: Environment | None = None, policy: Policy | None = None
) -> tuple[Policy, Any]:
    """The policy and the params that `save_policy` wrote into a folder.

    Args:
      path: the folder.
      env: the environment it is for; by default `jaxpg.make` makes it from the name that was noted, with the episode
        limit that was noted and default parameters.
      policy: the policy; by default it is built anew from its description, which those of `jaxpg.policies` have, unless
        functions of your own were among their arguments.

    Returns: (policy, params); params are JAX arrays in the structure that `policy.init` gives.
    Raises:
      FileNotFoundError: there is no saved policy.
      ValueError: a damaged file; env or policy that differ from those saved; or one of them is needed and missing.
    """
    path = _path(path)
    env = _check.optional(lambda _, value: check_environment(value), "env", env)
    record, numbers = _read_folder(path)
    if env is not None and record["env"] is not None:
        saved, given = ({side: data[side] for side in SPACES} for data in (record["env"], _env_as_data(env)))
        if found := difference("env", saved, given):
            raise ValueError(f"env must have the spaces of the environment that {path} was saved for: {found}")
    if policy is None:
        policy = _policy_from(record, env, path)
    else:
        described = _check.instance("policy", policy, Policy).description
        if described is not None and record["description"] is not None:
            if found := difference("policy.description", record["description"], _through_json(described)):
                raise ValueError(f"policy must be the one that {path} holds: {found}")
    arrays = _read_numbers(numbers, path)
    expected = _check_params(f"{path}: params", {name: a.shape for name, a in arrays.items()}, policy, "")
    structure = jax.tree_util.tree_structure(expected)
    return policy, structure.unflatten([_as_jax(name, arrays[name], path) for name in leaf_names(expected)])


SPACES = ("observation_space", "action_space")


def _path(path: Any) -> pathlib.Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be the name of a folder; got {_check.described(path)}")
    return pathlib.Path(path).expanduser()


def _env_as_data(env: Environment) -> dict[str, Any]:
    spaces = {side: space_as_data(getattr(env, side)) for side in SPACES}
    return {"name": env.name, "max_steps": env.max_steps, **spaces}


def _version() -> str:
    import jaxpg

    return jaxpg.__version__


def _metadata(metadata: Any) -> Any:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be None or a dict; got {type(metadata).__name__} ({metadata!r:.80})")
    try:
        return _through_json({} if metadata is None else dict(metadata))
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata must hold what JSON can hold, and finite numbers: {error}") from None


def _through_json(data: Any) -> Any:
    return json.loads(json.dumps(data, allow_nan=False))


def _check_params(what: str, shapes: Mapping[str, tuple[int, ...]], policy: Policy, hint: str) -> Any:
    """The shapes that `policy.init` gives, if `shapes` are the same; else ValueError with the first difference."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    expected = jax.eval_shape(policy.init, key)
    wanted = {name: leaf.shape for name, leaf in zip(leaf_names(expected), jax.tree_util.tree_leaves(expected))}
    if missing := [name for name in wanted if name not in shapes]:
        raise ValueError(f"{what} must have the leaves that policy.init gives; {missing[0]!r} is missing")
    if more := sorted(set(shapes) - set(wanted)):
        raise ValueError(f"{what} must have the leaves that policy.init gives; {more[0]!r} is not among them")
    for name, shape in wanted.items():
        if shapes[name] != shape:
            hint = f": {hint}" if hint and shapes[name][1:] == shape else ""
            raise ValueError(f"{what}: {name!r} must have shape {shape}, as policy.init says; got {shapes[name]}{hint}")
    return expected


def _check_fits(env: Environment, policy: Policy, params: Any) -> None:
    def apply(params: Any, observation: Any) -> None:
        memory = () if policy.initial_carry is None else (policy.initial_carry,)
        policy.apply(params, observation, *memory)  # A distribution need not be a pytree: nothing is returned.

    try:
        jax.eval_shape(apply, params, shape_dtype(env.observation_space))
    except Exception as error:
        raise ValueError(
            f"policy does not take the observations of env, {env.observation_space}: {type(error).__name__}: {error}"
        ) from error


def _policy_from(record: Mapping[str, Any], env: Environment | None, path: pathlib.Path) -> Policy:
    if record["description"] is None:
        raise ValueError(
            f"policy must be given: the one in {path} was saved without a description, since functions of its own "
            f"were among its arguments; build it as before and pass policy="
        )
    if env is None:
        env = _make_env(record["env"], path)
    try:
        policy = from_description(env, record["description"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path / MEANING}: no policy can be built from its description: {error}") from error
    return _check.instance("description", policy, Policy)


def _make_env(saved: Mapping[str, Any] | None, path: pathlib.Path) -> Environment:
    if saved is None:
        raise ValueError(f"env must be given: {path} was saved without one; pass env= (or policy=)")
    try:
        env = make(saved["name"], max_steps=saved["max_steps"])
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"env must be given: jaxpg.make does not make {saved['name']!r}, which {path} was saved for ({error})"
        ) from error
    made = _env_as_data(env)
    if found := difference("env", {side: saved[side] for side in SPACES}, {side: made[side] for side in SPACES}):
        raise ValueError(f"env must be given: jaxpg.make({saved['name']!r}) has other spaces than {path}: {found}")
    return env


def _read_folder(path: pathlib.Path) -> tuple[dict[str, Any], bytes]:
    for name in (MEANING, NUMBERS):
        if not (path / name).is_file():
            raise FileNotFoundError(f"path: there is no saved policy at {path}: it has no file {name}")
    meaning = path / MEANING
    try:
        record = json.loads(meaning.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"path: {meaning} is damaged, it is not JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"path: {meaning} must have the entry 'format': {FORMAT!r}, as save_policy writes it")
    if record.get("format_version") != VERSION:
        raise ValueError(
            f"path: {meaning} has format_version {record.get('format_version')!r}; this jaxpg reads {VERSION}"
        )
    if missing := [key for key in ("description", "env", "sha256") if key not in record]:
        raise ValueError(f"path: {meaning} is damaged, it has no entry {missing[0]!r}")
    return record, _read_checked(path / NUMBERS, record["sha256"])


def _read_checked(file: pathlib.Path, checksum: Any) -> bytes:
    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ValueError(f"path: {file} is damaged ({len(content):,} bytes): its checksum is not the one in {MEANING}")
    return content


def _read_numbers(content: bytes, path: pathlib.Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        leaves = safetensors.deserialize(content)
    except Exception as error:
        raise ValueError(f"path: {path / NUMBERS} is not in the safetensors format: {error}") from error
    arrays = {}
    for name, leaf in leaves:
        if leaf["dtype"] not in DTYPES:
            raise ValueError(f"path: {path / NUMBERS} holds {leaf['dtype']} at {name!r}; known are {', '.join(DTYPES)}")
        arrays[name] = np.frombuffer(leaf["data"], jnp.dtype(DTYPES[leaf["dtype"]])).reshape(leaf["shape"])
    return arrays


def _as_jax(name: str, array: np.ndarray, path: pathlib.Path) -> jax.Array:
    loaded = jnp.array(array)
    if loaded.dtype != array.dtype:
        warnings.warn(
            f"{path}: {name!r} was saved as {array.dtype.name} and is loaded as {loaded.dtype.name}, for 64 bits are "
            f"not enabled in JAX (jax_enable_x64)",
            stacklevel=3,
        )
    return loaded
