"""How long does `import jaxpg` take, compared with `import jax`?  (The promise: at most 1.5 times.)

`import jaxpg` loads modules, and jax with them, when they are first used: to be honest about that, the time until
every public name is loaded is measured too. Each import runs in a fresh Python and they take turns, so that a busy
spell of the machine hits all. Compared is the child's processor time, user and system, which other programs disturb
less than the clock; the clock is reported as well.

    python -m benchmarks import_time [--quick]    benchmarks/results/import_time.json, outputs/benchmarks with --quick
"""

import argparse
import resource
import subprocess
import sys
import time

from benchmarks import common

STATEMENTS = {
    "import jax": "import jax",
    "import jaxpg": "import jaxpg",
    "every public name": "import jaxpg\nfor name in jaxpg.__all__:\n    getattr(jaxpg, name)",
}


def measure(statement):
    """(processor seconds, clock seconds) of a fresh Python that runs `statement`, interpreter start included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, cwd=common.ROOT)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks import_time", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=common.positive, help="how often each is timed (default 15; 3 with --quick)")
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (3 if options.quick else 15)

    processor = {name: [] for name in STATEMENTS}
    clock = {name: [] for name in STATEMENTS}
    for round_ in range(-1, rounds):
        for name, statement in STATEMENTS.items():
            times = measure(statement)
            if round_ >= 0:  # The first round compiles byte code and brings the files into memory.
                processor[name].append(times[0])
                clock[name].append(times[1])

    result = {
        "question": __doc__.splitlines()[0],
        "machine": common.machine(),
        "options": {**vars(options), "rounds": rounds},
        "processor_seconds": {name: {**common.spread(values), "rounds": values} for name, values in processor.items()},
        "clock_seconds": {name: {**common.spread(values), "rounds": values} for name, values in clock.items()},
        "ratio": {name: common.ratios(values, processor["import jax"]) for name, values in processor.items()},
    }
    rows = [
        [
            name,
            f"{result['processor_seconds'][name]['median']:.3f}",
            f"{result['clock_seconds'][name]['median']:.3f}",
            common.ratio_text(result["ratio"][name]),
        ]
        for name in STATEMENTS
    ]
    common.print_table(["", "processor s", "clock s", "÷ import jax"], rows)
    common.write_json(options.out or common.result_path("import_time", options.quick), result)
    return result


if __name__ == "__main__":
    main()
