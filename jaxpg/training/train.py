"""`train`: runs an algorithm for a number of environment steps.

The updates run in compiled blocks; between blocks plain Python records, draws progress, calls back and can stop. There
are no callbacks inside compiled code.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.algorithms.types import Algorithm
from jaxpg.training.interrupt import interruptible
from jaxpg.training.progress import Progress

__all__ = ["TrainResult", "train"]

MAX_BLOCK = 64  # Updates whose metrics a block can hold.
BLOCK_SECONDS = 0.5  # Between two looks of the host.


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run leaves.

    Fields:
      params: the policy's, after the last update.
      state: the algorithm's state, with which `train(..., state=…)` goes on.
      history: metric -> numpy array [update]; `total_env_steps` counts up to and including the update.
      num_env_steps, num_updates: what was done, exactly.
      seconds: wall time; the first block includes compiling.
      stopped: "budget", "target", "callback", "interrupted", or "nonfinite".
    """

    params: Any
    state: Any
    history: Mapping[str, np.ndarray]
    num_env_steps: int
    num_updates: int
    seconds: float
    stopped: str


def train(
    algorithm: Algorithm,
    key: Any = None,
    *,
    num_env_steps: int,
    state: Any = None,
    target_return: float | None = None,
    callback: Callable[[Mapping[str, np.ndarray]], Any] | None = None,
    progress: bool | None = None,
) -> TrainResult:
    """Runs `algorithm` until it has taken `num_env_steps` environment steps.

    The budget is met by the fewest whole updates that reach it. Ctrl-C ends the run after the block that is being
    computed, a second one at once, and what there is is returned.

    Args:
      algorithm: from `jaxpg.reinforce` and the like.
      key: names the run; not needed with `state`.
      num_env_steps: the budget; steps of this call, whatever `state` had taken before.
      state: a state to go on from, `result.state` of an earlier run.
      target_return: stop when `episode_return`, averaged over the updates of the last 100 episodes or more, gets there.
      callback: called with the metrics of each block, name -> [updates of the block]; a true result stops the run.
      progress: draw a progress bar; default: where the output is a terminal.
    Raises:
      ValueError, TypeError: for arguments out of range.
    """
    if not isinstance(algorithm, Algorithm):
        raise TypeError(f"algorithm must be a jaxpg Algorithm; got {type(algorithm).__name__} ({algorithm!r:.80})")
    num_env_steps = _check.count("num_env_steps", num_env_steps)
    _check.optional(_check.number, "target_return", target_return)
    _check.optional(_check.callable_, "callback", callback, "metrics -> stop?")
    if (key is None) == (state is None):
        raise TypeError("give either a key, to start, or a state, to go on")
    if state is None:
        state = jax.jit(algorithm.init)(_check.key("key", key))

    blocks: list[dict[str, np.ndarray]] = []
    taken, limit, stopped = 0, 1, "budget"
    start = time.perf_counter()
    with interruptible() as interrupt, Progress(algorithm, num_env_steps, progress) as bar:
        try:
            while taken < num_env_steps:
                if interrupt.requested:
                    stopped = "interrupted"
                    break
                before = time.perf_counter()
                left = min(num_env_steps - taken, 2**31 - 1)
                after, metrics, count = _block(algorithm)(state, jnp.int32(left), jnp.int32(limit))
                block = {name: np.asarray(values[: int(count)]) for name, values in metrics.items()}
                block["total_env_steps"] = taken + np.cumsum(block["env_steps"], dtype=np.int64)
                # The state and what is known of it change together, whenever an interrupt comes.
                state, blocks, taken = after, [*blocks, block], int(block["total_env_steps"][-1])
                bar.update(taken, blocks)
                stopped = _why_stop(blocks, target_return, callback, state) or stopped
                if stopped != "budget":
                    break
                seconds = time.perf_counter() - before
                if target_return is not None:  # Blocks as long on every machine: a run stops at the same update.
                    limit = min(2 * limit, 8)
                    continue
                limit = int(np.clip(limit * BLOCK_SECONDS / max(seconds, 1e-3), 1, min(2 * limit, MAX_BLOCK)))
        except KeyboardInterrupt:
            stopped = "interrupted"
    history = {name: np.concatenate([b[name] for b in blocks]) for name in (blocks[0] if blocks else {})}
    return TrainResult(
        params=state.params,
        state=state,
        history=history,
        num_env_steps=taken,
        num_updates=sum(len(b["env_steps"]) for b in blocks),
        seconds=time.perf_counter() - start,
        stopped=stopped,
    )


@functools.lru_cache(maxsize=16)
def _block(algorithm: Algorithm) -> Callable:
    """(state, env steps left, most updates) -> (state, metrics [MAX_BLOCK], updates done), compiled."""

    @jax.jit
    def run(state, left, limit):
        shapes = jax.eval_shape(algorithm.step, state)[1]
        metrics = {name: jnp.zeros((MAX_BLOCK, *x.shape), x.dtype) for name, x in shapes.items()}

        def body(carry):
            state, metrics, count, taken = carry
            state, new = algorithm.step(state)
            metrics = {name: metrics[name].at[count].set(value) for name, value in new.items()}
            return state, metrics, count + 1, taken + new["env_steps"].astype(taken.dtype)

        def going(carry):
            _, _, count, taken = carry
            return (count < limit) & (taken < left)

        zero = jnp.zeros((), jnp.int32)
        state, metrics, count, _ = jax.lax.while_loop(going, body, (state, metrics, zero, zero))
        return state, metrics, count

    return run


def _why_stop(blocks: list[dict], target_return: float | None, callback: Callable | None, state: Any) -> str | None:
    """Why the run should end after the newest block, or None."""
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params)):
        return "nonfinite"
    if target_return is not None and recent_return(blocks) >= target_return:
        return "target"
    if callback is not None and callback(blocks[-1]):
        return "callback"
    return None


def recent_return(blocks: list[dict], num_episodes: int = 100) -> float:
    """Mean return over the newest updates that make up `num_episodes` episodes; NaN before there are as many."""
    total, seen = 0.0, 0
    for block in reversed(blocks):
        episodes = block.get("num_episodes", np.ones_like(block["env_steps"]))
        for count, value in zip(episodes[::-1], block["episode_return"][::-1], strict=True):
            if count and np.isfinite(value):
                total, seen = total + float(count) * float(value), seen + int(count)
            if seen >= num_episodes:
                return total / seen
    return float("nan")
