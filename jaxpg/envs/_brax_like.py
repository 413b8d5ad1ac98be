"""What brax and MuJoCo Playground share: `reset(key) -> state`, `step(state, action) -> state`, one `done`, MuJoCo."""

import atexit
import dataclasses
import importlib
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.envs._adapted import adapted
from jaxpg.envs._keys import plain_key
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box

__all__ = ["check_raw", "clip_takes", "environment", "mujoco_picture"]


def environment(
    env: Any, *, name: str, max_steps: int | None, render: Callable[[Any], Any] | None = None
) -> Environment:
    """An `Environment` whose state is the suite's own; actions are clipped to [-1, 1]; the rollout keeps the limit."""
    first = jax.eval_shape(lambda key: env.reset(plain_key(key)), jax.random.key(0))

    def functions(narrow: bool) -> tuple[Callable, Callable]:
        del narrow  # The arrays follow x64 as they are made.

        def reset(key: jax.Array) -> tuple[Any, Any]:
            state = env.reset(plain_key(key))
            return state, _plain(state.obs)

        def step(key: jax.Array, state: Any, action: jax.Array) -> tuple[Any, Any, Any, Any, Any]:
            del key  # The state has one where the environment draws.
            state = env.step(state, jnp.clip(action, -1.0, 1.0))
            return state, _plain(state.obs), state.reward, state.done, False

        return reset, step

    made = adapted(
        name,
        functions,
        observation_space=_boxes(_plain(first.obs)),
        action_space=Box(-1.0, 1.0, (int(env.action_size),), jnp.result_type(float)),
        max_steps=max_steps,
        render=render,
    )
    # One operation at a time, a step of physics would take seconds, and it would write into the dicts of its state.
    return dataclasses.replace(made, reset=jax.jit(made.reset), step=jax.jit(made.step))


def check_raw(argument: str, env: Any, suite: str, wrappers: Sequence[type]) -> None:
    """A TypeError or ValueError, unless `env` looks like an environment without the wrappers that training puts on."""
    missing = [attribute for attribute in ("reset", "step", "action_size") if not hasattr(env, attribute)]
    if missing or isinstance(env, type):
        lacks = f", which lacks {', '.join(missing)}" if missing else ", the class and not an instance of it"
        raise TypeError(f"{argument} must be an environment of {suite}; got {env!r:.200}{lacks}")
    inner = env
    while inner is not None:
        if isinstance(inner, tuple(wrappers)):
            raise ValueError(
                f"{argument} must be an environment without the wrappers of {suite}'s training, which reset it, map it "
                f"or count a time limit as done; got one in a {type(inner).__name__}: pass {argument}.unwrapped"
            )
        inner = vars(inner).get("env") if hasattr(inner, "__dict__") else None


def clip_takes(argument: str) -> bool:
    """Whether `jax.numpy.clip` has an argument that older versions of jax have, and that these suites use in places."""
    return argument in inspect.signature(jnp.clip).parameters


def mujoco_picture(model: Any, height: int = 240, width: int = 320) -> Callable[..., np.ndarray]:
    """A function of MjData's fields -> a picture, uint8 [height, width, 3].

    The renderer is made once: to make it takes ten times as long as to draw.
    """
    made: list[Any] = []

    def picture(**fields: Any) -> np.ndarray:
        mujoco = importlib.import_module("mujoco")
        if not made:
            made.extend((_renderer(mujoco, model, height, width), mujoco.MjData(model)))
        renderer, data = made
        for field, value in fields.items():
            setattr(data, field, np.asarray(value))
        mujoco.mj_forward(model, data)
        renderer.update_scene(data, camera=-1)
        return renderer.render()

    return picture


def _renderer(mujoco: Any, model: Any, height: int, width: int) -> Any:
    buffer = model.vis.global_
    try:
        renderer = mujoco.Renderer(model, min(height, buffer.offheight), min(width, buffer.offwidth))
    except Exception as error:
        raise RuntimeError(
            "MuJoCo draws with OpenGL and could not start it. Without a screen, set the environment variable MUJOCO_GL "
            "to egl (Debian: apt-get install libegl1) or osmesa (libosmesa6) before Python starts. "
            f"MuJoCo says: {error or type(error).__name__}"
        ) from error
    # Left to the end of the interpreter, it would be freed after the modules that it needs for that.
    atexit.register(_close, weakref.ref(renderer))
    return renderer


def _close(renderer: weakref.ref) -> None:
    alive = renderer()
    if alive is not None:
        alive.close()


def _plain(observation: Any) -> Any:
    """Mappings as dicts."""
    if isinstance(observation, Mapping):
        return {name: _plain(value) for name, value in observation.items()}
    return observation


def _boxes(observation: Any) -> Any:
    return jax.tree.map(lambda leaf: Box(-np.inf, np.inf, leaf.shape, leaf.dtype), observation)
