"""Spaces: samples lie inside, values outside do not, equal spaces are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg.envs import spaces
from jaxpg.envs.spaces import Box, Discrete, MultiDiscrete

SPACES = [
    Discrete(1),
    Discrete(7),
    Discrete(300, jnp.uint16),
    MultiDiscrete((2, 3, 5)),
    Box(-1.0, 1.0, (3,)),
    Box(-2.0, np.inf, (2, 2)),
    Box(-np.inf, 5.0),
    Box(-np.inf, np.inf, (4,)),
    Box([-1.0, -np.inf, 0.0, 3.0], [1.0, np.inf, np.inf, 3.0], (4,)),
    Box(0, 255, (2, 2), jnp.uint8),
    Box(-3, 3, (5,), jnp.int32),
    Box(0, 1, (3,), jnp.bool_),
    Box(0.0, 1.0, (0,)),
    {"camera": Box(0.0, 1.0, (2, 2)), "gear": (Discrete(3), MultiDiscrete([2, 2]))},
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_lie_inside_with_the_spaces_shapes_and_dtypes(space, key):
    values = jax.vmap(lambda k: spaces.sample(space, k))(jax.random.split(key, 500))
    assert jax.jit(jax.vmap(lambda value: spaces.contains(space, value)))(values).all()
    described = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), values)
    assert described == spaces.shape_dtype(space)


def test_draws_are_uniform_where_bounds_are_finite(key):
    keys = jax.random.split(key, 20_000)
    counts = np.bincount(jax.vmap(Discrete(5).sample)(keys), minlength=5)
    assert np.abs(counts - 4_000).max() < 5 * 57  # Five standard deviations, as below.
    whole = np.bincount(3 + np.asarray(jax.vmap(Box(-3, 3, (), jnp.int32).sample)(keys)), minlength=7)
    assert len(whole) == 7 and np.abs(whole - 20_000 / 7).max() < 5 * 50
    real = np.asarray(jax.vmap(Box(2.0, 6.0).sample)(keys))
    assert abs(real.mean() - 4.0) < 5 * 4 / np.sqrt(12 * 20_000)
    several = np.asarray(jax.vmap(MultiDiscrete((2, 4)).sample)(keys))
    np.testing.assert_allclose(several.mean(axis=0), [0.5, 1.5], atol=5 * 0.008)


def test_leaves_are_drawn_independently(key):
    pair = jax.vmap(lambda k: spaces.sample((Box(0.0, 1.0), Box(0.0, 1.0)), k))(jax.random.split(key, 4_000))
    assert abs(np.corrcoef(*pair)[0, 1]) < 5 / np.sqrt(4_000)


@pytest.mark.parametrize("space, value", [
    (Discrete(3), 3),
    (Discrete(3), -1),
    (Discrete(3), 1.0),
    (Discrete(3), [1]),
    (MultiDiscrete((2, 3)), [1, 3]),
    (MultiDiscrete((2, 3)), [1]),
    (MultiDiscrete((2, 3)), [0.0, 1.0]),
    (Box(-1.0, 1.0, (2,)), [0.0, 1.5]),
    (Box(-1.0, 1.0, (2,)), [0.0, np.nan]),
    (Box(-1.0, 1.0, (2,)), 0.0),
    (Box([0.0, -1.0], [1.0, 0.0], (2,)), [-0.5, -0.5]),
    ({"a": Discrete(2), "b": Discrete(3)}, {"a": 0, "b": 3}),
    ({"a": Discrete(2), "b": Discrete(3)}, {"a": 0}),
    ((Discrete(2), Discrete(2)), 1),
], ids=str)  # fmt: skip
def test_values_outside(space, value):
    assert not spaces.contains(space, value)


@pytest.mark.parametrize("space, value", [
    (Discrete(3), 2),
    (Discrete(3), np.uint8(0)),
    (MultiDiscrete((2, 3)), np.array([1, 2])),
    (Box(-0.1, 0.1, (2,)), np.array([-0.1, 0.1], np.float32)),
    (Box(0, np.inf), np.inf),
    ({"a": Discrete(2)}, {"a": 1}),
], ids=str)  # fmt: skip
def test_values_inside(space, value):
    assert spaces.contains(space, value)


def test_spaces_compare_by_value_and_hash():
    assert Discrete(3) == Discrete(np.int64(3)) and hash(Discrete(3)) == hash(Discrete(3))
    assert Discrete(3) != Discrete(4) and Discrete(3) != Discrete(3, jnp.uint8)
    assert MultiDiscrete([2, 3]) == MultiDiscrete(np.array([2, 3])) != MultiDiscrete((3, 2))
    box = Box(np.zeros((2, 2)), [[1.0, 2.0], [1.0, 1.0]], (2, 2))
    assert box == Box(0, np.array([[1, 2], [1, 1]]), (2, 2)) and hash(box) == hash(Box(0.0, box.high, [2, 2]))
    assert Box(-1, np.ones(3), (3,)) == Box(-1, 1, (3,)) != Box(-1, 1, (3,), jnp.bfloat16)
    assert Box(-1, 1, (3,)) != Box(-1, 1, (2,)) and len({Box(0, 1), Box(0, 1.0), Discrete(2)}) == 2


def test_repr_is_short():
    assert repr(Discrete(3)) == "Discrete(3)"
    assert repr(MultiDiscrete((2, 3))) == "MultiDiscrete([2, 3])"
    assert repr(Box(-np.inf, 1, (2,))) == "Box(-inf, 1, (2,), float32)"
    assert repr(Box(np.arange(100), 100, (100,), jnp.uint8)) == "Box(…, 100, (100,), uint8)"


def test_under_x64(key, x64):
    box = Box(0.1, 0.3, (5,), jnp.float64)
    value = box.sample(key)
    assert value.dtype == jnp.float64 and box.contains(value)
    assert Discrete(3).sample(key).dtype == jnp.int32


@pytest.mark.parametrize("build, error, message", [
    (lambda: Discrete(0), ValueError, "n must be an integer of at least 1"),
    (lambda: Discrete(2.0), TypeError, "n must be an integer"),
    (lambda: Discrete(True), TypeError, "n must be an integer"),
    (lambda: Discrete(2, jnp.float32), TypeError, "dtype must be an integer dtype; got float32"),
    (lambda: MultiDiscrete(()), ValueError, "nvec must hold at least one"),
    (lambda: MultiDiscrete(3), TypeError, "nvec must be a sequence"),
    (lambda: MultiDiscrete((2, 0)), ValueError, r"nvec\[1\]"),
    (lambda: MultiDiscrete((2, 1.5)), TypeError, r"nvec\[1\]"),
    (lambda: Box(1.0, 0.0), ValueError, "low must not exceed high"),
    (lambda: Box([0.0, 2.0], 1.0, (2,)), ValueError, "low must not exceed high"),
    (lambda: Box(np.nan, 0.0), ValueError, "low must not hold NaN"),
    (lambda: Box(0.0, [1.0, 2.0], (3,)), ValueError, r"high must be a scalar or of shape \(3,\); got shape \(2,\)"),
    (lambda: Box(0.0, 1.0, 3), TypeError, "shape must be a tuple"),
    (lambda: Box(0.0, 1.0, (-1,)), ValueError, r"shape\[0\]"),
    (lambda: spaces.check_space("action_space", {"a": 3}), TypeError, "action_space must be a Discrete.*got int"),
    (lambda: spaces.check_space("action_space", ()), TypeError, "action_space must be a Discrete"),
])  # fmt: skip
def test_errors(build, error, message):
    with pytest.raises(error, match=message):
        build()
