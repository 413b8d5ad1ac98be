"""Do the speeds hold that the project is out for?

Runs the benchmarks of ratios with few rounds, and compares each ratio with its goal, how many times as long the other
takes (or for floors, the part of our time that the floor is). A ratio below nine tenths of its goal, or one that was
not measured, ends the check with status 1. With `--reached` the goal of each ratio is what the committed results have,
where that is less: has anything become slower than it was? For CPUs; peers are those that are there, PureJaxRL only
where it is given.

    python -m benchmarks check [--purejaxrl PATH/ppo.py] [--reached]      outputs/benchmarks/check_*.json
    python -m benchmarks check --quick                                     nothing is run: the committed results
"""

import argparse
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import __main__ as runner
from benchmarks import common
from benchmarks.solve import TARGET

TOLERANCE = 0.9
PEERS = ("rejax", "purejaxrl", "rejax_one_thread", "purejaxrl_one_thread", "stable_baselines3", "sbx", "brax",
         "brax_per_core")  # fmt: skip
OWN = ("train", "train_per_core", "train_one_thread")


class Goal(NamedTuple):
    """A ratio of the result `benchmark`, and what it should be."""

    benchmark: str
    what: str
    goal: float
    ratio: Callable[[Any], float]


def of_gradient(workload, rival):
    def ratio(result):
        found = result["workloads"][workload]
        return max(base[rival]["median"] for base in found["ratios"].values())

    return ratio


def of_floor(workload):
    def ratio(result):
        contenders = result["workloads"][workload]["contenders"]
        return 1 / min(contenders[name]["times_the_floor"]["layer_and_tanh"] for name in ("packed", "packed_per_core"))

    return ratio


def of_ppo(job, peers=PEERS):
    """The time of the quickest of the peers over our best."""

    def ratio(result):
        found = result["jobs"][job]["contenders"]
        rounds = {name: found[name]["seconds"]["rounds"] for name in found}
        own = min((name for name in OWN if name in found), key=lambda name: found[name]["seconds"]["median"])
        return min(common.ratios(rounds[name], rounds[own])["median"] for name in peers if name in found)

    return ratio


def of_sweeps(runs):
    def ratio(result):
        found = result["sizes"][runs]
        own = found["sweep_per_core"]["seconds"]["rounds"]
        return min(
            common.ratios(found[name]["seconds"]["rounds"], own)["median"] for name in PEERS if name in found
        )  # fmt: skip

    return ratio


def of_solve(kind):
    """The quickest peer's time over that of our best that has always solved it: `kind` is "" or ", cached"."""
    kinds = (kind, ", quick") if not kind else (kind,)

    def ratio(result):
        found = result["contenders"]
        seconds = {name: facts["seconds"] for name, facts in found.items()}

        def those(libraries):
            return [name + kind for name in libraries for kind in kinds if name + kind in found]

        ours = [name for name in those(("jaxpg", "jaxpg_linear")) if min(found[name]["returns"]) >= TARGET]
        own = seconds[min(ours, key=lambda name: seconds[name]["median"])]["rounds"]
        return min(common.ratios(seconds[name]["rounds"], own)["median"] for name in those(PEERS))

    return ratio


GOALS = (
    Goal("gradient", "untrained episodes: vmap and scan of gymnax's step", 40, of_gradient("untrained", "idiomatic")),
    Goal("gradient", "untrained episodes: until every lane is dead", 3, of_gradient("untrained", "early_exit")),
    Goal("gradient", "200 steps each: vmap and scan of gymnax's step", 6, of_gradient("full_length", "idiomatic")),
    Goal("gradient", "200 steps each: the floor (1 / 1.8)", 1 / 1.8, of_floor("full_length")),
    Goal("gradient", "200 steps each: PyTorch, batched and in blocks", 2.5, of_gradient("full_length", "torch")),
    Goal("gradient_256", "256 × 256, 200 steps each: the floor (1 / 1.3)", 1 / 1.3, of_floor("full_length")),
    Goal("ppo", "CartPole, 4 × 128: the quickest peer", 1.5, of_ppo("cartpole_4")),
    Goal("ppo", "CartPole, 2,048 × 128: the quickest peer", 3, of_ppo("cartpole_2048")),
    Goal("ppo", "Breakout, 64 × 128: the quickest peer", 1.5, of_ppo("breakout_64")),
    Goal("ppo", "CartPole, 8 × 128: stable-baselines3 and sbx", 15, of_ppo("cartpole_8", ("stable_baselines3", "sbx"))),
    Goal("ppo", "Pendulum, 2,048 × 16: brax", 2, of_ppo("pendulum_2048")),
    Goal("sweeps", "16 runs: the quickest peer", 2, of_sweeps("16")),
    Goal("solve", "to a return of 475, ours PGPE of a linear policy, theirs PPO: the quickest peer", 2, of_solve("")),
    Goal("solve", "the same, compiled before", 2, of_solve(", cached")),
)
# A network of 256 × 256 is a run of `gradient` of its own.
WIDE = ["--hidden", "256", "256", "--workloads", "full_length", "--contenders", "packed", "packed_per_core"]
# What each benchmark is run with: few rounds, no whole runs.
ARGUMENTS = {
    "gradient": ["--rounds", "3", "--contenders", "packed", "packed_per_core", "idiomatic", "early_exit", "torch"],
    "gradient_256": ["--rounds", "3", *WIDE],
    "ppo": ["--rounds", "3", "--no-returns"],
    "sweeps": ["--rounds", "2", "--sizes", "16", "--no-whole"],
    "solve": ["--rounds", "3"],
}
WITH_PEERS = ("ppo", "sweeps", "solve")


def load(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def judge(goals, results, reached=None):
    """[(goal, ratio or None, what it must be)]; None where the result lacks what it is of."""
    judged = []
    for goal in goals:
        ratio, needed = _ratio(goal, results), goal.goal
        if reached is not None and (before := _ratio(goal, reached)) is not None:
            needed = min(needed, before)
        judged.append((goal, ratio, TOLERANCE * needed))
    return judged


def verdict(ratio, needed):
    return "NOT RUN" if ratio is None else "ok" if ratio >= needed else "BELOW"


def _ratio(goal, results):
    result = results.get(goal.benchmark)
    if result is None:
        return None
    try:
        return goal.ratio(result)
    except (KeyError, ValueError):  # A job or a peer was not run.
        return None


def main(arguments=None):
    options = parse(arguments)
    names = list(dict.fromkeys(goal.benchmark for goal in GOALS if goal.benchmark in options.benchmarks))
    committed = {name: load(common.result_path(f"{name}_cpu", quick=False)) for name in names}
    results = committed
    if not options.quick:
        results = {}
        for name in names:
            path = common.result_path(f"check_{name}", quick=True)
            peers = ["--purejaxrl", options.purejaxrl] if options.purejaxrl and name in WITH_PEERS else []
            if status := runner.run(name.removesuffix("_256"), [*ARGUMENTS[name], *peers, "--out", str(path)]):
                print(f"{name} ended with status {status}")
                return 1
            results[name] = load(path)
    judged = judge([goal for goal in GOALS if goal.benchmark in names], results, committed if options.reached else None)
    rows = [
        [goal.what, "" if ratio is None else f"{ratio:.2f}", f"{goal.goal:.3g}", f"{needed:.3g}",
         verdict(ratio, needed)]
        for goal, ratio, needed in judged
    ]  # fmt: skip
    common.print_table(["times as long", "measured", "goal", "at least", ""], rows)
    return int(not options.quick and any(verdict(ratio, needed) != "ok" for _, ratio, needed in judged))


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmarks", nargs="+", choices=ARGUMENTS, default=list(ARGUMENTS))
    parser.add_argument("--reached", action="store_true", help="compare with the committed results, not the goals")
    parser.add_argument("--quick", action="store_true", help="run nothing, show the committed results; status 0")
    parser.add_argument("--purejaxrl", metavar="PATH", help="ppo.py of PureJaxRL, or a file like it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
