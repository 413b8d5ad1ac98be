"""brax's PPO on Pendulum-v1, for `ppo.py`.

Run by an environment of its own, with the requests and answers of peer_seeds.py:

    python peer_brax.py brax '{"num_envs": 2048, …}'
    python peer_brax.py brax_per_core '{"num_envs": 2048, …}'       with one device a core, over which brax lays lanes

A turn. brax's `train` is one call: it compiles, trains epoch after epoch and calls `progress_fn` after each. Here it
runs in a thread, an epoch is a turn, and `progress_fn` waits for the request of the next one: the clock runs from there
to the next call of `progress_fn`, with nothing evaluated (`run_evals=False`). Whole runs are calls of `train` of their
own, of one epoch; their returns are those of sampled actions.

What brax has otherwise: minibatches are whole unrolls, not single steps; advantages are computed anew in every
minibatch with the critic of the moment; a truncated step gets no advantage; an episode starts where the first of its
lane did. Environment, networks and their first weights, distribution and optimiser are made equal (but for the critic's
last layer, whose first weights are √2 times as large). XLA's scheduler is as its users have it.
"""

import functools
import importlib.metadata
import json
import os
import queue
import sys
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

PACKAGES = ("brax", "jax", "jaxlib", "flax", "optax", "numpy")
LIMIT = 200  # Steps of an episode.
EPOCHS = 100_000  # More than anyone asks for.


class Step(NamedTuple):
    theta: jax.Array
    theta_dot: jax.Array
    reward: jax.Array


def swing(theta, theta_dot, torque):
    """A step of gymnax's Pendulum-v1: gravity 10, a rod of mass and length 1, 0.05 s."""
    torque = jnp.clip(torque, -2.0, 2.0)
    angle = (theta + jnp.pi) % (2 * jnp.pi) - jnp.pi
    reward = -(angle**2 + 0.1 * theta_dot**2 + 0.001 * torque**2)
    theta_dot = jnp.clip(theta_dot + 0.05 * (15.0 * jnp.sin(theta) + 3.0 * torque), -8.0, 8.0)
    return Step(theta + 0.05 * theta_dot, theta_dot, reward)


def first(key):
    """(θ, its velocity) at the start of an episode."""
    high = jnp.array([jnp.pi, 1.0])
    return tuple(jax.random.uniform(key, (2,), minval=-high, maxval=high))


def observe(theta, theta_dot):
    return jnp.stack([jnp.cos(theta), jnp.sin(theta), theta_dot])


def environment():
    """The pendulum as an environment of brax, which ends episodes itself."""
    from brax.envs.base import Env, State

    class Pendulum(Env):
        observation_size, action_size, backend = 3, 1, "none"

        def reset(self, key):
            state, zero = first(key), jnp.zeros(())
            return State(state, observe(*state), reward=zero, done=zero)

        def step(self, state, action):
            theta, theta_dot, reward = swing(*state.pipeline_state, action[0])
            return state.replace(pipeline_state=(theta, theta_dot), obs=observe(theta, theta_dot), reward=reward)

    return Pendulum()


def networks(given):
    """brax's `network_factory`: jaxpg's networks, its first weights, and a normal with a standard deviation apart."""
    from brax.training.agents.ppo.networks import make_ppo_networks

    orthogonal, gain = jax.nn.initializers.orthogonal, {"scale": 2**0.5}
    return functools.partial(
        make_ppo_networks, policy_hidden_layer_sizes=given["hidden"], value_hidden_layer_sizes=given["hidden"],
        activation=getattr(jax.nn, given["activation"]), distribution_type="normal", noise_std_type="log",
        policy_network_kernel_init_fn=orthogonal, policy_network_kernel_init_kwargs=gain,
        value_network_kernel_init_fn=orthogonal, value_network_kernel_init_kwargs=gain,
        mean_kernel_init_fn=orthogonal, mean_kernel_init_kwargs={"scale": 0.01},
    )  # fmt: skip


def replicated(tree, devices):
    """`jax.device_put_replicated`, which brax 0.14 calls once a run and jax 0.10 no longer has."""
    sharding = jax.sharding.NamedSharding(jax.sharding.Mesh(devices, ("i",)), jax.sharding.PartitionSpec("i"))
    return jax.tree.map(lambda x: jax.device_put(jnp.stack([x] * len(devices)), sharding), tree)


class Turns:
    """Trains in a thread, one epoch a request."""

    def __init__(self, given):
        self._given = given
        self._segment = given["num_envs"] * given["num_steps"]
        self._asked, self._answers = queue.SimpleQueue(), queue.SimpleQueue()

    def describe(self):
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
        return {"packages": versions, "devices": [str(device) for device in jax.devices()]}

    def _train(self, rate, updates, epochs=1, seed=0, progress=lambda *_: None):
        from brax.training.agents.ppo.train import train

        if not hasattr(jax, "device_put_replicated"):
            jax.device_put_replicated = replicated
        given = self._given
        return train(
            environment(), num_timesteps=epochs * updates * self._segment, num_evals=epochs + 1, run_evals=False,
            progress_fn=progress, seed=seed, episode_length=LIMIT, num_envs=given["num_envs"],
            unroll_length=given["num_steps"], batch_size=given["num_envs"] // given["num_minibatches"],
            num_minibatches=given["num_minibatches"], num_updates_per_batch=given["num_epochs"], learning_rate=rate,
            discounting=given["discount"], gae_lambda=given["lambda_"], reward_scaling=given["reward_factor"],
            clipping_epsilon=given["clip"], clipping_epsilon_value=given["value_clip"],
            vf_loss_coefficient=given["value_coefficient"], entropy_cost=given["entropy_coefficient"],
            max_grad_norm=given["max_gradient_norm"], network_factory=networks(given),
        )  # fmt: skip

    def prepare(self, rates, updates):
        """Starts a run and lets it do an epoch of so many updates, which compiles, and another."""
        (rate,) = rates

        def progress(*_):
            nonlocal start
            end = time.perf_counter(), time.process_time()
            self._answers.put([(b - a) / updates for a, b in zip(start, end, strict=True)])
            self._asked.get()
            start = time.perf_counter(), time.process_time()

        def run():
            try:
                self._train(rate, updates, EPOCHS, progress=progress)
            except BaseException as error:
                self._answers.put(error)

        start = time.perf_counter(), time.process_time()
        threading.Thread(target=run, daemon=True).start()
        seconds = self._epoch()["seconds"]
        self._asked.put(None)
        return {"compile_seconds": (seconds - self._epoch()["seconds"]) * updates}

    def _epoch(self):
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return dict(zip(("seconds", "processor_seconds"), answer, strict=True))

    def run(self, num_runs):
        """An epoch; seconds, and the processor's seconds, of an update."""
        self._asked.put(None)
        return self._epoch()

    def returns(self, rates, updates):
        """Mean returns of 128 episodes of each run after so many updates, and how long all took, with compiling."""
        start, found = time.perf_counter(), []
        for seed, rate in enumerate(rates):
            make_policy, params, _ = self._train(rate, updates, seed=seed + 1)
            found.append(float(jnp.mean(played(make_policy(params), jax.random.key(1000 + seed)))))
        return {"seconds": time.perf_counter() - start, "returns": found}


def played(policy, key, num_episodes=128):
    """Returns of fresh episodes."""
    env = environment()

    def episode(key):
        def step(state, key):
            state = env.step(state, policy(state.obs, key)[0])
            return state, state.reward

        return jnp.sum(jax.lax.scan(step, env.reset(key), jax.random.split(key, LIMIT))[1])

    return jax.jit(jax.vmap(episode))(jax.random.split(key, num_episodes))


def start(kind, given):
    if kind == "brax_per_core":
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    return Turns(given)


if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.abspath(__file__)))
    from peer_protocol import serve

    serve(lambda: start(sys.argv[1], json.loads(sys.argv[2])))
