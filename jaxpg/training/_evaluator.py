"""Evaluations while a run goes on: when, with which keys, and what is kept of them."""

import zlib
from typing import Any

import jax
import numpy as np

from jaxpg import _check
from jaxpg._plan import require_max_steps
from jaxpg._threefry import fold_in
from jaxpg.algorithms.types import Algorithm
from jaxpg.training._describe import acts_by_mode
from jaxpg.training._hosts import local
from jaxpg.training._position import Best, Position
from jaxpg.training._records import column
from jaxpg.training.evaluate import evaluate

__all__ = ["COLUMNS", "Evaluator", "as_arrays"]

# Evaluations have keys of their own: training draws the same with and without them. Algorithms split the run's key or
# fold small numbers into it, so a large one is free.
STREAM = np.uint32(zlib.crc32(b"jaxpg evaluation"))
COLUMNS = {
    "update": np.zeros((), np.int64),
    "total_env_steps": np.zeros((), np.int64),
    "episode_return": np.zeros((), np.float64),
    "episode_return_error": np.zeros((), np.float64),
    "episode_length": np.zeros((), np.float64),
}


class Evaluator:
    """Evaluates at the first update that reaches each multiple of `every` env steps."""

    def __init__(self, algorithm: Algorithm, key: Any, every: Any, num_episodes: Any, deterministic: Any):
        self._every = _check.count("evaluate_every", every)
        self._num_episodes = _check.count("evaluation_episodes", num_episodes)
        given = _check.optional(_check.boolean, "deterministic_evaluation", deterministic)
        self._deterministic = acts_by_mode(algorithm) if given is None else given
        if algorithm.env is None or algorithm.policy is None:
            raise ValueError(
                f"evaluate_every: {algorithm.name} has no env or policy to evaluate; build the Algorithm with env= and "
                f"policy="
            )
        require_max_steps(algorithm.env)
        self._env, self._policy, self._key = algorithm.env, algorithm.policy, key

    def next_multiple(self, num_env_steps: int) -> int:
        """The env steps at which a block has to end."""
        return (num_env_steps // self._every + 1) * self._every

    def due(self, position: Position) -> bool:
        """Whether a multiple has been reached since the last evaluation."""
        return position.num_env_steps // self._every > position.evaluated_at // self._every

    def play(self, position: Position) -> Position:
        """Evaluates the parameters after the newest update; better ones than before become the best."""
        params = local(position.state.params)
        # On the device of the parameters, wherever the key was made.
        device = next(iter(jax.tree.leaves(params)[0].devices())) if jax.tree.leaves(params) else None
        scores = evaluate(
            jax.device_put(fold_in(fold_in(self._key, STREAM), position.num_updates), device),
            self._env,
            self._policy,
            params,
            num_episodes=self._num_episodes,
            deterministic=self._deterministic,
        )
        returns = np.asarray(scores.returns, np.float64)
        mean = float(returns.mean())
        row = {
            "update": position.num_updates,
            "total_env_steps": position.num_env_steps,
            "episode_return": mean,
            "episode_return_error": float(returns.std(ddof=1) / len(returns) ** 0.5) if len(returns) > 1 else np.nan,
            "episode_length": float(np.asarray(scores.lengths, np.float64).mean()),
        }
        best = position.best
        if np.isfinite(mean) and (best is None or mean > best.episode_return):
            best = Best(params, position.num_updates, position.num_env_steps, mean)
        return position._replace(
            evaluations=(*position.evaluations, row), evaluated_at=position.num_env_steps, best=best
        )


def as_arrays(evaluations: tuple[dict[str, Any], ...]) -> dict[str, np.ndarray]:
    """column -> [evaluation]; NaN where a row lacks it."""
    return {name: column(evaluations, name, like) for name, like in COLUMNS.items()}
