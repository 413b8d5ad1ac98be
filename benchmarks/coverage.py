"""How often do the intervals of `jaxpg.stats` cover the truth?

Data sets of known distributions, the 95% interval of each (2,000 resamples), and the share of intervals that hold the
true value, that of infinitely many runs. The distributions: standard normal; lognormal, exp of a standard normal;
bimodal, as runs that either fail or succeed, N(0, 0.1²) or N(1, 0.1²) with equal odds. Tasks have the same
distribution, each shifted by 0.5 from the one before. 200 data sets at a time share the draws of their resamples, as
all points of one call do.

    python -m benchmarks coverage [--quick]    docs/statistics.md (its table) and benchmarks/results/coverage.json
"""

import argparse
import re
import sys
import time

import numpy as np
from scipy import special
from scipy import stats as scipy_stats

from benchmarks import common
from jaxpg import stats

PAGE = common.ROOT / "docs" / "statistics.md"
BLOCK = 200  # Data sets of one call.
SHIFT = 0.5  # From task to task.
SHAPES = [(1, 3), (1, 5), (1, 10), (1, 20), (1, 64), (5, 3), (5, 5), (5, 10)]  # (tasks, runs)
DISTRIBUTIONS = ("normal", "lognormal", "bimodal")
COLUMNS = {  # (statistic, method)
    "IQM, percentile": ("iqm", "percentile"),
    "IQM, basic": ("iqm", "basic"),
    "IQM, BCa": ("iqm", "bca"),
    "mean, percentile": ("mean", "percentile"),
    "mean, Student's t": ("mean", "t"),
}


def sample(distribution, rng, shape):
    """Scores of independent runs."""
    noise = rng.normal(size=shape)
    if distribution == "lognormal":
        return np.exp(noise)
    return rng.integers(0, 2, shape) + 0.1 * noise if distribution == "bimodal" else noise


def truth(distribution, num_tasks, statistic):
    """The statistic of infinitely many runs of each task: of a million quantiles in the place of runs."""
    noise = special.ndtri((np.arange(1_000_000) + 0.5) / 1_000_000)
    scores = {"normal": noise, "lognormal": np.exp(noise), "bimodal": np.append(0.1 * noise, 1 + 0.1 * noise)}
    pooled = np.concatenate([scores[distribution] + SHIFT * task for task in range(num_tasks)])
    return pooled.mean() if statistic == "mean" else scipy_stats.trim_mean(pooled, 0.25)


def intervals(scores, statistic, method, confidence, rng):
    """(low, high) of scores [task, run, data set]."""
    if method != "t":
        found = stats.interval(scores, statistic, dim=1, task_dim=0, confidence=confidence, method=method, rng=rng)
        return found.low, found.high
    num_tasks, num_runs, _ = scores.shape
    # Tasks have one variance here, so it is pooled.
    variance = scores.var(1, ddof=1).mean(0) / (num_tasks * num_runs)
    half = scipy_stats.t.ppf(0.5 + confidence / 2, num_tasks * (num_runs - 1)) * np.sqrt(variance)
    return scores.mean((0, 1)) - half, scores.mean((0, 1)) + half


def coverage(distribution, num_tasks, num_runs, statistic, method, num_datasets, seed=0, confidence=0.95):
    """The share of `num_datasets` intervals that hold the true value."""
    rng = np.random.default_rng(seed)
    value = truth(distribution, num_tasks, statistic)
    shifts = SHIFT * np.arange(num_tasks)[:, None, None]
    held = 0
    for start in range(0, num_datasets, BLOCK):
        shape = (num_tasks, num_runs, min(BLOCK, num_datasets - start))
        low, high = intervals(sample(distribution, rng, shape) + shifts, statistic, method, confidence, rng)
        held += int(((low <= value) & (value <= high)).sum())
    return held / num_datasets


def table(rows):
    """The rows in Markdown."""
    lines = [f"| tasks | runs of each | scores | {' | '.join(COLUMNS)} |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = " | ".join(f"{100 * row['coverage'][name]:.1f}" for name in COLUMNS)
        lines.append(f"| {row['tasks']} | {row['runs']} | {row['distribution']} | {cells} |")
    return "\n".join(lines) + "\n"


def with_table(page, text):
    """The page with the table between its two marks renewed."""
    return re.sub(r"(?s)(<!-- coverage -->\n).*(<!-- end -->)", lambda found: found[1] + text + found[2], page)


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=common.positive, help="for each number (default 10,000; 200 with --quick)")
    parser.add_argument("--quick", action="store_true", help="to see that it works: no page is written")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    num_datasets = options.datasets or (200 if options.quick else 10_000)
    rows = []
    for num_tasks, num_runs in SHAPES[:2] if options.quick else SHAPES:
        start = time.perf_counter()
        for distribution in DISTRIBUTIONS:
            found = {
                name: coverage(distribution, num_tasks, num_runs, *which, num_datasets)
                for name, which in COLUMNS.items()
            }
            rows.append({"tasks": num_tasks, "runs": num_runs, "distribution": distribution, "coverage": found})
        common.note(f"{num_tasks} tasks, {num_runs} runs: {time.perf_counter() - start:.0f} s")
    print(table(rows))
    result = {"question": __doc__.splitlines()[0], "machine": common.machine(), "datasets": num_datasets, "rows": rows}
    whole = not options.quick and not options.datasets
    if whole:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), table(rows)), encoding="utf-8")
    common.write_json(options.out or common.result_path("coverage", not whole), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
