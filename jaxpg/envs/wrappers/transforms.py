"""Observations, rewards and actions through a function of your own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.spaces import Space, check_space, is_leaf, shape_dtype
from jaxpg.envs.wrappers._wrap import check_environment, kept, looked_at, real_line, strong, wrapped

__all__ = ["transform_action", "transform_observation", "transform_reward"]


def transform_observation(
    env: Environment, function: Callable[[Any], Any], space: Space | None = None, *, suffix: str = "observation"
) -> Environment:
    """`env` whose observations are `function(observation)`, the final ones too.

    Args:
      function: observation -> observation, in JAX. An entry "action_mask" is given to it and must be in what it
        returns if policies are to see it.
      space: of what it returns. None finds it by tracing, where that holds floats and booleans: boxes without bounds.
      suffix: is put behind the name.
    Raises:
      ValueError: `function` returns integers and no `space` says which; or what `space` does not describe.
    """
    env = check_environment(env)
    _check.callable_("function", function, "observation -> observation")
    what = f"function(observation) of {env.name}"
    found = looked_at(what, function, shape_dtype(env.observation_space))
    if space is None:
        integers = [leaf for leaf in jax.tree.leaves(found) if leaf.dtype.kind in "iu"]
        if integers:
            raise ValueError(
                f"space is required where the observations hold integers: Discrete(n), MultiDiscrete(nvec) or a Box "
                f"with their bounds; function returns {_text(found)}"
            )
        space = jax.tree.map(real_line, found)
    _check_described("function", found, "space", check_space("space", space))

    def reset(key: jax.Array) -> tuple[Any, Any]:
        state, observation = env.reset(key)
        return state, jax.tree.map(strong, function(observation))

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Timestep]:
        state, timestep = env.step(key, state, action)
        return state, timestep._replace(observation=jax.tree.map(strong, function(timestep.observation)))

    def build() -> Environment:
        return wrapped(env, suffix, reset=reset, step=step, observation_space=space)

    return kept(build, transform_observation, env, function, _as_data(space), suffix)


def transform_reward(env: Environment, function: Callable[[jax.Array], Any], *, suffix: str = "reward") -> Environment:
    """`env` whose rewards are `function(reward)`, such as `lambda reward: reward / 100` or `jnp.sign`."""
    env = check_environment(env)
    _check.callable_("function", function, "reward -> reward")
    found = looked_at("function(reward)", function, jax.ShapeDtypeStruct((), jnp.result_type(float)))
    if not isinstance(found, jax.ShapeDtypeStruct) or found.shape != () or found.dtype.kind not in "fiu":
        raise ValueError(f"function must return one number for one reward; got {_text(found)}")

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Timestep]:
        state, timestep = env.step(key, state, action)
        return state, timestep._replace(reward=strong(function(timestep.reward)))

    return kept(lambda: wrapped(env, suffix, step=step), transform_reward, env, function, suffix)


def transform_action(
    env: Environment, function: Callable[[Any], Any], space: Space, *, suffix: str = "action"
) -> Environment:
    """`env` that takes the actions of `space`; it gets `function(action)`.

    An action mask in the observations is left as it is: it must fit `space`.

    Raises:
      ValueError: what `function` returns for an action of `space` is no action of `env`.
    """
    env = check_environment(env)
    _check.callable_("function", function, "action -> action of env")
    check_space("space", space)
    found = looked_at(f"function(action) of {env.name}", function, shape_dtype(space))
    _check_described("function", found, "env.action_space", env.action_space)

    def step(key: jax.Array, state: Any, action: Any) -> tuple[Any, Timestep]:
        return env.step(key, state, function(action))

    def build() -> Environment:
        return wrapped(env, suffix, step=step, action_space=space)

    return kept(build, transform_action, env, function, _as_data(space), suffix)


def _check_described(function: str, found: Any, argument: str, space: Space) -> None:
    """A ValueError unless `space` has the structure, shapes and kinds of dtypes of what a function returns."""
    expected = shape_dtype(space)
    same = jax.tree.structure(found) == jax.tree.structure(expected) and all(
        one.shape == other.shape and _kind(one) == _kind(other)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected))
    )
    if not same:
        raise ValueError(f"{function} must return what {argument} describes, {_text(expected)}; got {_text(found)}")


def _kind(leaf: Any) -> str:
    return "i" if leaf.dtype.kind == "u" else leaf.dtype.kind


def _as_data(space: Space) -> Any:
    """A space as something that has a hash."""
    leaves, structure = jax.tree_util.tree_flatten(space, is_leaf=is_leaf)
    return tuple(leaves), structure


def _text(tree: Any) -> str:
    return str(jax.tree.map(_Text, tree))


class _Text:
    """Prints a shape and dtype shortly within a container."""

    def __init__(self, leaf: Any):
        self._text = f"{np.dtype(leaf.dtype).name if leaf.dtype.kind in 'fiub' else leaf.dtype}{list(leaf.shape)}"

    def __repr__(self) -> str:
        return self._text
