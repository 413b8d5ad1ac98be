"""Loop predicates that stay one scalar under `vmap`.

A `while_loop` whose predicate is mapped by `vmap` turns its whole carry into mapped values: the row index of a buffer
becomes an array, the in-place slice update becomes a scatter, a `cond` runs both branches. `any_member` and
`max_member` reduce over the mapped axis instead, so that predicates, row indices and block counts stay scalars: the
members of the map share one loop, which runs until the last of them has finished.
"""

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

__all__ = ["any_member", "max_member"]


@custom_vmap
def any_member(flag: jax.Array) -> jax.Array:
    """`flag`; under `vmap`, whether it holds for any member: one unmapped boolean."""
    return flag


@any_member.def_vmap
def _any_member_rule(axis_size, in_batched, flag):
    del axis_size
    return (any_member(jnp.any(flag, axis=0)) if in_batched[0] else any_member(flag)), False


@custom_vmap
def max_member(count: jax.Array) -> jax.Array:
    """`count`; under `vmap`, the largest of the members': one unmapped integer."""
    return count


@max_member.def_vmap
def _max_member_rule(axis_size, in_batched, count):
    del axis_size
    return (max_member(jnp.max(count, axis=0)) if in_batched[0] else max_member(count)), False
