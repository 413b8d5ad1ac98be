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
# # From REINFORCE to PPO
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/04_from_reinforce_to_ppo.ipynb)
#
# The algorithms of the library one after another on one environment: what each changes in the equation and in the code,
# and what becomes of it in 32 runs each. All take the same network and play CartPole-v1. First the algorithms, then their
# curves.

# %%
# Installs jaxpg where it is missing. Its requirements are floors that Colab's own jax meets, so jax and its GPU stay.
import importlib.util

if importlib.util.find_spec("jaxpg") is None:
    # %pip install -q "jaxpg @ git+https://github.com/jaxpg/jaxpg"
    pass

# %%
import inspect
import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxpg
from jaxpg import plot, stats
from jaxpg.algorithms import presets

SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")  # "small": two CPU cores, minutes; "full": a GPU; "tiny": tests
sizes = {
    "tiny": dict(seeds=2, env_steps=2_000, episodes=2),
    "small": dict(seeds=32, env_steps=50_000, episodes=16),
    "full": dict(seeds=256, env_steps=500_000, episodes=128),
}[SIZE]
print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())

# %% [markdown]
# The hyperparameters are those of the table `jaxpg.algorithms.presets`, and the library's defaults where the table has
# none for CartPole-v1. Nothing is tuned for this notebook, so what follows compares these settings on this task, not the
# algorithms as such.

# %%
env = jaxpg.make("CartPole-v1")
network = {"hidden_sizes": (32, 32)}
policy = jaxpg.policies.mlp(env, **network)
choices = {
    "REINFORCE": ("reinforce", {"critic": None}),
    "REINFORCE + critic": ("reinforce", {}),
    "A2C": ("a2c", {}),
    "NPG": ("npg", {}),
    "TRPO": ("trpo", {}),
    "PPO": ("ppo", {}),
    "V-MPO": ("v_mpo", {}),
    "IMPALA": ("impala", {}),
    "PGPE": ("pgpe", {}),
}


def build(algorithm):
    name, changes = choices[algorithm]
    return presets.make(name, env, num_env_steps=sizes["env_steps"], policy=network, **changes)


def source(algorithm, *beginnings):
    """Lines of the algorithm's file that begin like this."""
    for line in inspect.getsource(inspect.getmodule(algorithm)).splitlines():
        if line.strip().startswith(beginnings):
            print(line.strip())


# %% [markdown]
# ## REINFORCE
#
# Play whole episodes, weigh the score of each action by the reward that followed it, and ascend:
#
# $$\hat g = \frac1N \sum_i \sum_t \nabla_\theta \log \pi_\theta(a_t\mid s_t)\,\Big(\sum_{k\ge t}\gamma^{k-t} r_k - b_{i,t}\Big),
# \qquad \theta \leftarrow \theta + \text{Adam}(\hat g)$$
#
# The baseline is the mean of the other episodes at the same time step (leave-one-out). The estimate is made of whole
# episodes: an update waits until the longest of them is over, and every step is used once.

# %%
source(jaxpg.reinforce, "estimate = gradient_from", "params, optimizer_state = descent.step")

# %% [markdown]
# ## … with a critic
#
# $b_t = V_\phi(s_t)$, fitted to the returns of the episodes *before*: it knows the state, which the mean of other
# episodes does not, and it does not know the action, so the estimate keeps its mean. One line changes:

# %%
source(jaxpg.reinforce, "b = baseline if")

# %% [markdown]
# ## A2C
#
# With a critic an update need not wait for the end. Segments of 8 steps on each of 16 environments, and what lies behind
# a segment is left to $V_\phi$:
#
# $$A_t = \sum_k (\gamma\lambda)^k \delta_{t+k}, \qquad \delta_t = r_t + \gamma V_\phi(s_{t+1}) - V_\phi(s_t).$$
#
# Updates are small, frequent and of fixed size. The price is bias: for $\lambda < 1$, or where the segment ends, the
# gradient is right only as far as $V_\phi$ is.

# %%
source(jaxpg.a2c, "advantages, targets", "policy_loss", "value_loss", "total")

# %% [markdown]
# ## NPG
#
# A gradient step depends on how the policy is parametrised. The natural gradient measures the step by what it does to
# the policy, $\mathrm{KL}(\pi_\theta \| \pi_{\theta + \Delta}) \approx \frac12 \Delta^\top F \Delta$, and takes the
# steepest direction of a given divergence $\delta$:
#
# $$\theta \leftarrow \theta + \alpha x, \qquad x = (F + \lambda I)^{-1}\hat g, \qquad \alpha = \sqrt{2\delta / x^\top F x}.$$
#
# $F$ is never formed; conjugate gradients need only its products with vectors. There is no learning rate left.

# %%
source(jaxpg.npg, "alpha = ", "new = stepped")

# %% [markdown]
# ## TRPO
#
# $\alpha$ is right to second order only. TRPO tries it, computes the divergence and the surrogate
# $L(\theta') = \mathbb{E}[\rho_t A_t]$, $\rho_t = \pi_{\theta'}(a_t\mid s_t)/\pi_\theta(a_t\mid s_t)$, exactly, and
# shortens the step until $\mathrm{KL} \le \delta$ and $L$ has improved.

# %%
source(jaxpg.trpo, "accepted = (at.kl", "found = line_search")

# %% [markdown]
# So TRPO's step is NPG's with another length. That is exact, and holds on the same key:


# %%
def one_update(algorithm):
    state, metrics = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)))
    return state.params, metrics


def distance(one, other):
    """max |θ − θ'| over all parameters, as a share of the length of the step from the start."""
    difference = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]
    start = jax.tree.leaves(tiny.init(jax.random.split(jax.random.key(0), 4)[0]))
    return max(difference) / max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(one), start, strict=True))


tiny = jaxpg.policies.mlp(env, hidden_sizes=(8,))
shape = dict(num_envs=8, num_steps=32)
by_trpo, metrics = one_update(jaxpg.trpo(env, tiny, **shape))
by_npg, _ = one_update(jaxpg.npg(env, tiny, step_size=float(metrics["step_size"]), **shape))
print(f"TRPO's step after {int(metrics['line_search_step'])} shortenings, NPG's with this length:", end=" ")
print(f"relative distance {distance(by_trpo, by_npg):.0e}")
assert distance(by_trpo, by_npg) < 1e-3

# %% [markdown]
# ## PPO
#
# The bound by first-order means: many gradient steps on the same segment, and no gradient for an action whose ratio has
# left $[1-\varepsilon, 1+\varepsilon]$ in the direction that the advantage asks for:
#
# $$L(\theta) = \mathbb{E}_t\big[\min(\rho_t A_t,\ \mathrm{clip}(\rho_t, 1-\varepsilon, 1+\varepsilon)\, A_t)\big]$$

# %%
source(
    jaxpg.ppo, "gain = jnp.minimum", "return jax.lax.scan(epoch", "(parameters, optimizer_state, _), (metrics, done)"
)

# %% [markdown]
# At $\theta = \theta_\text{old}$ all ratios are 1 and $\nabla L$ is A2C's gradient. So PPO with one epoch and one batch is
# A2C:

# %%
plain = dict(**shape, optimizer=optax.sgd(0.1))
by_ppo, _ = one_update(jaxpg.ppo(env, tiny, num_epochs=1, num_minibatches=1, normalize_advantages=None, **plain))
by_a2c, _ = one_update(jaxpg.a2c(env, tiny, **plain))
print(f"PPO with one epoch and one batch, and A2C: relative distance {distance(by_ppo, by_a2c):.0e}")
assert distance(by_ppo, by_a2c) < 1e-4

# %% [markdown]
# ## V-MPO
#
# The policy as a classifier: the better half of the actions is imitated, each with the weight
# $\psi_t \propto e^{A_t/\eta}$, and a penalty holds the divergence. $\eta$ and the penalty's $\alpha$ are learned.
#
# $$L(\theta) = -\sum_{\text{better half}} \psi_t \log\pi_\theta(a_t\mid s_t) + \alpha\,\mathrm{KL}(\pi_\text{old}\|\pi_\theta)$$

# %%
source(jaxpg.v_mpo, "best = ", "psi, temperature_loss", "policy_loss", "alpha_loss")

# %% [markdown]
# ## IMPALA
#
# A2C whose actors lag behind by some updates, as they do when they run on other machines. V-trace corrects for that with
# truncated ratios, $\bar\rho_t = \min(1, \rho_t)$. The lag is a hyperparameter here; without it, this is A2C with
# $\lambda = 1$:

# %%
source(jaxpg.impala, "advantages, targets = v_trace", "policy_loss")
by_impala, _ = one_update(
    jaxpg.impala(env, tiny, actor_update_period=1, scale_rewards=False, entropy_coefficient=0.0, **plain)
)
by_a2c, _ = one_update(jaxpg.a2c(env, tiny, lambda_=1.0, **plain))
print(f"IMPALA without lag, and A2C: relative distance {distance(by_impala, by_a2c):.0e}")
assert distance(by_impala, by_a2c) < 1e-4

# %% [markdown]
# ## PGPE
#
# The noise in the parameters, not in the actions: $\theta = \mu + \sigma z$ plays an episode without any further noise,
# and so does $\mu - \sigma z$.
#
# $$\hat g_\mu = \frac1N\sum_i \frac{z_i}{\sigma}\,\frac{R(\mu+\sigma z_i) - R(\mu - \sigma z_i)}{2}$$
#
# Neither the policy nor the environment need have a derivative, there is no critic, and no credit for single actions:
# an episode is one number.

# %%
source(jaxpg.pgpe, "odd = ", "ascent = ")

# %% [markdown]
# ## Thirty-two runs of each
#
# The name of the algorithm is a hyperparameter like any other. It is no number, so each has a compiled program of its own,
# which plays all seeds.

# %%
runs, params = jaxpg.sweep(
    build,
    {"algorithm": list(choices)},
    seeds=sizes["seeds"],
    key=jax.random.key(0),
    num_env_steps=sizes["env_steps"],
    return_params=True,
    progress=False,
)
assert runs.finished.all()
print(dict(runs.sizes), "· diverged:", int(runs.diverged.sum()))

# %% [markdown]
# All have one network, so their last parameters are stacked, and evaluated at once, on the same episodes. PGPE trains the
# mode of the policy and is evaluated by it, the others by sampled actions, as they were trained.


# %%
def mean_return(params, deterministic=False):
    key = jax.random.key(99)
    return jaxpg.evaluate(
        key, env, policy, params, num_episodes=sizes["episodes"], deterministic=deterministic
    ).returns.mean()


stacked = params.stacked()  # Leaves [seed, algorithm, …].
scores = np.array(jax.jit(jax.vmap(jax.vmap(mean_return)))(stacked))
is_pgpe = list(choices).index("PGPE")
of_pgpe = jax.tree.map(lambda x: x[:, is_pgpe], stacked)
scores[:, is_pgpe] = jax.jit(jax.vmap(lambda p: mean_return(p, True)))(of_pgpe)
scores = runs.num_updates.copy(data=scores).rename("score")  # [seed, algorithm]

# %%
groups = {
    "One gradient step on each batch": ["REINFORCE", "REINFORCE + critic", "A2C", "IMPALA", "PGPE"],
    "Steps of bounded divergence": ["NPG", "TRPO", "PPO", "V-MPO"],
}
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.4), layout="constrained")
for ax, names in zip(axes, groups.values()):
    plot.sweep_curves(runs.sel(algorithm=names), by="algorithm", num_points=40, ax=ax)
    ax.set_ylim(0, 520)
plt.show()

# %% [markdown]
# Lines are interquartile means over seeds of the training episodes that ended in an update, bands their 95% bootstrap
# intervals. Training episodes of PGPE are played with perturbed parameters. Where updates are of whole episodes, a curve
# begins only after the first of them.
#
# ## The table

# %%
iqm, mean = (stats.interval(scores, statistic, dim="seed") for statistic in ("iqm", "mean"))
gradient_steps = {
    "PPO": lambda a: a.config["num_epochs"] * a.config["num_minibatches"],
    "V-MPO": lambda a: a.config["num_epochs"] * a.config["num_minibatches"],
}
print(
    f"{'':19s}{'IQM [95%]':>17s}{'mean [95%]':>19s}{'steps':>9s}{'updates':>9s}{'gradient steps':>16s}{'seconds':>9s}"
)
for name in choices:
    row = dict(algorithm=name)
    run = runs.sel(row)
    updates = float(run.num_updates.mean())
    each = gradient_steps.get(name, lambda a: 1)(build(name))
    parts = [f"{s.estimate.sel(row):.0f} [{s.low.sel(row):.0f}, {s.high.sel(row):.0f}]" for s in (iqm, mean)]
    print(
        f"{name:19s}{parts[0]:>17s}{parts[1]:>19s}{float(run.env_steps.max('update').mean()):9,.0f}{updates:9.0f}"
        f"{updates * each:16,.0f}{float(run.wall_time.max()):9.1f}"
    )

# %% [markdown]
# `steps` are more than the budget where an update is of whole episodes. `gradient steps` are those of the policy.
# `seconds` is the time in which all runs of a row were trained together, without compiling; the machine had other work to
# do when the committed outputs were made, so take them for no more than an order of magnitude.
#
# A difference is taken seed by seed, with its interval. PPO against each of the others:

# %%
for name in choices:
    if name != "PPO":
        ours, theirs = (scores.sel(algorithm=n, drop=True) for n in ("PPO", name))
        difference = stats.interval(ours - theirs, "mean", dim="seed")
        better = stats.improvement_interval(ours, theirs, dim="seed", paired=True)
        print(
            f"PPO − {name:19s} mean {difference.estimate:5.0f} [{difference.low:5.0f}, {difference.high:5.0f}]   "
            f"P(PPO is better) {better.estimate:.2f} [{better.low:.2f}, {better.high:.2f}]"
        )

# %% [markdown]
# ## What so small a budget does
#
# In the size "small" a run has 50,000 steps. That is a tenth of what the presets give REINFORCE and A2C on this task, with
# which both reach 500, and a quarter of PPO's ([docs/returns.md](https://github.com/jaxpg/jaxpg/blob/main/docs/returns.md)).
# The table says what comes of few steps, and not where the algorithms end.
#
# - REINFORCE makes few updates, and fewer the better it gets: the episodes of an update grow with the return.
# - A2C and IMPALA take one gradient step for every 128 and 320 environment steps and use each sample once. A2C's learning
#   rate falls to zero over whatever budget it is given.
# - NPG, TRPO, PPO and V-MPO make an update of every 1,024 steps, and get more out of each: a step as long as the bound on
#   the divergence allows, or 80 and 40 gradient steps.
# - PGPE does well where few parameters matter and a small change of them shows in the return, and it is scored without
#   noise in the actions. CartPole is such a task; most are not.
#
# A mean and a probability answer different questions. A few bad runs move the difference of means, and do not change how
# often the other wins; runs that all reach 500 are ties.
#
# What can be said of two rows is said by the interval of their difference. Where it holds zero, these runs do not order
# them; and where it does not, it orders these settings at this budget on this task.
