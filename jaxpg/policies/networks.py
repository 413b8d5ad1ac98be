"""Policies and critics as feed-forward networks: multilayer perceptrons and convolutional networks, flax linen inside.

A policy's network ends in a linear layer with one output for each number that the heads of the action space take
(`jaxpg.policies.heads`). Weights start orthogonal, with gain √2 in hidden layers, 0.01 at the policy's last layer
(nearly the same distribution everywhere) and 1 at the critic's; biases start at 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg.envs.base import Environment
from jaxpg.policies import heads
from jaxpg.policies._linen import Trunk, network_functions
from jaxpg.policies.base import Critic, Policy, check_environment, params_check
from jaxpg.policies.features import action_mask, feature_size, pixels
from jaxpg.policies.features import features as flat_features

__all__ = ["ACTIVATIONS", "cnn", "mlp", "value_cnn", "value_mlp"]

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


def mlp(
    env: Environment,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str | Callable[..., Any] = "tanh",
    *,
    squash: bool | str = False,
    state_dependent_std: bool = False,
    log_std_init: float = 0.0,
    head_gain: float = 0.01,
    dtype: Any = None,
) -> Policy:
    """A multilayer perceptron on flat observations (`jaxpg.policies.features`).

    Args:
      hidden_sizes: widths of the hidden layers; () for a linear policy.
      activation: a name in `ACTIVATIONS`, or an elementwise function.
      squash: for actions that are real numbers (a `Box` of floats): False for a normal, True or "tanh" for a squashed
        normal, "beta" for a Beta distribution; see `jaxpg.policies.heads`.
      state_dependent_std: whether the network gives the log standard deviations too; else they are parameters of their
        own, `params["log_std"]`, the same for all observations.
      log_std_init: where they start (not for "beta").
      head_gain: the gain of the last layer's initial weights.
      dtype: what the network computes in, for example jnp.bfloat16; None for JAX's default float.

    An observation that is a dict with an entry "action_mask" excludes actions: see `Categorical`.
    Returns: a `Policy`; params is {"hidden_0": {"kernel", "bias"}, …, "head": {"kernel", "bias"}, "log_std"}.
    Raises: TypeError or ValueError for arguments out of range, and for spaces without a head.
    """
    trunk = _mlp_trunk(env, hidden_sizes, activation)
    return _policy(env, trunk, squash, state_dependent_std, log_std_init, head_gain, dtype)


def cnn(
    env: Environment,
    features: Sequence[int] = (16,),
    hidden_sizes: Sequence[int] = (128,),
    activation: str | Callable[..., Any] = "relu",
    *,
    kernel_size: int = 3,
    strides: int = 1,
    squash: bool | str = False,
    state_dependent_std: bool = False,
    log_std_init: float = 0.0,
    head_gain: float = 0.01,
    dtype: Any = None,
) -> Policy:
    """A convolutional network on grids or images [height, width, channels], as for MinAtar's 10 × 10 grids.

    Args:
      features: the number of channels after each convolution.
      hidden_sizes: widths of the hidden layers after the convolutions.
      kernel_size, strides: of every convolution; no padding.
      activation, squash, state_dependent_std, log_std_init, head_gain, dtype: as in `mlp`.

    Returns: a `Policy`; params is {"convolution_0": …, "hidden_0": …, "head": …, "log_std"}.
    Source: the default network of MinAtar, Young & Tian (2019).
    """
    trunk = _cnn_trunk(env, features, hidden_sizes, activation, kernel_size, strides)
    return _policy(env, trunk, squash, state_dependent_std, log_std_init, head_gain, dtype)


def value_mlp(
    env: Environment,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str | Callable[..., Any] = "tanh",
    *,
    head_gain: float = 1.0,
    dtype: Any = None,
) -> Critic:
    """A critic V(s) like the policy that `mlp` builds, with one output: a scalar for one observation."""
    return _critic(_mlp_trunk(env, hidden_sizes, activation), head_gain, dtype)


def value_cnn(
    env: Environment,
    features: Sequence[int] = (16,),
    hidden_sizes: Sequence[int] = (128,),
    activation: str | Callable[..., Any] = "relu",
    *,
    kernel_size: int = 3,
    strides: int = 1,
    head_gain: float = 1.0,
    dtype: Any = None,
) -> Critic:
    """A critic V(s) like the policy that `cnn` builds, with one output: a scalar for one observation."""
    return _critic(_cnn_trunk(env, features, hidden_sizes, activation, kernel_size, strides), head_gain, dtype)


def _policy(
    env: Environment, trunk: Any, squash: Any, state_dependent_std: Any, log_std_init: Any, head_gain: Any, dtype: Any
) -> Policy:
    action_space = env.action_space
    squash = heads.check_squash(squash)
    distribution = heads.head(action_space, squash)
    heads.check_mask(env.observation_space, action_space)
    if not isinstance(state_dependent_std, (bool, np.bool_)):
        raise TypeError(f"state_dependent_std must be True or False; got {state_dependent_std!r}")
    log_std_init = _check.number("log_std_init", log_std_init)
    scales = heads.num_scales(action_space)
    own_std = scales > 0 and not state_dependent_std and squash != "beta"
    size = heads.mean_size(action_space) if own_std else heads.head_size(action_space)
    init_network, network = network_functions(trunk, size, head_gain, _float_dtype(dtype))

    def init(key: jax.Array) -> Any:
        params = init_network(_check.key("key", key))
        return {**params, "log_std": jnp.full(scales, log_std_init, jnp.result_type(float))} if own_std else params

    check = params_check(init)

    def apply(params: Any, observation: Any) -> Any:
        params = dict(check(params))
        log_std = params.pop("log_std") if own_std else None
        return distribution(network(params, observation), action_mask(observation), log_std)

    return Policy(init=init, apply=apply)


def _critic(trunk: Any, head_gain: Any, dtype: Any) -> Critic:
    init_network, network = network_functions(trunk, 1, head_gain, _float_dtype(dtype))

    def init(key: jax.Array) -> Any:
        return init_network(_check.key("key", key))

    check = params_check(init)

    def apply(params: Any, observation: Any) -> jax.Array:
        return network(check(params), observation)[..., 0]

    return Critic(init=init, apply=apply)


def _mlp_trunk(env: Environment, hidden_sizes: Any, activation: Any) -> Trunk:
    space, hidden_sizes = check_environment(env).observation_space, _sizes("hidden_sizes", hidden_sizes)
    return Trunk(flat_features(space), (feature_size(space),), hidden_sizes, _activation(activation))


def _cnn_trunk(
    env: Environment, channels: Any, hidden_sizes: Any, activation: Any, kernel_size: Any, strides: Any
) -> Trunk:
    observe, shape = pixels(check_environment(env).observation_space)
    channels = _sizes("features", channels)
    kernel_size, strides = _check.count("kernel_size", kernel_size), _check.count("strides", strides)
    height, width = shape[:2]
    for _ in channels:
        height, width = (height - kernel_size) // strides + 1, (width - kernel_size) // strides + 1
        if min(height, width) < 1:
            raise ValueError(
                f"kernel_size {kernel_size} and strides {strides} leave nothing of a {shape[0]} × "
                f"{shape[1]} observation after {len(channels)} convolutions"
            )
    return Trunk(
        observe, shape, _sizes("hidden_sizes", hidden_sizes), _activation(activation), channels, kernel_size, strides
    )


def _sizes(argument: str, sizes: Any) -> tuple[int, ...]:
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Sequence | np.ndarray):
        raise TypeError(
            f"{argument} must be a sequence of positive integers such as (64, 64); got "
            f"{type(sizes).__name__} ({sizes!r})"
        )
    return tuple(_check.count(f"{argument}[{k}]", size) for k, size in enumerate(sizes))


def _activation(activation: Any) -> Callable[[jax.Array], jax.Array]:
    if isinstance(activation, str):
        return ACTIVATIONS[_check.named("activation", activation, ACTIVATIONS)]
    return _check.callable_("activation", activation, f"of an array, or one of {', '.join(map(repr, ACTIVATIONS))}")


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
