"""Episodes of an environment played side by side, stepped from the host, and what there is to see in them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.envs import spaces
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import leaves_an_action, random_action

__all__ = ["STEPS_AFTER_THE_END", "TIMES_COMPARED", "Played", "Seen", "is_key", "leaves", "row"]

STEPS_AFTER_THE_END = 3
TIMES_COMPARED = (0, 1, 7)  # Steps that are kept with their arguments, to be taken again.
_GOES_ON = np.iinfo(np.int64).max


class Played:
    """Episodes side by side, stepped from the host, and what there was to see in them."""

    def __init__(self, env: Environment, key: jax.Array, num_episodes: int, num_steps: int) -> None:
        self.env, self.num_traces = env, 0
        self.reset = jax.jit(jax.vmap(env.reset))
        self.step = jax.jit(jax.vmap(self._one_step))
        self.alone = jax.jit(self._counted_step)
        self.reset_keys = jax.random.split(jax.random.fold_in(key, 0), num_episodes)
        self.first_state, self.first_observation = state, observation = self.reset(self.reset_keys)
        self.steps: list[Seen] = []  # All of them, small.
        self.kept: list[tuple[Any, ...]] = []  # Arguments and results of a few.
        self.lengths = np.full(num_episodes, _GOES_ON)  # The number of steps after which each ended.
        self.final: list[Any] = [None] * num_episodes  # (state before, last state, last observation) of each.
        observed = self._look(self.first_observation, jnp.zeros(num_episodes))
        no = np.zeros(num_episodes, bool)
        self.first_seen = Seen(*map(np.asarray, observed), terminated=no, truncated=no)

        for t in range(num_steps + STEPS_AFTER_THE_END):
            keys = jax.random.split(jax.random.fold_in(key, t + 1), num_episodes)
            arguments = (keys, state, observation)
            action, after, timestep, looked = self.step(*arguments)
            flags = {name: np.asarray(getattr(timestep, name)) for name in ("terminated", "truncated")}
            seen = Seen(*map(np.asarray, looked), **flags)
            self.steps.append(seen)
            if t in TIMES_COMPARED:
                self.kept.append((keys, state, observation, action, after, timestep))
            for lane in map(int, np.flatnonzero((seen.terminated | seen.truncated) & (self.lengths > t))):
                self.lengths[lane] = t + 1
                self.final[lane] = row((state, after, timestep.observation), lane)
            state, observation = after, timestep.observation
            done = self.lengths < _GOES_ON
            if t + 1 >= num_steps and not done.any():
                break
            if done.all() and t + 1 >= self.lengths.max() + STEPS_AFTER_THE_END and t >= max(TIMES_COMPARED):
                break
        self.ended = self.lengths < _GOES_ON

    def _one_step(self, key: jax.Array, state: Any, observation: Any) -> Any:
        action_key, step_key = jax.random.split(key)
        action = random_action(self.env.action_space, observation, action_key)
        state, timestep = self.env.step(step_key, state, action)
        return action, state, timestep, self._look_at_one(timestep.observation, timestep.reward)

    def _counted_step(self, key: jax.Array, state: Any, action: Any) -> Any:
        self.num_traces += 1
        return self.env.step(jax.random.split(key)[1], state, action)

    def _look(self, observations: Any, rewards: jax.Array) -> Any:
        return jax.jit(jax.vmap(self._look_at_one))(observations, rewards)

    def _look_at_one(self, observation: Any, reward: jax.Array) -> tuple[jax.Array, ...]:
        pairs = leaves(self.env, observation)
        inside = jnp.stack([space.contains(leaf) for _, space, leaf in pairs])
        finite = [jnp.all(jnp.isfinite(leaf)) for _, _, leaf in pairs if jnp.issubdtype(leaf.dtype, jnp.floating)]
        return (
            inside,
            jnp.all(jnp.stack([jnp.asarray(True), *finite])),
            jnp.isfinite(reward),
            leaves_an_action(self.env.action_space, observation),
        )

    def living(self) -> Iterator[tuple[int, "Seen", np.ndarray]]:
        """(t, what was seen in step t, which episodes took it as theirs: the last step included)."""
        for t, seen in enumerate(self.steps[: self.env.max_steps]):
            yield t, seen, self.lengths > t


class Seen(NamedTuple):
    """Of one step, for each episode: in space (for each leaf), finite, an action left, and the flags."""

    inside: np.ndarray
    finite_observation: np.ndarray
    finite_reward: np.ndarray
    leaves_an_action: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


def leaves(env: Environment, observation: Any) -> list[tuple[str, Any, Any]]:
    """(path, space, leaf) of an observation."""
    paths, structure = jax.tree_util.tree_flatten_with_path(env.observation_space, is_leaf=spaces.is_leaf)
    values = structure.flatten_up_to(observation)
    return [(jax.tree_util.keystr(path), space, leaf) for (path, space), leaf in zip(paths, values, strict=True)]


def row(tree: Any, lane: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[lane], tree)


def is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
