"""Argument checks: each raises one clear error that names the argument, what came, and what is accepted.

Range checks apply to concrete values only: a hyperparameter may be a traced array (for `vmap` and `jit`), and then
its value is not known here.
"""

import difflib
import inspect
import math
import numbers
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

T = TypeVar("T")

__all__ = [
    "array",
    "boolean",
    "broadcasting",
    "callable_",
    "close",
    "count",
    "count_or",
    "described",
    "finite",
    "instance",
    "is_concrete",
    "key",
    "named",
    "nearest",
    "not_nan",
    "number",
    "numbers_array",
    "optional",
    "params",
    "positive",
    "unit",
]


def is_concrete(value: Any) -> bool:
    """Whether `value` is known now, not a tracer that stands for values to come."""
    return not isinstance(value, Tracer)


def close(name: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that are spelt nearly like `name`, the closest first; at most three."""
    return difflib.get_close_matches(str(name), list(names), n=3, cutoff=0.5)


def nearest(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'CartPole-v1'?"` for the closest of `names`, or an empty string."""
    found = close(name, names)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def named(argument: str, value: Any, accepted: Iterable[str]) -> str:
    """`value`, if it is one of the strings in `accepted`."""
    accepted = list(accepted)
    if value not in accepted:
        raise ValueError(
            f"{argument} must be one of {', '.join(map(repr, accepted))}; got {value!r}{nearest(value, accepted)}"
        )
    return value


def callable_(argument: str, value: Any, what: str) -> Any:
    """`value`, if it can be called; `what` describes the call that is expected."""
    if not callable(value):
        raise TypeError(f"{argument} must be a function {what}; got {type(value).__name__} ({value!r})")
    return value


# What a user may write for each of the records.
_EXAMPLES = {
    "Algorithm": "jaxpg.ppo(env, policy)",
    "Baseline": "jaxpg.baselines.leave_one_out()",
    "Critic": "jaxpg.policies.value_mlp(env)",
    "Environment": "jaxpg.make('CartPole-v1')",
    "Policy": "jaxpg.policies.mlp(env)",
    "SegmentState": "start_segments(env, policy, key, num_lanes)",
    "Sampling": "jaxpg.sampling.antithetic()",
    "Trajectory": "the first that jaxpg.rollout.collect gives",
    "Weight": "jaxpg.weights.reward_to_go(discount=0.99)",
}
_ADAPTED = ("brax", "craftax", "gymnax", "jumanji", "mujoco_playground", "navix", "pgx", "xminigrid")


def instance(argument: str, value: Any, kind: type[T]) -> T:
    """`value`, if it is one of jaxpg's records of that kind."""
    if not isinstance(value, kind):
        name = kind.__name__
        article = "an" if name[0] in "AEIOU" else "a"
        example = f", such as {_EXAMPLES[name]}" if name in _EXAMPLES else ""
        raise TypeError(f"{argument} must be {article} {name}{example}; got {described(value)}{_hint(value, name)}")
    return value


def described(value: Any) -> str:
    """The type of `value` and what it holds, in short, for "got …"."""
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if inspect.isfunction(value) or inspect.ismodule(value):
        return f"the {type(value).__name__} {value.__name__}"
    if isinstance(value, (jax.Array, np.ndarray)):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return f"random keys of shape {value.shape}" if value.ndim else "a random key"
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if type(value).__module__.startswith("jaxpg"):
        return f"a jaxpg {type(value).__name__}"
    return f"{type(value).__name__} ({' '.join(repr(value).split()):.80})"


def _hint(value: Any, wanted: str) -> str:
    """What a user who gave `value` for a record probably meant."""
    if inspect.isfunction(value) and value.__module__.startswith("jaxpg") and "<" not in value.__qualname__:
        return f": call it, {value.__name__}(…)"
    if wanted != "Environment":
        return ""
    if isinstance(value, str):
        return f": jaxpg.make({value!r}) makes one by name"
    root = type(value).__module__.partition(".")[0]
    if root in _ADAPTED:
        return f": jaxpg.envs.from_{root}(…) adapts it"
    if root in ("gym", "gymnasium"):
        return ": it cannot be traced; jaxpg.make has the classic ones, evaluate_gymnasium plays a policy in others"
    return ""


def params(argument: str, value: Any) -> Any:
    """`value`, if it is a pytree of floating-point arrays."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        dtype = getattr(leaf, "dtype", type(leaf) if isinstance(leaf, numbers.Number) else None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = described(leaf) if dtype is None else f"dtype {jnp.dtype(dtype).name}"
            raise TypeError(
                f"{argument}{jax.tree_util.keystr(path)} must be a floating-point array, as "
                f"policy.init(key) gives them; got {got}"
            )
    return value


def array(argument: str, value: Any) -> jax.Array:
    """`value` as an array of numbers or booleans."""
    try:
        if value is not None:
            return jnp.asarray(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{argument} must be an array of numbers; got {described(value)}")


def numbers_array(argument: str, value: Any) -> np.ndarray:
    """`value` as an array of float64 on the host."""
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{argument} must be numbers; got {described(value)}") from None


def broadcasting(**arrays: Any) -> None:
    """Raises where the arrays' shapes do not broadcast together."""
    shapes = {name: jnp.shape(array(name, value)) for name, value in arrays.items()}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{' and '.join(shapes)} must have shapes that broadcast; got {got}") from None


def optimizer(argument: str, value: Any) -> Any:
    """`value`, if it is an optax optimiser."""
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        raise TypeError(
            f"{argument} must be an optax optimiser, such as optax.adam(1e-3); got {type(value).__name__} "
            f"({value!r:.80})"
        )
    return value


def boolean(argument: str, value: Any) -> bool:
    """`value`, True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} must be True or False; got {type(value).__name__} ({value!r:.80})")
    return bool(value)


def optional(check: Any, argument: str, value: Any, *rest: Any, **options: Any) -> Any:
    """`None`, or what `check` makes of `value`."""
    return None if value is None else check(argument, value, *rest, **options)


def count(argument: str, value: Any, minimum: int | None = 1) -> int:
    """`value` as a Python int of at least `minimum`; counts fix array shapes, so they cannot be traced."""
    accepted = "an integer" if minimum is None else f"an integer of at least {minimum}"
    if not is_concrete(value):
        raise TypeError(f"{argument} fixes an array's shape and must be a Python integer; got a traced value ({value})")
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} must be {accepted}; got {value!r}")
    try:
        result = operator.index(value)
    except TypeError:
        hint = f": write {int(value):_}" if isinstance(value, float) and value.is_integer() else ""
        raise TypeError(f"{argument} must be {accepted}; got {type(value).__name__} ({value!r:.80}){hint}") from None
    if minimum is not None and result < minimum:
        raise ValueError(f"{argument} must be {accepted}; got {result}")
    return result


def count_or(argument: str, value: Any, default: int, minimum: int = 1) -> int:
    """`default` for None, else `value` as `count` checks it."""
    return default if value is None else count(argument, value, minimum)


def number(
    argument: str, value: Any, low: float = -math.inf, high: float = math.inf, *, exclusive: bool = False
) -> Any:
    """`value`, a finite real scalar in [low, high] (`exclusive`: in (low, high)). Traced scalars pass unread."""
    bounds = f"in {'(' if exclusive else '['}{low:g}, {high:g}{')' if exclusive else ']'}"
    accepted = "a finite real number" if (low, high) == (-math.inf, math.inf) else f"a finite real number {bounds}"
    if isinstance(value, (bool, str, bytes)) or value is None:
        raise TypeError(f"{argument} must be {accepted}; got {type(value).__name__} ({value!r})")
    if not is_concrete(value):
        if value.ndim or not jnp.issubdtype(value.dtype, jnp.number):
            raise ValueError(
                f"{argument} must be {accepted}; got a traced array of shape {value.shape} and dtype "
                f"{value.dtype}: map over it with jax.vmap to pass one scalar at a time"
            )
        return value
    if not isinstance(value, numbers.Real):
        array = np.asarray(value)
        if array.ndim or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
            raise TypeError(
                f"{argument} must be {accepted}; got {type(value).__name__} of shape {array.shape} and "
                f"dtype {array.dtype}"
            )
    scalar = float(value)
    inside = (low < scalar < high) if exclusive else (low <= scalar <= high)
    if not math.isfinite(scalar) or not inside:
        raise ValueError(f"{argument} must be {accepted}; got {value}")
    return value


def unit(argument: str, value: Any) -> Any:
    """`value`, a real scalar in [0, 1]."""
    return number(argument, value, 0.0, 1.0)


def finite(argument: str, tree: Any) -> None:
    """Raises where a leaf of `tree` is known and not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if is_concrete(leaf) and not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError(f"{argument}{jax.tree_util.keystr(path)} must be finite; got NaN or infinity in it")


def not_nan(argument: str, tree: Any) -> None:
    """Raises where an array of `tree` is known and holds NaN. Infinity passes: a logit of −∞ is no mistake."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    known = [(path, leaf) for path, leaf in found if isinstance(leaf, (jax.Array, np.ndarray)) and is_concrete(leaf)]
    known = [(path, leaf) for path, leaf in known if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not known or not _any_nan([leaf for _, leaf in known]):
        return
    path = next(path for path, leaf in known if _any_nan([leaf]))
    raise ValueError(f"{argument}{jax.tree_util.keystr(path)} must be numbers; got NaN in it")


@jax.jit
def _any_nan(leaves: list[Any]) -> jax.Array:
    """One program for all leaves, so that the host waits once."""
    return jnp.any(jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in leaves]))


def positive(argument: str, value: Any) -> Any:
    """`value`, a real scalar above 0."""
    return number(argument, value, 0.0, math.inf, exclusive=True)


def key(argument: str, value: Any) -> jax.Array:
    """One random key as a typed key; a legacy `jax.random.PRNGKey` array is wrapped."""
    accepted = "one random key from jax.random.key(seed)"
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        if value.ndim:
            raise ValueError(
                f"{argument} must be {accepted}; got an array of {value.shape} keys: use jax.vmap to map "
                f"over them, or pick one"
            )
        return value
    if isinstance(value, (jax.Array, np.ndarray)) and value.dtype == np.uint32:
        if value.ndim != 1:
            raise ValueError(f"{argument} must be {accepted}; got a uint32 array of shape {value.shape}")
        return jax.random.wrap_key_data(jnp.asarray(value))
    hint = ""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        hint = f": try jax.random.key({value})"
    elif isinstance(value, Mapping):
        hint = ", which looks like params: mind the order of the arguments"
    raise TypeError(f"{argument} must be {accepted}; got {described(value)}{hint}")
