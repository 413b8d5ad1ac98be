"""From a network's trunk to a policy or a critic: the checks and closures that all of them share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.envs.masks import action_mask
from jaxpg.policies import heads
from jaxpg.policies._linen import Trunk, network_functions
from jaxpg.policies.base import Critic, Policy, check_environment, params_check
from jaxpg.policies.distributions import WithValue
from jaxpg.policies.features import feature_size, features, pixels

__all__ = [
    "ACTIVATIONS",
    "activation_name",
    "build_critic",
    "build_policy",
    "dtype_name",
    "image_trunk",
    "sizes",
    "vector_trunk",
]

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "leaky_relu": jax.nn.leaky_relu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
}


def build_policy(
    env: Environment,
    trunk: Trunk,
    *,
    squash: Any,
    state_dependent_std: Any,
    log_std_init: Any,
    head_gain: Any,
    shared_value: Any,
    dtype: Any,
    critic: Callable[[], Critic],
    description: Mapping[str, Any] | None,
) -> Policy:
    """The policy whose network has this trunk, with memory where the trunk has a cell."""
    action_space = env.action_space
    squash = heads.check_squash(squash)
    distribution = heads.head(action_space, squash)
    heads.check_mask(env.observation_space, action_space)
    for argument, value in (("state_dependent_std", state_dependent_std), ("shared_value", shared_value)):
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{argument} must be True or False; got {value!r}")
    if state_dependent_std:
        heads.check_real("state_dependent_std", state_dependent_std, action_space)
    log_std_init = _check.number("log_std_init", log_std_init)
    if not _check.is_concrete(log_std_init) or log_std_init != 0:
        heads.check_real("log_std_init", log_std_init, action_space)
    scales = heads.num_scales(action_space)
    own_std = scales > 0 and not state_dependent_std and squash != "beta"
    size = heads.mean_size(action_space) if own_std else heads.head_size(action_space)
    layers = (("head", size, head_gain), *((("value_head", 1, 1.0),) if shared_value else ()))
    init_network, network = network_functions(trunk, layers, _float_dtype(dtype))

    def init(key: jax.Array) -> Any:
        params = init_network(_check.key("key", key))
        return {**params, "log_std": jnp.full(scales, log_std_init, jnp.result_type(float))} if own_std else params

    check = params_check(init)

    def both(params: Any, observation: Any, carry: Any = None, starts: Any = None) -> tuple[Any, Any]:
        params = dict(check(params))
        log_std = params.pop("log_std") if own_std else None
        outputs, carry = network(params, observation, carry, starts)
        result = distribution(outputs[0], action_mask(observation), log_std)
        return WithValue(result, outputs[1][..., 0]) if shared_value else result, carry

    functions = _functions(trunk, both)
    return Policy(init=init, **functions, has_value=bool(shared_value), critic=critic, description=description)


def build_critic(trunk: Trunk, head_gain: Any, dtype: Any, description: Mapping[str, Any] | None) -> Critic:
    """The critic whose network has this trunk, with memory where the trunk has a cell."""
    init_network, network = network_functions(trunk, (("head", 1, head_gain),), _float_dtype(dtype))

    def init(key: jax.Array) -> Any:
        return init_network(_check.key("key", key))

    check = params_check(init)

    def both(params: Any, observation: Any, carry: Any = None, starts: Any = None) -> tuple[jax.Array, Any]:
        outputs, carry = network(check(params), observation, carry, starts)
        return outputs[0][..., 0], carry

    return Critic(init=init, **_functions(trunk, both), description=description)


def _functions(trunk: Trunk, both: Callable[..., Any]) -> dict[str, Any]:
    """`apply`, `initial_carry` and `unroll` of a model with or without memory."""
    if trunk.cell is None:
        return {"apply": lambda params, observation: both(params, observation)[0]}

    def unroll(params: Any, observations: Any, starts: Any, carry: Any) -> tuple[Any, Any]:
        return both(params, observations, carry, starts)

    def apply(params: Any, observation: Any, carry: Any) -> tuple[Any, Any]:
        return both(params, observation, carry)

    return {"apply": apply, "initial_carry": trunk.initial_carry(), "unroll": unroll}


def vector_trunk(env: Environment, hidden_sizes: Any, activation: Any, **memory: Any) -> Trunk:
    """Hidden layers on flat observations."""
    space, hidden_sizes = check_environment(env).observation_space, sizes("hidden_sizes", hidden_sizes)
    return Trunk(features(space), (feature_size(space),), hidden_sizes, _activation(activation), **memory)


def image_trunk(
    env: Environment, channels: Any, hidden_sizes: Any, activation: Any, kernel_size: Any, strides: Any, **memory: Any
) -> Trunk:
    """Convolutions and hidden layers on images."""
    observe, shape = pixels(check_environment(env).observation_space)
    channels = sizes("features", channels)
    kernel_size, strides = _check.count("kernel_size", kernel_size), _check.count("strides", strides)
    height, width = shape[:2]
    for _ in channels:
        height, width = (height - kernel_size) // strides + 1, (width - kernel_size) // strides + 1
        if min(height, width) < 1:
            raise ValueError(
                f"kernel_size {kernel_size} and strides {strides} leave nothing of a {shape[0]} × "
                f"{shape[1]} observation after {len(channels)} convolutions"
            )
    hidden_sizes, activation = sizes("hidden_sizes", hidden_sizes), _activation(activation)
    return Trunk(observe, shape, hidden_sizes, activation, channels, kernel_size, strides, **memory)


def sizes(argument: str, value: Any) -> tuple[int, ...]:
    """`value` as a tuple of positive integers."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence | np.ndarray):
        raise TypeError(
            f"{argument} must be a sequence of positive integers such as (64, 64); got "
            f"{type(value).__name__} ({value!r})"
        )
    return tuple(_check.count(f"{argument}[{k}]", size) for k, size in enumerate(value))


def _activation(activation: Any) -> Callable[[jax.Array], jax.Array]:
    if isinstance(activation, str):
        return ACTIVATIONS[_check.named("activation", activation, ACTIVATIONS)]
    what = f"of an array, or one of {', '.join(map(repr, ACTIVATIONS))}"
    example = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    found = jax.eval_shape(_check.callable_("activation", activation, what), example)
    if jax.tree.structure(found) != jax.tree.structure(example) or found.shape != example.shape:
        raise ValueError(f"activation must give an array of the shape that it gets, {example.shape}; got {found}")
    return activation


def activation_name(activation: Any) -> Any:
    """The name of an activation function; the function itself where it has none here."""
    return next((name for name, function in ACTIVATIONS.items() if function is activation), activation)


def _float_dtype(dtype: Any) -> Any:
    if dtype is None:
        return None
    try:
        result = jnp.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be None or a float type such as jnp.bfloat16; got {dtype!r}") from None
    if not jnp.issubdtype(result, jnp.floating):
        raise TypeError(f"dtype must be None or a float type such as jnp.bfloat16; got {result}")
    return result


def dtype_name(dtype: Any) -> str | None:
    """The name of a float type, "bfloat16"; None for None."""
    return None if dtype is None else _float_dtype(dtype).name
