"""Loops whose predicates and row indices stay one scalar under `vmap`.

A `while_loop` whose predicate is mapped by `vmap` turns its whole carry into mapped values: the row index of a buffer
becomes an array, the in-place slice update becomes a scatter, a `cond` runs both branches. `any_member` reduces over
the mapped axis instead, so that predicates and row indices stay scalars: the members of the map share one loop, which
runs until the last of them has finished. `read_row` and `write_row` then stay slices and in-place slice updates (JAX's
own batching rules make gathers and scatters of them, whatever the index).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.custom_batching import custom_vmap

__all__ = ["any_member", "in_batches", "mapped_like", "read_row", "write_row"]


@custom_vmap
def any_member(flag: jax.Array) -> jax.Array:
    """`flag`; under `vmap`, whether it holds for any member: one unmapped boolean."""
    return flag


@any_member.def_vmap
def _any_member_rule(axis_size, in_batched, flag):
    del axis_size
    return (any_member(jnp.any(flag, axis=0)) if in_batched[0] else any_member(flag)), False


@custom_vmap
def mapped_like(tree: Any, others: Any) -> Any:
    """`tree`; under a `vmap` that maps any of `others`, every leaf of it mapped, too."""
    del others
    return tree


@mapped_like.def_vmap
def _mapped_like_rule(axis_size, in_batched, tree, others):
    of_tree, of_others = in_batched
    if any(jax.tree.leaves(of_others)):
        tree = jax.tree.map(lambda x, b: x if b else jnp.broadcast_to(x, (axis_size, *x.shape)), tree, of_tree)
        of_tree = jax.tree.map(lambda _: True, of_tree)
    return mapped_like(tree, others), of_tree


def read_row(rows: Any, index: jax.Array) -> Any:
    """`rows[index]` along the first axis of each leaf; `index` must not be mapped by `vmap`."""
    return jax.tree.map(lambda leaf: _row_functions(0)[0](leaf, index), rows)


def write_row(rows: Any, new: Any, index: jax.Array) -> Any:
    """`rows` with `rows[index] = new` along the first axis of each leaf; `index` must not be mapped by `vmap`."""
    return jax.tree.map(lambda leaf, row: _row_functions(0)[1](leaf, row.astype(leaf.dtype), index), rows, new)


@functools.cache
def _row_functions(axis: int) -> tuple[Callable, Callable]:
    """Reading and writing a row of one array along `axis`, before which the mapped axes lie."""

    @custom_vmap
    def read(rows, index):
        return jax.lax.dynamic_index_in_dim(rows, index, axis, keepdims=False)

    @read.def_vmap
    def _read_rule(axis_size, in_batched, rows, index):
        del axis_size
        if in_batched[1]:
            raise TypeError("the row index must not be mapped by vmap")
        return _row_functions(axis + 1)[0](rows, index), True

    @custom_vmap
    def write(rows, new, index):
        return jax.lax.dynamic_update_index_in_dim(rows, new, index, axis)

    @write.def_vmap
    def _write_rule(axis_size, in_batched, rows, new, index):
        if in_batched[2]:
            raise TypeError("the row index must not be mapped by vmap")
        rows, new = (
            x if batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            for x, batched in zip((rows, new), in_batched[:2], strict=True)
        )
        return _row_functions(axis + 1)[1](rows, new, index), True

    return read, write


def in_batches(function: Callable, most: int, *args: Any) -> Any:
    """`function(*args)`; under `vmap`, at most `most` members of the map at a time, one batch after the other.

    For work whose operands should stay in the cache. What `function` has captured may be mapped, too.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    flat, _ = jax.tree.flatten(args)

    @custom_vmap
    def call(captured, flat):
        return eval_jaxpr(closed.jaxpr, captured, *flat)

    @call.def_vmap
    def _call_rule(axis_size, in_batched, captured, flat):
        values, structure = jax.tree.flatten((captured, flat))
        batched = jax.tree.leaves(in_batched)
        mapped = [value for value, is_mapped in zip(values, batched, strict=True) if is_mapped]

        def one(mapped):
            mapped = iter(mapped)
            whole = [next(mapped) if is_mapped else value for value, is_mapped in zip(values, batched, strict=True)]
            captured, flat = jax.tree.unflatten(structure, whole)
            return eval_jaxpr(closed.jaxpr, captured, *flat)

        if axis_size <= most:
            out = jax.vmap(one)(mapped)
        else:
            out = jax.lax.map(one, mapped, batch_size=most)
        return out, [True] * len(out)

    return jax.tree.unflatten(jax.tree.structure(shape), call(list(closed.consts), flat))
