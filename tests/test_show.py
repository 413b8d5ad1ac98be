"""Records with arrays are shown in a few lines, also where their values are not known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import jaxpg
from jaxpg.natural import Solution
from jaxpg.stats import Interval
from jaxpg.training.evaluate import Evaluation
from jaxpg.training.train import TrainResult


def episodes(number=128):
    return Evaluation(jnp.arange(number, dtype=jnp.float32), jnp.full(number, 7, jnp.int32))


def test_returns_are_shown_by_their_mean_and_its_error():
    error = np.arange(128).std(ddof=1) / 128**0.5
    shown = repr(episodes())
    assert f"returns=float32[128]: mean 63.5 ± {error:.2g}, 0 to 127" in shown
    assert "lengths=int32[128]: mean 7 ± 0, all 7" in shown
    assert repr(episodes(1)).startswith("Evaluation(returns=float32[1]: mean 0, all 0")


def test_an_estimate_is_a_line_for_each_field(key):
    env = jaxpg.exact.chain(3, horizon=4).environment()
    policy = jaxpg.policies.mlp(env, (4,))
    estimate = jaxpg.policy_gradient(env, policy, num_episodes=8)
    found = estimate(key, policy.init(key))
    lines = repr(found).splitlines()
    assert len(lines) == 2 + len(found._fields)
    assert "  gradient=<26 numbers in 4 arrays>," in lines and "  num_episodes=8," in lines
    assert f"  objective={float(found.objective):.6g}," in lines
    mapped = jax.vmap(estimate, (0, None))(jax.random.split(key, 7), policy.init(key))
    assert "  num_episodes=int32[7]: all 8," in repr(mapped)


def test_what_is_traced_is_shown_by_its_shape():
    shown = []
    for transform in (jax.jit, jax.vmap, lambda f: jax.jit(jax.grad(lambda x: f(x).sum()))):
        transform(lambda x: (shown.append(repr(Evaluation(x, x))), x)[1])(jnp.ones(3))
    assert shown[0] == "Evaluation(returns=float32[3] traced, lengths=float32[3] traced)"
    assert shown[1] == "Evaluation(returns=float32[] traced, lengths=float32[] traced)"
    assert shown[2] == shown[0]
    abstract = jax.eval_shape(episodes)
    assert repr(abstract) == "Evaluation(returns=float32[128], lengths=int32[128])"


def test_what_cannot_be_read_is_shown_by_its_shape():
    gone = jnp.ones(3)
    gone.delete()
    assert repr(Solution(gone, None, object)).startswith("Solution(direction=float32[3] deleted, residual=None, ")

    keys = jax.random.split(jax.random.key(0), 3)
    assert repr(Solution(keys, jnp.nan, "x")) == "Solution(direction=key<fry>[3], residual=nan, quadratic_form='x')"
    large = np.ones(2**20 + 1)
    assert "direction=float64[1048577]," in repr(Solution(large, 1, 2))


def test_small_arrays_and_nan_and_labels():
    xarray = pytest.importorskip("xarray")
    labelled = xarray.DataArray(np.array([1.0, np.nan] + [3.0] * 6), dims=("update",))
    found = repr(Interval(labelled, np.array([1.0, 2.5]), np.array([True, False])))
    assert "estimate=DataArray(update: 8) float64[8]: 1 to 3, 1 NaN" in found
    assert "low=float64[2]: 1 2.5" in found and "high=bool[2]: 1 true" in found


def test_a_run_is_shown_by_the_size_of_its_parameters_and_its_columns():
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    history = {name: np.zeros(12) for name in ("loss", "episode_return")}
    found = repr(TrainResult(params, episodes(), history, 120, 12, 1.5, "budget"))
    assert "params=<16 numbers in 2 arrays>" in found and "state=Evaluation(" in found
    assert "history=<2 columns of 12: loss, episode_return>" in found and "stopped='budget'" in found
    assert len(found.splitlines()) < 20


def test_arrays_over_several_devices(run_in_subprocess):
    code = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxpg.training.evaluate import Evaluation
mesh = jax.make_mesh((4,), ("x",))
x = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, PartitionSpec("x")))
print(repr(Evaluation(x, x)))
"""
    assert "returns=float32[8]: mean 3.5 ± 0.87, 0 to 7" in run_in_subprocess(code, devices=4)


def test_whatever_users_keep_in_a_record_is_shown():
    loop = []
    loop.append(loop)
    for odd in (np.float32, xarray.Dataset({"a": 1}), {1: np.zeros(2), "b": np.zeros(2)}, loop):
        assert repr(Solution(odd, *[0] * (len(Solution._fields) - 1))).startswith("Solution(")
    assert "float32" in repr(Solution(np.float32, *[0] * (len(Solution._fields) - 1)))
