"""How many lanes, and how large blocks of the backward pass, make a packed gradient fastest?

One gradient of whole CartPole episodes with a 64 × 64 network for each pair of sizes: the numbers behind the backend's
defaults. The pairs take turns round by round; compilation is apart.

    python -m benchmarks lanes [--quick] [--num-episodes N] [--lanes …] [--blocks …]
                                            benchmarks/results/lanes_<backend>.json, or outputs/benchmarks with --quick
"""

import argparse
import time

import jax

import jaxpg
from benchmarks import common, rivals
from jaxpg.training.devices import set_xla_flags

SIZES = {
    "cpu": {"num_episodes": 16_384, "lanes": [128, 256, 512, 1024, 2048], "blocks": [256, 512, 1024, 2048]},
    "gpu": {
        "num_episodes": 1_048_576,
        "lanes": [8_192, 32_768, 131_072],
        "blocks": [16_384, 65_536, 262_144],
    },
}
WORKLOADS = {"untrained": (False, 500), "full_length": (True, 200)}  # full length or not, limit


def measure(num_episodes, lanes, blocks, rounds, full_length, limit, buffer_bytes):
    """[{lanes, block, seconds, steps per second, …}] for every pair."""
    problem = rivals.cartpole(num_episodes, limit, (64, 64), full_length)
    params = problem.policy.init(jax.random.key(0))
    contenders = []
    for num_lanes in lanes:
        for block_size in blocks:
            gradient = jaxpg.policy_gradient(
                problem.env,
                problem.policy,
                num_episodes=num_episodes,
                num_lanes=num_lanes,
                block_size=block_size,
                buffer_bytes=buffer_bytes,
            )
            start = time.perf_counter()
            compiled = jax.jit(gradient).lower(jax.random.key(0), params).compile()
            row = {"lanes": num_lanes, "block": block_size, "compile_seconds": time.perf_counter() - start}
            contenders.append((row, compiled, []))
            common.note(f"compiled {num_lanes} lanes, blocks of {block_size}")
    for round_ in range(-1, rounds):
        for row, compiled, seconds in contenders if round_ % 2 else reversed(contenders):
            start = time.perf_counter()
            estimate = jax.block_until_ready(compiled(jax.random.key(round_ + 2), params))
            if round_ >= 0:
                seconds.append(time.perf_counter() - start)
                row["steps"], row["utilization"] = int(estimate.num_steps), float(estimate.utilization)
    for row, compiled, seconds in contenders:
        row["seconds"] = {**common.spread(seconds), "rounds": seconds}
        row["steps_per_second"] = row["steps"] / row["seconds"]["median"]
        row["episodes_per_second"] = num_episodes / row["seconds"]["median"]
        row["memory"] = common.memory_of(compiled)
    return [row for row, _, _ in contenders]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks lanes", description=__doc__.splitlines()[0])
    parser.add_argument("--num-episodes", type=common.positive)
    parser.add_argument("--lanes", type=common.positive, nargs="+")
    parser.add_argument("--blocks", type=common.positive, nargs="+")
    parser.add_argument("--rounds", type=common.positive, help="default 5; 2 with --quick")
    parser.add_argument("--buffer-bytes", type=common.positive)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    set_xla_flags()
    backend = jax.default_backend()
    sizes = SIZES.get(backend, SIZES["gpu"])
    if options.quick:
        sizes = {"num_episodes": 256, "lanes": [64, 128], "blocks": [128]}
    num_episodes = options.num_episodes or sizes["num_episodes"]
    result = {
        "question": __doc__.splitlines()[0],
        "machine": common.machine(),
        "backend": backend,
        "device": jax.devices()[0].device_kind,
        "num_episodes": num_episodes,
        "workloads": {},
    }
    for name in options.workloads:
        rows = measure(
            num_episodes,
            options.lanes or sizes["lanes"],
            options.blocks or sizes["blocks"],
            options.rounds or (2 if options.quick else 5),
            *WORKLOADS[name],
            options.buffer_bytes,
        )
        result["workloads"][name] = rows
        print(f"\n{name}: {num_episodes:,} episodes")
        common.print_table(
            ["lanes × block", "seconds", "M steps/s", "episodes/s", "utilization"],
            [
                [
                    f"{r['lanes']} × {r['block']}",
                    f"{r['seconds']['median']:.3f}",
                    f"{r['steps_per_second'] / 1e6:.2f}",
                    f"{r['episodes_per_second']:,.0f}",
                    f"{r['utilization']:.2f}",
                ]
                for r in rows
            ],
        )
    common.write_json(options.out or common.result_path(f"lanes_{backend}", options.quick), result)


if __name__ == "__main__":
    main()
