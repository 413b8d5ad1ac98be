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
# # Your own environment, network, weight, baseline and algorithm
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/06_your_own.ipynb)
#
# The library is one equation,
#
# $$\nabla J(\theta) = \mathbb{E}_{\tau\sim\pi_\theta}\Big[\sum_t w^t\, \nabla_\theta \log \pi_\theta(a_t\mid s_t)\,\big(\Psi_t(\tau) - b_t\big)\Big]
# \qquad \theta \leftarrow \theta + \ldots$$
#
# and each of its symbols is a small value that you can make yourself: the environment ($s, a, r$), the network behind
# $\pi_\theta$, the weight $\Psi_t$, the baseline $b_t$, and the algorithm, which is what is done with the gradient. Here
# is one of each, in fewer than 20 lines of code, used at once and checked against exact values.

# %%
# Installs jaxpg where it is missing. Its requirements are floors that Colab's own jax meets, so jax and its GPU stay.
import importlib.util

if importlib.util.find_spec("jaxpg") is None:
    # %pip install -q "jaxpg @ git+https://github.com/jaxpg/jaxpg"
    pass

# %%
import ast
import os
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import linen

import jaxpg
from jaxpg import Algorithm, Discrete, Environment, Timestep, baselines, exact, policies, weights
from jaxpg.baselines import Baseline
from jaxpg.weights import Weight

SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")  # "small": two CPU cores, minutes; "full": a GPU; "tiny": tests
sizes = {
    "tiny": dict(episodes=512, repeats=8, seeds=2, env_steps=4_000),
    "small": dict(episodes=4_096, repeats=1_024, seeds=32, env_steps=40_000),
    "full": dict(episodes=65_536, repeats=4_096, seeds=256, env_steps=200_000),
}[SIZE]
print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())

# %% [markdown]
# The lines are counted by this function: those of the definitions in a cell that are neither blank nor a comment, `def`
# and `return` included.

# %%
lines = {}


def count(name, *definitions):
    cell = In[-1]  # noqa: F821  IPython's list of the cells that were run.
    names = {definition.__name__ for definition in definitions}
    found = [node for node in ast.walk(ast.parse(cell)) if getattr(node, "name", None) in names]
    code = [line.strip() for node in found for line in cell.splitlines()[node.lineno - 1 : node.end_lineno]]
    lines[name] = sum(bool(line) and not line.startswith("#") for line in code)
    assert len(found) == len(names) and 0 < lines[name] < 20
    print(f"{name}: {lines[name]} lines")


# %% [markdown]
# ## An environment
#
# Two functions and two spaces. `reset(key)` draws a state, `step(key, state, action)` what follows; both return what the
# agent sees. Nothing else is needed: the rollout resets, and cuts an episode at its `max_steps`-th step.
#
# A walker starts near the left end of a corridor. The left end pays 1, the right end pays 10 and is farther away; each
# step costs 0.05.


# %%
def corridor(length=9, near=1.0, far=10.0):
    def reset(key):
        position = jax.random.randint(key, (), 1, length // 2 + 1)
        return position, position  # The state, and the observation of it.

    def step(key, position, action):
        position = position + 2 * action - 1
        left, right = position == 0, position == length - 1
        reward = near * left + far * right - 0.05
        return position, Timestep(position, reward, terminated=left | right, truncated=jnp.bool_(False))

    return Environment(
        reset=reset, step=step, observation_space=Discrete(length), action_space=Discrete(2), max_steps=40,
        name="corridor",
    )  # fmt: skip


count("environment", corridor)
env = corridor()
report = jaxpg.envs.check_env(env)
print(report)
assert report.passed

# %% [markdown]
# `check_env` plays it and looks at what an environment promises: equal arguments give equal results, one compiled
# program serves all states, `vmap` is the loop, observations stay in their space, the last observation is not lost.
#
# Because its steps hold no chance, its states can be enumerated. That gives a `FiniteMDP`, which knows the exact
# gradient, and, for any weight and many baselines, the exact mean and covariance of an estimate. All that follows is
# checked against it. The MDP's observations are indices into the states found, so a policy for the environment becomes
# one for the MDP by looking the state up.

# %%
discount = 0.95
mdp, states = exact.enumerate_states(env, discount=discount, horizon=env.max_steps, initial="uniform")
states = jnp.asarray(states)


def of_mdp(policy):
    return policies.Policy(init=policy.init, apply=lambda params, index: policy.apply(params, states[index]))


def check_gradient(name, policy, key=1, **estimator):
    """How far an estimate is from the exact gradient, in its own standard errors: about 1 where it is unbiased."""
    params = policy.init(jax.random.key(0))
    truth = mdp.policy_gradient(of_mdp(policy), params)
    gradient = jaxpg.policy_gradient(
        env, policy, num_episodes=sizes["episodes"], weight=weights.reward_to_go(discount), **estimator
    )
    estimate = gradient(jax.random.key(key), params)
    distance = jnp.sqrt(sum(jnp.sum((g - e) ** 2) for g, e in zip(*map(jax.tree.leaves, (estimate.gradient, truth)))))
    error = jnp.sqrt(sum(jnp.sum(v) for v in jax.tree.leaves(estimate.variance)))
    size = jnp.sqrt(sum(jnp.sum(e**2) for e in jax.tree.leaves(truth)))
    print(f"{name:18s} ‖∇J‖ {size:6.3f}   distance {distance:.3f} = {distance / error:.2f} standard errors")
    assert distance < 4 * error


table = policies.tabular(env)
check_gradient("a table of logits", table)
params = table.init(jax.random.key(0))
print("states", states.tolist(), "· J =", round(float(mdp.objective(of_mdp(table), params)), 4))

# %% [markdown]
# ## A network
#
# A policy needs a network that gives `head_size(action_space)` numbers for one observation; `from_network` takes it from
# any library. `features` turns the observation (here a number below 9) into a vector of floats. A flax module:

# %%
inputs, outputs = policies.features(env.observation_space), policies.head_size(env.action_space)


class Residual(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Dense(16)(x)
        x = x + linen.Dense(16)(linen.tanh(x))
        return linen.Dense(outputs)(linen.tanh(x))


count("flax linen network", Residual)
in_linen = policies.from_network(env, Residual(), preprocess=inputs)
check_gradient("flax linen", in_linen)

# %% [markdown]
# The same network without any library is a pair of functions, `init` and `apply`.


# %%
def residual(num_inputs=9, width=16, num_outputs=2):
    def init(key):
        shapes = [(num_inputs, width), (width, width), (width, num_outputs)]
        keys = jax.random.split(key, len(shapes))
        return [jax.random.normal(k, shape) / shape[0] ** 0.5 for k, shape in zip(keys, shapes)]

    def apply(params, x):
        first, second, last = params
        x = x @ first
        x = x + jnp.tanh(x) @ second
        return jnp.tanh(x) @ last

    return init, apply


count("network of functions", residual)
in_functions = policies.from_network(env, residual(), preprocess=inputs)
check_gradient("plain functions", in_functions)

# %% [markdown]
# flax's newer `nnx` and equinox are taken as well: a function of a key that makes the module. These two cells pass on
# where the library is missing.

# %%
try:
    from flax import nnx
except ImportError:
    print("flax.nnx is not installed")
else:

    def in_nnx(key):
        rngs = nnx.Rngs(params=key)
        return nnx.Sequential(
            nnx.Linear(env.observation_space.n, 16, rngs=rngs), nnx.tanh, nnx.Linear(16, outputs, rngs=rngs)
        )

    count("flax nnx network", in_nnx)
    check_gradient("flax nnx", policies.from_network(env, in_nnx, preprocess=inputs))

# %%
try:
    import equinox
except ImportError:
    print("equinox is not installed")
else:

    def in_equinox(key):
        return equinox.nn.MLP(env.observation_space.n, outputs, width_size=16, depth=1, activation=jnp.tanh, key=key)

    count("equinox network", in_equinox)
    check_gradient("equinox", policies.from_network(env, in_equinox, preprocess=inputs))

# %% [markdown]
# Every gradient above is within a few standard errors of the exact one, computed through the network's own parameters.
#
# ## A weight
#
# A weight is a backward linear recursion $R_t = x_t + c_t R_{t+1}$, given by the functions `increment` ($x$) and `decay`
# ($c$) of what is known of a step; or it is read from the recursion one step later, $\Psi_t = u_t + k_t R_{t+1}$
# (`direct`, `carry`). The library has no mixture of the temporal-difference residual and the Monte Carlo advantage,
#
# $$\Psi_t = (1-\mu)\,\delta_t + \mu \sum_k \gamma^k \delta_{t+k} = \delta_t + \mu\gamma \sum_k \gamma^k \delta_{t+1+k},
# \qquad \delta_t = r_t + \gamma V(s_{t+1}) - V(s_t).$$
#
# The last form is the recursion's: $x = u = \delta$, $c = \gamma$, $k = \mu\gamma$.


# %%
def mixture(discount, mu, value):
    def td_error(step):
        following = jnp.where(step.terminated, 0.0, step.next_value)
        return step.reward + discount * following - step.value

    return Weight(
        increment=td_error,
        decay=lambda step: jnp.full_like(step.reward, discount),
        direct=td_error,
        carry=lambda step: jnp.full_like(step.reward, mu * discount),
        discount=discount,
        state_discount=discount,  # The factor γ^t before ∇ log π.
        value=value,  # V(observation, time).
    )


count("weight", mixture)

# %% [markdown]
# It is checked in three ways. With $\mu = 0$ and $\mu = 1$ it is the library's `td_residual` and `gae` with $\lambda = 1$,
# on the same episodes. Its exact mean on the MDP is the gradient where $V$ is the policy's own value function, for every
# $\mu$, and where $\mu = 1$, for every $V$. And sampled estimates scatter as the exact moments say.

# %%
chain, policy = mdp.environment(), of_mdp(table)
params = jax.random.normal(jax.random.key(3), (env.observation_space.n, 2))
truth = mdp.policy_gradient(policy, params)
values = mdp.values(policy, params)  # [time, state]


def right(index, time):
    return values[jnp.minimum(time, len(values) - 1), index]


def wrong(index, time):
    return 0.5 * right(index, time)


def estimate(weight, num_episodes=64, baseline=None):
    return jax.jit(jaxpg.policy_gradient(chain, policy, num_episodes=num_episodes, weight=weight, baseline=baseline))


for mu, library in {0.0: weights.td_residual(discount, wrong), 1.0: weights.gae(discount, 1.0, wrong)}.items():
    ours, theirs = (estimate(w)(jax.random.key(4), params).gradient for w in (mixture(discount, mu, wrong), library))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    print(f"μ = {mu:.0f}: the library's own, to {np.abs(ours - theirs).max():.0e}")


def exact_bias(mu, value):
    bias = mdp.mean(policy, params, weight=mixture(discount, mu, value)) - truth
    return float(jnp.sqrt(jnp.sum(bias**2)))


for mu in (0.0, 0.5, 1.0):
    print(f"μ = {mu}: ‖bias‖ {exact_bias(mu, right):.1e} with the right V, {exact_bias(mu, wrong):.1e} with half of it")
    assert exact_bias(mu, right) < 1e-4
assert exact_bias(1.0, wrong) < 1e-4 and exact_bias(0.5, wrong) > 0.01

# %% [markdown]
# With a wrong $V$, $\mu$ trades bias for variance. The lines are exact, the dots are sampled, 64 episodes an estimate.

# %%
mus = np.linspace(0, 1, 5)
bias = np.array([exact_bias(mu, wrong) for mu in mus])
spread = [mdp.covariance(policy, params, weight=mixture(discount, mu, wrong), num_episodes=64) for mu in mus]
spread = np.sqrt([float(jnp.trace(covariance)) for covariance in spread])


@jax.jit
def squared_distances(mu):
    gradient = jaxpg.policy_gradient(chain, policy, num_episodes=64, weight=mixture(discount, mu, wrong))
    found = jax.vmap(gradient, (0, None))(jax.random.split(jax.random.key(5), sizes["repeats"]), params).gradient
    return jnp.sum((found - truth) ** 2, axis=(1, 2))


sampled = np.array([squared_distances(mu) for mu in mus])  # [μ, repetition]
root = np.sqrt(sampled.mean(1))
error = sampled.std(1, ddof=1) / np.sqrt(sampled.shape[1]) / (2 * root)
figure, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
ax.plot(mus, bias, "C1--", label="bias")
ax.plot(mus, spread, "C2:", label="standard deviation")
ax.plot(mus, np.hypot(bias, spread), "C0-", label="root mean square error")
ax.errorbar(mus, root, 2 * error, fmt="ko", markersize=4, capsize=2, label="the same, sampled (± 2 standard errors)")
ax.set(xlabel="μ (0: TD residual, 1: Monte Carlo)", ylabel="distance from the gradient", ylim=(0, None))
ax.legend(frameon=False)
plt.show()
deviation = (root - np.hypot(bias, spread)) / error
print("sampled − exact, in standard errors:", np.round(deviation, 1))
assert SIZE == "tiny" or (np.abs(deviation) < 4).all()
best = mus[np.hypot(bias, spread).argmin()]
print(f"of these, μ = {best} has the least error with half of V and 64 episodes: {np.hypot(bias, spread).min():.2f}")

# %% [markdown]
# ## A baseline
#
# A baseline is a function of the observation and the time, or it is made of the *other* episodes of a group: `peers` has
# the sum of $\Psi_{j,t}$ over the group, the episode's own, the number of episodes and how many of them reach the step.
# Leave-one-out shrunk towards zero is unbiased for every $\kappa$, since it does not see its own episode:
#
# $$b_{i,t} = \frac{\kappa}{n-1}\sum_{j\neq i}\Psi_{j,t}$$


# %%
def shrunk(kappa, group_size):
    def peers(total, own, size, count):
        return kappa * (total - own) / (size - 1)

    return Baseline(peers=peers, group_size=group_size)


def mean_of_all(group_size):
    """A mistake that is often made: the mean includes the episode itself."""
    return Baseline(peers=lambda total, own, size, count: total / size, group_size=group_size)


count("baseline", shrunk)
to_go, n = weights.reward_to_go(discount), 4
gradients = [
    estimate(to_go, 64, b)(jax.random.key(6), params).gradient for b in (shrunk(1.0, n), baselines.leave_one_out(n))
]
np.testing.assert_allclose(*gradients, atol=1e-5)


def exact_mean(baseline):
    return mdp.mean(policy, params, weight=to_go, baseline=baseline, num_episodes=n)


np.testing.assert_allclose(exact_mean(shrunk(0.7, n)), truth, atol=1e-4)
np.testing.assert_allclose(exact_mean(mean_of_all(n)), (1 - 1 / n) * truth, atol=1e-4)
print("κ = 1 is the library's leave-one-out; κ = 0.7 has the exact gradient for its mean")
print(f"the mean of all {n} episodes, the own one included, shrinks the gradient by 1 − 1/{n}, exactly")

# %% [markdown]
# What is it good for? With groups of four the mean of the other three is noisy, and shrinking it takes away some of the
# noise that it adds. The exact standard deviation of an estimate of 64 episodes:

# %%
kappas = np.linspace(0, 1.2, 7)


def exact_deviation(baseline):
    covariance = mdp.covariance(policy, params, weight=to_go, baseline=baseline, num_episodes=64)
    return float(jnp.sqrt(jnp.trace(covariance)))


deviations = {size: [exact_deviation(shrunk(kappa, size)) for kappa in kappas] for size in (2, 4, 16)}
figure, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
for (size, found), style in zip(deviations.items(), ("o-", "s--", "^:"), strict=True):
    ax.plot(kappas, found, style, label=f"groups of {size}")
ax.set(xlabel="κ (0: no baseline, 1: leave-one-out)", ylabel="standard deviation of the gradient", ylim=(0, None))
ax.legend(frameon=False)
plt.show()
for size, found in deviations.items():
    print(
        f"groups of {size:2d}: κ = 1 gives {found[5]:.3f}, the best of these, κ = {kappas[np.argmin(found)]:.1f}, {min(found):.3f}"
    )
print(f"without a baseline {deviations[4][0]:.3f}")
assert np.isclose(deviations[4][5], exact_deviation(baselines.leave_one_out(4)), rtol=1e-4)

# %% [markdown]
# The smaller the group, the smaller the best $\kappa$: in groups of two, the one other episode adds more noise at
# $\kappa = 1$ than it takes away. On this task the gain over no baseline is small in any case, and the exact covariance
# says so before anything is sampled.
#
# ## An algorithm
#
# An `Algorithm` is two pure functions, `init(key) -> state` and `step(state) -> (state, metrics)`; the state has a field
# `params`, the metrics `env_steps` and `episode_return`. Normalised gradient ascent takes steps of one length,
# $\theta \leftarrow \theta + \alpha\, \nabla J / \|\nabla J\|$:


# %%
class State(NamedTuple):
    params: Any
    key: jax.Array


def normalised_ascent(env, policy, step_size, num_episodes=32):
    gradient = jaxpg.policy_gradient(env, policy, num_episodes=num_episodes, baseline=baselines.leave_one_out())

    def init(key):
        return State(policy.init(jax.random.fold_in(key, 0)), jax.random.fold_in(key, 1))

    def step(state):
        key, sample_key = jax.random.split(state.key)
        found = gradient(sample_key, state.params)
        length = step_size / (found.gradient_norm + 1e-8)
        params = jax.tree.map(lambda p, g: p + length * g, state.params, found.gradient)
        metrics = {"episode_return": found.episode_return, "env_steps": found.num_steps, "snr": found.snr}
        return State(params, key), metrics

    return Algorithm(init=init, step=step, env=env, policy=policy, name="normalised ascent")


count("algorithm", State, normalised_ascent)

# %% [markdown]
# It is trained by `jaxpg.train` like any other, and swept: the step size goes through `vmap`, so that all runs are one
# compiled program.

# %%
result = jaxpg.train(
    normalised_ascent(env, in_linen, step_size=0.3), jax.random.key(0), num_env_steps=sizes["env_steps"], progress=False
)
print(f"{result.num_env_steps:,} steps, {result.num_updates} updates")
print(f"J before {mdp.objective(of_mdp(in_linen), in_linen.init(jax.random.key(0))):.3f}, after", end=" ")
print(f"{mdp.objective(of_mdp(in_linen), result.params):.3f}; no policy has more than", end=" ")
print(f"{mdp.optimal_values()[0] @ mdp.initial:.3f}")

# %%
runs, final = jaxpg.sweep(
    lambda step_size: normalised_ascent(env, table, step_size),
    {"step_size": [0.03, 0.1, 0.3, 1.0]},
    seeds=sizes["seeds"],
    key=jax.random.key(1),
    num_env_steps=sizes["env_steps"],
    return_params=True,
    progress=False,
)
print("traced:", runs.attrs["traced"])
objective = jax.vmap(jax.vmap(lambda params: mdp.objective(of_mdp(table), params)))(final.stacked())
interval = jaxpg.stats.interval(np.asarray(objective), "iqm")
for rate, middle, low, high in zip(runs.step_size.values, *interval):
    print(
        f"step size {rate:4}: exact J at the end, IQM over {sizes['seeds']} seeds {middle:.3f} [{low:.3f}, {high:.3f}]"
    )

# %%
figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
jaxpg.plot.sweep_curves(runs, by="step_size", ax=ax)
plt.show()

# %% [markdown]
# The curves are returns of training episodes, undiscounted; the numbers above them are exact values of the last
# parameters. The shortest steps have not arrived when the budget is spent. Steps of one length do not come to rest at an
# optimum either, which is what a schedule for the step size, or an optimiser, is for.
#
# ## Count

# %%
for name, number in lines.items():
    print(f"{name:22s}{number:3d} lines")
assert max(lines.values()) < 20
