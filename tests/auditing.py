"""The χ² audit: is the mean of a sampled estimator what it should be, over many MDPs at once?

For each of K random MDPs the mean ḡ of R estimates is compared with the exact mean μ by
T² = R (ḡ − μ)ᵀ C⁺ (ḡ − μ), with the exact covariance C of one estimate, which is χ² with rank(C) degrees of freedom.
The K p-values are judged together: a Kolmogorov–Smirnov test against the uniform distribution, the smallest of them
times K, and the sum of the T², which is χ² too.
"""

from typing import NamedTuple

import estimators
import jax
import jax.numpy as jnp
import numpy as np
from enumeration import SmallMDP, enumerate_trajectories, random_mdp
from scipy import stats

import jaxpg

NUM_MDPS = 24
HORIZON = 3


class Problem(NamedTuple):
    mdp: SmallMDP
    logits: np.ndarray
    trajectories: object


def problems(seed=0, num_mdps=NUM_MDPS, **kwargs):
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(num_mdps):
        mdp = random_mdp(rng, horizon=HORIZON, **kwargs)
        logits = rng.normal(size=mdp.reward.shape)
        out.append(Problem(mdp, logits, enumerate_trajectories(mdp, logits)))
    return out


def stack(items):
    """The MDPs and logits as arrays with a leading MDP axis."""
    names = ("transition", "reward", "initial", "terminal")
    arrays = {name: jnp.asarray(np.stack([getattr(p.mdp, name) for p in items])) for name in names}
    return arrays, jnp.asarray(np.stack([p.logits for p in items]))


def sample(items, num_replicates, num_episodes, weight, baseline, extra=None, seed=1, **options):
    """Estimates [K, R, P]: `weight` and `baseline` are functions of the MDP's row of `extra` that give the records."""
    arrays, logits = stack(items)
    discount, horizon = items[0].mdp.discount, items[0].mdp.horizon
    extra = jnp.zeros(len(items)) if extra is None else jnp.asarray(extra)

    def of_mdp(arrays, logits, extra, key):
        mdp = jaxpg.exact.FiniteMDP(**arrays, discount=discount, horizon=horizon)
        env = mdp.environment()
        policy = jaxpg.policies.tabular(env)
        gradient = jaxpg.policy_gradient(
            env, policy, num_episodes=num_episodes, weight=weight(extra), baseline=baseline(extra), **options
        )
        return jax.vmap(lambda k: gradient(k, logits).gradient.ravel())(jax.random.split(key, num_replicates))

    keys = jax.random.split(jax.random.key(seed), len(items))
    return np.asarray(jax.jit(jax.vmap(of_mdp))(arrays, logits, extra, keys), np.float64)


def sample_row(row, num_mdps=100, num_replicates=1500, seed=1, **options):
    """Estimates [K, R, P] of a row of the estimators' table, their exact means [K, P] and covariances [K, P, P].

    Where the MDP does not know the covariance, it is that of the replicates.
    """
    num_episodes = 2 if row.importance == "self_normalized" else 4
    items = problems(seed=11, num_mdps=num_mdps)
    arrays, logits = stack(items)
    other = logits + 0.5 * np.random.default_rng(3).normal(size=logits.shape)
    discount, horizon = items[0].mdp.discount, items[0].mdp.horizon

    def of_mdp(arrays, logits, other, key):
        mdp = jaxpg.exact.FiniteMDP(**arrays, discount=discount, horizon=horizon)
        env = mdp.environment()
        policy = jaxpg.policies.tabular(env)
        temperature = row.terms.get("temperature")
        info = estimators.given(mdp, policy, logits, temperature)
        chosen = estimators.options(row, info, (policy, other))
        gradient = jaxpg.policy_gradient(env, policy, num_episodes=num_episodes, **chosen, **options)
        found = jax.vmap(lambda k: gradient(k, logits).gradient.ravel())(jax.random.split(key, num_replicates))
        covariance = None
        if row.known:
            exact = {**estimators.exact_options(row, info, (policy, other)), "num_episodes": num_episodes}
            mean, covariance = mdp.mean(policy, logits, **exact), mdp.covariance(policy, logits, **exact)
        elif row.unbiased:
            mean = mdp.policy_gradient(policy, logits, temperature=temperature)
        else:
            mean = _self_normalized_pair(mdp, policy, logits, other, row, info)
        return found, mean.ravel(), covariance

    keys = jax.random.split(jax.random.key(seed), num_mdps)
    found, mean, covariance = jax.jit(jax.vmap(of_mdp))(arrays, logits, other, keys)
    found = np.asarray(found, np.float64)
    if covariance is None or options:
        covariance = np.stack([np.cov(x.T) for x in found])
    return found, np.asarray(mean, np.float64), np.asarray(covariance, np.float64)


def _self_normalized_pair(mdp, policy, logits, other, row, info):
    """The exact mean for two episodes, over all pairs of trajectories."""
    trajectory, p = jaxpg.exact.every_episode(mdp, policy, logits, other)
    w = jaxpg.exact.every_episode(mdp, policy, logits)[1] / jnp.where(p > 0, p, 1.0)
    record = (row.weight(info), row.baseline(info))
    out = jaxpg.gradient_from(trajectory, policy, logits, *record, num_episodes=len(p), per_episode=True)
    g = out.episodes.gradient.reshape(len(p), -1)
    total = jnp.where(w[:, None] + w > 0, w[:, None] + w, 1.0)
    return 2 * jnp.einsum("i,j,i,ip,ij->p", p, p, w, g, 1 / total)


def audit_of_row(row, **options):
    """The verdict on a row of the estimators' table, over 100 MDPs."""
    return audit(*sample_row(row, **options))


class Verdict(NamedTuple):
    p_values: np.ndarray
    uniformity: float  # p of the Kolmogorov–Smirnov test
    smallest: float  # the smallest p-value times their number
    total: float  # p of Σ T²
    detectable: float  # the shift along a gradient's direction that would be seen with power 0.9, relative to ‖μ‖

    @property
    def passed(self):
        return min(self.uniformity, self.smallest, self.total) > 1e-3


def audit(estimates, means, covariances) -> Verdict:
    """Judges estimates [K, R, P] against exact means [K, P] and covariances [K, P, P] of one estimate."""
    p_values, detectable, statistics, dof = [], [], [], 0
    for sampled, mean, covariance in zip(estimates, means, covariances, strict=True):
        replicates = sampled.shape[0]
        eigenvalues, vectors = np.linalg.eigh(covariance)
        kept = eigenvalues > 1e-6 * eigenvalues.max()  # Covariances may come in single precision.
        difference = vectors.T @ (sampled.mean(0) - mean)
        # What has no variance must have no error either, but for rounding.
        assert np.abs(difference[~kept]).max(initial=0.0) < 1e-4 * (1 + np.abs(mean).max())
        t_squared = replicates * np.sum(difference[kept] ** 2 / eigenvalues[kept])
        p_values.append(stats.chi2.sf(t_squared, kept.sum()))
        statistics.append(t_squared)
        dof += int(kept.sum())
        signal = replicates * np.sum((vectors.T @ mean)[kept] ** 2 / eigenvalues[kept])
        detectable.append(signal)
    p_values = np.array(p_values)
    # Joint test: Σ T² ~ χ² with noncentrality δ² Σ signal; power 0.9 at level 1e-3 for a relative shift δ.
    critical = stats.chi2.isf(1e-3, dof)
    shifts = np.geomspace(1e-4, 1.0, 200)
    power = stats.ncx2.sf(critical, dof, shifts**2 * sum(detectable))
    seen = shifts[np.argmax(power > 0.9)] if (power > 0.9).any() else np.inf
    smallest = min(1.0, p_values.min() * len(p_values))
    total = stats.chi2.sf(sum(statistics), dof)
    return Verdict(p_values, stats.kstest(p_values, "uniform").pvalue, smallest, total, float(seen))
