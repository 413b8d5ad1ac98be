"""How much faster is a packed whole-episode gradient than the usual ways?

One gradient of N whole CartPole episodes, estimated by `jaxpg.policy_gradient` on one device (packed) and with one
device per core (packed_per_core), and by the rivals in `rivals.py`: same network, same number of episodes. Two
workloads: an untrained policy, whose episodes end early (untrained), and episodes that all last to the limit
(full_length), where there are no dead steps to save.

Method. On a CPU every contender has a process of its own, since a second device in a process slows one-device code;
they stay alive and take turns, forth and back, so that a busy spell of the machine hits all. One turn is one call,
timed inside the process around `block_until_ready`; compilation is apart. Ratios are taken round by round. Processor
seconds are those of all the process's threads: other programs on the machine hardly change them. The rivals' batch and
block sizes are tried out before, in another process, and the best are taken. On an accelerator one process runs all,
without packed_per_core.

On a CPU the same gradient in PyTorch (`peer_torch.py`), in an environment of its own, takes turns, too (torch).

The floor is the time of the bare matrix products of the live steps (`floor.py`), at rates measured in the same rounds:
those of a large product, and those of the policy's own shapes, then with tanh added. `distance` says whether a
contender's gradient is the same one as packed's: ‖difference‖ over what independent samples differ by, about 1, and 0
for the same sample. Memory: what XLA plans for one call on one device, and by how much the process grows while it runs.

    python -m benchmarks gradient                      benchmarks/results/gradient_<backend>.json
    python -m benchmarks gradient --quick              outputs/benchmarks/gradient_<backend>.json
"""

import argparse
import contextlib
import dataclasses
import subprocess

import jax
import numpy as np

from benchmarks import common, rivals
from benchmarks.peers import Peer, kept, python_of
from benchmarks.player import Player, Settings
from jaxpg.training.devices import set_xla_flags

CONTENDERS = ("packed", "packed_per_core", *rivals.RIVALS, "torch")
WORKLOADS = ("untrained", "full_length")
QUICK = {"num_episodes": 256, "rounds": 2, "limit": 100, "full_length_limit": 50, "tune": False}


def compete(settings, contenders, rounds, tune, one_process, torch_python=None):
    """Measures one workload, and gives all numbers of all rounds; `torch_python` plays torch."""
    start = common.InProcess if one_process else common.Process
    cores = common.num_cores()
    with contextlib.ExitStack() as stack:

        def player(name, num_devices=1):
            made = start(name, Player, settings, None if one_process else num_devices)
            stack.callback(made.close)
            return made

        tuning = _tuned(start, settings, contenders, one_process) if tune else {}
        meters = {"one_device": player("the rates")}
        if "packed_per_core" in contenders:
            meters["per_core"] = player("the rates of all cores", cores)
        if one_process:
            players = dict.fromkeys(contenders, meters["one_device"])
        else:
            players = {name: player(name, cores if name == "packed_per_core" else 1)
                       for name in contenders if name != "torch"}  # fmt: skip
            if "torch" in contenders:
                players["torch"] = TorchPlayer(settings, torch_python, tune)
                stack.callback(players["torch"].close)

        facts = {}
        for name in contenders:
            common.note(f"compiling {name}")
            best = tuning[name][0] if name in tuning else {}
            options = {option: value for option, value in best.items() if option != "seconds"}
            facts[name] = {"options": options, **players[name].ask("prepare", name, options)}
        turns = {name: [] for name in contenders}
        rates = {name: [] for name in meters}
        for round_ in range(rounds):
            common.note(f"round {round_ + 1} of {rounds}")
            for name in contenders if round_ % 2 == 0 else reversed(contenders):
                turns[name].append(players[name].ask("run", name, round_, round_ == 0))
            for name, meter in meters.items():
                rates[name].append(meter.ask("rates"))
        for name in contenders:  # One process for all tells nothing of one.
            facts[name]["rss_peak"] = None if one_process else players[name].ask("peak_rss")
        operations, tanh = meters["one_device"].ask("operations_per_step")
        return {"facts": facts, "turns": turns, "rates": rates, "tuning": tuning, "operations_per_step": operations,
                "tanh_per_step": tanh, "device": meters["one_device"].ask("describe")}  # fmt: skip


class TorchPlayer:
    """PyTorch, with the calls of a `Player`."""

    def __init__(self, settings, python, tune):
        problem = rivals.cartpole(settings.num_episodes, settings.limit, settings.hidden, settings.full_length)
        params = jax.tree.map(lambda x: np.asarray(x).tolist(), problem.policy.init(jax.random.key(0)))
        given = dict(params=params, num_episodes=settings.num_episodes, limit=settings.limit,
                     full_length=settings.full_length, discount=problem.discount)  # fmt: skip
        self._peer, self._tune = Peer("torch", python, "torch", given, "torch"), tune

    def ask(self, method, *arguments):
        return getattr(self, method)(*arguments)

    def prepare(self, name, options):
        return {"memory": None, "rss_compiled": 0, **self._peer.ask("prepare", self._tune)}

    def run(self, name, round_, with_gradient=False):
        answer = self._peer.ask("run", round_ + 1, with_gradient)
        if with_gradient:
            answer |= {"gradient": np.asarray(answer["gradient"]), "trace": np.nan}
        return answer

    def peak_rss(self):
        return None

    def close(self):
        self._peer.close()


def _tuned(start, settings, contenders, one_process):
    """{rival: its candidates, the quickest first}, tried out in a process that ends before anything is measured."""
    tuner = start("tuning", Player, settings, None if one_process else 1)
    tuning = {}
    for name in rivals.TUNABLE:
        if name in contenders:
            common.note(f"tuning {name}")
            tuning[name] = tuner.ask("tune", name)
    tuner.close()
    return tuning


def summarize(settings, measured):
    """What the numbers of `compete` come to, and the numbers."""
    turns, contenders = measured["turns"], {}
    seconds = {name: [turn["seconds"] for turn in turns[name]] for name in turns}
    reference = turns["packed"][0] if "packed" in turns else None
    for name, own in turns.items():
        middle = common.spread(seconds[name])
        steps = float(np.mean([turn["num_steps"] for turn in own]))
        contenders[name] = {
            **measured["facts"][name],
            "seconds": {**middle, "rounds": seconds[name]},
            "processor_seconds": common.spread([turn["processor_seconds"] for turn in own]),
            "num_steps": steps,
            "steps_per_second": steps / middle["median"],
            "episodes_per_second": settings.num_episodes / middle["median"],
            "utilization": float(np.mean([turn["utilization"] for turn in own])),
            "times_the_floor": _times_the_floor(measured, name, steps, middle["median"]),
            "distance": _distance(own[0], reference),
        }
    bases = [name for name in ("packed", "packed_per_core") if name in turns]
    return {
        "settings": dataclasses.asdict(settings),
        "contenders": contenders,
        "ratios": {
            base: {name: common.ratios(seconds[name], seconds[base]) for name in turns if name != base}
            for base in bases
        },
        **{name: measured[name] for name in ("rates", "tuning", "operations_per_step", "tanh_per_step")},
    }


def _times_the_floor(measured, name, steps, seconds):
    """The median time over that of the matrix products alone, by whose rate; and with tanh, at the layers' rate."""
    rates = measured["rates"].get("per_core" if name == "packed_per_core" else "one_device")
    large, layer, tanh = (float(np.median([rate[kind] for rate in rates])) for kind in ("large", "layer", "tanh"))
    products = steps * measured["operations_per_step"]
    return {
        "large": seconds * large / products,
        "layer": seconds * layer / products,
        "layer_and_tanh": seconds / (products / layer + steps * measured["tanh_per_step"] / tanh),
    }


def _distance(turn, reference):
    """‖g − g_packed‖ / √(2 tr Σ / N); None where tr Σ is not known."""
    if reference is None or not reference["trace"] > 0:
        return None
    return float(np.linalg.norm(turn["gradient"] - reference["gradient"]) / np.sqrt(2 * reference["trace"]))


def report(name, summary):
    """Prints a workload's table and ratios."""
    settings = summary["settings"]
    print(f"\n{name}: {settings['num_episodes']:,} episodes, limit {settings['limit']}, hidden {settings['hidden']}")
    header = ["contender", "median s", "min", "IQR", "processor s", "M steps/s", "k episodes/s", "utilization",
              "x floor: large", "own shapes", "and tanh", "XLA MiB", "RSS MiB", "compile s", "distance"]  # fmt: skip
    rows = []
    for contender, facts in summary["contenders"].items():
        seconds, floors, memory = facts["seconds"], facts["times_the_floor"], facts["memory"]
        growth = None if facts["rss_peak"] is None else facts["rss_peak"] - facts["rss_compiled"]
        rows.append([
            contender, f"{seconds['median']:.4f}", f"{seconds['min']:.4f}", f"{seconds['interquartile_range']:.4f}",
            f"{facts['processor_seconds']['median']:.4f}",
            f"{facts['steps_per_second'] / 1e6:.2f}", f"{facts['episodes_per_second'] / 1e3:.1f}",
            f"{facts['utilization']:.3f}", f"{floors['large']:.2f}", f"{floors['layer']:.2f}",
            f"{floors['layer_and_tanh']:.2f}", "?" if memory is None else f"{memory['total'] / 2**20:,.0f}",
            "?" if growth is None else f"+{growth / 2**20:,.0f}", f"{facts['compile_seconds']:.1f}",
            "?" if facts["distance"] is None else f"{facts['distance']:.2f}",
        ])  # fmt: skip
    common.print_table(header, rows)
    for base, others in summary["ratios"].items():
        for other, ratio in others.items():
            print(f"  {other} / {base}: {common.ratio_text(ratio)}")
    for devices, rounds in summary["rates"].items():
        rates = {kind: np.median([rate[kind] for rate in rounds]) / 1e9 for kind in rounds[0]}
        print(f"  rates, {devices}: {rates['large']:.0f} GFLOP/s large product, {rates['layer']:.0f} own shapes, "
              f"{rates['tanh']:.2f} G tanh/s")  # fmt: skip
    for rival, tried in summary["tuning"].items():
        texts = [f"{t['lanes']} lanes, blocks of {t['block']}: {t['seconds']:.3f} s" for t in tried]
        print(f"  tried for {rival}: {'; '.join(texts)}")


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gradient", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-episodes", type=common.positive, default=4096)
    parser.add_argument("--limit", type=common.positive, default=500, help="episode limit of `untrained`")
    parser.add_argument("--full-length-limit", type=common.positive, default=200, help="and of `full_length`")
    parser.add_argument("--hidden", type=common.positive, nargs="*", default=[64, 64], help="widths of hidden layers")
    parser.add_argument("--rounds", type=common.positive, default=9)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME",
                        help=", ".join(CONTENDERS))  # fmt: skip
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME",
                        help=", ".join(WORKLOADS))  # fmt: skip
    parser.add_argument("--num-lanes", type=common.positive, help="of packed (default: the library's)")
    parser.add_argument("--block-size", type=common.positive, help="of packed (default: the library's)")
    parser.add_argument("--no-tune", dest="tune", action="store_false", help="take the rivals' default sizes")
    parser.add_argument("--one-process", action="store_true", help="as on an accelerator, whatever the backend")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="without torch")
    parser.add_argument("--gym-python", help="a Python that has PyTorch, in the place of the environment made here")
    parser.add_argument("--quick", action="store_true",
                        help=f"to see that it works, torch only with --gym-python; sets {QUICK}")  # fmt: skip
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    if options.quick:
        given = parser.parse_args([])
        for name, value in QUICK.items():
            if getattr(options, name) == getattr(given, name):  # What was asked for stays.
                setattr(options, name, value)
    return options


def backend_of_this_machine():
    """Asked in a process of its own: this one would keep the accelerator, or fix the number of CPU devices."""
    probe = common.Process("the backend", Player, Settings(1, 1, (), False), 1)
    try:
        return probe.ask("describe")["backend"]
    finally:
        probe.close()


def main(arguments=None):
    options = parse(arguments)
    set_xla_flags()
    backend = jax.default_backend() if options.one_process else backend_of_this_machine()
    one_process = options.one_process or backend != "cpu"
    contenders = [name for name in CONTENDERS if name in options.contenders]
    if one_process and "packed_per_core" in contenders:
        common.note("packed_per_core is left out: it needs processes of its own on a CPU")
        contenders.remove("packed_per_core")
    torch_python = None
    if "torch" in contenders and not one_process:
        try:
            torch_python = python_of("torch", options)
        except subprocess.CalledProcessError as error:  # Without a network the rest can be measured.
            common.note(f"PyTorch could not be installed: {error}")
    if torch_python is None and "torch" in contenders:
        common.note("torch is left out: it needs a process and an environment of its own, which --quick does not make")
        contenders.remove("torch")
    if not contenders:
        raise SystemExit("none of --contenders can be measured here")
    result = {
        "question": __doc__.splitlines()[0],
        "machine": common.machine(),
        "backend": backend,
        "options": kept(options),
        "workloads": {},
    }
    for name in options.workloads:
        full_length = name == "full_length"
        settings = Settings(
            num_episodes=options.num_episodes,
            limit=options.full_length_limit if full_length else options.limit,
            hidden=tuple(options.hidden),
            full_length=full_length,
            num_lanes=options.num_lanes,
            block_size=options.block_size,
        )
        common.note(f"workload {name}")
        measured = compete(settings, contenders, options.rounds, options.tune, one_process, torch_python)
        result["machine"]["device"] = measured["device"]
        result["workloads"][name] = summarize(settings, measured)
        report(name, result["workloads"][name])
    common.write_json(options.out or common.result_path(f"gradient_{backend}", options.quick), result)
    return result


if __name__ == "__main__":
    main()
