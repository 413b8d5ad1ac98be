"""A random permutation without sorting, for the minibatches of large segments.

`jax.random.permutation` sorts random numbers. Here every index finds its own place: i < N is written as a pair
(u, v) ∈ ℤ_a × ℤ_b with i = u b + v, and a few rounds

    u ← u + f(v)  (mod a),      v ← v + g(u)  (mod b),

each of which can be undone whatever the functions, shuffle the pairs. f and g are hash functions keyed anew in every
round: a Feistel network (Luby & Rackoff, 1988, in the additive form of Black & Rogaway, 2002). All is elementwise: it
runs at the speed of arithmetic, and devices that share the indices need not talk.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["permutation"]

ROUNDS = 6
# Few indices are sorted faster than they are hashed, and all their permutations are then equally likely.
SORTED = 256


def permutation(key: jax.Array, count: int, sorted_up_to: int = SORTED) -> jax.Array:
    """[count] the numbers from 0 to count − 1 in random order, int32.

    Args:
      sorted_up_to: up to this `count` the permutation is `jax.random.permutation`'s, all of which are equally likely;
        above it one of the 2^(64 · ROUNDS) that the hash functions give.
    """
    if count <= max(sorted_up_to, 3):
        return jax.random.permutation(key, count).astype(jnp.int32)
    a, b = _sides(count)
    keys = jax.random.bits(key, (ROUNDS, 2, 2), jnp.uint32)
    places = _rounds(keys, jnp.arange(count, dtype=jnp.uint32), a, b)
    if a * b > count:
        # The network permutes a · b indices. One that leaves the first `count` goes on along its cycle until it is back
        # among them, which makes a permutation of these (Black & Rogaway, 2002). At most b − 1 are too many.

        def walk(places):
            return jnp.where(places >= count, _rounds(keys, places, a, b), places)

        places = jax.lax.while_loop(lambda places: jnp.any(places >= count), walk, places)
    return places.astype(jnp.int32)


def _sides(count: int) -> tuple[int, int]:
    """(a, b) with a · b ≥ count, nearly a square, and exact where a divisor of `count` allows it."""
    root = math.isqrt(count - 1) + 1
    for a in range(root, root // 4, -1):
        if count % a == 0:
            return a, count // a
    return -(-count // root), root


def _rounds(keys: jax.Array, index: jax.Array, a: int, b: int) -> jax.Array:
    u, v = index // np.uint32(b), index % np.uint32(b)
    for first, second in keys:
        u = (u + _hash(first, v) % np.uint32(a)) % np.uint32(a)
        v = (v + _hash(second, u) % np.uint32(b)) % np.uint32(b)
    return u * np.uint32(b) + v


def _hash(words: jax.Array, x: jax.Array) -> jax.Array:
    """32 bits from 32 bits: MurmurHash3's finalizer between two words of a key (Appleby, 2011)."""
    x = x * np.uint32(0x9E3779B1) + words[0]
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13)) ^ words[1]) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))
