"""The least time that a gradient can take: its operations over the rate at which the machine does them.

Multiplications by weight matrices are counted, and tanh apart: environments, draws and sums come on top. Per step,
with P the number of weights and P₁ those of the first layer, in floating-point operations:

    2P   forward in the rollout
    2P   forward again for the gradient (storing the activations instead is slower: memory)
    2P   backward, to the weights
    2(P − P₁)   backward, to the inputs of all layers but the first
"""

import time

import jax
import jax.numpy as jnp
import numpy as np


def operations_per_step(params):
    """(floating-point operations in matrix products, tanh evaluations) per step of an `mlp` policy."""
    layers = {name: int(np.prod(layer["kernel"].shape)) for name, layer in params.items()}
    first = layers.get("hidden_0", layers["head"])
    units = sum(layer["bias"].size for name, layer in params.items() if name != "head")
    return 8 * sum(layers.values()) - 2 * first, 2 * units


class Rates:
    """Rates of all devices together, each busy with its own numbers.

    - `large`: products of two 1024 × 1024 matrices, in operations/s: about what the machine can do.
    - `layer`: what a hidden layer does with a block of the backward pass, forward, weight gradient and input gradient,
      in operations/s.
    - `tanh`: evaluations/s on the same block.
    """

    def __init__(self, rows, width, large=1024, seconds=0.1):
        self._devices = jax.devices()
        self._seconds = seconds
        key = jax.random.key(0)
        block = jax.random.normal(key, (rows, width))
        turn = jnp.linalg.qr(jax.random.normal(key, (width, width)))[0]
        square = jnp.linalg.qr(jax.random.normal(key, (large, large)))[0]
        # name: (loop body, start, operations of one turn). Orthogonal matrices keep the numbers in range.
        self._loops = {
            "large": (lambda carry: (carry[0] @ carry[1], carry[1]), (square, square), 2 * large**3),
            "layer": (_layer, (block, turn, jnp.zeros((width, width))), 6 * rows * width**2),
            "tanh": (lambda x: jnp.tanh(1.5 - x), block, rows * width),
        }
        self._compiled = {name: self._compile(body, start) for name, (body, start, _) in self._loops.items()}
        self._turns = {name: self._enough(name) for name in self._loops}

    def measure(self):
        """{name: operations per second}."""
        return {name: self._rate(name, self._turns[name]) for name in self._loops}

    def _compile(self, body, start):
        mesh = jax.sharding.Mesh(np.asarray(self._devices), ("device",))
        spec = jax.sharding.PartitionSpec("device")

        def loop(turns, x):
            return jax.lax.fori_loop(0, turns, lambda _, x: body(x), x)

        def on_device(turns, xs):
            return jax.tree.map(lambda x: x[None], loop(turns, jax.tree.map(lambda x: x[0], xs)))

        run = jax.shard_map(
            on_device, mesh=mesh, in_specs=(jax.sharding.PartitionSpec(), spec), out_specs=spec, check_vma=False
        )
        xs = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(self._devices), *x.shape)), start)
        xs = jax.device_put(xs, jax.sharding.NamedSharding(mesh, spec))
        return jax.jit(run), xs

    def _time(self, name, turns):
        run, xs = self._compiled[name]
        start = time.perf_counter()
        jax.block_until_ready(run(turns, xs))
        return time.perf_counter() - start

    def _rate(self, name, turns):
        return self._loops[name][2] * turns * len(self._devices) / self._time(name, turns)

    def _enough(self, name):
        """Turns that take about `seconds`."""
        self._time(name, 1)  # Compiles.
        turns = 1
        while (elapsed := self._time(name, turns)) < self._seconds / 4:
            turns *= 4
        return max(int(turns * self._seconds / elapsed), 1)


def _layer(carry):
    """The three products of a layer, in a chain that cannot be shortened."""
    x, weights, gradient = carry
    y = x @ weights
    # xᵀ y as jaxpg/policies/_product.py has it, which is the quicker way on a CPU.
    columns = jax.lax.optimization_barrier(jax.lax.optimization_barrier(y.T) @ x)
    return jnp.flip(y, axis=1) @ weights.T, weights, gradient + columns.T
