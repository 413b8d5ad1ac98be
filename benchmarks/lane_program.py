"""A function of one lane as a program over [lanes] vectors alone, as kernels need it that know no small arrays.

GPU kernels hold vectors over lanes, and matrices whose sides are powers of two; an observation of four numbers, a key
of two words, or a concatenation is none of these. `Program` takes the jaxpr of a function of one lane, such as an
environment's `step`, and runs it with each number of a lane as a vector over lanes: what reshapes, slices, stacks and
sums small arrays only moves names about. Products with a network's weights stay products: the lanes' rows are a matrix
[lanes, features], with the features filled up to a power of two.

Not supported: gathers (what is looked up by a lane's own index), and loops.
"""

import functools
import itertools
import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg._threefry import _threefry

__all__ = ["Program", "Shared", "Wide", "filled_up", "flat", "objects", "unflat"]

SMALL = 16  # As many numbers of a lane are vectors of their own; more stay a matrix. Also the least side of a product.
# Of a matrix's rows: (reduction, what changes nothing).
REDUCTIONS = {"reduce_sum": (jnp.sum, 0), "reduce_max": (jnp.max, -jnp.inf), "reduce_min": (jnp.min, jnp.inf)}


class Key(NamedTuple):
    """A Threefry key of each lane."""

    word_0: Any
    word_1: Any


class Wide:
    """A vector [size] of each lane, as [lanes, filled up]; what lies behind `size` is arbitrary."""

    def __init__(self, array: Any, size: int):
        self.array, self.size, self.shape = array, size, (size,)

    def numbers(self) -> np.ndarray:
        """The same as vectors over lanes."""
        if self.size > SMALL:
            raise NotImplementedError(f"{self.size} numbers of a lane are taken apart; at most {SMALL} can be")
        column, dtype = _columns(self.array), self.array.dtype
        taken = [jnp.sum(jnp.where(column == k, self.array, 0), axis=1) for k in range(self.size)]
        return objects([x != 0 if dtype.kind == "b" else x.astype(dtype) for x in taken], (self.size,))


class Shared:
    """An array that all lanes share, such as weights: a reference (or array) of filled up sides, read once.

    `shape` is that without the filling, which holds zeros.
    """

    def __init__(self, reference: Any, shape: tuple[int, ...]):
        self.shape = shape
        few = len(shape) == 2 and shape[0] <= SMALL
        self.rows = [reference[k, :] for k in range(shape[0])] if few else None
        self.whole = None if few else reference[...]
        self._reference = reference

    def numbers(self) -> np.ndarray:
        """The same as numbers, where there are few, such as log standard deviations."""
        if math.prod(self.shape) > SMALL:
            raise NotImplementedError(f"weights {self.shape} are used otherwise than in a product, or added to one")
        return objects([self._reference[place] for place in np.ndindex(self.shape)], self.shape)


def filled_up(array: Any) -> Any:
    """`array` with sides of at least `SMALL` that are powers of two, filled up with zeros."""
    if not array.ndim:
        return array
    sides = [max(SMALL, 2 ** math.ceil(math.log2(max(n, 1)))) for n in array.shape]
    return jnp.pad(array, [(0, side - n) for side, n in zip(sides, array.shape, strict=True)])


def flat(leaf: Any) -> Any:
    """[lanes, ...] as [numbers of a lane, lanes]; booleans as integers."""
    leaf = leaf.astype(jnp.int32) if leaf.dtype == bool else leaf
    return leaf.reshape(leaf.shape[0], -1).T


def unflat(leaf: Any, like: Any, axis: int = 0) -> Any:
    """The inverse of `flat`, where the two axes are `axis` and the next."""
    leaf = jnp.moveaxis(leaf, axis + 1, axis)
    return leaf.reshape(*leaf.shape[: axis + 1], *like.shape).astype(like.dtype)


class Program:
    """`function(shared, lane)` over lanes.

    `shared` and `lane` are examples: pytrees of arrays as one lane has them. Random keys in `lane` must be words
    (`jax.random.key_data`), and be used as keys of Threefry.
    """

    def __init__(self, function: Any, shared: Any, lane: Any):
        if not jax.config.jax_threefry_partitionable:  # pyrefly: ignore
            raise NotImplementedError("with jax_threefry_partitionable=False keys draw otherwise than is written here")
        closed, self.result = jax.make_jaxpr(function, return_shape=True)(shared, lane)
        self._jaxpr, self._consts = closed.jaxpr, [_constant(x) for x in closed.consts]

    def run(self, shared: list[Shared], lane: list[np.ndarray]) -> list[np.ndarray]:
        """The leaves of the result as vectors over lanes, from the leaves of the arguments."""
        found = _evaluate(self._jaxpr, self._consts, [*shared, *lane])
        return [_numbers(x) for x in found]


def objects(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of Python objects: numpy would look into arrays and tuples."""
    made = np.empty(len(values), object)
    for place, value in enumerate(values):
        made[place] = value
    return made.reshape(shape)


def _constant(value: Any) -> np.ndarray:
    value = np.asarray(value)
    return objects([value.dtype.type(x) for x in value.ravel()], value.shape)


def _numbers(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.numbers()


def _columns(array: Any) -> Any:
    return jax.lax.broadcasted_iota(jnp.int32, array.shape, 1)


# --- The interpreter --------------------------------------------------------------------------------------------------


def _evaluate(jaxpr: Any, consts: Any, arguments: Any) -> list[Any]:
    known: dict[Any, Any] = {}

    def read(atom):
        return _constant(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, "val") else known[atom]

    known.update(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        outputs = _apply(equation, inputs)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, inputs: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    inner = next((params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params), None)
    if name in ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint"):
        consts = [_constant(x) for x in getattr(inner, "consts", ())]
        return _evaluate(getattr(inner, "jaxpr", inner), consts, inputs)
    if name == "cond":
        return _every_branch(params["branches"], *inputs)
    if name in ("stop_gradient", "copy", "optimization_barrier"):
        return inputs
    if name == "dot_general":
        return [_product(params, *inputs)]
    if any(isinstance(x, Wide) for x in inputs) and (name in ELEMENTWISE or name in REDUCTIONS or name == "reshape"):
        return [_wide(equation, inputs)]
    inputs = [_numbers(x) for x in inputs]
    if name in ELEMENTWISE:
        return [_each(equation, inputs)]
    if name in OTHERS:
        found = OTHERS[name](params, *inputs)
        return found if isinstance(found, list) else [found]
    raise NotImplementedError(f"{name} is not supported in a program over lanes")


ELEMENTWISE = set(
    "abs acos acosh add and asin asinh atan atan2 atanh bitcast_convert_type cbrt ceil clamp convert_element_type "
    "cos cosh div eq erf_inv exp exp2 expm1 floor ge gt integer_pow is_finite le log log1p logistic lt max min "
    "mul ne neg nextafter not or population_count pow rem round rsqrt select_n shift_left shift_right_arithmetic "
    "shift_right_logical sign sin sinh sqrt square sub tan tanh xor".split()
)


def _bind(equation: Any, operands: list[Any]) -> Any:
    """The primitive of operands that are vectors over lanes or numbers."""
    if all(isinstance(x, np.generic) for x in operands):  # Known now; kernels take no arrays from outside.
        with jax.ensure_compile_time_eval():
            return np.asarray(equation.primitive.bind(*map(jnp.asarray, operands), **equation.params))[()]
    shape = max((jnp.shape(x) for x in operands), key=len)
    operands = [x if jnp.shape(x) == shape else jnp.full(shape, x) for x in operands]
    return equation.primitive.bind(*operands, **equation.params)


def _each(equation: Any, inputs: list[np.ndarray]) -> np.ndarray:
    shape = np.broadcast_shapes(*(x.shape for x in inputs))
    if any(x.ndim not in (0, len(shape)) for x in inputs):  # As the primitives have it, unlike numpy.
        raise NotImplementedError(f"{equation.primitive.name} of {[x.shape for x in inputs]} in a program over lanes")
    columns = [np.broadcast_to(x, shape).ravel() for x in inputs]
    return objects([_bind(equation, list(operands)) for operands in zip(*columns, strict=True)], shape)


def _wide(equation: Any, inputs: list[Any]) -> Any:
    """What is done with each number of a matrix [lanes, features], or with all of a lane."""
    name = equation.primitive.name
    like = max((x for x in inputs if isinstance(x, Wide)), key=lambda x: x.size)
    if name == "reshape":
        sizes = equation.params["new_sizes"]
        return like if sizes == like.shape else like.numbers().reshape(sizes)
    if name in REDUCTIONS:
        reduce, identity = REDUCTIONS[name]
        if not jnp.issubdtype(like.array.dtype, jnp.floating) or equation.params["axes"] != (0,):
            return _folded(FOLDS[name])(equation.params, like.numbers())
        return objects([reduce(jnp.where(_columns(like.array) < like.size, like.array, identity), axis=1)], ())

    if equation.outvars[0].aval.shape != like.shape:  # A layer of one unit, which meets more numbers.
        return _each(equation, [_numbers(x) for x in inputs])

    def matrix(value):
        if isinstance(value, Wide) and value.shape == like.shape:
            return value.array
        if isinstance(value, Shared) and value.shape == like.shape:  # A bias.
            return jnp.broadcast_to(value.whole[None, :], like.array.shape)
        value = _numbers(value)
        if value.size == 1:
            number = value.ravel()[0]
            return jnp.broadcast_to(number[:, None] if jnp.ndim(number) else number, like.array.shape)
        return _matrix(value, like.array.shape)

    return Wide(equation.primitive.bind(*map(matrix, inputs), **equation.params), like.size)


def _matrix(numbers: np.ndarray, shape: tuple[int, ...]) -> Any:
    """[lanes, features] of the vectors over lanes."""
    column, made = jax.lax.broadcasted_iota(jnp.int32, shape, 1), jnp.zeros(shape, numbers[0].dtype)
    for k, number in enumerate(numbers):
        made = jnp.where(column == k, number[:, None] if jnp.ndim(number) else number, made)
    return made


def _product(params: Any, x: Any, y: Any) -> Any:
    """x [n] times weights [n, m], or small arrays of a lane."""
    contracted, batch = params["dimension_numbers"]
    if not isinstance(y, Shared):
        x, y = _numbers(x), _numbers(y)
        assert batch == ((), ())
        return np.tensordot(x, y, axes=tuple(map(tuple, contracted)))  # By the objects' own products and sums.
    if batch != ((), ()) or tuple(map(tuple, contracted)) != ((0,), (0,)) or len(y.shape) != 2:
        raise NotImplementedError(f"a product with weights {y.shape} that contracts {contracted}")
    size = y.shape[1]
    if y.rows is not None:  # Few numbers: a sum of columns times rows.
        numbers = [number[:, None] if jnp.ndim(number) else number for number in _numbers(x)]
        terms = [number * row[None, :] for number, row in zip(numbers, y.rows, strict=True)]
        return Wide(functools.reduce(jnp.add, terms), size)
    if not isinstance(x, Wide):
        raise NotImplementedError(f"weights {y.shape} times what is not the result of a layer")
    if x.array.dtype != jnp.float32:
        raise NotImplementedError(f"a product of {x.array.dtype} in a program over lanes: float32 alone is")
    full = x.array.shape[1] == x.size
    rows = x.array if full else jnp.where(_columns(x.array) < x.size, x.array, 0)  # It may be infinite there.
    return Wide(jnp.dot(rows, y.whole, precision=params["precision"], preferred_element_type=jnp.float32), size)


def _every_branch(branches: Any, index: np.ndarray, *operands: Any) -> list[Any]:
    """A lane's own branch of all, as `vmap` has it. The index is a boolean where there are two."""
    found = [[_numbers(x) for x in _evaluate(b.jaxpr, [_constant(c) for c in b.consts], operands)] for b in branches]
    number = index.ravel()[0]

    def chosen(*values):
        result = values[0]
        for place, value in enumerate(values[1:], start=1):
            take = number if number.dtype == bool else number >= place
            result = jnp.where(take, value, result)
        return result

    return [
        objects([chosen(*values) for values in zip(*(x.ravel() for x in outputs), strict=True)], outputs[0].shape)
        for outputs in zip(*found, strict=True)
    ]


# --- Small arrays: what moves them about, reduces them, and draws them ------------------------------------------------

FOLDS = {
    "reduce_sum": operator.add,
    "reduce_prod": operator.mul,
    "reduce_max": jnp.maximum,
    "reduce_min": jnp.minimum,
    "reduce_and": operator.and_,
    "reduce_or": operator.or_,
}


def _broadcast_in_dim(params: Any, x: np.ndarray) -> np.ndarray:
    shape, dimensions = params["shape"], params["broadcast_dimensions"]
    kept = [x.shape[dimensions.index(axis)] if axis in dimensions else 1 for axis in range(len(shape))]
    return np.broadcast_to(x.reshape(kept), shape)


def _iota(params: Any) -> np.ndarray:
    shape, dimension = params["shape"], params["dimension"]
    counted = np.arange(shape[dimension]).reshape([-1 if axis == dimension else 1 for axis in range(len(shape))])
    return _constant(np.broadcast_to(counted, shape).astype(params["dtype"]))


def _folded(operation: Any) -> Any:
    """A reduction over axes."""

    def reduced(params: Any, x: np.ndarray) -> np.ndarray:
        axes = params["axes"]
        rest = [axis for axis in range(x.ndim) if axis not in axes]
        columns = x.transpose(*rest, *axes).reshape(math.prod(x.shape[a] for a in rest), -1)
        return objects([functools.reduce(operation, column) for column in columns], tuple(x.shape[a] for a in rest))

    return reduced


def _cumsum(params: Any, x: np.ndarray) -> np.ndarray:
    first = np.moveaxis(x, params["axis"], 0)
    sums, order = first.reshape(len(first), -1).copy(), list(range(len(first)))
    order = order[::-1] if params["reverse"] else order
    for before, row in itertools.pairwise(order):
        for column in range(sums.shape[1]):
            sums[row, column] = sums[before, column] + sums[row, column]
    return np.moveaxis(sums.reshape(first.shape), 0, params["axis"])


def _argmax(params: Any, x: np.ndarray) -> np.ndarray:
    (axis,) = params["axes"]
    if x.ndim != 1 or axis != 0:
        raise NotImplementedError(f"argmax over axis {axis} of {x.shape} in a program over lanes")
    best, place = x[0], jnp.zeros_like(x[0], params["index_dtype"])
    for k, value in enumerate(x[1:], start=1):
        better = (value > best) | ((value != value) & (best == best))  # NaN is the largest.
        place = jnp.where(better, np.asarray(k, params["index_dtype"]), place)
        best = jnp.where(better, value, best)
    return objects([place], ())


def _slice(params: Any, x: np.ndarray) -> np.ndarray:
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


def _split(params: Any, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], axis=params["axis"])


def _wrap(params: Any, x: np.ndarray) -> np.ndarray:
    if params["impl"].name != "threefry2x32":
        raise NotImplementedError(f"keys of {params['impl'].name} in a program over lanes")
    return objects([Key(*words) for words in x.reshape(-1, 2)], x.shape[:-1])


def _unwrap(params: Any, keys: np.ndarray) -> np.ndarray:
    del params
    return objects([word for key in keys.ravel() for word in key], (*keys.shape, 2))


def _blocks(keys: np.ndarray, shape: tuple[int, ...]) -> list[Any]:
    """[(word, word)] of the counters 0, 1, … of a shape, for each key."""
    return [
        _threefry(key.word_0, key.word_1, np.uint32(0), np.uint32(count))
        for key in keys.ravel()
        for count in range(math.prod(shape))
    ]


def _random_bits(params: Any, keys: np.ndarray) -> np.ndarray:
    if params["bit_width"] != 32:
        raise NotImplementedError(f"random numbers of {params['bit_width']} bits in a program over lanes")
    return objects([a ^ b for a, b in _blocks(keys, params["shape"])], (*keys.shape, *params["shape"]))


def _random_split(params: Any, keys: np.ndarray) -> np.ndarray:
    return objects([Key(*block) for block in _blocks(keys, params["shape"])], (*keys.shape, *params["shape"]))


def _random_fold_in(params: Any, keys: np.ndarray, data: np.ndarray) -> np.ndarray:
    del params
    (key,) = keys.ravel()
    return objects([Key(*_threefry(key.word_0, key.word_1, np.uint32(0), data.ravel()[0]))], keys.shape)


OTHERS = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, axis=tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, axis=tuple(params["dimensions"])),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "concatenate": lambda params, *xs: np.concatenate(xs, axis=params["dimension"]),
    "stack": lambda params, *xs: np.stack(xs, axis=params["axis"]),
    "slice": _slice,
    "split": _split,
    "iota": _iota,
    **{name: _folded(operation) for name, operation in FOLDS.items()},
    "cumsum": _cumsum,
    "argmax": _argmax,
    "random_wrap": _wrap,
    "random_unwrap": _unwrap,
    "random_bits": _random_bits,
    "random_split": _random_split,
    "random_fold_in": _random_fold_in,
    "random_clone": lambda params, keys: keys,
}
