"""How long from the start of Python until CartPole-v1 is solved: importing, compiling, training?

jaxpg with PGPE of a linear policy, compiled quickly, and with PPO; the others with PPO as each publishes it for the
task (`solve_program.py`); PPO in JAX also with XLA's options of our quick compiling. Each has the smallest of its
budgets of steps with which every seed tried reaches a mean return of 475 in 128 fresh episodes (found first, and not
timed; the largest where none does; `--budgets` gives those known from before). Then fresh processes take turns, forth
and back, another seed each round: timed from the start of the process to the end of training. JAX's libraries start
with nothing compiled, and again with JAX's persistent compilation cache filled (cached), as `jaxpg train` has it after
its first run.

    python -m benchmarks solve [--purejaxrl PATH/ppo.py]     benchmarks/results/solve_cpu.json
    python -m benchmarks solve --quick                       outputs/benchmarks/solve_cpu.json, without peers
"""

import argparse
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from benchmarks import common
from benchmarks.peers import add_options, kept, python_of
from benchmarks.startup import CACHED

TARGET = 475.0
BUDGETS = {
    "jaxpg": (50_000, 75_000, 100_000, 150_000, 200_000),
    "jaxpg_linear": (50_000, 100_000, 200_000, 400_000),
    "rejax": (50_000, 75_000, 100_000, 200_000),
    "purejaxrl": (100_000, 200_000, 300_000, 500_000),
    "stable_baselines3": (50_000, 75_000, 100_000),
    "sbx": (50_000, 75_000, 100_000),
}
SEEDS = 5  # That a budget is tried with.
WITHOUT_JAX = ("stable_baselines3",)
COMPILED_QUICKLY = ("jaxpg", "rejax", "purejaxrl")  # Too: are a peer's best settings those?
QUICK = (
    "--xla_cpu_enable_concurrency_optimized_scheduler=false --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)


class Contender:
    """A library, and the Python and the file that run it."""

    def __init__(self, name, python, kind, folder, flags=None):
        """`folder`: where the compilation cache is kept, or None: nothing is compiled before. `flags`: XLA's."""
        self.name = name
        self._command = [str(python), "-P", str(pathlib.Path(__file__).with_name("solve_program.py")), str(kind)]
        self._environment = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR", *CACHED)}
        if folder is not None:
            self._environment |= {**CACHED, "JAX_COMPILATION_CACHE_DIR": folder}
        if flags is not None:
            self._environment["XLA_FLAGS"] = flags

    def run(self, steps, seed):
        """(seconds from the start to the trained policy, its return)."""
        started = time.time()
        done = subprocess.run(
            [*self._command, str(steps), str(seed)], env=self._environment, capture_output=True, text=True,
            cwd=common.ROOT,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{self.name} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
        answer = json.loads(done.stdout.splitlines()[-1])
        return answer["trained"] - started, answer["return"]


def smallest_budget(contender, budgets, seeds):
    """(the smallest of the budgets with which all seeds reach the target or else the largest, returns of each)."""
    tried = {}
    for steps in budgets:
        tried[steps] = []
        for seed in range(1000, 1000 + seeds):
            tried[steps].append(contender.run(steps, seed)[1])
            if tried[steps][-1] < TARGET:
                break
        common.note(f"{contender.name}, {steps:,} steps: {', '.join(f'{x:.0f}' for x in tried[steps])}")
        if len(tried[steps]) == seeds and min(tried[steps]) >= TARGET:
            return steps, tried
    return budgets[-1], tried


def main(arguments=None):
    options = parse(arguments)
    rounds = options.rounds
    pythons = {name: (sys.executable, name) for name in ("jaxpg", "jaxpg_linear")}
    result = {"question": __doc__.splitlines()[0], "machine": common.machine(), "options": kept(options)}
    if options.peers and not options.quick:
        python = python_of("rejax", options)
        pythons["rejax"] = (python, "rejax")
        if options.purejaxrl:
            path = pathlib.Path(options.purejaxrl).resolve()
            pythons["purejaxrl"] = (python, path)
            result["purejaxrl_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        gym = python_of("gym", options)
        pythons |= {name: (gym, name) for name in ("stable_baselines3", "sbx")}
    pythons = {name: found for name, found in pythons.items() if name in options.contenders}
    with tempfile.TemporaryDirectory() as folder:
        budgets, trials, contenders = {}, {}, {}
        for name, (python, kind) in pythons.items():
            cached = Contender(f"{name}, cached", python, kind, folder)
            if name in options.budgets:
                budgets[name] = options.budgets[name]
                cached.run(budgets[name], 1000)  # Fills the cache.
            else:
                tried = BUDGETS[name][:1] if options.quick else BUDGETS[name]
                budgets[name], trials[name] = smallest_budget(cached, tried, 1 if options.quick else SEEDS)
            contenders[name] = Contender(name, python, kind, None)
            if name in COMPILED_QUICKLY:
                contenders[f"{name}, quick"] = Contender(name, python, kind, None, QUICK)
            if name not in WITHOUT_JAX:
                contenders[f"{name}, cached"] = cached
        found = {name: [] for name in contenders}
        for round_ in range(rounds):
            common.note(f"round {round_ + 1} of {rounds}")
            for name in contenders if round_ % 2 == 0 else reversed(contenders):
                found[name].append(contenders[name].run(budgets[name.split(",")[0]], round_))
    seconds = {name: [turn[0] for turn in turns] for name, turns in found.items()}
    result["contenders"] = {
        name: {
            "num_env_steps": budgets[name.split(",")[0]],
            "seconds": {**common.spread(seconds[name]), "rounds": seconds[name]},
            "returns": [turn[1] for turn in turns],
            "ratio_to_jaxpg": common.ratios(
                seconds[name], seconds["jaxpg, cached" if name.endswith("cached") else "jaxpg"]
            ),
        }
        for name, turns in found.items()
    }
    result["trials"] = trials
    rows = [
        [name, f"{f['num_env_steps']:,}", f"{f['seconds']['median']:.1f}",
         f"{f['seconds']['interquartile_range']:.1f}", common.ratio_text(f["ratio_to_jaxpg"]),
         " ".join(f"{x:.0f}" for x in f["returns"])]
        for name, f in result["contenders"].items()
    ]  # fmt: skip
    common.print_table(["contender", "steps", "seconds", "IQR", "/ jaxpg", "returns"], rows)
    common.write_json(options.out or common.result_path("solve_cpu", options.quick), result)
    return result


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks solve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--gym-python", help="the same with stable-baselines3 and sbx-rl")
    parser.add_argument("--budgets", type=json.loads, default={}, help='known from before: {"rejax": 200000, …}')
    parser.add_argument("--contenders", nargs="+", choices=list(BUDGETS), default=list(BUDGETS), help="with jaxpg")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    main()
