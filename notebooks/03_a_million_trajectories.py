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
# # A million trajectories
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/03_a_million_trajectories.ipynb)
#
# The policy gradient is a mean over whole episodes,
#
# $$\hat g_N = \frac1N \sum_{i=1}^{N} g_i, \qquad
# g_i = \sum_{t=0}^{T_i - 1} \gamma^t\, \nabla_\theta \log \pi_\theta(a_t\mid s_t)\, G_t ,$$
#
# and the lengths $T_i$ differ. This notebook shows how `jaxpg.policy_gradient` plays episodes of different lengths without
# computing steps that nobody needs, why its memory does not grow with $N$, what a million episodes cost, how that compares
# with the usual `vmap` of a `scan`, and what the larger $N$ buys.

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
# One dial sets all counts: "small" is for two CPU cores and a few minutes, "full" for a GPU, "tiny" for tests.

# %%
SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")
SIZES = {
    #          episodes of the sweep over N; of the chunk and speed cells; of the memory plot; equal lengths; rounds
    "tiny": dict(numbers=[500, 2_000], several=1024, planned=[64, 256], equal=64, rounds=2),
    "small": dict(
        numbers=[1_000, 10_000, 100_000, 1_000_000], several=1024, planned=[256, 1024, 4096], equal=512, rounds=5
    ),
    "full": dict(
        numbers=[1_000, 10_000, 100_000, 1_000_000, 10_000_000],
        several=4096,
        planned=[256, 1024, 4096],
        equal=4096,
        rounds=7,
    ),
}
sizes = SIZES[SIZE]

env = jaxpg.make("CartPole-v1")
policy = jaxpg.policies.mlp(env, hidden_sizes=(64, 64))
params = policy.init(jax.random.key(0))
env

# %% [markdown]
# ## What a masked rollout wastes
#
# The untrained policy drops the pole after about 22 steps; the limit is 500. A `vmap` of a `scan` has a fixed number of
# steps: it computes all 500 for every episode and masks what follows the end. With an early exit (a `while_loop` that
# ends with the last episode) every episode still costs as much as the longest. *Packed*, a lane whose episode ends takes
# the next episode of the queue.
#
# Episode $i$ is a function of the key and of $i$ alone, so all three ways can play the same episodes. `rollout.collect`
# returns the steps of packed lanes, with each step's episode.

# %%
SHOWN, LANES = 192, 32
trajectory, statistics = jaxpg.rollout.collect(
    env, policy, params, jax.random.key(1), num_episodes=SHOWN, num_lanes=LANES, final_rows=False
)
lengths = np.asarray(statistics.length)
longest = int(lengths.max())
packed_rows = int(np.asarray(trajectory.valid).any(axis=1).sum())
packed = np.where(trajectory.valid, trajectory.episode, -1)[:packed_rows].T

computed = {
    f"masked to the limit of {env.max_steps}": SHOWN * env.max_steps,
    "masked, early exit": SHOWN * longest,
    f"packed on {LANES} lanes": packed_rows * LANES,
}
print(f"{SHOWN} episodes, {lengths.sum():,} steps, the longest {longest}")
for way, steps in computed.items():
    print(f"{way:<27}{steps:>7,} steps computed, {lengths.sum() / steps:6.1%} of them live")

# %%
shades = np.array(["#1f77b4", "#5fa2ce", "#0b4a73", "#9fc9e8", "#3a86b8"])
palette = np.array([[int(s[k : k + 2], 16) for k in (1, 3, 5)] for s in shades] + [[243, 240, 234]], np.uint8)


def picture(episodes):
    """[lane, time] episode numbers as colours; -1, a step that is computed in vain, is pale."""
    return palette[np.where(episodes >= 0, episodes % len(shades), len(shades))]


masked = np.where(np.arange(env.max_steps) < lengths[:, None], np.arange(SHOWN)[:, None], -1)
figure, axes = plt.subplots(3, 1, figsize=(7, 5), sharex=True, height_ratios=[2, 2, 1], layout="constrained")
for ax, (way, steps), episodes in zip(axes, computed.items(), (masked, masked[:, :longest], packed), strict=True):
    ax.imshow(
        picture(episodes), aspect="auto", interpolation="nearest", extent=(0, episodes.shape[1], len(episodes), 0)
    )
    ax.set(xlim=(0, env.max_steps), ylabel="lane", title=f"{way}: {lengths.sum() / steps:.0%} of the steps are live")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
axes[-1].set(xlabel="loop step (pale: computed, but no episode's; white: not computed)")
plt.show()

# %% [markdown]
# The same episodes in all three panels. Packed lanes waste steps only at the very end, when the queue is empty and the
# last episodes run out: the more episodes for each lane, the less. `estimate.utilization` is the share of live steps.
#
# Packing must not favour short episodes. It does not: an episode that has been started is always finished, and none is
# replaced by another that ended sooner. So the lengths of packed episodes are those of episodes played one by one:

# %%
alone = jaxpg.evaluate(jax.random.key(1), env, policy, params, num_episodes=SHOWN, num_lanes=1)
assert np.array_equal(alone.lengths, lengths)
print(f"{SHOWN} episodes on one lane and on {LANES}: the same lengths, mean {lengths.mean():.2f}")

# %% [markdown]
# ## Chunks: the same estimate in any memory
#
# The steps of finished episodes go through the backward pass block by block, their gradient is added to a running sum, and
# they are dropped. So no more steps are held than the buffer takes (24 MiB at most on a CPU, unless a baseline needs whole
# groups). `chunk_size` bounds the episodes that are started before that happens; `num_lanes` says how many are played
# side by side. Neither changes the estimate, but for the order in which floating-point numbers are added.


# %%
def compiled(function, *arguments):
    """The compiled program, the seconds it took, and the MiB of working memory that XLA plans for one call."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return program, seconds, program.memory_analysis().temp_size_in_bytes / 2**20


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)


def difference(a, b):
    """‖a − b‖ / ‖b‖ of two gradients."""
    return np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b))


key = jax.random.key(2)
settings = {"default": {}, "chunks of 256": dict(chunk_size=256), "32 lanes": dict(num_lanes=32)}
results = {}
print(f"{sizes['several']} episodes        MiB   utilization   relative difference")
for name, options in settings.items():
    build = jaxpg.policy_gradient(env, policy, num_episodes=sizes["several"], **options)
    program, _, mebibytes = compiled(build, key, params)
    results[name] = estimate = program(key, params)
    distance = difference(estimate.gradient, results["default"].gradient)
    print(f"{name:<18}{mebibytes:>8.1f}{estimate.utilization:>14.1%}{distance:>22.1e}")
    assert estimate.num_steps == results["default"].num_steps  # The same episodes.
    assert distance < 1e-5  # The same gradient, to rounding.

# %% [markdown]
# Small chunks run their lanes empty more often, which is why they are not the default. A baseline made of other episodes
# (`baselines.leave_one_out`) needs its whole group in memory; its `group_size` then sets how much.
#
# ## A million episodes in one call
#
# `num_episodes` is only a number in the program: a loop runs longer, nothing gets larger. Each row below is a program of
# its own, compiled before it is timed. `MiB` is the working memory that XLA plans for it.

# %%
import resource
import sys


def peak_gibibytes():
    """The most memory that this process has held so far, on the host."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


rows = []
print("  episodes  compile s   seconds  µs an episode   million steps/s  utilization    MiB")
for place, number in enumerate(sizes["numbers"]):
    build = jaxpg.policy_gradient(env, policy, num_episodes=number)
    program, compile_seconds, mebibytes = compiled(build, key, params)
    key_here = jax.random.key(100 + place)  # Of its own: with the same key, these would be the first of the next row's.
    jax.block_until_ready(program(key_here, params)) if number <= 100_000 else None
    before, times = peak_gibibytes(), []
    for _ in range(5 if number <= 100_000 else 1):
        start = time.perf_counter()
        estimate = jax.block_until_ready(program(key_here, params))
        times.append(time.perf_counter() - start)
    seconds, after = float(np.median(times)), peak_gibibytes()
    rows.append((number, seconds, mebibytes, jax.device_get(estimate)))
    print(
        f"{number:>10,}{compile_seconds:>11.1f}{seconds:>10.3f}{1e6 * seconds / number:>15.1f}"
        f"{int(estimate.num_steps) / seconds / 1e6:>18.2f}{estimate.utilization:>13.1%}{mebibytes:>7.1f}"
    )
print(f"peak of the process before the last row's call {before:.2f} GiB, after it {after:.2f} GiB")
numbers = np.array([row[0] for row in rows])
estimates = [row[3] for row in rows]

# %% [markdown]
# A thousand episodes still pay for emptying the lanes at the end (the column utilization); from there on time goes with $N$.
# The planned memory is the same to within what the counters take, and so is the peak of the whole process.
#
# ## The usual way
#
# This is how a whole-episode gradient is mostly written: a `scan` to the limit for each episode, `vmap` over episodes,
# `done` turned into a mask, one large batch for the gradient. To make it comparable to the last digit it draws from the
# same keys as jaxpg (episode $i$ has `fold_in(key, i)`), and it steps without resets, which spares it the reset
# that an auto-resetting `step` computes in every step.


# %%
def vmap_of_scan(env, policy, num_episodes, discount=0.99):
    """(key, params) -> the policy gradient, and the share of live steps."""

    def episode(key, params):
        def step(carry, t):
            state, observation, alive = carry
            step_key = jax.random.fold_in(key, t + 1)
            action = policy.apply(params, observation).sample(step_key)
            state, timestep = env.step(jax.random.fold_in(step_key, 2**32 - 1), state, action)
            done = timestep.terminated | timestep.truncated
            return (state, timestep.observation, alive & ~done), (observation, action, timestep.reward, alive)

        state, observation = env.reset(jax.random.fold_in(key, 0))
        return jax.lax.scan(step, (state, observation, jnp.bool_(True)), jnp.arange(env.max_steps))[1]

    def gradient(key, params):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_episodes))
        observation, action, reward, alive = jax.vmap(episode, (0, None))(keys, params)

        def backward(following, reward):
            following = reward + discount * following
            return following, following

        reward = jnp.where(alive, reward, 0.0)
        _, returns = jax.lax.scan(backward, jnp.zeros(num_episodes), reward.T, reverse=True)
        weight = jnp.where(alive, discount ** jnp.arange(env.max_steps) * returns.T, 0.0)

        def objective(params):
            return jnp.sum(weight * policy.apply(params, observation).log_prob(action)) / num_episodes

        return jax.grad(objective)(params), alive.mean()

    return gradient


def contest(env, num_episodes):
    """Both ways compiled, then in turns A B A B …; prints their times and the ratio, and checks that they agree."""
    policy = jaxpg.policies.mlp(env, hidden_sizes=(64, 64))
    params, key = policy.init(jax.random.key(0)), jax.random.key(3)
    usual, usual_compile, usual_memory = compiled(vmap_of_scan(env, policy, num_episodes), key, params)
    ours, our_compile, our_memory = compiled(jaxpg.policy_gradient(env, policy, num_episodes=num_episodes), key, params)
    times = []
    for _ in range(sizes["rounds"] + 1):  # The first round warms up.
        start = time.perf_counter()
        theirs = jax.block_until_ready(usual(key, params))
        middle = time.perf_counter()
        estimate = jax.block_until_ready(ours(key, params))
        times.append((middle - start, time.perf_counter() - middle))
    times = np.array(times[1:])
    ratio = times[:, 0] / times[:, 1]
    distance = difference(theirs[0], estimate.gradient)
    print(f"{env.name}, {num_episodes:,} episodes of {estimate.episode_length:.0f} steps on average")
    print(f"  vmap of scan     {np.median(times[:, 0]):.3f} s, {theirs[1]:6.1%} live, {usual_memory:7.1f} MiB planned")
    print(f"  policy_gradient  {np.median(times[:, 1]):.3f} s, {estimate.utilization:6.1%} live, {our_memory:7.1f} MiB")
    low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
    print(f"  ratio {middle:.1f} (middle half of {len(ratio)} rounds: {low:.1f} to {high:.1f})")
    print(
        f"  compiling {usual_compile:.1f} s and {our_compile:.1f} s; gradients differ by {distance:.1e} of their size"
    )
    assert distance < 1e-4  # The same episodes, the same estimator: equal to rounding.
    return ratio, usual_memory


short_ratio, _ = contest(env, sizes["several"])

# %% [markdown]
# `policy_gradient` also returns the variance of every coordinate, the returns and their errors; the function above does
# not. Its ratio comes from two things: most of the 500 steps are dead, and one batch of all steps does not fit any cache.
#
# Where all episodes are equally long, there is nothing to pack. An untrained policy never leaves the valley of
# MountainCar within the limit of 200 steps:

# %%
equal_ratio, _ = contest(jaxpg.make("MountainCar-v0"), sizes["equal"])

# %% [markdown]
# What is left of the ratio there is the backward pass in blocks that stay in the cache, which a masked rollout could have
# too: against the same rollout with a blocked backward pass, packing gains nothing on equally long episodes and a rollout
# in small batches with early exit is even a little faster. The table with all these rivals, tuned, over many rounds, is in
# [docs/performance.md](https://github.com/jaxpg/jaxpg/blob/main/docs/performance.md).
#
# The memory of the usual way grows with the episodes, as all steps and their activations are held at once. XLA tells the
# working memory of a compiled program without running it:

# %%
planned = [compiled(vmap_of_scan(env, policy, number), jax.random.key(0), params)[2] for number in sizes["planned"]]
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
axes[0].loglog(sizes["planned"], planned, "s-", color="#b5541c", label="vmap of scan")
axes[0].loglog(numbers, [row[2] for row in rows], "o-", color="#1f77b4", label="policy_gradient")
axes[0].set(xlabel="episodes N", ylabel="planned memory / MiB", title="Memory of one call")
axes[0].legend(frameon=False)
axes[1].semilogx(numbers, [1e6 * row[1] / row[0] for row in rows], "o-", color="#1f77b4")
axes[1].set(xlabel="episodes N", ylabel="time of an episode / µs", title="policy_gradient", ylim=(0, None))
for number, _, _, estimate in rows:
    axes[1].annotate(
        f"{estimate.utilization:.0%}",
        (number, 0),
        xytext=(0, 6),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color="#1f77b4",
    )
axes[1].text(0.5, 0.12, "utilization:", transform=axes[1].transAxes, ha="center", fontsize=8, color="#1f77b4")
plt.show()
slope = np.polyfit(np.log(sizes["planned"]), np.log(planned), 1)[0]
print(f"vmap of scan: {planned[-1] / 1024:.2f} GiB for {sizes['planned'][-1]:,} episodes, growing as N^{slope:.2f};")
print(f"at that rate {planned[-1] / 1024 * 1e6 / sizes['planned'][-1]:,.0f} GiB for a million")

# %% [markdown]
# ## What more episodes buy
#
# With $\Sigma$ the covariance of $g_i$, the error of the estimate is $\sqrt{\operatorname{tr}\Sigma / N}$, its
# signal-to-noise ratio is $\lVert\nabla J\rVert$ over that, and the noise scale $\operatorname{tr}\Sigma / \lVert\nabla
# J\rVert^2$ is the number of episodes at which the two are equal. All of these come with the estimate.

# %%
print("  episodes            J(θ)      ‖ĝ‖       error √(tr Σ/N)     SNR   noise scale")
for number, estimate in zip(numbers, estimates, strict=True):
    print(
        f"{number:>10,}  {estimate.objective:.3f} ± {estimate.objective_error:.3f}{estimate.gradient_norm:>9.2f}"
        f"{np.sqrt(estimate.trace):>22.3f}{estimate.snr:>8.1f}{estimate.noise_scale:>14.0f}"
    )

# %% [markdown]
# Is the reported error the true one? The largest estimate is almost the truth for the smaller ones, whose episodes are
# others. If the errors are right, $\lVert \hat g_N - \hat g_\text{largest}\rVert$ is about
# $\sqrt{\operatorname{tr}\Sigma/N + \operatorname{tr}\Sigma/N_\text{largest}}$ (not exactly: each is one draw).

# %%
largest = estimates[-1]
distances = [np.linalg.norm(flat(e.gradient) - flat(largest.gradient)) for e in estimates[:-1]]
expected = [float(np.sqrt(e.trace + largest.trace)) for e in estimates[:-1]]
for number, distance, reported in zip(numbers, distances, expected, strict=False):
    print(f"N = {number:>9,}: distance {distance:7.3f}, expected from the reported variance {reported:7.3f}")
    if SIZE != "tiny":
        assert 0.2 < distance / reported < 4.0  # A few directions hold most of the variance.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
axes[0].loglog(numbers, [np.sqrt(e.trace) for e in estimates], "o-", color="#1f77b4", label="reported by the estimate")
axes[0].loglog(numbers[:-1], distances, "x", color="#b5541c", label="distance to the largest estimate")
axes[0].loglog(numbers, np.sqrt(largest.trace * numbers[-1] / numbers), ":", color="0.4", label=r"$\propto 1/\sqrt{N}$")
axes[0].set(xlabel="episodes N", ylabel="error of the gradient", title=r"Error $\sqrt{\mathrm{tr}\,\Sigma/N}$")
axes[0].legend(frameon=False, fontsize=8)
axes[1].errorbar(
    numbers,
    [e.objective for e in estimates],
    yerr=[1.96 * e.objective_error for e in estimates],
    fmt="o",
    capsize=3,
    color="#1f77b4",
)
axes[1].axhline(float(largest.objective), color="0.4", linewidth=0.8, linestyle=":")
axes[1].set(xscale="log", xlabel="episodes N", ylabel="J(θ)", title="Objective with 95% intervals")
plt.show()

# %% [markdown]
# A hundred times as many episodes buy one more digit. For an update of REINFORCE the noise scale says what is sensible:
# a batch of a few noise scales has most of the signal that there is to get, and a million episodes for one step of a
# small network are a waste. They are worth having where the number itself is wanted: to compare estimators, to check a
# gradient, or for policies whose signal is small.
#
# `jaxpg.policy_gradient(…, num_episodes="auto", target_snr=10)` chooses $N$ by itself, and `mesh="auto"` lays the episodes
# over all devices (notebook `08_many_devices_and_hosts`).
