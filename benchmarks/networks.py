"""An update of PPO without all that is not its networks, as jaxpg computes them: what there is left to gain.

What is left of it: the policy forward in every step of the rollout, the critic forward for every row, and both of them
forward and backward for every minibatch, in blocks as jaxpg has them, with a step down the gradient. No environment is
stepped and no action drawn; nothing is recorded, shuffled or gathered; the loss is the sum of the squared outputs.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg
from jaxpg.algorithms import _blocks

__all__ = ["Networks", "models", "update"]


def models(job):
    """(environment, policy, critic) of a job."""
    env = jaxpg.make(job["env"])
    network = dict(hidden_sizes=tuple(job["hidden"]), activation=job["activation"])
    return env, jaxpg.policies.mlp(env, **network), jaxpg.policies.value_mlp(env, **network)


def update(job, policy, critic, params, observations):
    """(policy's, critic's) parameters after an update; `observations` [step, lane, …] stand for what is played.

    Every part needs a number of the part before, so that no product is left out, or taken out of a loop.
    """

    def act(total, observation):
        outputs = jax.vmap(lambda x: policy.apply(params[0], x))(_tied(observation, total))
        return _size(outputs), None

    total, _ = jax.lax.scan(act, jnp.zeros(()), observations)
    rows = _tied(observations, total)
    values = _blocks.in_blocks(lambda x: _blocks.over_rows(lambda x: critic.apply(params[1], x), x), rows)

    minibatch = rows.reshape(-1, *rows.shape[2:])[: rows.shape[0] * rows.shape[1] // job["num_minibatches"]]
    blocks = minibatch.reshape(_blocks._count(len(minibatch), 1), -1, *minibatch.shape[1:])

    def loss(params, block):
        distributions = jax.vmap(lambda x: policy.apply(params[0], x))(block)
        return _size((distributions, jax.vmap(lambda x: critic.apply(params[1], x))(block)))

    def gradient_step(params, _):
        def add(sums, block):
            return jax.tree.map(jnp.add, sums, jax.grad(loss)(params, block)), None

        if len(blocks) == 1:
            gradient = jax.grad(loss)(params, blocks[0])
        else:
            gradient = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), blocks)[0]
        return jax.tree.map(lambda p, g: p - 1e-9 * g, params, gradient), None

    number = job["num_epochs"] * job["num_minibatches"]
    return jax.lax.scan(gradient_step, _tied(params, jnp.sum(values)), None, length=number)[0]


def _size(outputs):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(outputs))


def _tied(tree, number):
    """`tree`, to be computed after `number`."""
    return jax.tree.map(lambda x: x * (1 + 1e-12 * number), tree)


class Networks:
    """The benchmark's player that does this; of several devices each has its own lanes, and no gradients are shared."""

    def __init__(self, num_devices, num_threads=None):
        jaxpg.use_cpu_cores(num_devices, num_threads)
        self._job = self._run = self._start = None

    def prepare(self, job):
        """Compiles, and plays an update."""
        self._job, devices = job, jax.devices()
        env, policy, critic = models(job)
        mesh = jax.sharding.Mesh(np.asarray(devices), ("device",))
        own, same = jax.sharding.PartitionSpec("device"), jax.sharding.PartitionSpec()

        def turn(params, observations, number):
            params, observations = jax.tree.map(lambda x: x[0], (params, observations))
            after = jax.lax.fori_loop(
                0, number, lambda _, params: update(job, policy, critic, params, observations), params
            )
            return jax.tree.map(lambda x: x[None], after)

        keys = jax.random.split(jax.random.key(0), 3)
        observation = env.reset(keys[0])[1]
        shape = (len(devices), job["num_steps"], job["num_envs"] // len(devices), *observation.shape)
        params = (policy.init(keys[1]), critic.init(keys[2]))
        params = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(devices), *x.shape)), params)
        sharding = jax.sharding.NamedSharding(mesh, own)
        self._start = jax.device_put((params, jnp.broadcast_to(observation, shape).astype(float)), sharding)
        self._run = jax.jit(jax.shard_map(turn, mesh=mesh, in_specs=(own, own, same), out_specs=own, check_vma=False))
        start = time.perf_counter()
        self.play(1)
        return {"compile_seconds": time.perf_counter() - start}

    def play(self, number):
        """The parameters [device, …] after so many updates."""
        return jax.block_until_ready(self._run(*self._start, number))

    def run(self):
        """A turn: seconds, and the processor's seconds, of an update."""
        start, processor = time.perf_counter(), time.process_time()
        self.play(self._job["turn"])
        seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor
        return {"seconds": seconds / self._job["turn"], "processor_seconds": processor_seconds / self._job["turn"]}

    def returns(self):
        """None: nothing is learnt."""
        return {}
