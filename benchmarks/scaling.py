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
are compiled for as many simulated devices as the machines of `paper.py` have, and not run. The shuffle, which every
device does as a whole, is timed on one device.

    python -m benchmarks scaling                      benchmarks/results/scaling_cpu.json, and docs/scaling.md
    python -m benchmarks scaling --quick              outputs/benchmarks/scaling_cpu.json
    python -m benchmarks scaling --page               docs/scaling.md from the results that there are
"""

import argparse
import contextlib
import json
import pathlib

from benchmarks import common, paper, scaling_page
from benchmarks.scaling_player import JOBS, Player

PARTS = ("jobs", "compiled", "shuffles")
# Compiled for the machines of paper.py and not run: (name, environment, environments, steps).
WANTED = (
    ("CartPole-v1", 2048, 128),
    ("CartPole-v1", 65_536, 128),
    ("Breakout-MinAtar", 2048, 128),
    ("Breakout-MinAtar", 65_536, 128),
)


def measure(options, devices):
    """{job: {devices: facts}}, all contenders in turns."""
    with contextlib.ExitStack() as stack:
        workers = {}
        for number in devices:
            workers[number] = common.Process(f"{number} devices", Player, number, options.quick)
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
            base = turns[devices[0]]
            measured[name] = {str(n): _facts(facts[n], turns[n], base) for n in devices}
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
    """What the programs of `WANTED` say for as many devices as the machines of paper.py have."""
    wanted = [(8, WANTED[:1])] if quick else [(machine.num_devices, WANTED) for machine in paper.MACHINES.values()]
    compiled = []
    for number, programs in wanted:
        worker = common.Process(f"{number} devices", Player, number, quick)
        for program in programs:
            common.note(f"compiling {program} for {number}")
            compiled.append(worker.ask("compile_only", *program))
        worker.close()
    return compiled


def time_shuffles(quick):
    """{rows: seconds} of a permutation of them on one device."""
    worker = common.Process("the shuffle", Player, 1, quick)
    counts = (1024,) if quick else (64 * 128, 2048 * 128, 65_536 * 128)
    shuffles = {str(count): common.spread(worker.ask("shuffle", count, 5)) for count in counts}
    worker.close()
    return shuffles


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", nargs="+", choices=JOBS, metavar="NAME", help=f"of {', '.join(JOBS)}; default all")
    parser.add_argument("--devices", nargs="+", type=common.positive, help="default 1 2 4 8; 1 2 with --quick")
    parser.add_argument("--rounds", type=common.positive, help="default 7; 1 with --quick")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS),
                        help="default all; the others stay in the file as they are")  # fmt: skip
    parser.add_argument("--remark", help="is kept with the result, such as what else the machine did")
    parser.add_argument("--page", action="store_true", help="measure nothing, write docs/scaling.md")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 7)
    options.jobs = options.jobs or (["policy_gradient", "ppo_64x128", "sweep_64"] if options.quick else list(JOBS))
    options.devices = options.devices or ([1, 2] if options.quick else [1, 2, 4, 8])
    return options


def main(arguments=None):
    options = parse(arguments)
    if options.page:
        scaling_page.write()
        return None
    path = pathlib.Path(options.out or common.result_path("scaling_cpu", options.quick))
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result["question"] = __doc__.splitlines()[0]
    kept = {name: value for name, value in vars(options).items() if name != "out"}
    about = {"machine": common.machine(), "options": kept}
    measured = {
        "jobs": lambda: measure(options, options.devices),
        "compiled": lambda: compile_for_paper(options.quick),
        "shuffles": lambda: time_shuffles(options.quick),
    }
    for part in options.parts:
        result[part] = {**about, "remark": options.remark, "measured": measured[part]()}
    common.write_json(path, result)
    if not options.quick and options.out is None:
        scaling_page.write()
    return result


if __name__ == "__main__":
    main()
