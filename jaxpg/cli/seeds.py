"""Many seeds of one algorithm in one compiled program."""

import time
from typing import Any, NamedTuple

import numpy as np

__all__ = ["SeedRuns", "train_seeds"]

UPDATES = 4  # Of each seed between two looks of the host.


class SeedRuns(NamedTuple):
    """What the seeds' runs leave: for each seed its steps so far and its return after each update.

    `params` are the policies', with a leading [seed] axis; `compile_seconds` and `run_seconds` are for all together.
    """

    steps: list[np.ndarray]
    returns: list[np.ndarray]
    params: Any
    compile_seconds: float
    run_seconds: float


def train_seeds(algorithm: Any, keys: Any, num_env_steps: int, progress: bool | None = None) -> SeedRuns:
    """Runs the algorithm once for each of `keys`, all at the same time.

    Each seed ends with its first update that reaches `num_env_steps`, whatever the others do: its state then stays as
    it is until the last one is done.

    Args:
      algorithm: from `jaxpg.reinforce` and the like.
      keys: [seed] random keys.
      num_env_steps: of each seed.
      progress: draw a progress bar; default: where the output is a terminal.
    """
    import jax
    import jax.numpy as jnp

    from jaxpg.training.progress import Progress

    def update(carry, _):
        state, taken = carry
        going = taken < num_env_steps
        new_state, metrics = algorithm.step(state)
        state = jax.tree.map(lambda new, old: jnp.where(going, new, old), new_state, state)
        taken = taken + jnp.where(going, metrics["env_steps"], 0).astype(taken.dtype)
        return (state, taken), (taken, metrics["episode_return"], going)

    @jax.jit
    @jax.vmap
    def block(state, taken):
        return jax.lax.scan(update, (state, taken), length=UPDATES)

    start = time.perf_counter()
    num_seeds = len(keys)
    blocks = []
    with Progress(algorithm, num_seeds * num_env_steps, progress) as bar:
        states, taken = jax.jit(jax.vmap(algorithm.init))(keys), jnp.zeros(num_seeds, jnp.int32)
        compiled = block.lower(states, taken).compile()
        compile_seconds = time.perf_counter() - start
        while bool((taken < num_env_steps).any()):
            (states, taken), new = compiled(states, taken)
            blocks.append(jax.device_get(new))  # (steps so far, return, counts?), [seed, update] each
            last = blocks[-1][1][:, -1]
            returns = np.array([last[np.isfinite(last)].mean() if np.isfinite(last).any() else np.nan])
            bar.update(int(np.minimum(taken, num_env_steps).sum()), [{"episode_return": returns}])
    steps, returns, counts = (np.concatenate(parts, axis=1) for parts in zip(*blocks))
    return SeedRuns(
        steps=[s[c] for s, c in zip(steps, counts)],
        returns=[r[c] for r, c in zip(returns, counts)],
        params=states.params,
        compile_seconds=compile_seconds,
        run_seconds=time.perf_counter() - start - compile_seconds,
    )
