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
# # Variance: which estimator, and how many episodes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/02_variance.ipynb)
#
# Estimators of the policy gradient differ in their bias, their variance and their cost:
#
# $$\mathbb{E}\lVert\hat g - \nabla J\rVert^2 = \lVert\mathbb{E}\hat g - \nabla J\rVert^2 + \operatorname{tr}\operatorname{Cov}(\hat g)$$
#
# On a finite MDP both terms are known exactly. This notebook measures them for the usual estimators, puts the exact
# values beside them, and turns the variance into the question that matters in practice: how many episodes?

# %%
# Installs jaxpg where it is missing. Its requirements are floors that Colab's own jax meets, so jax and its GPU stay.
import importlib.util

if importlib.util.find_spec("jaxpg") is None:
    # %pip install -q "jaxpg @ git+https://github.com/jaxpg/jaxpg"
    pass

# %%
import dataclasses
import functools
import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxpg
from jaxpg import baselines, batch_size, exact, weights

jax.config.update("jax_enable_x64", True)  # So that zero shows as zero.

SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")  # "small": two CPU cores, minutes; "full": a GPU; "tiny": tests
SIZES = {
    "tiny": {"replicates": 16, "episodes": 512, "batches": (16, 64), "snr batches": (64, 256), "estimates": 4},
    "small": {"replicates": 1024, "episodes": 2**15, "batches": (16, 64, 256, 1024, 4096), "snr batches": (64, 512, 4096), "estimates": 32},
    "full": {"replicates": 8192, "episodes": 2**18, "batches": (16, 64, 256, 1024, 4096), "snr batches": (64, 512, 4096), "estimates": 256},
}[SIZE]  # fmt: skip

print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())
same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-11)

# %% [markdown]
# ## The problem
#
# A 4 × 4 gridworld with holes, slippery and with a cost for each step, at most 20 steps long. The policy is a table of
# 64 logits, somewhere in the middle of training: random, but not uniform. `truth` is the exact gradient.

# %%
mdp = exact.gridworld(slip=0.1, step_reward=-0.1, discount=0.95, horizon=20)
gamma = float(mdp.discount)
env = mdp.environment()
policy = jaxpg.policies.tabular(env)
theta = jax.random.normal(jax.random.key(0), (16, 4))
truth = mdp.policy_gradient(policy, theta)
signal = float(jnp.sum(truth**2))
v, q = mdp.values(policy, theta), mdp.action_values(policy, theta)
print(f"J(θ) = {mdp.objective(policy, theta):.3f}; ‖∇J‖ = {signal**0.5:.3f}")

# %% [markdown]
# ## The shoot-out
#
# `jaxpg.compare` gives every estimator the same episodes. Two kinds of value function appear: the exact $V_t(s)$ of the
# current policy, and a *stale* one, that of the uniform policy that training began with. The stale one stands for what a
# critic is: wrong.

# %%
stale = mdp.values(policy, jnp.zeros((16, 4)))  # [step, state]


def table(values):
    """V as a function of observation and time; behind the last step of an episode it is not asked."""
    return lambda s, t: values[jnp.minimum(t, mdp.horizon - 1), s]


rtg, loo = weights.reward_to_go(gamma), baselines.leave_one_out()
estimators = {
    "reward-to-go": {"weight": rtg},
    "total return": {"weight": weights.total_return(gamma)},
    "total return, leave-one-out": {"weight": weights.total_return(gamma), "baseline": loo},
    "reward-to-go, leave-one-out": {"weight": rtg, "baseline": loo},
    "reward-to-go, exact V": {"weight": rtg, "baseline": baselines.value(table(v))},
    "reward-to-go, stale V": {"weight": rtg, "baseline": baselines.value(table(stale))},
    "GAE λ = 0.9, exact V": {"weight": weights.gae(gamma, 0.9, table(v))},
    "TD residual, stale V": {"weight": weights.td_residual(gamma, table(stale))},
    "no γ^t, leave-one-out": {"weight": weights.reward_to_go(gamma, discount_states=False), "baseline": loo},
}
num_episodes = 64
result = jaxpg.compare(
    env,
    policy,
    theta,
    estimators,
    num_episodes=num_episodes,
    key=jax.random.key(1),
    num_replicates=SIZES["replicates"],
    truth=mdp,
    timing_rounds=0,  # Seven, say, add the time and memory of each, and what a second buys.
)
print(jaxpg.comparison.table(result))

# %%
jaxpg.comparison.plot(result)

# %% [markdown]
# All estimators saw the same episodes, so the column "ratio" (mean squared error over that of reward-to-go) is known
# better than its parts.
#
# The exact values stand beside the sampled ones: `FiniteMDP.covariance` and `.bias` take the same weights and baselines.

# %%
print(f"{'':28}  tr Cov: sampled / exact   exact ‖bias‖ / ‖∇J‖")
worst = 0.0
for name, options in estimators.items():
    row = result.sel(estimator=name)
    variance = float(jnp.trace(mdp.covariance(policy, theta, num_episodes=num_episodes, **options)))
    bias = float(jnp.linalg.norm(mdp.bias(policy, theta, num_episodes=num_episodes, **options)))
    ratio, error = float(row.variance) / variance, float(row.variance_error) / variance
    worst = max(worst, abs(ratio - 1) / error)
    print(f"{name:28}  {ratio:.3f} ± {error:.3f}           {bias / signal**0.5:.4f}")
    if "TD" in name or "no γ^t" in name:
        assert bias > 0.01 * signal**0.5
    else:
        assert bias < 1e-11
print(f"largest deviation: {worst:.1f} standard errors")
if SIZE != "tiny":
    assert worst < 5

# %% [markdown]
# Seven of the nine are unbiased, exactly. A wrong $V$ as a *baseline* costs variance at most; a wrong $V$ inside a TD
# residual costs bias. Which is worse depends on the number of episodes, as the section on GAE shows. And a bias in length
# is not one in direction: compare the cosines of the last row and of "reward-to-go, leave-one-out".
#
# The covariance is known entry by entry. One estimate reports the variance of each coordinate of its gradient, from the
# spread over groups of its own episodes:

# %%
estimate = jaxpg.policy_gradient(
    env, policy, num_episodes=SIZES["episodes"], num_groups=512, weight=rtg, baseline=baselines.leave_one_out(16)
)(jax.random.key(2), theta)
reported = np.asarray(estimate.variance).ravel() * SIZES["episodes"]
exact_diagonal = np.asarray(
    jnp.diagonal(mdp.covariance(policy, theta, num_episodes=16, weight=rtg, baseline=baselines.leave_one_out(16))) * 16
)
total = reported.sum() / exact_diagonal.sum()
print(f"sum over the 64 coordinates, reported / exact: {total:.3f}")

# %% [markdown]
# ## The leave-one-out group
#
# `leave_one_out(n)` subtracts the mean of the $n - 1$ other episodes of a group. Any $n \ge 2$ is unbiased; a small group
# has a noisy mean. The exact excess over a mean that is known is proportional to $1/(n-1)$:

# %%
groups = (2, 4, 8, 16, 32, 64)
known = jnp.einsum("ts,ts->t", mdp.state_distribution(policy, theta), v)  # E[Q̂_t], an episode counting 0 after its end.
limit = float(jnp.trace(mdp.covariance(policy, theta, baseline=baselines.time(known))))
plain = float(jnp.trace(mdp.covariance(policy, theta)))
traces = []
for n in groups:
    baseline = baselines.leave_one_out(n)
    same(mdp.bias(policy, theta, num_episodes=64, baseline=baseline), 0.0)
    traces.append(64 * float(jnp.trace(mdp.covariance(policy, theta, num_episodes=64, baseline=baseline))))
excess = np.array(traces) - limit
same(excess * (np.array(groups) - 1), excess[0])
best = exact.optimal_baseline(mdp, policy, theta, over="time")
least = float(jnp.trace(mdp.covariance(policy, theta, baseline=baselines.time(best))))

figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained")
axes[0].semilogx(groups, traces, "o-", base=2, label="leave-one-out, groups of n")
axes[0].axhline(limit, color="C0", linestyle="--", linewidth=1, label="its limit: E[Q̂_t] known")
axes[0].axhline(least, color="C2", linestyle="--", linewidth=1, label="best function of time")
axes[0].axhline(plain, color="C1", linestyle="--", linewidth=1, label="no baseline")
axes[0].set(xlabel="group size n (episodes)", ylabel="tr Σ of one episode", title="Exact variance", ylim=(0, None))
axes[0].legend(frameon=False, fontsize=8)
seen = exact_diagonal > 1e-9
axes[1].loglog(exact_diagonal[seen], reported[seen], ".")
ends = [exact_diagonal[seen].min(), exact_diagonal[seen].max()]
axes[1].plot(ends, ends, color="black", linewidth=0.8)
axes[1].set(xlabel="exact variance", ylabel="reported by one estimate", title="Coordinate by coordinate")
plt.show()
print("n       " + "".join(f"{n:8}" for n in groups))
print("tr Σ    " + "".join(f"{x:8.3f}" for x in traces) + f"   limit {limit:.3f}, no baseline {plain:.3f}")

# %% [markdown]
# From 8 or 16 on, larger groups hardly pay. (They also have a cost: the whole group must be in memory at once.)
#
# ## Bias and variance along λ
#
# $$A_t = \sum_k (\gamma\lambda)^k \delta_{t+k}, \qquad \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t)$$
#
# With the exact $V$ every $\lambda$ is unbiased, and small ones have the least variance. With a wrong $V$ only $\lambda = 1$ is
# unbiased. Both are exact here, for the stale $V$ of above:

# %%
lambdas = jnp.linspace(0.0, 1.0, 21)


def along_lambda(values):
    """‖bias‖² and tr Σ of one episode for each λ, exactly."""

    def moments(lambda_):
        weight = weights.gae(gamma, lambda_, table(values))
        bias = mdp.bias(policy, theta, weight=weight)
        return jnp.sum(bias**2), jnp.trace(mdp.covariance(policy, theta, weight=weight))

    return map(np.asarray, jax.jit(jax.vmap(moments))(lambdas))


bias_exact_v, variance_exact_v = along_lambda(v)
bias_stale, variance_stale = along_lambda(stale)
same(bias_exact_v, 0.0)
same(bias_stale[-1], 0.0)

figure, axes = plt.subplots(1, 2, figsize=(6.8, 2.9), layout="constrained", sharex=True)
axes[0].plot(lambdas, variance_exact_v, "C0--", label="tr Σ, exact V")
axes[0].plot(lambdas, variance_stale, "C0-", label="tr Σ, stale V")
axes[0].plot(lambdas, 100 * bias_stale, "C1-", label="100 × bias², stale V")
axes[0].set(xlabel="λ", ylabel="squared gradient units", title="One episode", ylim=(0, None))
axes[0].legend(frameon=False, fontsize=8)
for n, color in zip((16, 64, 256, 1024, 4096), plt.get_cmap("viridis")(np.linspace(0, 0.9, 5)), strict=True):
    error = np.sqrt((bias_stale + variance_stale / n) / signal)
    lowest = int(error.argmin())
    axes[1].semilogy(lambdas, error, color=color, label=f"N = {n}: λ = {lambdas[lowest]:.2f}")
    axes[1].plot(lambdas[lowest], error[lowest], "o", color=color)
axes[1].set(xlabel="λ", ylabel="root mean square error / ‖∇J‖", title="Stale V (dots: best λ)")
axes[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()

# %% [markdown]
# There is no best $\lambda$ by itself. Few episodes want a small one, since variance is what hurts; with many the bias is
# what is left, and $\lambda$ moves to 1.
#
# ## What γ^t does
#
# In $\sum_t \gamma^t \psi_t \hat Q_t$ most code drops the first $\gamma^t$ and keeps the discount inside $\hat Q_t$
# (`discount_states=False`). That weighs late states more than $J$ does. Exactly, against $\gamma$:

# %%
discounts = jnp.linspace(0.5, 1.0, 21)


def without_state_discount(gamma):
    """Relative bias, cosine, and tr Σ of one episode for each estimator over its own squared mean."""
    problem = dataclasses.replace(mdp, discount=gamma)
    truth, kept = problem.policy_gradient(policy, theta), weights.reward_to_go(gamma)
    dropped = weights.reward_to_go(gamma, discount_states=False)
    mean = problem.mean(policy, theta, weight=dropped)
    norm = jnp.linalg.norm(truth)
    scales = [
        jnp.trace(problem.covariance(policy, theta, weight=weight)) / jnp.sum(target**2)
        for weight, target in ((kept, truth), (dropped, mean))
    ]
    return jnp.linalg.norm(mean - truth) / norm, jnp.vdot(mean, truth) / norm / jnp.linalg.norm(mean), *scales


relative_bias, cosine, scale_kept, scale_dropped = map(np.asarray, jax.jit(jax.vmap(without_state_discount))(discounts))
same(relative_bias[-1], 0.0)  # At γ = 1 there is nothing to drop.
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.0), layout="constrained", sharex=True)
axes[0].plot(discounts, relative_bias, label="‖bias‖ / ‖∇J‖")
axes[0].plot(discounts, cosine, label="cosine of the mean to ∇J")
axes[0].set(xlabel="discount γ", ylabel="ratio", title="Without γ^t", ylim=(0, None))
axes[1].plot(discounts, scale_kept, label="with γ^t")
axes[1].plot(discounts, scale_dropped, label="without: around its own mean")
axes[1].set(xlabel="discount γ", ylabel="noise scale (episodes)", title="Noise relative to the mean", yscale="log")
for ax in axes:
    ax.legend(frameon=False, fontsize=8)
plt.show()
for at in (0, 10, 18):
    print(
        f"γ = {discounts[at]:.2f}: relative bias {relative_bias[at]:.2f}, cosine {cosine[at]:.3f}, noise scale "
        f"{scale_kept[at]:.0f} with and {scale_dropped[at]:.0f} without γ^t"
    )

# %% [markdown]
# On this problem the bias is almost only one of length: the mean without $\gamma^t$ is too long, up to seven times, and
# hardly turns away from $\nabla J$, while late steps add so much signal that relative noise falls. That is why leaving the
# factor out often works. Nothing in an estimate tells whether it does: the mean bias over the 100 random MDPs of the
# scoreboard is 16% of the gradient.
#
# What is the sum without $\gamma^t$ the gradient *of*? Of nothing (Nota & Thomas, 2020). A gradient field has a symmetric
# Jacobian, its Hessian. Differentiating the exact means on a small MDP:

# %%
small = exact.random_mdp(jax.random.key(3), num_states=3, num_actions=2, discount=0.8, horizon=6)
small_policy = jaxpg.policies.tabular(small.environment())
at_theta = jax.random.normal(jax.random.key(4), (3, 2))
for kept in (True, False):

    def field(theta, kept=kept):
        return small.mean(small_policy, theta, weight=weights.reward_to_go(0.8, discount_states=kept))

    jacobian = jax.jit(jax.jacfwd(field))(at_theta).reshape(6, 6)
    asymmetry = float(jnp.linalg.norm(jacobian - jacobian.T) / jnp.linalg.norm(jacobian))
    print(f"{'with' if kept else 'without':7} γ^t: ‖M − Mᵀ‖ / ‖M‖ = {asymmetry:.1e}")
    assert (asymmetry < 1e-11) == kept

# %% [markdown]
# The algorithms of deep reinforcement learning drop it all the same, and so do those of jaxpg: late states matter for the
# undiscounted return that is reported in the end. `policy_gradient` keeps it, since it estimates $\nabla J$.
#
# ## How many episodes?
#
# The noise scale $B = \operatorname{tr}\Sigma / \lVert\nabla J\rVert^2$ is the number of episodes at which noise equals
# signal (McCandlish et al., 2018). The signal-to-noise ratio of $N$ episodes is $\sqrt{N/B}$. Every estimate reports
# both. `jaxpg.plot.snr_against_batch_size` draws them.

# %%
baselines_shown = {"reward-to-go": baselines.none(), "leave-one-out (8)": baselines.leave_one_out(8)}
found = {name: [] for name in baselines_shown}
for name, baseline in baselines_shown.items():
    for n in SIZES["snr batches"]:
        gradient = jaxpg.policy_gradient(env, policy, num_episodes=n, weight=rtg, baseline=baseline)
        keys = jax.random.split(jax.random.key(n), SIZES["estimates"])
        found[name].append(jax.jit(jax.vmap(gradient, (0, None)))(keys, theta))

figure, ax = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
jaxpg.plot.snr_against_batch_size(found, ax=ax)
plt.show()

for name, baseline in baselines_shown.items():
    trace = 8 * float(jnp.trace(mdp.covariance(policy, theta, num_episodes=8, baseline=baseline)))
    measured = batch_size.noise_scale(found[name][-1])
    needed = batch_size.required_episodes(measured, target_relative_error=0.1)
    print(f"{name}: B = {measured.noise_scale:.1f} measured, {trace / signal:.1f} exact; a relative error of 10% takes "
          f"{needed:,} episodes, {batch_size.required_episodes(trace / signal, target_relative_error=0.1):,} exactly")  # fmt: skip

# %% [markdown]
# Dots are single estimates; where signal and noise are of a size they scatter, and the average is what to believe.
#
# Instead of a fixed $N$, `num_episodes="auto"` doubles the batch until a target is met:

# %%
auto = jaxpg.policy_gradient(
    env, policy, num_episodes="auto", target_snr=20.0, weight=rtg, baseline=baselines.leave_one_out(4)
)(jax.random.key(5), theta)
distance = float(jnp.linalg.norm(auto.gradient - truth)) / signal**0.5
print(
    f"{int(auto.num_episodes):,} episodes for a signal-to-noise ratio of {auto.snr:.1f}; true relative error {distance:.2f}"
)

# %% [markdown]
# ### The angle
#
# An optimiser that normalises its steps cares for the direction. The cosine between $\hat g_N$ and $\nabla J$ follows
# $1/\sqrt{1 + B_\perp/N}$, with $B_\perp$ made of the noise across the gradient only. Where the curve flattens, more
# episodes stop to pay.

# %%
batches = SIZES["batches"]
curve = batch_size.cosine_similarity_curve(
    env, policy, theta, jax.random.key(6), num_episodes=batches, num_replicates=max(SIZES["estimates"], 4) * 4,
    truth=mdp, weight=rtg, baseline=baselines.leave_one_out(8),
)  # fmt: skip
sizes = np.geomspace(batches[0], batches[-1], 100)
figure, ax = plt.subplots(figsize=(4.6, 3.2), layout="constrained")
ax.errorbar(batches, curve.cosine_similarity, 2 * curve.cosine_similarity_error, fmt="o", label="measured, ± 2 SE")
ax.plot(sizes, 1 / np.sqrt(1 + curve.noise_scale_transverse / sizes), label=f"B⊥ = {curve.noise_scale_transverse:.1f}")
ax.set(xscale="log", xlabel="episodes N", ylabel="cosine to ∇J", ylim=(0, 1.02))
ax.legend(frameon=False)
plt.show()
print("N         " + "".join(f"{n:8}" for n in batches))
print("cosine    " + "".join(f"{x:8.3f}" for x in curve.cosine_similarity.values))
print("predicted " + "".join(f"{x:8.3f}" for x in curve.prediction_transverse.values))

# %% [markdown]
# What to take from this: reward-to-go and a leave-one-out or value baseline are free; a critic inside the advantage buys
# variance with bias, and pays while batches are small; and the noise scale, which every estimate reports, says when a
# batch is large enough. [docs/scoreboard.md](../docs/scoreboard.md) has the same comparison for every estimator of the
# library, averaged over 100 random MDPs.
