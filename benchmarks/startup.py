"""How long from the start of Python to the first result of each main entry, and what of it is compiling?

Entries: a gradient of 4,096 CartPole episodes, `train` (20 updates of PPO's preset), a sweep of 16 such runs, and
`evaluate`. Each runs in a fresh Python, twice: with nothing compiled (cold), and with JAX's persistent compilation
cache as the command line has it, filled by a run before (cached). The parts, from JAX's own monitoring and the clock:

- import: `import jaxpg` and jax; build: the environment, the networks, the algorithm, and the packages they need;
- trace, lower, compile: of all programs, small ones too; cached programs are read instead of compiled;
- first: the first call, with the parts before; again: the second call;
- total: from the start of the process to the first result.

    python -m benchmarks startup            benchmarks/results/startup_cpu.json
    python -m benchmarks startup --quick    outputs/benchmarks/startup_cpu.json
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time

from benchmarks import common

PARTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
COLUMNS = ("import", "build", "trace", "lower", "compile", "first", "again", "total")
CACHED = {
    "JAX_ENABLE_COMPILATION_CACHE": "true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def policy_gradient():
    import jax

    import jaxpg

    env = jaxpg.make("CartPole-v1")
    policy = jaxpg.policies.mlp(env)
    gradient = jaxpg.policy_gradient(env, policy, num_episodes=4096)
    params = policy.init(jax.random.key(0))
    return lambda seed: jax.block_until_ready(gradient(jax.random.key(seed), params))


def train():
    import jax

    import jaxpg

    algorithm = _ppo(jaxpg.make("CartPole-v1"))
    return lambda seed: jaxpg.train(algorithm, jax.random.key(seed), num_env_steps=20 * 1024, progress=False).params


def sweep():
    import jax

    import jaxpg

    env = jaxpg.make("CartPole-v1")

    def build(learning_rate):
        return _ppo(env, learning_rate=learning_rate)

    def run(seed):
        return jaxpg.sweep(
            build, {"learning_rate": [1e-4, 3e-4, 1e-3, 3e-3]}, seeds=4, key=jax.random.key(seed),
            num_env_steps=20 * 1024, progress=False,
        )  # fmt: skip

    return run


def evaluate():
    import jax

    import jaxpg

    env = jaxpg.make("CartPole-v1")
    policy = jaxpg.policies.mlp(env)
    params = policy.init(jax.random.key(0))
    return lambda seed: jax.block_until_ready(
        jaxpg.evaluate(jax.random.key(seed), env, policy, params, num_episodes=128).returns
    )


ENTRIES = {"policy_gradient": policy_gradient, "train": train, "sweep": sweep, "evaluate": evaluate}


def _ppo(env, **changes):
    import jaxpg

    changes = {"learning_rate": 1e-3, **changes}
    return jaxpg.ppo(
        env, jaxpg.policies.mlp(env), jaxpg.policies.value_mlp(env), num_envs=16, num_steps=64, num_epochs=10,
        num_minibatches=8, **changes,
    )  # fmt: skip


def measure_here(entry, started):
    """The parts of this process's start, in seconds; `started`: by the wall clock."""
    parts = collections.Counter()
    begin = time.perf_counter()
    import jax

    import jaxpg

    for name in jaxpg.__all__:
        getattr(jaxpg, name)
    imported = time.perf_counter()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: parts.update({PARTS[event]: seconds} if event in PARTS else {})
    )
    call = ENTRIES[entry]()
    built = time.perf_counter()
    call(0)
    first, total = time.perf_counter(), time.time() - started
    found = dict(parts)
    call(1)
    again = time.perf_counter()
    return {
        "trace": 0.0, "lower": 0.0, "compile": 0.0, **found, "import": imported - begin, "build": built - imported,
        "first": first - built, "again": again - first, "total": total,
    }  # fmt: skip


def measure(entry, folder):
    """The same in a fresh Python; `folder`: of the compilation cache, or None."""
    environment = {**os.environ, "JAXPG_STARTED": repr(time.time())}
    for name in ("JAX_COMPILATION_CACHE_DIR", *CACHED):
        environment.pop(name, None)
    if folder is not None:
        environment |= {**CACHED, "JAX_COMPILATION_CACHE_DIR": folder}
    command = [sys.executable, "-m", "benchmarks.startup", "--here", entry]
    done = subprocess.run(command, env=environment, cwd=common.ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks startup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--rounds", type=common.positive, help="how often each is timed (default 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="one round, to see that it works")
    parser.add_argument("--here", choices=ENTRIES, help=argparse.SUPPRESS)
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    if options.here:
        print(json.dumps(measure_here(options.here, float(os.environ["JAXPG_STARTED"]))))
        return None
    rounds = options.rounds or (1 if options.quick else 3)
    found = {entry: {"cold": [], "cached": []} for entry in options.entries}
    with tempfile.TemporaryDirectory() as folder:
        for round_ in range(rounds):
            for entry in options.entries:
                common.note(f"{entry}, round {round_ + 1} of {rounds}")
                found[entry]["cold"].append(measure(entry, None))
                if round_ == 0:
                    measure(entry, folder)  # Fills the cache.
                found[entry]["cached"].append(measure(entry, folder))
    result = {
        "question": __doc__.splitlines()[0],
        "machine": common.machine(),
        "options": {"entries": options.entries, "rounds": rounds, "quick": options.quick},
        "entries": {
            entry: {
                kind: {part: {**common.spread(values), "rounds": values} for part, values in columns(turns).items()}
                for kind, turns in kinds.items()
            }
            for entry, kinds in found.items()
        },
    }
    rows = [
        [f"{entry}, {kind}", *(f"{parts[part]['median']:.2f}" for part in COLUMNS)]
        for entry, kinds in result["entries"].items()
        for kind, parts in kinds.items()
    ]
    common.print_table(["seconds", *COLUMNS], rows)
    common.write_json(options.out or common.result_path("startup_cpu", options.quick), result)
    return result


def columns(turns):
    """{part: its values}."""
    return {part: [turn[part] for turn in turns] for part in COLUMNS}


if __name__ == "__main__":
    main()
