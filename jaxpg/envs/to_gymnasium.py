"""Environments for gymnasium and what is built on it: one of them, or many in one compiled call.

Seeds name episodes as everywhere in jaxpg: after `reset(seed=s)`, episode number i is the one with id i under
`jax.random.key(s)`, as `jaxpg.evaluate` and `jaxpg.render.play_episode` play it. `reset()` without a seed starts the
next one. Of a seed the lowest 32 bits count.

`step` returns both flags as the environment has them: an episode that ends by itself at its limit is terminated and
truncated. The limit `max_steps` truncates also where the environment leaves that to the rollout. An observation's entry
"action_mask" is also `info["action_mask"]`, in the dtype that `action_space.sample(mask=...)` takes.
"""

import functools
import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs._gymnasium_lanes import Lane, compiled, compiled_vector, inner_state
from jaxpg.envs._gymnasium_spaces import checked_action, to_gymnasium_space, to_numpy
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import action_mask

__all__ = ["to_gymnasium", "to_gymnasium_vector"]

_SEEDS = 2**32


def to_gymnasium(env: Environment, *, render_mode: str | None = None) -> Any:
    """`env` as a `gymnasium.Env`; reset and step are compiled, observations are numpy arrays.

    Args:
      render_mode: None, or "rgb_array": `render()` draws the present state by `env.render`, or the observation by
        jaxpg's own drawings, as uint8 [height, width, 3].
    Raises:
      ImportError: gymnasium is not installed.
      ValueError: another `render_mode`, or nothing to draw with; from `step`, an action that is none.
      gymnasium.error.ResetNeeded: from `step`, before a reset or after the end of an episode.
    """
    _gymnasium()
    return _single_class()(_check.instance("env", env, Environment), render_mode)


def to_gymnasium_vector(
    env: Environment, num_envs: int, *, autoreset_mode: Any = "next_step", render_mode: str | None = None
) -> Any:
    """`num_envs` copies of `env` as a `gymnasium.vector.VectorEnv`, played side by side in one compiled call.

    Copy i plays what `to_gymnasium(env)` plays with its seed: `reset(seed=s)` gives it s + i, `reset(seed=[...])` each
    its own, None going on with its episodes.

    Args:
      autoreset_mode: when a copy whose episode ended starts the next one, as gymnasium has it, by name or its
        `AutoresetMode`. "next_step": with the next step, which ignores its action and gives reward 0. "same_step": at
        once; the final observations and infos are `infos["final_obs"]` and `infos["final_info"]`.
      render_mode: as in `to_gymnasium`; `render()` returns one picture for each copy.
    Raises:
      ImportError, ValueError, gymnasium.error.ResetNeeded: as `to_gymnasium`.
    """
    _gymnasium()
    from gymnasium.vector import AutoresetMode

    mode = getattr(autoreset_mode, "value", autoreset_mode)
    names = {"next_step": AutoresetMode.NEXT_STEP, "same_step": AutoresetMode.SAME_STEP}
    names |= {each.value: each for each in names.values()}
    _check.named("autoreset_mode", mode, names)
    _check.instance("env", env, Environment)
    return _vector_class()(env, _check.count("num_envs", num_envs), names[mode], render_mode)


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError('this needs gymnasium 1.1 or later: pip install "gymnasium>=1.1"') from error
    return gymnasium


# The classes, made when gymnasium is asked for.


@functools.cache
def _single_class() -> type:
    gymnasium = _gymnasium()

    class JaxpgEnv(gymnasium.Env):
        """One jaxpg environment."""

        def __init__(self, env: Environment, render_mode: str | None):
            self.env = env
            self.observation_space = to_gymnasium_space(env.observation_space)
            self.action_space = to_gymnasium_space(env.action_space)
            self._draw, self.metadata, self.render_mode = _drawing(env, render_mode)
            self.spec = _spec(env)
            self._start, self._step = compiled(env)
            self._key, self._episode = None, 0
            self._lane = self._observation = None
            self._over = False

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            if seed is not None or self._key is None:
                self._key, self._episode = _key(_some_seed(self.np_random) if seed is None else seed), 0
            else:
                self._episode += 1
            self._lane, observation = self._start(self._key, np.int32(self._episode))
            self._observation, self._over = _on_host(observation), False
            return to_numpy(self.env.observation_space, self._observation), _info(self.env, self._observation)

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            if self._lane is None or self._over:
                when = "the episode is over" if self._over else "no episode has begun"
                raise gymnasium.error.ResetNeeded(f"{self.env.name}: {when}; call env.reset() before env.step()")
            self._lane, timestep = self._step(self._lane, checked_action(self.env.action_space, action))
            self._observation, reward, terminated, truncated = _on_host(timestep)
            self._over = bool(terminated | truncated)
            observation = to_numpy(self.env.observation_space, self._observation)
            return observation, float(reward), bool(terminated), bool(truncated), _info(self.env, self._observation)

        def render(self) -> Any:
            if self.render_mode is None or self._lane is None:
                return _nothing_to_draw(gymnasium, self.env, self.render_mode)
            return self._draw(self._lane, self._observation)

    return JaxpgEnv


@functools.cache
def _vector_class() -> type:
    gymnasium = _gymnasium()
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import batch_space

    class JaxpgVectorEnv(gymnasium.vector.VectorEnv):
        """Many copies of a jaxpg environment."""

        def __init__(self, env: Environment, num_envs: int, autoreset_mode: AutoresetMode, render_mode: str | None):
            self.env, self.num_envs = env, num_envs
            self.single_observation_space = to_gymnasium_space(env.observation_space)
            self.single_action_space = to_gymnasium_space(env.action_space)
            self.observation_space = batch_space(self.single_observation_space, num_envs)
            self.action_space = batch_space(self.single_action_space, num_envs)
            self._draw, metadata, self.render_mode = _drawing(env, render_mode)
            self.metadata = {**metadata, "autoreset_mode": autoreset_mode}
            self.spec = _spec(env)
            self._same_step = autoreset_mode is AutoresetMode.SAME_STEP
            self._start, self._step = compiled_vector(env, self._same_step)
            self._keys: Any = [None] * num_envs
            self._lanes = self._observations = None

        def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
            if options is not None and "reset_mask" in options:
                raise ValueError("options must not hold a 'reset_mask': this environment resets itself")
            seeds = _seeds(seed, self.num_envs)
            super().reset(seed=seeds[0])
            episodes = np.zeros(self.num_envs, np.int32)
            if self._lanes is not None:
                goes_on = np.array([each is None for each in seeds])
                episodes = np.where(goes_on, np.asarray(self._lanes.episode) + 1, 0).astype(np.int32)
            self._keys = [
                (_key(_some_seed(self.np_random)) if kept is None else kept) if each is None else _key(each)
                for each, kept in zip(seeds, self._keys)
            ]
            self._lanes, observations = self._start(jnp.stack(self._keys), episodes)
            self._observations = _on_host(observations)
            return to_numpy(self.env.observation_space, self._observations), self._infos(self._observations)

        def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
            if self._lanes is None:
                raise gymnasium.error.ResetNeeded(f"{self.env.name}: call envs.reset() before envs.step()")
            actions = checked_action(self.env.action_space, actions, (self.num_envs,), "actions")
            self._lanes, timestep, final = self._step(self._lanes, actions)
            timestep, final = _on_host((timestep, final))
            self._observations = timestep.observation
            infos = self._infos(self._observations)
            if self._same_step:
                space = self.env.observation_space
                for i in np.flatnonzero(timestep.terminated | timestep.truncated):
                    last = jax.tree.map(lambda leaf, i=i: leaf[i], final)
                    ends = {"final_obs": to_numpy(space, last), "final_info": _info(self.env, last)}
                    infos = self._add_info(infos, ends, i)
            return (
                to_numpy(self.env.observation_space, self._observations),
                np.array(timestep.reward, np.float64),
                np.array(timestep.terminated),
                np.array(timestep.truncated),
                infos,
            )

        def render(self) -> Any:
            if self.render_mode is None or self._lanes is None:
                return _nothing_to_draw(gymnasium, self.env, self.render_mode)
            at = [
                jax.tree.map(lambda leaf, i=i: leaf[i], (self._lanes, self._observations)) for i in range(self.num_envs)
            ]
            return tuple(self._draw(lane, observation) for lane, observation in at)

        def _infos(self, observations: Any) -> dict[str, Any]:
            info = _info(self.env, observations)
            return info | {f"_{name}": np.ones(self.num_envs, bool) for name in info}

    return JaxpgVectorEnv


# Their parts.


def _on_host(tree: Any) -> Any:
    """`jax.device_get` for a few small arrays: that takes longer to begin than a step of CartPole to be played."""
    return jax.tree.map(np.asarray, tree)


def _key(seed: int) -> jax.Array:
    """The words of the key of a seed."""
    return jax.random.key_data(jax.random.key(np.uint32(int(seed) % _SEEDS)))


def _some_seed(generator: np.random.Generator) -> int:
    return int(generator.integers(_SEEDS))


def _seeds(seed: Any, num_envs: int) -> list[int | None]:
    if seed is None:
        return [None] * num_envs
    if np.ndim(seed) == 0:
        return [int(seed) + i for i in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"seed must be None, an integer or a list of {num_envs}, one for each copy; got {len(seed)}")
    return list(seed)


def _info(env: Environment, observation: Any) -> dict[str, Any]:
    mask = action_mask(observation)
    return {} if mask is None else {"action_mask": np.asarray(mask, np.int8)}


def _spec(env: Environment) -> Any:
    """What gymnasium's checks and wrappers ask for: the name, the limit, and how to make another one."""
    from gymnasium.envs.registration import EnvSpec

    def entry_point(**options: Any) -> Any:
        return to_gymnasium(env, **options)

    name = re.sub(r"[^\w.-]+", "_", env.name).strip("_")
    return EnvSpec(f"jaxpg/{name or 'environment'}", entry_point, max_episode_steps=env.max_steps)


def _drawing(env: Environment, render_mode: str | None) -> tuple[Any, dict[str, Any], str | None]:
    """(lane, observation) -> picture or None, gymnasium's metadata, and the checked mode."""
    from jaxpg import render

    draws = render.can_render(env)
    paint, seconds = render.drawing(env) if draws else (None, 1.0)

    def draw(lane: Lane, observation: Any) -> np.ndarray:
        state = inner_state(env, lane.state)
        frame = render.Frame(state, observation, None, int(lane.time), float(lane.returns))
        return np.asarray(cast(Any, paint)(frame))

    modes = ["rgb_array"] if draws else []
    if render_mode is not None and render_mode not in modes:
        known = "None or 'rgb_array'" if draws else f"None: there is no drawing of {env.name}"
        raise ValueError(f"render_mode must be {known}; got {render_mode!r}")
    return draw, {"render_modes": modes, "render_fps": max(round(1 / seconds), 1)}, render_mode


def _nothing_to_draw(gymnasium: Any, env: Environment, render_mode: str | None) -> None:
    if render_mode is not None:
        raise gymnasium.error.ResetNeeded(f"{env.name}: call env.reset() before env.render()")
    gymnasium.logger.warn(f'render() draws nothing: make the environment with render_mode="rgb_array" ({env.name})')
