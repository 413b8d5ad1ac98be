"""Episodes with something drawn for each: a discount, or the parameters of the environment."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.envs.base import Environment, Timestep
from jaxpg.envs.spaces import Box
from jaxpg.envs.wrappers._wrap import (
    check_environment,
    inner_state,
    kept,
    looked_at,
    real_line,
    strong,
    with_entry,
    with_entry_space,
    wrapped,
)

__all__ = ["DiscountedState", "RandomizedState", "domain_randomization", "random_discount"]


class DiscountedState(NamedTuple):
    """The state within, and the discount of the episode: float scalar."""

    inner: Any
    discount: jax.Array


class RandomizedState(NamedTuple):
    """The state within, and the parameters of the episode's environment."""

    inner: Any
    parameters: Any


def random_discount(env: Environment, sample: Any, *, observe: bool = False) -> Environment:
    """Discounting by stopping: γ is drawn for each episode, and each of its steps is the last with probability 1 − γ.

        E[ Σ_t r_t | γ ] = E[ Σ_t γ^t r_t ],

    the left one with stopping, the right one without: undiscounted returns here are unbiased for the discounted
    objective there, averaged over γ. A stop terminates: nothing follows. `max_steps` stays, and cuts both sums.

    Args:
      sample: key -> γ, in [0, 1], a float scalar: called once for each episode. Or the number itself.
      observe: add γ to the observation, as its entry "discount"; an observation that is no dict becomes the
        entry "observation".
    """
    env, observe = check_environment(env), _check.boolean("observe", observe)
    if callable(sample):
        found = looked_at("sample(key)", sample, _key_structure())
        if not isinstance(found, jax.ShapeDtypeStruct) or found.shape != () or found.dtype.kind != "f":
            raise ValueError(f"sample must return one discount, a float scalar; got {found}")
    else:
        sample = _check.unit("sample", sample)
    space = (
        with_entry_space(env, "discount", Box(0, 1, (), jnp.result_type(float))) if observe else env.observation_space
    )

    def seen(observation: Any, discount: jax.Array) -> Any:
        return with_entry(observation, "discount", discount) if observe else observation

    def reset(key: jax.Array) -> tuple[DiscountedState, Any]:
        if callable(sample):
            key, discount_key = jax.random.split(key)
            discount = jnp.asarray(sample(discount_key), jnp.result_type(float))
        else:
            discount = jnp.asarray(sample, jnp.result_type(float))
        state, observation = env.reset(key)
        return DiscountedState(state, discount), seen(observation, discount)

    def step(key: jax.Array, state: DiscountedState, action: Any) -> tuple[DiscountedState, Timestep]:
        key, stopping_key = jax.random.split(key)
        inner, timestep = env.step(key, state.inner, action)
        stops = jax.random.uniform(stopping_key, dtype=state.discount.dtype) >= state.discount
        return state._replace(inner=inner), timestep._replace(
            observation=seen(timestep.observation, state.discount), terminated=timestep.terminated | stops
        )

    def build() -> Environment:
        return wrapped(env, "random discount", inner=inner_state, reset=reset, step=step, observation_space=space)

    return kept(build, random_discount, env, sample, observe)


def domain_randomization(
    build: Callable[[Any], Environment], sample: Callable[[jax.Array], Any], *, observe: bool = False
) -> Environment:
    """An environment whose parameters are drawn at each reset and stay for the episode.

        domain_randomization(
            lambda parameters: jaxpg.make("Pendulum-v1", **parameters),
            lambda key: {"g": jax.random.uniform(key, (), minval=8.0, maxval=12.0)},
        )

    Args:
      build: parameters -> Environment. The parameters are traced: they may enter what `reset` and `step` compute, not
        shapes, spaces or `max_steps`, which are those of `build(sample(key))` for an unknown key. `jaxpg.make` takes
        traced parameters of gymnax's environments and gives bounds that depend on them as infinite.
      sample: key -> parameters, a pytree of arrays or numbers.
      observe: add the parameters to the observation, as its entry "parameters"; an observation that is no dict becomes
        the entry "observation".
    """
    _check.callable_("build", build, "parameters -> Environment")
    _check.callable_("sample", sample, "key -> parameters")
    observe = _check.boolean("observe", observe)
    seen_of_it: list[dict[str, Any]] = []

    def draw(key: jax.Array) -> Any:
        return jax.tree.map(strong, sample(key))

    def make(parameters: Any) -> Environment:
        env = build(parameters)
        if not isinstance(env, Environment):
            raise TypeError(f"build must return a jaxpg Environment; got {type(env).__name__} ({env!r:.80})")
        return env

    def look(parameters: Any) -> tuple[()]:
        env = make(parameters)  # It holds tracers, so that only what is static of it may leave this function.
        space = env.observation_space
        if observe:
            space = with_entry_space(env, "parameters", jax.tree.map(real_line, parameters))
        seen_of_it.append(
            {
                "observation_space": space,
                "action_space": env.action_space,
                "max_steps": env.max_steps,
                "name": f"{env.name}, randomized",
                "render": None if env.render is None else render,
            }
        )
        return ()

    def seen(observation: Any, parameters: Any) -> Any:
        return with_entry(observation, "parameters", parameters) if observe else observation

    def reset(key: jax.Array) -> tuple[RandomizedState, Any]:
        key, parameters_key = jax.random.split(key)
        parameters = draw(parameters_key)
        state, observation = make(parameters).reset(key)
        return RandomizedState(state, parameters), seen(observation, parameters)

    def step(key: jax.Array, state: RandomizedState, action: Any) -> tuple[RandomizedState, Timestep]:
        inner, timestep = make(state.parameters).step(key, state.inner, action)
        observation = seen(timestep.observation, state.parameters)
        return state._replace(inner=inner), timestep._replace(observation=observation)

    def render(state: RandomizedState) -> Any:
        return make(state.parameters).render(state.inner)  # type: ignore[reportOptionalCall]

    looked_at("build(parameters)", look, looked_at("sample(key)", draw, _key_structure()))
    fields = seen_of_it.pop()
    return kept(lambda: Environment(reset=reset, step=step, **fields), domain_randomization, build, sample, observe)


def _key_structure() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))
