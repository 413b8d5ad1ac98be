"""Policies and critics as feed-forward networks: multilayer perceptrons and convolutional networks, flax linen inside.

A policy's network ends in a linear layer with one output for each number that the heads of the action space take
(`jaxpg.policies.heads`). Weights start orthogonal, with gain √2 in hidden layers, 0.01 at the policy's last layer
(nearly the same distribution everywhere) and 1 at the critic's; biases start at 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxpg._keywords import hinted
from jaxpg.envs.base import Environment
from jaxpg.policies._build import (
    ACTIVATIONS,
    activation_name,
    build_critic,
    build_policy,
    dtype_name,
    image_trunk,
    vector_trunk,
)
from jaxpg.policies._describe import describe
from jaxpg.policies.base import Critic, Policy

__all__ = ["ACTIVATIONS", "cnn", "mlp", "value_cnn", "value_mlp"]


@hinted
def mlp(
    env: Environment,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str | Callable[..., Any] = "tanh",
    *,
    squash: bool | str = False,
    state_dependent_std: bool = False,
    log_std_init: float = 0.0,
    head_gain: float = 0.01,
    shared_value: bool = False,
    dtype: Any = None,
) -> Policy:
    """A multilayer perceptron on flat observations (`jaxpg.policies.features`).

    Args:
      hidden_sizes: widths of the hidden layers; () for a linear policy.
      activation: a name in `ACTIVATIONS`, or an elementwise function.
      squash: for actions that are real numbers (a `Box` of floats): False for a normal, True or "tanh" for a squashed
        normal, "beta" for a Beta distribution; see `jaxpg.policies.heads`.
      state_dependent_std: for the same actions: whether the network gives the log standard deviations too; else they
        are parameters of their own, `params["log_std"]`, the same for all observations.
      log_std_init: where they start (not for "beta").
      head_gain: the gain of the last layer's initial weights.
      shared_value: whether the hidden layers also feed a value V(s), through a last layer `params["value_head"]` of
        initial gain 1; `apply` then gives a `WithValue`, the distribution with an attribute `value`.
      dtype: what the network computes in, for example jnp.bfloat16; None for JAX's default float.

    An observation that is a dict with an entry "action_mask" excludes actions: see `Categorical`.
    Returns: a `Policy`; params is {"hidden_0": {"kernel", "bias"}, …, "head": {"kernel", "bias"}, "log_std"}.
    Raises: TypeError or ValueError for arguments out of range, options for real actions where there are none, and for
      spaces without a head.
    """
    trunk = vector_trunk(env, hidden_sizes, activation)
    network: dict[str, Any] = dict(hidden_sizes=trunk.hidden_sizes, activation=activation_name(activation))
    head: dict[str, Any] = dict(
        squash=squash,
        state_dependent_std=state_dependent_std,
        log_std_init=log_std_init,
        head_gain=head_gain,
        shared_value=shared_value,
    )
    return build_policy(
        env,
        trunk,
        **head,
        dtype=dtype,
        critic=lambda: value_mlp(env, **network, dtype=dtype),
        description=describe("policy", "mlp", **network, **head, dtype=dtype_name(dtype)),
    )


@hinted
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
    shared_value: bool = False,
    dtype: Any = None,
) -> Policy:
    """A convolutional network on grids or images [height, width, channels], as for MinAtar's 10 × 10 grids.

    Args:
      features: the number of channels after each convolution.
      hidden_sizes: widths of the hidden layers after the convolutions.
      kernel_size, strides: of every convolution; no padding.
      activation, squash, state_dependent_std, log_std_init, head_gain, shared_value, dtype: as in `mlp`.

    Returns: a `Policy`; params is {"convolution_0": …, "hidden_0": …, "head": …, "log_std"}.
    Source: the default network of MinAtar, Young & Tian (2019).
    """
    trunk = image_trunk(env, features, hidden_sizes, activation, kernel_size, strides)
    network: dict[str, Any] = dict(
        features=trunk.channels,
        hidden_sizes=trunk.hidden_sizes,
        activation=activation_name(activation),
        kernel_size=trunk.kernel_size,
        strides=trunk.strides,
    )
    head: dict[str, Any] = dict(
        squash=squash,
        state_dependent_std=state_dependent_std,
        log_std_init=log_std_init,
        head_gain=head_gain,
        shared_value=shared_value,
    )
    return build_policy(
        env,
        trunk,
        **head,
        dtype=dtype,
        critic=lambda: value_cnn(env, **network, dtype=dtype),
        description=describe("policy", "cnn", **network, **head, dtype=dtype_name(dtype)),
    )


@hinted
def value_mlp(
    env: Environment,
    hidden_sizes: Sequence[int] = (64, 64),
    activation: str | Callable[..., Any] = "tanh",
    *,
    head_gain: float = 1.0,
    dtype: Any = None,
) -> Critic:
    """A critic V(s) like the policy that `mlp` builds, with one output: a scalar for one observation."""
    trunk = vector_trunk(env, hidden_sizes, activation)
    arguments: dict[str, Any] = dict(hidden_sizes=trunk.hidden_sizes, activation=activation_name(activation))
    description = describe("critic", "value_mlp", **arguments, head_gain=head_gain, dtype=dtype_name(dtype))
    return build_critic(trunk, head_gain, dtype, description)


@hinted
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
    trunk = image_trunk(env, features, hidden_sizes, activation, kernel_size, strides)
    arguments: dict[str, Any] = dict(
        features=trunk.channels,
        hidden_sizes=trunk.hidden_sizes,
        activation=activation_name(activation),
        kernel_size=trunk.kernel_size,
        strides=trunk.strides,
    )
    description = describe("critic", "value_cnn", **arguments, head_gain=head_gain, dtype=dtype_name(dtype))
    return build_critic(trunk, head_gain, dtype, description)
