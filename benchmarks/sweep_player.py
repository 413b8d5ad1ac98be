"""Runs the sweeps of `sweeps.py`, in the process that measures them."""

import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg
from benchmarks import common
from jaxpg.algorithms import presets
from jaxpg.sweeps._job import Job

ENV, STEPS = "CartPole-v1", 500_000
LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
MANY = 2**31 - 1


def build(learning_rate):
    return presets.make("ppo", jaxpg.make(ENV), STEPS, learning_rate=learning_rate)


def rates_of(num_runs):
    """The learning rates of so many runs: one run has the second, others all alike."""
    return [LEARNING_RATES[1]] if num_runs < len(LEARNING_RATES) else list(LEARNING_RATES)


class Player:
    """jaxpg in a process with this many devices, with the calls that `common.Process` passes on."""

    def __init__(self, num_devices):
        jaxpg.use_cpu_cores(num_devices)
        self._turns = {}
        self._alone = None

    def describe(self):
        return {"devices": [str(device) for device in jax.devices()]}

    def given(self):
        """The hyperparameters, for peers."""
        config = build(LEARNING_RATES[1]).config
        names = ("num_envs", "num_steps", "num_epochs", "num_minibatches", "discount", "lambda_", "clip",
                 "value_coefficient", "entropy_coefficient", "max_gradient_norm", "anneal")  # fmt: skip
        return {"env": ENV, "hidden": [64, 64], "activation": "tanh", **{name: config[name] for name in names}}

    def prepare(self, num_runs, updates):
        """Compiles the sweep of so many runs, and plays a turn."""
        rates = rates_of(num_runs)
        # The batches and the compiled block are those of `sweep`.
        job = Job.of(
            build, {"learning_rate": rates}, seeds=num_runs // len(rates), key=jax.random.key(0), num_env_steps=STEPS,
            runs_per_batch=None, mesh="auto", evaluate_every=None, evaluation_episodes=1,
            deterministic_evaluation=None, nonfinite="stop",
        )  # fmt: skip
        batches = list(job.batches(job.runs()))  # On a CPU a batch has at most so many runs: others follow it.
        states = [pending.batch.start().states for pending in batches]

        def turn():
            for i, pending in enumerate(batches):
                batch = pending.batch
                left = batch.lay_out(np.full(len(batch.points), MANY, np.int32))
                states[i], _ = jax.block_until_ready(
                    pending.compiled.block(batch.traced(), states[i], left, jnp.int32(updates))
                )

        self._turns[num_runs] = turn, updates
        turn()
        programs = {id(pending.compiled): pending.compiled for pending in batches}.values()
        return {
            "compile_seconds": sum(compiled.compile_seconds for compiled in programs),
            "batches": [len(pending.batch.points) for pending in batches],
            "memory": common.memory_of(batches[0].compiled.block),
        }

    def prepare_alone(self, updates):
        """One run with `train`."""
        self._alone = build(LEARNING_RATES[1])
        steps = updates * self._alone.config["num_envs"] * self._alone.config["num_steps"]

        def turn():
            jaxpg.train(self._alone, jax.random.key(0), num_env_steps=steps, progress=False)

        self._turns["alone"] = turn, updates
        start = time.perf_counter()
        turn()
        first = time.perf_counter() - start
        return {"compile_seconds": first - self.run("alone")["seconds"] * updates}

    def run(self, name):
        """A turn: seconds, and the processor's seconds, of an update of all runs."""
        turn, updates = self._turns[name]
        start, start_processor = time.perf_counter(), time.process_time()
        turn()
        end, end_processor = time.perf_counter(), time.process_time()
        return {"seconds": (end - start) / updates, "processor_seconds": (end_processor - start_processor) / updates}

    def plan(self, seeds, steps):
        plan = jaxpg.plan(
            build, {"learning_rate": list(LEARNING_RATES)}, seeds=seeds, key=jax.random.key(2026), num_env_steps=steps,
            mesh="auto", show=False,
        )  # fmt: skip
        return {"text": str(plan), "seconds": plan.seconds}

    def whole(self, seeds, steps):
        """The whole sweep through `jaxpg.sweep`."""
        start = time.perf_counter()
        runs = jaxpg.sweep(
            build, {"learning_rate": list(LEARNING_RATES)}, seeds=seeds, key=jax.random.key(2026), num_env_steps=steps,
            mesh="auto", evaluate_every=steps, progress=False,
        )  # fmt: skip
        total = time.perf_counter() - start
        returns = runs.evaluation_return.max("update").transpose("learning_rate", "seed").values  # One each.
        seconds = float(runs.wall_time.max())
        played = float(runs.env_steps.max("update").sum())
        return {
            "num_runs": int(runs.finished.size), "num_env_steps": steps, "seconds": seconds, "total_seconds": total,
            "seconds_per_run": seconds / runs.finished.size, "steps_per_second": played / seconds,
            "num_updates": float(runs.num_updates.mean()), "diverged": int(runs.diverged.sum()),
            "finished": int(runs.finished.sum()), "returns": by_rate(returns),
        }  # fmt: skip


def by_rate(returns):
    """{learning rate: mean over seeds, and how many seeds' mean returns reach 475}; `returns` is [rate][seed]."""
    return {
        f"{rate:g}": {"mean": float(np.mean(of_rate)), "at_least_475": int(np.sum(np.asarray(of_rate) >= 475)),
                      "seeds": len(of_rate)}
        for rate, of_rate in zip(LEARNING_RATES, returns, strict=True)
    }  # fmt: skip
