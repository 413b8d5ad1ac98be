"""The network of jaxpg's own policies and critics, as a flax linen module."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check, _compile
from jaxpg.policies._cells import CELLS, advance, zero_carry
from jaxpg.policies._orthogonal import orthogonal
from jaxpg.policies._product import dot_general, product

__all__ = ["Head", "Trunk", "network_functions"]

Functions = tuple[Callable[..., Any], Callable[..., Any]]
Head = tuple[str, int, Any]  # The name of a last layer, its number of outputs, and the gain of its initial weights.


@dataclasses.dataclass(frozen=True)
class Trunk:
    """What lies below the last layers, and the function that makes an observation its input.

    With `cell`, a name in `CELLS`, the hidden layers feed a memory of `cell_size` numbers; what they give and what it
    holds, side by side, go on through layers of `head_sizes`. A memory of size 0 leaves a feed-forward network.
    """

    observe: Callable[[Any], jax.Array]
    input_shape: tuple[int, ...]
    hidden_sizes: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    channels: tuple[int, ...] = ()
    kernel_size: int = 1
    strides: int = 1
    cell: str | None = None
    cell_size: int = 0
    head_sizes: tuple[int, ...] = ()

    def initial_carry(self) -> Any:
        """The memory at the first step of an episode: zeros, as NumPy's, which outlive any transformation."""
        if self.cell is None:
            return None
        return zero_carry(self.cell, np.zeros(self.cell_size, jnp.result_type(float)))


def network_functions(trunk: Trunk, heads: tuple[Head, ...], dtype: Any) -> Functions:
    """The network's (init, apply).

    They are key -> params and (params, observation, carry=None, starts=None) -> (outputs, carry), where `outputs` has
    [..., size] for each head. With `starts` [T, ...], observations are [T, ...] of T consecutive steps.
    """
    heads = tuple((name, size, _check.number("head_gain", gain)) for name, size, gain in heads)
    module = _network_module()(trunk, heads, dtype)

    @_compile.quickly
    def init(key: jax.Array) -> Any:
        return dict(module.init(key, jnp.zeros(trunk.input_shape), trunk.initial_carry())["params"])

    def apply(
        params: Any, observation: Any, carry: Any = None, starts: Any = None
    ) -> tuple[tuple[jax.Array, ...], Any]:
        return module.apply({"params": params}, trunk.observe(observation), carry, starts)

    return init, apply


@functools.cache
def _network_module() -> Any:
    """The linen module, made at its first use: importing flax takes longer than all of jaxpg."""
    from flax import linen

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
            return product(jnp.concatenate(windows, axis=-1), kernel.reshape(-1, self.channels)) + bias

    class Memory(linen.Module):
        """A recurrent cell, (x [..., n], carry) -> (h [..., size], carry); with `starts`, over an axis of steps."""

        cell: str
        size: int
        dtype: Any

        @linen.compact
        def __call__(self, x: jax.Array, carry: Any, starts: Any) -> tuple[jax.Array, Any]:
            cell, full = CELLS[self.cell], jnp.result_type(float)

            def blocks(key: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
                """An orthogonal matrix for each gate, side by side."""
                keys = jax.random.split(key, cell.blocks)
                return jnp.concatenate([orthogonal()(key, (shape[0], self.size), dtype) for key in keys], axis=1)

            inputs = linen.Dense(
                cell.blocks * self.size,
                dtype=self.dtype,
                param_dtype=full,
                name="input",
                kernel_init=blocks,
                bias_init=lambda key, shape, dtype: cell.bias(self.size).astype(dtype),
            )(x)
            weights = None
            if cell.recurrent:
                weights = self.param("recurrent", blocks, (self.size, cell.blocks * self.size), full)

            def product(h: jax.Array) -> jax.Array:
                assert weights is not None
                dtype = weights.dtype if self.dtype is None else self.dtype
                return (h.astype(dtype) @ weights.astype(dtype)).astype(full)

            return advance(cell, product, inputs.astype(full), carry, starts)

    class Network(linen.Module):
        trunk: Trunk
        heads: tuple[Head, ...]
        dtype: Any

        @linen.compact
        def __call__(self, x: jax.Array, carry: Any = None, starts: Any = None) -> tuple[tuple[jax.Array, ...], Any]:
            trunk = self.trunk
            for k, channels in enumerate(trunk.channels):
                name, window = f"convolution_{k}", (trunk.kernel_size, trunk.strides)
                x = trunk.activation(Convolution(channels, *window, self.dtype, name=name)(x))
            if len(trunk.input_shape) > 1:
                x = x.reshape(*x.shape[: x.ndim - len(trunk.input_shape)], -1)
            x = self._hidden(x, trunk.hidden_sizes)
            if trunk.cell is not None and trunk.cell_size:
                h, carry = Memory(trunk.cell, trunk.cell_size, self.dtype, name="memory")(x, carry, starts)
                x = jnp.concatenate([x, h.astype(x.dtype)], axis=-1)
            x = self._hidden(x, trunk.head_sizes, len(trunk.hidden_sizes))
            # Probabilities and values are computed in full precision, whatever the network computes in.
            full = jnp.result_type(float)
            return tuple(self._dense(*head)(x).astype(full) for head in self.heads), carry

        def _hidden(self, x: jax.Array, sizes: tuple[int, ...], first: int = 0) -> jax.Array:
            for k, width in enumerate(sizes, first):
                x = self.trunk.activation(self._dense(f"hidden_{k}", width, math.sqrt(2))(x))
            return x

        def _dense(self, name: str, width: int, gain: Any) -> Any:
            return linen.Dense(
                width,
                dtype=self.dtype,
                param_dtype=jnp.result_type(float),
                name=name,
                kernel_init=orthogonal(gain),
                dot_general=dot_general,
            )

    return Network
