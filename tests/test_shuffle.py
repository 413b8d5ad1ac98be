"""The shuffle without sorting: a permutation always, and by χ² no more regular than a uniform one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxpg import _shuffle


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 12, 97, 1000, 4096, 4097, 9973, 65_536, 131_072, 2**17 * 3])
def test_every_index_comes_once(key, count):
    found = _shuffle.permutation(key, count, sorted_up_to=0)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(found), np.arange(count))
    many = jax.vmap(lambda key: _shuffle.permutation(key, count, sorted_up_to=0))(jax.random.split(key, 3))
    np.testing.assert_array_equal(np.sort(many, axis=1), np.tile(np.arange(count), (3, 1)))
    np.testing.assert_array_equal(many[1], _shuffle.permutation(jax.random.split(key, 3)[1], count, sorted_up_to=0))


def test_few_are_sorted(key):
    np.testing.assert_array_equal(_shuffle.permutation(key, 200), jax.random.permutation(key, 200))


def test_large_shuffles_do_not_sort(key):
    """Nor do those whose number is a prime: they walk."""
    for count in (512, 65_536, 65_537):
        text = jax.jit(_shuffle.permutation, static_argnums=1).lower(key, count).compile().as_text()
        assert " xor(" in text and " sort(" not in text


def p_value(counts, expected):
    """χ² of counts against an expected number in every cell."""
    counts = np.asarray(counts, float).reshape(-1)
    statistic = np.sum((counts - expected) ** 2 / expected)
    return scipy.stats.chi2.sf(statistic, counts.size - 1)


def shuffles(count, number, seed=0):
    keys = jax.random.split(jax.random.key(seed), number)
    return np.asarray(jax.jit(jax.vmap(lambda key: _shuffle.permutation(key, count, sorted_up_to=0)))(keys))


def p_values(found):
    """By what they look at: where an index goes, where two go, and who shares a minibatch with whom."""
    number, count = found.shape
    answers = {}
    cells = np.zeros((count, count), int)
    np.add.at(cells, (np.broadcast_to(np.arange(count), found.shape), found), 1)
    # Every row and column of the table adds up to `number`: (n − 1)² degrees of freedom.
    statistic = np.sum((cells - number / count) ** 2) / (number / count) * (count - 1) / count
    answers["places"] = scipy.stats.chi2.sf(statistic, (count - 1) ** 2)
    for distance in (1, 2, count // 2):
        pairs = np.zeros((count, count), int)
        np.add.at(pairs, (found[:, 0], found[:, distance]), 1)
        answers[f"pair 0 {distance}"] = p_value(pairs[~np.eye(count, dtype=bool)], number / count / (count - 1))
        steps = np.bincount((found[:, distance] - found[:, 0]) % count, minlength=count)[1:]
        answers[f"step {distance}"] = p_value(steps, number / (count - 1))
    place = np.argsort(found, axis=1)
    halves = np.sum(place[:, : count // 2] < count // 2, axis=1)  # Of the first half, how many are in the first batch.
    law = scipy.stats.hypergeom(count, count // 2, count // 2)
    support = np.arange(count // 2 + 1)
    expected = law.pmf(support) * number
    rare = np.cumsum(expected) < 10, np.cumsum(expected[::-1])[::-1] < 10
    bins = np.clip(support, rare[0].sum(), count // 2 - rare[1].sum())  # The rare ones count as their neighbours.
    seen = np.bincount(bins[halves])[bins[0] :]
    expected = np.bincount(bins, expected)[bins[0] :]
    answers["halves"] = scipy.stats.chisquare(seen, expected).pvalue
    even = np.array([np.linalg.slogdet(np.eye(count)[row])[0] for row in found[:2000]])
    answers["parity"] = scipy.stats.binomtest(int(np.sum(even > 0)), len(even)).pvalue
    return answers


@pytest.mark.parametrize("count", [12, 30, 37, 64])
def test_shuffles_are_uniform(count):
    """On numbers so small that a wrong round would show, a square, an oblong, a prime; 60,000 keys."""
    found = p_values(shuffles(count, 60_000))
    assert min(found.values()) > 0.01 / len(found) / 4, found


def test_one_round_is_not_enough(monkeypatch):
    """The test can fail: one round leaves which indices stay together far from chance."""
    monkeypatch.setattr(_shuffle, "ROUNDS", 1)
    assert min(p_values(shuffles(30, 60_000)).values()) < 1e-12


def test_all_permutations_of_four_are_reached():
    found = shuffles(4, 48_000)
    codes = found @ np.array([64, 16, 4, 1])
    values, counts = np.unique(codes, return_counts=True)
    assert len(values) == 24
    assert p_value(counts, 48_000 / 24) > 1e-4
