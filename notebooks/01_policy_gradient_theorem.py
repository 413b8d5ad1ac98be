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
# # The policy-gradient theorem, run
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/01_policy_gradient_theorem.ipynb)
#
# Four short derivations lead from the expected return to an algorithm that raises it:
#
# 1. the trajectory form, which needs no model;
# 2. the form with action values and the state distribution $d^\pi$;
# 3. baselines: what they may depend on, and what they save;
# 4. ascent, until the policy is optimal.
#
# Every line is run here, on a problem where every expectation can be summed exactly. What the text calls exact is
# asserted to $10^{-12}$ in double precision; what is sampled stands beside its exact error.

# %%
# Installs jaxpg where it is missing. Its requirements are floors that Colab's own jax meets, so jax and its GPU stay.
import importlib.util

if importlib.util.find_spec("jaxpg") is None:
    # %pip install -q "jaxpg @ git+https://github.com/jaxpg/jaxpg"
    pass

# %%
import functools
import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_enable_concurrency_optimized_scheduler=false")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxpg
from jaxpg import baselines, exact, weights

jax.config.update("jax_enable_x64", True)  # Equalities below hold to 1e-12, which float32 cannot show.

SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")  # "small": two CPU cores, minutes; "full": a GPU; "tiny": tests
SIZES = {
    "tiny": {"episodes": 2**12, "largest batch": 256, "mdps": 2, "mdp updates": 20, "lqr runs": 2, "lqr updates": 10},
    "small": {"episodes": 2**17, "largest batch": 4096, "mdps": 8, "mdp updates": 500, "lqr runs": 4, "lqr updates": 200},
    "full": {"episodes": 2**20, "largest batch": 16384, "mdps": 32, "mdp updates": 2000, "lqr runs": 16, "lqr updates": 800},
}[SIZE]  # fmt: skip

print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())
same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-12)

# %% [markdown]
# ## The problem
#
# Three states, two actions, at most five steps; state 2 is terminal, so episodes differ in length. The policy is a table
# of logits $\theta_{s,a}$ under a softmax.

# %%
rng = np.random.default_rng(3)
mdp = exact.FiniteMDP(
    transition=rng.dirichlet(np.ones(3), (3, 2)),  # P(s' | s, a)
    reward=rng.normal(size=(3, 2)) + 1.0,
    initial=[0.4, 0.6, 0.0],
    discount=0.8,
    horizon=5,
    terminal=[False, False, True],
)
env = mdp.environment()
policy = jaxpg.policies.tabular(env)
theta = jnp.array([[0.3, -0.2], [0.0, 0.5], [0.0, 0.0]])
gamma, horizon = float(mdp.discount), mdp.horizon
truth = mdp.policy_gradient(policy, theta)  # By automatic differentiation of the recursion for J.
print(f"J(θ) = {mdp.objective(policy, theta):.6f}")
print("∇J(θ) =", np.asarray(truth).round(6).tolist())

# %% [markdown]
# The terminal state's logits have no gradient, and the two of a state sum to zero: $\nabla J$ is two numbers, one for
# each of the states 0 and 1.
#
# ## 1. From trajectories, without a model
#
# $$J(\theta) = \sum_\tau P(\tau)\,R(\tau), \qquad R = \sum_t \gamma^t r_t, \qquad
# \nabla J = \sum_\tau P(\tau)\,\nabla \log P(\tau)\,R(\tau) = \mathbb{E}\big[R\;\nabla \log P(\tau)\big]$$
#
# $$\log P(\tau) = \log P(s_0) + \sum_t \log P(s_{t+1}\mid s_t, a_t) + \sum_t \log \pi_\theta(a_t\mid s_t)$$
#
# Only the last sum depends on $\theta$. So $\nabla\log P(\tau)$ is $\sum_t \psi_t$ with the score
# $\psi_t = \nabla_\theta \log \pi_\theta(a_t \mid s_t)$, and the agent needs no model. Here are all trajectories, and
# the gradient of $\log P(\tau)$ by automatic differentiation through *all three* terms.

# %%
from jaxpg.exact.enumeration import log_probability

paths = exact.trajectories(mdp)  # Every trajectory, [step, trajectory].


def log_policy(theta):
    """log π(a | s), [state, action]."""
    return policy.apply(theta, jnp.arange(3)).log_probs()


probability = jnp.exp(log_probability(paths, log_policy(theta)))
with_model = jax.jacobian(lambda theta: log_probability(paths, log_policy(theta)))(theta)
score_table = jax.jacobian(log_policy)(theta)  # ψ(s, a), [state, action, *θ]
step_scores = jnp.where(paths.valid[..., None, None], score_table[paths.state, paths.action], 0.0)
scores = step_scores.sum(0)  # Σ_t ψ_t, [trajectory, *θ]

print(f"{len(probability):,} trajectories; their probabilities sum to 1 within {abs(probability.sum() - 1):.1e}")
print(f"largest |∇ log P(τ) − Σ ψ_t| over all of them: {abs(with_model - scores).max():.1e}")
same(probability.sum(), 1.0)
same(with_model, scores)

# %% [markdown]
# The expectation of return times score is then a finite sum. It is $\nabla J$. So is the mean of the library's own
# estimator: `gradient_from` takes stored episodes, and with their exact probabilities no sampling noise is left.

# %%
returns = gamma ** jnp.arange(horizon) @ paths.reward
by_hand = jnp.einsum("n,n,nsa->sa", probability, returns, scores)

every_episode, probabilities = exact.every_episode(mdp, policy, theta)  # As stored episodes, [step, trajectory].
same(probabilities, probability)


def expectation(weight, baseline=None):
    """The estimator's mean: its own code on every trajectory, weighted with its probability."""
    return jaxpg.gradient_from(every_episode, policy, theta, weight, baseline, probabilities=probability).gradient


for name, gradient in {
    "E[R Σψ], summed by hand": by_hand,
    "weights.total_return": expectation(weights.total_return(gamma)),
    "weights.reward_to_go": expectation(weights.reward_to_go(gamma)),
}.items():
    print(f"{name:24} largest difference from ∇J: {abs(gradient - truth).max():.1e}")
    same(gradient, truth)

# %% [markdown]
# The last line used one more fact. A score has nothing to do with what was earned before it: $\mathbb{E}[\psi_t\, r_k]
# = 0$ for $k < t$, because $\mathbb{E}[\psi_t \mid s_0, \dots, s_t] = 0$. Dropping those products leaves the
# reward-to-go $\hat Q_t = \sum_{k\ge t}\gamma^{k-t} r_k$:
#
# $$\nabla J = \mathbb{E}\Big[\sum_t \gamma^t\,\psi_t\,\hat Q_t\Big]$$
#
# The picture has the length of each $\mathbb{E}[\psi_t r_k]$, and, beside it, the standard deviation of the same
# product. Below the diagonal the mean is zero and the noise is not: the total return pays for it.

# %%
products = jnp.einsum("n,tnij,kn->tkij", probability, step_scores, paths.reward)
second = jnp.einsum("n,tnij,kn->tk", probability, step_scores**2, paths.reward**2)
mean_length = jnp.sqrt(jnp.sum(products**2, (2, 3)))
deviation = jnp.sqrt(second - mean_length**2)
earlier = np.arange(horizon)[:, None] > np.arange(horizon)
same(products[earlier], 0.0)

figure, axes = plt.subplots(1, 2, figsize=(7.0, 2.9), layout="constrained")
for ax, values, title in zip(axes, (mean_length, deviation), ("length of the mean", "standard deviation"), strict=True):
    shown = ax.imshow(values, cmap="viridis", vmin=0)
    ax.set(xlabel="step k of the reward", ylabel="step t of the score", title=f"ψ_t r_k: {title}")
    for t in range(horizon):
        for k in range(horizon):
            value = float(values[t, k])
            color = "white" if value < 0.6 * float(values.max()) else "black"
            ax.text(k, t, "0" if value < 1e-12 else f"{value:.2f}", ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(shown, ax=ax, shrink=0.8)
plt.show()

# %% [markdown]
# ## 2. From states, actions and values
#
# The mean of $\hat Q_t$ given $s_t, a_t$ is $Q_t(s_t, a_t)$. Collecting the steps by state gives the theorem of
# Sutton et al. (2000), with the discounted state distribution $d^\pi_t(s) = \gamma^t P(s_t = s)$:
#
# $$\nabla J = \sum_t \sum_s d^\pi_t(s) \sum_a \underbrace{\pi_\theta(a\mid s)\,\psi(s,a)}_{\nabla \pi_\theta(a\mid s)}\,
# Q_t(s,a) = \mathbb{E}_{s\sim d^\pi,\,a\sim\pi}\big[\psi(s,a)\,Q(s,a)\big]$$
#
# $d^\pi$ is not normalised: it sums to the expected, discounted number of steps. The inner sum over *all* actions is
# `weights.all_action`.

# %%
d = mdp.state_distribution(policy, theta, discounted=True)  # γ^t P(s_t = s), [step, state]
q = mdp.action_values(policy, theta)  # Q_t(s, a), [step, state, action]
pi = jnp.exp(log_policy(theta))
pi_gradient = jax.jacobian(lambda theta: jnp.exp(log_policy(theta)))(theta)

same(pi_gradient / pi[:, :, None, None], score_table)  # ψ = ∇π / π
same(jnp.einsum("ts,sa,sakl,tsa->kl", d, pi, score_table, q), truth)  # E[ψ Q]
all_action = weights.all_action(gamma, lambda s, t, a: q[t, s, a])
same(expectation(all_action), truth)

print("state      " + "".join(f"{s:>9}" for s in range(2)))
print("Σ_t d_t(s) " + "".join(f"{x:9.4f}" for x in d.sum(0)[:2]))
for a in range(2):
    print(f"Q_0(s, {a})  " + "".join(f"{x:9.4f}" for x in q[0, :2, a]))

# %% [markdown]
# $\gamma^t$ belongs to $d^\pi$. Much code leaves it out of the sum while $\hat Q_t$ stays discounted. The result is
# another vector, exactly as far away as this:

# %%
without = mdp.mean(policy, theta, weight=weights.reward_to_go(gamma, discount_states=False))
undiscounted = mdp.state_distribution(policy, theta)
same(without, jnp.einsum("ts,sa,sakl,tsa->kl", undiscounted, pi, score_table, q))


def length(x):
    return float(jnp.linalg.norm(jnp.asarray(x).ravel()))


cosine = float(jnp.vdot(without, truth)) / length(without) / length(truth)
print(f"‖E ĝ − ∇J‖ / ‖∇J‖ without γ^t: {length(without - truth) / length(truth):.2f}; cosine to ∇J: {cosine:.4f}")

# %% [markdown]
# ### Sampled, without a model
#
# Now episodes are played. Four averages converge to $\nabla J$: return times scores, rewards-to-go times scores, *exact*
# $Q$ at the sampled $(s_t, a_t)$, and the sum over all actions in the sampled states. Each line has less left to chance
# than the one before. `per_episode=True` returns each episode's own term, so that one run gives the error of every batch
# size. Lines are the exact standard errors $\sqrt{\operatorname{tr}\Sigma/N}$ from `FiniteMDP.covariance`; nothing is
# fitted.

# %%
num_episodes = SIZES["episodes"]


def terms(weight, baseline=None, key=0):
    """Each episode's own term of the estimate, [episode, 6]."""
    gradient = jaxpg.policy_gradient(
        env, policy, num_episodes=num_episodes, weight=weight, baseline=baseline, per_episode=True
    )
    return gradient(jax.random.key(key), theta).episodes.gradient.reshape(num_episodes, -1)


episodes, _ = jaxpg.rollout.collect(env, policy, theta, jax.random.key(1), num_episodes=num_episodes, final_rows=False)
s, a, t = episodes.observation, episodes.action, episodes.time
factor = jnp.where(episodes.valid, gamma**t * q[t, s, a], 0.0)
with_q = jnp.zeros((num_episodes, 3, 2)).at[episodes.episode].add(factor[..., None, None] * score_table[s, a])
exact_q = exact.generic(
    0.0, 0.0, pi, direct=q[..., None], score_discount=gamma
)  # The same estimator, for `covariance`.

sampled = {
    "total return": (terms(weights.total_return(gamma)), weights.total_return(gamma)),
    "reward-to-go": (terms(weights.reward_to_go(gamma)), weights.reward_to_go(gamma)),
    "exact Q of the action taken": (with_q.reshape(num_episodes, -1), exact_q),
    "exact Q, all actions": (terms(all_action), all_action),
}
batches = 2 ** np.arange(4, int(np.log2(SIZES["largest batch"])) + 1, 2)
figure, ax = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
print(f"{'':28} tr Σ    measured / exact mean squared error, N = {', '.join(map(str, batches))}")
for (name, (found, weight)), marker, color in zip(sampled.items(), "os^D", ("C0", "C1", "C2", "C3"), strict=True):
    covariance = mdp.covariance(policy, theta, weight=weight)
    trace = float(jnp.trace(covariance))
    spread = float(jnp.sqrt(2 * jnp.sum(covariance**2))) / trace  # Of ‖ĝ − ∇J‖² over its mean, for a normal ĝ.
    errors, ratios = [], []
    for n in batches:
        means = found.reshape(-1, n, 6).mean(1)  # Independent batches of n episodes each.
        squared = jnp.sum((means - truth.ravel()) ** 2, 1)
        errors.append(float(jnp.sqrt(squared.mean())))
        ratios.append((float(squared.mean()) * n / trace, spread / len(squared) ** 0.5))
    ax.loglog(batches, errors, marker, color=color, markersize=5, label=name)
    ax.loglog(batches, np.sqrt(trace / batches), color=color, linewidth=1)
    print(f"{name:28} {trace:.3f}  ", "  ".join(f"{r:.3f} ± {e:.3f}" for r, e in ratios))
    if SIZE != "tiny":
        assert all(abs(r - 1) < 5 * e for r, e in ratios)
ax.plot([], [], color="gray", linewidth=1, label="exact: √(tr Σ / N)")
ax.set(xlabel="episodes N", ylabel="root mean square distance to ∇J", title="Four ways to the same gradient")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# Dots lie on their lines: the ratio of measured to exact squared error is 1 within its errors (few batches of 4,096 fit
# into the episodes that were played, so the last column is the least certain). All fall as
# $1/\sqrt N$; what differs is the constant. Knowing $Q$ exactly is not something an agent can do. What it can do is to
# subtract a baseline.
#
# ## 3. Baselines
#
# $$\mathbb{E}\big[\psi(s,a)\,b(s)\mid s\big] = b(s)\sum_a \nabla\pi_\theta(a\mid s) = b(s)\,\nabla 1 = 0$$
#
# So $\hat Q_t - b_t(s_t)$ has the same mean for *every* $b$ that does not depend on the action: constants, functions of
# time, of state, of both. The variance is a parabola in $b$. `exact.optimal_baseline` has its minimum for each kind.

# %%
best = {
    over: exact.optimal_baseline(mdp, policy, theta, over=over) for over in ("constant", "time", "state", "state_time")
}
v = mdp.values(policy, theta)
choices = {
    "none": baselines.none(),
    "best constant": baselines.constant(best["constant"]),
    "best of time": baselines.time(best["time"]),
    "best of state": baselines.value(lambda s: best["state"][s]),
    "value function V_t(s)": baselines.value(lambda s, t: v[t, s]),
    "best of state and time": baselines.value(lambda s, t: best["state_time"][t, s]),
}
covariances = {}
for name, baseline in choices.items():
    same(mdp.bias(policy, theta, baseline=baseline), 0.0)
    same(expectation(weights.reward_to_go(gamma), baseline), truth)
    covariances[name] = mdp.covariance(policy, theta, baseline=baseline)
    print(f"{name:24} bias 0 (< 1e-12)   tr Σ = {jnp.trace(covariances[name]):.4f}")

# %% [markdown]
# Most of the noise came from the offset of the returns, and a constant removes most of it. $V_t(s)$ is not the best
# function of state and time: the best one weighs each action's value by the squared length of its score.
#
# A baseline that *does* depend on the action biases the estimate by exactly
# $-\mathbb{E}\big[\sum_t \gamma^t \psi_t\, b_t(s_t, a_t)\big]$. The tempting choice, $b$ close to $Q$, is the worst: it
# has small variance because it removes the gradient itself. Adding $\sum_a \nabla\pi(a\mid s)\,b(s,a)$, which is what
# `weights.all_action` computes, takes the bias away again (Gu et al., 2017).


# %%
def with_action_baseline(b):
    """Reward-to-go less b_t(s, a), [step, state, action], as a recursion: Ψ_t = (r_t − b_t) + γ Q̂_{t+1}."""
    reward = mdp.reward[None, ..., None]
    return exact.generic(reward, gamma, pi, direct=reward - b[..., None], score_discount=gamma)


for share in (0.25, 0.5, 1.0):
    weight = with_action_baseline(share * q)
    bias = mdp.bias(policy, theta, weight=weight)
    same(bias, -jnp.einsum("ts,sa,sakl,tsa->kl", d, pi, score_table, share * q))
    same(bias, -share * truth)  # b = share · Q takes that share of the gradient away.
    correction = expectation(weights.all_action(gamma, lambda s, t, a, share=share: share * q[t, s, a]))
    same(mdp.mean(policy, theta, weight=weight) + correction, truth)
    covariance = mdp.covariance(policy, theta, weight=weight)
    print(f"b = {share:4} Q: ‖bias‖ / ‖∇J‖ = {length(bias) / length(truth):.2f}   tr Σ = {jnp.trace(covariance):.4f}")
    covariances[f"b = {share} Q(s, a): biased"] = covariance

# %% [markdown]
# Both free coordinates of the gradient fit into one picture. An ellipse is the exact distribution of an estimate from 256
# episodes: its centre the exact mean, its outline two standard deviations. The dots are sampled estimates.

# %%
angle = np.linspace(0, 2 * np.pi, 200)
circle = np.stack([np.cos(angle), np.sin(angle)])
free = np.array([0, 2])  # The logits of action 0 in states 0 and 1; action 1 has the negative.
batch = 256
shown = {
    "none": (choices["none"], truth, "C0"),
    "best constant": (choices["best constant"], truth, "C1"),
    "best of state and time": (choices["best of state and time"], truth, "C2"),
    "b = 0.5 Q(s, a): biased": (None, 0.5 * truth, "C3"),
}
figure, ax = plt.subplots(figsize=(5.4, 4.0), layout="constrained")
for name, (baseline, centre, color) in shown.items():
    covariance = np.asarray(covariances[name])[np.ix_(free, free)] / batch
    centre = np.asarray(centre).ravel()[free]
    outline = centre[:, None] + 2 * np.linalg.cholesky(covariance) @ circle
    ax.plot(*outline, color=color, label=name)
    ax.plot(*centre, "+", color=color)
    if baseline is None:
        continue
    found = terms(weights.reward_to_go(gamma), baseline, key=2).reshape(-1, batch, 6).mean(1)[:, free]
    ax.plot(*np.asarray(found[:150]).T, ".", color=color, markersize=2.5, alpha=0.6)
    inside = np.mean(np.sum(np.linalg.solve(np.linalg.cholesky(covariance), (found - centre).T) ** 2, 0) < 4)
    print(f"{name:24} {100 * inside:.1f}% of {len(found):,} sampled estimates inside")
ax.plot(*np.asarray(truth).ravel()[free], "*", color="black", markersize=11, zorder=5, label="∇J")
ax.set(xlabel="∂J / ∂θ[0, 0]", ylabel="∂J / ∂θ[1, 0]", title=f"Estimates from {batch} episodes, exact 2σ ellipses")
ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
plt.show()

# %% [markdown]
# A normal distribution has $1 - e^{-2} = 86.5\%$ inside. One more baseline depends on the action without looking like it:
# the mean return of the batch, when the episode itself is counted. It shrinks the gradient by $1 - 1/N$; leaving the
# episode out (`leave_one_out`) does not.

# %%
included = baselines.Baseline(peers=lambda total, own, size, count: total / size)
for n in (2, 4, 16):
    arguments = {"weight": weights.total_return(gamma), "num_episodes": n}
    same(mdp.mean(policy, theta, baseline=included, **arguments), (1 - 1 / n) * truth)
    same(mdp.mean(policy, theta, baseline=baselines.leave_one_out(), **arguments), truth)
    print(f"N = {n:2}: mean of the estimate / ∇J = {1 - 1 / n:.4f} with the episode itself, 1 without")

# %% [markdown]
# ## 4. Ascent, until the policy is optimal
#
# $J(\theta + \epsilon \nabla J) = J(\theta) + \epsilon \lVert\nabla J\rVert^2 + O(\epsilon^2)$: a small step along the
# gradient raises the return by its squared length.

# %%
for epsilon in (1e-1, 1e-2, 1e-3, 1e-4):
    gain = mdp.objective(policy, theta + epsilon * truth) - mdp.objective(policy, theta)
    print(f"ε = {epsilon:6.0e}: (J(θ + ε∇J) − J(θ)) / (ε ‖∇J‖²) = {gain / (epsilon * length(truth) ** 2):.6f}")
assert abs(gain / (epsilon * length(truth) ** 2) - 1) < 1e-3

# %% [markdown]
# Many steps along *estimates*, $\theta \leftarrow \theta + \alpha_i\, \hat g$ with falling $\alpha_i$, reach the optimum.
# First on random MDPs without a horizon, which are sampled exactly by episodes that stop with probability $1-\gamma$
# after each step. One compiled program runs all of them; the optimum is from policy iteration.


# %%
def ascend(key):
    """The exact share of the way to the optimum that is left after each update."""
    problem = exact.random_mdp(jax.random.fold_in(key, 0), num_states=4, num_actions=3, discount=0.8)
    game = problem.environment(max_steps=64, geometric_stopping=True)  # 0.8⁶⁴ < 1e-6
    table = jaxpg.policies.tabular(game)
    estimate = jaxpg.policy_gradient(
        game, table, num_episodes=32, weight=weights.reward_to_go(1.0), baseline=baselines.leave_one_out(), num_lanes=32
    )

    def update(theta, i):
        uphill = estimate(jax.random.fold_in(key, i + 1), theta).gradient
        return theta + uphill / jnp.sqrt(1 + i / 100), theta

    end, before = jax.lax.scan(update, jnp.zeros((4, 3)), jnp.arange(SIZES["mdp updates"]))
    thetas = jnp.concatenate([before, end[None]])
    found = jax.vmap(lambda theta: problem.objective(table, theta))(thetas)
    optimum = problem.initial @ problem.optimal_values()
    return (optimum - found) / (optimum - found[0])


left = np.asarray(jax.jit(jax.vmap(ascend))(jax.random.split(jax.random.key(0), SIZES["mdps"])))
print(
    f"after {SIZES['mdp updates']} updates of 32 episodes, left of the way to the optimum, worst of {len(left)} MDPs:"
)
print(f"{100 * left[:, -1].max():.2f}%; median {100 * np.median(left[:, -1]):.2f}%")
assert left.min() > 0  # Nothing is better than the optimum.
if SIZE != "tiny":
    assert left[:, -1].max() < 0.03

# %% [markdown]
# A softmax policy tends to a deterministic one and never is one, so a part of the way is always left.
#
# Second, a linear-quadratic regulator, $u = -Kx + \sigma\varepsilon$, with continuous states and actions: the optimal
# gain solves a Riccati equation. The noise $\sigma$ is held, since without it there is no estimate, and the best gain
# does not depend on it. The baseline is a quadratic function fitted to the other half of the batch.

# %%
lqr = exact.LQR(A=[[0.9, 0.5], [0.0, 0.8]], B=[[0.0], [1.0]], Q=[[2.0, 0.0], [0.0, 0.5]], R=[[0.2]], discount=0.6)
regulator = lqr.environment(max_steps=16)  # 0.6¹⁶ < 3e-4: what is cut off does not matter.
linear = jaxpg.policies.linear_gaussian(regulator)


def noisy(gain):
    return {"gain": gain, "log_std": jnp.full(1, -1.0)}


estimate = jaxpg.policy_gradient(
    regulator,
    linear,
    num_episodes=64,
    weight=weights.reward_to_go(lqr.discount),
    baseline=baselines.linear(lambda x: jnp.append(jnp.outer(x, x).ravel(), 1.0)),
    num_lanes=64,
)


def ascend_lqr(key):
    """The gain before each update, and at the end."""

    def update(gain, i):
        uphill = estimate(jax.random.fold_in(key, i), noisy(gain)).gradient["gain"]
        return gain + 0.1 / (1 + i / 20) * uphill / jnp.maximum(1.0, jnp.linalg.norm(uphill)), gain

    end, before = jax.lax.scan(update, jnp.zeros((1, 2)), jnp.arange(SIZES["lqr updates"]))
    return jnp.concatenate([before, end[None]])


gains = jax.jit(jax.vmap(ascend_lqr))(jax.random.split(jax.random.key(1), SIZES["lqr runs"]))[:, :, 0]
riccati = lqr.optimal_policy()
at_riccati = lqr.policy_gradient(linear, noisy(riccati))["gain"]
same(at_riccati, 0.0)
final = jax.vmap(lambda gain: lqr.objective(linear, noisy(gain[None])))(gains[:, -1])
optimum = lqr.objective(linear, noisy(riccati))
print("Riccati's gain", np.asarray(riccati[0]).round(4), "· ∇J there is 0 (< 1e-12)")
print("ascent's gains", np.asarray(gains[:, -1].mean(0)).round(4), "±", np.asarray(gains[:, -1].std(0)).round(4))
print(f"return {final.mean():.5f}, optimum {optimum:.5f}")
assert jnp.all(final < optimum)
if SIZE != "tiny":
    assert abs(gains[:, -1] - riccati[0]).max() < 0.05

# %%
figure, axes = plt.subplots(1, 2, figsize=(5.8, 2.6), layout="constrained")
axes[0].plot(100 * left.T, color="C0", linewidth=0.8, alpha=0.5)
axes[0].plot(100 * np.median(left, 0), color="black", linewidth=1.5, label=f"median of {len(left)} MDPs")
axes[0].set(yscale="log", xlabel="updates of 32 episodes", ylabel="way left (%)", title="Finite MDPs")
axes[0].legend(frameon=False)
for i, color in enumerate(("C1", "C2")):
    axes[1].plot(np.asarray(gains[:, :, i]).T, color=color, linewidth=0.8)
    axes[1].axhline(float(riccati[0, i]), color=color, linestyle="--", linewidth=1)
    axes[1].plot([], [], color=color, label=f"K[0, {i}]; dashed: Riccati")
axes[1].set(xlabel="updates of 64 episodes", ylabel="gain", title="Linear-quadratic regulator")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# The estimates never saw a transition probability, a system matrix or an optimal value, and the policies end up at the
# optimum. The page `docs/derivations.md` names the test for each line of these derivations; `02_variance` goes on with
# which estimator to take and how many episodes it needs.
