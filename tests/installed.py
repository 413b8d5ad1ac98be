"""Tries an installed jaxpg from outside the repository: `cd /elsewhere && python /path/to/tests/installed.py`.

What must hold in an environment that has nothing but the wheel and what it requires: `make release` runs it there.
"""

import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != REPOSITORY / "tests"]

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import jaxpg  # noqa: E402


def main():
    package = pathlib.Path(jaxpg.__file__).resolve().parent
    assert REPOSITORY not in package.parents or "site-packages" in package.parts, f"{package} is the repository's"
    assert importlib.metadata.version("jaxpg") == jaxpg.__version__
    assert (package / "py.typed").exists()
    assert all(getattr(jaxpg, name) is not None for name in jaxpg.__all__)

    estimates_the_gradient()
    trains()
    print_command("--version")
    with tempfile.TemporaryDirectory() as folder:
        print_command("train", "CartPole-v1", "--algorithm", "ppo", "--num-env-steps", "5000", "--out", f"{folder}/run")
        print_command("evaluate", f"{folder}/run", "--num-episodes", "8")
    print(f"jaxpg {jaxpg.__version__} works on Python {sys.version.split()[0]} with jax {jax.__version__}")


def estimates_the_gradient():
    """Of a finite MDP, within five standard errors of the exact one."""
    mdp = jaxpg.exact.gridworld(slip=0.1, step_reward=-0.1, discount=0.95, horizon=20)
    policy = jaxpg.policies.tabular(mdp.environment())
    params = policy.init(jax.random.key(0))
    gradient = jaxpg.policy_gradient(
        mdp.environment(), policy, num_episodes=4096, weight=jaxpg.weights.reward_to_go(discount=0.95)
    )
    estimate = jax.jit(gradient)(jax.random.key(1), params)
    exact = mdp.policy_gradient(policy, params)
    assert float(jnp.linalg.norm(exact)) > 0
    assert float(jnp.abs(estimate.gradient - exact).max()) < 5 * float(jnp.sqrt(estimate.variance.max()))


def trains():
    env = jaxpg.make("CartPole-v1")
    policy = jaxpg.policies.mlp(env)
    algorithm = jaxpg.ppo(env, policy)
    result = jaxpg.train(algorithm, jax.random.key(2), num_env_steps=10_000, progress=False)
    scores = jaxpg.evaluate(jax.random.key(3), env, policy, result.params, num_episodes=32)
    assert result.num_env_steps >= 10_000 and float(scores.returns.mean()) > 30  # Untrained: 22.


def print_command(*words):
    done = subprocess.run([sys.executable, "-m", "jaxpg", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"jaxpg {' '.join(words)}: {done.stdout}\n{done.stderr[-3000:]}"
    print(f"jaxpg {' '.join(words[:2])}: {(done.stdout.strip().splitlines() or [''])[-1].strip()}")


if __name__ == "__main__":
    main()
