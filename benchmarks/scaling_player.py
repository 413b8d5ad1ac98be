"""Compiles and runs the jobs of `scaling.py`, in the process that measures them."""

import inspect
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg
from benchmarks import collectives, common, floor
from jaxpg import _mesh, _shuffle
from jaxpg.algorithms import presets
from jaxpg.sweeps._job import Job
from jaxpg.training import _position
from jaxpg.training._hosts import put

MANY = 2**31 - 1  # Environment steps: more than a turn takes.
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)

# name: (kind, environment, sizes, updates of a turn).
JOBS = {
    "policy_gradient": ("policy_gradient", "CartPole-v1", {"num_episodes": 4096}, 4),
    "ppo_2048x128": ("ppo", "CartPole-v1", {"num_envs": 2048, "num_steps": 128}, 1),
    "ppo_64x128": ("ppo", "CartPole-v1", {"num_envs": 64, "num_steps": 128}, 8),
    "a2c_2048x8": ("a2c", "CartPole-v1", {"num_envs": 2048, "num_steps": 8}, 32),
    "sweep_64": ("sweep", "CartPole-v1", {"seeds": 16, "learning_rates": LEARNING_RATES}, 2),
}
QUICK = {
    "policy_gradient": {"num_episodes": 128},
    "ppo_2048x128": {"num_envs": 16, "num_steps": 8},
    "ppo_64x128": {"num_envs": 8, "num_steps": 8},
    "a2c_2048x8": {"num_envs": 16, "num_steps": 2},
    "sweep_64": {"seeds": 4, "learning_rates": (1e-3, 1e-2)},
}


class Player:
    """The jobs in a process with this many devices, with the calls that `common.Process` passes on."""

    def __init__(self, num_devices, quick):
        jaxpg.use_cpu_cores(num_devices)
        self._mesh = _mesh.as_mesh("mesh", "auto")
        self._quick = quick
        self._turns = {}

    def describe(self):
        return {"num_devices": len(jax.devices()), "device_kind": jax.devices()[0].device_kind}

    def prepare(self, name):
        """Compiles a job and runs it once: how long that took, and what the compiled program says."""
        kind, env_name, sizes, updates = JOBS[name]
        if self._quick:
            sizes, updates = QUICK[name], 1
        start = {"policy_gradient": self._estimate, "sweep": self._sweep}.get(kind, self._train)
        begun = time.perf_counter()
        compiled, loops, turn = start(kind, env_name, **sizes)
        seconds = time.perf_counter() - begun
        self._turns[name] = (turn, updates)
        turn(updates)
        return {
            "compile_seconds": seconds,
            "memory": common.memory_of(compiled),
            "collectives": collectives.summary(compiled.as_text(), loops),
            "sizes": sizes,
            "updates_of_a_turn": updates,
        }

    def run(self, name):
        """A turn: seconds, and the processor's seconds, of an update."""
        turn, updates = self._turns[name]
        start, start_processor = time.perf_counter(), time.process_time()
        turn(updates)
        end, end_processor = time.perf_counter(), time.process_time()
        return {"seconds": (end - start) / updates, "processor_seconds": (end_processor - start_processor) / updates}

    def compile_only(self, env_name, num_envs, num_steps):
        """What the program of an update of PPO says, with the line of the presets for the environment."""
        env = jaxpg.make(env_name)
        algorithm = presets.make("ppo", env, num_envs=num_envs, num_steps=num_steps)
        begun = time.perf_counter()
        # Only shapes: simulated devices share one memory. A small state tells what is laid out how.
        small = presets.make("ppo", env, num_envs=len(jax.devices()), num_steps=num_steps)
        laid_out = _position.start(small, self._mesh, jax.random.key(0))
        state = jax.tree.map(
            lambda x, like: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=like.sharding),
            jax.eval_shape(algorithm.init, jax.random.key(0)), laid_out,
        )  # fmt: skip
        program = _update(algorithm, self._mesh, state)
        compiled = program.lower(state, *self._counters(1)).compile()
        params = jax.tree.leaves((state.params, state.critic_params))
        return {
            "env": env_name,
            "num_envs": num_envs,
            "num_steps": num_steps,
            "num_devices": 1 if self._mesh is None else self._mesh.size,
            "num_epochs": algorithm.config["num_epochs"],
            "num_minibatches": algorithm.config["num_minibatches"],
            "num_parameters": int(sum(x.size for x in params)),
            "flops_per_step": _flops_per_step(state, algorithm.config["num_epochs"]),
            "compile_seconds": time.perf_counter() - begun,
            "memory": common.memory_of(compiled),
            "collectives": collectives.summary(compiled.as_text(), 1),
        }

    def shuffle(self, count, rounds):
        """Seconds of the shuffle of so many rows, which every device does for itself."""
        compiled = jax.jit(lambda key: _shuffle.permutation(key, count)).lower(jax.random.key(0)).compile()
        seconds = []
        for round_ in range(rounds + 1):
            key = jax.block_until_ready(jax.random.key(round_))
            start = time.perf_counter()
            jax.block_until_ready(compiled(key))
            seconds.append(time.perf_counter() - start)
        return seconds[1:]

    def _estimate(self, _, env_name, num_episodes):
        env, policy = _cartpole(env_name)
        gradient = jaxpg.policy_gradient(env, policy, num_episodes=num_episodes, mesh=self._mesh)
        params = policy.init(jax.random.key(0))
        compiled = jax.jit(gradient).lower(jax.random.key(0), params).compile()

        def turn(updates):
            for i in range(updates):
                jax.block_until_ready(compiled(jax.random.key(i), params))

        return compiled, 0, turn

    def _train(self, kind, env_name, **sizes):
        env, policy = _cartpole(env_name)
        algorithm = getattr(jaxpg, kind)(env, policy, **sizes)
        state = _position.start(algorithm, self._mesh, jax.random.key(0))
        compiled = _update(algorithm, self._mesh, state).lower(state, *self._counters(1)).compile()

        def turn(updates):
            nonlocal state
            state, _, count = jax.block_until_ready(compiled(state, *self._counters(updates)))
            assert int(count) == updates

        return compiled, 1, turn

    def _sweep(self, _, env_name, seeds, learning_rates):
        env, policy = _cartpole(env_name)
        # The check that hyperparameters can be traced, the batches and the compiled block are those of `sweep`.
        job = Job.of(
            lambda learning_rate: jaxpg.ppo(env, policy, learning_rate=learning_rate),
            {"learning_rate": list(learning_rates)}, seeds=seeds, key=jax.random.key(0), num_env_steps=MANY,
            runs_per_batch=None, mesh=self._mesh, evaluate_every=None, evaluation_episodes=1,
            deterministic_evaluation=None, nonfinite="stop",
        )  # fmt: skip
        batches = list(job.batches(job.runs()))  # On a CPU a batch has at most so many runs: others follow it.
        states = [pending.batch.start().states for pending in batches]

        def turn(updates):
            for i, pending in enumerate(batches):
                batch = pending.batch
                left = batch.lay_out(np.full(len(batch.points), MANY, np.int32))
                states[i], _ = jax.block_until_ready(
                    pending.compiled.block(batch.traced(), states[i], left, jnp.int32(updates))
                )

        return batches[0].compiled.block, 1, turn

    def _counters(self, updates):
        """(env steps left, most updates, halt?) of a block."""
        counters = (jnp.int32(MANY), jnp.int32(updates), jnp.bool_(False))
        return counters if self._mesh is None else put(counters, _mesh.replicated(self._mesh))


def _cartpole(env_name):
    env = jaxpg.make(env_name)
    return env, jaxpg.policies.mlp(env, (64, 64))


def _update(algorithm, mesh, state):
    """The function that `train` compiles for a state laid out like this one; not run: that may need much memory."""
    run = _position._compiled(algorithm, mesh)
    if mesh is None:
        return run
    inner = inspect.getclosurevars(run).nonlocals
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(inner["laid_out"], out_shardings=(shardings, inner["whole"], inner["whole"]))


def _flops_per_step(state, num_epochs):
    """Multiplications and additions of the networks' matrix products for a step: one pass forward to act and to value
    it, and in each epoch one forward and one backward, which need not go into the first layer's input."""
    total = 0
    for params in (state.params, state.critic_params):
        learning, _ = floor.operations_per_step(params)  # Twice forward, once backward.
        forward = 2 * sum(x.size for x in jax.tree.leaves(params) if x.ndim > 1)
        total += forward + num_epochs * (learning - forward)
    return int(total)
