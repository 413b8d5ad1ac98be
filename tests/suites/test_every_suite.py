"""Each suite through the door: environments that conform, and one update of PPO on one of each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg
from benchmarks.suites import SOME
from jaxpg.envs import registry

# One of each suite in CI's usual run; the rest with the slow tests.
FIRST = {
    "brax": "reacher",
    "craftax": "Craftax-Classic-Symbolic-v1",
    "jumanji": "Snake-v1",
    "mujoco_playground": "PendulumSwingup",
    "navix": "Navix-DoorKey-5x5-v0",
    "pgx": "minatar-breakout",
    "xminigrid": "MiniGrid-DoorKey-5x5",
}
REST = [f"{suite}/{name}" for suite, names in SOME.items() for name in names if name != FIRST[suite]]
needs_its_suite = {
    suite: pytest.mark.skipif(not registry.SUITES[suite].is_installed, reason=f"{suite} is not installed")
    for suite in SOME
}


@pytest.mark.parametrize("suite", [pytest.param(suite, marks=needs_its_suite[suite]) for suite in SOME])
def test_conforms_and_ppo_takes_an_update(suite):
    env = jaxpg.make(f"{suite}/{FIRST[suite]}")
    assert env is jaxpg.make(f"{suite}/{FIRST[suite]}")
    report = jaxpg.envs.check_env(env, num_episodes=4, num_steps=30)
    assert report.passed, report
    algorithm = jaxpg.ppo(env, jaxpg.policies.mlp(env, (8,)), num_envs=4, num_steps=8, num_minibatches=2, num_epochs=1)
    before = algorithm.init(jax.random.key(0))
    after, metrics = jax.jit(algorithm.step)(before)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(after.params))
    pairs = zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True)
    assert any(not np.array_equal(one, other) for one, other in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_its_suite[name.partition("/")[0]]) for name in REST])
def test_others_conform(name):
    report = jaxpg.envs.check_env(jaxpg.make(name), num_episodes=4, num_steps=30)
    assert report.passed, report
