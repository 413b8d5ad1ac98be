"""What does an accelerator give: packed gradients by size, PPO, bfloat16, all in one command?

For a machine with one GPU or TPU, without a network, in less than nine minutes (`--seconds`): what does not fit into
the time any more is left out, and named in the result. In this order, each part written down when it is done:

- `rates`: a large product in float32, as JAX multiplies by default and at full precision, and in bfloat16; a copy
  through the memory; the layers of a 64 × 64 policy and tanh (`floor.py`).
- `gradient`: `policy_gradient` of untrained CartPole episodes (up to 500 steps) for 64 × 64 networks in float32 and
  bfloat16, with 65,536 to 1,048,576 lanes and four times as many episodes: environment steps a second with the
  gradient, the floor, what XLA plans for memory, and from the compiled program the kernels of a step of the rollout and
  of a block of the gradient, and the bytes that XLA counts.
- `ppo`: CartPole-v1 with 2,048 × 128 and Breakout-MinAtar with 64 × 128 steps an update, hyperparameters as in
  `ppo.py`, in float32 and bfloat16, and the same of rejax, and PureJaxRL's (`--purejaxrl`), where they can be imported;
  then the return that whole runs reach in float32 and bfloat16.
- `profile`: a trace of one gradient, in the folder beside the result (`--profile`).
- `one_kernel`: on a GPU, rollouts as one kernel, beside XLA's loop of kernels (`one_kernel.py`).

    python -m benchmarks accelerator             benchmarks/results/accelerator_<backend>.json
    python -m benchmarks accelerator --quick     outputs/benchmarks/accelerator_<backend>.json, on any machine
"""

import argparse
import pathlib
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxpg
from benchmarks import common, floor, one_kernel
from benchmarks.ppo import JOBS, build, segment

LANES = (65_536, 262_144, 1_048_576)
PARTS = ("gradient", "ppo", "returns", "one_kernel")
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


class Budget:
    """How much of the time is left."""

    def __init__(self, seconds):
        self._end, self.left_out = time.monotonic() + seconds, []

    def allows(self, what, seconds):
        """Whether a part that may take so long still fits; else it is noted."""
        fits = time.monotonic() + seconds <= self._end
        if not fits:
            self.left_out.append(what)
        common.note(what if fits else f"{what}: left out, the time is up")
        return fits


def timed(call, rounds):
    """Seconds of each of several calls, after one that is not counted."""
    jax.block_until_ready(call(0))
    seconds = []
    for round_ in range(1, rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(call(round_))
        seconds.append(time.perf_counter() - start)
    return {**common.spread(seconds), "rounds": seconds}


def rates(quick):
    """Operations and bytes a second."""
    size, length = (512, 2**20) if quick else (8192, 2**28)
    found = floor.Rates(1024 if quick else 65_536, 64, large=size).measure()
    for name, dtype, precision in (
        ("product_float32", jnp.float32, "highest"),
        ("product_default", jnp.float32, "default"),
        ("product_bfloat16", jnp.bfloat16, "default"),
    ):
        x = jnp.ones((size, size), dtype)
        product = jax.jit(lambda x, precision=precision: jnp.dot(x, x, precision=precision) / size)
        found[name] = 2 * size**3 / timed(lambda _, f=product, x=x: f(x), 5)["median"]
    x = jnp.ones(length, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    found["bytes"] = 2 * x.nbytes / timed(lambda _: copy(x), 5)["median"]
    return found


def kernels(compiled):
    """{loop body: operations that start a kernel} of the loops in a compiled program, the largest first."""
    text, found = compiled.as_text(), {}
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    starts = re.compile(r" (fusion|custom-call|dot|convolution|copy|reduce|sort|scatter|gather|dynamic-update-slice)\(")
    for block in text.split("\n\n"):
        head = block.lstrip().split(" ", 1)[0].lstrip("%")
        if head in bodies:
            found[head] = len(starts.findall(block))
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def gradient(lanes, dtype, rounds, measured):
    """A packed gradient of 4 × `lanes` episodes."""
    env = jaxpg.make("CartPole-v1")
    policy = jaxpg.policies.mlp(env, dtype=DTYPES[dtype])
    params = policy.init(jax.random.key(0))
    estimate = jaxpg.policy_gradient(env, policy, num_episodes=4 * lanes, num_lanes=lanes)
    start = time.perf_counter()
    compiled = jax.jit(estimate).lower(jax.random.key(0), params).compile()
    compile_seconds = time.perf_counter() - start
    answer = compiled(jax.random.key(0), params)
    seconds = timed(lambda round_: compiled(jax.random.key(round_), params), rounds)
    steps = int(answer.num_steps)
    operations, tanh = floor.operations_per_step(params)
    costs = compiled.cost_analysis() or {}
    return {
        "lanes": lanes, "dtype": dtype, "num_episodes": 4 * lanes, "num_steps": steps, "seconds": seconds,
        "steps_per_second": steps / seconds["median"], "utilization": float(answer.utilization),
        "operations_per_second": steps * operations / seconds["median"],
        "times_the_floor": seconds["median"] / (steps * (operations / measured["layer"] + tanh / measured["tanh"])),
        "compile_seconds": compile_seconds, "memory": common.memory_of(compiled), "kernels": kernels(compiled),
        "bytes_accessed_once_through": costs.get("bytes accessed"),
    }  # fmt: skip


def ppo(name, dtype, rounds, quick):
    """`train` on a job of `ppo.py`, an update's time."""
    job = {**JOBS[name], "num_envs": 16} if quick else JOBS[name]
    algorithm = build(job, DTYPES[dtype])
    turn = 2 if quick else max(job["turn"], 16)

    def call(seed):
        result = jaxpg.train(algorithm, jax.random.key(seed), num_env_steps=turn * segment(job), progress=False)
        return result.params

    start = time.perf_counter()
    call(0)
    first = time.perf_counter() - start
    seconds = timed(call, rounds)
    return {"dtype": dtype, "seconds": seconds, "updates": turn, "first_seconds": first,
            "steps_per_second": turn * segment(job) / seconds["median"]}  # fmt: skip


def returns(name, dtype, quick):
    """What whole runs reach, seeds side by side."""
    job = {**JOBS[name], "num_envs": 16} if quick else JOBS[name]
    algorithm = build(job, DTYPES[dtype])
    seeds = 2 if quick else 8
    updates = 1 if quick else -(-job["reach"] // segment(job))

    def run(key):
        state = jax.lax.scan(lambda s, _: (algorithm.step(s)[0], None), algorithm.init(key), None, length=updates)[0]
        return state.params

    params = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))
    found = []
    for seed in range(seeds):
        own = jax.tree.map(lambda x: x[seed], params)  # noqa: B023
        played = jaxpg.evaluate(
            jax.random.key(seed), algorithm.env, algorithm.policy, own, num_episodes=128, deterministic=False
        )
        found.append(float(np.mean(played.returns)))
    return {"dtype": dtype, "env_steps": updates * segment(job), "returns": found}


def peer(kind, name, rounds, quick):
    """A peer's update, in this process; None where it cannot be imported."""
    from benchmarks import peer_seeds

    job = {**JOBS[name], "num_envs": 16} if quick else JOBS[name]
    try:
        library = peer_seeds.Rejax(job) if kind == "rejax" else peer_seeds.SingleFile(kind, job)
    except ImportError as error:
        return {"missing": str(error)}
    turns, updates = peer_seeds.Turns(library), 2 if quick else max(job["turn"], 16)
    compiled = turns.prepare([job["learning_rate"]], updates)
    seconds = [turns.run(1)["seconds"] * updates for _ in range(rounds)]
    middle = common.spread(seconds)
    return {**compiled, "seconds": {**middle, "rounds": seconds}, "updates": updates,
            "steps_per_second": updates * segment(job) / middle["median"]}  # fmt: skip


def one_kernel_rollout(name, lanes, rounds, quick):
    """A rollout as one kernel; where that fails, how."""
    steps, blocks = (4, one_kernel.QUICK_BLOCKS) if quick else (64, one_kernel.BLOCKS)
    try:
        return one_kernel.measure(name, lanes, steps, rounds, blocks=blocks, interpret=jax.default_backend() != "gpu")
    except Exception as error:
        return {"environment": name, "lanes": lanes, "failed": f"{type(error).__name__}: {error}"[:2000]}


def main(arguments=None):
    options = parse(arguments)
    backend, quick, rounds = jax.default_backend(), options.quick, options.rounds
    out = options.out or common.result_path(f"accelerator_{backend}", quick)
    budget = Budget(options.seconds)
    device = jax.devices()[0]
    result = {
        "question": __doc__.splitlines()[0],
        "machine": {**common.machine(), "device": device.device_kind},
        "options": {"seconds": options.seconds, "parts": options.parts, "rounds": rounds, "quick": quick},
        "left_out": budget.left_out,
        "gradient": [], "ppo": {}, "one_kernel": [], "returns": {},
    }  # fmt: skip

    def done():
        common.write_json(out, result)

    common.note("rates")
    result["rates"] = measured = rates(quick)
    done()
    lanes = (256,) if quick else LANES
    for dtype in DTYPES if "gradient" in options.parts else ():
        for number in lanes:
            if budget.allows(f"gradient, {number:,} lanes, {dtype}", 0 if quick else 30):
                facts = gradient(number, dtype, rounds, measured)
                result["gradient"].append(facts)
                print(f"{number:,} lanes, {dtype}: {facts['steps_per_second'] / 1e6:,.1f} million steps/s, "
                      f"{facts['times_the_floor']:.2f} times the floor")  # fmt: skip
                done()
    kinds = ["rejax", *([options.purejaxrl] if options.purejaxrl else [])]
    for name in ("cartpole_2048", "breakout_64") if "ppo" in options.parts else ():
        facts = result["ppo"][name] = {}
        calls = {f"jaxpg, {dtype}": lambda d=dtype, n=name: ppo(n, d, rounds, quick) for dtype in DTYPES}
        for kind in kinds:
            label = "rejax" if kind == "rejax" else "purejaxrl"
            calls[label] = lambda k=kind, n=name: peer(k, n, rounds, quick)
        for label, call in calls.items():
            if budget.allows(f"PPO, {name}, {label}", 0 if quick else 40):
                facts[label] = call()
                print(f"{name}, {label}: {facts[label].get('steps_per_second', 0) / 1e6:,.2f} million steps/s")
                done()
    for name in ("cartpole_2048", "breakout_64") if "returns" in options.parts else ():
        for dtype in DTYPES:
            if budget.allows(f"returns, {name}, {dtype}", 0 if quick else 60):
                result["returns"].setdefault(name, []).append(returns(name, dtype, quick))
                done()
    if options.profile and budget.allows("profile", 20):
        folder = pathlib.Path(out).parent / "profile"
        with jax.profiler.trace(str(folder)):
            gradient(lanes[0], "float32", 1, measured)
    # Last: a kernel that fails on the device can take the process's whole use of it along.
    seconds, wanted = 60, "one_kernel" in options.parts and (quick or backend == "gpu")
    for name in one_kernel.ENVIRONMENTS[: 1 if quick else None] if wanted else ():
        for number in (32,) if quick else LANES:
            if budget.allows(f"one kernel, {name}, {number:,} lanes", 0 if quick else seconds):
                start = time.perf_counter()
                facts = one_kernel_rollout(name, number, rounds, quick)
                seconds = max(seconds, time.perf_counter() - start)
                result["one_kernel"].append(facts)
                print(f"{name}: {facts['failed']}") if "failed" in facts else one_kernel.tell(facts)
                done()
    done()
    return result


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=common.positive, default=500, help="when to begin no further part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=common.positive, help="default 5; 1 with --quick")
    parser.add_argument("--purejaxrl", metavar="PATH", help="ppo.py of PureJaxRL, or a file like it")
    parser.add_argument("--profile", action="store_true", help="trace a gradient")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--out", help="the JSON file")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    main()
