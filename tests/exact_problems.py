"""Small MDPs, and every trajectory of them in plain numpy: what `jaxpg.exact` is held against.

No code of the library is used here but for its constructors. Every definition is the textbook's forward one.
"""

import numpy as np

DISCOUNT = 0.8


class Problem:
    """A random MDP with S = 3, A = 2, a softmax policy with these logits, and all of its trajectories.

    `paths` is a list of (probability, states s_0 … s_n, actions a_0 … a_{n−1}, rewards), n ≤ horizon.
    """

    def __init__(self, seed=0, horizon=3, terminal=True, reward_axes=3, num_states=3, num_actions=2, discount=DISCOUNT):
        rng = np.random.default_rng(seed)
        self.horizon, self.discount = horizon, discount
        self.transition = rng.dirichlet(np.ones(num_states), (num_states, num_actions))
        shape = (num_states, num_actions, num_states)[:reward_axes]
        self.reward = rng.normal(size=shape) + 0.5
        self.logits = rng.normal(size=(num_states, num_actions))
        self.value = rng.normal(size=(horizon + 1, num_states))  # Some V(s, t), a wrong one.
        self.baseline = rng.normal(size=(horizon, num_states))
        self.terminal = np.zeros(num_states, bool)
        self.initial = rng.dirichlet(np.ones(num_states))
        if terminal:
            self.terminal[-1] = True
            self.initial = np.append(rng.dirichlet(np.ones(num_states - 1)), 0.0)
        self.pi = softmax(self.logits)
        self.behavior_logits = rng.normal(size=(num_states, num_actions))
        self.paths = self.enumerate(self.pi)

    def mdp(self, horizon="own"):
        import jaxpg.exact

        return jaxpg.exact.FiniteMDP(
            self.transition,
            self.reward,
            self.initial,
            discount=self.discount,
            horizon=self.horizon if horizon == "own" else horizon,
            terminal=self.terminal if self.terminal.any() else None,
        )

    def enumerate(self, pi):
        """All trajectories with their probabilities when `pi` [S, A] acts."""
        num_states, num_actions = pi.shape
        reward = np.broadcast_to(
            self.reward if self.reward.ndim == 3 else self.reward[..., None], self.transition.shape
        )
        unfinished = [(p, [s], [], []) for s, p in enumerate(self.initial) if p > 0]
        finished = []
        while unfinished:
            p, states, actions, rewards = unfinished.pop()
            if len(actions) == self.horizon or (actions and self.terminal[states[-1]]):
                finished.append((p, states, actions, rewards))
                continue
            s = states[-1]
            for a in range(num_actions):
                for s2 in range(num_states):
                    q = p * pi[s, a] * self.transition[s, a, s2]
                    if q > 0:
                        unfinished.append((q, [*states, s2], [*actions, a], [*rewards, reward[s, a, s2]]))
        return finished

    def scores(self, states, actions):
        """ψ_t = ∇ log π(a_t | s_t) for the logits in row-major order: [n, P]."""
        out = np.zeros((len(actions), *self.pi.shape))
        for t, (s, a) in enumerate(zip(states, actions, strict=False)):
            out[t, s] = -self.pi[s]
            out[t, s, a] += 1.0
        return out.reshape(len(actions), -1)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def to_go(rewards, discount):
    """Σ_{k≥t} γ^{k−t} r_k for every t."""
    n = len(rewards)
    return np.array([sum(discount ** (k - t) * rewards[k] for k in range(t, n)) for t in range(n)])


def n_step(rewards, values, discount, n):
    """Σ_{k<n} γ^k r_{t+k} + γⁿ V_{t+n} − V_t for every t; V is 0 from the end on (every end is a termination)."""
    length = len(rewards)
    values = [*values[:length], *([0.0] * (n + 1))]
    return np.array(
        [
            sum(discount**k * rewards[t + k] for k in range(min(n, length - t)))
            + discount**n * values[min(t + n, length)]
            - values[t]
            for t in range(length)
        ]
    )


def gae(rewards, values, discount, lambda_):
    """Σ_k (γλ)^k δ_{t+k}."""
    delta = n_step(rewards, values, discount, 1)
    return to_go(delta, discount * lambda_)


def expectation(pairs):
    """Mean [P] and covariance [P, P] from (probability, g) pairs."""
    probability = np.array([p for p, _ in pairs])
    g = np.array([g for _, g in pairs])
    mean = probability @ g
    return mean, (g - mean).T @ ((g - mean) * probability[:, None])
