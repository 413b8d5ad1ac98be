"""The feed-forward network of jaxpg's own policies and critics, as a flax linen module."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxpg import _check

__all__ = ["Trunk", "network_functions"]

Functions = tuple[Callable[..., Any], Callable[..., Any]]


@dataclasses.dataclass(frozen=True)
class Trunk:
    """What lies below the last layer, and the function that makes an observation its input."""

    observe: Callable[[Any], jax.Array]
    input_shape: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    channels: tuple[int, ...] = ()
    kernel_size: int = 1
    strides: int = 1


def network_functions(trunk: Trunk, size: int, head_gain: Any, dtype: Any) -> Functions:
    """The network's (init, apply): key -> params, and (params, observation) -> outputs [..., size]."""
    head_gain = _check.number("head_gain", head_gain)
    module = _network_module()(trunk, size, head_gain, dtype)

    def init(key: jax.Array) -> Any:
        return dict(module.init(key, jnp.zeros(trunk.input_shape))["params"])

    def apply(params: Any, observation: Any) -> jax.Array:
        return module.apply({"params": params}, trunk.observe(observation))

    return init, apply


@functools.cache
def _network_module() -> Any:
    """The linen module, made at its first use: importing flax takes longer than all of jaxpg."""
    from flax import linen

    orthogonal = linen.initializers.orthogonal

    class Convolution(linen.Module):
        """A convolution without padding: the product of the kernel with every window, laid side by side.

        On a CPU, XLA's gradient of a convolution with respect to its kernel takes 36 times as long as this one's
        (512 grids of 10 × 10 × 4, a 3 × 3 kernel, 16 channels: 58 against 1.6 ms), and its forward pass twice as long.
        """

        channels: int
        size: int
        strides: int
        dtype: Any

        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            shape, params_dtype = (self.size, self.size, x.shape[-1], self.channels), jnp.result_type(float)
            kernel = self.param("kernel", orthogonal(math.sqrt(2)), shape, params_dtype)
            bias = self.param("bias", linen.initializers.zeros_init(), (self.channels,), params_dtype)
            dtype = jnp.result_type(x, kernel) if self.dtype is None else self.dtype
            x, kernel, bias = x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)
            rows, columns = ((length - self.size) // self.strides * self.strides + 1 for length in x.shape[-3:-1])
            windows = [
                x[..., i : i + rows : self.strides, j : j + columns : self.strides, :]
                for i in range(self.size)
                for j in range(self.size)
            ]
            return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, self.channels) + bias

    class Network(linen.Module):
        trunk: Trunk
        size: int
        head_gain: Any
        dtype: Any

        @linen.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            trunk = self.trunk
            for k, channels in enumerate(trunk.channels):
                name, window = f"convolution_{k}", (trunk.kernel_size, trunk.strides)
                x = trunk.activation(Convolution(channels, *window, self.dtype, name=name)(x))
            if len(trunk.input_shape) > 1:
                x = x.reshape(*x.shape[: x.ndim - len(trunk.input_shape)], -1)
            for k, width in enumerate(trunk.hidden_sizes):
                x = trunk.activation(self._dense(f"hidden_{k}", width, math.sqrt(2))(x))
            # Probabilities and values are computed in full precision, whatever the network computes in.
            return self._dense("head", self.size, self.head_gain)(x).astype(jnp.result_type(float))

        def _dense(self, name: str, width: int, gain: Any) -> Any:
            return linen.Dense(
                width, dtype=self.dtype, param_dtype=jnp.result_type(float), name=name, kernel_init=orthogonal(gain)
            )

    return Network
