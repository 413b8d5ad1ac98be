"""Pictures of a policy at play: one whole episode as a GIF.

An environment's own `render` draws its states. Without one, the classic-control environments have drawings here
(`jaxpg.render_classic`), and observations that are grids, as MinAtar's, are drawn cell by cell (`jaxpg.render_grid`);
for others pass a function that draws a frame.
"""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check, lanes, render_classic
from jaxpg._plan import require_max_steps
from jaxpg.envs.base import Environment
from jaxpg.policies.base import Policy, check_environment
from jaxpg.render_grid import grid_drawing

__all__ = ["Frame", "can_render", "drawing", "play_episode", "render_episode"]

# Drawing, and seconds of one step (CartPole and Pendulum run in real time).
_CLASSIC = {
    "CartPole-v1": (render_classic.cart_pole, 0.02),
    "Pendulum-v1": (render_classic.pendulum, 0.05),
    "Acrobot-v1": (render_classic.acrobot, 0.05),
    "MountainCar-v0": (render_classic.mountain_car, 0.03),
    "MountainCarContinuous-v0": (render_classic.mountain_car_continuous, 0.03),
}
_STEP_SECONDS = 0.1  # Of other environments.
_MOST_COLORS = 128


class Frame(NamedTuple):
    """One moment of an episode.

    Fields:
      state, observation: the environment's state and what the policy saw of it.
      action: what the environment got in this state; None after the last step.
      step: the steps taken before, 0 at first.
      episode_return: the sum of their rewards.
    """

    state: Any
    observation: Any
    action: Any
    step: int
    episode_return: float


def can_render(env: Environment) -> bool:
    """Whether `render_episode` has a drawing for the environment."""
    has_its_own = check_environment(env).render is not None or env.name in _CLASSIC
    return has_its_own or grid_drawing(env.observation_space) is not None


def play_episode(
    env: Environment, policy: Policy, params: Any, key: Any, *, episode: int = 0, deterministic: bool = False
) -> list[Frame]:
    """The frames of one whole episode: the one that `evaluate` plays under this key with the id `episode`.

    Returns:
      One frame for each step, and one for where the last step led: numpy arrays inside.
    """
    key = _check.key("key", key)
    episode = _check.count("episode", episode, 0)
    deterministic = _check.boolean("deterministic", deterministic)
    longest = require_max_steps(check_environment(env))
    player = lanes.Player(env=env, policy=policy, deterministic=deterministic)

    def step(lane, _):
        lane, row = lanes.play_step(player, params, lane)
        action = _environment_action(policy, params, row)
        return lane, (lane.state, lane.observation, action, lane.returns, row.terminated | row.truncated)

    @jax.jit
    def play(key):
        first = lanes.reset_lane(player, jax.random.fold_in(key, episode), 0)
        _, (states, observations, actions, returns, ended) = jax.lax.scan(step, first, length=longest)
        places = jax.tree.map(
            lambda x, rest: jnp.concatenate([x[None], rest]), (first.state, first.observation), (states, observations)
        )
        return places, actions, returns, jnp.argmax(ended) + 1

    places, actions, returns, length = jax.tree.map(_to_numpy, play(key))

    def at(tree, t):
        return jax.tree.map(lambda x: x[t], tree)

    frames = []
    for t in range(int(length) + 1):
        state, observation = at(places, t)
        action = at(actions, t) if t < length else None
        frames.append(Frame(state, observation, action, t, float(returns[t - 1]) if t else 0.0))
    return frames


def render_episode(
    env: Environment,
    policy: Policy,
    params: Any,
    key: Any,
    path: Any,
    *,
    episode: int = 0,
    deterministic: bool = False,
    max_frames: int = 300,
    draw: Callable[[Frame], Any] | None = None,
) -> pathlib.Path:
    """Plays one whole episode and writes it as an animated GIF.

    Args:
      env: needs an episode limit.
      key, episode, deterministic: which episode, as in `play_episode`.
      path: where to write; missing folders are made.
      max_frames: a longer episode is shown by every second step, every third, …, and its end.
      draw: (Frame) -> a PIL image, or an array [height, width, 3] of uint8, the same size for all frames; None for
        the environment's `render`, or jaxpg's own drawings.
    Returns:
      The path.
    Raises:
      ValueError: no drawing is known for the environment, and none is given; or arguments out of range.
    """
    max_frames = _check.count("max_frames", max_frames, 2)
    _check.optional(_check.callable_, "draw", draw, "(Frame) -> image")
    paint, seconds = (draw, _STEP_SECONDS) if draw is not None else drawing(check_environment(env))
    frames = play_episode(env, policy, params, key, episode=episode, deterministic=deterministic)
    stride = -(-(len(frames) - 1) // (max_frames - 1))
    shown = frames[:-1:stride] + frames[-1:]
    pictures = [_as_picture(paint(frame)) for frame in shown]
    return _write_gif(pathlib.Path(path), pictures, round(max(100 * stride * seconds, 2)) * 10)


def _environment_action(policy: Policy, params: Any, row: Any) -> Any:
    """What the environment got in a row: its action, transformed where the policy's distribution says so."""
    if policy.initial_carry is None:
        distribution = policy.apply(params, row.observation)
    else:
        distribution, _ = policy.apply(params, row.observation, row.carry)
    return lanes.environment_action(distribution, row.action)


def _to_numpy(leaf: jax.Array) -> Any:
    """Random keys have no numpy form and stay what they are."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


def drawing(env: Environment) -> tuple[Callable[[Frame], Any], float]:
    """How an environment is drawn, (Frame) -> picture (ours with a headline), and the seconds of a step.

    Raises:
      ValueError: no drawing is known for it.
    """
    check_environment(env)
    if env.render is not None:
        render = env.render
        return lambda frame: render(frame.state), _STEP_SECONDS
    paint, seconds = _CLASSIC.get(env.name, (None, _STEP_SECONDS))
    paint = paint or grid_drawing(env.observation_space)
    if paint is None:
        raise ValueError(
            f"env: there is no drawing for {env.name} (observations {env.observation_space}); there are "
            f"drawings for {', '.join(_CLASSIC)} and for grids [height, width] or [height, width, "
            f"channels]. Pass draw=, a function of a jaxpg.render.Frame"
        )

    def draw(frame: Frame) -> Any:
        canvas = paint(frame.observation, frame.action)
        canvas.headline(env.name, f"step {frame.step}   return {frame.episode_return:.4g}")
        return canvas.picture()

    return draw, seconds


def _as_picture(image: Any) -> Any:
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"draw must return a PIL image or a uint8 array [height, width, 3]; got {array.dtype} {array.shape}"
        )
    return Image.fromarray(array)


def _write_gif(path: pathlib.Path, pictures: list[Any], milliseconds: int) -> pathlib.Path:
    """One palette for all frames, taken from a few of them: what does not change then costs no bytes."""
    from PIL import Image

    if len({picture.size for picture in pictures}) != 1:
        raise ValueError("draw must return images of one size; got several")
    some = pictures[:: max(len(pictures) // 6, 1)]
    width, height = pictures[0].size
    strip = Image.new("RGB", (width, height * len(some)))
    for place, picture in enumerate(some):
        strip.paste(picture, (0, place * height))
    palette = strip.quantize(_MOST_COLORS)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    path.parent.mkdir(parents=True, exist_ok=True)
    last = 1500  # A moment to see how it ended, before it starts again.
    indexed[0].save(
        path, save_all=True, append_images=indexed[1:], loop=0, duration=[milliseconds] * (len(indexed) - 1) + [last]
    )
    return path
