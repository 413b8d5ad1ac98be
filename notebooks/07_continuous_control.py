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
# # Continuous control
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/07_continuous_control.ipynb)
#
# PPO on tasks whose actions are real numbers: a pole on a cart, simulated by [brax](https://github.com/google/brax), and the
# swing-up of a pendulum. PPO ascends
#
# $$L(\theta) = \mathbb{E}_t\big[\min\big(\rho_t A_t,\ \text{clip}(\rho_t, 1-\varepsilon, 1+\varepsilon)\, A_t\big)\big],
# \qquad \rho_t = \frac{\pi_\theta(a_t\mid s_t)}{\pi_{\theta_\text{old}}(a_t\mid s_t)} .$$
#
# On the way: what an end is and what a time limit is, and what the difference is worth; observations brought to mean 0 and
# variance 1; and three families of distributions over bounded actions.

# %%
# Installs jaxpg and brax where they are missing. The requirements are floors that Colab's own jax meets, so jax and its
# GPU stay. Without brax, `jaxpg.make("brax/…")` below says what to install.
import importlib.util

if importlib.util.find_spec("jaxpg") is None or importlib.util.find_spec("brax") is None:
    # %pip install -q "jaxpg[brax] @ git+https://github.com/jaxpg/jaxpg"
    pass

# %%
import os
import sys

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")  # So that MuJoCo draws without a screen.

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxpg
from jaxpg.algorithms import presets

print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())

# %%
SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")
SIZES = {  # steps of each run on the cart and the pendulum, seeds, episode limit of the cart, episodes of an evaluation
    "tiny": dict(cart_steps=6_144, pendulum_steps=12_288, seeds=2, limit=100, episodes=8),
    "small": dict(cart_steps=100_000, pendulum_steps=100_000, seeds=3, limit=1_000, episodes=16),
    "full": dict(cart_steps=100_000, pendulum_steps=500_000, seeds=16, limit=1_000, episodes=128),
}
sizes = SIZES[SIZE]
seeds = sizes["seeds"]

env = jaxpg.make("brax/inverted_pendulum", max_steps=sizes["limit"])
env

# %% [markdown]
# The action is a force in [-1, 1], scaled by the simulator; each step upright earns 1. The episode *terminates* when the
# pole leans by more than 0.2 rad, and is *truncated* after `max_steps`. brax's own training wrapper reports both as `done`;
# jaxpg's adapter tells them apart.
#
# ## Several seeds at once
#
# `jaxpg.algorithms.presets` has hyperparameters for named environments. Here: 32 environments × 64 steps, 10 epochs of 16
# minibatches, normalized observations, scaled rewards, a learning rate that falls to 0. `jaxpg.sweep` without
# hyperparameters plays the seeds in one compiled program, and its last policies are evaluated on fresh episodes.

# %%
algorithm = presets.make("ppo", env, num_env_steps=sizes["cart_steps"])
runs, params = jaxpg.sweep(
    lambda: algorithm,
    {},
    seeds=seeds,
    key=jax.random.key(0),
    num_env_steps=sizes["cart_steps"],
    evaluate_every=sizes["cart_steps"],
    evaluation_episodes=sizes["episodes"],
    return_params=True,
    progress=False,
)
figure, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
jaxpg.plot.learning_curves(runs.env_steps.values, runs.episode_return.values, ax=ax)
ax.set_title("PPO on brax/inverted_pendulum")
ax.legend(frameon=False, fontsize=8)
plt.show()


def last_evaluation(runs):
    """The evaluation after the last update of each run: mean return, and its standard error over episodes."""
    return (runs[name].isel(update=runs.num_updates - 1) for name in ("evaluation_return", "evaluation_return_error"))


returns, errors = (value.values for value in last_evaluation(runs))
for seed in range(seeds):
    print(f"seed {seed}: {returns[seed]:.1f} ± {errors[seed]:.1f} over {sizes['episodes']} episodes")
if SIZE != "tiny":
    assert returns.mean() > 900

# %% [markdown]
# Actions are sampled in the evaluation, as in training; 1,000 is the most that the limit allows. The curves are of the
# episodes that ended during an update, so a policy that no longer falls shows up only when its long episodes are over.
#
# ## What it looks like
#
# `jaxpg.render.play_episode` gives the frames of one episode, `env.render` draws a state, and `jaxpg.render.render_episode`
# writes a GIF. Above, the untrained policy until it falls; below, the trained one.

# %%
policy = algorithm.policy
untrained, trained = policy.init(jax.random.key(0)), params(seed=0)
films = {
    "untrained": jaxpg.render.play_episode(env, policy, untrained, jax.random.key(1)),
    "trained": jaxpg.render.play_episode(env, policy, trained, jax.random.key(1)),
}
try:
    figure, axes = plt.subplots(2, 5, figsize=(7.5, 2.6), layout="constrained")
    for row, (name, frames) in zip(axes, films.items(), strict=True):
        for ax, place in zip(row, np.linspace(0, len(frames) - 1, 5).astype(int), strict=True):
            picture = np.asarray(env.render(frames[place].state))
            ax.imshow(picture[40:200, 60:260])
            ax.set_title(f"{name}, step {frames[place].step}", fontsize=8)
            ax.axis("off")
    plt.show()
except RuntimeError as error:  # No OpenGL.
    plt.close("all")
    print(error)
for name, frames in films.items():
    print(f"{name}: {frames[-1].step} steps, return {frames[-1].episode_return:.0f}")

# %% [markdown]
# ## Terminated or truncated
#
# A step's temporal difference is
#
# $$\delta_t = r_t + \gamma\,V(s_{t+1})\,(1 - \text{terminated}_t) - V(s_t), \qquad A_t = \delta_t + \gamma\lambda\,
# (1 - \text{ended}_t)\, A_{t+1} .$$
#
# A fallen pole earns nothing more: the value behind it is 0. The end of the time is no state of the system: the policy would
# have gone on to earn, so the step bootstraps from the observation *before* the reset. Take a policy that never falls.
# Its value is $1/(1-\gamma) = 200$ with $\gamma = 0.995$, in all states. With this value every advantage is exactly 0. Where
# the limit is reported as `done`, as if it were a fall, the last step seems to lose everything, and $\lambda$ carries the
# error back:

# %%
num_steps, discount, lambda_ = 1000, 0.995, 0.95
reward, value = jnp.ones(num_steps), jnp.full(num_steps, 1 / (1 - discount))
last = jnp.arange(num_steps) == num_steps - 1
never = jnp.zeros(num_steps, bool)
advantages = {
    "truncated: bootstrapped": jaxpg.weights.generalized_advantages(
        reward, value, value, never, last, discount, lambda_
    ),
    "taken for an end": jaxpg.weights.generalized_advantages(reward, value, value, last, never, discount, lambda_),
}
figure, ax = plt.subplots(figsize=(5.2, 3), layout="constrained")
for (name, advantage), style in zip(advantages.items(), ("-", "--"), strict=True):
    ax.plot(np.arange(num_steps), advantage, style, label=name)
    print(f"{name:<25} last advantage {advantage[-1]:8.2f}, sum of all {advantage.sum():10.1f}")
ax.set(xlabel="step t", ylabel="advantage $A_t$", title="A policy that never falls, limit 1,000", xlim=(850, 1005))
ax.legend(frameon=False)
plt.show()
assert jnp.abs(advantages["truncated: bootstrapped"]).max() < 1e-2  # Rounding of 200 in single precision.
assert abs(float(advantages["taken for an end"][-1]) + discount / (1 - discount)) < 1e-2  # −γV = −199.

# %% [markdown]
# The observation does not hold the time, so no value function can explain this away: it becomes noise in the advantages of
# the very policies that do best. In the adapter's flags, an end is either of the two, never both:

# %%
count = sizes["episodes"]
for name, chosen in {"untrained": untrained, "trained": trained}.items():
    steps, statistics = jaxpg.rollout.collect(env, policy, chosen, jax.random.key(2), num_episodes=count)
    terminated, truncated = (int(np.sum(steps.valid & flag)) for flag in (steps.terminated, steps.truncated))
    print(f"{name}: {terminated} terminated, {truncated} truncated; mean length {statistics.length.mean():.0f}")
    assert terminated + truncated == count and not (steps.terminated & steps.truncated).any()
    # A truncated step is followed by a row that is no step: it holds the observation that the episode was cut at.
    assert int((~steps.valid & (jnp.roll(steps.truncated, 1, axis=0))).sum()) == truncated

# %% [markdown]
# ## Three distributions over bounded actions
#
# The torque of Pendulum-v1 is bounded by ±2.
#
# - *normal*: $a \sim N(\mu, \sigma)$, clipped on its way to the environment; the density is that of the unclipped action. Mass
#   gathers at the bounds.
# - *tanh-normal*: $a = 2\tanh u$, $u \sim N(\mu, \sigma)$, with the density's change of variables
#   $\log\pi(a) = \log N(u) - \log 2 - \log(1 - \tanh^2 u)$.
# - *beta*: $a = 4x - 2$, $x \sim \text{Beta}(\alpha, \beta)$ with $\alpha, \beta > 1$: one peak, support exactly the bounds.
#
# jaxpg keeps $u$ (for the beta the log-odds of $x$), so no log-probability is ever computed by inverting a saturated tanh.

# %%
pendulum = jaxpg.make("Pendulum-v1")
SQUASH = {"normal": False, "tanh-normal": "tanh", "beta": "beta"}
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.4), sharey=True, layout="constrained")
for ax, (name, squash) in zip(axes, SQUASH.items(), strict=True):
    head = jaxpg.policies.mlp(pendulum, squash=squash)
    distribution = head.apply(head.init(jax.random.key(0)), jnp.zeros(3))
    actions = jax.vmap(distribution.sample)(jax.random.split(jax.random.key(1), 20_000))
    torque = np.asarray(distribution.to_environment(actions)).ravel()
    assert np.abs(torque).max() <= 2.0
    ax.hist(torque, bins=41, range=(-2, 2), density=True, color="#1f77b4")
    ax.set(title=f"{name}\n{np.mean(np.abs(torque) == 2):.1%} at the bounds", xlabel="torque / N m")
axes[0].set_ylabel("density")
plt.show()

# %% [markdown]
# An untrained policy, 20,000 draws each. Trained with PPO on the same budget, with the preset of Pendulum-v1; the first line
# sees the observations as they are, the others see them normalized by running statistics,
# $\hat s = (s - \mu)/\sqrt{\sigma^2 + \epsilon}$, which are part of the policy's parameters and are counted once an update.

# %%
VARIANTS = {
    "normal, raw observations": (False, False),
    "normal": (False, True),
    "tanh-normal": ("tanh", True),
    "beta": ("beta", True),
}


def build(policy):
    squash, normalize = VARIANTS[policy]
    return presets.make(
        "ppo",
        pendulum,
        num_env_steps=sizes["pendulum_steps"],
        policy=dict(squash=squash),
        normalize_observations=normalize,
    )


swings = jaxpg.sweep(
    build,
    {"policy": list(VARIANTS)},
    seeds=seeds,
    key=jax.random.key(3),
    num_env_steps=sizes["pendulum_steps"],
    evaluate_every=sizes["pendulum_steps"],
    evaluation_episodes=8 * sizes["episodes"],
    progress=False,
)
jaxpg.plot.sweep_curves(swings, by="policy", statistic="mean")
plt.show()
returns, _ = last_evaluation(swings)
print(f"Pendulum-v1, {sizes['pendulum_steps']:,} steps; mean return of {8 * sizes['episodes']} fresh episodes a seed")
for name in VARIANTS:
    of_seeds = returns.sel(policy=name).values
    print(
        f"{name:<26}{of_seeds.mean():8.0f} ± {of_seeds.std(ddof=1) / np.sqrt(seeds):4.0f}   seeds {of_seeds.round(0)}"
    )

# %% [markdown]
# ± is the standard error over seeds. Three seeds show what works and what does not; they do not rank what lies within a
# few standard errors of each other. For that, take `SIZE = "full"` (16 seeds, 500,000 steps), `jaxpg.stats.interval`, and
# paired differences: all variants begin with the same episodes.
#
# All episodes of Pendulum-v1 are truncated at 200 steps and none terminates, so there the bootstrap is used at every end.
