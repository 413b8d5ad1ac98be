"""Every trajectory of a small MDP, and from them the exact mean and covariance of estimators, in plain numpy.

Nothing here uses the library's own estimators: this is the truth that they are held against.
"""

import itertools
from typing import NamedTuple

import numpy as np


class SmallMDP(NamedTuple):
    """A finite MDP: P [S, A, S], r [S, A], initial [S], terminal [S], discount, horizon."""

    transition: np.ndarray
    reward: np.ndarray
    initial: np.ndarray
    terminal: np.ndarray
    discount: float
    horizon: int


class Trajectories(NamedTuple):
    """All M trajectories, padded to the horizon: arrays [M] and [M, H]."""

    probability: np.ndarray
    length: np.ndarray
    states: np.ndarray  # [M, H + 1]
    actions: np.ndarray
    rewards: np.ndarray
    scores: np.ndarray  # [M, H, P], zero behind the end.
    valid: np.ndarray
    terminated: np.ndarray  # [M]: reached a terminal state (else cut at the horizon).


def random_mdp(rng, num_states=3, num_actions=2, horizon=3, discount=0.8) -> SmallMDP:
    """State S − 1 is terminal, so that episodes differ in length."""
    transition = rng.dirichlet(np.ones(num_states), (num_states, num_actions))
    terminal = np.zeros(num_states, bool)
    terminal[-1] = True
    initial = np.append(rng.dirichlet(np.ones(num_states - 1)), 0.0)
    reward = rng.normal(size=(num_states, num_actions)) + 1.0
    return SmallMDP(transition, reward, initial, terminal, discount, horizon)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def enumerate_trajectories(mdp: SmallMDP, logits: np.ndarray) -> Trajectories:
    """All trajectories of the softmax policy with these logits [S, A], with their probabilities."""
    policy = softmax(logits)
    num_states, num_actions = logits.shape
    found = []

    def extend(probability, states, actions):
        ended = bool(actions) and mdp.terminal[states[-1]]
        if ended or len(actions) == mdp.horizon:
            found.append((probability, states, actions, ended))
            return
        state = states[-1]
        for action, following in itertools.product(range(num_actions), range(num_states)):
            p = probability * policy[state, action] * mdp.transition[state, action, following]
            if p > 0:
                extend(p, [*states, following], [*actions, action])

    for state in range(num_states):
        if mdp.initial[state] > 0:
            extend(mdp.initial[state], [state], [])

    m, h = len(found), mdp.horizon
    out = Trajectories(
        np.zeros(m),
        np.zeros(m, int),
        np.zeros((m, h + 1), int),
        np.zeros((m, h), int),
        np.zeros((m, h)),
        np.zeros((m, h, num_states * num_actions)),
        np.zeros((m, h), bool),
        np.zeros(m, bool),
    )
    for i, (probability, states, actions, ended) in enumerate(found):
        n = len(actions)
        out.probability[i], out.length[i], out.terminated[i] = probability, n, ended
        out.states[i, : n + 1], out.actions[i, :n], out.valid[i, :n] = states, actions, True
        for t in range(n):
            s, a = states[t], actions[t]
            out.rewards[i, t] = mdp.reward[s, a]
            score = np.zeros((num_states, num_actions))
            score[s] = -policy[s]
            score[s, a] += 1.0
            out.scores[i, t] = score.ravel()
    assert abs(out.probability.sum() - 1.0) < 1e-12
    return out


def rewards_to_go(mdp: SmallMDP, rewards: np.ndarray) -> np.ndarray:
    out = np.zeros_like(rewards)
    running = np.zeros(rewards.shape[0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + mdp.discount * running
        out[:, t] = running
    return out


def episode_weights(mdp: SmallMDP, traj: Trajectories, kind: str, value=None, lambda_=None, n=None) -> np.ndarray:
    """Ψ [M, H] by the textbook's forward definitions; `value` [S] is V, and what lies behind the end is worth 0."""
    m, h = traj.rewards.shape
    gamma = mdp.discount
    to_go = rewards_to_go(mdp, traj.rewards)
    if kind == "total_return":
        return np.where(traj.valid, to_go[:, :1], 0.0)
    if kind == "reward_to_go":
        return to_go
    psi = np.zeros((m, h))
    for i in range(m):
        length = traj.length[i]
        values = np.append(value[traj.states[i, :length]], 0.0)  # Every end here is a termination.
        r = traj.rewards[i]

        def n_step_advantage(t, steps, length=length, values=values, r=r):
            steps = min(steps, length - t)
            return sum(gamma**k * r[t + k] for k in range(steps)) + gamma**steps * values[t + steps] - values[t]

        for t in range(length):
            if kind == "n_step":
                psi[i, t] = n_step_advantage(t, n)
            elif kind == "td_residual":
                psi[i, t] = n_step_advantage(t, 1)
            elif kind == "gae":  # The exponentially weighted average of all n-step advantages.
                left = length - t
                psi[i, t] = sum(
                    (1 - lambda_) * lambda_ ** (k - 1) * n_step_advantage(t, k) for k in range(1, left)
                ) + lambda_ ** (left - 1) * n_step_advantage(t, left)
    return psi


def terms(mdp: SmallMDP, traj: Trajectories, psi, state_discount, baseline=None) -> np.ndarray:
    """g [M, P]: each trajectory's Σ_t w^t ψ_t (Ψ_t − b_t) for a given `baseline` [M, H]."""
    w = state_discount ** np.arange(mdp.horizon)
    difference = psi if baseline is None else psi - baseline
    return np.einsum("mh,mhp->mp", np.where(traj.valid, w * difference, 0.0), traj.scores)


def mean_and_covariance(traj: Trajectories, g: np.ndarray):
    """Exact mean [P] and covariance [P, P] of one episode's term."""
    mean = traj.probability @ g
    centred = g - mean
    return mean, centred.T @ (centred * traj.probability[:, None])


def pair_mean_and_covariance(mdp, traj, psi, state_discount, num_episodes, whole_episode):
    """Exact mean and covariance of the N-episode estimate with the leave-one-out baseline.

    ĝ = 1/(N (N−1)) Σ_{i≠j} h(i, j), h(i, j) = Σ_t w^t ψ_{i,t} (Ψ_{i,t} − Ψ_{j,t}): a U-statistic of order two, so with
    the symmetric kernel k = (h(i, j) + h(j, i)) / 2 its covariance is [4 (N − 2) ζ₁ + 2 ζ₂] / (N (N − 1)), with
    ζ₁ = Cov E[k | i] and ζ₂ = Cov k (Hoeffding, 1948).
    """
    w = state_discount ** np.arange(mdp.horizon)
    scaled = np.where(traj.valid, w, 0.0)[..., None] * traj.scores  # [M, H, P]
    own = np.einsum("mhp,mh->mp", scaled, psi)
    if whole_episode:  # The other's return counts at every step of mine, also behind its own end.
        others = np.einsum("ihp,j->ijp", scaled, psi[:, 0])
    else:
        others = np.einsum("ihp,jh->ijp", scaled, psi)
    h = own[:, None] - others
    kernel = 0.5 * (h + h.transpose(1, 0, 2))
    p = traj.probability
    mean = np.einsum("i,j,ijp->p", p, p, kernel)
    first = np.einsum("j,ijp->ip", p, kernel) - mean
    zeta_1 = first.T @ (first * p[:, None])
    both = (kernel - mean).reshape(-1, mean.size)
    zeta_2 = both.T @ (both * np.outer(p, p).reshape(-1, 1))
    n = num_episodes
    return mean, (4 * (n - 2) * zeta_1 + 2 * zeta_2) / (n * (n - 1))
