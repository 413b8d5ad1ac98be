"""Recurrent cells h_t = f(x_t, h_{t−1}), on inputs W x_t + b that are computed for all steps at once.

    gru      r = σ(W_r x + b_r + U_r h),  z = σ(W_z x + b_z + U_z h),  n = tanh(W_n x + b_n + r ⊙ U_n h)
             h' = (1 − z) ⊙ n + z ⊙ h                                                      (Cho et al., 2014)
    lstm     i, f, o = σ(W x + b + U h) each,  g = tanh(W_g x + b_g + U_g h)
             c' = f ⊙ c + i ⊙ g,  h' = o ⊙ tanh(c')                         (Hochreiter & Schmidhuber, 1997)
    linear   a = σ(W_a x + b_a),  v = W_v x + b_v
             h' = a ⊙ h + (1 − a) ⊙ v                                             (minGRU; Feng et al., 2024)

The gates of the linear one look at the input alone. Its steps are affine maps, whose composition is associative:
T steps take O(log T) rounds on parallel hardware.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

__all__ = ["CELLS", "Cell", "advance", "zero_carry"]

LONGEST_HORIZON = 100  # Steps: of the slowest unit of a linear cell at first.


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell.

    Fields:
      blocks: how many vectors of the cell's size an input is projected to.
      step: (U, projected input, carry) -> carry; U is the product with the recurrent weights,
        h -> [..., blocks · size].
      output: carry -> h.
      carry: zeros -> the carry at the first step.
      bias: size -> where the biases of the projection start, [blocks · size].
      recurrent: whether there are recurrent weights.
    """

    blocks: int
    step: Callable[..., Any]
    output: Callable[[Any], jax.Array]
    carry: Callable[[Any], Any]
    bias: Callable[[int], jax.Array]
    recurrent: bool = True


def zero_carry(name: str, zeros: Any) -> Any:
    """The memory of the cell of that name at the first step of an episode, made of `zeros` [size]."""
    return CELLS[name].carry(zeros)


def advance(
    cell: Cell, product: Callable[[jax.Array], jax.Array], projected: jax.Array, carry: Any, starts: Any
) -> Any:
    """(h, carry behind the last step) for projected inputs [..., blocks · size], or [T, ...] of these with `starts`.

    Where `starts` [T, ...] holds, the carry before the step is zero. Nothing of the steps before reaches those after,
    NaN included.
    """
    size = projected.shape[-1] // cell.blocks
    batch = projected.shape[:-1] if starts is None else projected.shape[1:-1]
    carry = jax.tree.map(lambda h: jnp.broadcast_to(jnp.asarray(h), (*batch, size)), carry)
    if starts is None:
        carry = _step(cell, product, projected, carry)
        return cell.output(carry), carry
    starts = jnp.broadcast_to(jnp.asarray(starts, bool)[..., None], (*projected.shape[:-1], 1))
    if not cell.recurrent:
        outputs = _composed(projected, starts, carry)
        return outputs, outputs[-1]

    def step(carry: Any, row: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        inputs, start = row
        carry = jax.tree.map(lambda h: jnp.where(start, 0, h), carry)
        carry = _step(cell, product, inputs, carry)
        return carry, cell.output(carry)

    carry, outputs = jax.lax.scan(step, carry, (projected, starts))
    return outputs, carry


def _step(cell: Cell, product: Callable[[jax.Array], jax.Array], projected: jax.Array, carry: Any) -> Any:
    """The next carry, in the dtype of the one before."""
    after = cell.step(product, projected, carry)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), after, carry)


def _gru(product: Callable[[jax.Array], jax.Array], projected: jax.Array, h: jax.Array) -> jax.Array:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = _blocks(projected, 3), _blocks(product(h), 3)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * h_n)
    return (1 - z) * n + z * h


def _lstm(product: Callable[[jax.Array], jax.Array], projected: jax.Array, carry: dict[str, jax.Array]) -> Any:
    i, f, o, g = _blocks(projected + product(carry["hidden"]), 4)
    cell = jax.nn.sigmoid(f) * carry["cell"] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return {"cell": cell, "hidden": jax.nn.sigmoid(o) * jnp.tanh(cell)}


def _linear(product: Any, projected: jax.Array, h: jax.Array) -> jax.Array:
    del product  # There are no recurrent weights.
    a, v = _gate_and_input(projected)
    return a * h + v


def _gate_and_input(projected: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a and (1 − a) ⊙ v; 1 − σ(x) = σ(−x), without the rounding."""
    gate, value = _blocks(projected, 2)
    return jax.nn.sigmoid(gate), jax.nn.sigmoid(-gate) * value


def _composed(projected: jax.Array, starts: jax.Array, carry: jax.Array) -> jax.Array:
    """h_t of the linear cell for all t, with a_t = 0 where an episode begins."""
    a, b = _gate_and_input(projected)
    a = jnp.where(starts, 0, a)
    b = jnp.concatenate([b[:1] + jnp.where(starts[:1], 0, a[:1] * carry), b[1:]])

    def compose(first: tuple[jax.Array, jax.Array], then: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        forgets = then[0] == 0  # Also NaN and infinity, which a product with 0 would keep.
        return jnp.where(forgets, 0, first[0] * then[0]), then[1] + jnp.where(forgets, 0, then[0] * first[1])

    return jax.lax.associative_scan(compose, (a, b))[1].astype(carry.dtype)


def _blocks(x: jax.Array, number: int) -> list[jax.Array]:
    return jnp.split(x, number, axis=-1)


def _zero_bias(size: int, blocks: int) -> jax.Array:
    return jnp.zeros(blocks * size)


def _lstm_bias(size: int) -> jax.Array:
    """1 at the forget gate, so that a new cell remembers (Jozefowicz et al., 2015)."""
    return jnp.zeros(4 * size).at[size : 2 * size].set(1.0)


def _linear_bias(size: int) -> jax.Array:
    """Horizons 1/(1 − a) = 1 + exp(b_a) from 2 to about 100 steps (in the manner of Tallec & Ollivier, 2018)."""
    return jnp.append(jnp.linspace(0.0, math.log(LONGEST_HORIZON), size), jnp.zeros(size))


CELLS = {
    "gru": Cell(3, _gru, lambda h: h, lambda zeros: zeros, functools.partial(_zero_bias, blocks=3)),
    "lstm": Cell(4, _lstm, lambda carry: carry["hidden"], lambda zeros: {"cell": zeros, "hidden": zeros}, _lstm_bias),
    "linear": Cell(2, _linear, lambda h: h, lambda zeros: zeros, _linear_bias, recurrent=False),
}
