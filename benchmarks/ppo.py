"""How fast is PPO, with the hyperparameters, the network and the returns of its peers?

Jobs: CartPole-v1 with 4 × 128, 8 × 128 and 2,048 × 128 steps an update, MinAtar's Breakout with 64 × 128, Pendulum-v1
with 2,048 × 16; two hidden layers of 64, policy and critic apart. Contenders: `train` with one device;
`train_per_core` with one a core (`mesh="auto"`), and where little is done at a time `train_one_thread`, XLA with one
thread; for each of these its networks alone (networks.py); and the peers that a job names, in environments of their
own that this script makes: rejax; stable-baselines3 and sbx, on gymnasium's CartPole; brax, which knows only
continuous actions, on a Pendulum written for it, with one device and with one a core; and, where `--purejaxrl` names
its ppo.py, a single file with `make_train(config)`; those on gymnax with one thread, too. What stays different between
them is told in benchmarks/sweeps.py (but that here jaxpg clips the critic's change, too), peer_gym.py and
peer_brax.py.

Method. Every contender has a process of its own; the processes stay alive and take turns, forth and back. A turn is a
few updates, compiling apart: from the start, but those of stable-baselines3, sbx and brax go on. One device of JAX may
use several cores: processor seconds tell how much it did. Then whole runs, for the return at the same number of steps:
128 fresh episodes of the last parameters, actions sampled. Where an episode is cut, jaxpg has a row for its last
observation: an update of the Pendulum has on average 0.5 % fewer steps, which steps/s leave out.

A job that is measured replaces the one in the file, where others stay with the machine and the options they had.

    python -m benchmarks ppo [--purejaxrl PATH/ppo.py]      benchmarks/results/ppo_cpu.json
    python -m benchmarks ppo --jobs cartpole_8              the same file, this job alone
    python -m benchmarks ppo --quick                        outputs/benchmarks/ppo_cpu.json, without peers
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
import time

import jax
import numpy as np
import optax

import jaxpg
from benchmarks import common
from benchmarks.networks import Networks
from benchmarks.peers import Peer, add_options, kept, python_of

_SHARED = dict(discount=0.99, lambda_=0.95, clip=0.2, value_clip=0.2, value_coefficient=0.5, entropy_coefficient=0.01,
               max_gradient_norm=0.5, num_epochs=4, hidden=[64, 64], anneal=False, adam_eps=1e-5, reward_factor=1,
               peers=["rejax", "purejaxrl"], one_thread=False)  # fmt: skip
# turn: updates of a turn; reach: the steps of a whole run; seeds: how many of these.
JOBS = {
    "cartpole_4": dict(
        **_SHARED, env="CartPole-v1", num_envs=4, num_steps=128, num_minibatches=4, learning_rate=2.5e-4,
        activation="tanh", turn=128, reach=500_000, seeds=4,
    ) | {"peers": ["rejax", "purejaxrl", "rejax_one_thread", "purejaxrl_one_thread"], "one_thread": True},
    "cartpole_8": dict(
        **_SHARED, env="CartPole-v1", num_envs=8, num_steps=128, num_minibatches=4, learning_rate=2.5e-4,
        activation="tanh", turn=128, reach=500_000, seeds=4,
    ) | {"peers": ["rejax", "rejax_one_thread", "stable_baselines3", "sbx"], "one_thread": True},
    "cartpole_2048": dict(
        **_SHARED, env="CartPole-v1", num_envs=2048, num_steps=128, num_minibatches=4, learning_rate=2.5e-4,
        activation="tanh", turn=2, reach=5_000_000, seeds=1,
    ),
    "breakout_64": dict(
        **_SHARED, env="Breakout-MinAtar", num_envs=64, num_steps=128, num_minibatches=8, learning_rate=5e-3,
        activation="relu", turn=8, reach=1_000_000, seeds=2,
    ),
    # Values reach −40, so that their change is not clipped; a turn is two episodes; eps is brax's.
    "pendulum_2048": dict(
        **_SHARED, env="Pendulum-v1", num_envs=2048, num_steps=16, num_minibatches=4, learning_rate=1e-3,
        activation="tanh", turn=25, reach=5_000_000, seeds=2,
    ) | {"discount": 0.95, "value_clip": None, "entropy_coefficient": 0.0, "adam_eps": 1e-8, "reward_factor": 1 / 8,
         "peers": ["brax", "brax_per_core"]},
}  # fmt: skip
# The groups of benchmarks/peers.py, and what their scripts call them.
PEERS = {"rejax": ("rejax", "rejax"), "purejaxrl": ("rejax", None), "rejax_one_thread": ("rejax", "rejax"),
         "purejaxrl_one_thread": ("rejax", None), "stable_baselines3": ("gym", "stable_baselines3"),
         "sbx": ("gym", "sbx"), "brax": ("brax", "brax"), "brax_per_core": ("brax", "brax_per_core")}  # fmt: skip
_ARGUMENTS = ("num_envs", "num_steps", "num_epochs", "num_minibatches", "discount", "lambda_", "clip", "value_clip",
              "value_coefficient", "entropy_coefficient", "max_gradient_norm")  # fmt: skip


def segment(job):
    return job["num_envs"] * job["num_steps"]


def scaled(env, factor):
    """The environment with `factor` times its rewards, as brax's `reward_scaling` has it."""

    def step(key, state, action):
        state, timestep = env.step(key, state, action)
        return state, timestep._replace(reward=timestep.reward * factor)

    return env if factor == 1 else dataclasses.replace(env, step=step)


def build(job, dtype=None):
    env = scaled(jaxpg.make(job["env"]), job["reward_factor"])
    network = dict(hidden_sizes=tuple(job["hidden"]), activation=job["activation"], dtype=dtype)
    return jaxpg.ppo(
        env, jaxpg.policies.mlp(env, **network), jaxpg.policies.value_mlp(env, **network),
        optimizer=optax.adam(job["learning_rate"], eps=job["adam_eps"]), **{name: job[name] for name in _ARGUMENTS},
    )  # fmt: skip


class Player:
    """jaxpg in a process with this many devices and threads, with the calls that `common.Process` passes on."""

    def __init__(self, num_devices, num_threads=None):
        jaxpg.use_cpu_cores(num_devices, num_threads)
        self._mesh = "auto" if num_devices > 1 else None
        self._job = self._algorithm = None

    def prepare(self, job):
        """Builds and compiles, and plays a turn."""
        self._job, self._algorithm = job, build(job)
        result, first = self._train(0, job["turn"] * segment(job))
        return {"compile_seconds": first - self.run()["seconds"] * result.num_updates}

    def _train(self, seed, steps):
        start = time.perf_counter()
        result = jaxpg.train(
            self._algorithm, jax.random.key(seed), num_env_steps=steps, mesh=self._mesh, progress=False
        )
        return result, time.perf_counter() - start

    def run(self):
        """A turn: seconds, the processor's seconds, and steps, of an update."""
        processor = time.process_time()
        result, seconds = self._train(0, self._job["turn"] * segment(self._job))
        processor_seconds = time.process_time() - processor
        return {
            "seconds": seconds / result.num_updates,
            "processor_seconds": processor_seconds / result.num_updates,
            "steps": result.num_env_steps / result.num_updates,
        }

    def returns(self):
        """What whole runs reach, one after the other."""
        found, steps = [], math.ceil(self._job["reach"] / segment(self._job)) * segment(self._job)
        env, algorithm = jaxpg.make(self._job["env"]), self._algorithm
        for seed in range(self._job["seeds"]):
            result, _ = self._train(seed + 1, steps)
            key = jax.random.key(1000 + seed)
            played = jaxpg.evaluate(key, env, algorithm.policy, result.params, num_episodes=128, deterministic=False)
            found.append(float(np.mean(played.returns)))
        return {"returns": found, "env_steps": steps}


class PeerPlayer:
    """A peer, with the same calls."""

    def __init__(self, name, python, kind, group):
        self._arguments, self._group, self._peer, self._job = (name, python, kind), group, None, None
        self._threads = 1 if name.endswith("_one_thread") else None

    def ask(self, method):
        return getattr(self, method)()

    def prepare(self, job):
        self.close()
        self._job, self._peer = job, Peer(*self._arguments, job, self._group, self._threads)
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
            self._peer = None


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
        found["steps_per_second"] = turns[name][0].get("steps", segment(job)) / found["seconds"]["median"]
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
    parser.add_argument("--gym-python", help="the same with stable-baselines3 and sbx")
    parser.add_argument("--brax-python", help="the same with brax")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def peers_of(options):
    """{name: a player} of the peers that the jobs ask for."""
    found = {}
    for name, (group, kind) in PEERS.items():
        asked = any(name in JOBS[job]["peers"] for job in options.jobs)
        if name.startswith("purejaxrl"):
            asked, kind = asked and options.purejaxrl, pathlib.Path(options.purejaxrl or "").resolve()
        if name.endswith("_per_core"):
            asked = asked and common.num_cores() > 1
        if asked and (python := python_of(group, options)):
            found[name] = PeerPlayer(name, python, kind, group)
    return found


def described(name, player, options):
    """What is written down of a peer."""
    found = player.describe()
    if name.startswith("purejaxrl"):
        found["sha256"] = hashlib.sha256(pathlib.Path(options.purejaxrl).read_bytes()).hexdigest()
    return found


def earlier(path):
    """The jobs in a result file, each with what earlier versions of this script wrote down once for all."""
    if not pathlib.Path(path).exists():
        return {}
    result = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    shared = {name: value for name, value in result.items() if name not in ("question", "jobs")}
    return {name: {**shared, **job} for name, job in result["jobs"].items()}


def main(arguments=None):
    options = parse(arguments)
    out = options.out or common.result_path("ppo_cpu", options.quick)
    result = {"question": __doc__.splitlines()[0], "jobs": earlier(out)}
    about = {"machine": common.machine(), "options": kept(options), "remark": options.remark}
    with contextlib.ExitStack() as stack:

        def closed(process):
            stack.callback(process.close)
            return process

        cores = common.num_cores()
        settings = {"train": ("one device", 1)}
        if cores > 1:
            settings["train_per_core"] = ("a device for each core", cores)
        if any(JOBS[name]["one_thread"] for name in options.jobs):
            settings["train_one_thread"] = ("one thread", 1, 1)
        ours = {}
        for who, (what, *devices) in settings.items():
            ours[who] = closed(common.Process(what, Player, *devices))
            bare = who.replace("train", "networks")
            ours[bare] = closed(common.Process(f"networks, {what}", Networks, *devices))
        peers = {name: closed(peer) for name, peer in peers_of(options).items()}
        for name in options.jobs:
            job = JOBS[name]
            if options.quick:
                job = {**job, "num_envs": min(job["num_envs"], 64), "turn": 1, "reach": 1, "seeds": 1}
            common.note(name)
            own = {who: player for who, player in ours.items() if job["one_thread"] or "_one_thread" not in who}
            contenders = own | {peer: peers[peer] for peer in job["peers"] if peer in peers}
            facts = compete(job, contenders, options.rounds)
            for contender, process in contenders.items():
                if options.returns:
                    common.note(f"whole runs of {contender}")
                    facts[contender] |= process.ask("returns")
            report(name, facts)
            versions = {peer: described(peer, peers[peer], options) for peer in contenders if peer in peers}
            result["jobs"][name] = {"job": job, **about, "peers": versions, "contenders": facts}
            common.write_json(out, result)
            for peer in versions:  # The next job's contenders have the machine for themselves.
                peers[peer].close()
    return result


if __name__ == "__main__":
    main()
