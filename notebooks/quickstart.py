# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # jaxpg in ten minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/quickstart.ipynb)
#
# jaxpg estimates policy gradients from whole batches of episodes in one compiled step:
#
# $$\nabla J(\theta) = \mathbb{E}_{\tau\sim\pi_\theta}\Big[\sum_t \gamma^t\, \nabla_\theta \log \pi_\theta(a_t\mid s_t)\,\big(\Psi_t(\tau) - b_t\big)\Big]$$
#
# Each symbol has a module: `envs` ($s, a, r$), `policies` ($\pi_\theta$), `rollout` ($\tau$), `weights` ($\Psi_t$),
# `baselines` ($b_t$), `gradient` (the expectation), `algorithms` (what is done with it).

# %%
# Installs jaxpg where it is missing. Its requirements are floors that Colab's own jax meets, so jax and its GPU stay.
import importlib.util

if importlib.util.find_spec("jaxpg") is None:
    # %pip install -q "jaxpg @ git+https://github.com/jaxpg/jaxpg"
    pass

# %%
import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxpg

print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())

# %% [markdown]
# ## An environment, a policy, a gradient
#
# Environments and policies are pure functions. Here is CartPole and a policy network with two hidden layers.

# %%
env = jaxpg.make("CartPole-v1")
policy = jaxpg.policies.mlp(env, hidden_sizes=(64, 64))
params = policy.init(jax.random.key(0))
env

# %% [markdown]
# `policy_gradient` builds a function of a key and parameters. One call plays 16,384 *whole* episodes, none cut short,
# and averages their terms.

# %%
gradient = jaxpg.policy_gradient(
    env,
    policy,
    num_episodes=16_384,
    weight=jaxpg.weights.reward_to_go(discount=0.99),
    baseline=jaxpg.baselines.leave_one_out(group_size=64),
)
estimate = gradient(jax.random.key(1), params)  # The first call compiles.

start = time.perf_counter()
estimate = jax.block_until_ready(gradient(jax.random.key(1), params))
seconds = time.perf_counter() - start
print(f"{int(estimate.num_episodes):,} episodes, {int(estimate.num_steps):,} steps in {seconds:.2f} s")
print(f"mean return     {estimate.episode_return:.2f}")
print(f"J(θ)            {estimate.objective:.3f} ± {estimate.objective_error:.3f}")
print(f"‖∇J‖            {estimate.gradient_norm:.2f} ± {estimate.gradient_norm_error:.2f}")
print(f"signal to noise {estimate.snr:.1f}")
print(f"noise scale     {estimate.noise_scale:.0f} episodes")

# %% [markdown]
# `estimate.gradient` has the structure of `params`, and points uphill. `estimate.variance` has it too. The function can
# be put under `jax.jit` and `jax.vmap`. Eight independent estimates show what the reported error is worth:

# %%
small = jaxpg.policy_gradient(env, policy, num_episodes=512)
several = jax.jit(jax.vmap(small, in_axes=(0, None)))(jax.random.split(jax.random.key(2), 64), params)
spread = np.concatenate([np.asarray(g).reshape(64, -1).var(0, ddof=1) for g in jax.tree.leaves(several.gradient)])
reported = np.concatenate([np.asarray(v).reshape(64, -1).mean(0) for v in jax.tree.leaves(several.variance)])
print(f"variance over 64 estimates / variance reported by one: {spread.sum() / reported.sum():.2f}")

# %% [markdown]
# ## Exact truth
#
# On a finite MDP everything is known. The estimate approaches the exact gradient as 1/√N, whatever the weight and
# baseline; its variance does depend on them.

# %%
mdp = jaxpg.exact.FiniteMDP(
    transition=jnp.array([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.1, 0.9]]]),  # P(s' | s, a)
    reward=jnp.array([[0.0, 1.0], [2.0, 0.5]]),
    initial=jnp.array([0.5, 0.5]),
    discount=0.9,
    horizon=8,
)
table = jaxpg.policies.tabular(mdp.environment())
logits = jnp.array([[0.3, -0.2], [0.0, 0.5]])
exact = mdp.policy_gradient(table, logits)

estimators = {
    "total return": (jaxpg.weights.total_return(0.9), jaxpg.baselines.none()),
    "reward-to-go": (jaxpg.weights.reward_to_go(0.9), jaxpg.baselines.none()),
    "reward-to-go, leave-one-out": (jaxpg.weights.reward_to_go(0.9), jaxpg.baselines.leave_one_out(16)),
}
sizes = [16, 64, 256, 1024, 4096]
figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
for (name, (weight, baseline)), marker in zip(estimators.items(), "os^", strict=True):
    errors = []
    for n in sizes:
        build = jaxpg.policy_gradient(mdp.environment(), table, num_episodes=n, weight=weight, baseline=baseline)
        found = jax.vmap(build, (0, None))(jax.random.split(jax.random.key(3), 64), logits).gradient
        errors.append(float(jnp.sqrt(jnp.mean(jnp.sum((found - exact) ** 2, axis=(1, 2))))))
    ax.loglog(sizes, errors, marker=marker, label=name)
ax.set(xlabel="episodes N", ylabel="root mean square error", title="Distance to the exact gradient")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Training
#
# An algorithm is a pair of pure functions, `init` and `step`; `train` runs it. REINFORCE with a learned value baseline:

# %%
algorithm = jaxpg.reinforce(env, policy, critic=jaxpg.policies.value_mlp(env))
result = jaxpg.train(algorithm, jax.random.key(0), num_env_steps=150_000, progress=False)
scores = jaxpg.evaluate(jax.random.key(9), env, policy, result.params, num_episodes=128)
print(f"{result.num_env_steps:,} steps in {result.seconds:.0f} s; mean return {scores.returns.mean():.0f}")

figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
ax.plot(result.history["total_env_steps"] / 1000, result.history["episode_return"])
ax.set(xlabel="environment steps / 1000", ylabel="episode return", title="REINFORCE on CartPole-v1")
plt.show()

# %% [markdown]
# ## Your own environment
#
# Two functions and two spaces. The rollout resets, and cuts episodes at `max_steps`.

# %%
from jaxpg.envs import Box, Environment, Timestep


def reset(key):
    position = jax.random.uniform(key, (1,), minval=-1.0, maxval=1.0)
    return position, position


def step(key, position, action):
    position = position + 0.2 * jnp.clip(action, -1.0, 1.0)
    reward = -jnp.sum(position**2)
    never = jnp.bool_(False)
    return position, Timestep(observation=position, reward=reward, terminated=never, truncated=never)


walk = Environment(
    reset=reset,
    step=step,
    observation_space=Box(-10, 10, (1,)),
    action_space=Box(-1, 1, (1,)),
    max_steps=30,
    name="walk",
)
walker = jaxpg.policies.linear_gaussian(walk)
start_params = walker.init(jax.random.key(0))
estimate = jaxpg.policy_gradient(walk, walker, num_episodes=20_000, baseline=jaxpg.baselines.leave_one_out(16))(
    jax.random.key(1), start_params
)
print("∂J/∂gain =", np.asarray(estimate.gradient["gain"]), "±", np.sqrt(np.asarray(estimate.variance["gain"])))
