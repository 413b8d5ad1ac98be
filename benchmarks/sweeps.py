"""What does a run cost when 256 run in one program?

PPO on CartPole-v1 with the line of `jaxpg.algorithms.presets`, 500,000 steps a run, for 4 learning rates and up to 64
seeds. `sweep` has one device, `sweep_per_core` one a core (`mesh="auto"`); `train` is one run alone. Peers run vmapped
over the same numbers of seeds and learning rates, with the same environments, steps, epochs, minibatches, network and
optimiser settings: rejax, in an environment of its own that this script makes (outputs/benchmarks/peers), and, where
`--purejaxrl` names its ppo.py, a single file with `make_train(config)`.

Method. Every contender has a process of its own; the processes stay alive and take turns, forth and back. A turn is a
few updates of all runs, compiling apart; times of whole runs are that of an update times the updates of a run. One
device is one device of JAX, whose operations may use several cores: processor seconds tell how much they did. Then
the whole sweep, 256 runs, once, through `jaxpg.sweep` (`wall_time`, which has no compiling), and 16 whole runs of each
peer, for the returns that are reached: 128 fresh episodes of each run's last parameters, actions sampled.

What stays different: rejax updates policy and critic one after the other with an optimiser each, clips every entry of
a gradient to ±0.5 instead of its norm to 0.5, does not anneal the learning rate, and Adam's eps is 1e-8; both peers
clip the critic's change by 0.2, compute a reset at every step of every environment, and take a truncated episode for
one that has terminated. Their turns begin with fresh environments and networks, jaxpg's go on.

    python -m benchmarks sweeps [--purejaxrl PATH/ppo.py]      benchmarks/results/sweeps_cpu.json, and docs/scaling.md
    python -m benchmarks sweeps --quick                        outputs/benchmarks/sweeps_cpu.json, without peers
"""

import argparse
import contextlib
import hashlib
import json
import math
import pathlib

import numpy as np

from benchmarks import common, scaling_page
from benchmarks.peers import Peer, add_options, kept, python_of
from benchmarks.sweep_player import ENV, LEARNING_RATES, STEPS, Player, by_rate, rates_of
from jaxpg.algorithms import presets

# Runs at a time: updates of a turn.
SIZES = {1: 64, 16: 16, 64: 4, 256: 2}


def compete(contenders, sizes, rounds):
    """({runs: {contender: facts}}, {peer: why it fell out}); contenders: name -> (process, its least runs)."""
    measured, failed = {}, {}
    for num_runs, updates in sizes.items():
        rates = rates_of(num_runs) * (num_runs // len(rates_of(num_runs)))
        ready = {}
        for name, (process, least) in contenders.items():
            if name in failed or num_runs < least or (name == "train" and num_runs > 1):
                continue
            common.note(f"{num_runs} runs: compiling {name}")
            if name == "train":
                ready[name] = process.ask("prepare_alone", updates), "alone"
            else:
                given = rates if isinstance(process, Peer) else num_runs
                try:
                    ready[name] = process.ask("prepare", given, updates), num_runs
                except RuntimeError as error:
                    if not isinstance(process, Peer):
                        raise
                    common.note(f"{name} is left out from here on: {error}")
                    failed[name] = f"{num_runs} runs: {error}"
        turns = {name: [] for name in ready}
        for round_ in range(rounds):
            common.note(f"{num_runs} runs: round {round_ + 1} of {rounds}")
            for name in ready if round_ % 2 == 0 else reversed(ready):
                turns[name].append(contenders[name][0].ask("run", ready[name][1]))
        measured[num_runs] = {name: {**ready[name][0], **_spreads(turns[name])} for name in ready}
        for facts in measured[num_runs].values():
            base = measured[num_runs]["sweep"]["seconds"]["rounds"]
            facts["ratio_to_sweep"] = common.ratios(facts["seconds"]["rounds"], base)
            _per_run(facts, num_runs)
        report(num_runs, measured[num_runs])
    return measured, failed


def _spreads(turns):
    return {
        name: {**common.spread([turn[name] for turn in turns]), "rounds": [turn[name] for turn in turns]}
        for name in ("seconds", "processor_seconds")
    }


def _per_run(facts, num_runs):
    """Adds what a whole run comes to."""
    config = presets.PRESETS["ppo"][ENV]
    updates = math.ceil(STEPS / (config["num_envs"] * config["num_steps"]))
    for name in ("seconds", "processor_seconds"):
        facts[f"{name}_per_run"] = facts[name]["median"] * updates / num_runs


def report(num_runs, facts):
    print(f"\n{num_runs} runs at a time")
    rows = [
        [name, f"{f['seconds']['median']:.4f}", f"{f['seconds']['interquartile_range']:.4f}",
         f"{f['seconds_per_run']:.2f}", f"{f['processor_seconds_per_run']:.2f}", common.ratio_text(f["ratio_to_sweep"]),
         f"{f['compile_seconds']:.1f}"]
        for name, f in facts.items()
    ]  # fmt: skip
    header = ["contender", "update s", "IQR", "run s", "processor s", "/ sweep", "compile s"]
    common.print_table(header, rows)


def returns_of_peer(peer, seeds, updates):
    """What whole runs of a peer reach."""
    played = peer.ask("returns", [rate for rate in LEARNING_RATES for _ in range(seeds)], updates)
    returns = np.asarray(played["returns"]).reshape(len(LEARNING_RATES), seeds)
    return {"seconds": played["seconds"], "updates": updates, "returns": by_rate(returns)}


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sweeps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, choices=SIZES, help="runs at a time; default all, 1 4 if quick")
    parser.add_argument("--no-whole", dest="whole", action="store_false", help="leave out the whole sweep")
    parser.add_argument("--longest", type=float, default=25.0, help="minutes; a longer whole sweep gets fewer steps")
    parser.add_argument("--peer-seeds", type=common.positive, default=4, help="of each learning rate, for returns")
    add_options(parser)
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def main(arguments=None):
    options = parse(arguments)
    sizes = {size: 1 for size in (1, 4)} if options.quick else {n: SIZES[n] for n in options.sizes or SIZES}
    seeds, steps, updates = (1, 2048, 2) if options.quick else (64, STEPS, math.ceil(STEPS / 1024))
    cores = common.num_cores()
    out = options.out or common.result_path("sweeps_cpu", options.quick)
    result = {"question": __doc__.splitlines()[0], "machine": common.machine(), "options": kept(options),
              "remark": options.remark}  # fmt: skip
    with contextlib.ExitStack() as stack:

        def started(process):
            stack.callback(process.close)
            return process

        one = started(common.Process("one device", Player, 1))
        all_ = started(common.Process("a device for each core", Player, cores))
        given = result["hyperparameters"] = one.ask("given")
        contenders = {"train": (one, 1), "sweep": (one, 1), "sweep_per_core": (all_, max(cores, 2))}
        peers = {}
        if python := python_of("rejax", options):
            peers["rejax"] = started(Peer("rejax", python, "rejax", given))
            if options.purejaxrl:
                path = pathlib.Path(options.purejaxrl).resolve()
                peers["purejaxrl"] = started(Peer("purejaxrl", python, path, given))
            contenders |= {name: (peer, 1) for name, peer in peers.items()}
            result["peers"] = {name: peer.ask("describe") for name, peer in peers.items()}
            if options.purejaxrl:
                result["peers"]["purejaxrl"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        measured, result["failed"] = compete(contenders, sizes, options.rounds)
        result["sizes"] = {str(n): facts for n, facts in measured.items()}
        result["peer_returns"] = {}
        common.write_json(out, result)  # What there is, should the rest not end.
        for name, peer in peers.items():
            if name not in result["failed"]:
                common.note(f"whole runs of {name}")
                seeds_of_peer = 1 if options.quick else options.peer_seeds
                result["peer_returns"][name] = returns_of_peer(peer, seeds_of_peer, updates)
        if options.whole:
            result["plan"] = all_.ask("plan", seeds, steps)
            common.note(result["plan"]["text"])
            share = min(1.0, options.longest * 60 / result["plan"]["seconds"])
            result["whole"] = all_.ask("whole", seeds, steps if share == 1 else int(steps * share))
            print(json.dumps(result["whole"], indent=1))
    common.write_json(out, result)
    if not options.quick and options.out is None:
        scaling_page.write()
    return result


if __name__ == "__main__":
    main()
