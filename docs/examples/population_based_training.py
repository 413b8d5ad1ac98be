"""Population-based training (Jaderberg et al., 2017): 32 runs of PPO on CartPole-v1 that learn from each other."""

import jax
import jax.numpy as jnp

import jaxpg

SIZE, QUARTER, ROUNDS = 32, 8, 14
UPDATES = 8  # Of a round: 512 steps of every environment, so that an episode of at most 500 steps ends in each.

env = jaxpg.make("CartPole-v1")
policy = jaxpg.policies.mlp(env, hidden_sizes=(32, 32))


def ppo(learning_rate):
    """PPO with a learning rate that may be traced."""
    return jaxpg.ppo(env, policy, num_envs=8, num_steps=64, num_epochs=4, learning_rate=learning_rate)


@jax.vmap
def train(state, learning_rate):
    """A round of one member: its state, and the mean return of the episodes that ended."""
    state, metrics = jax.lax.scan(lambda state, _: ppo(learning_rate).step(state), state, length=UPDATES)
    ended = metrics["num_episodes"]
    return state, jnp.nansum(ended * metrics["episode_return"]) / ended.sum()


def exploit_and_explore(key, state, learning_rates, scores):
    """The worst quarter takes over what the best quarter has learned, with learning rates near to theirs."""
    order = jnp.argsort(scores)
    worst, best = order[:QUARTER], order[-QUARTER:]
    # Parameters and optimiser are copied; keys and environments are not, or copies would play the same episodes.
    learned = {name: getattr(state, name) for name in ("params", "critic_params", "learner")}
    learned = jax.tree.map(lambda x: x.at[worst].set(x[best]), learned)
    factors = jnp.where(jax.random.bernoulli(key, shape=(QUARTER,)), 0.8, 1.25)
    return state._replace(**learned), learning_rates.at[worst].set(learning_rates[best] * factors)


@jax.jit
def play(key, state, learning_rates, exploits):
    """All rounds, with or without exploiting: scores and learning rates [round, member]."""

    def play_round(members, key):
        state, rates = members
        state, scores = train(state, rates)
        after = exploit_and_explore(key, state, rates, scores)
        return jax.tree.map(lambda new, old: jnp.where(exploits, new, old), after, (state, rates)), (scores, rates)

    return jax.lax.scan(play_round, (state, learning_rates), jax.random.split(key, ROUNDS))[1]


rates = 10 ** jax.random.uniform(jax.random.key(0), (SIZE,), minval=-5.0, maxval=-1.0)
start = jax.vmap(lambda key, rate: ppo(rate).init(key))(jax.random.split(jax.random.key(1), SIZE), rates)
results = {name: play(jax.random.key(2), start, rates, name == "population") for name in ("independent", "population")}
for name, (scores, paths) in results.items():
    worst, low, high = jnp.sort(scores[-1])[:QUARTER], *jnp.quantile(paths[-1], jnp.array([0.25, 0.75]))
    print(f"{name}: mean {scores[-1].mean():.0f}, worst quarter {worst.mean():.0f}, rates {low:.1e} to {high:.1e}")
