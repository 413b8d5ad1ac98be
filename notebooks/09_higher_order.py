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
# # Beyond the gradient: Hessians, natural gradients, meta-gradients
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/jaxpg/jaxpg/blob/main/notebooks/09_higher_order.ipynb)
#
# The usual surrogate $\sum_t \log\pi_\theta(a_t\mid s_t)\,\Psi_t$ has the right first derivative and wrong higher ones:
# differentiating it again forgets that $\theta$ also decides which episodes are played. DiCE (Foerster et al., 2018)
# repairs this with one function,
#
# $$\square(x) = \exp\big(x - \operatorname{stop}(x)\big) = 1, \qquad \nabla\square(x) = \square(x)\,\nabla x,$$
#
# so that a scalar estimate of $J$ can be differentiated as often as one likes. With it come curvature, natural
# gradients and meta-gradients. On a finite MDP all of them are known exactly.

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

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxpg
from jaxpg import baselines, dice, exact, weights

jax.config.update("jax_enable_x64", True)  # Equalities below hold to 1e-11, which float32 cannot show.

SIZE = os.environ.get("JAXPG_NOTEBOOK_SIZE", "small")  # "small": two CPU cores, minutes; "full": a GPU; "tiny": tests
SIZES = {
    "tiny": {"samples": 16, "natural": (64, 256), "meta": (64, 256), "replicates": 8},
    "small": {"samples": 4096, "natural": (64, 1024, 16384), "meta": (64, 512, 4096), "replicates": 64},
    "full": {"samples": 16384, "natural": (64, 1024, 16384), "meta": (64, 512, 4096, 32768), "replicates": 256},
}[SIZE]

print("jaxpg", jaxpg.__version__, "· jax", jax.__version__, "on", jax.default_backend())
same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-11)

# %% [markdown]
# ## The problem
#
# A random MDP with three states and two actions, five steps long: six parameters, few enough trajectories to sum over
# all of them.

# %%
mdp = exact.random_mdp(jax.random.key(0), num_states=3, num_actions=2, discount=0.9, horizon=5, branching=2)
gamma = float(mdp.discount)
env = mdp.environment()
policy = jaxpg.policies.tabular(env)
theta = jax.random.normal(jax.random.key(1), (3, 2))
gradient, hessian = mdp.policy_gradient(policy, theta), mdp.hessian(policy, theta)
v = mdp.values(policy, theta)
print(f"J(θ) = {mdp.objective(policy, theta):.4f}; ‖∇J‖ = {jnp.linalg.norm(gradient):.4f}")
print("eigenvalues of ∇²J:", np.linalg.eigvalsh(hessian).round(4))

# %% [markdown]
# Three eigenvalues are zero, one for each state: adding a constant to a state's logits changes nothing. Some of the others
# may be positive; $J$ is not concave.
#
# ## DiCE
#
# With $W_t = \sum_{k\le t}\log\pi_\theta(a_k\mid s_k)$, `jaxpg.dice.surrogate` is
#
# $$S(\theta) = \frac1N\sum_i\Big[\sum_t \gamma^t r_t + \sum_t \gamma^t \big(\square(W_t) - \square(W_{t-1})\big)
# \big(\hat Q_t - b_t\big)\Big].$$
#
# First without any sampling: every trajectory, weighted with its probability, through the library's own code. The value,
# the gradient, the Hessian and the third derivatives are those of $J$. The Hessian of the usual surrogate is not.

# %%
every_episode, probability = exact.every_episode(mdp, policy, theta)  # [step, trajectory] arrays, P(τ)
rtg = weights.reward_to_go(gamma)
value_baseline = baselines.value(lambda s, t: v[t, s])


def surrogate(theta, baseline=None, lambda_=1.0):
    """S(θ) with every trajectory in it."""
    return dice.surrogate(every_episode, policy, theta, rtg, baseline, probability, lambda_=lambda_)


def usual_surrogate(theta):
    """Σ_t γ^t log π(a_t | s_t) Q̂_t: the right gradient, and not more."""
    log_prob = policy.apply(theta, every_episode.observation).log_prob(every_episode.action)
    to_go = weights.trajectory_weights(every_episode, rtg)
    return probability @ jnp.sum(gamma**every_episode.time * log_prob * to_go, 0)


def third(f):
    return jax.jacfwd(jax.jacfwd(jax.jacrev(f)))(theta).reshape(6, 6, 6)


print(f"{len(probability):,} trajectories")
same(surrogate(theta), mdp.objective(policy, theta))
same(jax.grad(surrogate)(theta), gradient)
same(jax.hessian(surrogate)(theta).reshape(6, 6), hessian)
same(jax.hessian(functools.partial(surrogate, baseline=value_baseline))(theta).reshape(6, 6), hessian)
same(third(surrogate), third(lambda theta: mdp.objective(policy, theta)))
print("DiCE: value, gradient, Hessian, third derivatives equal those of J (< 1e-11)")

same(jax.grad(usual_surrogate)(theta), gradient)
wrong = jax.hessian(usual_surrogate)(theta).reshape(6, 6)


def relative(matrix):
    return float(jnp.linalg.norm(matrix - hessian) / jnp.linalg.norm(hessian))


print(f"usual surrogate: gradient equal; its Hessian is off by {100 * relative(wrong):.0f}% of ‖∇²J‖")
for lambda_ in (0.75, 0.5, 0.0):

    def loaded(theta, lambda_=lambda_):
        return surrogate(theta, value_baseline, lambda_)

    same(jax.grad(loaded)(theta), gradient)
    print(f"Loaded DiCE, λ = {lambda_}: gradient equal; Hessian off by "
          f"{100 * relative(jax.hessian(loaded)(theta).reshape(6, 6)):.0f}%")  # fmt: skip

# %% [markdown]
# Loaded DiCE (Farquhar et al., 2019) discounts what two steps $k$ apart have in common by $\lambda^k$: less variance, and
# a bias from the second order on.
#
# ### Sampled
#
# `dice.objective` plays fresh episodes and returns $S$, a function of key and parameters to be differentiated. The figure
# has the root mean square error of gradient and Hessian against the number of episodes. $S$ is a mean over episodes, so
# averages of small batches serve for larger ones.

# %%
small_batch = 16
estimators = {
    "DiCE": {},
    "DiCE, baseline V": {"baseline": value_baseline},
    "Loaded DiCE, λ = 0.5, baseline V": {"baseline": value_baseline, "lambda_": 0.5},
}
keys = jax.random.split(jax.random.key(2), SIZES["samples"])
numbers = [n for n in 16 * 4 ** np.arange(8) if n * 16 <= SIZES["samples"] * small_batch or n == small_batch]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.3), layout="constrained")
samples = {}
for (name, options), marker, color in zip(estimators.items(), "os^", ("C0", "C1", "C2"), strict=True):
    J = dice.objective(env, policy, num_episodes=small_batch, weight=rtg, **options)
    derivatives = jax.jit(jax.vmap(lambda key, J=J: (jax.grad(J, 1)(key, theta), jax.hessian(J, 1)(key, theta))))
    first, second = derivatives(keys)
    samples[name] = first.reshape(-1, 6), second.reshape(-1, 6, 6)
    for ax, found, truth in zip(axes, samples[name], (gradient.ravel(), hessian), strict=True):
        errors = []
        for n in numbers:
            means = found.reshape(-1, n // small_batch, *truth.shape).mean(1)
            squared = jnp.sum((means - truth) ** 2, tuple(range(1, means.ndim)))
            errors.append(float(jnp.sqrt(squared.mean()) / jnp.linalg.norm(truth)))
        ax.loglog(numbers, errors, marker=marker, color=color, markersize=4, linewidth=1, label=name)
floor = relative(jax.hessian(lambda theta: surrogate(theta, value_baseline, 0.5))(theta).reshape(6, 6))
axes[1].axhline(floor, color="C2", linestyle="--", linewidth=0.8, label="its exact bias")
for ax, what in zip(axes, ("∇J", "∇²J"), strict=True):
    ax.set(xlabel="episodes N", ylabel="relative root mean square error", title=what)
axes[1].legend(frameon=False, fontsize=7.5)
plt.show()

for name, (_, second) in samples.items():
    standard_error = second.std(0) / len(second) ** 0.5
    expected = jax.hessian(
        lambda theta, name=name: surrogate(theta, value_baseline, estimators[name].get("lambda_", 1.0))
    )(theta).reshape(6, 6)
    deviation = float(jnp.max(jnp.abs(second.mean(0) - expected) / standard_error))
    print(f"{name:33} mean Hessian of {len(second) * small_batch:,} episodes: largest deviation from its exact "
          f"mean {deviation:.1f} standard errors")  # fmt: skip
    if SIZE != "tiny":
        assert deviation < 5

# %% [markdown]
# All fall as $1/\sqrt N$ until their bias stops them. A value baseline cuts the noise of both orders. Loaded DiCE is
# the better estimator while batches are small; it levels off at the bias that the enumeration gave.
#
# ## Curvature
#
# No Hessian has to be formed: a Hessian-vector product is one `jax.jvp` of the gradient, at about twice its cost, and the
# same key means the same episodes. Along the gradient it gives the second-order model
# $J(\theta + \alpha g) \approx J + \alpha\lVert g\rVert^2 + \tfrac{\alpha^2}{2} g^\top \nabla^2 J\, g$, and with it a
# sense of how long a step may be.

# %%
J = dice.objective(env, policy, num_episodes=1024, weight=rtg, baseline=value_baseline)


@jax.jit
def along_the_gradient(key):
    """Ŝ, ĝᵀg and gᵀĤg for g = ∇J, from 1,024 episodes."""

    def slope(theta):
        return jax.grad(J, 1)(key, theta)

    found, product = jax.jvp(slope, (theta,), (gradient,))
    return J(key, theta), jnp.vdot(found, gradient), jnp.vdot(gradient, product)


found = np.array([along_the_gradient(key) for key in jax.random.split(jax.random.key(3), SIZES["replicates"])])
slope, curvature = float(jnp.sum(gradient**2)), float(gradient.ravel() @ hessian @ gradient.ravel())
deviation = found.std(0, ddof=1)
print(f"gᵀg:     {slope:.4f} exact, {found[:, 1].mean():.4f} ± {deviation[1] / len(found) ** 0.5:.4f} sampled")
print(f"gᵀ∇²J g: {curvature:.4f} exact, {found[:, 2].mean():.4f} ± {deviation[2] / len(found) ** 0.5:.4f} sampled; "
      f"one estimate of 1,024 episodes ± {deviation[2]:.4f}")  # fmt: skip

start = float(mdp.objective(policy, theta))
longest = 3 * slope / abs(curvature)
steps = jnp.linspace(0, longest, 60)
true_return = jax.jit(jax.vmap(lambda a: mdp.objective(policy, theta + a * gradient)))(steps)
model = found[:, :1] + found[:, 1:2] * steps + 0.5 * found[:, 2:] * steps**2
figure, ax = plt.subplots(figsize=(5.2, 3.3), layout="constrained")
ax.plot(steps, true_return, color="black", label="J(θ + α ∇J), exact")
ax.plot(steps, start + slope * steps, "C1--", linewidth=1, label="first order, exact")
ax.plot(steps, start + slope * steps + 0.5 * curvature * steps**2, "C0--", linewidth=1, label="second order, exact")
ax.fill_between(steps, *np.quantile(model, [0.05, 0.95], axis=0), color="C0", alpha=0.25, linewidth=0,
                label="second order, 1,024 episodes: 90% of estimates")  # fmt: skip
ax.set(xlabel="step α", ylabel="expected return", title="Along the gradient")
ax.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# ## Natural gradients
#
# A natural gradient measures the length of a step by how far it moves the policy's distributions:
#
# $$x = (F + \lambda I)^{-1}\nabla J, \qquad F = \mathbb{E}\Big[\sum_t \psi_t\psi_t^\top\Big].$$
#
# $F$ is never formed: conjugate gradients need products $Fv$ only. Given every state with its expected number of visits,
# `fisher_vector_product` is exact. `jaxpg.natural_gradient` takes both $F$ and $\nabla J$ from episodes.

# %%
damping = 0.1
visits = mdp.state_distribution(policy, theta).sum(0)
vector = jax.random.normal(jax.random.key(4), theta.shape)
product = jaxpg.natural.fisher_vector_product(policy, theta, jnp.arange(3), vector, weights=visits)
same(product.ravel(), mdp.fisher(policy, theta) @ vector.ravel())

truth = mdp.natural_gradient(policy, theta, damping=damping)
same(jnp.linalg.solve(mdp.fisher(policy, theta) + damping * jnp.eye(6), gradient.ravel()), truth.ravel())
print("episodes   relative error of the natural gradient: root mean square, and of its mean")
for n in SIZES["natural"]:
    natural = jaxpg.natural_gradient(env, policy, num_episodes=n, weight=rtg, baseline=value_baseline, damping=damping)
    keys = jax.random.split(jax.random.key(5), SIZES["replicates"])
    directions = jax.jit(jax.vmap(lambda key, natural=natural: natural(key, theta).direction))(keys)
    scale = float(jnp.linalg.norm(truth))
    error = float(jnp.sqrt(jnp.mean(jnp.sum((directions - truth) ** 2, (1, 2))))) / scale
    of_mean = float(jnp.linalg.norm(directions.mean(0) - truth)) / scale
    print(f"{n:8,}   {error:.4f}   {of_mean:.4f} (noise of the mean: {error / len(keys) ** 0.5:.4f})")

# %% [markdown]
# What it is good for: the two-state problem of Kakade (2001). Staying in state 0 pays 1, staying in state 1 pays 2,
# moving pays nothing. The policy starts out likely to stay in 0 and unlikely to stay in 1. What the plain gradient does
# about state 1 is weighted with how seldom that state is visited, so it settles for the worse state first and leaves it
# late; $F$ has the same weight, and $F^{-1}$ takes it away. Gradients here are the exact ones, and all steps have one length.

# %%
two_states = exact.FiniteMDP(
    transition=[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]],  # Action 0 stays, action 1 moves.
    reward=[[1.0, 0.0], [2.0, 0.0]],
    initial=[0.8, 0.2],
    discount=0.95,
)
two_policy = jaxpg.policies.tabular(two_states.environment(max_steps=1))
begin = jnp.array([[1.5, -1.5], [-1.5, 1.5]])
optimum = float(two_states.initial @ two_states.optimal_values())


@functools.partial(jax.jit, static_argnames="direction")
def climb(direction, step):
    """Return, and the log odds of staying, before each of 300 updates."""

    def update(theta, _):
        uphill = direction(two_policy, theta)
        length = step / jnp.maximum(jnp.linalg.norm(uphill), 1e-3)  # Steps of one length, so that the paths compare.
        log_odds = theta[:, 0] - theta[:, 1]
        return theta + length * uphill, (two_states.objective(two_policy, theta), log_odds)

    return jax.lax.scan(update, begin, None, length=300)[1]


figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), layout="constrained")
for name, direction, color in (
    ("gradient", two_states.policy_gradient, "C1"),
    ("natural gradient", functools.partial(two_states.natural_gradient, damping=1e-6), "C0"),
):
    height, stay = climb(direction, 0.05)
    axes[0].plot(stay[:, 0], stay[:, 1], color=color, label=name)
    axes[0].plot(*stay[::50].T, "o", color=color, markersize=3)
    axes[1].plot((1 - two_states.discount) * height, color=color, label=name)
    print(f"{name:16}: {int(jnp.argmax(height > 0.95 * optimum)):4} updates to 95% of the optimal return"
          if float(height.max()) > 0.95 * optimum else f"{name:16}: not at 95% after 300 updates")  # fmt: skip
axes[1].axhline((1 - 0.95) * optimum, color="black", linewidth=0.8, linestyle="--", label="optimum")
axes[0].set(
    xlabel="log odds of staying in state 0", ylabel="log odds of staying in state 1", title="Path (dots: every 50)"
)
axes[1].set(xlabel="updates of one length", ylabel="(1 − γ) J", title="Return")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# And it does not depend on how the policy is parametrised. With $\theta = M\phi$ for a random matrix $M$, the natural
# direction changes the policy in the same way; the plain one does not.

# %%
matrix = jax.random.normal(jax.random.key(6), (6, 6))
other_policy = dataclasses.replace(policy, apply=lambda phi, s: policy.apply((matrix @ phi).reshape(3, 2), s))
phi = jnp.linalg.solve(matrix, theta.ravel())


def change(policy, params, direction):
    """How a step along `direction` changes log π(a | s), [state, action]."""

    def log_policy(params):
        return policy.apply(params, jnp.arange(3)).log_probs()

    return jax.jvp(log_policy, (params,), (direction,))[1]


def other_log_policy(phi):
    return policy.apply((matrix @ phi).reshape(3, 2), jnp.arange(3)).log_probs()


for name in ("natural_gradient", "policy_gradient"):
    here = change(policy, theta, getattr(mdp, name)(policy, theta))
    there = jax.jvp(other_log_policy, (phi,), (getattr(mdp, name)(other_policy, phi),))[1]
    gap = float(jnp.linalg.norm(here - there) / jnp.linalg.norm(here))
    print(f"{name:17} relative difference between the two parametrisations: {gap:.1e}")
    assert (gap < 1e-8) == (name == "natural_gradient")

# %% [markdown]
# ## Meta-gradients
#
# Take one policy-gradient step and ask how the return *after* it depends on the step's own settings:
#
# $$\theta' = \theta + \alpha\,\nabla J_{\eta}(\theta), \qquad
# \frac{\partial J(\theta')}{\partial(\alpha, \eta, \theta)},$$
#
# where $\eta$ is the discount that the step is taken with (short-sighted, perhaps), while $J$ has the true one. On a
# finite MDP this is plain automatic differentiation: the discount of an MDP is a leaf like any other.

# %%
inner_discount, alpha = 0.6, 1.0


def after_step(alpha, eta, theta):
    """J(θ'), exactly."""
    inner = dataclasses.replace(mdp, discount=eta)
    return mdp.objective(policy, theta + alpha * inner.policy_gradient(policy, theta))


exact_meta = jax.jit(jax.grad(after_step, (0, 1, 2)))(alpha, inner_discount, theta)
print(f"J(θ) = {start:.4f}, after the step {after_step(alpha, inner_discount, theta):.4f}")
print(f"∂/∂α = {exact_meta[0]:.4f}, ∂/∂η = {exact_meta[1]:.4f}")

inner = dataclasses.replace(mdp, discount=inner_discount)
stepped = theta + alpha * inner.policy_gradient(policy, theta)
outer_gradient = mdp.policy_gradient(policy, stepped).ravel()
same(exact_meta[0], outer_gradient @ inner.policy_gradient(policy, theta).ravel())
same(exact_meta[2].ravel(), outer_gradient + alpha * inner.hessian(policy, theta) @ outer_gradient)

# %% [markdown]
# The last line is the gradient of model-agnostic meta-learning: it needs the *Hessian* of the inner objective. Left out
# (first-order MAML), it costs this much:

# %%
first_order = float(jnp.linalg.norm(exact_meta[2].ravel() - outer_gradient) / jnp.linalg.norm(exact_meta[2]))
print(f"first-order MAML: off by {100 * first_order:.0f}% of the meta-gradient")

# %% [markdown]
# From episodes the same comes out of DiCE, which is exact in expectation at every order: differentiate an outer
# `dice.objective` through the gradient of an inner one. In `dice`, $\Psi$ is a constant, so for the discount $\eta$ the inner
# gradient is written out from `rollout.collect` and `weights.trajectory_weights`, which can be differentiated in $\eta$.


# %%
def inner_gradient(eta, theta, key, num_episodes):
    """The policy gradient with discount η, from fresh episodes: differentiable in η."""
    episodes, _ = jaxpg.rollout.collect(
        env, policy, jax.lax.stop_gradient(theta), key, num_episodes=num_episodes, final_rows=False
    )
    psi = weights.trajectory_weights(episodes, weights.reward_to_go(eta))
    factors = jnp.where(episodes.valid, eta**episodes.time * psi, 0.0)

    def log_policy(theta):
        return policy.apply(theta, episodes.observation).log_prob(episodes.action)

    return jax.grad(lambda theta: jnp.sum(factors * log_policy(theta)) / num_episodes)(theta)


def sampled_meta_gradients(num_episodes):
    """key -> the three meta-gradients, from N episodes before the step and N after it."""
    J_inner = dice.objective(env, policy, num_episodes=num_episodes, weight=weights.reward_to_go(inner_discount))
    J_outer = dice.objective(env, policy, num_episodes=num_episodes, weight=rtg, baseline=value_baseline)

    def found(key):
        before, after = jax.random.split(key)

        def by_dice(alpha, theta):
            return J_outer(after, theta + alpha * jax.grad(J_inner, 1)(before, theta))

        def by_hand(eta):
            return J_outer(after, theta + alpha * inner_gradient(eta, theta, before, num_episodes))

        of_alpha, of_theta = jax.grad(by_dice, (0, 1))(alpha, theta)
        return of_alpha, jax.grad(by_hand)(inner_discount), of_theta

    return jax.jit(jax.vmap(found))


keys = jax.random.split(jax.random.key(7), SIZES["replicates"])
names = ("∂/∂α", "∂/∂η", "∂/∂θ")
errors, slopes = {name: [] for name in names}, None
for n in SIZES["meta"]:
    slopes = sampled_meta_gradients(n)(keys)
    for name, found, true in zip(names, slopes, exact_meta, strict=True):
        squared = jnp.sum((found - true).reshape(len(keys), -1) ** 2, 1)
        errors[name].append(float(jnp.sqrt(squared.mean()) / jnp.linalg.norm(true)))
for name, found, true in zip(names[:2], slopes, exact_meta, strict=False):
    error = float(found.std(ddof=1)) / len(keys) ** 0.5
    print(f"{name}: {true:.4f} exact, {found.mean():.4f} ± {error:.4f} sampled, {SIZES['meta'][-1]:,} episodes each")
    if SIZE != "tiny":
        assert abs(found.mean() - true) < 5 * error

# %%
figure, axes = plt.subplots(1, 3, figsize=(9.0, 3.0), layout="constrained")
alphas, etas = jnp.linspace(0, 3 * alpha, 40), jnp.linspace(0.0, 1.0, 40)
curves = (
    (
        alphas,
        jax.jit(jax.vmap(lambda a: after_step(a, inner_discount, theta)))(alphas),
        alpha,
        slopes[0],
        "step size α",
    ),
    (
        etas,
        jax.jit(jax.vmap(lambda e: after_step(alpha, e, theta)))(etas),
        inner_discount,
        slopes[1],
        "inner discount η",
    ),
)
here = float(after_step(alpha, inner_discount, theta))
for ax, (grid, curve, at, found, label) in zip(axes, curves, strict=False):
    width = 0.25 * float(grid[-1])
    span = np.array([-width, width])
    for slope in np.asarray(found[:12]):
        ax.plot(at + span, here + slope * span, color="C1", linewidth=0.6, alpha=0.7)
    ax.plot([], [], color="C1", linewidth=0.8, label="sampled meta-gradients")
    ax.plot(grid, curve, color="black", label="exact")
    ax.plot(at, here, "o", color="black", markersize=4)
    ax.set(xlabel=label, ylabel="J(θ′)")
    ax.legend(frameon=False, fontsize=8)
for name, marker in zip(names, "os^", strict=True):
    axes[2].loglog(SIZES["meta"], errors[name], marker=marker, label=name)
axes[2].set(xlabel="episodes N", ylabel="relative root mean square error")
axes[2].legend(frameon=False)
plt.show()

# %% [markdown]
# The estimate after the step is nonlinear in the noise before it, so a meta-gradient from $N$ inner episodes has a bias of
# order $1/N$; at these batch sizes it is below the noise. Each part is a public function that can be put under `jit` and
# `vmap`: on a network, with no exact values in sight, the calls are the same.
