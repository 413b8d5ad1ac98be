"""Sampling schemes for the noise of actions: independent episodes, antithetic pairs, randomised quasi-Monte Carlo.

A scheme says which uniform numbers in (0, 1) an action is drawn from; `distribution.from_uniforms` maps them to the
action by the inverse of its cumulative distribution. Under every scheme each single episode has the distribution that
it has under independent sampling, so an average over episodes estimates the same mean without bias. What changes is
how the episodes of one group, `group_size` consecutive ids, depend on each other: with luck their errors cancel.
Different groups are independent, and a standard error must be taken from the groups' means.

Nothing is stored: all numbers are functions of the root key, the episode's id and the step, as in `jaxpg.lanes`.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg import _check
from jaxpg._threefry import fold_in
from jaxpg.policies.distributions import num_uniforms

__all__ = ["Sampling", "antithetic", "draw", "independent", "quasi_monte_carlo"]

_SCRAMBLE_STREAM = np.uint32(2**32 - 1)  # Of the root key; episode ids end below 2³¹.
_MOST_POINTS = 2**20
_MAX_DIMENSION = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """A sampling scheme.

    Fields:
      name: what errors and records call it.
      group_size: how many consecutive episode ids, from a multiple of it on, depend on each other (static).
      episode_key: (root key, episode id) -> the episode's key, for its resets and the environment's noise.
      uniforms: (root key, episode id, time, num) -> floats [num] in the open interval (0, 1), the noise of the action
        at that time. `num` is static; the rest may be traced.
    """

    name: str
    group_size: int
    episode_key: Callable[[jax.Array, Any], jax.Array]
    uniforms: Callable[[jax.Array, Any, Any, int], jax.Array]


def draw(sampling: Sampling, key: jax.Array) -> Callable[[Any, Any, Any], Any] | None:
    """(distribution, episode id, time) -> action, for `jaxpg.lanes.Player`; `key` is the root key.

    None where the episodes are independent: then each distribution draws by its own `sample`.

    Raises (when called):
      TypeError: the distribution has no `from_uniforms`.
    """
    if _check.instance("sampling", sampling, Sampling).group_size == 1:
        return None

    def action(distribution: Any, episode: Any, time: Any) -> Any:
        uniforms = sampling.uniforms(key, episode, time, num_uniforms(distribution))
        return distribution.from_uniforms(uniforms)

    return action


def independent() -> Sampling:
    """Independent episodes: the key of episode i is fold_in(key, i), from which all that happens in it is drawn."""
    return Sampling(
        name="independent",
        group_size=1,
        episode_key=fold_in,
        uniforms=lambda key, episode, time, num: _open_unit(*_step_words(fold_in(key, episode), time, num)),
    )


def antithetic() -> Sampling:
    """Pairs of episodes 2i, 2i + 1 with mirrored action noise, u and 1 − u, and common random numbers otherwise.

    Both episodes have the key fold_in(key, i), so they start alike and the environment draws the same noise for both;
    the action noise of the second is 1 − u, exactly. With a normal policy the actions then mirror each other in the
    mean as long as the observations agree. The variance of a pair's mean is (1 + ρ)/2 of one episode's, ρ the
    correlation of the two: parts of the estimate that are odd in the noise cancel, even parts double their share. For
    a score estimator with one normal action, what cancels is the even part of the reward, its mean among it.

    Source: Hammersley & Morton (1956); common random numbers: Glasserman & Yao (1992).
    """

    def episode_key(key, episode):
        return fold_in(key, episode // 2)

    def uniforms(key, episode, time, num):
        first = _open_unit(*_step_words(episode_key(key, episode), time, num))
        return jnp.where(episode % 2 == 1, 1 - first, first)

    return Sampling(name="antithetic", group_size=2, episode_key=episode_key, uniforms=uniforms)


def quasi_monte_carlo(points: int, max_dimension: int | None = None) -> Sampling:
    """Randomised quasi-Monte Carlo: the episodes of a group are the points of one scrambled Sobol' net.

    Action j of step t uses coordinate d = t·num + j, num the numbers that one action takes. Episode i is point
    n = i mod M of replicate i // M. With x the binary digits of coordinate d of the n-th Sobol' point, the uniform
    number has the digits

        y = L x ⊕ s        (over the field of two elements; Matoušek 1998),

    L a lower triangular matrix with ones on its diagonal and fair random bits below, s a vector of fair random bits:
    both new for each replicate and each coordinate, the same for the points of a replicate.

    - *Unbiased, exactly.* Whatever L x is, y is uniform because s is, independently in each coordinate, so each point
      is uniform on the cube and each episode on its own is an ordinary one.
    - *Still a net.* L maps the first k digits one to one onto the first k digits, as does adding s. An interval of
      2^k equal ones goes to another, so every dyadic box keeps the number of points that Sobol' gives it: one
      coordinate has exactly one point in each of M equal intervals, the first two one in each box of area 1/M.
    - *The variance of Owen's scrambling.* Of two points that agree in just the first l digits of a coordinate, the
      scrambled ones agree there too, differ in the next digit, and are independent and uniform behind it, since the
      rows of L below multiply a digit in which the two differ by a fair bit of their own. Owen's (1995) nested uniform
      scrambling has this same law of pairs, and a variance of a mean depends on pairs alone: it is the same for every
      square integrable function, o(1/M) always, about M⁻³ for smooth ones. The nested scheme draws a new random block
      for every digit of every point, this one half as many; hashes that approximate it have no proof.

    Between replicates everything is independent: they carry the error of the estimate, so sample several. Resets and
    the environment's noise are independent between all episodes. Coordinates from `max_dimension` on are independent
    uniforms. Little is lost: what Sobol' points gain sits in low-dimensional parts of the estimate, they are best in
    their first coordinates, and early actions shape an episode most. An episodic return is not a smooth function of
    a hundred coordinates: measure the gain, and do not expect M⁻³.

    Args:
      points: M, a power of two from 2 to 2²⁰: the counts above hold for just these; other beginnings of a Sobol'
        sequence are not balanced.
      max_dimension: how many coordinates are Sobol'; None: 256.

    Source: Sobol' (1967), direction numbers of Joe & Kuo (2008); Owen (1995); Matoušek (1998); the equal variances:
    Hong & Hickernell (2003); for policy gradients: Arnold et al. (2022).
    """
    points = _check.count("points", points, 2)
    if points & (points - 1) or points > _MOST_POINTS:
        raise ValueError(f"points must be a power of two from 2 to {_MOST_POINTS:,}; got {points}")
    directions = _directions(points.bit_length() - 1, _check.count_or("max_dimension", max_dimension, _MAX_DIMENSION))

    def uniforms(key, episode, time, num):
        num_dimensions = directions.shape[0]
        # The smaller of the two times keeps the product from passing 2³¹.
        dimension = jnp.minimum(time, num_dimensions) * num + jnp.arange(num, dtype=jnp.int32)
        high, low = _step_words(fold_in(key, episode), time, num)
        digits = _sobol(directions, dimension, episode % points)
        replicate_key = fold_in(fold_in(key, _SCRAMBLE_STREAM), episode // points)
        scrambled = _scramble(digits, *_scrambling(replicate_key, dimension, directions.shape[1]))
        return _open_unit(jnp.where(dimension < num_dimensions, scrambled, high), low)

    return Sampling(name="quasi-Monte Carlo", group_size=points, episode_key=fold_in, uniforms=uniforms)


def _words(key: jax.Array, counters: jax.Array) -> jax.Array:
    """Two random words for each counter, uint32 [..., 2]: those of the key that `fold_in` makes of it.

    Unlike draws, these are by name for every generator: JAX's "rbg" draws depend on the width of a `vmap`.
    """
    keys = jax.vmap(lambda counter: fold_in(key, counter))(counters.ravel())
    return jax.random.key_data(keys)[:, :2].reshape(*counters.shape, 2)


def _step_words(episode_key: jax.Array, time: Any, num: int) -> tuple[jax.Array, jax.Array]:
    """Two random words [num] for each number that the action at `time` takes, by the key that lanes give the step."""
    words = _words(fold_in(episode_key, time + 1), jnp.arange(num, dtype=jnp.int32))
    return words[:, 0], words[:, 1]


def _open_unit(high: jax.Array, low: jax.Array) -> jax.Array:
    """The word `high`, continued by `low`, as the binary fraction of a float inside (0, 1).

    Its first 23 bits (52 in double precision) say which of as many equal intervals, and the float is the midpoint: an
    odd multiple of 2⁻²⁴ (2⁻⁵³). 0 and 1 are no midpoints, and 1 − u is one, without rounding.
    """
    if jnp.result_type(float) == jnp.float32:
        return ((high >> 8) | 1).astype(jnp.float32) * np.float32(2.0**-24)
    bits = (high.astype(jnp.uint64) << 21) | (low >> 11).astype(jnp.uint64) | 1
    return bits.astype(jnp.float64) * 2.0**-53


def _directions(num_digits: int, num_dimensions: int) -> np.ndarray:
    """Sobol's direction numbers, uint32 [dimension, digit]; the first binary digit is the highest bit.

    SciPy orders points by Gray code, point n being that of index n ^ (n >> 1) in the order of the sequence; the
    direction number of digit j is the point of index 2^j.
    """
    from scipy.stats import qmc  # SciPy's statistics take a second to import.

    if num_dimensions > qmc.Sobol.MAXDIM:
        raise ValueError(f"max_dimension must be at most {qmc.Sobol.MAXDIM}; got {num_dimensions}")
    sequence = qmc.Sobol(num_dimensions, scramble=False, bits=32)
    directions = []
    for digit in range(num_digits):
        sequence.fast_forward(2 ** (digit + 1) - 1 - sequence.num_generated)
        directions.append(sequence.random(1)[0] * 2**32)
    return np.stack(directions, axis=-1).astype(np.uint32)


def _sobol(directions: np.ndarray, dimension: jax.Array, index: Any) -> jax.Array:
    """Coordinates `dimension` [num] of the Sobol' point `index`, as digits: uint32 [num]."""
    table = jnp.asarray(directions)[jnp.minimum(dimension, directions.shape[0] - 1)]
    index = jnp.asarray(index).astype(jnp.uint32)
    return functools.reduce(operator.xor, (((index >> i) & 1) * table[:, i] for i in range(directions.shape[1])))


def _scrambling(key: jax.Array, dimension: jax.Array, num_digits: int) -> tuple[jax.Array, jax.Array]:
    """The columns of L, uint32 [num, num_digits], and s, uint32 [num], of each coordinate of a replicate."""
    num_blocks = num_digits // 2 + 1  # Two words to a block, one more word than there are digits.
    blocks = _words(key, dimension[:, None] * num_blocks + jnp.arange(num_blocks, dtype=jnp.int32))
    words = blocks.reshape(dimension.shape[0], 2 * num_blocks)
    # Column i: zeros above the diagonal, one on it, random bits below.
    columns = (words[:, :num_digits] | np.uint32(2**31)) >> np.arange(num_digits, dtype=np.uint32)
    return columns, words[:, num_digits]


def _scramble(digits: jax.Array, columns: jax.Array, shift: jax.Array) -> jax.Array:
    """L x ⊕ s for the digits x: uint32 [num]."""
    terms = (((digits >> (31 - i)) & 1) * columns[:, i] for i in range(columns.shape[1]))
    return functools.reduce(operator.xor, terms, shift)
