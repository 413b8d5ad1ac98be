"""Descriptions: the arguments that a policy or critic was built with, as plain data."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxpg import _check

__all__ = ["describe"]


class _NotPlainError(TypeError):
    """An argument that JSON has no word for."""


def describe(kind: str, name: str, **arguments: Any) -> dict[str, Any] | None:
    """{kind: name, argument: value, …} of values that JSON can hold; None where an argument has no such value.

    Args:
      kind: "policy" or "critic".
      name: of the function in `jaxpg.policies` that takes the arguments.
    """
    try:
        return {kind: name, **{argument: _plain(value) for argument, value in arguments.items()}}
    except _NotPlainError:
        return None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)) and _check.is_concrete(value):
        return _plain(np.asarray(value).tolist())
    raise _NotPlainError(type(value).__name__)
