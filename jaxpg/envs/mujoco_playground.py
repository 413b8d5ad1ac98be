"""MuJoCo Playground's environments as `Environment`: raw ones, without the wrappers that it trains with.

What the adapter keeps as Playground has it:
- The state is Playground's `State`; rewards, observations and initial states are its own. Observations of several
  parts are dicts ("state" and "privileged_state"; a policy sees all parts).
- `done` is the natural end: a fall, a dropped object, numbers that are not finite; most of the control suite has no
  other. `info["time_out"]`, which the cartpole with pictures has for brax's PPO, is not looked at.
- AlohaHandOver and PandaPickCubeCartesian, whose observations or rewards know the time, start their clock again at the
  time limit: the last observation of such an episode has the clock at 0.

What it changes:
- The physics is MJX's in JAX on all machines: `impl="jax"` where the version has a choice. (0.2 would take
  Warp, which is made for NVIDIA GPUs and has other numbers: `impl="warp"` as a parameter.)
- The time limit is the configuration's `episode_length`, in steps of the environment: 1,000 in the control suite. It is
  left to the rollout, so `step` itself never truncates; `max_steps` replaces it, in the configuration too. Playground's
  training wrapper would report it as `done`.
- Actions are clipped to [-1, 1]. The physics clips what it is given; rewards that charge for an action do not.
- Each reset draws a new initial state; the training wrapper goes back to the first one.
- No action is repeated. The configuration's `action_repeat` is for the training wrapper alone; it is 1 but for
  AlohaSinglePegInsertion (2) and PandaRobotiqPushCube (4).

The robots' models are not in the package: environments of locomotion and manipulation fetch them with git when they are
first made. Versions before 0.1 do that when they are imported.
"""

import copy
import importlib
import subprocess
from collections.abc import Mapping
from typing import Any

import jax

from jaxpg import _check
from jaxpg.envs import _brax_like
from jaxpg.envs._parameters import check_names
from jaxpg.envs.base import Environment

__all__ = ["available", "from_mujoco_playground", "make", "refusal"]

_LIMIT = "episode_length"
_WRAPPERS = ("VmapWrapper", "EpisodeWrapper", "AutoResetWrapper", "EvalWrapper", "DomainRandomizationVmapWrapper")
_CLIP = "it calls jax.numpy.clip with a_max, which this version of jax has no more"
_REFUSED = {"LeapCubeReorient": _CLIP, "PandaRobotiqPushCube": _CLIP}


def from_mujoco_playground(env: Any, *, max_steps: int | None = None, name: str | None = None) -> Environment:
    """An `Environment` from one of Playground's, such as `mujoco_playground.registry.load("CartpoleBalance")`.

    Args:
      env: without the wrappers of training, or any environment of your own in that form; actions are in [-1, 1].
      max_steps: the episode limit in place of the configuration's `episode_length`. The few environments that observe
        their time go on to reckon with the latter: load them with the `episode_length` that you want.
      name: the default is the name of its class.
    Raises:
      TypeError: `env` is not an environment.
      ValueError: `env` is wrapped for training; `max_steps` is below 1.
    """
    max_steps = _check.optional(_check.count, "max_steps", max_steps)
    playground = _imported()
    training = importlib.import_module("brax.envs.wrappers.training")
    wrappers = [getattr(training, wrapper) for wrapper in _WRAPPERS]
    wrappers += [getattr(playground.wrapper, f"Brax{wrapper}", training.VmapWrapper) for wrapper in _WRAPPERS]
    _brax_like.check_raw("env", env, "mujoco_playground", wrappers)
    raw = getattr(env, "unwrapped", env)
    limit = getattr(getattr(raw, "_config", None), _LIMIT, None) if max_steps is None else max_steps
    name = type(raw).__name__ if name is None else name
    return _brax_like.environment(env, name=name, max_steps=limit, render=_render(env))


def available() -> tuple[str, ...]:
    """The names of the control suite, of locomotion and of manipulation, those that were registered there since too."""
    playground = _imported()
    suites = (playground.dm_control_suite, playground.locomotion, playground.manipulation)
    return tuple(name for suite in suites for name in suite.ALL_ENVS if not refusal(name))


def refusal(name: str) -> str:
    """Why `name` is not offered, or an empty string."""
    return "" if _brax_like.clip_takes("a_max") else _REFUSED.get(name, "")


def make(name: str, max_steps: int | None, parameters: dict[str, Any]) -> Environment:
    """The environment that `jaxpg.make("mujoco_playground/" + name)` gives.

    Parameters are `config` and `config_overrides`, those of `mujoco_playground.registry.load`, or entries of the
    configuration by themselves: `ctrl_dt=0.02`. (With a dict among them, equal arguments do not give the same object.)
    """
    title = f"mujoco_playground/{name}"
    registry = _imported().registry
    config = parameters.get("config")
    defaults = _entries(registry.get_default_config(name) if config is None else config)
    check_names(title, parameters, ["config", "config_overrides", *defaults], limit=_LIMIT)
    overrides = dict(parameters.get("config_overrides") or {})
    check_names(f"the configuration of {title}", overrides, defaults, limit=_LIMIT)
    overrides |= {entry: value for entry, value in parameters.items() if entry in defaults}
    if max_steps is not None and _LIMIT in defaults:
        overrides[_LIMIT] = max_steps
    if config is None and "impl" in defaults:
        overrides.setdefault("impl", "jax")
    try:
        with jax.ensure_compile_time_eval():
            # A copy, since overrides are written into it.
            env = registry.load(name, config=copy.deepcopy(config), config_overrides=overrides)
    except (subprocess.SubprocessError, OSError) as error:
        raise _not_fetched(title, "loads it", error) from error
    return from_mujoco_playground(env, max_steps=max_steps, name=title)


def _imported() -> Any:
    """mujoco_playground, whose modules make arrays when imported: inside a trace those would be tracers, and stay."""
    try:
        with jax.ensure_compile_time_eval():
            return importlib.import_module("mujoco_playground")
    except (subprocess.SubprocessError, FileNotFoundError) as error:
        raise _not_fetched("mujoco_playground before 0.1", "is imported", error) from error


def _not_fetched(what: str, when: str, error: Exception) -> OSError:
    return OSError(
        f"{what} needs the robots of MuJoCo Menagerie, which mujoco_playground fetches from GitHub with git when one "
        f"{when}. That failed ({error}). Make it once where there is a network, or put a copy of "
        f"https://github.com/google-deepmind/mujoco_menagerie into mujoco_playground/external_deps/mujoco_menagerie"
    )


def _entries(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The configuration's entries, inner ones as "reward_config.scales.energy"."""
    entries: dict[str, Any] = {}
    for name, value in config.items():
        inner = _entries(value, f"{prefix}{name}.") if hasattr(value, "items") else {f"{prefix}{name}": value}
        entries |= inner
    return entries


def _render(env: Any) -> Any:
    """state -> picture by MuJoCo."""
    model = getattr(env, "mj_model", None)
    if model is None:
        return None
    picture = _brax_like.mujoco_picture(model)
    fields = ("qpos", "qvel", "mocap_pos", "mocap_quat", "xfrc_applied")
    return lambda state: picture(**{field: getattr(state.data, field) for field in fields})
