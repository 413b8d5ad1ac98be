"""What does it cost to lay a job over 1, 2, 4, 8 devices?

Jobs: one estimate of `jaxpg.policy_gradient` from 4,096 CartPole episodes; an update of PPO with 2,048 and with 64
environments of 128 steps; an update of A2C with 2,048 environments of 8 steps; an update of a sweep of 64 PPO runs (16
seeds, 4 learning rates). Networks have 64 × 64 units. Each is run with `mesh=` over 1 (no mesh), 2, 4 and 8 devices.

The devices are simulated: CPU devices, each number in a process of its own (what
`--xla_force_host_platform_device_count` does). They share the cores of the machine, so with more devices than cores
nothing can get quicker: the times show what laying out costs. The processes stay alive and take turns, forth and back;
a turn is a few updates; compiling is apart. Ratios to one device are taken round by round.

From the text of each compiled program: the collectives (`collectives.py`), how many an update takes and the bytes of
their results on a device; those of the trip counts that XLA knows are multiplied out. For jobs of `WANTED` the programs
are compiled for as many simulated devices as the machines of `paper.py` have, and not run. Operations that every device
does as a whole, the sorts of the shuffle, are counted too, and timed on one device.

    python -m benchmarks scaling                      benchmarks/results/scaling_cpu.json, and docs/scaling.md
    python -m benchmarks scaling --quick              outputs/benchmarks/scaling_cpu.json
    python -m benchmarks scaling --page               docs/scaling.md from the results that there are
"""

import argparse
import contextlib
import inspect
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg
from benchmarks import collectives, common, floor, paper, scaling_page
from jaxpg import _mesh
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
# Compiled for the machines of paper.py and not run: (name, environment, environments, steps).
WANTED = (
    ("CartPole-v1", 2048, 128),
    ("CartPole-v1", 65_536, 128),
    ("Breakout-MinAtar", 2048, 128),
    ("Breakout-MinAtar", 65_536, 128),
)


class Worker:
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
        algorithm = presets.make("ppo", jaxpg.make(env_name), num_envs=num_envs, num_steps=num_steps)
        begun = time.perf_counter()
        program, state = _update(algorithm, self._mesh)
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
        """Seconds of `jax.random.permutation` of so many rows, which every device does for itself."""
        compiled = jax.jit(lambda key: jax.random.permutation(key, count)).lower(jax.random.key(0)).compile()
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
        program, state = _update(algorithm, self._mesh)
        compiled = program.lower(state, *self._counters(1)).compile()

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
        (pending,) = job.batches(job.runs())
        batch, block = pending.batch, pending.compiled.block
        traced, states = batch.traced(), batch.start().states

        def turn(updates):
            nonlocal states
            left = batch.lay_out(np.full(len(batch.points), MANY, np.int32))
            states, _ = jax.block_until_ready(block(traced, states, left, jnp.int32(updates)))

        return block, 1, turn

    def _counters(self, updates):
        """(env steps left, most updates, halt?) of a block."""
        counters = (jnp.int32(MANY), jnp.int32(updates), jnp.bool_(False))
        return counters if self._mesh is None else put(counters, _mesh.replicated(self._mesh))


def _cartpole(env_name):
    env = jaxpg.make(env_name)
    return env, jaxpg.policies.mlp(env, (64, 64))


def _update(algorithm, mesh):
    """(the function that `train` compiles, a first state): jitted and not run, since a run may need much memory."""
    state = _position.start(algorithm, mesh, jax.random.key(0))
    run = _position._compiled(algorithm, mesh)
    if mesh is None:
        return run, state
    inner = inspect.getclosurevars(run).nonlocals
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(inner["laid_out"], out_shardings=(shardings, inner["whole"], inner["whole"])), state


def _flops_per_step(state, num_epochs):
    """Multiplications and additions of the networks' matrix products for a step: one pass forward to act and to value
    it, and in each epoch one forward and one backward, which need not go into the first layer's input."""
    total = 0
    for params in (state.params, state.critic_params):
        learning, _ = floor.operations_per_step(params)  # Twice forward, once backward.
        forward = 2 * sum(x.size for x in jax.tree.leaves(params) if x.ndim > 1)
        total += forward + num_epochs * (learning - forward)
    return int(total)


def measure(options, devices):
    """{job: {devices: facts}}, all contenders in turns."""
    with contextlib.ExitStack() as stack:
        workers = {}
        for number in devices:
            workers[number] = common.Process(f"{number} devices", Worker, number, options.quick)
            stack.callback(workers[number].close)
        measured = {}
        for name in options.jobs:
            facts = {}
            for number, worker in workers.items():
                common.note(f"compiling {name} for {number}")
                facts[number] = worker.ask("prepare", name)
            turns = {number: [] for number in workers}
            for round_ in range(options.rounds):
                common.note(f"{name}: round {round_ + 1} of {options.rounds}")
                for number in devices if round_ % 2 == 0 else reversed(devices):
                    turns[number].append(workers[number].ask("run", name))
            measured[name] = {str(number): _facts(facts[number], turns[number], turns[devices[0]]) for number in devices}
            report(name, measured[name])
        return measured


def _facts(facts, turns, base):
    seconds = [turn["seconds"] for turn in turns]
    return {
        **facts,
        "seconds": {**common.spread(seconds), "rounds": seconds},
        "processor_seconds": common.spread([turn["processor_seconds"] for turn in turns]),
        "ratio_to_one": common.ratios(seconds, [turn["seconds"] for turn in base]),
    }


def report(name, of_devices):
    print(f"\n{name}, per update")
    rows = []
    for number, facts in of_devices.items():
        seconds, counted = facts["seconds"], facts["collectives"]["per_update"]
        told = ", ".join(f"{v['count']} {kind} ({v['bytes']:,} B)" for kind, v in counted.items()) or "none"
        rows.append([number, f"{seconds['median']:.4f}", f"{seconds['interquartile_range']:.4f}",
                     common.ratio_text(facts["ratio_to_one"]), f"{facts['compile_seconds']:.1f}", told])  # fmt: skip
    common.print_table(["devices", "median s", "IQR", "/ one", "compile s", "collectives"], rows)


def compile_for_paper(quick):
    """What the programs of `WANTED` say for as many devices as the machines of paper.py have; and the shuffle."""
    wanted = [(8, WANTED[:1])] if quick else [(machine["num_devices"], WANTED) for machine in paper.MACHINES.values()]
    compiled = []
    for number, programs in wanted:
        worker = common.Process(f"{number} devices", Worker, number, quick)
        for program in programs:
            common.note(f"compiling {program} for {number}")
            compiled.append(worker.ask("compile_only", *program))
        worker.close()
    worker = common.Process("the shuffle", Worker, 1, quick)
    counts = (1024,) if quick else (64 * 128, 2048 * 128, 65_536 * 128)
    shuffles = {count: common.spread(worker.ask("shuffle", count, 5)) for count in counts}
    worker.close()
    return compiled, shuffles


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="NAME", help=", ".join(JOBS))
    parser.add_argument("--devices", nargs="+", type=common.positive, help="default 1 2 4 8; 1 2 with --quick")
    parser.add_argument("--rounds", type=common.positive, help="default 7; 1 with --quick")
    parser.add_argument("--no-paper", dest="paper", action="store_false", help="compile nothing for other machines")
    parser.add_argument("--remark", help="is kept with the result, such as what else the machine did")
    parser.add_argument("--page", action="store_true", help="measure nothing, write docs/scaling.md")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 7)
    options.devices = options.devices or ([1, 2] if options.quick else [1, 2, 4, 8])
    return options


def main(arguments=None):
    options = parse(arguments)
    if options.page:
        scaling_page.write()
        return None
    result = {
        "question": __doc__.splitlines()[0],
        "machine": common.machine(),
        "backend": "cpu",
        "options": vars(options),
        "remark": options.remark,
        "jobs": measure(options, options.devices),
    }
    if options.paper:
        result["compiled"], result["shuffle_seconds"] = compile_for_paper(options.quick)
    path = options.out or common.result_path("scaling_cpu", options.quick)
    common.write_json(path, result)
    if not options.quick and options.out is None:
        scaling_page.write()
    return json.loads(json.dumps(result))


if __name__ == "__main__":
    main()
