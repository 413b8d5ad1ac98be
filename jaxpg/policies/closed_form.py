"""Policies and critics whose parameters are the quantities of the theory: a table of logits, a feedback gain."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.envs.spaces import Box, Discrete
from jaxpg.policies._describe import describe
from jaxpg.policies.base import Critic, Policy, check_environment, params_check
from jaxpg.policies.distributions import Categorical, DiagonalNormal
from jaxpg.policies.features import features
from jaxpg.policies.networks import value_mlp

__all__ = ["linear_gaussian", "tabular", "value_tabular"]


def tabular(env: Environment) -> Policy:
    """The softmax policy of a table: π(a | s) = softmax(params[s])_a.

    params is the array of logits [number of states, number of actions], zero at first: the uniform policy.
    Raises: ValueError where the observation or action space is not `Discrete`.
    """
    num_states = _discrete("observation_space", check_environment(env).observation_space)
    num_actions = _discrete("action_space", env.action_space)

    def init(key: jax.Array) -> jax.Array:
        _check.key("key", key)
        return jnp.zeros((num_states, num_actions))

    check = params_check(init)

    def apply(params: jax.Array, observation: jax.Array) -> Categorical:
        return Categorical(check(params)[observation])

    description = describe("policy", "tabular")
    return Policy(init=init, apply=apply, critic=lambda: value_tabular(env), description=description)


def value_tabular(env: Environment) -> Critic:
    """The critic of a table: V(s) = params[s]; params is an array [number of states], zero at first."""
    num_states = _discrete("observation_space", check_environment(env).observation_space)

    def init(key: jax.Array) -> jax.Array:
        _check.key("key", key)
        return jnp.zeros(num_states)

    check = params_check(init)

    def apply(params: jax.Array, observation: jax.Array) -> jax.Array:
        return check(params)[observation]

    return Critic(init=init, apply=apply, description=describe("critic", "value_tabular"))


def linear_gaussian(env: Environment, *, log_std_init: float = 0.0) -> Policy:
    """Noisy linear feedback, a = −K s + σ ε: the family that holds the optimal policy of a linear-quadratic regulator.

    params is {"gain": K, [action size, state size], "log_std": log σ, [action size]}, K zero and log σ
    `log_std_init` at first. Observations and actions of other ranks are flattened in this.
    Raises: ValueError where the observation or action space is not a `Box` of floats.
    """
    space, action_space = check_environment(env).observation_space, env.action_space
    for argument, box in (("observation_space", space), ("action_space", action_space)):
        if not isinstance(box, Box) or box.dtype.kind != "f":
            raise ValueError(f"linear_gaussian needs {argument} to be a Box of floats; got {box}")
    log_std_init = _check.number("log_std_init", log_std_init)
    observe, size = features(space), math.prod(action_space.shape)

    def init(key: jax.Array) -> dict[str, jax.Array]:
        _check.key("key", key)
        log_std = jnp.full(size, log_std_init, jnp.result_type(float))
        return {"gain": jnp.zeros((size, math.prod(space.shape))), "log_std": log_std}

    check = params_check(init)

    def apply(params: dict[str, jax.Array], observation: jax.Array) -> DiagonalNormal:
        check(params)
        # Full precision: on accelerators the default product rounds its inputs.
        mean = -jnp.einsum("...s,as->...a", observe(observation), params["gain"], precision="highest")
        log_std = jnp.broadcast_to(params["log_std"], mean.shape)
        shape = (*mean.shape[:-1], *action_space.shape)
        return DiagonalNormal(
            mean.reshape(shape), log_std.reshape(shape), action_space.low, action_space.high, len(action_space.shape)
        )

    description = describe("policy", "linear_gaussian", log_std_init=log_std_init)
    return Policy(init=init, apply=apply, critic=lambda: value_mlp(env), description=description)


def _discrete(argument: str, space: Any) -> int:
    if not isinstance(space, Discrete):
        raise ValueError(f"a table needs {argument} to be Discrete; got {space}")
    return space.n
