"""What do eight keys under `vmap` cost, compared with eight calls?  (The promise: at most 1.1 times.)

`jaxpg.policy_gradient` for CartPole with a 64 × 64 network: `jax.vmap` over the keys, compiled, against as many calls
of the compiled function, waited for at the end. One process, one device, in turns.

    python -m benchmarks vmap [--quick]     benchmarks/results/vmap_<backend>.json, or outputs/benchmarks with --quick
"""

import argparse
import time

import jax

import jaxpg
from benchmarks import common, rivals
from jaxpg.training.devices import set_xla_flags

WORKLOADS = {"untrained": (False, 500), "full_length": (True, 200)}  # full length or not, limit


def measure(num_episodes, num_keys, rounds, full_length, limit):
    """{seconds of `calls` and `vmap`, the spread of their ratio, memory}."""
    problem = rivals.cartpole(num_episodes, limit, (64, 64), full_length)
    gradient = jaxpg.policy_gradient(problem.env, problem.policy, num_episodes=num_episodes)
    params = problem.policy.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), num_keys)
    one = jax.jit(gradient).lower(keys[0], params).compile()
    all_ = jax.jit(jax.vmap(gradient, (0, None))).lower(keys, params).compile()

    def run(name, keys):
        each = [keys[k] for k in range(num_keys)]
        jax.block_until_ready((keys, each))
        start = time.perf_counter()
        jax.block_until_ready(all_(keys, params) if name == "vmap" else [one(key, params) for key in each])
        return time.perf_counter() - start

    seconds = {"calls": [], "vmap": []}
    for round_ in range(-1, rounds):
        keys = jax.random.split(jax.random.key(round_ + 2), num_keys)
        for name in seconds if round_ % 2 else reversed(seconds):
            elapsed = run(name, keys)
            if round_ >= 0:  # The first round warms up.
                seconds[name].append(elapsed)
    return {
        "limit": limit,
        "seconds": {name: {**common.spread(values), "rounds": values} for name, values in seconds.items()},
        "ratio": common.ratios(seconds["vmap"], seconds["calls"]),
        "memory": {"call": common.memory_of(one), "vmap": common.memory_of(all_)},
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks vmap", description=__doc__.splitlines()[0])
    parser.add_argument("--num-episodes", type=common.positive, help="per key (default 4096; 256 with --quick)")
    parser.add_argument("--num-keys", type=common.positive, default=8)
    parser.add_argument("--rounds", type=common.positive, help="default 9; 2 with --quick")
    parser.add_argument("--limit", type=common.positive, help="episode limit of all workloads (default 500 and 200)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--quick", action="store_true", help="to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    num_episodes = options.num_episodes or (256 if options.quick else 4096)
    rounds = options.rounds or (2 if options.quick else 9)

    set_xla_flags()
    result = {
        "question": __doc__.splitlines()[0],
        "machine": common.machine(),
        "backend": jax.default_backend(),
        "options": {**vars(options), "num_episodes": num_episodes, "rounds": rounds},
        "workloads": {},
    }
    for name in options.workloads:
        full_length, limit = WORKLOADS[name]
        measured = measure(num_episodes, options.num_keys, rounds, full_length, options.limit or limit)
        result["workloads"][name] = measured
        medians = {kind: measured["seconds"][kind]["median"] for kind in measured["seconds"]}
        print(
            f"{name}: {options.num_keys} keys × {num_episodes:,} episodes: calls {medians['calls']:.3f} s, vmap "
            f"{medians['vmap']:.3f} s; vmap / calls {common.ratio_text(measured['ratio'])}"
        )
    path = common.result_path(f"vmap_{result['backend']}", options.quick)
    common.write_json(options.out or path, result)
    return result


if __name__ == "__main__":
    main()
