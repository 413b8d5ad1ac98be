"""How fast is PPO, with the hyperparameters, the network and the returns of its peers?

Three jobs: CartPole-v1 with 4 × 128 and with 2,048 × 128 steps an update, MinAtar's Breakout with 64 × 128; two hidden
layers of 64, policy and critic apart. Contenders: `train` with one device; `train_per_core` with one a core
(`mesh="auto"`); rejax, in an environment of its own that this script makes; and, where `--purejaxrl` names its ppo.py,
a single file with `make_train(config)`. What stays different between them is told in benchmarks/sweeps.py, but that
here jaxpg clips the critic's change, too.

Method. Every contender has a process of its own; the processes stay alive and take turns, forth and back. A turn
trains from the start for a few updates, compiling apart. One device of JAX may use several cores: processor seconds
tell how much it did. Then whole runs, for the return at the same number of steps: 128 fresh episodes of the last
parameters, actions sampled.

    python -m benchmarks ppo [--purejaxrl PATH/ppo.py]      benchmarks/results/ppo_cpu.json
    python -m benchmarks ppo --quick                        outputs/benchmarks/ppo_cpu.json, without peers
"""

import argparse
import contextlib
import hashlib
import math
import pathlib
import time

import jax
import numpy as np
import optax

import jaxpg
from benchmarks import common
from benchmarks.peers import Peer, add_options, kept, python_of

_SHARED = dict(discount=0.99, lambda_=0.95, clip=0.2, value_clip=0.2, value_coefficient=0.5, entropy_coefficient=0.01,
               max_gradient_norm=0.5, num_epochs=4, hidden=[64, 64], anneal=False)  # fmt: skip
# turn: updates of a turn; reach: the steps of a whole run; seeds: how many of these.
JOBS = {
    "cartpole_4": dict(
        **_SHARED, env="CartPole-v1", num_envs=4, num_steps=128, num_minibatches=4, learning_rate=2.5e-4,
        activation="tanh", turn=128, reach=500_000, seeds=4,
    ),
    "cartpole_2048": dict(
        **_SHARED, env="CartPole-v1", num_envs=2048, num_steps=128, num_minibatches=4, learning_rate=2.5e-4,
        activation="tanh", turn=2, reach=5_000_000, seeds=1,
    ),
    "breakout_64": dict(
        **_SHARED, env="Breakout-MinAtar", num_envs=64, num_steps=128, num_minibatches=8, learning_rate=5e-3,
        activation="relu", turn=8, reach=1_000_000, seeds=2,
    ),
}  # fmt: skip
_ARGUMENTS = ("num_envs", "num_steps", "num_epochs", "num_minibatches", "discount", "lambda_", "clip", "value_clip",
              "value_coefficient", "entropy_coefficient", "max_gradient_norm")  # fmt: skip


def segment(job):
    return job["num_envs"] * job["num_steps"]


def build(job, dtype=None):
    env = jaxpg.make(job["env"])
    network = dict(hidden_sizes=tuple(job["hidden"]), activation=job["activation"], dtype=dtype)
    return jaxpg.ppo(
        env, jaxpg.policies.mlp(env, **network), jaxpg.policies.value_mlp(env, **network),
        optimizer=optax.adam(job["learning_rate"], eps=1e-5), **{name: job[name] for name in _ARGUMENTS},
    )  # fmt: skip


class Player:
    """jaxpg in a process with this many devices, with the calls that `common.Process` passes on."""

    def __init__(self, num_devices):
        jaxpg.use_cpu_cores(num_devices)
        self._mesh = "auto" if num_devices > 1 else None
        self._job = self._algorithm = None

    def prepare(self, job):
        """Builds and compiles, and plays a turn."""
        self._job, self._algorithm = job, build(job)
        first = self._train(0, job["turn"] * segment(job))[1]
        return {"compile_seconds": first - self.run()["seconds"] * job["turn"]}

    def _train(self, seed, steps):
        start = time.perf_counter()
        result = jaxpg.train(
            self._algorithm, jax.random.key(seed), num_env_steps=steps, mesh=self._mesh, progress=False
        )
        return result, time.perf_counter() - start

    def run(self):
        """A turn: seconds, and the processor's seconds, of an update."""
        processor = time.process_time()
        _, seconds = self._train(0, self._job["turn"] * segment(self._job))
        return {
            "seconds": seconds / self._job["turn"],
            "processor_seconds": (time.process_time() - processor) / self._job["turn"],
        }

    def returns(self):
        """What whole runs reach, one after the other."""
        found, steps = [], math.ceil(self._job["reach"] / segment(self._job)) * segment(self._job)
        for seed in range(self._job["seeds"]):
            result, _ = self._train(seed + 1, steps)
            key = jax.random.key(1000 + seed)
            algorithm = self._algorithm
            played = jaxpg.evaluate(
                key, algorithm.env, algorithm.policy, result.params, num_episodes=128, deterministic=False
            )
            found.append(float(np.mean(played.returns)))
        return {"returns": found, "env_steps": steps}


class PeerPlayer:
    """A peer, with the same calls."""

    def __init__(self, name, python, kind):
        self._arguments, self._peer, self._job = (name, python, kind), None, None

    def ask(self, method):
        return getattr(self, method)()

    def prepare(self, job):
        self.close()
        self._job, self._peer = job, Peer(*self._arguments, job)
        return self._peer.ask("prepare", [job["learning_rate"]], job["turn"])

    def run(self):
        return self._peer.ask("run", 1)

    def returns(self):
        updates = math.ceil(self._job["reach"] / segment(self._job))
        answer = self._peer.ask("returns", [self._job["learning_rate"]] * self._job["seeds"], updates)
        return {"returns": answer["returns"], "env_steps": updates * segment(self._job)}

    def describe(self):
        return self._peer.ask("describe")

    def close(self):
        if self._peer is not None:
            self._peer.close()


def compete(job, contenders, rounds):
    """{contender: facts} of one job."""
    facts = {}
    for name, contender in contenders.items():
        common.note(f"compiling {name}")
        facts[name] = contender.prepare(job) if isinstance(contender, PeerPlayer) else contender.ask("prepare", job)
    turns = {name: [] for name in contenders}
    for round_ in range(rounds):
        for name in contenders if round_ % 2 == 0 else reversed(contenders):
            turns[name].append(contenders[name].ask("run"))
    for name, found in facts.items():
        for quantity in ("seconds", "processor_seconds"):
            values = [turn[quantity] for turn in turns[name]]
            found[quantity] = {**common.spread(values), "rounds": values}
        found["steps_per_second"] = segment(job) / found["seconds"]["median"]
        found["ratio_to_train"] = common.ratios(
            found["seconds"]["rounds"], [turn["seconds"] for turn in turns["train"]]
        )
    return facts


def report(name, facts):
    print(f"\n{name}")
    rows = [
        [contender, f"{f['steps_per_second'] / 1e3:,.0f}k", f"{f['seconds']['median'] * 1e3:.2f}",
         f"{f['seconds']['interquartile_range'] * 1e3:.2f}", f"{f['processor_seconds']['median'] * 1e3:.2f}",
         common.ratio_text(f["ratio_to_train"]), f"{f['compile_seconds']:.1f}",
         " ".join(f"{x:.0f}" for x in f.get("returns", ()))]
        for contender, f in facts.items()
    ]  # fmt: skip
    header = ["contender", "steps/s", "update ms", "IQR", "processor ms", "/ train", "compile s", "returns"]
    common.print_table(header, rows)


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ppo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--no-returns", dest="returns", action="store_false", help="leave out the whole runs")
    add_options(parser)
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def main(arguments=None):
    options = parse(arguments)
    out = options.out or common.result_path("ppo_cpu", options.quick)
    result = {"question": __doc__.splitlines()[0], "machine": common.machine(), "options": kept(options), "jobs": {}}
    with contextlib.ExitStack() as stack:

        def closed(process):
            stack.callback(process.close)
            return process

        cores = common.num_cores()
        contenders = {"train": closed(common.Process("one device", Player, 1))}
        if cores > 1:
            contenders["train_per_core"] = closed(common.Process("a device for each core", Player, cores))
        if python := python_of("rejax", options):
            contenders["rejax"] = closed(PeerPlayer("rejax", python, "rejax"))
            if options.purejaxrl:
                path = pathlib.Path(options.purejaxrl).resolve()
                contenders["purejaxrl"] = closed(PeerPlayer("purejaxrl", python, path))
                result["purejaxrl_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        for name in options.jobs:
            job = JOBS[name]
            if options.quick:
                job = {**job, "num_envs": min(job["num_envs"], 64), "turn": 1, "reach": 1, "seeds": 1}
            common.note(name)
            facts = compete(job, contenders, options.rounds)
            for contender, process in contenders.items():
                if options.returns:
                    common.note(f"whole runs of {contender}")
                    facts[contender] |= process.ask("returns")
                if isinstance(process, PeerPlayer):
                    result.setdefault("peers", {})[contender] = process.describe()
            report(name, facts)
            result["jobs"][name] = {"job": job, "contenders": facts}
            common.write_json(out, result)
    return result


if __name__ == "__main__":
    main()
