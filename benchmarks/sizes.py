"""Do the cost of an episode and the memory of a gradient stay the same from a thousand to ten million episodes?

`jaxpg.policy_gradient` of an untrained CartPole policy (episodes of up to 500 steps, 22 on average), one device a core.
Three tables: numbers of episodes; `chunk_size`, the episodes between two additions to the sum, at one number; widths of
the two hidden layers, at another. Each row is a fresh Python, so that its peak of memory is its own: that of the whole
process with its libraries (`baseline_rss` is what it holds before anything is compiled), and what XLA plans for a call
on one device. Seconds are the median of the timed calls, with compiling apart; rows are gone through twice, forth and
back.

    python -m benchmarks sizes [--most 10000000]     benchmarks/results/sizes_cpu.json
    python -m benchmarks sizes --quick               outputs/benchmarks/sizes_cpu.json
"""

import argparse
import time

import jax

import jaxpg
from benchmarks import common

EPISODES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
CHUNKS = (256, 1024, 4096, 16_384, 65_536)  # At AT_CHUNKS episodes.
WIDTHS = (16, 64, 256, 1024)  # At AT_WIDTHS episodes.
AT_CHUNKS, AT_WIDTHS = 100_000, 4096
DEFAULT = dict(num_episodes=4096, chunk_size=None, width=64)


class Player:
    """One row, in a process of its own."""

    def __init__(self, num_devices):
        jaxpg.use_cpu_cores(num_devices)

    def measure(self, row, calls):
        env = jaxpg.make("CartPole-v1")
        policy = jaxpg.policies.mlp(env, (row["width"], row["width"]))
        mesh = jax.sharding.Mesh(jax.devices(), ("device",)) if len(jax.devices()) > 1 else None
        gradient = jaxpg.policy_gradient(
            env, policy, num_episodes=row["num_episodes"], chunk_size=row["chunk_size"], mesh=mesh
        )
        params = policy.init(jax.random.key(0))
        before = common.peak_rss()
        start = time.perf_counter()
        compiled = jax.jit(gradient).lower(jax.random.key(0), params).compile()
        compiling = time.perf_counter() - start
        seconds, steps = [], 0
        for call in range(calls):
            start = time.perf_counter()
            estimate = jax.block_until_ready(compiled(jax.random.key(call), params))
            seconds.append(time.perf_counter() - start)
            steps = int(estimate.num_steps)
        return {"seconds": seconds, "num_steps": steps, "compile_seconds": compiling, "baseline_rss": before,
                "peak_rss": common.peak_rss(), "planned": common.memory_of(compiled)}  # fmt: skip


def tables(most):
    """{table: its rows}."""
    episodes = [n for n in EPISODES if n <= most] or [most]
    return {
        "episodes": [{**DEFAULT, "num_episodes": n} for n in episodes],
        "chunks": [{**DEFAULT, "num_episodes": min(AT_CHUNKS, most), "chunk_size": c} for c in CHUNKS if c <= most],
        "widths": [{**DEFAULT, "num_episodes": min(AT_WIDTHS, most), "width": width} for width in WIDTHS],
    }


def calls_for(row):
    """Enough to time small ones; the largest are long enough alone."""
    return 20 if row["num_episodes"] <= 10_000 and row["width"] <= 64 else 3 if row["num_episodes"] <= 100_000 else 1


def measure(row, turns):
    process = common.Process(str(row), Player, common.num_cores())
    try:
        turns.append(process.ask("measure", row, calls_for(row)))
    finally:
        process.close()


def summarize(row, turns):
    seconds = [x for turn in turns for x in turn["seconds"][1 if len(turn["seconds"]) > 1 else 0 :]]  # The first warms.
    middle = common.spread(seconds)
    return {
        **row,
        "seconds": {**middle, "calls": seconds},
        "microseconds_per_episode": 1e6 * middle["median"] / row["num_episodes"],
        "steps_per_second": turns[0]["num_steps"] / middle["median"],
        "compile_seconds": min(turn["compile_seconds"] for turn in turns),
        "baseline_rss": max(turn["baseline_rss"] for turn in turns),
        "peak_rss": max(turn["peak_rss"] for turn in turns),
        "planned": turns[0]["planned"],
    }


def report(name, rows):
    print(f"\n{name}")
    header = ["episodes", "chunk", "width", "seconds", "IQR", "µs/episode", "M steps/s", "peak MiB", "planned MiB"]
    common.print_table(header, [
        [f"{row['num_episodes']:,}", str(row["chunk_size"] or "default"), str(row["width"]),
         f"{row['seconds']['median']:.3f}", f"{row['seconds']['interquartile_range']:.3f}",
         f"{row['microseconds_per_episode']:.2f}", f"{row['steps_per_second'] / 1e6:.2f}",
         f"{row['peak_rss'] / 2**20:,.0f}", f"{row['planned']['total'] / 2**20:,.1f}" if row["planned"] else "?"]
        for row in rows
    ])  # fmt: skip


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sizes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--most", type=common.positive, help="episodes (default 10,000,000; 1,000 with --quick)")
    parser.add_argument("--tables", nargs="+", choices=("episodes", "chunks", "widths"))
    parser.add_argument("--passes", type=common.positive, default=2, help="how often the rows are gone through")
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    options.most = options.most or (1_000 if options.quick else EPISODES[-1])
    rows = tables(options.most)
    rows = {name: rows[name] for name in options.tables or rows}
    if options.quick:
        rows = {name: of_table[:1] for name, of_table in rows.items()}
    turns = {name: [[] for _ in of_table] for name, of_table in rows.items()}
    for name, of_table in rows.items():
        for pass_ in range(1 if options.quick else options.passes):
            for k in range(len(of_table)) if pass_ % 2 == 0 else reversed(range(len(of_table))):
                common.note(f"{name}: {of_table[k]}")
                measure(of_table[k], turns[name][k])
    result = {
        "question": __doc__.splitlines()[0],
        "machine": common.machine(),
        "options": {"most": options.most, "passes": options.passes, "quick": options.quick},
        "tables": {
            name: [summarize(row, found) for row, found in zip(rows[name], turns[name], strict=True)] for name in rows
        },
    }
    for name, of_table in result["tables"].items():
        report(name, of_table)
    common.write_json(options.out or common.result_path("sizes_cpu", options.quick), result)
    return result


if __name__ == "__main__":
    main()
