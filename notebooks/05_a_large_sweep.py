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
# # A thousand runs in one program
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/05_a_large_sweep.ipynb)
#
# A training run is a function of its key and its hyperparameters, $\theta_T = f(k, \alpha, \gamma, \ldots)$. Under
# `jax.vmap` a thousand of them are one program. This notebook trains A2C on CartPole-v1 at 8 learning rates, 5 discounts
# and 25 seeds, and then asks what such a table of runs says, and what it would have said with three seeds.

# %%
# Installs jaxpg where it is missing. Its requirements are floors that Colab's own jax meets, so jax and its GPU stay.
import importlib.util

if importlib.util.find_spec("jaxpg") is None:
    # %pip install -q "jaxpg @ git+https://github.com/jaxpg/jaxpg"
    pass

# %%
import json
import os
import tempfile
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxpg
from jaxpg import plot, stats

SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")  # "small": two CPU cores, minutes; "full": a GPU; "tiny": tests
sizes = {
    "tiny": dict(seeds=4, env_steps=500, evaluation_episodes=2),
    "small": dict(seeds=25, env_steps=20_000, evaluation_episodes=8),
    "full": dict(seeds=25, env_steps=200_000, evaluation_episodes=64),
}[SIZE]
print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())

# %% [markdown]
# ## What it will cost
#
# A sweep takes a function that builds the algorithm from hyperparameters, and their values. `plan` takes the same
# arguments, compiles the programs, times a few updates, and trains nothing.

# %%
env = jaxpg.make("CartPole-v1")
policy = jaxpg.policies.mlp(env, hidden_sizes=(16, 16))


def build(learning_rate, discount):
    return jaxpg.a2c(
        env, policy, num_envs=8, num_steps=16, learning_rate=learning_rate, discount=discount, normalize_advantages=True
    )


settings = {
    "learning_rate": [3e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1],
    "discount": [0.8, 0.9, 0.97, 0.99, 1.0],
}
budget = dict(
    key=jax.random.key(0),
    num_env_steps=sizes["env_steps"],
    evaluate_every=sizes["env_steps"],  # Once, at the end.
    evaluation_episodes=sizes["evaluation_episodes"],
)
plan = jaxpg.plan(build, settings, seeds=sizes["seeds"], **budget)
assert plan.num_compiles == 1 and plan.parts[0].fixed == {}

# %% [markdown]
# Both hyperparameters are traced: all of their values are in one program, and another value costs no compilation.
# `num_steps` would be looped over, with a program for each value, because it fixes the shape of an array. The memory is
# the compiled program's own figure. Where the runs did not fit, they would be played in batches; `runs_per_batch=` sets a
# limit of your own.
#
# ## The sweep

# %%
folder = tempfile.TemporaryDirectory()
start = time.perf_counter()
runs = jaxpg.sweep(build, settings, seeds=sizes["seeds"], directory=folder.name, progress=False, **budget)
seconds = time.perf_counter() - start
steps = float(runs.env_steps.max("update").sum())
print(
    f"{runs.finished.size:,} runs, {steps:,.0f} steps, in {seconds:.0f} s; training alone {runs.wall_time.max():.0f} s"
)
print(f"diverged: {int(runs.diverged.sum())}; the dataset takes {runs.nbytes / 2**20:.0f} MiB")
assert runs.finished.all() and runs.finished.size == 40 * sizes["seeds"]
print(dict(runs.sizes))
print("traced", json.loads(runs.attrs["traced"]), "· looped", json.loads(runs.attrs["looped"]))

# %% [markdown]
# ## Labels
#
# The result is an xarray dataset. What is measured in an update has the dimensions `seed`, `learning_rate`, `discount`
# and `update`; they are selected, and averaged, by name.

# %%
one = runs.sel(learning_rate=1e-2, discount=0.99, seed=3)  # Every variable of one run.
entropy = runs.entropy.isel(update=runs.num_updates - 1).mean("seed")  # [learning_rate, discount]
print("one run:", dict(one.sizes), "· updates", int(one.num_updates))
print(
    "entropy at the end, discount 0.99:", entropy.sel(discount=0.99).round(2).values, "of at most", round(np.log(2), 2)
)
scores = runs.evaluation_return.isel(
    update=runs.num_updates - 1
)  # [seed, learning_rate, discount], the last evaluation
print("scores", scores.dims, scores.shape)
print(runs[["episode_return", "entropy", "evaluation_return"]])

# %% [markdown]
# The score of a run is the mean return of the evaluation episodes with its last parameters.
#
# ## Where is it good?

# %%
figure, ax = plt.subplots(figsize=(6.0, 3.2), layout="constrained")
plot.heatmap(runs, "learning_rate", "discount", variable="evaluation_return", statistic="iqm", ax=ax)
plt.show()

# %% [markdown]
# A cell is the interquartile mean (IQM) over the seeds. It needs an interval: the percentile bootstrap over seeds.

# %%
interval = stats.interval(scores, "iqm", dim="seed")  # Estimate, low, high: each [learning_rate, discount].
flat = [part.stack(setting=("learning_rate", "discount")) for part in interval]
order = np.argsort(-flat[0].values)
ranked, low, high = (part.isel(setting=order) for part in flat)
for i in range(6):
    rate, discount = ranked.setting.values[i]
    print(
        f"learning rate {rate:6}, discount {discount:4}: IQM {float(ranked[i]):3.0f} [{float(low[i]):3.0f}, {float(high[i]):3.0f}]"
    )
overlap = int((high >= low[0]).sum()) - 1
print(f"of the other {ranked.size - 1} settings, {overlap} have an interval that reaches into the first one's")


# %% [markdown]
# Overlapping intervals are a weak test. Settings share their seeds: seed 3 starts from the same parameters everywhere. So
# the difference of two settings is taken seed by seed, and the probability of improvement draws whole seeds.


# %%
def at(i):
    rate, discount = ranked.setting.values[i]
    return scores.sel(learning_rate=rate, discount=discount, drop=True)


for i in (1, 2, 5, 10):
    difference = stats.interval(at(0) - at(i), "mean", dim="seed")
    better = stats.improvement_interval(at(0), at(i), dim="seed", paired=True)
    print(
        f"first against number {i + 1:2d}: mean difference {difference.estimate:4.0f} "
        f"[{difference.low:4.0f}, {difference.high:4.0f}], P(better) {better.estimate:.2f} "
        f"[{better.low:.2f}, {better.high:.2f}]"
    )

# %% [markdown]
# Where an interval of a difference holds zero, or one of a probability 1/2, these seeds do not tell the two settings
# apart, however far apart their cells look in the map.
#
# ## The best of forty flatters itself
#
# The best of many settings is chosen for its luck, too. An honest number chooses on some seeds and reports on others:

# %%
half = sizes["seeds"] // 2
choose, report = scores.isel(seed=slice(half)), scores.isel(seed=slice(half, None))


def best_of(table):
    """The index of the setting with the highest IQM, in a table [seed, setting]."""
    return int(np.argmax(stats.iqm(table, dim=0)))


def as_table(part):
    return part.stack(setting=("learning_rate", "discount")).transpose("seed", "setting").values


gains, rng = [], np.random.default_rng(0)
table = as_table(scores)
for _ in range(200):
    order = rng.permutation(sizes["seeds"])
    chosen, other = table[order[:half]], table[order[half:]]
    winner = best_of(chosen)
    gains.append(stats.iqm(chosen[:, winner]) - stats.iqm(other[:, winner]))
winner = best_of(as_table(choose))
own = stats.interval(as_table(choose)[:, winner], "iqm")
held_out = stats.interval(as_table(report)[:, winner], "iqm")
print(f"chosen on seeds 0 to {half - 1}: IQM {own.estimate:.0f} [{own.low:.0f}, {own.high:.0f}] on these,", end=" ")
print(f"{held_out.estimate:.0f} [{held_out.low:.0f}, {held_out.high:.0f}] on the others")
print(f"over 200 such splits the winner loses {np.mean(gains):.0f} on average (the splits share their runs)")

# %% [markdown]
# ## What three seeds would have said
#
# From the same table: draw three of the seeds, take the setting with the highest mean, and look at where it really
# stands, by the IQM over all seeds.

# %%
truth = stats.iqm(table, dim=0)
place = np.argsort(np.argsort(-truth))  # 0 is the best.
print("seeds  winner is the best  is among the best five  told − IQM of all seeds")
for k in [k for k in (3, 5, 10) if k < sizes["seeds"]]:
    picked, told = [], []
    for _ in range(1000):
        few = table[rng.choice(sizes["seeds"], k, replace=False)].mean(0)
        picked.append(place[np.argmax(few)])
        told.append(few.max() - truth[np.argmax(few)])
    picked = np.array(picked)
    print(f"{k:5d}  {np.mean(picked == 0):18.0%}  {np.mean(picked < 5):22.0%}  {np.mean(told):+23.0f}")

# %% [markdown]
# The fewer the seeds, the more of the winner's score is luck. This is the case for runs by the hundred.
#
# ## One hyperparameter, and whole distributions

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained")
plot.sensitivity(runs.sel(discount=0.99), "learning_rate", variable="evaluation_return", ax=axes[0])
profiles = {
    f"learning rate {rate}": scores.sel(learning_rate=rate, discount=0.99, drop=True) for rate in (1e-3, 1e-2, 1e-1)
}
plot.performance_profiles(profiles, xlabel="evaluation return τ", ax=axes[1])
plt.show()

# %% [markdown]
# Left: the IQM at discount 0.99 with its band, every seed a dot. Right: the fraction of runs above each return; the
# spread of a curve is the spread between seeds, which the IQM does not show.
#
# ## Learning curves

# %%
figure, ax = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
plot.sweep_curves(runs.sel(learning_rate=1e-2), by="discount", ax=ax)
plt.show()

# %% [markdown]
# Returns of the training episodes, IQM over seeds, at learning rate 0.01. The bands overlap for most of the budget, which in
# the size "small" is a twenty-fifth of what the library's preset gives A2C on this task.
#
# ## Stop, go on, grow
#
# With a directory, what is finished is written down. The same call again plays nothing; it reads. A sweep that is killed
# goes on from where it stood (about a minute is lost). More seeds or values play only what is missing.

# %%
start = time.perf_counter()
again = jaxpg.sweep(build, settings, seeds=sizes["seeds"], directory=folder.name, progress=False, **budget)
print(f"the same call: {time.perf_counter() - start:.1f} s; identical: {again.identical(runs)}")
assert again.identical(runs)

grown = jaxpg.sweep(build, settings, seeds=sizes["seeds"] + 1, directory=folder.name, progress=False, **budget)
kept = grown.sel(seed=runs.seed)
assert (kept.evaluation_return.isel(update=kept.num_updates - 1) == scores).all()
print(f"one seed more: {grown.finished.size - runs.finished.size} runs played, {kept.finished.size:,} kept")

# %% [markdown]
# Another key, budget or algorithm is refused, with the difference:

# %%
try:
    jaxpg.sweep(build, settings, seeds=1, directory=folder.name, progress=False, **budget | {"key": jax.random.key(1)})
except ValueError as error:
    print(str(error).replace(folder.name, "the directory"))
else:
    raise AssertionError("another key was accepted")
folder.cleanup()

# %% [markdown]
# More: [docs/sweeps.md](https://github.com/jaxpg/jaxpg/blob/main/docs/sweeps.md) (samples of ranges, parameters of
# environments, several devices), [docs/statistics.md](https://github.com/jaxpg/jaxpg/blob/main/docs/statistics.md) (which
# interval covers what).
