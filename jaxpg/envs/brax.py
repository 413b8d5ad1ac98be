"""brax's environments as `Environment`: raw ones, without the wrappers that brax trains with.

What the adapter keeps as brax has it:
- The state is brax's `State`; rewards, observations and initial states are brax's own, with every backend.
- `done` is the natural end. inverted_pendulum reports a fall in `info["time_out"]` too, for brax's PPO; here it is an
  end like others.

What it changes:
- The time limit is 1,000 steps, as `brax.envs.create` has it, for reacher and pusher too, which have 50 and 100 in
  gymnasium. It is left to the rollout, so `step` itself never truncates, and `max_steps` may be anything. brax's
  EpisodeWrapper would report it as `done`.
- Actions are clipped to [-1, 1]. brax leaves that to its policies: an action beyond would cost more and may do more.
- Each reset draws a new initial state. brax's AutoResetWrapper goes back to the first one.
- No action is repeated, and `step` leaves the state that it is given alone, whose `metrics` brax writes into.
"""

import contextlib
import importlib
import inspect
import io
import sys
import warnings
from typing import Any

import jax

from jaxpg import _check
from jaxpg.envs import _brax_like
from jaxpg.envs._parameters import check_names
from jaxpg.envs.base import Environment

__all__ = ["available", "from_brax", "make", "refusal"]

_LIMIT = 1000  # The default of `brax.envs.create`, and of its training.
_REFUSED = {"swimmer": "it calls jax.numpy.clip with a_min (brax/fluid.py), which this version of jax has no more"}


def from_brax(env: Any, *, max_steps: int | None = None, name: str | None = None) -> Environment:
    """An `Environment` from a brax environment, such as `brax.envs.get_environment("ant", backend="spring")`.

    Args:
      env: without brax's training wrappers, or any environment of your own in that form; actions are in [-1, 1].
      max_steps: the episode limit; default 1000.
      name: the default is the name of its class.
    Raises:
      TypeError: `env` is not an environment.
      ValueError: `env` is wrapped for training, as what `brax.envs.create` gives; `max_steps` is below 1.
    """
    max_steps = _check.count_or("max_steps", max_steps, _LIMIT)
    training = _imported().training
    wrappers = (training.VmapWrapper, training.EpisodeWrapper, training.AutoResetWrapper, training.EvalWrapper)
    _brax_like.check_raw("env", env, "brax", (*wrappers, training.DomainRandomizationVmapWrapper))
    name = type(getattr(env, "unwrapped", env)).__name__ if name is None else name
    return _brax_like.environment(env, name=name, max_steps=max_steps, render=_render(env))


def available() -> tuple[str, ...]:
    """The names that are registered with brax, those of `brax.envs.register_environment` among them."""
    return tuple(name for name in _imported()._envs if not refusal(name))


def refusal(name: str) -> str:
    """Why `name` is not offered, or an empty string."""
    return "" if _brax_like.clip_takes("a_min") else _REFUSED.get(name, "")


def make(name: str, max_steps: int | None, parameters: dict[str, Any]) -> Environment:
    """The environment that `jaxpg.make("brax/" + name)` gives; parameters are those of its constructor.

    All take `backend`: "generalized" (the default), "spring", "positional" or "mjx"; most of them numbers, which may
    be traced.
    """
    envs, title = _imported(), f"brax/{name}"
    kind = envs._envs[name]
    pipeline = [argument for argument in inspect.signature(envs.PipelineEnv).parameters if argument != "sys"]
    own = inspect.signature(kind).parameters.values()
    known = [p.name for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if any(p.kind is p.VAR_KEYWORD for p in own):  # It hands them on to PipelineEnv.
        known += [argument for argument in pipeline if argument not in known]
    check_names(title, parameters, known)
    try:
        with jax.ensure_compile_time_eval(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Brax System", UserWarning)  # That brax is no longer developed.
            env = envs.get_environment(name, **parameters)
    except (AssertionError, TypeError, ValueError, NotImplementedError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in parameters.items())
        raise ValueError(f"{title} cannot be built with {given}: {error or type(error).__name__}") from error
    without_effect = [] if hasattr(env, "sys") else [argument for argument in parameters if argument in pipeline]
    if without_effect:  # `fast` takes them and has no physics.
        raise ValueError(f"{title} has no physics for {', '.join(without_effect)} to change")
    return from_brax(env, max_steps=max_steps, name=title)


def _imported() -> Any:
    """brax.envs, whose modules may make arrays when imported: inside a trace those would be tracers, and stay."""
    if "brax.envs" in sys.modules:
        return importlib.import_module("brax.envs")
    printed = io.StringIO()
    try:
        with jax.ensure_compile_time_eval(), contextlib.redirect_stdout(printed):
            return importlib.import_module("brax.envs")
    finally:  # MuJoCo prints that it found no warp, which nothing here needs.
        print(
            *(line for line in printed.getvalue().splitlines(True) if not line.startswith("Failed to import")),
            sep="",
            end="",
        )


def _render(env: Any) -> Any:
    """state -> picture by MuJoCo, for systems that were made from a MuJoCo model."""
    model = getattr(getattr(env, "sys", None), "mj_model", None)
    if model is None:
        return None
    picture = _brax_like.mujoco_picture(model)

    def render(state: Any) -> Any:
        physics = state.pipeline_state
        moved = [field for field in ("mocap_pos", "mocap_quat") if hasattr(physics, field)]
        return picture(qpos=physics.q, qvel=physics.qd, **{field: getattr(physics, field) for field in moved})

    return render
