"""Where a run stands, and the compiled blocks that take it further."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxpg import _compile, _mesh
from jaxpg.algorithms.types import Algorithm
from jaxpg.lanes import strong
from jaxpg.training._hosts import put

__all__ = [
    "MAX_BLOCK",
    "Best",
    "Position",
    "all_finite",
    "history",
    "lay_out",
    "play_block",
    "recent_return",
    "start",
]

MAX_BLOCK = 64  # Updates whose metrics a block can hold.
MOST_LEFT = 2**31 - 1  # What a 32-bit counter holds; longer runs take more blocks.


class Best(NamedTuple):
    """The parameters with the best evaluation, and which it was."""

    params: Any
    num_updates: int
    num_env_steps: int
    episode_return: float


class Position(NamedTuple):
    """All that changes in a run; replaced as a whole, so that an interrupt finds it consistent.

    Fields:
      state: the algorithm's.
      blocks: metrics, name -> [updates of the block].
      num_updates, num_env_steps: Python integers, which do not overflow.
      evaluations: a row for each.
      evaluated_at: the env steps at the last evaluation.
      best: None before the first evaluation.
    """

    state: Any
    blocks: tuple[dict[str, np.ndarray], ...] = ()
    num_updates: int = 0
    num_env_steps: int = 0
    evaluations: tuple[dict[str, Any], ...] = ()
    evaluated_at: int = 0
    best: Best | None = None


def play_block(
    algorithm: Algorithm,
    position: Position,
    left: int,
    limit: int,
    halt: bool,
    mesh: Mesh | None = None,
    quick_compile: bool = False,
) -> Position:
    """Updates until `left` env steps are taken, at most `limit`; with `halt`, also until one was not applied."""
    left, limit = min(left, MOST_LEFT), min(limit, MAX_BLOCK)
    run = _compiled(algorithm, mesh, quick_compile)
    state, metrics, count = run(position.state, jnp.int32(left), jnp.int32(limit), jnp.bool_(halt))
    count = int(count)
    block = {name: np.asarray(values)[:count] for name, values in metrics.items()}
    block["total_env_steps"] = position.num_env_steps + np.cumsum(block["env_steps"], dtype=np.int64)
    return position._replace(
        state=state,
        blocks=(*position.blocks, block),
        num_updates=position.num_updates + count,
        num_env_steps=int(block["total_env_steps"][-1]),
    )


def start(algorithm: Algorithm, mesh: Mesh | None, key: Any) -> Any:
    """The algorithm's first state."""
    return lay_out(algorithm, mesh, _init(algorithm)(key))


@functools.lru_cache(maxsize=16)
def _init(algorithm: Algorithm) -> Callable[[Any], Any]:
    return _compile.quickly(lambda key: strong(algorithm.init(key)))


def lay_out(algorithm: Algorithm, mesh: Mesh | None, state: Any) -> Any:
    """The state on the devices of the mesh: what belongs to lanes in parts, of the rest a copy on each."""
    if mesh is None:
        return state
    state = put(state, _mesh.replicated(mesh))
    if algorithm.lay_out is None:
        return state
    with _mesh.over(mesh):
        return jax.jit(algorithm.lay_out)(state)


@functools.lru_cache(maxsize=16)
def _compiled(algorithm: Algorithm, mesh: Mesh | None, quick: bool = False) -> Callable:
    """(state, env steps left, most updates, halt?) -> (state, metrics [MAX_BLOCK], updates done).

    One program for all blocks: how a run is cut into blocks then changes no bit of it.
    """

    step = jax.jit(lambda state: algorithm.step(state))  # Traced once for the two calls below.
    options = _compile.for_one_call() if quick else {}

    def run(state, left, limit, halt):
        state = strong(state)
        shapes = jax.eval_shape(step, state)[1]
        metrics = {name: jnp.zeros((MAX_BLOCK, *x.shape), x.dtype) for name, x in shapes.items()}

        def body(carry):
            state, metrics, count, left, _ = carry
            state, new = step(state)
            metrics = {name: metrics[name].at[count].set(value) for name, value in new.items()}
            # Counted down: `left` and an update's steps are positive, so their difference does not overflow.
            left = left - jnp.asarray(new["env_steps"]).astype(left.dtype)
            return strong(state), metrics, count + 1, left, jnp.asarray(new.get("nonfinite", 0)) > 0

        def going(carry):
            _, _, count, left, refused = carry
            return (count < limit) & (left > 0) & ~(halt & refused)

        start = (state, metrics, jnp.zeros((), jnp.int32), left, jnp.zeros((), bool))
        state, metrics, count, _, _ = jax.lax.while_loop(going, body, start)
        return state, metrics, count

    if mesh is None:
        return jax.jit(run, compiler_options=options)

    whole = _mesh.replicated(mesh)
    compiled: list[Callable] = []

    def laid_out(state, *counters):
        with _mesh.over(mesh):
            return run(state, *counters)

    def call(state, *counters):
        if not compiled:  # The state leaves as it came: in the same parts, and the rest on every device.
            shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
            compiled.append(jax.jit(laid_out, out_shardings=(shardings, whole, whole), compiler_options=options))
        return compiled[0](state, *put(counters, whole))

    return call


@_compile.quickly
def _all_finite(leaves: list[Any]) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def all_finite(tree: Any) -> bool:
    """Whether no float of the tree is NaN or infinite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return not leaves or bool(_all_finite(leaves))


def history(blocks: tuple[dict[str, np.ndarray], ...]) -> dict[str, np.ndarray]:
    """metric -> [update]; NaN where a block lacks it."""
    names = dict.fromkeys(name for block in blocks for name in block)

    def column(name: str) -> np.ndarray:
        have = [block.get(name, np.full(len(block["total_env_steps"]), np.nan)) for block in blocks]
        return np.concatenate(have)

    return {name: column(name) for name in names}


def recent_return(blocks: tuple[Mapping[str, np.ndarray], ...], num_episodes: int = 100) -> float:
    """Mean return over the newest updates that make up `num_episodes` episodes; NaN before there are as many."""
    total, seen = 0.0, 0
    for block in reversed(blocks):
        episodes = block.get("num_episodes", np.ones(len(block["env_steps"])))
        for count, value in zip(episodes[::-1], block["episode_return"][::-1], strict=True):
            if count > 0 and np.isfinite(value):
                total, seen = total + float(count) * float(value), seen + int(count)
            if seen >= num_episodes:
                return total / seen
    return float("nan")
