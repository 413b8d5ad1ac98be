"""A small algorithm that compiles at once, with every kind of array in its state, for tests of runs and their files.

As a program, `python tests/training_runs.py DIRECTORY …` is a run that tests kill.
"""

import json
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxpg
from jaxpg.envs import Box, Discrete, Environment, Timestep
from jaxpg.lanes import KeyWords


class State(NamedTuple):
    params: Any
    optimizer: Any
    key: Any
    lanes: Any
    update: Any


def environment(max_steps=4):
    """Reward 1 for action 1, which the policy can learn."""

    def step(key, state, action):
        ended = jax.random.bernoulli(key, 0.2)
        return state + 1.0, Timestep(jnp.ones(1) * state, 1.0 * action, ended, jnp.zeros((), bool))

    return Environment(
        reset=lambda key: (jnp.zeros(()), jnp.ones(1)), step=step, max_steps=max_steps, name="coin",
        observation_space=Box(0, 99, (1,)), action_space=Discrete(2),
    )  # fmt: skip


def tiny(
    *, refused_at=None, name="tiny", config=None, width=2, steps_of_an_update=None, wild=False, env=None,
    learning_rate=0.1,
):  # fmt: skip
    """Random walks of `width` parameters towards action 1; each update takes 3 to 9 env steps.

    `refused_at`: the update (from 1) that meets NaN and is not applied. `steps_of_an_update`: fixed instead of drawn.
    `wild`: one of them sets the parameters to infinity.
    """
    env = environment() if env is None else env
    base = jaxpg.policies.mlp(env, ())
    policy = jaxpg.Policy(
        init=lambda key: {"logits": jnp.zeros(width), "network": base.init(key), "none": jnp.zeros((0, 3))},
        apply=lambda params, observation: base.apply(params["network"], observation),
    )
    optimizer = optax.adam(learning_rate)

    def init(key):
        first, rest = jax.random.split(key)
        params = policy.init(first)
        lanes = {
            "keys": KeyWords.of(jax.random.split(rest, 3)[0]),
            "typed": jax.random.split(rest, 2),
            "bytes": jnp.arange(3, dtype=jnp.uint8),
            "flags": jnp.array([True, False]),
            "half": jnp.ones(2, jnp.bfloat16) / 3,
            "none": None,
        }
        return State(params, optimizer.init(params), rest, lanes, jnp.zeros((), jnp.int32))

    def step(state):
        key = jax.random.fold_in(state.key, state.update)
        steps = jax.random.randint(key, (), 3, 10) if steps_of_an_update is None else jnp.int32(steps_of_an_update)
        gradient = jax.tree.map(lambda p: jax.random.normal(key, p.shape), state.params)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        after = State(
            optax.apply_updates(state.params, updates), optimizer_state, state.key,
            {**state.lanes, "half": state.lanes["half"] * 1.01}, state.update + 1,
        )  # fmt: skip
        if wild:
            after = after._replace(params=jax.tree.map(lambda p: p / (state.update != 2), after.params))
        returned = jax.random.uniform(key)
        metrics = {
            "env_steps": steps,
            "episode_return": jnp.where(returned < 0.3, jnp.nan, returned),
            "num_episodes": (returned >= 0.3) * 50,
            "loss": jnp.where(state.update % 5 == 3, jnp.inf, returned / 3).astype(jnp.bfloat16),
        }
        if refused_at is not None:
            bad = state.update + 1 == refused_at
            after = jax.tree.map(lambda new, old: jnp.where(bad, old, new), after, state)
            after = after._replace(update=state.update + 1)
            none = jnp.int32(-1)
            metrics |= {
                "nonfinite": bad.astype(jnp.int32),
                "nonfinite_lane": jnp.where(bad, 1, none),
                "nonfinite_episode": jnp.where(bad, 7, none),
            }
        return after, metrics

    return jaxpg.Algorithm(init=init, step=step, env=env, policy=policy, name=name, config=config or {"rate": 0.1})


def real():
    """REINFORCE on short episodes of CartPole."""
    env = jaxpg.make("CartPole-v1", max_steps=30)
    return jaxpg.reinforce(env, jaxpg.policies.mlp(env, (8,)), jaxpg.policies.value_mlp(env, (8,)), num_episodes=4)


def same(one, other):
    """Whether two trees are equal bit for bit; NaN is what it was."""
    ones, others = jax.tree.leaves(one), jax.tree.leaves(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(ones, others, strict=True):
        if jnp.issubdtype(jnp.asarray(a).dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
        assert a.tobytes() == b.tobytes() or (a.dtype.kind == "f" and np.array_equal(a, b, equal_nan=True))


def same_run(one, other):
    """Whether two results are those of the same run."""
    same(one.state, other.state)
    same(dict(one.history), dict(other.history))
    same(dict(one.evaluations), dict(other.evaluations))
    same(one.best_params, other.best_params)
    for field in ("num_env_steps", "num_updates", "stopped", "best_return", "num_nonfinite"):
        assert getattr(one, field) == getattr(other, field), field


def main(directory, kind, budget, pause):
    """A run that prints a line for each block and, with `pause`, takes its time."""
    import time

    def callback(block):
        print(f"at {int(block['total_env_steps'][-1])}", flush=True)
        time.sleep(float(pause))

    algorithm = {"tiny": tiny, "real": real}[kind]()
    result = jaxpg.train(
        algorithm, jax.random.key(3), num_env_steps=int(budget), directory=directory, evaluate_every=300,
        evaluation_episodes=4, checkpoint_every=60, callback=callback, progress=False,
    )  # fmt: skip
    print(json.dumps({"stopped": result.stopped, "updates": result.num_updates}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
