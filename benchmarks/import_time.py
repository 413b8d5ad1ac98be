"""How long does `import jaxpg` take, compared with `import jax`?  (The promise: at most 1.5 times.)

Each import runs in a fresh Python; the two take turns, so that a busy spell of the machine hits both. The time is the
child's processor time, user and system, which other programs disturb less than the clock; the clock is reported too.
Run it: `python benchmarks/import_time.py [--rounds 15] [--out import_time.json]`.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time

STATEMENTS = {"jax": "import jax", "jaxpg": "import jaxpg"}


def measure(statement):
    """(processor seconds, clock seconds) of a fresh Python that runs `statement`, interpreter start included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="how often each import is timed (default 15)")
    parser.add_argument("--out", help="write the result to this JSON file")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1; got {arguments.rounds}")

    for statement in STATEMENTS.values():  # byte code is compiled and files are cached before anything is timed
        measure(statement)
    times = {name: [] for name in STATEMENTS}
    for _ in range(arguments.rounds):
        for name, statement in STATEMENTS.items():
            times[name].append(measure(statement))

    processor = {name: [pair[0] for pair in pairs] for name, pairs in times.items()}
    clock = {name: [pair[1] for pair in pairs] for name, pairs in times.items()}
    ratios = sorted(b / a for a, b in zip(processor["jax"], processor["jaxpg"], strict=True))
    result = {
        "question": __doc__.splitlines()[0],
        "rounds": arguments.rounds,
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "processor_seconds": {name: statistics.median(values) for name, values in processor.items()},
        "clock_seconds": {name: statistics.median(values) for name, values in clock.items()},
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    for name in STATEMENTS:
        seconds, elapsed = result["processor_seconds"][name], result["clock_seconds"][name]
        print(f"import {name:6} {seconds:.3f} s of processor time, {elapsed:.3f} s by the clock (medians)")
    print(f"ratio         {result['ratio']:.2f} (median of {len(ratios)}; {ratios[0]:.2f} to {ratios[-1]:.2f})")
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(result, file, indent=2)
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
