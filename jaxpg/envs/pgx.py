"""pgx's games for one player (MinAtar, 2048) as `Environment`.

What the adapter keeps as pgx has it:
- MinAtar's sticky actions: with probability `sticky_action_prob` (default 0.1) the last action is taken again, as in
  the original; gymnax's MinAtar has none. `use_minimal_action_set=False` gives all six actions.
- 2048's reward is the sum of the merged tiles. Its observation is a dict: "observation", one-hot powers of two
  [4, 4, 31], and "action_mask". An illegal move ends the episode with reward -1. MinAtar's actions are always legal,
  so its observation is the array [10, 10, channels] alone.

What it changes:
- The rewards of one player are a number.
- pgx has no time limits. Here an episode is truncated at 1,000 steps in MinAtar, as in gymnax, and at 10,000 in 2048,
  more than learnt policies play without search; `max_steps` replaces either.
- Freeway ends by a timer alone, which no observation shows and pgx reports as the end of the game. Here it never
  terminates and is truncated when that timer would run out, after 2,501 steps, or at `max_steps`.
"""

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs._adapted import adapted, x64_off
from jaxpg.envs._parameters import check_names
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import ACTION_MASK
from jaxpg.envs.spaces import Box, Discrete

__all__ = ["available", "from_pgx", "make", "refusal"]

# Not built to be asked: some of these take seconds. A game that is not known here is.
_REFUSED: Mapping[str, str] = dict.fromkeys(
    (
        "animal_shogi", "backgammon", "bridge_bidding", "chess", "connect_four", "gardner_chess", "go_9x9", "go_19x19",
        "hex", "kuhn_poker", "leduc_holdem", "othello", "shogi", "sparrow_mahjong", "tic_tac_toe",
    ),
    "it has several players, and jaxpg plays for one",
)  # fmt: skip
_LIMITS = {"minatar-": 1_000, "2048": 10_000}  # By the beginning of a game's name.
_TIMER = "_terminate_timer"  # Freeway's: it falls by one in each step and ends the game below zero.


@functools.cache
def available() -> tuple[str, ...]:
    """The games for one player."""
    with jax.ensure_compile_time_eval(), x64_off(True):  # Freeway's module makes arrays of the default integer.
        pgx = importlib.import_module("pgx")
        names = [name for name in pgx.available_envs() if name not in _REFUSED]
        return tuple(name for name in names if pgx.make(name).num_players == 1)


def refusal(name: str) -> str:
    """Why `name` is not offered, or an empty string."""
    return _REFUSED.get(name, "")


def make(name: str, max_steps: int | None, parameters: Mapping[str, Any]) -> Environment:
    """The environment that `jaxpg.make("pgx/name", max_steps=…, **parameters)` gives.

    Parameters are the arguments of the game's constructor: `sticky_action_prob`, which may be traced, and
    `use_minimal_action_set` for MinAtar, none for 2048.
    """
    with jax.ensure_compile_time_eval(), x64_off(True):
        game = importlib.import_module("pgx").make(name)
        known = {
            parameter.name: parameter.default
            for parameter in inspect.signature(type(game)).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        }
        check_names(f"pgx/{name}", parameters, known)
        if parameters:
            game = type(game)(
                **{
                    parameter: _parameter(f"pgx/{name}: {parameter}", value, known[parameter])
                    for parameter, value in parameters.items()
                }
            )
    return from_pgx(game, max_steps=max_steps, name=f"pgx/{name}")


def _parameter(argument: str, value: Any, default: Any) -> Any:
    return _check.boolean(argument, value) if isinstance(default, bool) else _check.unit(argument, value)


def from_pgx(pgx_env: Any, *, max_steps: int | None = None, name: str | None = None) -> Environment:
    """An `Environment` from one of pgx's environments for one player.

    Args:
      pgx_env: what `pgx.make` gives, or a `pgx.Env` of your own.
      max_steps: the episode limit; the default is 1,000 for MinAtar (but Freeway's own), 10,000 for 2048, and none for
        others.
      name: the default is `pgx_env.id`.
    Raises:
      TypeError: `pgx_env` is not an environment of pgx.
      ValueError: it has several players; `max_steps` is below 1.
    """
    if isinstance(pgx_env, type):
        raise TypeError(f"pgx_env must be an environment of pgx; got the class {pgx_env.__name__}")
    missing = [attribute for attribute in ("init", "step", "num_players", "id") if not hasattr(pgx_env, attribute)]
    if missing:
        raise TypeError(f"pgx_env must be an environment of pgx; got {pgx_env!r}, which lacks {', '.join(missing)}")
    if pgx_env.num_players != 1:
        raise ValueError(f"pgx_env must be a game for one player; {pgx_env.id} has {pgx_env.num_players} players")
    with jax.ensure_compile_time_eval(), x64_off(True):  # Some games cannot be traced under x64.
        first = pgx_env.init(jax.random.key(0))
    limit = _check.optional(_check.count, "max_steps", max_steps) or _default_limit(pgx_env.id, first)
    is_masked = not _always_legal(pgx_env)

    def observe(state: Any) -> Any:
        if not is_masked:
            return state.observation
        return {"observation": state.observation, ACTION_MASK: state.legal_action_mask}

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state = pgx_env.init(key)
        if hasattr(state, _TIMER):
            timer = getattr(state, _TIMER)
            state = state.replace(**{_TIMER: jnp.full_like(timer, jnp.iinfo(timer.dtype).max)})
        return state, observe(state)

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        state = pgx_env.step(state, action, key)
        truncated = state.truncated if limit is None else state.truncated | (state._step_count >= limit)
        return state, observe(state), state.rewards[0], state.terminated, truncated

    space = _box(first.observation)
    return adapted(
        str(pgx_env.id) if name is None else name,
        lambda narrow: (reset, step),
        observation_space={"observation": space, ACTION_MASK: _box(first.legal_action_mask)} if is_masked else space,
        action_space=Discrete(first.legal_action_mask.shape[0]),
        max_steps=limit,
        # pgx draws SVG, which needs a renderer of SVG to become a picture; MinAtar's grids are drawn by jaxpg.
        render=None,
    )


def _default_limit(name: str, first: Any) -> int | None:
    if hasattr(first, _TIMER):
        return int(getattr(first, _TIMER)) + 1
    return next((limit for start, limit in _LIMITS.items() if name.startswith(start)), None)


def _always_legal(pgx_env: Any) -> bool:
    """Whether the game has one mask for all states, and it allows everything."""
    mask = getattr(pgx_env, "legal_action_mask", None)
    return mask is not None and bool(np.asarray(mask).all())


def _box(example: jax.Array) -> Box:
    bounds = (0, 1) if example.dtype == jnp.bool_ else (-np.inf, np.inf)
    return Box(*bounds, example.shape, jnp.result_type(float) if example.dtype.kind == "f" else example.dtype)
