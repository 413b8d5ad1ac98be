"""The return landscape: the objective on a line or a plane through parameters.

    f(α, β) = J(θ + α d₁ + β d₂)

Random directions say little where weights differ in scale, so d₁ and d₂ are rescaled to the parameters, filter by
filter (Li et al., 2018, "Visualizing the loss landscape of neural nets").
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg._keywords import hinted
from jaxpg._plan import default, require_max_steps
from jaxpg.envs.base import Environment
from jaxpg.envs.check import check_structure
from jaxpg.policies.base import Policy
from jaxpg.training.evaluate import evaluate

__all__ = ["random_directions", "return_landscape"]

NORMALIZATIONS = {  # And the unit of a step.
    "filter": "filter norms",
    "leaf": "array norms",
    "unit": "distance",
}


@hinted
def return_landscape(
    key: Any,
    env: Environment,
    policy: Policy,
    params: Any,
    *,
    directions: Any = None,
    num_points: int = 21,
    extent: float = 1.0,
    num_episodes: int = 64,
    deterministic: bool = False,
    normalization: str = "filter",
    batch_size: int | None = None,
) -> Any:
    """Mean returns at the points θ + α d₁ + β d₂ of a plane through the parameters, or θ + α d₁ of a line.

    Every point plays the episodes of the same keys, those of `jaxpg.evaluate(key, …)`: differences between points are
    better known than the values, and the errors of neighbouring points go together. All points are one compiled
    program. Runs on the host: not under `jit` or `vmap`.

    Args:
      key: names the episodes; the random directions are drawn from it, too.
      env: needs an episode limit.
      policy, params: θ.
      directions: None, two random ones (`random_directions`); or a pytree like params, for a line, such as the gradient
        of `jaxpg.policy_gradient`; or a list or tuple of one or two such. Given directions are taken as they are.
      num_points: on each axis, an odd number, so that θ is one of them.
      extent: α and β go from −extent to extent.
      num_episodes: of each point.
      deterministic: take the mode of the policy's distribution instead of a sample.
      normalization: of random directions; see `random_directions`.
      batch_size: points that are mapped over together; None: as many as fill the lanes of one ordinary evaluation.
    Returns:
      An `xarray.Dataset` [beta, alpha], or [alpha], of `episode_return`, the mean undiscounted return, and
      `episode_return_error`, its standard error (NaN for one episode). `jaxpg.plot.return_landscape` draws it.
    Raises:
      ValueError, TypeError: arguments out of range, directions that are not like params, parameters that are all 0 with
        a normalisation that takes their norms, or traced values.
    """
    key = _check.key("key", key)
    check_structure(_check.instance("env", env, Environment))
    _check.instance("policy", policy, Policy)
    require_max_steps(env)
    for name, tree in (("key", key), ("params", params), ("directions", directions)):
        if not all(map(_check.is_concrete, jax.tree.leaves(tree))):
            raise TypeError(f"{name} must be known values: this runs on the host, outside jit and vmap; got tracers")
    num_points = _check.count("num_points", num_points, 3)
    if num_points % 2 == 0:
        raise ValueError(f"num_points must be odd, so that the parameters are one of the points; got {num_points}")
    extent = float(_check.positive("extent", extent))
    num_episodes = _check.count("num_episodes", num_episodes)
    deterministic = _check.boolean("deterministic", deterministic)
    if directions is None:
        directions = random_directions(jax.random.fold_in(key, _STREAM), policy, params, normalization=normalization)
        units = NORMALIZATIONS[normalization]
    else:
        _check.named("normalization", normalization, NORMALIZATIONS)
        directions, units = _given(directions, params), "1"
    steps = np.linspace(-extent, extent, num_points)
    steps[num_points // 2] = 0.0
    points = np.stack(np.meshgrid(*[steps] * len(directions), indexing="ij"), axis=-1).reshape(-1, len(directions))
    points = points[:, ::-1]  # α runs fastest, and belongs to the first direction.
    batch_size = _check.count_or("batch_size", batch_size, max(1, default("num_lanes") // num_episodes))
    batch_size = min(batch_size, len(points))
    # The last batch is filled up: every batch is the same program.
    filled = np.resize(points, (math.ceil(len(points) / batch_size) * batch_size, len(directions)))
    batches = jnp.asarray(filled.reshape(-1, batch_size, len(directions)), jnp.result_type(float))
    means, errors = _returns(env, policy, num_episodes, deterministic, key, params, tuple(directions), batches)
    return _labelled(env, np.asarray(means), np.asarray(errors), steps, len(directions), units, num_episodes)


_STREAM = 0x6C616E64  # Episodes have small numbers as their names.


def random_directions(key: Any, policy: Policy, params: Any, *, normalization: str = "filter") -> tuple[Any, Any]:
    """Two random directions, orthogonal to each other: pytrees like params, as long as they are.

    Gaussian numbers, in blocks. In each block the second is made orthogonal to the first, then both are rescaled to the
    norm of the parameters there. A block of one number has no orthogonal direction: there the second is 0. What the
    policy does not train (running statistics of observations) and what is no float stays as it is.

    Args:
      normalization: what a block is. "filter": what leads to one output, a column of a matrix or of a kernel; of arrays
        with fewer than two axes, or with only one number to an output, the whole array. "leaf": an array. "unit": all
        of params, with the length 1 in the place of their norm.
    Raises:
      ValueError: where the norms are all 0, or params are one number.
    """
    _check.named("normalization", normalization, NORMALIZATIONS)
    _check.instance("policy", policy, Policy)
    leaves, structure = jax.tree.flatten(params)
    arrays = [np.asarray(leaf) for leaf in leaves]
    trained = jax.tree.leaves(policy.trainable(params)) if policy.trainable else [True] * len(arrays)
    moved = [bool(t) and jnp.issubdtype(array.dtype, jnp.floating) for t, array in zip(trained, arrays, strict=True)]
    sizes = [array.size for array in arrays]
    numbers = np.asarray(jax.random.normal(_check.key("key", key), (2, sum(sizes))), float)
    draws = [np.split(row, np.cumsum(sizes)[:-1]) for row in numbers]
    if normalization == "unit":
        whole = [np.concatenate([np.zeros(0), *(x for x, m in zip(draw, moved) if m)])[:, None] for draw in draws]
        ends = np.cumsum([array.size for array, m in zip(arrays, moved) if m])[:-1]
        parts = [iter(np.split(x[:, 0], ends)) for x in _orthogonal(whole[0], whole[1], np.ones(1))]
        found = [[next(part) if m else None for m in moved] for part in parts]
    else:
        found = [[], []]
        for first, second, array, m in zip(draws[0], draws[1], arrays, moved):
            shape = _columns(array.shape, normalization)
            pair: Any = (None, None)
            if m:
                norms = np.linalg.norm(array.astype(float).reshape(shape), axis=0)
                pair = _orthogonal(first.reshape(shape), second.reshape(shape), norms)
            found = [[*part, x] for part, x in zip(found, pair)]
    directions = [
        [
            jnp.zeros_like(leaf) if x is None else jnp.asarray(x.reshape(np.shape(leaf)), array.dtype)
            for x, leaf, array in zip(part, leaves, arrays)
        ]
        for part in found
    ]
    for direction, what in zip(directions, ("a random direction", "a second, orthogonal direction")):
        if not any(np.any(np.asarray(x)) for x in direction):
            raise ValueError(
                f"params must have {what} with normalization={normalization!r}: their norms there are 0, or single "
                f"numbers; normalization='unit' takes no norms, and directions=… are your own"
            )
    return structure.unflatten(directions[0]), structure.unflatten(directions[1])


def _columns(shape: tuple[int, ...], normalization: str) -> tuple[int, int]:
    """(numbers of a block, blocks) of an array."""
    size, outputs = math.prod(shape), shape[-1] if shape else 1
    by_filter = normalization == "filter" and len(shape) > 1 and size > outputs
    return (size // outputs, outputs) if by_filter else (size, 1)


def _orthogonal(first: np.ndarray, second: np.ndarray, norms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns that are orthogonal in pairs, with these norms; [numbers, block] each."""

    def scaled(x: np.ndarray, norms: Any) -> np.ndarray:
        lengths = np.linalg.norm(x, axis=0)
        return x * np.divide(norms, lengths, out=np.zeros_like(lengths), where=lengths > 0)

    unit = scaled(first, np.ones_like(norms))
    rest = second - unit * np.sum(unit * second, axis=0)
    return scaled(first, norms), scaled(rest if len(rest) > 1 else np.zeros_like(rest), norms)


def _given(directions: Any, params: Any) -> tuple[Any, ...]:
    """One or two directions, each like params."""
    structure = jax.tree.structure(params)
    if jax.tree.structure(directions) == structure:
        directions = (directions,)
    if not isinstance(directions, (list, tuple)) or not 1 <= len(directions) <= 2:
        raise ValueError(
            f"directions must be a pytree like params, or one or two of them in a list; got {type(directions).__name__}"
        )
    found = []
    for number, direction in enumerate(directions):
        shapes = [jnp.shape(x) for x in jax.tree.leaves(direction)]
        if jax.tree.structure(direction) != structure or shapes != [jnp.shape(x) for x in jax.tree.leaves(params)]:
            raise ValueError(
                f"directions[{number}] must be a pytree like params; got {jax.tree.structure(direction)} with the "
                f"shapes {shapes}"
            )
        found.append(jax.tree.map(jnp.asarray, direction))
    return tuple(found)


def _play(env, policy, num_episodes, deterministic, key, params, directions, batches):
    """Mean return and its error at each point of the batches [batch, point, direction], as flat arrays."""

    def at(point):
        def moved(leaf, *steps):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                return leaf
            total = jnp.asarray(sum(size * step for size, step in zip(point, steps)))
            return leaf + total.astype(leaf.dtype)

        moved_params = jax.tree.map(moved, params, *directions)
        scores = evaluate(key, env, policy, moved_params, num_episodes=num_episodes, deterministic=deterministic)
        returns = scores.returns
        error = jnp.std(returns, ddof=1) / math.sqrt(num_episodes) if num_episodes > 1 else jnp.nan
        return jnp.mean(returns), jnp.asarray(error, returns.dtype)

    return jax.tree.map(jnp.ravel, jax.lax.map(jax.vmap(at), batches))


# Compiled once for an environment, a policy and a grid.
_returns = jax.jit(_play, static_argnums=(0, 1, 2, 3))


def _labelled(
    env: Environment, means: np.ndarray, errors: np.ndarray, steps: np.ndarray, num: int, units: str, num_episodes: int
) -> Any:
    import xarray

    dims = ("beta", "alpha")[-num:]
    shape = (len(steps),) * num
    coordinates = {
        dim: (dim, steps, {"long_name": f"along direction {1 if dim == 'alpha' else 2}", "units": units})
        for dim in dims
    }
    size = math.prod(shape)
    return xarray.Dataset(
        {
            "episode_return": (
                dims, means[:size].reshape(shape), {"long_name": "mean undiscounted return", "units": "1"}
            ),
            "episode_return_error": (
                dims, errors[:size].reshape(shape), {"long_name": "standard error of episode_return", "units": "1"}
            ),
        },
        coordinates,
        {"environment": env.name, "num_episodes": num_episodes},
    )  # fmt: skip
