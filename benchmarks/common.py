"""What the benchmarks share: processes that take turns, spreads over rounds, the machine, files and tables."""

import importlib
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import signal
import statistics
import sys
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("jaxpg", "jax", "jaxlib", "flax", "gymnax", "numpy")


class Process:
    """An object in a process of its own: `ask(method, ...)` calls its methods, one at a time.

    The process stays alive between calls, so what is measured there is compiled, and contenders that need different
    processes can still take turns.
    """

    def __init__(self, name, factory, *arguments):
        """`factory(*arguments)` makes the object there; `name` is for messages."""
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, factory, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, method, *arguments):
        try:
            self._connection.send((method, arguments))
            failed, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(timeout=10)
            raise RuntimeError(
                f"the process of {self.name} ended in {method} with exit status {self._process.exitcode}"
                f"{' (out of memory?)' if self._process.exitcode == -signal.SIGKILL else ''}"
            ) from None
        if failed:
            raise RuntimeError(f"{method} failed in the process of {self.name}:\n{answer}")
        return answer

    def close(self):
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()


class InProcess:
    """The same interface to an object in this process: on an accelerator, which one process holds."""

    def __init__(self, name, factory, *arguments):
        self.name = name
        self._object = factory(*arguments)

    def ask(self, method, *arguments):
        return getattr(self._object, method)(*arguments)

    def close(self):
        self._object = None


def _serve(connection, factory, arguments):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; this process ends with its connection.
    problem = served = None
    try:
        served = factory(*arguments)
    except Exception:
        problem = traceback.format_exc()
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = (True, problem) if problem else (False, getattr(served, method)(*arguments))
        except Exception:
            answer = (True, traceback.format_exc())
        connection.send(answer)


def spread(values):
    """Median, extremes and quartiles."""
    values = sorted(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {
        "median": statistics.median(values),
        "min": values[0],
        "max": values[-1],
        "quartiles": [low, high],
        "interquartile_range": high - low,
    }


def ratios(above, below):
    """The spread of above[r] / below[r], round by round: what hits both in a round cancels."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def ratio_text(values):
    """'3.05 (2.91 to 3.20)': median and range."""
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


def peak_rss():
    """The most memory that this process has held, in bytes."""
    # Not ru_maxrss where it can be avoided: on Linux a new process starts with what its parent held.
    held = _status("VmHWM")
    return held or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak_rss():
    """Lets `peak_rss` begin anew, where the system can (Linux); returns what it begins with, in bytes."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_rss()
    return _status("VmRSS") or peak_rss()


def _status(field):
    """A size in bytes from Linux's account of this process, or None."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return None


def memory_of(compiled):
    """Bytes that XLA plans for one call on one device: temporaries, outputs, arguments; None where it does not tell."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    parts = {kind: getattr(analysis, f"{kind}_size_in_bytes") for kind in ("temp", "output", "argument")}
    return {**parts, "total": sum(parts.values())}


def num_cores():
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name):
    """A package's version, also where it runs from its folder without being installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return getattr(importlib.import_module(name), "__version__", None)


def machine():
    """The processor, Python and the packages; starts no JAX backend."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return {
        "processor": processor,
        "cores": num_cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def result_path(name, quick):
    """Where a result goes by default: benchmarks/results, but for quick runs outputs/benchmarks."""
    return (ROOT / "outputs" / "benchmarks" if quick else ROOT / "benchmarks" / "results") / f"{name}.json"


def write_json(path, result):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def print_table(header, rows):
    """Rows of strings under a header; the first column is flush left, the others right."""
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))


def note(text):
    """Progress, apart from the result."""
    print(f"  … {text}", file=sys.stderr, flush=True)


def positive(text):
    """For argparse: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value
