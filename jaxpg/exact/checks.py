"""What a `FiniteMDP` is checked for when it is made."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check

__all__ = ["boolean_array", "check_mdp", "check_shapes", "check_values", "float_array"]


def check_mdp(mdp: Any) -> None:
    """A TypeError, unless `mdp` is a `FiniteMDP`."""
    if not hasattr(mdp, "transition"):
        raise TypeError(f"mdp must be a FiniteMDP, such as jaxpg.exact.chain(horizon=4); got {_check.described(mdp)}")


def float_array(name: str, value: Any, dtype: Any) -> jax.Array:
    if not hasattr(value, "dtype"):
        try:
            value = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise TypeError(f"{name} must be an array of numbers; got {type(value).__name__} ({value!r})") from None
    if not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
        raise TypeError(f"{name} must be an array of real numbers; got dtype {value.dtype}")
    return jnp.asarray(value, dtype)


def boolean_array(name: str, value: Any) -> jax.Array:
    value = value if hasattr(value, "dtype") else np.asarray(value)
    if value.dtype != bool:
        raise TypeError(f"{name} must be an array of booleans [S]; got dtype {value.dtype}")
    return jnp.asarray(value)


def check_shapes(mdp: Any) -> None:
    """Raises ValueError where the arrays' shapes do not fit together."""
    shape = mdp.transition.shape
    if len(shape) != 3 or shape[0] != shape[2] or 0 in shape:
        raise ValueError(
            f"transition must have shape [S, A, S] with S, A ≥ 1; got {shape}"
            + (": map over several MDPs with jax.vmap" if len(shape) == 4 else "")
        )
    states, actions, _ = shape
    if mdp.reward.shape not in ((states, actions), shape):
        raise ValueError(
            f"reward must have shape [S, A] = {(states, actions)} or [S, A, S] = {shape}; got {mdp.reward.shape}"
        )
    if mdp.initial.shape != (states,):
        raise ValueError(f"initial must have shape [S] = {(states,)}; got {mdp.initial.shape}")
    if mdp.terminal is not None and mdp.terminal.shape != (states,):
        raise ValueError(f"terminal must have shape [S] = {(states,)}; got {mdp.terminal.shape}")


def check_values(mdp: Any) -> None:
    """Raises ValueError for numbers that are not finite, rows that are no distributions, and impossible starts."""
    for name in ("transition", "reward", "initial"):
        value = getattr(mdp, name)
        if _check.is_concrete(value) and not np.isfinite(value).all():
            raise ValueError(f"{name} must hold finite numbers; got {value}")
    _check_distributions("transition", mdp.transition)
    _check_distributions("initial", mdp.initial)
    if mdp.terminal is not None and _check.is_concrete(mdp.terminal) and _check.is_concrete(mdp.initial):
        started = np.flatnonzero(np.asarray(mdp.terminal) & (np.asarray(mdp.initial) > 0))
        if started.size:
            raise ValueError(
                f"initial must put no probability on a terminal state, where an episode would have no "
                f"steps; state {started[0]} is terminal and has {mdp.initial[started[0]]}"
            )
    if mdp.horizon is None and mdp.terminal is None and _check.is_concrete(mdp.discount) and float(mdp.discount) == 1.0:
        raise ValueError(
            "discount must be below 1 where horizon is None and no state is terminal: the return is infinite"
        )


def _check_distributions(name: str, value: jax.Array) -> None:
    if not _check.is_concrete(value):
        return
    rows = np.asarray(value, np.float64)
    if (rows < 0).any():
        where = tuple(int(i) for i in np.argwhere(rows < 0)[0])
        raise ValueError(f"{name} must hold probabilities; entry {where} is {rows[where]:g}")
    error = np.abs(rows.sum(-1) - 1.0)
    if error.max() > 1e-5:
        where = tuple(int(i) for i in np.argwhere(error > 1e-5)[0])
        raise ValueError(
            f"{name} must sum to 1 over its last axis; "
            + (f"row {where}" if where else "it")
            + f" sums to {rows[where].sum():g}"
        )
